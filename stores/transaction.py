"""The next version of a store in the making: `Writer` over any folder.

Objects of the version are written as the calls come, under names that carry its number; the manifest that
names them comes last. Until then they are nobody's, whatever happens to the writer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from atc_backtest.errors import StoreError
from atc_backtest.stores.axis import Axis, Indices
from atc_backtest.stores.base import F64, I64, Blocks, StoreInfo, SymbolInfo
from atc_backtest.stores.checks import as_stored, check_later, check_shapes, check_times, check_values
from atc_backtest.stores.counting import Change, change, counted_again
from atc_backtest.stores.folder import Data, Folder
from atc_backtest.stores.layout import (
    CHUNK_SYMBOLS,
    HISTORY,
    HISTORY_BARS,
    TAIL,
    TAIL_BARS,
    TS_BARS,
    Array,
    chunk_key,
    chunk_symbols,
    object_name,
)
from atc_backtest.stores.manifest import (
    ABSENT,
    Band,
    Grid,
    Manifest,
    Object,
    checksum,
    commit,
    read_manifest,
)
from atc_backtest.stores.reading import TIMES, Version, check_range

CODING_THREADS = 2
"""Chunks coded at a time: each needs a few times its decoded size."""


@dataclass(frozen=True)
class _Cells:
    """What a call brings: `blocks` [symbols, bars] for rows and bars of the store; `bars` ascend."""

    rows: Indices
    bars: Indices
    ts: I64
    blocks: Blocks
    keep: bool
    """Whether what was there stays where the blocks have no bar."""


@dataclass(frozen=True)
class Piece:
    """Bars of a source, and where in a chunk they go."""

    bars: tuple[int, int]
    into: slice | Indices


class Transaction:
    """`Writer`. `commit` or `abort` ends it; the caller holds the folder's lock."""

    def __init__(self, folder: Folder, base: Manifest) -> None:
        self._folder = folder
        self._base = base
        self._info = replace(base.info, version=base.info.version + 1)
        self._bands = base.bands
        self._ts = base.ts.resized(*base.ts.versions.shape)
        self._symbols = {symbol.name: symbol for symbol in base.info.symbols}
        self._at = {name: row for row, name in enumerate(self._symbols)}
        self._recount: set[int] = set()
        self._put: dict[str, int] = {}
        self._emptied: set[str] = set()
        self._changed = False
        self._final = False
        self._version = Version(folder, self._manifest())
        self._axis = Axis(self._version)

    @property
    def info(self) -> StoreInfo:
        return replace(self._info, symbols=tuple(self._symbols.values()))

    def ts(self, start: int, stop: int) -> I64:
        check_range("bars", (start, stop), self._info.n_bars)
        return self._axis.times(start, stop)

    def read(self, field: str, symbols: tuple[int, int], bars: tuple[int, int]) -> F64:
        return self._version.read(field, symbols, bars)

    def add_times(self, ts: I64) -> None:
        check_times(ts)
        between, later = self._axis.new(ts)
        if between.size:
            self._insert(between)
        if later.size:
            self._extend(later)

    def append(self, ts: I64, symbols: Sequence[str], blocks: Blocks) -> None:
        check_times(ts)
        check_shapes(self._info.fields, ts, symbols, blocks)
        check_later(ts, self._axis.last)
        check_values(ts, symbols, blocks)
        blocks = as_stored(self._info, blocks)
        if ts.size == 0:
            return
        rows = self._rows(symbols)
        first = self._info.n_bars
        self._extend(ts)
        self._write(_Cells(rows, np.arange(first, first + ts.size), ts, blocks, keep=True))

    def merge(self, ts: I64, symbols: Sequence[str], blocks: Blocks) -> None:
        check_times(ts)
        check_shapes(self._info.fields, ts, symbols, blocks)
        check_values(ts, symbols, blocks)
        blocks = as_stored(self._info, blocks)
        rows = self._rows(symbols)
        self.add_times(ts)
        self._write(_Cells(rows, self._axis.find(ts), ts, blocks, keep=True))

    def correct(self, ts: I64, symbols: Sequence[str], blocks: Blocks) -> None:
        check_times(ts)
        check_shapes(self._info.fields, ts, symbols, blocks)
        check_values(ts, symbols, blocks)
        blocks = as_stored(self._info, blocks)
        bars = self._axis.find(ts)
        self._write(_Cells(self._rows(symbols), bars, ts, blocks, keep=False))

    def place(self, symbols: tuple[int, int], bars: tuple[int, int], blocks: Blocks) -> None:
        """Cells of a new store by position; see `building.StoreWriter`."""
        ts = self.ts(*bars)
        names = list(self._symbols)[slice(*symbols)]
        check_shapes(self._info.fields, ts, names, blocks)
        blocks = as_stored(self._info, blocks)
        self._write(_Cells(np.arange(*symbols), np.arange(*bars), ts, blocks, keep=False))

    def start(self, symbols: Sequence[SymbolInfo], ts: I64) -> None:
        """Symbols and axis of a new store, full chunks of bars in the history from the start."""
        self._rows([symbol.name for symbol in symbols])
        self._symbols = {symbol.name: symbol for symbol in symbols}
        if ts.size:
            self._extend(ts, history=ts.size if self._info.kind == "memmap" else ts.size // HISTORY_BARS * HISTORY_BARS)

    # Committing

    def commit(self, what: str, always: bool = False) -> Manifest:
        """Everything reaches the disk, then the manifest counts. The base where nothing changed, unless `always`."""
        self._count_again()
        self._write_axis()
        manifest = self._manifest()
        if not (self._changed or always):
            return self._base
        from atc_backtest.stores.zarr_view import documents  # Zarr takes long to import, and readers do without it

        named = dict(self._base.documents)
        found = documents(manifest)
        for key, data in found.items():
            if key not in named or (named[key].size, named[key].crc32c) != (len(data), checksum(data)):
                named[key] = self._put_object(key, data)
        manifest = replace(manifest, documents={key: named[key] for key in found})
        self._folder.remove(self._emptied)
        return commit(self._folder, self._base, manifest, what, sum(self._put.values()), self._sealed)

    def _sealed(self) -> None:
        self._final = True

    def abort(self) -> None:
        """Remove what was written, unless it came to count, or another writer's version of that number did."""
        with contextlib.suppress(StoreError):
            if not self._final or read_manifest(self._folder).info.version < self._info.version:
                self._folder.remove(self._put)

    def _manifest(self) -> Manifest:
        info = replace(self.info, history_bars=next((b.stop for b in self._bands if b.name == HISTORY), 0))
        return replace(self._base, info=info, bands=self._bands, ts=self._ts)

    # Shape

    def _extend(self, ts: I64, history: int = 0) -> None:
        if not self._bands:
            chunk = chunk_symbols(len(self._symbols) or CHUNK_SYMBOLS, self._info.kind)
            long = HISTORY_BARS if self._info.kind == "zarr" else max(history, 1)
            self._info = replace(self._info, chunk=(chunk, HISTORY_BARS))
            empty: dict[str, Grid] = {}
            self._bands = (
                Band(HISTORY, 0, history, (chunk, long), empty),
                Band(TAIL, history, history, (chunk, TAIL_BARS), empty),
            )
        self._axis.extend(ts)
        self._grow()

    def _insert(self, new: I64) -> None:
        """Times between those of the axis: every chunk from there on is written anew, last one first."""
        source = self._version  # its grids are replaced below, not changed
        first, where = self._axis.insert(new)
        self._grow()
        for band in reversed(self._bands):
            for column in range(-(-(band.stop - band.start) // band.chunk[1]) - 1, -1, -1):
                start = band.start + column * band.chunk[1]
                if start + band.chunk[1] <= first:
                    break
                taken = slice(*np.searchsorted(where, [start, start + band.chunk[1]]))
                kept = max(0, first - start)
                pieces = (
                    Piece((start, start + kept), slice(kept)),
                    Piece((first + taken.start, first + taken.stop), where[taken] - start),
                )
                self.put_column(source, band, column, pieces)

    def _grow(self) -> None:
        """Grids of all arrays hold all bars and symbols; new cells are missing bars."""
        self._changed = True
        n_bars = self._axis.size
        self._info = replace(self._info, n_bars=n_bars)
        bands = []
        for band in self._bands:
            band = replace(band, stop=n_bars if band.name == TAIL else band.stop)
            shape = -(-len(self._symbols) // band.chunk[0]), -(-(band.stop - band.start) // band.chunk[1])
            names = [array.name for array in self._base.arrays]
            grids = {name: band.grids.get(name, Grid.empty(0, 0)).resized(*shape) for name in names}
            bands.append(replace(band, grids=grids))
        self._bands = tuple(bands)
        self._ts = self._ts.resized(1, -(-n_bars // TS_BARS))
        self._version = Version(self._folder, self._manifest())

    # Chunks moved as a whole

    @property
    def version(self) -> Version:
        """What the calls so far have made."""
        return self._version

    def use(self, bands: tuple[Band, ...]) -> None:
        """Cut the store anew; whoever asks for it puts every chunk that its grids lack."""
        self._bands = bands
        self._info = replace(self._info, chunk=(bands[0].chunk[0], HISTORY_BARS))
        self._grow()

    def put_column(self, source: Version, band: Band, column: int, pieces: Sequence[Piece]) -> None:
        """Chunks of one column of a band, all arrays and symbols, filled from another cut of the same prices."""
        band = next(mine for mine in self._bands if mine.name == band.name)
        rows = range(-(-len(source.info.symbols) // band.chunk[0]))
        _each([partial(self._put_from, source, band, row, column, pieces) for row in rows])

    def _put_from(self, source: Version, band: Band, row: int, column: int, pieces: Sequence[Piece]) -> None:
        rows = row * band.chunk[0], min((row + 1) * band.chunk[0], len(source.info.symbols))
        for array in self._base.arrays:
            chunk = np.full((len(array.fields), *band.chunk), np.nan)
            for f, name in enumerate(array.fields):
                for piece in pieces:
                    if piece.bars[0] < piece.bars[1]:
                        chunk[f][: rows[1] - rows[0], piece.into] = source.read(name, rows, piece.bars)
            self._put_chunk(band, array, row, column, chunk)

    def put_raw(self, band: Band, array: Array, row: int, pieces: Iterable[tuple[int, Data]]) -> None:
        """A chunk of a store that is not coded, too large to be held: (offset, bytes) pieces that fill it."""
        key, size = chunk_key(band.name, array, row, 0), 8 * band.chunk[0] * band.chunk[1]
        name = object_name(key, self._info.version)
        self._folder.put_pieces(name, size, pieces)
        self._put[name] = size
        band.grids[array.name].put(row, 0, Object(self._info.version, size, checksum(self._folder.map(name))))

    # Symbols and cells

    def _rows(self, symbols: Sequence[str]) -> Indices:
        new = [name for name in symbols if name not in self._at]
        for name in new:
            self._at[name] = len(self._symbols)
            self._symbols[name] = SymbolInfo(name, 0, 0, 0)
        if new:
            self._grow()
        return np.array([self._at[name] for name in symbols], dtype=np.intp)

    def _write(self, cells: _Cells) -> None:
        work: list[Callable[[], Change | None]] = []
        for band in self._bands:
            low, high = np.searchsorted(cells.bars, [band.start, band.stop])
            if low == high:
                continue
            columns = (cells.bars[low:high] - band.start) // band.chunk[1]
            for row in np.unique(cells.rows // band.chunk[0]):
                inside = np.flatnonzero(cells.rows // band.chunk[0] == row)
                for column in np.unique(columns):
                    cut = slice(*(low + np.searchsorted(columns, [column, column + 1])))
                    work.append(partial(self._fill, cells, band, (int(row), int(column)), inside, cut))
        for done in _each(work):
            if done is not None:
                self._changed = True
                self._symbols |= {s.name: s for s in done.counted(list(self._symbols.values()))}
                self._recount |= set(done.rows[done.lost].tolist())

    def _fill(self, cells: _Cells, band: Band, at: tuple[int, int], inside: Indices, cut: slice) -> Change | None:
        """One chunk of every array, with the cells that lie in it: None where no bit changes."""
        rows = _dense(cells.rows[inside] - at[0] * band.chunk[0])
        bars = _dense(cells.bars[cut] - band.start - at[1] * band.chunk[1])
        given = {name: block[_dense(inside), cut] for name, block in cells.blocks.items()}
        present = ~np.isnan(given["close"])
        changed, before = False, present
        for array in self._base.arrays:
            held = band.grids[array.name].at(*at).version >= 0
            old = self._version.chunk(band, array, *at)
            new = old.copy() if held else old
            for f, name in enumerate(array.fields):
                place = (rows, bars) if isinstance(rows, slice) or isinstance(bars, slice) else np.ix_(rows, bars)
                was = new[f][place]
                if name == "close":
                    before = ~np.isnan(was)
                new[f][place] = np.where(present, given[name], was) if cells.keep else given[name]
            if not held or not _same_bits(new, old):
                self._put_chunk(band, array, *at, new)
                changed |= held or bool(present.any())
        if not changed:
            return None
        after = before | present if cells.keep else present
        return change(cells.rows[inside], cells.ts[cut], before, after)

    def _count_again(self) -> None:
        """Symbols that lost bars: which are the first and last now?"""
        if not self._recount:
            return
        times, version = self._axis.times(0, self._axis.size), Version(self._folder, self._manifest())
        for row in sorted(self._recount):
            symbol = counted_again(version, times, row)
            self._symbols[symbol.name] = symbol

    def _write_axis(self) -> None:
        for column, chunk in self._axis.chunks():
            data = TIMES.encode(chunk)
            if not np.array_equal(TIMES.decode(data), chunk):
                raise StoreError(f"the codec of times returned others than it was given, for {self._info.path}.")
            self._ts.put(0, column, self._put_object(f"ts/c/{column}", data))

    def _put_chunk(self, band: Band, array: Array, row: int, column: int, chunk: F64) -> None:
        grid = band.grids[array.name]
        if np.isnan(chunk).all():
            grid.put(row, column, ABSENT)
            name = object_name(chunk_key(band.name, array, row, column), self._info.version)
            if name in self._put:
                self._emptied.add(name)
            return
        coder = self._version.coder(array)
        data = coder.encode(chunk)
        if not coder.checks and not _same_bits(coder.decode(data, chunk.shape), chunk):
            raise StoreError(
                f"the codec {self._info.codec!r} returned other prices than it was given, for "
                f"{array.name} of {self._info.path}: nothing is committed. Choose another codec and report this."
            )
        grid.put(row, column, self._put_object(chunk_key(band.name, array, row, column), data))

    def _put_object(self, key: str, data: Data) -> Object:
        name = object_name(key, self._info.version)
        size = len(data) if isinstance(data, bytes) else data.nbytes
        self._folder.put(name, data)
        self._put[name] = size
        self._emptied.discard(name)
        return Object(self._info.version, size, checksum(data))


def _same_bits(one: F64, other: F64) -> bool:
    return np.array_equal(one.view(np.int64), other.view(np.int64))


def _dense(indices: Indices) -> Indices | slice:
    """A slice where the indices are consecutive: NumPy copies it some ten times as fast."""
    if indices.size and indices[-1] - indices[0] + 1 == indices.size and (np.diff(indices) == 1).all():
        return slice(int(indices[0]), int(indices[-1]) + 1)
    return indices


def _each(work: Sequence[Callable[[], Change | None]]) -> Iterator[Change | None]:
    if len(work) < 2:
        return iter([one() for one in work])
    with ThreadPoolExecutor(min(CODING_THREADS, len(work)), thread_name_prefix="coding") as pool:
        return iter(list(pool.map(lambda one: one(), work)))
