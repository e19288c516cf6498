"""A committed version as Zarr sees it: its documents, and a read-only Zarr store over the objects it names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.codecs import BloscCodec, BloscShuffle
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import MemoryStore

from atc_backtest.errors import StoreError
from atc_backtest.stores.codecs import TickCodec
from atc_backtest.stores.folder import Folder
from atc_backtest.stores.layout import TS_BARS, Array, object_name
from atc_backtest.stores.manifest import Manifest, Object
from atc_backtest.stores.reading import check_bytes


def documents(manifest: Manifest) -> dict[str, bytes]:
    """Key -> bytes of every zarr.json of this version: exact shapes, so that Zarr sees what is committed."""
    memory = MemoryStore()
    group: Any = zarr.open_group(memory, mode="w", zarr_format=3)
    info = manifest.info
    if manifest.bands:
        group.create_array(
            "ts",
            shape=(info.n_bars,),
            chunks=(TS_BARS,),
            dtype="int64",
            dimension_names=["bar"],
            compressors=[BloscCodec(cname="zstd", clevel=5, shuffle=BloscShuffle.shuffle)],
        )
    for band in manifest.bands:
        inner = group.create_group(band.name)
        for array in manifest.arrays:
            shape: tuple[int, ...] = (len(info.symbols), band.stop - band.start)
            chunk: tuple[int, ...] = band.chunk
            if len(array.fields) > 1:
                shape, chunk = (len(array.fields), *shape), (len(array.fields), *chunk)
            inner.create_array(
                array.name,
                shape=shape,
                chunks=chunk,
                dtype="float64",
                fill_value=np.nan,
                dimension_names=["field", "symbol", "bar"][-len(shape) :],
                attributes={"fields": list(array.fields)},
                compressors=None,
                **_serializer(info.codec, array),
            )
    return {key: buffer.to_bytes() for key, buffer in memory._store_dict.items()}


def _serializer(codec: str, array: Array) -> dict[str, TickCodec]:
    """What Zarr must be told of the codec that `coding.coder_of` gives an array."""
    if codec == "raw":
        return {}
    return {"serializer": TickCodec(compressor=codec, fields=array.fields if len(array.fields) > 1 else None)}


def open_view(folder: Folder, manifest: Manifest) -> zarr.Group:
    """The version as a Zarr group that cannot be written to."""
    return zarr.open_group(VersionStore(folder, manifest), mode="r")


class VersionStore(Store):
    """Zarr keys to the objects of one version. What is read whole is checked against the manifest."""

    supports_writes = False
    supports_deletes = False
    supports_listing = True

    def __init__(self, folder: Folder, manifest: Manifest) -> None:
        super().__init__(read_only=True)
        self._folder = folder
        self._manifest = manifest
        self._objects: dict[str, Object] = dict(manifest.objects())

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, VersionStore)
            and self._folder.place == other._folder.place
            and self._manifest.info == other._manifest.info
        )

    def __str__(self) -> str:
        return f"{self._folder.place} (version {self._manifest.info.version})"

    def with_read_only(self, read_only: bool = False) -> Store:
        if not read_only:
            raise StoreError(f"{self} is a committed version: write with `open_store(...).writing()`.")
        return self

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        found = self._objects.get(key)
        if found is None:
            return None
        data = await asyncio.to_thread(self._read, object_name(key, found.version), found, byte_range)
        return prototype.buffer.from_bytes(data)

    def _read(self, name: str, found: Object, byte_range: ByteRequest | None) -> bytes:
        match byte_range:
            case RangeByteRequest(start, end):
                return self._folder.read(name, start, min(end, found.size))
            case OffsetByteRequest(offset):
                return self._folder.read(name, offset, found.size)
            case SuffixByteRequest(suffix):
                return self._folder.read(name, max(found.size - suffix, 0), found.size)
        data = self._folder.read(name)
        try:
            check_bytes(data, found)
        except ValueError as error:
            raise StoreError(f"{self} is damaged: {name} ({error}).") from error
        return data

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        return key in self._objects

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()

    async def delete(self, key: str) -> None:
        self._check_writable()

    async def list(self) -> AsyncIterator[str]:
        for key in self._objects:
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        for key in self._objects:
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        inside = prefix.rstrip("/") + "/" if prefix else ""
        for name in {key[len(inside) :].split("/")[0] for key in self._objects if key.startswith(inside)}:
            yield name
