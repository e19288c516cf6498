"""Prices in Zarr v3: compressed chunks, versions that are never changed, and a manifest that says what counts.

    prices.zarr/manifest.json              the version that counts: symbols, bars, every object with its checksum
    prices.zarr/versions/000012.json       a copy of each committed manifest, for history and rollback
    prices.zarr/history/prices/c/0/3/7.v2  a chunk, written by version 2; see layout.py
    prices.zarr/writer.lock                who is writing, while somebody is

docs/stores.md tells the whole of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from atc_backtest.errors import StoreError
from atc_backtest.stores.base import F64, I64, Blocks, StoreInfo
from atc_backtest.stores.building import StoreWriter, check_free, create, new_store, the_writer
from atc_backtest.stores.folder import Folder, open_folder
from atc_backtest.stores.manifest import Manifest, committed, read_manifest
from atc_backtest.stores.reading import Version
from atc_backtest.stores.transaction import Transaction

if TYPE_CHECKING:
    import zarr

__all__ = ["StoreWriter", "ZarrStore", "check_free", "create_store", "new_store", "open_group", "open_store"]


class ZarrStore:
    """One committed version of a store; `Store` and `WritableStore`. Any number of threads may read."""

    def __init__(self, folder: Folder, manifest: Manifest) -> None:
        self._folder = folder
        self._version = Version(folder, manifest)

    @property
    def info(self) -> StoreInfo:
        return self._version.info

    def ts(self, start: int, stop: int) -> I64:
        return self._version.ts(start, stop)

    def read(self, field: str, symbols: tuple[int, int], bars: tuple[int, int]) -> F64:
        return self._version.read(field, symbols, bars)

    def group(self) -> zarr.Group:
        """This version as a read-only Zarr group: ts, history/..., tail/...; see `layout`."""
        from atc_backtest.stores.zarr_view import open_view

        return open_view(self._folder, self._version.manifest)

    @contextlib.contextmanager
    def writing(self, what: str = "write") -> Iterator[Transaction]:
        """As `WritableStore.writing`; `what` is said in the history."""
        with the_writer(self._folder, what):
            found = read_manifest(self._folder)
            if (found.info.id, found.info.version) != (self.info.id, self.info.version):
                raise StoreError(
                    f"{self.info.path} is at version {found.info.version}, this writer opened {self.info.version}: "
                    "another writer was faster. Open the store again."
                )
            transaction = Transaction(self._folder, found)
            try:
                yield transaction
                manifest = transaction.commit(what)
            except BaseException:
                transaction.abort()
                raise
        self._version = Version(self._folder, manifest)

    def append(self, ts: I64, symbols: Sequence[str], blocks: Blocks) -> None:
        with self.writing("append") as writer:
            writer.append(ts, symbols, blocks)


def open_store(place: str | Path, version: int | None = None) -> ZarrStore:
    """The last committed version of the store at a path or URL, or an earlier one that is kept.

    `StoreError` when there is none, or its format is of another version.
    """
    folder = open_folder(place)
    manifest = read_manifest(folder) if version is None else committed(folder, version)
    return ZarrStore(folder, manifest)


def open_group(place: str | Path, version: int | None = None) -> zarr.Group:
    """A committed version for anybody's Zarr code, read-only."""
    return open_store(place, version).group()


def create_store(
    path: str | Path, *, bar_ns: int, calendar: str, fields: Sequence[str], codec: str = "blosc"
) -> ZarrStore:
    """An empty store, committed; `append` fills it. `StoreError` when something is at `path`."""
    create(path, bar_ns=bar_ns, calendar=calendar, fields=fields, codec=codec, kind="zarr")
    return open_store(path)
