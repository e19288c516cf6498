"""When a market is open: venues of the exchange-calendars package (extra `calendars`), and bars that are missing.

A venue's year is counted over 2015 to 2024: neither today's date nor a newer package changes a figure.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atc_backtest.errors import ConfigError, UnavailableError

I64 = NDArray[np.int64]
DAY_NS = 86_400 * 10**9
COUNTED = ("2015-01-01", "2024-12-31")
YEARS = 10
REMEDY = "pip install 'atc-backtest[calendars]'"


@dataclass(frozen=True)
class Venue:
    """`sessions` a year, and the length that most of them have."""

    sessions: float
    session_ns: int


@dataclass(frozen=True)
class Gap:
    """Bars that a calendar expects one after the other and a symbol lacks: open times of first and last, how many."""

    first_ns: int
    last_ns: int
    n_bars: int


@functools.cache
def venue(name: str) -> Venue | None:
    """A venue by its name in exchange-calendars, e.g. XLON; None where it is unknown or the package is missing."""
    try:
        calendar = _calendar(name, *COUNTED)
    except UnavailableError:
        return None
    if calendar is None:
        return None
    lengths = calendar.closes.to_numpy("datetime64[ns]") - calendar.opens.to_numpy("datetime64[ns]")
    values, counts = np.unique(lengths.astype(np.int64), return_counts=True)
    return Venue(len(lengths) / YEARS, int(values[np.argmax(counts)]))


def gaps(ts: I64, bar_ns: int, calendar: str) -> tuple[Gap, ...]:
    """Of a symbol's open times `ts`, what lacks between its first and last bar.

    24/7 and 24/5 (Monday to Friday, UTC) expect every bar of the symbol's own grid; a venue, those of its sessions,
    counted from each opening, or one a session for daily bars. `ConfigError` for longer bars and unknown venues.
    """
    if bar_ns > DAY_NS:
        raise ConfigError("gaps are told for bars of up to a day: a longer one holds holidays.")
    if ts.size == 0:
        return ()
    daily = bar_ns == DAY_NS and calendar not in ("24/7", "24/5")
    found = ts // DAY_NS * DAY_NS if daily else ts
    expected = _expected(int(found[0]), int(found[-1]), bar_ns, calendar, daily)
    lacking = ~np.isin(expected, found)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], lacking, [False]]).astype(np.int8)))
    return tuple(
        Gap(int(expected[start]), int(expected[stop - 1]), int(stop - start))
        for start, stop in zip(edges[::2], edges[1::2], strict=True)
    )


def _expected(first: int, last: int, bar_ns: int, name: str, daily: bool) -> I64:
    """Open times that a calendar expects from `first` to `last`."""
    if name in ("24/7", "24/5"):
        every = np.arange(first, last + 1, bar_ns)
        weekday = (every // DAY_NS + 3) % 7  # 1970 began on a Thursday; Monday is 0
        return every if name == "24/7" else every[weekday < 5]
    days = [str(np.datetime64(ns, "ns").astype("datetime64[D]")) for ns in (first, last)]
    calendar = _calendar(name, *days)
    if calendar is None:
        raise ConfigError(f"calendar {name!r} is not known to exchange-calendars: name one of its venues, e.g. XLON.")
    if daily:
        sessions: I64 = calendar.sessions.to_numpy("datetime64[ns]").astype(np.int64)
        return sessions
    opens, closes = (times.to_numpy("datetime64[ns]").astype(np.int64) for times in (calendar.opens, calendar.closes))
    every = np.concatenate([np.arange(a, b, bar_ns) for a, b in zip(opens, closes, strict=True)] or [opens])
    return every[(every >= first) & (every <= last)]


def _calendar(name: str, start: str, end: str) -> Any:
    """The package's calendar over these days, None for an unknown name."""
    try:
        import exchange_calendars
    except ImportError as error:
        raise UnavailableError(f"calendar {name!r} needs exchange-calendars ({error}): {REMEDY}.") from error
    if name not in exchange_calendars.get_calendar_names(include_aliases=True):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pandas, about how the package uses it
        return exchange_calendars.get_calendar(name, start=start, end=end)
