"""One partition: read a slab, advance the kernel, reduce to figures, write the parts. Streaming.

Nothing here grows with the number of bars: prices and signals live for one block, accounts and
kernel state are carried from slab to slab, saved series leave through their writers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atc_backtest.accounts import NEXT_OPEN, Bars, Rules, Saved, new_accounts
from atc_backtest.config import AtcConfig
from atc_backtest.errors import DataError, StoreError
from atc_backtest.execution import advance, open_trade
from atc_backtest.kernels import get_kernel
from atc_backtest.kernels.protocol import Outputs, Prices, State, warmup_bars
from atc_backtest.metrics import figures
from atc_backtest.pipelines.executors import Tick
from atc_backtest.pipelines.job import METRICS, Job, settings_of
from atc_backtest.pipelines.parts import (
    EQUITY_SCHEMA,
    SIGNALS_SCHEMA,
    PartWriter,
    commit_parts,
    schema_of,
    series_table,
    trades_table,
)
from atc_backtest.pipelines.plan import Partition
from atc_backtest.stores.base import Store
from atc_backtest.stores.opening import open_store

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Fields = dict[str, F64]

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
    stream = _Stream(job, partition, store)
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(PartWriter(job.part(name, partition.index), schema_of(job, name)))
            for name in (*job.save, METRICS)
        }
        symbol_bars = 0
        for start in range(0, store.info.n_bars, job.plan.slab_bars):
            stop = min(start + job.plan.slab_bars, store.info.n_bars)
            for ts, block in stream.blocks(start, stop):
                n_bars = stream.advance(ts, block, writers)
                symbol_bars += n_bars
                tick(n_bars)
        stream.finish(writers)
        commit_parts(job, partition.index, writers)
    return PartSummary(partition.index, symbol_bars)


class _Stream:
    """A partition's carried state: kernels, accounts, and the arrays that are filled again and again."""

    def __init__(self, job: Job, partition: Partition, store: Store) -> None:
        self._job = job
        self._symbols = partition.symbols
        self._store = store
        self._param_ids = range(*partition.sets)
        self._sets = [job.sets[p] for p in self._param_ids]
        has_open = "open" in store.info.fields
        self._rules = [Rules.of(run, warmup_bars(run.atc), has_open) for run in self._sets]
        fields = needed_fields(self._rules, [run.source for run in self._sets], job.save)
        self._fields = tuple(name for name in fields if name in store.info.fields)
        self._kernel = get_kernel(job.kernel)
        self._groups = [self._group(source) for source in dict.fromkeys(run.source for run in self._sets)]
        self._accounts = [new_accounts(rules, len(self._symbols)) for rules in self._rules]
        self._saved = Saved.room(job.plan.block_bars, trades="trades" in job.save)

    def _group(self, source: str) -> _Group:
        """The sets that average one source; equal indicators among them are computed once."""
        members = [i for i, run in enumerate(self._sets) if run.source == source]
        configs = list(dict.fromkeys(self._sets[i].atc for i in members))
        place = {config: at for at, config in enumerate(configs)}
        which = {i: place[self._sets[i].atc] for i in members}
        return _Group(source, tuple(configs), which, self._kernel.new_state(configs, len(self._symbols)))

    def blocks(self, start: int, stop: int) -> Iterator[tuple[I64, Fields]]:
        """Bars [start, stop), whole chunks read once, in blocks of the plan's size."""
        first, last = self._symbols[0], self._symbols[-1] + 1
        rows = np.array(self._symbols) - first
        slab = {}
        for name in self._fields:
            values = self._store.read(name, (first, last), (start, stop))
            slab[name] = values if rows.size == last - first else values[rows]
        ts = self._store.ts(start, stop)
        size = self._job.plan.block_bars
        for at in range(0, stop - start, size):
            cut = slice(at, min(at + size, stop - start))
            yield ts[cut], {name: np.require(values[:, cut], requirements=["C", "W"]) for name, values in slab.items()}

    def advance(self, ts: I64, block: Fields, writers: dict[str, PartWriter]) -> int:
        """One block through kernels and accounts; the present bars times sets that were done."""
        signals: dict[int, tuple[F64, int]] = {}
        for group in self._groups:
            outputs = Outputs.allocate(["signal"], len(group.configs), *block["close"].shape)
            self._kernel.advance(group.state, self._prices(group.source, ts, block), outputs)
            signals |= {i: (_signal(outputs), at) for i, at in group.which.items()}
        n_bars = 0
        for row, symbol in enumerate(self._symbols):
            present = np.flatnonzero(~np.isnan(block["close"][row]))
            if present.size == 0:
                continue
            bars, times = _pick(ts, block, row, present), ts[present]
            for i in range(len(self._sets)):
                values, at = signals[i]
                self._account(i, row, symbol, bars | {"signal": values[at, row][present]}, times, writers)
            n_bars += present.size * len(self._sets)
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

    def _account(self, i: int, row: int, symbol: int, bars: Fields, ts: I64, writers: dict[str, PartWriter]) -> None:
        given = {name: bars.get(name) for name in ("open", "high", "low")}
        block = Bars(ts=ts, close=bars["close"], signal=bars["signal"], **given)
        closed = advance(self._accounts[i][row], self._rules[i], block, self._saved)
        name, param_id = self._job.symbols[symbol], self._param_ids[i]
        n = ts.size
        if "trades" in writers and closed:
            writers["trades"].write(trades_table(name, param_id, self._saved.trades[:closed]))
        if "signals" in writers:
            columns: dict[str, Any] = {"ts": ts, "signal": bars["signal"], "position": self._saved.position[:n]}
            writers["signals"].write(series_table(SIGNALS_SCHEMA, name, param_id, columns))
        if "equity" in writers:
            equity = self._saved.equity[:n]
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


def _pick(ts: I64, block: Fields, row: int, present: NDArray[np.intp]) -> Fields:
    """One symbol's present bars of every field."""
    if present.size == ts.size:
        return {name: values[row] for name, values in block.items()}
    return {name: values[row][present] for name, values in block.items()}
