"""One committed version, read: chunks found in the manifest, checked, decoded into one block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from atc_backtest.errors import DataError, StoreError
from atc_backtest.stores.base import F64, I64, StoreInfo
from atc_backtest.stores.coding import Coder, Part, TimesCoder, coder_of
from atc_backtest.stores.folder import Data, Folder
from atc_backtest.stores.layout import TS_BARS, Array, chunk_key, covering, object_name
from atc_backtest.stores.manifest import Band, Manifest, Object, checksum

TIMES = TimesCoder()
MAPPED_BYTES = 1 << 16
"""Objects of a raw store from this size on are mapped, smaller ones read."""


@dataclass(frozen=True)
class Cut:
    """A part of a read that lies in one chunk: which, where in it, where in the block."""

    band: Band
    row: int
    column: int
    within: tuple[slice, slice]
    into: tuple[slice, slice]


@dataclass(frozen=True)
class _Bytes:
    """`Source` of an object of a version."""

    version: Version
    name: str
    found: Object

    def whole(self) -> Data:
        return self.version.fetch(self.name, self.found)

    def part(self, start: int, stop: int) -> bytes:
        return self.version.folder.read(self.name, start, stop)


class Version:
    """What a manifest names, in its folder. Frozen: any number of threads may read."""

    def __init__(self, folder: Folder, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._coders: dict[str, Coder] = {array.name: coder_of(manifest.info.codec, array) for array in manifest.arrays}
        self._place = {field: (array, at) for array in manifest.arrays for at, field in enumerate(array.fields)}

    @property
    def info(self) -> StoreInfo:
        return self.manifest.info

    def coder(self, array: Array) -> Coder:
        return self._coders[array.name]

    def ts(self, start: int, stop: int) -> I64:
        check_range("bars", (start, stop), self.info.n_bars)
        times = np.empty(stop - start, dtype=np.int64)
        for column, within, into in covering(start, stop, TS_BARS):
            times[into] = self.ts_chunk(column)[within]
        return times

    def ts_chunk(self, column: int) -> I64:
        """All times of one chunk of the axis, read-only; its end beyond the last bar is padding."""
        found = self.manifest.ts.at(0, column)
        name = object_name(f"ts/c/{column}", found.version)
        try:
            times = TIMES.decode(self.fetch(name, found))
            if times.size != TS_BARS:
                raise ValueError(f"{times.size} times instead of {TS_BARS}")
        except (OSError, ValueError) as error:
            first, last = column * TS_BARS, min((column + 1) * TS_BARS, self.info.n_bars)
            raise self.damage(name, f"times of bars [{first}, {last}) of all symbols", error) from error
        return times

    def read(self, field: str, symbols: tuple[int, int], bars: tuple[int, int]) -> F64:
        info = self.info
        if field not in self._place:
            raise DataError(f"{info.path} has no field {field!r}: it holds {', '.join(info.fields)}.")
        check_range("symbols", symbols, len(info.symbols))
        check_range("bars", bars, info.n_bars)
        array, at = self._place[field]
        shape = (symbols[1] - symbols[0], bars[1] - bars[0])
        cuts = list(self.cuts(symbols, bars)) if 0 not in shape else []
        if info.codec == "raw" and len(cuts) == 1:
            return np.ascontiguousarray(
                self.chunk(cuts[0].band, array, cuts[0].row, cuts[0].column)[at][cuts[0].within]
            )
        block = np.empty(shape)
        for cut in cuts:
            self._fill(block[cut.into], cut, array, at)
        return block

    def cuts(self, symbols: tuple[int, int], bars: tuple[int, int]) -> Iterator[Cut]:
        """Every chunk that symbols x bars touches, of any array: all are cut alike."""
        for band in self.manifest.bands:
            start, stop = max(bars[0], band.start), min(bars[1], band.stop)
            if start >= stop:
                continue
            shift = start - bars[0]
            for row, within_rows, into_rows in covering(*symbols, band.chunk[0]):
                for column, within, into in covering(start - band.start, stop - band.start, band.chunk[1]):
                    at = slice(into.start + shift, into.stop + shift)
                    yield Cut(band, row, column, (within_rows, within), (into_rows, at))

    def _fill(self, out: F64, cut: Cut, array: Array, at: int) -> None:
        found = cut.band.grids[array.name].at(cut.row, cut.column)
        if found.version < 0:
            out[...] = np.nan
            return
        shape = (len(array.fields), *cut.band.chunk)
        name = object_name(chunk_key(cut.band.name, array, cut.row, cut.column), found.version)
        try:
            source = _Bytes(self, name, found)
            self._coders[array.name].decode_field(source, shape, Part(at, *cut.within), out)
        except (OSError, ValueError) as error:
            raise self.chunk_damage(name, cut.band, array, cut.row, cut.column, error) from error

    def chunk(self, band: Band, array: Array, row: int, column: int) -> F64:
        """A whole chunk [fields, symbols, bars], read-only perhaps, padding included; all NaN where there is none."""
        found = band.grids[array.name].at(row, column)
        shape = (len(array.fields), *band.chunk)
        if found.version < 0:
            return np.full(shape, np.nan)
        name = object_name(chunk_key(band.name, array, row, column), found.version)
        try:
            return self._coders[array.name].decode(self.fetch(name, found), shape)
        except (OSError, ValueError) as error:
            raise self.chunk_damage(name, band, array, row, column, error) from error

    def fetch(self, name: str, found: Object) -> Data:
        """An object's bytes; `ValueError` unless they are those that were committed. Mapped ones are not summed."""
        if self.info.codec == "raw" and found.size >= MAPPED_BYTES:
            mapped = self.folder.map(name)
            if mapped.size != found.size:
                raise ValueError(f"{mapped.size} bytes instead of {found.size}")
            return mapped
        data = self.folder.read(name)
        check_bytes(data, found)
        return data

    def chunk_damage(self, name: str, band: Band, array: Array, row: int, column: int, error: Exception) -> StoreError:
        symbols, bars = self.chunk_range(band, row, column)
        whom = [symbol.name for symbol in self.info.symbols[slice(*symbols)]]
        return self.damage(name, f"{', '.join(array.fields)} of {said(whom)}, {self.when(*bars)}", error)

    def chunk_range(self, band: Band, row: int, column: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """The symbols and bars that a chunk holds, padding left out."""
        symbols = row * band.chunk[0], min((row + 1) * band.chunk[0], len(self.info.symbols))
        first = band.start + column * band.chunk[1]
        return symbols, (first, min(first + band.chunk[1], band.stop))

    def when(self, start: int, stop: int) -> str:
        """Bars [start, stop) as times, where the axis can be read."""
        try:
            first, last = (int(self.ts(bar, bar + 1)[0]) for bar in (start, stop - 1))
        except StoreError:
            return f"bars [{start}, {stop})"
        return " to ".join(str(np.datetime64(ns, "ns")).removesuffix(".000000000") for ns in (first, last))

    def damage(self, name: str, what: str, error: Exception) -> StoreError:
        place = self.info.path
        return StoreError(
            f"{place} is damaged: {name} ({error}): {what}. The rest can be read; `atc-backtest store verify {place}` "
            "lists all damage, `store rollback` goes back to an earlier version."
        )


def check_bytes(data: Data, found: Object) -> None:
    size = data.nbytes if not isinstance(data, bytes) else len(data)
    if size != found.size:
        raise ValueError(f"{size} bytes instead of {found.size}")
    if checksum(data) != found.crc32c:
        raise ValueError("its checksum is wrong")


def said(names: list[str], most: int = 8) -> str:
    """Names for people, not too many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def check_range(axis: str, asked: tuple[int, int], size: int) -> None:
    if not 0 <= asked[0] <= asked[1] <= size:
        raise DataError(f"{axis} [{asked[0]}, {asked[1]}) lie outside the store's [0, {size}).")
