"""One partition: read a slab, advance the kernel, reduce to figures, write the parts. Streaming.

Nothing here grows with the number of bars: prices and signals live for one block, accounts and
kernel state are carried from slab to slab, saved series leave through their writers.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from atc_backtest.execution import open_trade
from atc_backtest.metrics import figures
from atc_backtest.periods import end_period
from atc_backtest.pipelines.accounting import Advanced
from atc_backtest.pipelines.executors import Tick
from atc_backtest.pipelines.job import METRICS, PERIODS, Job, settings_of
from atc_backtest.pipelines.parts import (
    EQUITY_SCHEMA,
    SIGNALS_SCHEMA,
    PartWriter,
    commit_parts,
    periods_table,
    schema_of,
    series_table,
    trades_table,
)
from atc_backtest.pipelines.plan import Partition, chunk_blocks
from atc_backtest.pipelines.runs import prices_of
from atc_backtest.pipelines.stream import BY_ROW, Stream
from atc_backtest.stores.base import Store


@dataclass(frozen=True)
class PartSummary:
    """What comes back of a partition: small, the results themselves are on disk."""

    index: int
    symbol_bars: int
    """Present bars, each counted once per parameter set."""


def run_partition(job: Job, partition: Partition, tick: Tick) -> PartSummary:
    """Compute and commit every part of `partition`, all at once.

    It reads the version that the run began with, also when the store has gone on since. Raises `StoreError`
    when that version is no longer kept, or another store is there now.
    """
    store = prices_of(job)
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(PartWriter(job.part(name, partition.index), schema_of(job, name)))
            for name in (*job.save, METRICS)
        }
        blocks = chunk_blocks(partition.symbols, store.info.chunk[0])
        symbol_bars = sum(_run_block(job, replace(partition, symbols=block), store, writers, tick) for block in blocks)
        commit_parts(job, partition.index, writers)
    return PartSummary(partition.index, symbol_bars)


def _run_block(job: Job, block: Partition, store: Store, writers: dict[str, PartWriter], tick: Tick) -> int:
    """A partition's symbols of one chunk from first bar to last; present bars times sets. Nothing of it is kept."""
    stream = Stream(job, block, store, job.save)
    saver = _Saver(job, block, stream, writers)
    symbol_bars = 0
    with stream.blocks() as blocks:
        for ts, fields in blocks:
            n_bars = stream.advance(ts, fields, saver)
            symbol_bars += n_bars
            tick(n_bars)
    saver.finish()
    return symbol_bars


class _Saver:
    """What a stream's room holds, to the writers of the parts; figures at the end."""

    def __init__(self, job: Job, partition: Partition, stream: Stream, writers: dict[str, PartWriter]) -> None:
        self._job = job
        self._param_ids = range(*partition.sets)
        self._stream = stream
        self._writers = writers
        self._names = [job.symbols[symbol] for symbol in partition.symbols]

    def __call__(self, rows: slice, at: int, found: Advanced) -> None:
        """Hand what the room holds to the writers, copied: they keep rows for longer than the room does."""
        param_id = self._param_ids[at]
        if PERIODS in self._writers and found.periods:
            ended = self._stream.room.ended[: found.periods]
            self._writers[PERIODS].write(periods_table(self._names[rows], param_id, ended))
        if found.bars and self._writers.keys() & BY_ROW:
            self._save_series(self._names[rows.start], param_id, found)

    def _save_series(self, name: str, param_id: int, found: Advanced) -> None:
        writers, room, n, closed = self._writers, self._stream.room, found.bars, found.trades
        ts, position, equity = room.ts[:n].copy(), room.saved.position[:n].copy(), room.saved.equity[:n]
        if "trades" in writers and closed:
            writers["trades"].write(trades_table(name, param_id, room.saved.trades[:closed]))
        if "signals" in writers:
            columns: dict[str, Any] = {"ts": ts, "signal": room.signal[:n].copy(), "position": position}
            writers["signals"].write(series_table(SIGNALS_SCHEMA, name, param_id, columns))
        if "equity" in writers:
            counted = ~np.isnan(equity)
            columns = {"ts": ts[counted], "equity": equity[counted]}
            writers["equity"].write(series_table(EQUITY_SCHEMA, name, param_id, columns))

    def finish(self) -> None:
        """Open trades and the figures, a row per symbol and set, sorted by symbol, then set."""
        stream, writers = self._stream, self._writers
        if PERIODS in writers:
            self._finish_periods(writers[PERIODS])
        rows = []
        varying = [{key: settings[key] for key in self._job.varying} for settings in map(settings_of, stream.sets)]
        for row, name in sorted(enumerate(self._names), key=lambda pair: pair[1]):
            for i, param_id in enumerate(self._param_ids):
                found = figures(stream.accounts[i][row], stream.rules[i], self._job.bars_per_year[param_id])
                rows.append({"symbol": name, "param_id": param_id} | found | varying[i])
            if "trades" in writers:
                still = [open_trade(accounts[row]) for accounts in stream.accounts]
                param_ids = np.repeat(self._param_ids, list(map(len, still)))
                writers["trades"].write(trades_table(name, param_ids, np.concatenate(still)))
        writers[METRICS].write(pa.Table.from_pylist(rows, schema=schema_of(self._job, METRICS)))

    def _finish_periods(self, writer: PartWriter) -> None:
        """The periods that the last bars are in."""
        stream = self._stream
        for accounts, periods, param_id in zip(stream.accounts, stream.periods, self._param_ids, strict=True):
            begun = np.flatnonzero(periods["n_bars"])
            for row in begun:
                end_period(periods[row], accounts[row])
            periods["row"] = np.arange(len(self._names))
            writer.write(periods_table(self._names, param_id, periods[begun]))
