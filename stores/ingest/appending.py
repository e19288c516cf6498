"""New rows into a store that is there: what it lacks is added, what it has is compared, what differs is refused."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from atc_backtest.errors import DataError
from atc_backtest.stores.base import F64, I64, Store, WritableStore
from atc_backtest.stores.checks import as_stored
from atc_backtest.stores.ingest.cleaning import Series
from atc_backtest.stores.ingest.driver import Gathered, gathered
from atc_backtest.stores.ingest.options import IngestOptions
from atc_backtest.stores.ingest.reading import Progress
from atc_backtest.stores.ingest.report import AppendedSymbol, AppendReport
from atc_backtest.stores.ingest.rules import Mask, show_time
from atc_backtest.stores.ingest.writing import block_of, shared_axis
from atc_backtest.stores.zarr_store import open_store

SHOWN = 20
"""Disagreements that a refusal names; the others are counted."""

FEW_ROWS = 3
"""Rows of a symbol that are too few to tell its bar size, so that whole bars between them will do."""


def append(
    sources: Sequence[Path],
    store: Path,
    options: IngestOptions | None = None,
    correct: bool = False,
    progress: Progress | None = None,
) -> AppendReport:
    """Add to `store` the rows of `sources` that it lacks: later bars, new symbols, bars it misses.

    Rows are read by the rules of `ingest`; bars of the store's size only. Those that the store has already are
    compared in every field: equal ones are counted, others refuse the whole, or with `correct` replace what is
    there. One new version, or none where nothing is new. Memory: as `ingest`, and the store's time axis.

    Raises `DataError` for sources that are refused or disagree, `StoreError` where the store cannot be written.
    """
    began = time.perf_counter()
    opened = open_store(store)
    options = replace(options or IngestOptions(), bar=opened.info.bar_ns)
    with gathered(sources, store, options, progress, opened.info.fields, FEW_ROWS) as found:
        comparison = _Comparison(opened, found)
        comparison.run()
        if comparison.n_different and not correct:
            raise DataError(comparison.refusal(store))
        before = opened.info.version
        if comparison.work:
            write(opened, comparison)
    counts = {one.name: counts for one, counts in zip(comparison.series, comparison.counts.tolist(), strict=True)}
    symbols = tuple(AppendedSymbol(symbol, *counts.get(symbol.name, (0, 0, 0))) for symbol in found.symbols)
    seconds = time.perf_counter() - began
    after = opened.info
    return AppendReport(
        store, before, after.version, after.bar_ns, after.n_bars, symbols, tuple(found.notes), found.files, seconds
    )


def write(opened: WritableStore, comparison: _Comparison) -> None:
    """The only place that writes: new times first, then the blocks that bring something, in one commit."""
    with opened.writing("append --correct" if comparison.n_different else "append") as writer:
        writer.add_times(comparison.new_times)
        for ts, symbols, blocks in comparison.changes():
            writer.merge(ts, symbols, blocks)


@dataclass(frozen=True)
class Place:
    """One block of the comparison: series [first, stop), given times [start, end), rows of each taken before."""

    symbols: tuple[int, int]
    times: tuple[int, int]
    read: tuple[int, ...]


@dataclass
class _Comparison:
    """Given series against a store, a chunk of symbols x a chunk of bars at a time.

    counts  int64 [series, 3]: identical, new and different bars
    work    the blocks that bring something
    """

    store: Store
    found: Gathered
    series: list[Series] = field(init=False)
    counts: I64 = field(init=False)
    work: list[Place] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        info = self.store.info
        row_of = {symbol.name: row for row, symbol in enumerate(info.symbols)}
        new = [one.name for one in self.found.series if one.name not in row_of]
        row_of |= {name: len(row_of) + i for i, name in enumerate(new)}
        self.series = sorted(self.found.series, key=lambda one: row_of[one.name])
        self.counts = np.zeros((len(self.series), 3), dtype=np.int64)
        self._rows = np.array([row_of[one.name] for one in self.series], dtype=np.int64)
        self._axis = self.store.ts(0, info.n_bars)
        self._given = shared_axis(self.series, self.found.spool.dtype)
        self._at = np.searchsorted(self._axis, self._given)
        held = np.zeros(self._given.size, dtype=np.bool_)
        inside = self._at < self._axis.size
        held[inside] = self._axis[self._at[inside]] == self._given[inside]
        self._held = held

    @property
    def new_times(self) -> I64:
        return self._given[~self._held]

    @property
    def n_different(self) -> int:
        return int(self.counts[:, 2].sum())

    def run(self) -> None:
        """Compare everything."""
        for place, given, stored in self._blocks():
            identical, new, different = _sorted_out(given, stored)
            rows = slice(*place.symbols)
            self.counts[rows] += np.stack([hit.sum(axis=1) for hit in (identical, new, different)], axis=1)
            if new.any() or different.any():
                self.work.append(place)
            for i, j in np.argwhere(different)[: max(SHOWN - len(self.lines), 0)].tolist():
                ts = int(self._given[place.times[0] + j])
                self.lines += self._lines(self.series[place.symbols[0] + i].name, ts, given[:, i, j], stored[:, i, j])

    def changes(self) -> Iterator[tuple[I64, list[str], dict[str, F64]]]:
        """What there is to write, in the order of `run`: times, symbols, and blocks with what is new or different."""
        for place in self.work:
            given = self._given_block(place, list(place.read))
            _, new, different = _sorted_out(given, self._stored_block(place, given.shape))
            bring = new | different
            rows, columns = bring.any(axis=1), bring.any(axis=0)
            given[:, ~bring] = np.nan
            part = np.ascontiguousarray(given[:, rows][:, :, columns])
            names = [self.series[place.symbols[0] + i].name for i in np.flatnonzero(rows).tolist()]
            ts = self._given[slice(*place.times)][columns]
            yield ts, names, dict(zip(self.found.fields, part, strict=True))

    def refusal(self, store: Path) -> str:
        """What a user needs to decide."""
        n, more = self.n_different, self.n_different - min(self.n_different, SHOWN)
        symbols = int((self.counts[:, 2] > 0).sum())
        shown = "".join(f"\n  {line}" for line in self.lines) + (f"\n  and {more:,} bars more" if more else "")
        return (
            f"{n:,} bar{'s' if n > 1 else ''} of {symbols} symbol{'s' if symbols > 1 else ''} disagree with {store}; "
            f"nothing was written.{shown}\nMend the sources, or write what they say over it with --correct."
        )

    def _lines(self, name: str, ts: int, given: F64, stored: F64) -> list[str]:
        fields = zip(self.found.fields, stored.tolist(), given.tolist(), strict=True)
        said = [
            f"{key}: stored {_shown(a)}, given {_shown(b)}" for key, a, b in fields if a != b and (a == a or b == b)
        ]
        return [f"{name} at {show_time(ts)}  {'; '.join(said)}"]

    def _blocks(self) -> Iterator[tuple[Place, F64, F64]]:
        n_symbols, n_bars = self.store.info.chunk
        bars = (self._at + np.cumsum(~self._held)) // n_bars  # the chunk of each given time when all are in
        cuts = [0, *(np.flatnonzero(np.diff(bars)) + 1).tolist(), self._given.size]
        groups = [0, *(np.flatnonzero(np.diff(self._rows // n_symbols)) + 1).tolist(), len(self.series)]
        for first, stop in pairwise(groups):
            read = [0] * (stop - first)
            for start, end in pairwise(cuts):
                place = Place((first, stop), (start, end), tuple(read))
                given = self._given_block(place, read)
                if not np.isnan(given).all():
                    yield place, given, self._stored_block(place, given.shape)

    def _given_block(self, place: Place, read: list[int]) -> F64:
        group = self.series[slice(*place.symbols)]
        block = block_of(group, read, self._given[slice(*place.times)], len(self.found.fields), self.found.spool.dtype)
        if self.store.info.volume_bits is None:
            return block
        return np.stack(list(as_stored(self.store.info, dict(zip(self.found.fields, block, strict=True))).values()))

    def _stored_block(self, place: Place, shape: tuple[int, ...]) -> F64:
        """What the store has at a block's symbols and times, NaN where it has none: [fields, symbols, bars]."""
        block = np.full(shape, np.nan)
        rows = self._rows[slice(*place.symbols)]
        known = np.flatnonzero(rows < len(self.store.info.symbols))
        held = np.flatnonzero(self._held[slice(*place.times)])
        if known.size == 0 or held.size == 0:
            return block
        at = self._at[slice(*place.times)][held]
        symbols = (int(rows[known[0]]), int(rows[known[-1]]) + 1)
        bars = (int(at[0]), int(at[-1]) + 1)
        for i, name in enumerate(self.found.fields):
            stored = self.store.read(name, symbols, bars)
            block[i][np.ix_(known, held)] = stored[np.ix_(rows[known] - symbols[0], at - bars[0])]
        return block


def _sorted_out(given: F64, stored: F64) -> tuple[Mask, Mask, Mask]:
    """Bars [symbols, bars] that both have and agree on, that only the sources have, that both have and differ in."""
    have = np.asarray(~np.isnan(given)).any(axis=0)
    held = np.asarray(~np.isnan(stored)).any(axis=0)
    differ: Mask = ((given != stored) & ~(np.isnan(given) & np.isnan(stored))).any(axis=0)
    both = have & held
    return both & ~differ, np.asarray(have & ~held), both & differ


def _shown(value: float) -> str:
    return "missing" if value != value else repr(value)
