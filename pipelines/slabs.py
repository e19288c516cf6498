"""Slabs: whole chunks of one partition's symbols, read one after another, the next while this one is computed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from atc_backtest.stores.base import Store

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Fields = dict[str, F64]


@dataclass(frozen=True)
class Slab:
    """`ts` int64 [bars]; each field float64 [symbols, bars], read-only perhaps."""

    ts: I64
    fields: Fields

    def blocks(self, n_bars: int) -> Iterator[tuple[I64, Fields]]:
        """Cut along time into blocks of up to `n_bars`, C-contiguous and writable."""
        for start in range(0, self.ts.size, n_bars):
            cut = slice(start, min(start + n_bars, self.ts.size))
            yield (
                self.ts[cut],
                {name: np.require(values[:, cut], requirements=["C", "W"]) for name, values in self.fields.items()},
            )


@dataclass(frozen=True)
class Slabs:
    """Where slabs come from: `fields` of `symbols` (positions, ascending), `slab_bars` at a time."""

    store: Store
    symbols: tuple[int, ...]
    fields: tuple[str, ...]
    slab_bars: int

    def _starts(self) -> range:
        return range(0, self.store.info.n_bars, self.slab_bars)

    def read(self, start: int) -> Slab:
        """The slab that begins at bar `start`."""
        bars = (start, min(start + self.slab_bars, self.store.info.n_bars))
        first, last = self.symbols[0], self.symbols[-1] + 1
        rows = np.array(self.symbols) - first
        fields = {}
        for name in self.fields:
            values = self.store.read(name, (first, last), bars)
            fields[name] = values if rows.size == last - first else values[rows]
        return Slab(self.store.ts(*bars), fields)

    @contextmanager
    def reading(self, ahead: bool) -> Iterator[Iterator[Slab]]:
        """All slabs in time order. `ahead`: a thread reads one slab more than was asked for, never two.

        What a read raises is raised where its slab is asked for. When the block ends, the thread has ended
        too: at the latest when the one read it is at returns.
        """
        with _one_thread() if ahead else nullcontext() as thread:
            yield map(self.read, self._starts()) if thread is None else self._ahead(thread)

    def _ahead(self, thread: ThreadPoolExecutor) -> Iterator[Slab]:
        starts = iter(self._starts())
        coming = [thread.submit(self.read, start) for start in islice(starts, 1)]
        while coming:
            slab = coming.pop().result()  # a future keeps its slab: none is left behind
            coming = [thread.submit(self.read, start) for start in islice(starts, 1)]
            yield slab


@contextmanager
def _one_thread() -> Iterator[ThreadPoolExecutor]:
    thread = ThreadPoolExecutor(1, thread_name_prefix="atc-read")
    try:
        yield thread
    finally:
        thread.shutdown(cancel_futures=True)
