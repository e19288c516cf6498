"""The time axis of a version in the making: the end of it in memory, the rest only when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from atc_backtest.errors import DataError
from atc_backtest.stores.base import I64
from atc_backtest.stores.layout import TS_BARS
from atc_backtest.stores.reading import Version

Indices = NDArray[np.intp]
PADDING = np.iinfo(np.int64).max


class Axis:
    """Open times of all bars. Chunks that differ from the base version's are to be written."""

    def __init__(self, base: Version) -> None:
        self._base = base
        self._from = self._dirty = base.info.n_bars
        self._ts = np.empty(0, dtype=np.int64)
        self._load(self._from - 1)

    @property
    def size(self) -> int:
        return self._from + self._ts.size

    @property
    def last(self) -> int | None:
        return int(self._ts[-1]) if self._ts.size else None

    def times(self, start: int, stop: int) -> I64:
        self._load(start)
        return self._ts[start - self._from : stop - self._from].copy()

    def find(self, ts: I64) -> Indices:
        """Bars of these times; `DataError` for one that the axis lacks."""
        if ts.size == 0:
            return np.empty(0, dtype=np.intp)
        self._load_back_to(int(ts[0]))
        at = np.searchsorted(self._ts, ts)
        lacking = ~self._has(ts)
        if lacking.any():
            raise DataError(
                f"the store has no bar at ts {ts[int(np.argmax(lacking))]}: correct times it has, merge others."
            )
        return at + self._from

    def new(self, ts: I64) -> tuple[I64, I64]:
        """Of these times those that the axis lacks: between its own, and later."""
        last = self.last
        if last is None or ts.size == 0 or ts[0] > last:
            return ts[:0], ts
        self._load_back_to(int(ts[0]))
        ts = ts[~self._has(ts)]
        cut = int(np.searchsorted(ts, last))
        return ts[:cut], ts[cut:]

    def extend(self, ts: I64) -> None:
        self._ts = np.concatenate([self._ts, ts])

    def insert(self, new: I64) -> tuple[int, Indices]:
        """Times between those of the axis; the first bar that moves, and where it and all after it go."""
        self._load_back_to(int(new[0]))
        at = int(np.searchsorted(self._ts, new[0]))
        moved = np.union1d(self._ts[at:], new)
        first = self._from + at
        where = first + np.searchsorted(moved, self._ts[at:])
        self._ts = np.concatenate([self._ts[:at], moved])
        self._dirty = min(self._dirty, first)
        return first, where

    def chunks(self) -> Iterator[tuple[int, I64]]:
        """(column, int64 [TS_BARS]) of every chunk that must be written, padded at its end."""
        for column in range(self._dirty // TS_BARS, -(-self.size // TS_BARS)):
            if self._dirty < self.size:
                times = self.times(column * TS_BARS, min((column + 1) * TS_BARS, self.size))
                chunk = np.full(TS_BARS, PADDING)
                chunk[: times.size] = times
                yield column, chunk
        self._dirty = self.size

    def _has(self, ts: I64) -> NDArray[np.bool_]:
        if self._ts.size == 0:
            return np.zeros(ts.size, dtype=bool)
        at = np.minimum(np.searchsorted(self._ts, ts), self._ts.size - 1)
        found: NDArray[np.bool_] = self._ts[at] == ts
        return found

    def _load(self, start: int) -> None:
        if self._from > max(start, 0):
            columns = range(max(start, 0) // TS_BARS, -(-self._from // TS_BARS))
            earlier = np.concatenate([self._base.ts_chunk(column) for column in columns])
            first = columns[0] * TS_BARS
            self._ts = np.concatenate([earlier[: self._from - first], self._ts])
            self._from = first

    def _load_back_to(self, ns: int) -> None:
        step = 1
        while self._from and (self._ts.size == 0 or self._ts[0] > ns):
            self._load(self._from - step * TS_BARS)
            step *= 2
