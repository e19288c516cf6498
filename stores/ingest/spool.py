"""Rows on their way: one raw file a symbol in a temporary folder, appended to batch by batch by any thread."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atc_backtest.errors import StoreError
from atc_backtest.stores.base import I64
from atc_backtest.stores.ingest.rules import Rows
from atc_backtest.stores.lock import is_free, locked

BUFFER_BYTES = 32 << 20
"""Rows held by all threads before they go to their files: a table of many symbols opens each once for so much."""

PIECE_ROWS = 1 << 16
"""Rows of a spool file that are looked at together."""

OWNER = "owner"
YOUNG_S = 60
"""A folder without an owner for so long belongs to nobody; before that its maker may be about to take it."""

Records = NDArray[np.void]


def record_type(n_fields: int) -> np.dtype[np.void]:
    """One spooled row: ts int64, values float64 [n_fields]."""
    return np.dtype([("ts", np.int64), ("values", np.float64, (n_fields,))])


class Spool:
    """Files of rows by symbol. Opens one file at a time, so that any number of symbols will do.

    Threads read files side by side, so that rows of one symbol may lie in its file in another order than that
    of the sources; where each part came from is kept, and `straighten` puts them in order.
    """

    def __init__(self, folder: Path, n_fields: int) -> None:
        self.folder = folder
        self.dtype = record_type(n_fields)
        self._lock = threading.Lock()
        self._sizes: dict[int, int] = {}
        self._extents: list[I64] = []

    def clear(self) -> None:
        """Remove all files."""
        shutil.rmtree(self.folder)

    def path(self, code: int) -> Path:
        return self.folder / f"{code}.rows"

    @property
    def codes(self) -> list[int]:
        """Numbers of the symbols that have rows."""
        return list(self._sizes)

    def write(self, parts: Sequence[Part]) -> None:
        """Append rows to their symbols' files; `source` ascends from part to part."""
        parts = sorted(parts, key=lambda part: part.code) if all(part.code >= 0 for part in parts) else [_merged(parts)]
        extents = np.concatenate([_extents(part) for part in parts])
        starts = np.flatnonzero(np.diff(extents[:, 0], prepend=-1))
        rows = _Rows([part.records for part in parts])
        with self._lock:
            for first, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(extents)], strict=True):
                code, counts = int(extents[first, 0]), extents[first:stop, 3]
                held = self._sizes.get(code, 0)
                ends = held + np.cumsum(counts)
                extents[first:stop, 2] = ends - counts
                write_records(self.path(code), rows.take(int(ends[-1]) - held), append=True)
                self._sizes[code] = int(ends[-1])
            self._keep(extents)

    def _keep(self, extents: I64) -> None:
        """A symbol's next rows from the same source lengthen its extent: one long table has one a symbol."""
        last = self._extents[-1] if self._extents else None
        same = last is not None and last.shape == extents.shape and bool((last[:, :2] == extents[:, :2]).all())
        if last is not None and same and bool((last[:, 2] + last[:, 3] == extents[:, 2]).all()):
            last[:, 3] += extents[:, 3]
        else:
            self._extents.append(extents)

    def straighten(self) -> None:
        """Rewrite the files whose rows do not lie in the order of the sources."""
        if not self._extents:
            return
        extents = np.concatenate(self._extents)
        self._extents = []
        extents = extents[np.lexsort((extents[:, 2], extents[:, 0]))]
        same = extents[1:, 0] == extents[:-1, 0]
        for code in np.unique(extents[1:][same & (extents[1:, 1] < extents[:-1, 1]), 0]).tolist():
            parts = extents[slice(*np.searchsorted(extents[:, 0], [code, code + 1]))]
            self._reorder(self.path(code), parts[np.argsort(parts[:, 1], kind="stable")])

    def _reorder(self, path: Path, parts: I64) -> None:
        ordered = path.with_suffix(".ordered")
        for start, n in parts[:, 2:].tolist():
            for at in range(start, start + n, PIECE_ROWS):
                count = min(PIECE_ROWS, start + n - at)
                piece = np.fromfile(path, self.dtype, count, offset=at * self.dtype.itemsize)
                write_records(ordered, [piece], append=True)
        ordered.replace(path)


@dataclass(frozen=True)
class Part:
    """Rows of one source in the order read; `code` is their symbol's number, or -1 where `codes` has one a row."""

    records: Records
    codes: I64
    source: int
    code: int


def _merged(parts: Sequence[Part]) -> Part:
    """All parts as one, by symbol and then in their order; its `codes` are [2, n]: symbols and sources."""
    codes = np.concatenate([part.codes for part in parts])
    sources = np.repeat([part.source for part in parts], [part.records.size for part in parts])
    order = np.argsort(codes, kind="stable")
    records = np.concatenate([part.records for part in parts])[order]
    return Part(records, np.stack([codes[order], sources[order]]), -1, -1)


