"""The hot twin of a store: the same prices as raw float64 files that are mapped, for repeated runs.

    hot/history/close/c/3/0.v1    symbols [3 n, 4 n), all bars: float64 [symbol, bar] as the machine has it

One file a field and some symbols, so that all bars of these symbols are one contiguous block: reading them
maps the file and copies nothing. Manifest, versions and commands are those of the Zarr store; bars that are
appended lie in smaller files and are copied together when they are read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from atc_backtest.errors import DataError, StoreError
from atc_backtest.stores.base import Store
from atc_backtest.stores.building import building, create, empty_manifest
from atc_backtest.stores.folder import Data, is_url, open_folder
from atc_backtest.stores.layout import HISTORY_BARS
from atc_backtest.stores.manifest import read_manifest
from atc_backtest.stores.zarr_store import ZarrStore


class MemmapStore(ZarrStore):
    """`Store` and `WritableStore` over raw files. A read of whole chunks of symbols is a read-only view."""


def open_memmap(path: str | Path) -> MemmapStore:
    """The last committed version of the memmap store at `path`. `StoreError` when there is none."""
    folder = open_folder(path)
    manifest = read_manifest(folder)
    if manifest.info.kind != "memmap":
        raise StoreError(f"{path} is a {manifest.info.kind} store: `atc-backtest store hot` makes a memmap one of it.")
    return MemmapStore(folder, manifest)


def create_memmap(path: str | Path, *, bar_ns: int, calendar: str, fields: Sequence[str]) -> MemmapStore:
    """An empty store, committed. `StoreError` when something is at `path`."""
    create(path, bar_ns=bar_ns, calendar=calendar, fields=fields, codec="raw", kind="memmap")
    return open_memmap(path)


def heat(source: Store, path: str | Path, fields: Sequence[str] | None = None, overwrite: bool = False) -> MemmapStore:
    """Decode `source` into a memmap store at `path`, all fields or some (close always), whole or not at all.

    `overwrite` makes it the next version of a memmap store that is there.
    """
    if is_url(path):
        raise StoreError(f"{path}: a memmap store is mapped into memory, so it lies on a disk: give a folder.")
    info = source.info
    wanted = tuple(name for name in info.fields if fields is None or name in fields or name == "close")
    if unknown := set(fields or ()) - set(info.fields):
        raise DataError(f"{info.path} has no field {', '.join(sorted(unknown))}: it holds {', '.join(info.fields)}.")
    empty = empty_manifest(path, 0, info.bar_ns, info.calendar, wanted, "raw", "memmap", info.volume_bits)
    with building(path, empty, f"hot of {info.path} (version {info.version})", overwrite) as transaction:
        transaction.start(info.symbols, source.ts(0, info.n_bars))
        for band in transaction.version.manifest.bands[:1]:
            for array in transaction.version.manifest.arrays:
                for row in range(math.ceil(len(info.symbols) / band.chunk[0])):
                    transaction.put_raw(band, array, row, _pieces(source, array.name, row * band.chunk[0], band.chunk))
    return open_memmap(path)


def _pieces(source: Store, field: str, first: int, shape: tuple[int, int]) -> Iterator[tuple[int, Data]]:
    """A chunk of `shape` from symbol `first` on, some bars at a time: (offset, bytes)."""
    n_symbols, n_bars = shape
    symbols = first, min(first + n_symbols, len(source.info.symbols))
    missing = np.full(min(HISTORY_BARS, n_bars), np.nan)
    for start in range(0, n_bars, HISTORY_BARS):
        stop = min(start + HISTORY_BARS, n_bars)
        block = source.read(field, symbols, (start, stop))
        for row in range(n_symbols):
            values = block[row] if row < len(block) else missing[: stop - start]
            yield 8 * (row * n_bars + start), values.view(np.uint8)
