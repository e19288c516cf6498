"""What a price store is: symbols x time, read a block at a time, only what was committed.

A store holds float64 fields `[symbol, bar]` over one shared, strictly increasing time axis `ts` (int64
nanoseconds since the epoch, UTC, bar open). A symbol without a bar at some `ts` has NaN there in every
field. One bar size and one calendar statement per store.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from atc_backtest.errors import DataError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

FIELDS = ("open", "high", "low", "close", "volume")
"""Fields a store may hold, in this order; every store holds `close`."""

BAR_UNITS_NS = {
    "w": 7 * 86_400 * 10**9,
    "d": 86_400 * 10**9,
    "h": 3_600 * 10**9,
    "m": 60 * 10**9,
    "s": 10**9,
    "ms": 10**6,
    "us": 10**3,
    "ns": 1,
}
"""Units a bar size is written in, largest first. A month is none: months differ in length."""


def parse_bar(text: str) -> int:
    """A bar size as people write it, `1m`, `5m`, `1h`, `1d`, `1w`, to nanoseconds; `DataError` otherwise."""
    match = re.fullmatch(r"([1-9][0-9]{0,11})([a-z]{1,2})", text.strip())
    unit_ns = BAR_UNITS_NS.get(match[2]) if match else None
    if match is None or unit_ns is None or int(match[1]) * unit_ns >= 2**63:
        units = ", ".join(reversed(BAR_UNITS_NS))
        raise DataError(f"bar size {text!r} is not known: write a whole number and a unit of {units}, e.g. 5m, 1h, 1d.")
    return int(match[1]) * unit_ns


def format_bar(bar_ns: int) -> str:
    """Nanoseconds as the largest unit that divides them: 3600e9 to `1h`. `DataError` unless positive."""
    if bar_ns <= 0:
        raise DataError(f"bar size = {bar_ns} ns is not allowed: more than 0.")
    unit = next(unit for unit, unit_ns in BAR_UNITS_NS.items() if bar_ns % unit_ns == 0)
    return f"{bar_ns // BAR_UNITS_NS[unit]}{unit}"


@dataclass(frozen=True)
class SymbolInfo:
    """One symbol: present bars, and the open times (ns, UTC) of its first and last present bar."""

    name: str
    n_bars: int
    first_ns: int
    last_ns: int


@dataclass(frozen=True)
class StoreInfo:
    """What is committed, as the last manifest says.

    `version` grows by one with every commit. `chunk` is (symbols, bars) of one stored chunk: readers do
    best with whole ones. `calendar` is a name of `metrics.CALENDARS`, e.g. 24/7.
    """

    path: str
    version: int
    bar_ns: int
    calendar: str
    fields: tuple[str, ...]
    symbols: tuple[SymbolInfo, ...]
    n_bars: int
    chunk: tuple[int, int]


class Store(Protocol):
    """Reading. Ranges are half-open; every thread may read at the same time."""

    @property
    def info(self) -> StoreInfo: ...

    def ts(self, start: int, stop: int) -> I64:
        """Open times of bars [start, stop) of the shared axis, ns UTC: int64 [stop - start]."""
        ...

    def read(self, field: str, symbols: tuple[int, int], bars: tuple[int, int]) -> F64:
        """A fresh C-contiguous float64 [symbols, bars] block; NaN where a symbol has no bar.

        `DataError` for a field the store lacks or a range outside it.
        """
        ...


class WritableStore(Store, Protocol):
    """Writing: one writer at a time; nothing is visible to readers before `commit`."""

    def append(self, ts: I64, symbols: Sequence[str], blocks: dict[str, F64]) -> None:
        """Bars later than every committed one, for some or all symbols, new ones included.

        `ts` int64 [n], strictly increasing; `blocks` field -> float64 [len(symbols), n], NaN = no bar.
        Committed before it returns. `DataError` when a time is not later than the store's last.
        """
        ...
