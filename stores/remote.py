"""A store's folder behind a URL, through fsspec: s3://bucket/prices.zarr, memory://prices.zarr, ...

Objects appear whole and are there when the call returns; a manifest put last commits as it does on a disk. No
object store can keep a second writer out: the lock is an object that says who writes, and is asked first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import fsspec
import numpy as np

from atc_backtest.errors import StoreError, UnavailableError
from atc_backtest.stores.folder import Bytes, Data, view
from atc_backtest.stores.lock import parse_owner, refusal, this_process, to_bytes

LOCK = "writer.lock"
EXTRAS = {"s3": "s3", "s3a": "s3"}


class Remote:
    """`Folder` of a URL."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        scheme = url.partition("://")[0]
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self._url, **_options(scheme))
        except ImportError as error:
            extra = EXTRAS.get(scheme)
            remedy = f"pip install 'atc-backtest[{extra}]'" if extra else f"pip install what fsspec needs for {scheme}"
            raise UnavailableError(f"{url} cannot be opened ({error}): {remedy}.") from error
        except ValueError as error:
            raise StoreError(f"{url} cannot be opened: {error}.") from error

    @property
    def place(self) -> str:
        return self._url

    def has(self, name: str) -> bool:
        with self._errors():
            found: bool = self._fs.isfile(self._path(name))
        return found

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        with self._errors():
            data: bytes = self._fs.cat_file(self._path(name), start=start or None, end=stop)
        return data

    def map(self, name: str) -> Bytes:
        return np.frombuffer(self.read(name), dtype=np.uint8)

    def sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        with self._errors():
            found = self._fs.find(self._path(prefix) if prefix else self._root, detail=True)
        for path, entry in found.items():
            yield path.removeprefix(self._root).lstrip("/"), entry["size"]

    @contextlib.contextmanager
    def locked(self, command: str) -> Iterator[bool]:
        taken_over = False
        with contextlib.suppress(FileNotFoundError):
            owner = parse_owner(self.read(LOCK))
            taken_over = True
            if owner is None or not owner.here or owner.alive:
                raise refusal(self._url, owner)
        mine = to_bytes(this_process(command))
        self.put(LOCK, mine)
        try:
            yield taken_over
        finally:
            self.remove([LOCK])

    def break_lock(self) -> str | None:
        try:
            owner = parse_owner(self.read(LOCK))
        except FileNotFoundError:
            return None
        self.remove([LOCK])
        return str(owner) if owner else "a writer that did not say its name"

    def put(self, name: str, data: Data) -> None:
        with self._errors():
            self._fs.pipe_file(self._path(name), data if isinstance(data, bytes) else bytes(data))

    def put_pieces(self, name: str, size: int, pieces: Iterable[tuple[int, Data]]) -> None:
        whole = bytearray(size)
        for offset, data in pieces:
            piece = view(data)
            whole[offset : offset + piece.nbytes] = piece
        self.put(name, bytes(whole))

    def sync(self) -> None:
        """Object stores answer when an object is safe."""

    def replace(self, name: str, data: bytes) -> None:
        self.put(name, data)

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            with contextlib.suppress(FileNotFoundError), self._errors():
                self._fs.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Clients raise what they like; the store knows `OSError`."""
        try:
            yield
        except OSError:
            raise
        except Exception as error:
            raise StoreError(f"{self._url} cannot be reached: {type(error).__name__}: {error}") from error


def _options(scheme: str) -> dict[str, Any]:
    """Listings are never remembered: another process may be writing."""
    return {"use_listings_cache": False} if scheme in EXTRAS else {}
