"""Rows on their way: one raw file a symbol in a temporary folder, appended to batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atc_backtest.errors import StoreError
from atc_backtest.stores.base import I64
from atc_backtest.stores.ingest.rules import Rows

BUFFER_BYTES = 16 << 20
"""Rows held before they go to their files: a long table of many symbols opens each file once for so much."""

PIECE_ROWS = 1 << 16
"""Rows of a spool file that are looked at together."""

Records = NDArray[np.void]


def record_type(n_fields: int) -> np.dtype[np.void]:
    """One spooled row: ts int64, values float64 [n_fields]."""
    return np.dtype([("ts", np.int64), ("values", np.float64, (n_fields,))])


class Spool:
    """Files of rows by symbol. Opens one file at a time, so that any number of symbols will do."""

    def __init__(self, folder: Path, n_fields: int) -> None:
        self.folder = folder
        self.dtype = record_type(n_fields)
        self.files: dict[str, Path] = {}
        self._held: dict[str, list[Records]] = {}
        self._held_bytes = 0

    def add(self, rows: Rows) -> None:
        """Take rows in, in the order read."""
        if rows.ts.size == 0:
            return
        records = np.empty(rows.ts.size, dtype=self.dtype)
        records["ts"] = rows.ts
        records["values"] = rows.values
        codes = rows.codes
        if (np.diff(codes) < 0).any():
            order = np.argsort(codes, kind="stable")
            records, codes = records[order], codes[order]
        cuts = np.flatnonzero(np.diff(codes)) + 1
        for code, part in zip(codes[np.concatenate(([0], cuts))], np.split(records, cuts), strict=True):
            self._held.setdefault(rows.names[code], []).append(part)
        self._held_bytes += records.nbytes
        if self._held_bytes >= BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Bring what is held to the files; `StoreError` when they cannot be written."""
        for name, parts in self._held.items():
            path = self.files.setdefault(name, self.folder / f"{len(self.files)}.rows")
            write_records(path, parts, append=True)
        self._held = {}
        self._held_bytes = 0


def write_records(path: Path, parts: list[Records], append: bool) -> None:
    """`StoreError` when the disk is full or refuses."""
    try:
        with path.open("ab" if append else "wb") as file:
            for part in parts:
                part.tofile(file)
    except OSError as error:
        raise StoreError(
            f"cannot write {path} ({error}): ingesting needs room beside the store for the rows of all sources, "
            "uncompressed. Nothing was written to the store."
        ) from error


def pieces(path: Path, dtype: np.dtype[np.void]) -> Iterator[Records]:
    """The records of a file, `PIECE_ROWS` at a time."""
    with path.open("rb") as file:
        while (piece := np.fromfile(file, dtype, PIECE_ROWS)).size:
            yield piece


def times(path: Path, dtype: np.dtype[np.void]) -> I64:
    """All open times of a file: int64 [n]."""
    found = [piece["ts"].copy() for piece in pieces(path, dtype)]
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)
