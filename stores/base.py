"""What a price store is: symbols x time, read a block at a time, only what was committed.

A store holds float64 fields `[symbol, bar]` over one shared, strictly increasing time axis `ts` (int64
nanoseconds since the epoch, UTC, bar open). A symbol without a bar at some `ts` has NaN there in every
field. One bar size and one calendar statement per store.

A store is a row of versions. A reader keeps the one it opened; a writer makes the next one out of any
number of calls and commits them all at once, or none of them. Nothing committed is ever changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from atc_backtest.errors import DataError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Blocks = Mapping[str, F64]
"""Field -> float64 [symbols, bars], every field of the store; a bar that is missing is NaN in all of them."""

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
    """What one version holds, as its manifest says.

    `id` is drawn when a store is made, `version` grows by one with every commit: both together name these
    prices and no others. `kind` is zarr or memmap. `chunk` is (symbols, bars) of one stored chunk of the
    history, bars [0, history_bars): readers do best with whole ones; the bars after it lie in smaller ones.
    `calendar` is a name of `metrics.CALENDARS`, e.g. 24/7.
    """

    path: str
    id: str
    version: int
    kind: str
    codec: str
    volume_bits: int | None
    """Significant bits that volume is rounded to before it is stored; None: as it is given, as prices are."""
    bar_ns: int
    calendar: str
    fields: tuple[str, ...]
    symbols: tuple[SymbolInfo, ...]
    n_bars: int
    history_bars: int
    chunk: tuple[int, int]


class Store(Protocol):
    """Reading. Ranges are half-open; every thread may read at the same time."""

    @property
    def info(self) -> StoreInfo: ...

    def ts(self, start: int, stop: int) -> I64:
        """Open times of bars [start, stop) of the shared axis, ns UTC: int64 [stop - start]."""
        ...

    def read(self, field: str, symbols: tuple[int, int], bars: tuple[int, int]) -> F64:
        """A C-contiguous float64 [symbols, bars] block; NaN where a symbol has no bar.

        It may be a read-only view of the store's own memory: copy it to change it. `DataError` for a field
        the store lacks or a range outside it, `StoreError` for damage, naming the symbols and times.
        """
        ...


class Writer(Protocol):
    """The next version of a store in the making: any calls, committed together when the block ends.

        with store.writing() as writer:
            writer.add_times(ts)                  # optional: all times to come, so that the axis grows once
            writer.merge(ts, symbols, blocks)     # any number of times

    `ts` int64 [n], strictly increasing; `symbols` each once, new ones are added; `blocks` all fields of the
    store, float64 [len(symbols), n]. Memory: a few chunks, whatever a call brings. A call rewrites the chunks
    that it touches, so give many symbols at once, whole chunks of them (`info.chunk`) where you can.
    `DataError`, and nothing of the call is kept, for values no store may hold.
    """

    @property
    def info(self) -> StoreInfo:
        """What would be committed now; its version is the next one."""
        ...

    def ts(self, start: int, stop: int) -> I64:
        """As `Store.ts`, of the version in the making."""
        ...

    def read(self, field: str, symbols: tuple[int, int], bars: tuple[int, int]) -> F64:
        """As `Store.read`, of the version in the making."""
        ...

    def add_times(self, ts: I64) -> None:
        """Times that the axis must hold; those it has already are no error. No symbol has a bar at a new one yet.

        Later ones extend the axis at no cost. One between older ones moves every bar after it, so that all
        chunks from there on are written anew: name all of them in one call.
        """
        ...

    def append(self, ts: I64, symbols: Sequence[str], blocks: Blocks) -> None:
        """Bars later than all the store's. `DataError` when a time is not later than its last."""
        ...

    def merge(self, ts: I64, symbols: Sequence[str], blocks: Blocks) -> None:
        """Bars at any times: where a block has a bar (close is not NaN) it is taken, over what was there.

        Where it has none, what was there stays. Times that the axis lacks are added as by `add_times`.
        """
        ...

    def correct(self, ts: I64, symbols: Sequence[str], blocks: Blocks) -> None:
        """As `merge`, at times that the axis has (else `DataError`), and a missing bar removes what was there."""
        ...


class WritableStore(Store, Protocol):
    """Writing: one writer at a time, another one is refused; nothing is visible to readers before the commit."""

    def writing(self, what: str = "write") -> AbstractContextManager[Writer]:
        """The next version, committed when the block ends without an error, and dropped when it raises.

        This store shows the new version afterwards. `StoreError` when another writer is at work, or another
        one was faster since this store was opened. A block that changed nothing commits nothing. The history
        says `what` it was.
        """
        ...

    def append(self, ts: I64, symbols: Sequence[str], blocks: Blocks) -> None:
        """`Writer.append`, committed before it returns."""
        ...
