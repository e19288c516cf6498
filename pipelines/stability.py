"""Is the order of parameter sets the same for other symbols and at other times? Rank correlations that say so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from atc_backtest.pipelines.job import PERIODS
from atc_backtest.pipelines.plateau import F64, I64, aggregate, rank_correlation, significant
from atc_backtest.pipelines.runs import Run
from atc_backtest.pipelines.set_rows import numbers, pieces, rows_of

CELLS = 1 << 24
"""Figures of periods/ held at a time, of symbols times sets times periods."""

HALVINGS = 10
"""Random halves of the symbols that are compared."""


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


def halves(n_symbols: int, seed: int) -> list[NDArray[np.bool_]]:
    """Which symbols are in the first half, `HALVINGS` times; nothing for fewer than two symbols."""
    if n_symbols < 2:
        return []
    rng = Random(seed)
    masks = []
    for _ in range(HALVINGS):
        order = np.argsort([rng.random() for _ in range(n_symbols)], kind="stable")
        masks.append(np.isin(np.arange(n_symbols), order[: n_symbols // 2]))
    return masks


def by_symbols(found: F64) -> BySymbols:
    correlations = [rank_correlation(one, other) for one, other in found]
    known = [value for value in correlations if value is not None]
    return BySymbols(sum(known) / len(known), min(known), max(known)) if known else BySymbols(None, None, None)


def by_time(run: Run, names: Sequence[str], by: str, how: str, ascending: bool, best: int) -> ByTime:
    """The order of sets over the periods that `run` saved, of the symbols `names`; `best`: the set that is looked for.

    `by`, `how`, `ascending` as in `surface.View`: the return is taken where `by` asks for it, else the Sharpe ratio.
    """
    figure = "total_return" if by == "total_return" else "sharpe"
    sign = -1.0 if ascending and figure == by else 1.0
    starts, n_sets = _period_starts(run), len(run.manifest["sets"])
    each, both = np.full((len(starts), n_sets), np.nan), np.full((2, n_sets), np.nan)
    for sets, periods, spans in _period_figures(run, figure, names, starts):
        each[:, sets] = np.stack([aggregate(rows, how) for rows in periods])
        both[:, sets] = np.stack([aggregate(rows, how) for rows in spans])
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


def _period_figures(run: Run, figure: str, names: Sequence[str], starts: I64) -> Iterator[tuple[slice, F64, F64]]:
    """Sets, and their figure in every period and in both halves of the periods: [periods or 2, sets, symbols].

    Rows of a symbol and set come in the order of time, so that their sums do not depend on how the run was cut.
    """
    position = {name: at for at, name in enumerate(names)}
    middle = len(starts) // 2
    for piece in pieces(run, PERIODS, CELLS // (len(names) * (len(starts) + 6))):
        sets = run.manifest["sets"][piece.sets]
        years = np.array([one["bars_per_year"] for one in sets])
        rf = np.array([one["config"]["run"]["rf"] for one in sets])
        periods = np.full((len(starts), piece.n_sets, len(names)), np.nan)
        sums = np.zeros((3, 2, piece.n_sets, len(names)))
        growth = np.full((2, piece.n_sets, len(names)), np.nan)
        for at, symbol, rows in rows_of(piece, ["period_ts", *COLUMNS[figure]], position):
            period = np.searchsorted(starts, rows["period_ts"].cast(pa.int64()).to_numpy())
            half = (period >= middle).astype(np.int64)
            values = [numbers(rows[name]) for name in COLUMNS[figure]]
            if figure == "total_return":
                grown = _growth(*values)
                periods[period, at, symbol] = grown - 1.0
                growth[half, at, symbol] = np.nan_to_num(growth[half, at, symbol], nan=1.0)
                np.multiply.at(growth, (half, at, symbol), grown)
            else:
                n, mean, m2 = values
                periods[period, at, symbol] = _sharpe(n, mean, m2, years[at], rf[at])
                for into, value in zip(sums, (n, n * mean, m2 + n * mean * mean), strict=True):
                    np.add.at(into, (half, at, symbol), value)
        yield piece.sets, periods, growth - 1.0 if figure == "total_return" else _merged(sums, years, rf)


COLUMNS = {"total_return": ("start_equity", "end_equity"), "sharpe": ("n_bars", "mean", "m2")}
"""Of periods/: what a figure is made of."""


def _growth(start: F64, end: F64) -> F64:
    """How many times as much; NaN from nothing."""
    return np.divide(end, start, out=np.full_like(start, np.nan), where=start > 0)


def _merged(sums: F64, years: F64, rf: F64) -> F64:
    """Sharpe ratio of several periods from the sums of n, of n mean, and of m2 + n mean^2, [3, 2, sets, symbols]."""
    n, total, squares = sums
    mean = np.divide(total, n, out=np.full_like(n, np.nan), where=n > 0)
    return _sharpe(n, mean, squares - total * mean, years[:, None], rf[:, None])


def _sharpe(n: F64, mean: F64, m2: F64, years: F64, rf: F64) -> F64:
    """As `metrics` has it; NaN where that has null."""
    variance = np.divide(m2, n - 1.0, out=np.zeros_like(mean), where=n > 1)
    deviation = np.sqrt(np.maximum(variance, 0.0))
    return np.divide((mean - rf) * np.sqrt(years), deviation, out=np.full_like(mean, np.nan), where=deviation > 0)
