"""Times of prices in memory, to int64 nanoseconds UTC: of pandas indices, Arrow columns and arrays.

Times that have no zone are refused unless one is named: they could be any clock's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa

from atc_backtest.errors import DataError
from atc_backtest.stores.base import I64, parse_bar
from atc_backtest.stores.ingest.zones import Zone

FIRST_NS = 946_684_800 * 10**9
"""2000-01-01 UTC: the first bar of an array of which only the bar size is known."""


@dataclass(frozen=True)
class Times:
    """What is said about times. `tz`: zone of times without one. `stamps`: those of arrays, which have none.

    `bar`: as 1h; None: the commonest step between the bars of each symbol.
    """

    tz: str | None = None
    stamps: Any = None
    bar: str | None = None


def has_dates(values: Any) -> bool:
    """Whether a pandas column or index holds Python's dates or datetimes, which to pandas are any objects."""
    return bool(values.dtype == object and values.size and isinstance(values.to_numpy()[0], date))


def index_ns(index: Any, times: Times) -> I64:
    """A pandas index of times, or the times given where it is none."""
    if has_dates(index):
        return column_ns(pa.chunked_array([pa.array(index.to_numpy())]), times)
    if not hasattr(index, "tz"):
        if times.stamps is None and times.bar is None:
            raise DataError(
                f"the index is a {type(index).__name__}, not times: index the prices by a DatetimeIndex "
                "(pandas.to_datetime), or give timestamps=, or the bar size alone, e.g. bar='1h'."
            )
        return stamps_ns(len(index), times)
    if index.hasnans:
        raise DataError("the index has a time that is missing (NaT): drop its row.")
    return _instants(np.asarray(index.as_unit("ns").asi8, dtype=np.int64), index.tz is None, times.tz)


def stamps_ns(n: int, times: Times) -> I64:
    """Times of an array's bars: those given, or so many bars from `FIRST_NS` on."""
    stamps = times.stamps
    if stamps is None:
        if times.bar is None:
            raise DataError("an array has no times: give timestamps=, one a bar, or the bar size alone, e.g. bar='1h'.")
        return FIRST_NS + np.arange(n, dtype=np.int64) * parse_bar(times.bar)
    if hasattr(stamps, "tz"):
        return index_ns(stamps, times)
    found = np.asarray(stamps)
    if found.dtype.kind == "M":
        if np.isnat(found).any():
            raise DataError("timestamps hold a time that is missing (NaT): drop its bar.")
        return _instants(found.astype("datetime64[ns]").astype(np.int64), True, times.tz)
    if found.dtype.kind not in "iu" or found.ndim != 1:
        raise DataError(
            f"timestamps are {found.dtype} of shape {found.shape}: give a DatetimeIndex, datetime64, or int64 "
            "nanoseconds since 1970 (UTC), one a bar."
        )
    return found.astype(np.int64)


def is_time(of: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(of) or pa.types.is_date(of))


def column_ns(column: pa.ChunkedArray, times: Times) -> I64:
    if column.null_count:
        raise DataError("the column of times has a row without one: drop it.")
    zone = column.type.tz if pa.types.is_timestamp(column.type) else None
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s"))
    ns = column.cast(pa.timestamp("ns", zone)).cast(pa.int64()).to_numpy()
    return _instants(np.asarray(ns, dtype=np.int64), zone is None, times.tz)


def _instants(ns: I64, naive: bool, tz: str | None) -> I64:
    """Times in UTC; those without a zone are on the clock of `tz`, of two that look alike the earlier."""
    if not naive:
        return ns
    if tz is None:
        example = str(np.datetime64(int(ns[0]), "ns"))[:19] if ns.size else "none"
        raise DataError(
            f"times without a zone, e.g. {example}: say which clock they show, e.g. tz='UTC' or tz='America/New_York'."
        )
    utc, exists = Zone(tz).clock(ns).to_utc(ns)
    if not exists.all():
        at = str(np.datetime64(int(ns[int(np.argmin(exists))]), "ns"))[:19]
        raise DataError(f"{at} does not exist in {tz}, for the clocks skipped it: drop the row, or name another tz.")
    return utc
