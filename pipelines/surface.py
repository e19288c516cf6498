"""What came of a sweep: a figure by set over all symbols, the best set, its plateau, and how stable the order is.

Figures are read a column at a time and a few sets at a time, for all symbols: memory is bounded by `CELLS`,
whatever the number of rows. Every result depends on the rows alone, not on how the run was cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from atc_backtest.errors import ConfigError, StoreError
from atc_backtest.metrics import METRIC_COLUMNS
from atc_backtest.pipelines.commits import records
from atc_backtest.pipelines.job import METRICS, PERIODS, varying_values
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
    rank_correlation,
    significant,
)
from atc_backtest.pipelines.runs import Run

CELLS = 1 << 22
"""Figures held at a time, of symbols times sets (times periods)."""

HALVINGS = 10
"""Random halves of the symbols that are compared."""

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
class BySymbols:
    """Rank correlation of all sets between random halves of the symbols: mean, lowest and highest of `HALVINGS`.

    None where there are too few symbols or sets.
    """

    mean: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ByTime:
    """The order of the sets over time, from periods/.

    `figure`: what was taken of each period, total_return or sharpe. `halves`: rank correlation of all sets between
    the first and the second half of the periods; `consecutive`: its mean between one period and the next.
    `best_in_top_decile`: share of the periods in which fewer than a tenth of the sets beat the best one.
    """

    figure: str
    period: str
    periods: int
    halves: float | None
    consecutive: float | None
    best_in_top_decile: float | None


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

    Memory: `CELLS` and a few arrays of the number of sets. `ConfigError` for an unknown figure, aggregate or symbol;
    `StoreError` when nothing is committed yet.
    """
    view = view or View()
    names = _chosen(run, view)
    n_sets = len(run.manifest["sets"])
    found = {how: np.full(n_sets, np.nan) for how in (view.how, "q25", "median", "q75", "positive")}
    n = np.zeros(n_sets, np.int64)
    halves = np.full((HALVINGS, 2, n_sets), np.nan)
    masks = _halves(len(names), view.seed)
    for sets, rows in _figures(run, view.by, names):
        for how, values in found.items():
            values[sets] = aggregate(rows, how)
        n[sets] = np.sum(~np.isnan(rows), axis=1)
        for at, mask in enumerate(masks):
            halves[at, 0, sets] = aggregate(rows[:, mask], view.how)
            halves[at, 1, sets] = aggregate(rows[:, ~mask], view.how)
    grid = axes_of(run)
    beside = neighbours(grid)
    value = found[view.how]
    flat = plateau(value, beside)
    peak = peak_of(grid, value, flat, beside, view.ascending)
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
        by_symbols=_by_symbols(halves),
        by_time=None if PERIODS not in run.datasets or peak is None else _by_time(run, view, names, peak.best),
    )


def axes_of(run: Run) -> Grid:
    """The axes of a run's sets, and where each set lies on them."""
    sets = run.sets
    return grid_of(varying_values(sets), len(sets))


def set_values(run: Run, view: View) -> F64:
    """`Surface.value` alone: [n_sets]."""
    names = _chosen(run, view)
    value = np.full(len(run.manifest["sets"]), np.nan)
    for sets, rows in _figures(run, view.by, names):
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


# Reading


