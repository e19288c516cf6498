"""How a store is cut: which array holds which fields, bands of bars, chunks, and what their objects are called.

    ts/c/3.v12                  bars [3 x 16384, ..) of the axis, written by version 12
    history/prices/c/0/1/7.v3   fields close, open, high, low; symbols [64, 128), the 8th 16384 bars
    tail/volume/c/1/0.v12       symbols [64, 128), the first 4096 bars after the history

A name without its `.v12` is the key that Zarr knows the object by.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from atc_backtest.stores.base import FIELDS

CHUNK_SYMBOLS = 64
HISTORY_BARS = 16_384
TAIL_BARS = 4_096
TS_BARS = 16_384

PRICES = ("close", "open", "high", "low")
"""Fields of the array `prices`, in this order, those a store has: coded relative to each other."""

HISTORY, TAIL = "history", "tail"

NAME = re.compile(r"(?:ts|history|tail)/(?:[a-z]+/)*(?:zarr\.json|c(?:/[0-9]+)+)\.v([0-9]+)|zarr\.json\.v([0-9]+)")
"""Every object of a version; what is called otherwise is none of ours."""


@dataclass(frozen=True)
class Array:
    """An array of every band: [field, symbol, bar], or [symbol, bar] where it holds a single field."""

    name: str
    fields: tuple[str, ...]


def arrays_of(fields: Sequence[str], together: bool) -> tuple[Array, ...]:
    """The arrays that hold `fields`; `together`: prices in one, for a codec that sees them side by side."""
    prices = tuple(name for name in PRICES if name in fields)
    if not together or len(prices) == 1:
        return tuple(Array(name, (name,)) for name in FIELDS if name in fields)
    return (
        Array("prices", prices),
        *(Array(name, (name,)) for name in FIELDS if name in fields and name not in PRICES),
    )


def chunk_symbols(n_symbols: int, kind: str) -> int:
    """Symbols a chunk: for codecs a power of two. Padding to 64 rows would be space spent on nothing."""
    if kind == "memmap":
        return -(-n_symbols // max(-(-n_symbols // CHUNK_SYMBOLS), 1)) or 1
    return min(CHUNK_SYMBOLS, 1 << max(n_symbols - 1, 0).bit_length())


def object_name(key: str, version: int) -> str:
    return f"{key}.v{version}"


def chunk_key(band: str, array: Array, row: int, column: int) -> str:
    """The key of chunk (row, column) of an array; prices lie together along their first axis."""
    middle = "c/0" if len(array.fields) > 1 else "c"
    return f"{band}/{array.name}/{middle}/{row}/{column}"


def written_by(name: str) -> int | None:
    """The version that wrote the object of this name; None for what is no object of a store."""
    found = NAME.fullmatch(name)
    return None if found is None else int(found[1] or found[2])


def covering(start: int, stop: int, size: int) -> Iterator[tuple[int, slice, slice]]:
    """Chunks of `size` that [start, stop) touches: index, the cut within the chunk, the cut within the range."""
    for index in range(start // size, -(-stop // size) if stop > start else start // size):
        first, last = max(start, index * size), min(stop, (index + 1) * size)
        yield index, slice(first - index * size, last - index * size), slice(first - start, last - start)
