"""Any store, by its path or URL."""

from __future__ import annotations

from pathlib import Path

from atc_backtest.stores.folder import is_url, open_folder
from atc_backtest.stores.manifest import committed, read_manifest
from atc_backtest.stores.memmap_store import MemmapStore
from atc_backtest.stores.zarr_store import ZarrStore


def open_store(place: str | Path, version: int | None = None) -> ZarrStore:
    """The last committed version of the store at a path or URL, or an earlier one that is kept.

    `StoreError` when there is none, or its format is of another version.
    """
    folder = open_folder(place)
    manifest = read_manifest(folder) if version is None else committed(folder, version)
    return (MemmapStore if manifest.info.kind == "memmap" else ZarrStore)(folder, manifest)


def absolute(place: str | Path) -> str:
    """The same place for every process of this machine; a URL is one already."""
    return str(place) if is_url(place) else str(Path(place).resolve())


def stem(place: str | Path) -> str:
    """What to call things made of this store: its last name without an ending."""
    return Path(str(place).rstrip("/").rpartition("/")[2]).stem if is_url(place) else Path(place).resolve().stem
