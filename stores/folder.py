"""Where a store's objects lie: a folder of this machine, or a prefix of an object store behind a URL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Data = bytes | Bytes


def view(data: Data) -> memoryview:
    """The same bytes, for calls that take what can be sliced without a copy."""
    return memoryview(data) if isinstance(data, bytes) else data.data.cast("B")


class Folder(Protocol):
    """Objects by name, `a/b/c`. Reading is free for all; the writing half is for the one that holds the lock."""

    @property
    def place(self) -> str:
        """What the user calls it: a path or a URL."""
        ...

    def has(self, name: str) -> bool: ...

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """An object's bytes [start, stop), fewer where it is shorter. `FileNotFoundError` where there is none."""
        ...

    def map(self, name: str) -> Bytes:
        """All of an object, read-only: mapped, not loaded, where the folder can."""
        ...

    def sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """(name, bytes) of every object below `prefix`, in any order."""
        ...

    def locked(self, command: str) -> AbstractContextManager[bool]:
        """The one writer's right to write; `StoreError` names the writer that has it.

        True where the writer before did not end in order: what it left may be in the way.
        """
        ...

    def break_lock(self) -> str | None:
        """Take another writer's lock away, whoever it is; its owner in words, None where there was none."""
        ...

    def put(self, name: str, data: Data) -> None:
        """Write an object. It is on disk only after `sync`. On a disk `OSError` where another writer put one."""
        ...

    def put_pieces(self, name: str, size: int, pieces: Iterable[tuple[int, Data]]) -> None:
        """Write an object of `size` bytes from (offset, bytes) pieces that fill it. On disk after `sync`."""
        ...

    def sync(self) -> None:
        """All that was put reaches the disk, the folders it lies in included."""
        ...

    def replace(self, name: str, data: bytes) -> None:
        """A small object in one step, on disk when this returns: readers see the old or the new, whole."""
        ...

    def remove(self, names: Iterable[str]) -> None:
        """Objects that may be gone already, and the folders they leave empty."""
        ...


def is_url(place: str | Path) -> bool:
    """`s3://bucket/x`, `memory://x`: anything with a scheme; paths have none."""
    return isinstance(place, str) and "://" in place and not place.startswith("file://")


def open_folder(place: str | Path) -> Folder:
    """The folder at a path or URL, there or not. `UnavailableError` when a URL needs what is not installed."""
    if is_url(place):
        from atc_backtest.stores.remote import Remote

        return Remote(str(place))
    from atc_backtest.stores.disk import Disk

    return Disk(Path(str(place).removeprefix("file://")))
