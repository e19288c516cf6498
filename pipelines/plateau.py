"""How a figure lies over the axes of a sweep: neighbours, plateau, ranks. Pure: arrays in, arrays out.

A best set that stands alone among bad neighbours is luck more often than insight. So every set is also judged
by its plateau: the median of its own figure and its neighbours'. On a grid the neighbours are the sets one step
away along one axis of numbers, all else equal: two of them inside, one at an end of an axis. Words and switches
have no steps. Where sets are scattered, as those of a random sample, the neighbours are as many sets that are
nearest, each axis measured by the rank of its value among all values, from 0 to 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atc_backtest.config import FAMILIES
from atc_backtest.errors import ConfigError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

SCATTERED = 4
"""Places of a grid for each set, from which on the sets are scattered over it."""

BLOCK = 512
"""Sets whose distances to all others are held at a time."""

TIED = 10
"""Significant digits that two figures must share to be the same."""

SMALLEST = 1e-200
"""Closer to 0 is as good as 0."""

AGGREGATES = ("median", "mean", "q25", "q75", "positive")
"""What many symbols' figures become: one number. `positive` is the share above 0."""


_DISTANCE = re.compile(r"([\d.eE+-]+)(%|atr|[mhd])")


@dataclass(frozen=True)
class Axis:
    """A setting that varies, or several that vary as one.

    `name`: that of the first of `settings`, or `lengths` where all six families have one length. `values`: distinct;
    ascending where `ordered`, which numbers and distances are and words and switches are not.
    """

    name: str
    settings: tuple[str, ...]
    values: tuple[Any, ...]
    ordered: bool


@dataclass(frozen=True)
class Grid:
    """The axes of a sweep, and of every set the position of its value on each: `places` [n_sets, n_axes]."""

    axes: tuple[Axis, ...]
    places: I64

    @property
    def scattered(self) -> bool:
        """Whether far fewer places are taken than the axes span."""
        return math.prod(len(axis.values) for axis in self.axes) > SCATTERED * len(self.places)

    def axis(self, name: str) -> int:
        """Position of the axis that has this name or holds this setting; `ConfigError` for another one."""
        for at, axis in enumerate(self.axes):
            if name == axis.name or name in axis.settings:
                return at
        known = ", ".join(axis.name for axis in self.axes) or "none, for there is one set"
        raise ConfigError(f"{name!r} does not vary in this run; what does: {known}.")


def grid_of(varying: Mapping[str, Sequence[Any]], n_sets: int) -> Grid:
    """The axes behind settings that vary (name -> a value per set): those that always change together are one.

    Where no value is taken twice, as in random draws, that is seen by their order: up and down together.
    """
    alike: dict[tuple[Any, ...], list[str]] = {}
    for name, values in varying.items():
        alike.setdefault(_pattern(name, values), []).append(name)
    axes, places = [], np.zeros((n_sets, len(alike)), np.int64)
    for at, names in enumerate(alike.values()):
        column = varying[names[0]]
        distinct = list(dict.fromkeys(column))
        sizes = _sizes(distinct)
        ordered = sizes is not None
        distinct = distinct if sizes is None else [value for _, value in sorted(zip(sizes, distinct, strict=True))]
        position = {value: i for i, value in enumerate(distinct)}
        places[:, at] = [position[value] for value in column]
        axes.append(Axis(_axis_name(names, varying), tuple(names), tuple(distinct), ordered))
    return Grid(tuple(axes), places)


def _sizes(values: Sequence[Any]) -> list[float] | None:
    """What orders the values of a setting: numbers, or distances of one unit (`2%`, `1.5atr`); None: nothing does.

    A value that is not set, such as no stop and a growth that never ends, is beyond all others.
    """
    units: set[str | None] = set()
    sizes: list[float] = []
    for value in values:
        found = _DISTANCE.fullmatch(value) if isinstance(value, str) else None
        if value is not None and found is None and (isinstance(value, bool) or not isinstance(value, int | float)):
            return None
        units |= {None} if value is None else {found[2] if found else ""}
        sizes.append(math.inf if value is None else float(found[1] if found else value))
    return sizes if len(units - {None}) == 1 else None


