"""Prices in Zarr v3: one folder, one array a field, and a manifest that says what counts.

    prices.zarr/manifest.json     what is committed: version, symbols, bars, fields, calendar
    prices.zarr/close/...         float64 [symbol, bar], NaN = no bar, Blosc-compressed chunks
    prices.zarr/ts/...            int64 [bar], ns UTC

Arrays are larger than what is committed; the manifest holds the committed length and is replaced
last, in one step, after everything before it has reached the disk. Committed cells are never
written again by an append, so that a reader keeps the version it opened, and a writer that is
killed leaves the version before.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, BloscShuffle

from atc_backtest.errors import DataError, StoreError
from atc_backtest.stores.base import F64, FIELDS, I64, StoreInfo, SymbolInfo

MANIFEST = "manifest.json"
FORMAT = "atc-backtest store"
FORMAT_VERSION = 1

CHUNK_SYMBOLS = 64
CHUNK_BARS = 16_384
TS_CHUNK = 1 << 17
SPARE_CHUNKS = 64
"""Chunks that the time axis is longer than what is committed; unwritten ones take no room."""

TICKS = BloscCodec(cname="zstd", clevel=5, shuffle=BloscShuffle.noshuffle)
"""Prices on ticks repeat whole float64 patterns: shuffling their bytes halves the ratio."""
TIMES = BloscCodec(cname="zstd", clevel=5, shuffle=BloscShuffle.shuffle)


class ZarrStore:
    """One committed version of a store; `Store` and `WritableStore`. Any number of threads may read."""

    def __init__(self, path: Path, info: StoreInfo) -> None:
        self._path = path
        self._use(info)

    def _use(self, info: StoreInfo) -> None:
        self._info = info
        self._group = zarr.open_group(self._path, mode="r") if info.n_bars else None

    @property
    def info(self) -> StoreInfo:
        return self._info

    def ts(self, start: int, stop: int) -> I64:
        _check_range("bars", (start, stop), self._info.n_bars)
        if self._group is None or start == stop:
            return np.empty(0, dtype=np.int64)
        times: I64 = np.ascontiguousarray(self._array("ts")[start:stop]).view(np.int64)
        return times

    def read(self, field: str, symbols: tuple[int, int], bars: tuple[int, int]) -> F64:
        if field not in self._info.fields:
            raise DataError(f"{self._path} has no field {field!r}: it holds {', '.join(self._info.fields)}.")
        _check_range("symbols", symbols, len(self._info.symbols))
        _check_range("bars", bars, self._info.n_bars)
        shape = (symbols[1] - symbols[0], bars[1] - bars[0])
        if self._group is None or 0 in shape:
            return np.empty(shape)
        block = np.ascontiguousarray(self._array(field)[slice(*symbols), slice(*bars)])
        native: F64 = block.view(np.float64)  # Zarr names the byte order, compiled kernels want the machine's
        return native

    def _array(self, name: str) -> Any:
        assert self._group is not None  # a store without bars has no arrays yet
        try:
            return self._group[name]
        except KeyError as error:
            raise StoreError(f"{self._path} is damaged: the array {name!r} is missing. Ingest it again.") from error

    def append(self, ts: I64, symbols: Sequence[str], blocks: dict[str, F64]) -> None:
        info = _read_manifest(self._path)
        if info.version != self._info.version:
            raise StoreError(
                f"{self._path} is at version {info.version}, this writer opened {self._info.version}: "
                "another writer was faster. Open the store again."
            )
        last = int(self.ts(info.n_bars - 1, info.n_bars)[0]) if info.n_bars else None
        _check_append(info, last, ts, symbols, blocks)
        if ts.size == 0:
            return
        began = _now_ns(self._path)
        rows = {symbol.name: symbol for symbol in info.symbols}
        rows |= {name: SymbolInfo(name, 0, 0, 0) for name in symbols if name not in rows}
        at = {name: row for row, name in enumerate(rows)}
        if info.n_bars == 0:
            info = replace(info, chunk=_chunk(len(rows)))
        n_bars = info.n_bars + ts.size
        group = _arrays(self._path, info.fields, info.chunk, len(rows), n_bars)
        group["ts"][info.n_bars : n_bars] = ts
        for name in info.fields:
            whole = np.full((group[name].shape[0], ts.size), np.nan)  # every row: nothing uncommitted shines through
            whole[[at[symbol] for symbol in symbols]] = blocks[name]
            group[name][:, info.n_bars : n_bars] = whole
        for symbol, close in zip(symbols, blocks["close"], strict=True):
            rows[symbol] = _counted(rows[symbol], ts, close)
        info = replace(info, version=info.version + 1, n_bars=n_bars, symbols=tuple(rows.values()))
        _commit(self._path, info, began)
        self._use(info)


def open_store(path: Path) -> ZarrStore:
    """The last committed version of the store at `path`.

    `StoreError` when there is none, or its format is of another version.
    """
    return ZarrStore(path, _read_manifest(path))


def create_store(path: Path, *, bar_ns: int, calendar: str, fields: Sequence[str]) -> ZarrStore:
    """An empty store, committed; `append` fills it. `StoreError` when something is at `path`."""
    _check_new(path, fields, overwrite=False)
    with _writing(path):
        path.mkdir(parents=True)
        _commit(path, _empty(path, bar_ns, calendar, fields), 0)
    return open_store(path)


@dataclass(frozen=True)
class StoreWriter:
    """Fills a new store block by block; see `new_store`."""

    chunk: tuple[int, int]
    """(symbols, bars): blocks of whole chunks are written without reading anything back."""
    _group: Any
    _ts: I64
    _symbols: list[SymbolInfo]

    def write(self, field: str, symbols: tuple[int, int], bars: tuple[int, int], block: F64) -> None:
        """One block, float64 [symbols, bars], NaN = no bar. Each cell once, bars ascending."""
        _check_block(field, block, (symbols[1] - symbols[0], bars[1] - bars[0]))
        if field == "close":
            ts = self._ts[slice(*bars)]
            for row, close in zip(range(*symbols), block, strict=True):
                self._symbols[row] = _counted(self._symbols[row], ts, close)
        self._group[field][slice(*symbols), slice(*bars)] = block


@contextlib.contextmanager
def new_store(
    path: Path,
    *,
    bar_ns: int,
    calendar: str,
    fields: Sequence[str],
    symbols: Sequence[str],
    ts: I64,
    overwrite: bool = False,
) -> Iterator[StoreWriter]:
    """Build a whole store beside `path` and give it its name when the block ends without an error.

    Until then nothing at `path` changes; a killed writer leaves only a hidden folder, which the next
    one removes. `overwrite` replaces a store, never anything else.
    """
    _check_new(path, fields, overwrite)
    _check_times(ts)
    building = path.with_name(f".{path.name}.building-{os.getpid()}")
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        building.mkdir()
        try:
            chunk = _chunk(len(symbols))
            group = _arrays(building, fields, chunk, len(symbols), ts.size)
            if ts.size:
                group["ts"][: ts.size] = ts
            rows = [SymbolInfo(name, 0, 0, 0) for name in symbols]
            yield StoreWriter(chunk, group, ts, rows)
            before = _read_manifest(path).version if path.exists() else 0  # a run that read it must notice
            info = replace(_empty(path, bar_ns, calendar, fields), version=before + 1, chunk=chunk, n_bars=ts.size)
            _commit(building, replace(info, symbols=tuple(rows)), 0)
            _swap(building, path)
        finally:
            shutil.rmtree(building, ignore_errors=True)


def _empty(path: Path, bar_ns: int, calendar: str, fields: Sequence[str]) -> StoreInfo:
    ordered = tuple(name for name in FIELDS if name in fields)
    return StoreInfo(str(path), 0, bar_ns, calendar, ordered, (), 0, (CHUNK_SYMBOLS, CHUNK_BARS))


def _chunk(n_symbols: int) -> tuple[int, int]:
    """Few symbols make flat chunks: padding to 64 rows would be memory spent on nothing."""
    return min(CHUNK_SYMBOLS, 1 << max(n_symbols - 1, 0).bit_length()), CHUNK_BARS


def _arrays(path: Path, fields: Sequence[str], chunk: tuple[int, int], n_symbols: int, n_bars: int) -> Any:
    """The group open for writing, its arrays made or grown to hold so many symbols and bars."""
    group: Any = zarr.open_group(path, mode="a", zarr_format=3)
    rows = -(-n_symbols // chunk[0]) * chunk[0]
    columns = (-(-n_bars // chunk[1]) + SPARE_CHUNKS) * chunk[1]
    if "ts" not in group:
        group.create_array("ts", shape=(columns,), chunks=(TS_CHUNK,), dtype="int64", compressors=[TIMES])
        for name in fields:
            group.create_array(
                name, shape=(rows, columns), chunks=chunk, dtype="float64", fill_value=np.nan, compressors=[TICKS]
            )
    if group["ts"].shape[0] < n_bars:
        group["ts"].resize((columns,))
    for name in fields:
        held = group[name].shape
        if held[0] < n_symbols or held[1] < n_bars:
            group[name].resize((max(held[0], rows), max(held[1], columns)))
    return group


def _counted(symbol: SymbolInfo, ts: I64, close: F64) -> SymbolInfo:
    present = np.flatnonzero(~np.isnan(close))
    if present.size == 0:
        return symbol
    first = symbol.first_ns if symbol.n_bars else int(ts[present[0]])
    return SymbolInfo(symbol.name, symbol.n_bars + present.size, first, int(ts[present[-1]]))


# Checks


def _check_range(axis: str, asked: tuple[int, int], size: int) -> None:
    if not 0 <= asked[0] <= asked[1] <= size:
        raise DataError(f"{axis} [{asked[0]}, {asked[1]}) lie outside the store's [0, {size}).")


def _check_new(path: Path, fields: Sequence[str], overwrite: bool) -> None:
    if not {"close"} <= set(fields) <= set(FIELDS):
        raise DataError(f"fields {', '.join(fields)}: a store holds close, and of {', '.join(FIELDS)} what you like.")
    check_free(path, overwrite)


def check_free(path: Path, overwrite: bool) -> None:
    """`StoreError` unless a new store may take `path`: nothing is there, or a store that `overwrite` replaces."""
    if not path.exists():
        return
    if not (path / MANIFEST).is_file():
        raise StoreError(f"{path} exists and is not a store: choose another path; nothing was touched.")
    if not overwrite:
        raise StoreError(f"{path} already holds a store: choose another path, or replace it with --overwrite.")


def _check_times(ts: I64) -> None:
    if ts.dtype != np.int64 or ts.ndim != 1:
        raise DataError(f"ts is {ts.dtype} {ts.shape}: give int64 nanoseconds, one per bar.")
    later = np.diff(ts) > 0
    if not later.all():
        at = int(np.argmin(later))
        raise DataError(f"ts[{at + 1}] = {ts[at + 1]} is not later than ts[{at}] = {ts[at]}: sort and de-duplicate.")


def _check_block(field: str, block: F64, shape: tuple[int, int]) -> None:
    if block.dtype != np.float64 or block.shape != shape:
        raise DataError(f"{field} is {block.dtype} {block.shape}: give float64 {shape}, [symbols, bars].")


def _check_append(
    info: StoreInfo, last: int | None, ts: I64, symbols: Sequence[str], blocks: Mapping[str, F64]
) -> None:
    _check_times(ts)
    if len(set(symbols)) != len(symbols):
        raise DataError(f"symbols repeat: {', '.join(symbols)}. Name each once.")
    if set(blocks) != set(info.fields):
        raise DataError(f"fields {', '.join(blocks)} do not match the store's {', '.join(info.fields)}: give those.")
    for name, block in blocks.items():
        _check_block(name, block, (len(symbols), ts.size))
    if last is not None and ts.size and ts[0] <= last:
        raise DataError(
            f"ts[0] = {ts[0]} is not later than the store's last bar {last}: append only later bars, "
            "or ingest everything anew."
        )
    missing = np.isnan(blocks["close"])
    for name, block in blocks.items():
        bad = ~missing & ~((block > 0) & (block < np.inf)) if name != "volume" else block < 0
        bad |= missing & ~np.isnan(block)
        if bad.any():
            row, bar = (int(i) for i in np.argwhere(bad)[0])
            raise DataError(
                f"{name} of {symbols[row]} at ts {ts[bar]} = {block[row, bar]!r}: present bars have finite prices > 0 "
                "and volume >= 0 or NaN, missing ones (close NaN) NaN everywhere."
            )
    if {"high", "low"} <= set(blocks) and (blocks["high"] < blocks["low"]).any():
        row, bar = (int(i) for i in np.argwhere(blocks["high"] < blocks["low"])[0])
        high, low = blocks["high"][row, bar], blocks["low"][row, bar]
        raise DataError(
            f"high of {symbols[row]} at ts {ts[bar]} = {high!r} lies below its low {low!r}: mend or drop it."
        )


# Manifest and commit


def _read_manifest(path: Path) -> StoreInfo:
    try:
        found = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} is not a store ({error}): make one with `atc-backtest ingest`.") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise StoreError(f"{path} is not a store: its {MANIFEST} is of another kind.")
    if found.get("format_version") != FORMAT_VERSION:
        raise StoreError(
            f"{path} has store format {found.get('format_version')!r}, this program reads {FORMAT_VERSION}: "
            "ingest it again, or use the program that wrote it."
        )
    try:
        return StoreInfo(
            path=str(path),
            version=found["version"],
            bar_ns=found["bar_ns"],
            calendar=found["calendar"],
            fields=tuple(found["fields"]),
            symbols=tuple(SymbolInfo(*symbol) for symbol in found["symbols"]),
            n_bars=found["n_bars"],
            chunk=(found["chunk"][0], found["chunk"][1]),
        )
    except (KeyError, TypeError, IndexError) as error:
        raise StoreError(f"{path} is damaged: its {MANIFEST} lacks {error}. Ingest it again.") from error


def _commit(path: Path, info: StoreInfo, began_ns: int) -> None:
    """Bring what was written since `began_ns` to disk, then replace the manifest in one step."""
    for folder, _, files in os.walk(path):
        for name in files:
            file = Path(folder, name)
            if file.stat().st_mtime_ns >= began_ns:
                _fsync(file)
        _fsync(Path(folder))
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "version": info.version,
        "bar_ns": info.bar_ns,
        "calendar": info.calendar,
        "fields": info.fields,
        "n_bars": info.n_bars,
        "chunk": info.chunk,
        "symbols": [[s.name, s.n_bars, s.first_ns, s.last_ns] for s in info.symbols],
    }
    hidden = path / f".{MANIFEST}.tmp"
    hidden.write_text(json.dumps(content), encoding="utf-8")
    _fsync(hidden)
    hidden.replace(path / MANIFEST)
    _fsync(path)


def _now_ns(path: Path) -> int:
    """The file system's own clock, which decides what `_commit` takes for new."""
    probe = path / ".clock"
    probe.touch()
    now = probe.stat().st_mtime_ns
    probe.unlink()
    return now


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _swap(building: Path, path: Path) -> None:
    """Give a finished store its name; an old one steps aside first and goes last."""
    old = path.with_name(f".{path.name}.replaced-{os.getpid()}")
    if path.exists():
        path.replace(old)
    building.replace(path)
    _fsync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _remove_abandoned(path: Path) -> None:
    """Folders of writers that were killed; those of living ones stay."""
    for folder in path.parent.glob(f".{path.name}.building-*"):
        if not Path("/proc", folder.name.rpartition("-")[2]).exists():
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Disk full, no permission: a `StoreError` that says where."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"cannot write {path}: {error}. What was committed before is unchanged.") from error
