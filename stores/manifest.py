"""The manifest of a version: what it holds, and every object it consists of, with bytes and checksum.

`manifest.json` is the version that counts and is replaced last, in one step; `versions/000012.json` is a copy
of each committed one. Both are one JSON object whose last entry is the CRC-32C of all bytes before it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import google_crc32c
import numpy as np

from atc_backtest.errors import StoreError
from atc_backtest.stores.base import I64, StoreInfo, SymbolInfo
from atc_backtest.stores.folder import Data, Folder
from atc_backtest.stores.layout import HISTORY, Array, chunk_key, object_name, written_by

MANIFEST = "manifest.json"
FORMAT = "atc-backtest store"
FORMAT_VERSION = 2

SEAL = len(',"crc32c":"00000000"}')


def checksum(data: Data) -> int:
    """CRC-32C, as google-crc32c computes it."""
    value: int = google_crc32c.value(data if isinstance(data, bytes) else np.frombuffer(data, dtype=np.uint8))
    return value


class Object(NamedTuple):
    """One object as a manifest names it. `version` -1: there is none, nothing but missing bars."""

    version: int
    size: int
    crc32c: int


ABSENT = Object(-1, 0, 0)


@dataclass(frozen=True)
class Grid:
    """The objects of one array's chunks, int64 [rows, columns] each; a version of -1 is a chunk without any bar."""

    versions: I64
    sizes: I64
    checksums: I64

    @classmethod
    def empty(cls, rows: int, columns: int) -> Grid:
        return cls(*(np.full((rows, columns), value, dtype=np.int64) for value in ABSENT))

    def resized(self, rows: int, columns: int) -> Grid:
        """A copy that may be written to, with absent chunks where it is larger."""
        grown = Grid.empty(rows, columns)
        cut = slice(min(rows, self.versions.shape[0])), slice(min(columns, self.versions.shape[1]))
        for new, old in zip(grown.parts, self.parts, strict=True):
            new[cut] = old[cut]
        return grown

    @property
    def parts(self) -> tuple[I64, I64, I64]:
        return self.versions, self.sizes, self.checksums

    def at(self, row: int, column: int) -> Object:
        return Object(*(int(part[row, column]) for part in self.parts))

    def put(self, row: int, column: int, found: Object) -> None:
        for part, value in zip(self.parts, found, strict=True):
            part[row, column] = value

    def present(self) -> Iterator[tuple[int, int, Object]]:
        where = np.nonzero(self.versions >= 0)
        columns = (*where, *(part[where] for part in self.parts))
        for row, column, *found in zip(*(values.tolist() for values in columns), strict=True):
            yield row, column, Object(*found)


@dataclass(frozen=True)
class Band:
    """Bars [start, stop) in chunks of (symbols, bars); one grid of objects an array."""

    name: str
    start: int
    stop: int
    chunk: tuple[int, int]
    grids: Mapping[str, Grid]


@dataclass(frozen=True)
class Commit:
    """One line of a store's history."""

    version: int
    when: str
    """UTC, ISO 8601."""
    what: str
    n_symbols: int
    n_bars: int
    bytes_written: int


@dataclass(frozen=True)
class Manifest:
    """One version. `bands`: history, then tail; none where the store has no bars. `ts`: the axis, one row."""

    info: StoreInfo
    arrays: tuple[Array, ...]
    bands: tuple[Band, ...] = ()
    ts: Grid = field(default_factory=lambda: Grid.empty(1, 0))
    documents: Mapping[str, Object] = field(default_factory=dict)
    """Key of each zarr.json -> its object."""
    log: tuple[Commit, ...] = ()

    def objects(self) -> Iterator[tuple[str, Object]]:
        """(key, object) of everything this version consists of."""
        yield from self.documents.items()
        yield from ((f"ts/c/{column}", found) for _, column, found in self.ts.present())
        for band in self.bands:
            for array in self.arrays:
                for row, column, found in band.grids[array.name].present():
                    yield chunk_key(band.name, array, row, column), found

    def names(self) -> set[str]:
        """Names of all its objects in the folder."""
        return {object_name(key, found.version) for key, found in self.objects()}


def version_name(version: int) -> str:
    return f"versions/{version:06d}.json"


def to_bytes(manifest: Manifest) -> bytes:
    info = manifest.info
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "id": info.id,
        "version": info.version,
        "kind": info.kind,
        "codec": info.codec,
        "volume_bits": info.volume_bits,
        "bar_ns": info.bar_ns,
        "calendar": info.calendar,
        "fields": info.fields,
        "n_bars": info.n_bars,
        "chunk": info.chunk,
        "symbols": [[s.name, s.n_bars, s.first_ns, s.last_ns] for s in info.symbols],
        "arrays": {array.name: array.fields for array in manifest.arrays},
        "log": [list(vars(commit).values()) for commit in manifest.log],
        "documents": manifest.documents,
        "ts": _grid_to_json(manifest.ts),
        "bands": [
            {
                "name": band.name,
                "bars": [band.start, band.stop],
                "chunk": band.chunk,
                "grids": {name: _grid_to_json(grid) for name, grid in band.grids.items()},
            }
            for band in manifest.bands
        ],
    }
    body = json.dumps(content, separators=(",", ":")).encode()[:-1]
    return body + b',"crc32c":"%08x"}' % checksum(body)


