"""What came of a sweep: a figure by set over all symbols, the best set, its plateau, and how stable the order is.

Every result depends on the rows of the run alone, not on how it was cut; memory depends on neither rows nor bars.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from atc_backtest.errors import ConfigError, StoreError
from atc_backtest.metrics import METRIC_COLUMNS
from atc_backtest.pipelines.job import PERIODS, varying_values
from atc_backtest.pipelines.plateau import (
    AGGREGATES,
    F64,
    I64,
    Grid,
    Peak,
    aggregate,
    grid_of,
    neighbours,
    peak_of,
    plateau,
)
from atc_backtest.pipelines.runs import Run
from atc_backtest.pipelines.set_rows import figures
from atc_backtest.pipelines.stability import HALVINGS, BySymbols, ByTime, by_symbols, by_time, halves

FIGURES = tuple(
    name for name, kind in METRIC_COLUMNS.items() if name != "param_id" and kind in ("float64", "int64", "bool")
)
"""What a surface may be of: any figure of metrics/ that is a number."""


@dataclass(frozen=True)
class View:
    """Which figure, and how it is judged.

    `how`: what one set's symbols become, see `plateau.AGGREGATES`. `ascending`: the smallest is best. `symbols`: only
    these. `seed`: of the random halves.
    """

    by: str = "sharpe"
    how: str = "median"
    ascending: bool = False
    symbols: tuple[str, ...] | None = None
    seed: int = 0


@dataclass(frozen=True)
class Surface:
    """A figure over the sets of a run: arrays [n_sets], NaN where nothing is defined.

    `value`: what was asked for; `n`: symbols with a figure, of `symbols`. `flat`: the median of a set and its
    neighbours (`near`: how many). `missing`: partitions that are not committed.
    """

    view: View
    grid: Grid
    symbols: int
    missing: int
    value: F64
    n: I64
    q25: F64
    median: F64
    q75: F64
    positive: F64
    flat: F64
    near: I64
    peak: Peak | None
    by_symbols: BySymbols
    by_time: ByTime | None


def surface(run: Run, view: View | None = None) -> Surface:
    """Everything that `Surface` has, of the committed partitions of `run`.

    Memory: `set_rows.CELLS`, `stability.CELLS`, and a few arrays of the number of sets. `ConfigError` for an unknown
    figure, aggregate or symbol; `StoreError` when nothing is committed yet.
    """
    view = view or View()
    names = _chosen(run, view)
    n_sets = len(run.manifest["sets"])
    found = {how: np.full(n_sets, np.nan) for how in (view.how, "q25", "median", "q75", "positive")}
    n = np.zeros(n_sets, np.int64)
    between = np.full((HALVINGS, 2, n_sets), np.nan)
    masks = halves(len(names), view.seed)
    for sets, rows in figures(run, view.by, names):
        for how, values in found.items():
            values[sets] = aggregate(rows, how)
        n[sets] = np.sum(~np.isnan(rows), axis=1)
        for at, mask in enumerate(masks):
            between[at, 0, sets] = aggregate(rows[:, mask], view.how)
            between[at, 1, sets] = aggregate(rows[:, ~mask], view.how)
    grid = axes_of(run)
    beside = neighbours(grid)
    value = found[view.how]
    flat = plateau(value, beside)
    peak = peak_of(grid, value, flat, beside, view.ascending)
    over_time = None
    if PERIODS in run.datasets and peak is not None:
        over_time = by_time(run, names, view.by, view.how, view.ascending, peak.best)
    return Surface(
        view=view,
        grid=grid,
        symbols=len(names),
        missing=len(run.partitions) - len(run.done),
        value=value,
        n=n,
        **{how: found[how] for how in ("q25", "median", "q75", "positive")},
        flat=flat,
        near=np.sum(beside >= 0, axis=1),
        peak=peak,
        by_symbols=by_symbols(between),
        by_time=over_time,
    )


def axes_of(run: Run) -> Grid:
    """The axes of a run's sets, and where each set lies on them."""
    sets = run.sets
    return grid_of(varying_values(sets), len(sets))


def set_values(run: Run, view: View) -> F64:
    """`Surface.value` alone: [n_sets]."""
    names = _chosen(run, view)
    value = np.full(len(run.manifest["sets"]), np.nan)
    for sets, rows in figures(run, view.by, names):
        value[sets] = aggregate(rows, view.how)
    return value


def set_table(run: Run, found: Surface) -> pa.Table:
    """A row per set, best first (undefined last, ties by number): param_id, what varies, and the arrays of `found`."""
    sign = 1.0 if found.view.ascending else -1.0
    order = np.lexsort((np.arange(len(found.value)), np.where(np.isnan(found.value), np.inf, sign * found.value)))
    columns: dict[str, Any] = {"param_id": order}
    columns |= {name: [values[at] for at in order] for name, values in varying_values(run.sets).items()}
    arrays = {"value": found.value, "n": found.n, "q25": found.q25, "median": found.median, "q75": found.q75}
    arrays |= {"positive": found.positive, "plateau": found.flat, "neighbours": found.near}
    return pa.table(columns | {name: pa.array(values[order], from_pandas=True) for name, values in arrays.items()})


def check_view(view: View) -> None:
    """`ConfigError` for an unknown figure or aggregate."""
    if view.by not in FIGURES:
        raise ConfigError(f"--by {view.by!r} is not a figure: choose from {', '.join(FIGURES)}.")
    if view.how not in AGGREGATES:
        raise ConfigError(f"--aggregate {view.how!r} is not known: choose from {', '.join(AGGREGATES)}.")


def _chosen(run: Run, view: View) -> tuple[str, ...]:
    """The symbols to look at, by name."""
    check_view(view)
    if not run.done:
        raise StoreError(f"{run.path} has nothing committed yet: let the run go on.")
    stored = run.manifest["symbols"]
    known = sorted({stored[at] for partition in run.partitions for at in partition.symbols})
    unknown = sorted(set(view.symbols or ()) - set(known))
    if unknown:
        raise ConfigError(f"--symbols {', '.join(unknown)}: not in this run, which has {', '.join(known[:20])}.")
    return tuple(known) if view.symbols is None else tuple(name for name in known if name in view.symbols)