def _pattern(name: str, values: Sequence[Any]) -> tuple[Any, ...]:
    """The same for settings that change together."""
    first: dict[Any, int] = {}
    which = tuple(first.setdefault(value, len(first)) for value in values)
    if len(first) < len(values):
        return which
    sizes = _sizes(values)
    if sizes is None:
        return (name,)
    order = sorted(range(len(values)), key=sizes.__getitem__)
    return ("order", *min(order, order[::-1]))


def _axis_name(names: Sequence[str], varying: Mapping[str, Sequence[Any]]) -> str:
    group = names[0].split(".")[0]
    together = {f"{group}.{family}" for family in FAMILIES} == set(names)
    same = together and all(list(varying[name]) == list(varying[names[0]]) for name in names)
    return group if same else names[0]


def neighbours(grid: Grid) -> I64:
    """Of every set the sets beside it: [n_sets, 2 * ordered axes], -1 where there is none."""
    ordered = [at for at, axis in enumerate(grid.axes) if axis.ordered]
    if grid.scattered:
        return _nearest(grid, ordered)
    sizes = [len(axis.values) for axis in grid.axes]
    strides = [math.prod(sizes[at + 1 :]) for at in range(len(sizes))]
    keys = grid.places @ np.array(strides, np.int64) if sizes else np.zeros(len(grid.places), np.int64)
    at_key = np.full(math.prod(sizes), -1, np.int64)
    at_key[keys] = np.arange(len(keys))
    found = np.full((len(keys), 2 * len(ordered)), -1, np.int64)
    for column, at in enumerate(ordered):
        for side, step in enumerate((-1, 1)):
            there = grid.places[:, at] + step
            inside = (there >= 0) & (there < sizes[at])
            found[inside, 2 * column + side] = at_key[keys[inside] + step * strides[at]]
    return found


def _nearest(grid: Grid, ordered: Sequence[int]) -> I64:
    """For scattered sets: the nearest ones that agree in what has no order; ties go to the earlier set."""
    n_sets, width = len(grid.places), 2 * len(ordered)
    span = np.array([max(1, len(grid.axes[at].values) - 1) for at in ordered], np.float64)
    where = grid.places[:, ordered] / span
    words = np.delete(grid.places, ordered, axis=1)
    found = np.full((n_sets, width), -1, np.int64)
    for start in range(0, n_sets, BLOCK):
        rows = slice(start, min(start + BLOCK, n_sets))
        apart = np.zeros((rows.stop - start, n_sets))
        for axis in range(len(ordered)):
            apart += (where[rows, axis, None] - where[None, :, axis]) ** 2
        for axis in range(words.shape[1]):
            apart[words[rows, axis, None] != words[None, :, axis]] = math.inf
        apart[np.arange(rows.stop - start), np.arange(start, rows.stop)] = math.inf
        for row, distances in enumerate(apart):
            last = np.partition(distances, width - 1)[width - 1] if 0 < width < n_sets else math.inf
            near = np.flatnonzero((distances <= last) & (distances < math.inf))
            near = near[np.argsort(distances[near], kind="stable")][:width]
            found[start + row, : near.size] = near
    return found


def plateau(values: F64, near: I64) -> F64:
    """Median of each set's own value and its neighbours' that are defined: [n_sets]; NaN where its own is not."""
    around = np.where(near >= 0, values[near], np.nan)
    everything = np.concatenate([values[:, None], around], axis=1)
    return np.where(np.isnan(values), np.nan, aggregate(everything, "median"))


def aggregate(rows: F64, how: str) -> F64:
    """One number for each row of [n, m], of what is defined in it; NaN where nothing is. `how`: see `AGGREGATES`.

    Quantiles are those that NumPy calls linear.
    """
    n = np.sum(~np.isnan(rows), axis=1)
    with np.errstate(invalid="ignore"):
        if how == "mean":
            return np.asarray(np.nansum(rows, axis=1) / np.where(n, n, np.nan))
        if how == "positive":
            return np.asarray(np.sum(rows > 0, axis=1) / np.where(n, n, np.nan))
    place = np.maximum(n - 1, 0) * {"median": 0.5, "q25": 0.25, "q75": 0.75}[how]
    low = np.floor(place).astype(np.int64)
    ascending = np.sort(rows, axis=1)  # NaN last
    below = np.take_along_axis(ascending, low[:, None], axis=1)[:, 0]
    above = np.take_along_axis(ascending, np.minimum(low + 1, np.maximum(n - 1, 0))[:, None], axis=1)[:, 0]
    return np.asarray(below + (above - below) * (place - low))


