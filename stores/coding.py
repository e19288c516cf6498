"""How the arrays of a store are coded, without Zarr; what Zarr is told of the same codecs: `zarr_view`.

A chunk here is float64 [fields, symbols, bars]; Zarr knows it as [field, symbol, bar], or as [symbol, bar] where
the array has one field. Coding directly saves Zarr's copies, its event loop, and its import wherever prices are read;
that both agree is tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numcodecs
import numpy as np

from atc_backtest.errors import DataError
from atc_backtest.stores.base import F64, I64
from atc_backtest.stores.folder import Bytes, Data
from atc_backtest.stores.layout import Array

if TYPE_CHECKING:
    from atc_backtest.stores.tick_chunk import Header

CODECS = ("blosc", "pcodec", "raw")

LEVELS = {"blosc": (1, 9, 5), "pcodec": (0, 12, 8)}
"""Least, most and default of each compressor."""


class Source(Protocol):
    """The bytes of one object. `ValueError` or `OSError` when they are not those that were committed."""

    def whole(self) -> Data:
        """All of them, checked."""
        ...

    def part(self, start: int, stop: int) -> bytes:
        """Some of them, for a coder that checks by itself."""
        ...


class Part(NamedTuple):
    """Of a chunk: the field's place in its array, and the symbols and bars."""

    field: int
    symbols: slice
    bars: slice


class Coder(Protocol):
    """Chunks of one array to bytes and back, every bit of them. `ValueError` for bytes that are none of its own."""

    @property
    def checks(self) -> bool:
        """Whether `encode` has decoded and compared what it returns."""
        ...

    @property
    def maps(self) -> bool:
        """Whether `decode` costs nothing: bytes are used as they lie."""
        ...

    def encode(self, chunk: F64) -> Data: ...

    def decode(self, data: Data, shape: tuple[int, int, int]) -> F64:
        """The whole chunk, read-only perhaps."""
        ...

    def decode_field(self, source: Source, shape: tuple[int, int, int], part: Part, out: F64) -> None:
        """A part of it into `out`, float64 [symbols, bars], contiguous along bars; reads no more than it needs."""
        ...


def coder_of(codec: str, array: Array) -> Coder:
    """The coder of an array in a store of `codec`. `DataError` for an unknown one."""
    if codec == "raw":
        return RawCoder()
    if codec in ("blosc", "pcodec"):
        return TickCoder(array.fields, codec)
    raise DataError(f"codec {codec!r} is not known: one of {', '.join(CODECS)}.")


def together(codec: str) -> bool:
    """Whether prices lie in one array, coded relative to each other."""
    return codec != "raw"


@dataclass(frozen=True)
class RawCoder:
    """float64 as the machine has it: what can be mapped."""

    checks: bool = True
    maps: bool = True

    def encode(self, chunk: F64) -> Data:
        return np.ascontiguousarray(chunk).view(np.uint8).ravel()

    def decode(self, data: Data, shape: tuple[int, int, int]) -> F64:
        return np.frombuffer(data, dtype="<f8").reshape(shape)

    def decode_field(self, source: Source, shape: tuple[int, int, int], part: Part, out: F64) -> None:
        out[...] = self.decode(source.whole(), shape)[part]


class TickCoder:
    """Prices as ticks, coded against each other; a field is read without those it does not need."""

    checks = True
    maps = False

    def __init__(self, fields: Sequence[str], compressor: str) -> None:
        self._fields, self._compressor = fields, compressor

    # Numba takes a quarter of a second to import: not before there is something to code.

    def encode(self, chunk: F64) -> Data:
        from atc_backtest.stores.tick_chunk import ROLES, encode

        roles = [ROLES[name] if len(self._fields) > 1 else 0 for name in self._fields]
        _, _, level = LEVELS[self._compressor]
        return encode(np.ascontiguousarray(chunk), roles, self._compressor, level)

    def decode(self, data: Data, shape: tuple[int, int, int]) -> F64:
        from atc_backtest.stores.tick_chunk import Box, decode, open_chunk

        header, sections = open_chunk(data)
        _check_header(header, shape)
        out = np.empty(shape)
        decode(header, sections, Box(tuple(range(shape[0])), (0, shape[1]), (0, shape[2])), out)
        return out

    def decode_field(self, source: Source, shape: tuple[int, int, int], part: Part, out: F64) -> None:
        from atc_backtest.stores.tick_chunk import Box, decode, header_bytes, read_header

        header = read_header(source.part(0, header_bytes(shape[0])))
        _check_header(header, shape)
        needed = header.needed((part.field,))
        first, last = header.spans[needed[0]][0], header.spans[needed[-1]][1]
        data = np.frombuffer(source.part(first, last), dtype=np.uint8)
        sections = {at: data[header.spans[at][0] - first : header.spans[at][1] - first] for at in needed}
        box = Box((part.field,), (part.symbols.start, part.symbols.stop), (part.bars.start, part.bars.stop))
        decode(header, sections, box, out[None])


def _check_header(header: Header, shape: tuple[int, int, int]) -> None:
    found = len(header.roles), header.n_symbols, header.n_bars
    if found != shape:
        raise ValueError(f"a chunk of {found} [fields, symbols, bars] where {shape} belong")


class TimesCoder:
    """The axis: int64, shuffled."""

    def __init__(self) -> None:
        self._blosc = numcodecs.Blosc(cname="zstd", clevel=5, shuffle=numcodecs.Blosc.SHUFFLE)

    def encode(self, times: I64) -> bytes:
        data: bytes = self._blosc.encode(times)
        return data

    def decode(self, data: Data) -> I64:
        return np.frombuffer(_decompressed(self._blosc, data), dtype="<i8")


def _decompressed(blosc: Any, data: Data) -> Bytes:
    try:
        found: Bytes = blosc.decode(data)
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    return found
