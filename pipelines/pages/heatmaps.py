"""Sweeps at a glance: the median Sharpe ratio by one setting, or by two, over all symbols and all other settings."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa

from atc_backtest.pipelines.job import settings_of
from atc_backtest.pipelines.runs import Run

MAPS = 10
STEPS = 16
"""Values of a setting on an axis; more than that are put into as many bins of equally many values."""


@dataclass(frozen=True)
class Axis:
    """A setting: what its steps are called, and the step of each set."""

    name: str
    labels: tuple[str, ...]
    steps: tuple[int, ...]


@dataclass(frozen=True)
class HeatMap:
    """`medians` [y steps, x steps] of the Sharpe ratio and `counts` of the rows they are of; `y` None: one row."""

    x: Axis
    y: Axis | None
    medians: list[list[float | None]]
    counts: list[list[int]]


def heat_maps(run: Run, table: pa.Table) -> tuple[list[HeatMap], int]:
    """Maps of all pairs of settings that vary, `MAPS` at most, in the configuration's order; how many are left out.

    One setting alone gives one row. `table`: the run's metrics.
    """
    settings = [settings_of(config) for config in run.sets]
    axes = [axis_of(name, [one[name] for one in settings]) for name in run.manifest["varying"]]
    if not axes:
        return [], 0
    sharpe = table["sharpe"].to_numpy()
    sets = table["param_id"].to_numpy()
    if len(axes) == 1:
        return [_map_of(axes[0], None, sharpe, sets)], 0
    pairs = list(combinations(axes, 2))
    return [_map_of(x, y, sharpe, sets) for x, y in pairs[:MAPS]], max(0, len(pairs) - MAPS)


def axis_of(name: str, values: list[Any]) -> Axis:
    """Steps in ascending order, numbers by size; None is first."""
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    distinct = sorted(set(values), key=lambda value: (value is not None, value if numeric else str(value)))
    if numeric and len(distinct) > STEPS:
        pieces = [piece for piece in np.array_split(np.array(distinct), STEPS) if piece.size]
        labels = tuple(f"{piece[0]:g}–{piece[-1]:g}" if piece.size > 1 else f"{piece[0]:g}" for piece in pieces)
        lows = np.array([piece[0] for piece in pieces])
        steps = np.searchsorted(lows, np.array(values), side="right") - 1
        return Axis(name, labels, tuple(int(step) for step in steps))
    place = {value: at for at, value in enumerate(distinct)}
    labels = tuple(f"{value:g}" if numeric else str(value) for value in distinct)
    return Axis(name, labels, tuple(place[value] for value in values))


def _map_of(x: Axis, y: Axis | None, sharpe: np.ndarray[Any, Any], sets: np.ndarray[Any, Any]) -> HeatMap:
    columns = np.array(x.steps)[sets]
    lines = np.array(y.steps)[sets] if y else np.zeros(sets.size, np.int64)
    n_lines = len(y.labels) if y else 1
    medians: list[list[float | None]] = []
    counts: list[list[int]] = []
    for line in range(n_lines):
        cells = [sharpe[(columns == column) & (lines == line)] for column in range(len(x.labels))]
        defined = [cell[~np.isnan(cell)] for cell in cells]
        medians.append([float(np.median(cell)) if cell.size else None for cell in defined])
        counts.append([int(cell.size) for cell in defined])
    return HeatMap(x, y, medians, counts)
