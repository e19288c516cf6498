"""The content hash of a run's datasets: a fingerprint of their rows, whatever wrote them and in whatever order.

A group is the rows of one symbol and parameter set in one dataset; it lies in one part, in its own order (by
`ts`, trades by `trade_id`). The hash of

- a row: its columns but the keys `symbol` and `param_id`, in the schema's order, little-endian, one after the other.
  float64: 8 bytes as stored, -0.0 and 0.0 apart; null and NaN: 00 00 00 00 00 00 f8 7f. Integers: their own width;
  timestamps: 8 bytes, ns since the epoch; null in both: the smallest value of the width. Booleans: 1 byte, 0 or 1,
  null ff. Text: the BLAKE2b of its UTF-8 in 16 bytes, null 16 zero bytes.
- a group: the 32-byte BLAKE2b of a header and its rows in order. Header: 8 bytes of its length, then the JSON, in
  UTF-8 without blanks, of [dataset, [[column, Arrow type] but the keys], symbol, param_id].
- a dataset: the sum of its groups' hashes, read as little-endian integers, modulo 2^256. Groups without rows add
  nothing. Parts therefore add up, in any order and any cut between groups.
- a run: the 32-byte BLAKE2b of a line `<dataset> <rows> <sum as 64 hex digits>\\n` for every dataset, by name.

Row groups, encodings, compression, files, workers, kernels and the order of work are no part of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Key = tuple[str, int]
"""Symbol and `param_id`."""
Bytes = NDArray[np.uint8]

KEY_COLUMNS = ("symbol", "param_id")
MODULUS = 1 << 256
TEXT_BYTES = 16
STEP = 1 << 15
"""Rows that are encoded at a time: bounds the memory, fits the cache."""

GROUP_BYTES = 700
"""Memory of one group's hash while its part is written; measured."""


@dataclass(frozen=True)
class Content:
    """Rows and hash of a dataset, or of a part of one."""

    rows: int = 0
    total: int = 0
    """Sum of the groups' hashes, modulo 2^256."""

    def __add__(self, other: Content) -> Content:
        return Content(self.rows + other.rows, (self.total + other.total) % MODULUS)

    @property
    def hex(self) -> str:
        return f"{self.total:064x}"


def run_hash(datasets: Mapping[str, Content]) -> str:
    """The hash of a run, 64 hex digits."""
    lines = [f"{name} {content.rows} {content.hex}\n" for name, content in sorted(datasets.items())]
    return blake2b("".join(lines).encode(), digest_size=32).hexdigest()


class Hasher:
    """Takes a dataset's rows as they are written: each group's in order, groups interleaved as they come."""

    def __init__(self, dataset: str, schema: pa.Schema) -> None:
        self._dataset = dataset
        self._columns = [[field.name, str(field.type)] for field in schema if field.name not in KEY_COLUMNS]
        self._groups: dict[Key, Any] = {}
        self._rows = 0

    def update(self, table: pa.Table) -> None:
        """The next rows, of any groups."""
        for at in range(0, table.num_rows, STEP):
            piece = table.slice(at, STEP).combine_chunks()
            rows = encoded_rows(piece)
            for key, start, stop in runs_of(piece):
                self._group(key).update(rows[start:stop])
        self._rows += table.num_rows

    def _group(self, key: Key) -> Any:
        found = self._groups.get(key)
        if found is None:
            header = json.dumps([self._dataset, self._columns, *key], ensure_ascii=False, separators=(",", ":"))
            data = header.encode()
            found = blake2b(len(data).to_bytes(8, "little") + data, digest_size=32)
            self._groups[key] = found
        return found

    def groups(self) -> dict[Key, bytes]:
        """Every group's hash so far."""
        return {key: group.digest() for key, group in self._groups.items()}

    def content(self) -> Content:
        """Of all rows so far."""
        total = sum(int.from_bytes(group.digest(), "little") for group in self._groups.values())
        return Content(self._rows, total % MODULUS)


def runs_of(table: pa.Table) -> list[tuple[Key, int, int]]:
    """Stretches [start, stop) of rows of one group, in the table's order. One chunk a column; at least one row."""
    names = pc.run_end_encode(table["symbol"].chunk(0))
    params = table["param_id"].to_numpy()
    edges = np.flatnonzero(params[1:] != params[:-1]) + 1
    ends = names.run_ends.to_numpy()
    bounds = np.unique(np.concatenate([edges, ends]))
    symbols = names.values.take(pa.array(np.searchsorted(ends, bounds))).to_pylist()
    starts = [0, *bounds[:-1].tolist()]
    return [
        ((symbol, int(params[start])), start, stop)
        for symbol, start, stop in zip(symbols, starts, bounds.tolist(), strict=True)
    ]


def encoded_rows(table: pa.Table) -> Bytes:
    """Rows as the hash sees them: uint8 [rows, bytes of a row]. One chunk a column."""
    columns = {name: _encoded(table[name].chunk(0)) for name in table.column_names if name not in KEY_COLUMNS}
    rows = np.empty(table.num_rows, np.dtype([(name, values.dtype) for name, values in columns.items()]))
    for name, values in columns.items():
        rows[name] = values
    return rows.view(np.uint8).reshape(table.num_rows, rows.dtype.itemsize)


def _encoded(values: pa.Array) -> NDArray[Any]:
    """One column, one item a row, as wide as its encoding."""
    kind = values.type
    if pa.types.is_string(kind):
        return _encoded_text(values)
    if pa.types.is_floating(kind):
        floats: NDArray[np.float64] = values.cast(pa.float64()).to_numpy(zero_copy_only=False).astype("<f8")
        floats[np.isnan(floats)] = np.nan
        return floats
    if pa.types.is_boolean(kind):
        return _whole(values.cast(pa.int8()), "<i1", -1)
    if pa.types.is_timestamp(kind):
        kind, values = pa.int64(), values.cast(pa.int64())
    width = kind.bit_width // 8
    return _whole(values, f"<i{width}", -(1 << (8 * width - 1)))


def _whole(values: pa.Array, dtype: str, null: int) -> NDArray[Any]:
    return np.asarray(pc.fill_null(values, null).to_numpy(), dtype=dtype)


def _encoded_text(values: pa.Array) -> NDArray[Any]:
    coded = values.dictionary_encode()
    hashes = [blake2b(text.encode(), digest_size=TEXT_BYTES).digest() for text in coded.dictionary.to_pylist()]
    table = np.frombuffer(b"".join([*hashes, bytes(TEXT_BYTES)]), np.dtype(f"V{TEXT_BYTES}"))
    which = pc.fill_null(coded.indices, len(hashes)).to_numpy()
    return np.asarray(table[which])
