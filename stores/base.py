"""What a price store is: symbols x time, read a block at a time, only what was committed.

A store holds float64 fields `[symbol, bar]` over one shared, strictly increasing time axis `ts` (int64
nanoseconds since the epoch, UTC, bar open). A symbol without a bar at some `ts` has NaN there in every
field. One bar size and one calendar statement per store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

FIELDS = ("open", "high", "low", "close", "volume")
"""Fields a store may hold, in this order; every store holds `close`."""


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