def significant(values: F64) -> F64:
    """Rounded to `TIED` significant digits: figures of the same trades are equal, though sums rounded otherwise."""
    size = np.where(np.isnan(values), 1.0, np.maximum(np.abs(values), SMALLEST))
    scale = 10.0 ** (TIED - 1 - np.floor(np.log10(size)))
    return np.asarray(np.round(values * scale) / scale)


def ranks(values: F64) -> F64:
    """1 for the smallest; equal values share the mean of theirs. Nothing may be NaN."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2.0)[which]


def rank_correlation(one: F64, other: F64) -> float | None:
    """Spearman's, over the sets that are defined in both; None for fewer than three of them, or where all are equal.

    Values are compared as `significant` has them.
    """
    both = ~(np.isnan(one) | np.isnan(other))
    if np.sum(both) < 3:
        return None
    a, b = ranks(significant(one[both])), ranks(significant(other[both]))
    a, b = a - a.mean(), b - b.mean()
    spread = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / spread if spread else None


def matrix(grid: Grid, values: F64, x: str, y: str | None = None) -> F64:
    """A figure over two axes, [len(y), len(x)] (one row without `y`): median over what else varies, NaN: no set."""
    across = grid.axis(x)
    columns = len(grid.axes[across].values)
    down = None if y is None else grid.axis(y)
    if down == across:
        raise ConfigError(f"x and y are both {grid.axes[across].name}: give two axes.")
    rows = 1 if down is None else len(grid.axes[down].values)
    cell = grid.places[:, across] + (0 if down is None else columns * grid.places[:, down])
    found = np.full(rows * columns, np.nan)
    order = np.argsort(cell, kind="stable")
    edges = np.flatnonzero(np.diff(cell[order], prepend=-1))
    for group in np.split(order, edges[1:]):
        found[cell[group[0]]] = aggregate(values[group][None], "median")[0]
    return found.reshape(rows, columns)


def folded(grid: Grid, name: str, most: int) -> Grid:
    """The same sets with at most `most` values on an ordered axis: as many next to each other share the first's place.

    For looking at: neighbours are those of the grid itself.
    """
    at = grid.axis(name)
    axis = grid.axes[at]
    share = -(-len(axis.values) // most) if axis.ordered else 1
    places = grid.places.copy()
    places[:, at] //= share
    axes = (*grid.axes[:at], replace(axis, values=axis.values[::share]), *grid.axes[at + 1 :])
    return Grid(axes, places)


@dataclass(frozen=True)
class Peak:
    """The best set and the best plateau, both as positions of sets.

    `excess`: how far the best set's value stands above its plateau; `excess_iqr`: the same in interquartile ranges
    of all sets, None where that is 0. `edges`: axes at whose end the best set lies: beyond it nothing was tried.
    """

    best: int
    best_value: float
    best_plateau: float
    plateau: int
    plateau_value: float
    excess: float
    excess_iqr: float | None
    edges: tuple[str, ...]


def peak_of(grid: Grid, values: F64, flat: F64, near: I64, ascending: bool = False) -> Peak | None:
    """Best of `values` and of the plateaus `flat`; None when nothing is defined. `ascending`: the smallest is best.

    Of equals the earlier set counts; a set without any neighbour has no plateau, unless none has.
    """
    if np.all(np.isnan(values)):
        return None
    sign = -1.0 if ascending else 1.0
    accompanied = ~np.isnan(flat) & np.any(near >= 0, axis=1)
    best = int(np.nanargmax(sign * values))
    level = int(np.nanargmax(np.where(accompanied, sign * flat, np.nan))) if accompanied.any() else best
    excess = float(sign * (values[best] - flat[best]))
    spread = float(aggregate(values[None], "q75")[0] - aggregate(values[None], "q25")[0])
    ends = [(axis, grid.places[best, at]) for at, axis in enumerate(grid.axes) if axis.ordered and len(axis.values) > 2]
    return Peak(
        best=best,
        best_value=float(values[best]),
        best_plateau=float(flat[best]),
        plateau=level,
        plateau_value=float(flat[level]),
        excess=excess,
        excess_iqr=excess / spread if spread > 0 else None,
        edges=tuple(axis.name for axis, place in ends if place in (0, len(axis.values) - 1)),
    )
