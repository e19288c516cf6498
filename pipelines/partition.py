"""One partition: read a slab, advance the kernel, reduce to figures, write the parts. Streaming.

Nothing here grows with the number of bars: prices and signals live for one block, accounts and
kernel state are carried from slab to slab, saved series leave through their writers.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from atc_backtest.accounts import NEXT_OPEN, Rules, new_accounts
from atc_backtest.config import AtcConfig
from atc_backtest.errors import DataError, StoreError
from atc_backtest.execution import open_trade
from atc_backtest.kernels import get_kernel
from atc_backtest.kernels.protocol import Outputs, Prices, State, warmup_bars
from atc_backtest.metrics import figures
from atc_backtest.pipelines.accounting import Room, advance_block
from atc_backtest.pipelines.executors import Tick
from atc_backtest.pipelines.job import METRICS, SERIES, Job, settings_of
from atc_backtest.pipelines.parts import (
    EQUITY_SCHEMA,
    SIGNALS_SCHEMA,
    PartWriter,
    commit_parts,
    schema_of,
    series_table,
    trades_table,
)
from atc_backtest.pipelines.plan import Partition, chunk_blocks
from atc_backtest.pipelines.slabs import F64, I64, Fields, Slabs
from atc_backtest.stores.base import Store
from atc_backtest.stores.opening import open_store

SOURCE_FIELDS = {
    "close": ("close",),
    "open": ("open",),
    "high": ("high",),
    "low": ("low",),
    "hl2": ("high", "low"),
    "hlc3": ("high", "low", "close"),
    "ohlc4": ("open", "high", "low", "close"),
}
"""What is averaged -> the fields it is the mean of, added in this order."""


@dataclass(frozen=True)
class PartSummary:
    """What comes back of a partition: small, the results themselves are on disk."""

    index: int
    symbol_bars: int
    """Present bars, each counted once per parameter set."""


def needed_fields(sets: Sequence[Rules], sources: Sequence[str], save: Sequence[str]) -> tuple[str, ...]:
    """The store's fields that a run reads, in the store's order."""
    wanted = {"close"} | {name for source in sources for name in SOURCE_FIELDS[source]}
    if any(rules.fill == NEXT_OPEN for rules in sets):
        wanted.add("open")
    if "trades" in save:
        wanted |= {"high", "low"}
    return tuple(name for name in ("open", "high", "low", "close") if name in wanted)


def run_partition(job: Job, partition: Partition, tick: Tick) -> PartSummary:
    """Compute and commit every part of `partition`, all at once.

    It reads the version that the run began with, also when the store has gone on since. Raises `StoreError`
    when that version is no longer kept, or another store is there now.
    """
    store = open_store(job.store, job.store_version)
    if store.info.id != job.store_id:
        raise StoreError(
            f"{job.store} is another store than the one the run began with: a run over changed prices would mix both. "
            "Start a new run."
        )
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
    stream = _Stream(job, block, store)
    symbol_bars = 0
    with stream.slabs.reading(job.plan.prefetch) as slabs:
        for ts, fields in chain.from_iterable(slab.blocks(job.plan.block_bars) for slab in slabs):
            n_bars = stream.advance(ts, fields, writers)
            symbol_bars += n_bars
            tick(n_bars)
    stream.finish(writers)
    return symbol_bars


class _Stream:
    """A partition's carried state: kernels, accounts, and the arrays that are filled again and again."""

    def __init__(self, job: Job, partition: Partition, store: Store) -> None:
        self._job = job
        self._symbols = partition.symbols
        self._param_ids = range(*partition.sets)
        self._sets = [job.sets[p] for p in self._param_ids]
        has_open = "open" in store.info.fields
        self._rules = [Rules.of(run, warmup_bars(run.atc), has_open) for run in self._sets]
        fields = needed_fields(self._rules, [run.source for run in self._sets], job.save)
        fields = tuple(name for name in fields if name in store.info.fields)
        self.slabs = Slabs(store, partition.symbols, fields, job.plan.slab_bars)
        self._kernel = get_kernel(job.kernel)
        self._groups = [self._group(source) for source in dict.fromkeys(run.source for run in self._sets)]
        self._accounts = [new_accounts(rules, len(self._symbols)) for rules in self._rules]
        self._room = Room.of(job.plan.block_bars, trades="trades" in job.save)

    def _group(self, source: str) -> _Group:
        """The sets that average one source; equal indicators among them are computed once."""
        members = [i for i, run in enumerate(self._sets) if run.source == source]
        configs = list(dict.fromkeys(self._sets[i].atc for i in members))
        place = {config: at for at, config in enumerate(configs)}
        which = {i: place[self._sets[i].atc] for i in members}
        return _Group(source, tuple(configs), which, self._kernel.new_state(configs, len(self._symbols)))

    def advance(self, ts: I64, block: Fields, writers: dict[str, PartWriter]) -> int:
        """One block through kernels and accounts; the present bars times sets that were done."""
        signals: dict[int, tuple[F64, int]] = {}
        for group in self._groups:
            outputs = Outputs.allocate(["signal"], len(group.configs), *block["close"].shape)
            self._kernel.advance(group.state, self._prices(group.source, ts, block), outputs)
            signals |= {i: (_signal(outputs), at) for i, at in group.which.items()}
        given = {name: block[name] for name in ("close", "open", "high", "low") if name in block}
        rows = [slice(row, row + 1) for row in range(len(self._symbols))] if writers.keys() & SERIES else [slice(None)]
        n_bars = 0
        for row in rows:
            for i in range(len(self._sets)):
                values, at = signals[i]
                n, closed = advance_block(
                    self._accounts[i][row],
                    self._rules[i],
                    ts,
                    {name: values[row] for name, values in given.items()},
                    values[at, row],
                    self._room,
                )
                n_bars += n
                if n and row.start is not None:
                    self._save(self._symbols[row.start], self._param_ids[i], (n, closed), writers)
        return n_bars

    def _prices(self, source: str, ts: I64, block: Fields) -> Prices:
        try:
            if source == "close":
                return Prices(block["close"])
            names = SOURCE_FIELDS[source]
            total = block[names[0]]
            for name in names[1:]:
                total = total + block[name]
            return Prices(block["close"], total / len(names))
        except DataError as error:
            whom = f"{self._job.symbols[self._symbols[0]]} .. {self._job.symbols[self._symbols[-1]]}"
            when = np.datetime64(int(ts[0]), "ns")
            raise DataError(f"{self._job.store}, symbols {whom}, block from {when}: {error}") from error

    def _save(self, symbol: int, param_id: int, found: tuple[int, int], writers: dict[str, PartWriter]) -> None:
        """Hand the room's last row to the writers, copied: they keep rows for longer than the room does."""
        (n, closed), room, name = found, self._room, self._job.symbols[symbol]
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

    def finish(self, writers: dict[str, PartWriter]) -> None:
        """Open trades and the figures, a row per symbol and set, sorted by symbol, then set."""
        rows = []
        names = self._job.varying
        varying = [{key: settings[key] for key in names} for settings in map(settings_of, self._sets)]
        for row, symbol in sorted(enumerate(self._symbols), key=lambda pair: self._job.symbols[pair[1]]):
            name = self._job.symbols[symbol]
            for i, param_id in enumerate(self._param_ids):
                account = self._accounts[i][row]
                if "trades" in writers:
                    writers["trades"].write(trades_table(name, param_id, open_trade(account)))
                found = figures(account, self._rules[i], self._job.bars_per_year[param_id])
                rows.append({"symbol": name, "param_id": param_id} | found | varying[i])
        writers[METRICS].write(pa.Table.from_pylist(rows, schema=schema_of(self._job, METRICS)))


@dataclass(frozen=True)
class _Group:
    source: str
    configs: tuple[AtcConfig, ...]
    which: dict[int, int]
    """Set in the partition -> its indicator in `configs`."""
    state: State


def _signal(outputs: Outputs) -> F64:
    assert outputs.signal is not None  # asked for in `advance`
    return outputs.signal
