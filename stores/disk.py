"""A store's folder on this machine. Every write to disk, every rename and removal is a call of `os` in here."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from atc_backtest.stores.folder import Bytes, Data, view
from atc_backtest.stores.lock import break_lock, locked

SYNC_THREADS = 8
"""Files brought to disk at a time: a journal commits what waits together."""

LOCK = "writer.lock"


class Disk:
    """`Folder` of a local path. What was put and not synced yet is remembered by the object that put it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: set[Path] = set()
        self._folders: set[Path] = set()
        self._mine: set[Path] = set()

    @property
    def place(self) -> str:
        return str(self._root)

    def has(self, name: str) -> bool:
        return (self._root / name).is_file()

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        with (self._root / name).open("rb", buffering=0) as file:
            if start:
                file.seek(start)
            size = os.fstat(file.fileno()).st_size - start if stop is None else stop - start
            data = file.read(max(size, 0))
            while len(data) < size and (more := file.read(size - len(data))):
                data += more
            return data

    def map(self, name: str) -> Bytes:
        path = self._root / name
        if path.stat().st_size == 0:
            return np.empty(0, dtype=np.uint8)
        mapped: Bytes = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
        return mapped

    def sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        for folder, _, files in os.walk(self._root / prefix):
            for name in files:
                path = Path(folder, name)
                with contextlib.suppress(FileNotFoundError):
                    yield path.relative_to(self._root).as_posix(), path.stat().st_size

    @contextlib.contextmanager
    def locked(self, command: str) -> Iterator[bool]:
        with locked(self._root / LOCK, command) as taken_over:
            yield taken_over

    def break_lock(self) -> str | None:
        return break_lock(self._root / LOCK)

    def put(self, name: str, data: Data) -> None:
        self.put_pieces(name, -1, [(0, data)])

    def put_pieces(self, name: str, size: int, pieces: Iterable[tuple[int, Data]]) -> None:
        path = self._root / name
        self._make(path.parent)
        how = os.O_TRUNC if path in self._mine else os.O_EXCL  # never over what another writer put
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | how | os.O_CLOEXEC, 0o666)
        self._mine.add(path)
        self._files.add(path)
        self._folders.add(path.parent)
        try:
            if size >= 0:
                os.ftruncate(handle, size)
            for offset, data in pieces:
                _write(handle, view(data), offset)
        except BaseException:
            self.remove([name])
            raise
        finally:
            os.close(handle)

    def sync(self) -> None:
        _fsync_all(sorted(self._files))
        _fsync_all(sorted(self._folders, reverse=True))
        self._files.clear()
        self._folders.clear()

    def replace(self, name: str, data: bytes) -> None:
        path = self._root / name
        hidden = f"{name}.tmp"
        try:
            self.remove([hidden])
            self.put(hidden, data)
            self.sync()
            os.replace(self._root / hidden, path)  # noqa: PTH105  faults are injected into `os`
        except OSError:
            self.remove([hidden])
            raise
        fsync(path.parent)

    def remove(self, names: Iterable[str]) -> None:
        folders = set()
        for name in names:
            path = self._root / name
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108
            self._files.discard(path)
            self._mine.discard(path)
            folders |= {parent for parent in path.parents if parent.is_relative_to(self._root)}
        for folder in sorted(folders - {self._root}, reverse=True):
            with contextlib.suppress(OSError):
                os.rmdir(folder)  # noqa: PTH106
                self._folders.discard(folder)

    def rename(self, target: Path) -> None:
        """Give the whole folder its final name, where nothing is yet (`OSError`)."""
        self.sync()
        os.rename(self._root, target)  # noqa: PTH104
        fsync(target.parent)

    def remove_all(self) -> None:
        """The folder with all that is in it; nothing committed may be in there."""
        for folder, folders, files in os.walk(self._root, topdown=False):
            for name in files:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(Path(folder, name))  # noqa: PTH108
            for name in folders:
                os.rmdir(Path(folder, name))  # noqa: PTH106
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(self._root)  # noqa: PTH106

    def _make(self, folder: Path) -> None:
        """Folders down to `folder`; every parent that gained one is to be synced."""
        if folder in self._folders or folder.is_dir():
            return
        self._make(folder.parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)  # noqa: PTH102
        self._folders.add(folder.parent)


def fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _fsync_all(paths: list[Path]) -> None:
    if len(paths) <= 2:
        for path in paths:
            fsync(path)
        return
    with ThreadPoolExecutor(min(SYNC_THREADS, len(paths)), thread_name_prefix="fsync") as pool:
        list(pool.map(fsync, paths))


def _write(handle: int, data: memoryview, offset: int) -> None:
    while data.nbytes:
        written = os.pwrite(handle, data, offset)
        data, offset = data[written:], offset + written
