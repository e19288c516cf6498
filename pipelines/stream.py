"""A partition's bars through kernel and accounts, block by block, whoever takes what comes out.

Nothing here grows with the number of bars: signals live for one block, accounts and kernel state are carried.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import numpy as np

from atc_backtest.accounts import NEXT_OPEN, Rules, new_accounts
from atc_backtest.config import AtcConfig
from atc_backtest.errors import DataError
from atc_backtest.kernels import get_kernel
from atc_backtest.kernels.protocol import Outputs, PriceError, Prices, State, warmup_bars
from atc_backtest.periods import new_periods, period_starts
from atc_backtest.pipelines.accounting import NO_PERIODS, Advanced, Periods, Room, advance_block
from atc_backtest.pipelines.job import PERIODS, SERIES, Job
from atc_backtest.pipelines.plan import Partition
from atc_backtest.pipelines.slabs import F64, I64, Fields, Slabs
from atc_backtest.stores.base import Store
from atc_backtest.symbol_costs import charges_of

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

EXPOSURE = "exposure"
LAYERS = "layers"

BY_ROW = frozenset({*SERIES, EXPOSURE, LAYERS}) - {PERIODS}
"""Series of one symbol's bars or trades: its block is taken before the next one's is computed."""


def needed_fields(sets: Sequence[Rules], sources: Sequence[str], save: Collection[str]) -> tuple[str, ...]:
    """The store's fields that a run reads, in the store's order."""
    wanted = {"close"} | {name for source in sources for name in SOURCE_FIELDS[source]}
    if any(rules.fill == NEXT_OPEN for rules in sets):
        wanted.add("open")
    if "trades" in save:
        wanted |= {"high", "low"}
    if any(rules.stops for rules in sets):
        wanted |= {"open", "high", "low"}
    return tuple(name for name in ("open", "high", "low", "close") if name in wanted)


Sink = Callable[[slice, int, Advanced], None]
"""Takes what the room of a stream holds: rows of the block, the set by its place in the partition, how much it is."""


class Stream:
    """A partition's carried state: kernels, accounts, and the arrays that are filled again and again.

    `wants`: what the sink takes of each symbol's block, by the names in `SERIES`, or `EXPOSURE`, or
    `LAYERS`: then `layers` holds, by set, layer-1 signals and layer-2 equities of the block, [symbols, 6, bars].
    """

    def __init__(self, job: Job, partition: Partition, store: Store, wants: Collection[str]) -> None:
        self._job = job
        self._wants = frozenset(wants)
        self.symbols = partition.symbols
        self.sets = tuple(job.sets[p] for p in range(*partition.sets))
        has_open = "open" in store.info.fields
        self.rules = [Rules.of(run, warmup_bars(run.atc), has_open, store.info.bar_ns) for run in self.sets]
        fields = needed_fields(self.rules, [run.source for run in self.sets], wants)
        fields = tuple(name for name in fields if name in store.info.fields)
        self.slabs = Slabs(store, partition.symbols, fields, job.plan.slab_bars)
        self._kernel = get_kernel(job.kernel)
        self._filled: dict[str, Outputs] = {}
        self._groups = [self._group(source) for source in dict.fromkeys(run.source for run in self.sets)]
        names = [job.symbols[symbol] for symbol in self.symbols]
        self.accounts = [
            new_accounts(rules, len(names), charges_of(job.costs, names, run.execution))
            for rules, run in zip(self.rules, self.sets, strict=True)
        ]
        self.room = Room.of(job.plan.block_bars, "trades" in wants, EXPOSURE in wants, PERIODS in wants)
        self.layers: dict[int, tuple[F64, F64]] = {}
        self.periods = [new_periods(len(self.symbols)) for _ in self.rules]

    def _group(self, source: str) -> _Group:
        """The sets that average one source; equal indicators among them are computed once."""
        members = [i for i, run in enumerate(self.sets) if run.source == source]
        configs = list(dict.fromkeys(self.sets[i].atc for i in members))
        place = {config: at for at, config in enumerate(configs)}
        which = {i: place[self.sets[i].atc] for i in members}
        return _Group(source, tuple(configs), which, self._kernel.new_state(configs, len(self.symbols)))

    @contextmanager
    def blocks(self) -> Iterator[Iterator[tuple[I64, Fields]]]:
        """All bars in time order, as `advance` takes them; a slab is read ahead where the plan says so."""
        with self.slabs.reading(self._job.plan.prefetch) as slabs:
            yield chain.from_iterable(slab.blocks(self._job.plan.block_bars) for slab in slabs)

    def advance(self, ts: I64, block: Fields, sink: Sink) -> int:
        """One block through kernels and accounts; the present bars times sets that were done."""
        signals: dict[int, tuple[F64, int]] = {}
        for group in self._groups:
            outputs = self._outputs(group, block["close"].shape)
            self._kernel.advance(group.state, self._prices(group.source, ts, block), outputs)
            if outputs.layer1 is not None and outputs.equity2 is not None:
                self.layers |= {i: (outputs.layer1[at], outputs.equity2[at]) for i, at in group.which.items()}
            signals |= {i: (_signal(outputs), at) for i, at in group.which.items()}
        given = {name: block[name] for name in ("close", "open", "high", "low") if name in block}
        starts = period_starts(ts, self._job.period) if PERIODS in self._wants else NO_PERIODS.starts
        n_bars = 0
        for row in self._rows(starts):
            for i in range(len(self.sets)):
                values, at = signals[i]
                found = advance_block(
                    self.accounts[i][row],
                    self.rules[i],
                    ts,
                    {name: values[row] for name, values in given.items()},
                    values[at, row],
                    self.room,
                    Periods(self.periods[i][row], starts),
                )
                n_bars += found.bars
                sink(row, i, found)
        return n_bars

    def _outputs(self, group: _Group, shape: tuple[int, ...]) -> Outputs:
        """The group's arrays of the block before, or others where this one has another shape: never both at once."""
        expected = (len(group.configs), *shape)
        if group.source not in self._filled or _signal(self._filled[group.source]).shape != expected:
            self._filled.pop(group.source, None)
            names = ["signal", "layer1", "equity2"] if LAYERS in self._wants else ["signal"]
            self._filled[group.source] = Outputs.allocate(names, *expected)
        return self._filled[group.source]

    def _rows(self, starts: I64) -> list[slice]:
        """Symbols that go through the accounts in one call: one where series are saved, as many as have room else."""
        n = len(self.symbols)
        step = 1 if self._wants & BY_ROW else max(1, self.room.ended.size // starts.size) if starts.size else n
        return [slice(first, min(first + step, n)) for first in range(0, n, step)]

    def _prices(self, source: str, ts: I64, block: Fields) -> Prices:
        try:
            if source == "close":
                return Prices(block["close"])
            names = SOURCE_FIELDS[source]
            total = block[names[0]]
            for name in names[1:]:
                total = total + block[name]
            return Prices(block["close"], total / len(names))
        except PriceError as error:
            name, when = self._job.symbols[self.symbols[error.symbol]], np.datetime64(int(ts[error.bar]), "ns")
            raise DataError(
                f"{self._job.store}: {name} has the {error.name} {error.value!r} at {when}, which is no price: correct "
                "it by `atc-backtest append --correct`, or leave the symbol out by --symbols."
            ) from error


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