@dataclass(frozen=True)
class _Piece:
    """Sets [start, stop), and the committed files that hold them."""

    start: int
    stop: int
    files: tuple[Path, ...]

    @property
    def sets(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def n_sets(self) -> int:
        return self.stop - self.start


def _pieces(run: Run, dataset: str, cells_per_set: int) -> Iterator[_Piece]:
    """All sets, so few at a time that their figures stay within `CELLS`."""
    groups: dict[tuple[int, int], list[Path]] = {}
    partitions = {partition.index: partition for partition in run.partitions}
    for index, parts in records(run.path):
        groups.setdefault(partitions[index].sets, []).append(run.path / parts[dataset].file)
    step = max(1, CELLS // max(1, cells_per_set))
    for (first, last), files in groups.items():
        for start in range(first, last, step):
            yield _Piece(start, min(start + step, last), tuple(files))


def _rows(piece: _Piece, columns: Sequence[str], position: Mapping[str, int]) -> Iterator[tuple[I64, I64, pa.Table]]:
    """Of each row of a piece: its set, counted from the piece's first, its symbol's position, and `columns`."""
    for file in piece.files:
        with pq.ParquetFile(file) as opened:
            for batch in opened.iter_batches(columns=["symbol", "param_id", *columns]):
                coded = batch["symbol"].dictionary_encode()
                places = np.array([position.get(name, -1) for name in coded.dictionary.to_pylist()], np.int64)
                symbol = places[coded.indices.to_numpy()] if batch.num_rows else np.zeros(0, np.int64)
                param_id = batch["param_id"].to_numpy()
                mine = (symbol >= 0) & (param_id >= piece.start) & (param_id < piece.stop)
                if mine.any():
                    rows = pa.Table.from_batches([batch]).select(list(columns)).filter(pa.array(mine))
                    yield param_id[mine] - piece.start, symbol[mine], rows


def _figures(run: Run, by: str, names: Sequence[str]) -> Iterator[tuple[slice, F64]]:
    """Sets, and their figure for every symbol: [sets, symbols], NaN where undefined or not committed."""
    position = {name: at for at, name in enumerate(names)}
    for piece in _pieces(run, METRICS, len(names)):
        block = np.full((piece.n_sets, len(names)), np.nan)
        for at, symbol, rows in _rows(piece, [by], position):
            block[at, symbol] = _numbers(rows[by])
        yield piece.sets, block


def _numbers(column: pa.ChunkedArray) -> F64:
    """float64, null as NaN."""
    values: F64 = pc.cast(column, pa.float64()).to_numpy()
    return values


# Stability


def _halves(n_symbols: int, seed: int) -> list[np.ndarray[Any, np.dtype[np.bool_]]]:
    """Which symbols are in the first half, `HALVINGS` times; nothing for fewer than two symbols."""
    if n_symbols < 2:
        return []
    rng = Random(seed)
    masks = []
    for _ in range(HALVINGS):
        order = np.argsort([rng.random() for _ in range(n_symbols)], kind="stable")
        masks.append(np.isin(np.arange(n_symbols), order[: n_symbols // 2]))
    return masks


def _by_symbols(halves: F64) -> BySymbols:
    found = [rank_correlation(one, other) for one, other in halves]
    known = [value for value in found if value is not None]
    return BySymbols(sum(known) / len(known), min(known), max(known)) if known else BySymbols(None, None, None)


def _by_time(run: Run, view: View, names: Sequence[str], best: int) -> ByTime:
    figure = "total_return" if view.by == "total_return" else "sharpe"
    n_sets = len(run.manifest["sets"])
    starts = _period_starts(run)
    each, both = np.full((len(starts), n_sets), np.nan), np.full((2, n_sets), np.nan)
    sign = 1.0 if figure != view.by or not view.ascending else -1.0
    for sets, periods, halves in _period_figures(run, figure, names, starts):
        each[:, sets] = np.stack([aggregate(rows, view.how) for rows in periods])
        both[:, sets] = np.stack([aggregate(rows, view.how) for rows in halves])
    each = significant(each)
    following = [rank_correlation(each[at], each[at + 1]) for at in range(len(starts) - 1)]
    known = [value for value in following if value is not None]
    defined = np.flatnonzero(~np.isnan(each[:, best]))
    better = [np.sum(sign * each[at] > sign * each[at, best]) / np.sum(~np.isnan(each[at])) for at in defined]
    return ByTime(
        figure=figure,
        period=run.manifest["period"],
        periods=len(starts),
        halves=rank_correlation(*both) if len(starts) > 1 else None,
        consecutive=sum(known) / len(known) if known else None,
        best_in_top_decile=float(np.mean(np.array(better) < 0.1)) if better else None,
    )


def _period_starts(run: Run) -> I64:
    """Every period that any row is of, ascending."""
    found: set[int] = set()
    for file in run.files(PERIODS):
        with pq.ParquetFile(file) as opened:
            for batch in opened.iter_batches(columns=["period_ts"]):
                found.update(pc.unique(batch["period_ts"].cast(pa.int64())).to_pylist())
    return np.array(sorted(found), np.int64)


def _period_figures(
    run: Run, figure: str, names: Sequence[str], starts: I64
) -> Iterator[tuple[slice, list[F64], list[F64]]]:
    """Sets, and their figure in every period and in both halves of the periods, each [sets, symbols]."""
    position = {name: at for at, name in enumerate(names)}
    sets = run.manifest["sets"]
    columns = ("start_equity", "end_equity") if figure == "total_return" else ("n_bars", "mean", "m2")
    for piece in _pieces(run, PERIODS, len(columns) * len(names) * len(starts)):
        sums = np.full((len(columns), len(starts), piece.n_sets, len(names)), np.nan)
        for at, symbol, rows in _rows(piece, ["period_ts", *columns], position):
            period = np.searchsorted(starts, rows["period_ts"].cast(pa.int64()).to_numpy())
            for column, name in enumerate(columns):
                sums[column, period, at, symbol] = _numbers(rows[name])
        middle = len(starts) // 2
        spans = [range(at, at + 1) for at in range(len(starts))] + [range(middle), range(middle, len(starts))]
        if figure == "total_return":
            each = [_return(sums[:, span.start : span.stop]) for span in spans]
        else:
            years = np.array([[one["bars_per_year"]] for one in sets[piece.sets]])
            rf = np.array([[one["config"]["run"]["rf"]] for one in sets[piece.sets]])
            each = [_sharpe(sums[:, span.start : span.stop], years, rf) for span in spans]
        yield piece.sets, each[:-2], each[-2:]


def _return(equity: F64) -> F64:
    """From the first equity before to the last one after, of [2, periods, ...]; NaN without a period."""
    start, end = np.full(equity.shape[2:], np.nan), np.full(equity.shape[2:], np.nan)
    for before, after in zip(*equity, strict=True):
        start = np.where(np.isnan(start), before, start)
        end = np.where(np.isnan(after), end, after)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(start > 0, end / start - 1.0, np.nan)


def _sharpe(moments: F64, years: F64, rf: F64) -> F64:
    """The Sharpe ratio of merged periods: n, mean and m2, [3, periods, ...]; NaN as `metrics` has null."""
    n, mean, m2 = (np.zeros(moments.shape[2:]) for _ in range(3))
    for count, average, spread in zip(*np.nan_to_num(moments), strict=True):
        total = n + count
        weight = count / np.maximum(total, 1.0)
        deviation = average - mean
        m2 += spread + deviation * deviation * n * weight
        mean += deviation * weight
        n = total
    with np.errstate(divide="ignore", invalid="ignore"):
        deviation = np.sqrt(m2 / np.where(n > 1, n - 1, np.nan))
        return np.asarray(np.where(deviation > 0, (mean - rf) / deviation * np.sqrt(years), np.nan))
