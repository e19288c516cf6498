"""One symbol's bars in memory, and what a run's kernel and accounts make of bars like them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atc_backtest.config import RunConfig
from atc_backtest.pipelines.backtest import Options, compile_kernel, prepare
from atc_backtest.pipelines.job import Job
from atc_backtest.pipelines.plan import Partition
from atc_backtest.pipelines.slabs import F64, I64, Slab
from atc_backtest.pipelines.stream import Sink, Stream
from atc_backtest.stores.base import Store
from atc_backtest.stores.opening import open_store
from atc_backtest.symbol_costs import SymbolCosts

SIGNAL_BYTES = 64 * 2**20
"""Of all sets' signals at once."""


@dataclass(frozen=True)
class Player:
    """Sets over prices of a store, or over prices made from them; nothing is written."""

    job: Job
    store: Store

    @classmethod
    def of(
        cls,
        place: str | Path,
        sets: Sequence[RunConfig],
        symbols: tuple[str, ...],
        kernel: str,
        costs: tuple[SymbolCosts, ...] = (),
    ) -> Player:
        """`ConfigError` and `StoreError` as a run over the same store and symbols would raise them."""
        options = Options(kernel=kernel, symbols=symbols, threads=1, costs=costs)
        job = prepare(place, Path("never"), sets, options)
        compile_kernel(job)
        return cls(job, open_store(place, job.store_version))

    def stream(self, symbol: int, lanes: int, wants: Sequence[str] = ()) -> Stream:
        """Fresh kernel and accounts for `lanes` series that the symbol at that position could have had."""
        return Stream(self.job, Partition(0, (symbol,) * lanes, (0, len(self.job.sets))), self.store, wants)

    def bars(self, symbol: int, wants: Sequence[str] = (), at_most: int | None = None) -> Slab:
        """The present bars of the symbol at that position, the first `at_most` of them; fields are [1, bars]."""
        slabs = self.stream(symbol, 1, wants).slabs
        ts, fields, n = [], [], 0
        for start in range(0, self.store.info.n_bars, slabs.slab_bars):
            slab = slabs.read(start)
            present = ~np.isnan(slab.fields["close"][0])
            ts.append(slab.ts[present])
            fields.append({name: values[:, present] for name, values in slab.fields.items()})
            n += int(present.sum())
            if at_most is not None and n >= at_most:
                break
        found = {name: np.concatenate([one[name] for one in fields], axis=1)[:, :at_most] for name in fields[0]}
        return Slab(np.concatenate(ts)[:at_most], found)

    def play(self, stream: Stream, slab: Slab, sink: Sink) -> None:
        """All bars through the stream, which is a fresh one with as many lanes as the slab has rows."""
        for ts, block in self._blocks(slab):
            stream.advance(ts, block, sink)

    def _blocks(self, slab: Slab) -> Iterator[tuple[I64, dict[str, F64]]]:
        lanes = slab.fields["close"].shape[0]
        room = SIGNAL_BYTES // (8 * lanes * len(self.job.sets))
        yield from slab.blocks(max(1, min(self.job.plan.block_bars, room)))
