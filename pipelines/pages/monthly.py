"""Returns by month and year, and the rolling Sharpe ratio, from an account's days."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atc_backtest.periods import period_starts
from atc_backtest.pipelines.calendar_returns import Row, by_unit, merged, sharpe
from atc_backtest.pipelines.pages.sampling import Line

WINDOWS = (("month", 12, 36), ("week", 13, 26), ("day", 30, 60))
"""Of the rolling ratio: a unit, how many of them, and how many there must be in all for this choice."""


@dataclass(frozen=True)
class Year:
    """`months`: total return of each, None without evaluated bars. `total`, `hold`: of the year, and buy-and-hold's."""

    year: int
    months: tuple[float | None, ...]
    total: float
    hold: float


def rows_of(days: NDArray[np.void]) -> list[Row]:
    """`PERIOD` records as rows of periods/."""
    names = days.dtype.names or ()
    return [dict(zip(names, record, strict=True)) for record in days.tolist()]


def years_of(rows: list[Row]) -> list[Year]:
    """Months by year, ascending; `rows` are days or months."""
    months = by_unit(rows, "month")
    returns = {_month(row): growth(row) for row in months}
    found = []
    for row in by_unit(months, "year"):
        year = _month(row)[0]
        table = tuple(returns.get((year, month)) for month in range(1, 13))
        found.append(Year(year, table, growth(row), row["hold_return"]))
    return found


def growth(row: Row) -> float:
    """Return of a period; 0 after a ruin."""
    start = row["start_equity"]
    return row["end_equity"] / start - 1 if start > 0 else 0.0


def _month(row: Row) -> tuple[int, int]:
    months = int(np.datetime64(row["period_ts"], "ns").astype("datetime64[M]").astype(np.int64))
    return 1970 + months // 12, months % 12 + 1


@dataclass(frozen=True)
class Rolling:
    """`line`: the Sharpe ratio, a year, at the end of each window of `length` periods of a `unit`."""

    unit: str
    length: int
    line: Line


def rolling_sharpe(days: list[Row], rf: float, bars_per_year: float) -> Rolling | None:
    """Over the longest of `WINDOWS` that fits often enough; None where none does."""
    for unit, length, least in WINDOWS:
        rows = by_unit(days, unit)
        if len(rows) < least:
            continue
        points: list[tuple[int, float]] = []
        for at in range(length, len(rows) + 1):
            ratio = sharpe(merged(rows[at - length : at]), rf, bars_per_year)
            if ratio is not None:
                points.append((_end(rows, at, unit), ratio))
        ts, values = zip(*points, strict=True) if points else ((), ())
        return Rolling(unit, length, Line(np.array(ts, np.int64), np.array(values, np.float64)))
    return None


def _end(rows: list[Row], at: int, unit: str) -> int:
    """When the window of periods before `rows[at]` ends."""
    if at < len(rows):
        return int(rows[at]["period_ts"])
    return int(period_starts(np.array([rows[-1]["period_ts"]]), unit)[-1])
