"""A run's periods as trials: of one symbol by its bars, of all of them by their mean.

A trial is one parameter set. Of a single symbol its returns are those of the bars. Of the whole they are the
periods': in each, the mean of the symbols' returns, every symbol that has bars in it with the same weight (a
portfolio of equal parts, restored at the beginning of every period). The risk-free rate of a set is taken off.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from atc_backtest.accounts import F64
from atc_backtest.errors import DataError, StoreError
from atc_backtest.metrics import DAY_NS, bars_per_year
from atc_backtest.moments import Moments
from atc_backtest.pipelines.job import PERIODS
from atc_backtest.pipelines.runs import Run
from atc_backtest.resampling import Trials

PERIODS_A_YEAR = {"week": 365.25 / 7, "month": 12.0, "quarter": 4.0, "year": 1.0}

COLUMNS = ("symbol", "param_id", "period_ts", "n_bars", "start_equity", "end_equity", "mean", "m2", "m3", "m4")

FRACTION = 2.0**48
"""Units of fractional parts: as integers they add up without rounding, in whatever order parts come."""


@dataclass(frozen=True)
class _Rows:
    """Some rows of periods/, and their places: set and period."""

    at: tuple[NDArray[np.int64], NDArray[np.int64]]
    n: F64
    gross: F64
    """Equity at the end over equity at the start."""
    table: pa.Table


class PeriodRows:
    """The periods of a run, read a batch at a time. `StoreError` for a run that has none."""

    def __init__(self, run: Run) -> None:
        if PERIODS not in run.manifest["save"]:
            raise StoreError(
                f"{run.path} has no periods, which this guard reads: run it again with --save periods --period month "
                "(or day, week, quarter, year)."
            )
        self.run = run
        self.period: str = run.manifest["period"]
        self._dataset = run.dataset(PERIODS)
        found = {ts for batch in self._dataset.to_batches(columns=["period_ts"]) for ts in _unique_ns(batch)}
        if not found:
            raise DataError(f"{run.path} has no evaluated bar in any period.")
        self.starts = np.array(sorted(found), dtype=np.int64)
        sets = run.manifest["sets"]
        self.ids = np.arange(len(sets))
        self._rf = np.array([config.rf for config in run.sets])
        self._calendars = [one["calendar"] for one in sets]
        self._bars_a_year = np.array([one["bars_per_year"] for one in sets])

    @property
    def symbols(self) -> tuple[str, ...]:
        """Names of the symbols that were run, ascending."""
        return tuple(sorted(self.run.symbols))

    def whole(self) -> Trials:
        """Trials of all symbols together: one return a period. Memory: sets x periods."""
        parts = np.zeros((2, *self._shape), dtype=np.int64)
        bars, count = (np.zeros(self._shape, dtype=np.int64) for _ in range(2))
        for rows in self._rows(None):
            whole, fraction = np.divmod(rows.gross, 1.0)
            np.add.at(parts[0], rows.at, whole.astype(np.int64))
            np.add.at(parts[1], rows.at, np.rint(fraction * FRACTION).astype(np.int64))
            np.add.at(bars, rows.at, rows.n.astype(np.int64))
            np.add.at(count, rows.at, 1)
        known, each = count > 0, np.maximum(count, 1)
        gross = np.where(known, (parts[0] + parts[1] / FRACTION) / each, 1.0)
        zero = np.zeros(self._shape)
        mean = gross - 1.0 - self._rf[:, None] * (bars / each)
        moments = Moments(known.astype(np.float64), np.where(known, mean, 0.0), zero, zero, zero)
        return Trials(self.ids, self.starts, moments, _log(gross), self._periods_a_year())

    def of(self, symbol: str) -> Trials:
        """Trials of one symbol: the returns of its bars. `DataError` for one that was not run."""
        if symbol not in self.symbols:
            some = ", ".join(self.symbols[:20]) + (", ..." if len(self.symbols) > 20 else "")
            raise DataError(f"{self.run.path} has no symbol {symbol!r}: it has {some}.")
        moments, growth = Moments.zeros(*self._shape), np.zeros(self._shape)
        for rows in self._rows(symbol):
            moments.n[rows.at] = rows.n
            moments.mean[rows.at] = rows.table["mean"].to_numpy() - self._rf[rows.at[0]]
            for name in ("m2", "m3", "m4"):
                getattr(moments, name)[rows.at] = rows.table[name].to_numpy()
            growth[rows.at] = _log(rows.gross)
        return Trials(self.ids, self.starts, moments, growth, self._bars_a_year)

    @property
    def _shape(self) -> tuple[int, int]:
        return len(self.ids), len(self.starts)

    def _periods_a_year(self) -> F64:
        if self.period != "day":
            return np.full(len(self.ids), PERIODS_A_YEAR[self.period])
        return np.array([bars_per_year(DAY_NS, calendar) for calendar in self._calendars])

    def _rows(self, symbol: str | None) -> Iterator[_Rows]:
        """All rows, or one symbol's, a batch at a time."""
        which = None if symbol is None else pc.field("symbol") == symbol
        for batch in self._dataset.to_batches(columns=list(COLUMNS), filter=which):
            table = pa.Table.from_batches([batch])
            if not table.num_rows:
                continue
            sets = table["param_id"].to_numpy()
            times = table["period_ts"].cast(pa.int64()).to_numpy()
            gross = table["end_equity"].to_numpy() / table["start_equity"].to_numpy()
            n = table["n_bars"].to_numpy().astype(np.float64)
            yield _Rows((sets, np.searchsorted(self.starts, times)), n, gross, table)


def _unique_ns(batch: pa.RecordBatch) -> list[int]:
    found: list[int] = pc.unique(batch["period_ts"].cast(pa.int64())).to_pylist()
    return found


def _log(gross: F64) -> F64:
    """Logarithm; of an account that lost everything that of the smallest number, which no gain makes up for."""
    return np.log(np.maximum(gross, np.finfo(np.float64).tiny))