def read_manifest(folder: Folder, name: str = MANIFEST) -> Manifest:
    """`StoreError` for none, one of another format, a damaged one."""
    place = folder.place
    try:
        data = folder.read(name)
        found = json.loads(data)
    except (OSError, ValueError) as error:
        if folder.has(name) and not isinstance(error, OSError):
            raise damaged(place, name, f"it is no JSON ({error})") from error
        raise StoreError(f"{place} is not a store ({error}): make one with `atc-backtest ingest`.") from error
    seal = b',"crc32c":"%08x"}' % checksum(data[:-SEAL])
    if data[-SEAL:] != seal and data[-SEAL:].startswith(seal[:11]):
        raise damaged(place, name, "its checksum is wrong")
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise StoreError(f"{place} is not a store: its {MANIFEST} is of another kind.")
    if found.get("format_version") != FORMAT_VERSION:
        raise StoreError(
            f"{place} has store format {found.get('format_version')!r}, this program reads {FORMAT_VERSION}: "
            "ingest it again, or use the program that wrote it."
        )
    if data[-SEAL:] != seal:
        raise damaged(place, name, "its checksum is missing")
    try:
        return _parsed(place, found)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise damaged(place, name, f"it lacks {error}") from error


def damaged(place: str, name: str, why: str) -> StoreError:
    return StoreError(
        f"{place} is damaged: {name}: {why}. `atc-backtest store verify {place}` tells what can still be read, "
        "`store repair` brings back a manifest, `store rollback` an earlier version."
    )


def _parsed(place: str, found: dict[str, Any]) -> Manifest:
    bands = tuple(
        Band(
            band["name"],
            band["bars"][0],
            band["bars"][1],
            (band["chunk"][0], band["chunk"][1]),
            {name: _grid_from_json(grid) for name, grid in band["grids"].items()},
        )
        for band in found["bands"]
    )
    info = StoreInfo(
        path=place,
        id=found["id"],
        version=found["version"],
        kind=found["kind"],
        codec=found["codec"],
        volume_bits=found["volume_bits"],
        bar_ns=found["bar_ns"],
        calendar=found["calendar"],
        fields=tuple(found["fields"]),
        symbols=tuple(SymbolInfo(*symbol) for symbol in found["symbols"]),
        n_bars=found["n_bars"],
        history_bars=next((band.stop for band in bands if band.name == HISTORY), 0),
        chunk=(found["chunk"][0], found["chunk"][1]),
    )
    return Manifest(
        info,
        tuple(Array(name, tuple(fields)) for name, fields in found["arrays"].items()),
        bands,
        _grid_from_json(found["ts"]),
        {key: Object(*entry) for key, entry in found["documents"].items()},
        tuple(Commit(*entry) for entry in found["log"]),
    )


def _grid_to_json(grid: Grid) -> list[Any]:
    return [grid.versions.shape, *(part.ravel().tolist() for part in grid.parts)]


def _grid_from_json(found: list[Any]) -> Grid:
    shape = tuple(found[0])
    return Grid(*(np.array(part, dtype=np.int64).reshape(shape) for part in found[1:]))


def committed(folder: Folder, version: int) -> Manifest:
    """An earlier version that is still kept; `StoreError` names those that are."""
    current = read_manifest(folder)
    if version == current.info.version:
        return current
    kept = kept_versions(folder, current)
    if version not in kept:
        raise StoreError(
            f"{folder.place} has no version {version}: it keeps {', '.join(map(str, kept))} "
            "(`atc-backtest store history` lists them)."
        )
    return read_manifest(folder, version_name(version))


def kept_versions(folder: Folder, current: Manifest) -> list[int]:
    """Versions that can be gone back to, the current one included, ascending."""
    found = {current.info.version}
    for name, _ in folder.sizes("versions"):
        stem = name.removeprefix("versions/").removesuffix(".json")
        if stem.isdigit() and int(stem) <= current.info.version:
            found.add(int(stem))
    return sorted(found)


def uncommitted(folder: Folder, current: int) -> dict[str, int]:
    """Name -> bytes of what is there of versions after `current`, which nobody reads."""
    found = {}
    for name, size in folder.sizes():
        number = name.removeprefix("versions/").removesuffix(".json")
        copy_of = int(number) if name.startswith("versions/") and number.isdigit() else None
        version = written_by(name) if copy_of is None else copy_of
        if name.endswith(".json.tmp") or (version is not None and version > current):
            found[name] = size
    return found


def _number(folder: Folder) -> int:
    """The version that counts, of any format."""
    earlier = old_version(folder)
    return read_manifest(folder).info.version if earlier is None else earlier


def old_version(folder: Folder) -> int | None:
    """The version of a store of an earlier format, which is no longer read; None for one of this format."""
    try:
        found = json.loads(folder.read(MANIFEST))
    except ValueError:
        return None
    if not isinstance(found, dict) or found.get("format") != FORMAT or found.get("format_version") != 1:
        return None
    return int(found["version"])


def commit(
    folder: Folder,
    base: Manifest,
    manifest: Manifest,
    what: str,
    n_bytes: int,
    sealed: Callable[[], None] = lambda: None,
) -> Manifest:
    """Objects to disk, the copy of the manifest, then the manifest itself. `sealed`: before it may count."""
    info = manifest.info
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    entry = Commit(info.version, when, what, len(info.symbols), info.n_bars, n_bytes)
    manifest = replace(manifest, log=(*base.log, entry))
    data = to_bytes(manifest)
    folder.sync()
    if folder.has(MANIFEST) and (found := _number(folder)) != base.info.version:
        sealed()  # what was put may bear the names of what another writer committed
        raise StoreError(f"{info.path} is at version {found}, this writer began at {base.info.version}: open it again.")
    folder.replace(version_name(info.version), data)
    sealed()
    folder.replace(MANIFEST, data)
    return manifest
