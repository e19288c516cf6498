"""Any store, by its path or URL."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from atc_backtest.errors import DataError
from atc_backtest.stores.base import I64, Store
from atc_backtest.stores.folder import is_url, open_folder
from atc_backtest.stores.manifest import committed, read_manifest
from atc_backtest.stores.memmap_store import MemmapStore
from atc_backtest.stores.reading import said
from atc_backtest.stores.zarr_store import ZarrStore


def open_store(place: str | Path, version: int | None = None) -> ZarrStore:
    """The last committed version of the store at a path or URL, or an earlier one that is kept.

    `StoreError` when there is none, or its format is of another version.
    """
    folder = open_folder(place)
    manifest = read_manifest(folder) if version is None else committed(folder, version)
    return (MemmapStore if manifest.info.kind == "memmap" else ZarrStore)(folder, manifest)


def present_times(store: Store, symbol: str) -> I64:
    """Open times of a symbol's bars: int64 ns. `DataError` for a symbol that the store lacks."""
    names = [one.name for one in store.info.symbols]
    if symbol not in names:
        raise DataError(f"{store.info.path} has no symbol {symbol!r}: it holds {said(names)}.")
    row, n_bars = names.index(symbol), store.info.n_bars
    parts = [np.empty(0, dtype=np.int64)]
    for start in range(0, n_bars, store.info.chunk[1]):
        stop = min(start + store.info.chunk[1], n_bars)
        parts.append(store.ts(start, stop)[~np.isnan(store.read("close", (row, row + 1), (start, stop))[0])])
    return np.concatenate(parts)


def absolute(place: str | Path) -> str:
    """The same place for every process of this machine; a URL is one already."""
    return str(place) if is_url(place) else str(Path(place).resolve())


def stem(place: str | Path) -> str:
    """What to call things made of this store: its last name without an ending."""
    return Path(str(place).rstrip("/").rpartition("/")[2]).stem if is_url(place) else Path(place).resolve().stem