def _extents(part: Part) -> I64:
    """[symbol, source, place to come, rows] of each run."""
    if part.code >= 0:
        return np.array([[part.code, part.source, 0, part.records.size]], dtype=np.int64)
    cuts = np.flatnonzero(np.diff(part.codes, prepend=-1).any(axis=0))
    extents = np.zeros((cuts.size, 4), dtype=np.int64)
    extents[:, :2] = part.codes[:, cuts].T
    extents[:, 3] = np.diff(np.append(cuts, part.records.size))
    return extents


class _Rows:
    """Parts taken from the front, so many rows at a time."""

    def __init__(self, parts: Sequence[Records]) -> None:
        self._parts = list(reversed(parts))

    def take(self, n: int) -> list[Records]:
        taken = []
        while n:
            part = self._parts.pop()
            if part.size > n:
                self._parts.append(part[n:])
                part = part[:n]
            taken.append(part)
            n -= part.size
        return taken


class Filling:
    """One thread's rows before they are written: those of many sources together, each in its order."""

    def __init__(self, spool: Spool, limit_bytes: int) -> None:
        self._spool = spool
        self._limit = limit_bytes
        self._held: list[Part] = []
        self._bytes = 0

    def add(self, rows: Rows, source: int) -> None:
        """Take rows in, in the order read; `source` is the place of their table among all."""
        if rows.ts.size == 0:
            return
        records = np.empty(rows.ts.size, dtype=self._spool.dtype)
        records["ts"] = rows.ts
        values = records["values"]
        for i, column in enumerate(rows.values):
            values[:, i] = column
        first = int(rows.codes[0])
        self._held.append(Part(records, rows.codes, source, first if (rows.codes == first).all() else -1))
        self._bytes += records.nbytes
        if self._bytes >= self._limit:
            self.flush()

    def flush(self) -> None:
        """Bring what is held to the files; `StoreError` when they cannot be written."""
        held, self._held, self._bytes = self._held, [], 0
        if held:
            self._spool.write(held)


def write_records(path: Path, parts: Sequence[Records], append: bool) -> None:
    """`StoreError` when the disk is full or refuses."""
    try:
        with path.open("ab" if append else "wb", buffering=0) as file:
            for part in parts:
                left = memoryview(_bytes(part))
                while left:
                    left = left[file.write(left) :]
    except OSError as error:
        raise StoreError(
            f"cannot write {path} ({error}): ingesting needs room beside the store for the rows of all sources, "
            "uncompressed. Nothing was written to the store."
        ) from error


def _bytes(records: Records) -> Any:
    return np.ascontiguousarray(records).view(np.uint8)


def pieces(path: Path, dtype: np.dtype[np.void]) -> Iterator[Records]:
    """The records of a file, `PIECE_ROWS` at a time."""
    with path.open("rb") as file:
        while (piece := np.fromfile(file, dtype, PIECE_ROWS)).size:
            yield piece


def times(path: Path, dtype: np.dtype[np.void]) -> I64:
    """All open times of a file: int64 [n]."""
    found = np.empty(path.stat().st_size // dtype.itemsize, dtype=np.int64)
    at = 0
    for piece in pieces(path, dtype):
        found[at : at + piece.size] = piece["ts"]
        at += piece.size
    return found


@contextlib.contextmanager
def rows_folder(store: Path) -> Iterator[Path]:
    """A hidden folder beside `store`, gone afterwards. Folders of killed processes beside it are removed first.

    It takes its name when its owner holds the lock inside, which ends with the process however that ends.
    """
    beside = next(folder for folder in store.absolute().parents if folder.is_dir())  # the same disk, nothing made yet
    _remove_abandoned(beside)
    try:
        making = Path(tempfile.mkdtemp(prefix=f".{store.name}.making-", dir=beside))
    except OSError as error:
        raise StoreError(f"cannot write into {beside} ({error}): choose another place for the store.") from error
    folder = making.with_name(making.name.replace(".making-", ".rows-"))
    try:
        with locked(making / OWNER, "ingest"):
            making.rename(folder)
            yield folder
    finally:
        shutil.rmtree(making, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(beside: Path) -> None:
    for folder in [*beside.glob(".*.rows-*"), *beside.glob(".*.making-*")]:
        with contextlib.suppress(OSError):
            if folder.is_dir() and (is_free(folder / OWNER) if (folder / OWNER).exists() else _is_old(folder)):
                shutil.rmtree(folder, ignore_errors=True)


def _is_old(folder: Path) -> bool:
    return time.time() - folder.stat().st_mtime > YOUNG_S
