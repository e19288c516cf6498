"""What a symbol's bars are after some were written: how many, the first and the last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atc_backtest.stores.base import I64, SymbolInfo
from atc_backtest.stores.layout import HISTORY_BARS
from atc_backtest.stores.reading import Version

Mask = NDArray[np.bool_]
NONE = np.iinfo(np.int64)


@dataclass(frozen=True)
class Change:
    """What one chunk did to symbols `rows`: bars gained, first and last time among those present now."""

    rows: NDArray[np.intp]
    gained: I64
    first: I64
    last: I64
    lost: Mask
    """Symbols of which a bar is gone."""

    def counted(self, symbols: list[SymbolInfo]) -> Iterator[SymbolInfo]:
        """What is known of `rows` of these symbols now; first and last are wrong where `lost`."""
        for row, gained, first, last in zip(self.rows, self.gained, self.first, self.last, strict=True):
            old = symbols[row]
            span = old.first_ns, old.last_ns
            if first <= last:
                span = (min(span[0], int(first)), max(span[1], int(last))) if old.n_bars else (int(first), int(last))
            yield SymbolInfo(old.name, old.n_bars + int(gained), *span)


def change(rows: NDArray[np.intp], ts: I64, before: Mask, after: Mask) -> Change:
    """Of bars [rows, ts] that were there before, and are there after."""
    some = after.any(axis=1)
    first, last = after.argmax(axis=1), ts.size - 1 - after[:, ::-1].argmax(axis=1)
    return Change(
        rows,
        after.sum(axis=1) - before.sum(axis=1),
        np.where(some, ts[first], NONE.max),
        np.where(some, ts[last], NONE.min),
        np.asarray((before & ~after).any(axis=1)),
    )


def counted_again(version: Version, times: I64, row: int) -> SymbolInfo:
    """A symbol's bars by reading all its closes; `times`: the whole axis."""
    n_bars, found = 0, []
    for start in range(0, times.size, HISTORY_BARS):
        close = version.read("close", (row, row + 1), (start, min(start + HISTORY_BARS, times.size)))[0]
        present = start + np.flatnonzero(~np.isnan(close))
        n_bars += present.size
        if present.size:
            found += [int(times[present[0]]), int(times[present[-1]])]
    first, last = (found[0], found[-1]) if found else (0, 0)
    return SymbolInfo(version.info.symbols[row].name, n_bars, first, last)
