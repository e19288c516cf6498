"""`atc.ticks`, a Zarr v3 codec for prices: arrays to bytes, 5-10 times smaller than float64, without losing a bit.

    from atc_backtest.stores.codecs import TickCodec

    zarr.create_array(
        store, shape=(4, 500, 100_000), chunks=(4, 64, 16_384), dtype="float64", fill_value=float("nan"),
        serializer=TickCodec(fields=("close", "open", "high", "low")), compressors=None,
    )

float64 arrays of [bar], [symbol, bar] or [field, symbol, bar]. Of the latter a chunk holds every field, each is
compressed apart, and reading some fields reads their bytes and those of what they are coded against: close
alone, open and close, high or low with both. With atc-backtest installed, Zarr finds the codec by itself, as it
names itself in zarr.json:

    {"name": "atc.ticks", "configuration": {"version": 1, "compressor": "blosc", "level": 5, "fields": [...]}}

Format and promises: docs/codec.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from zarr.abc.codec import ArrayBytesCodec, ArrayBytesCodecPartialDecodeMixin
from zarr.abc.store import ByteGetter, RangeByteRequest
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.core.common import parse_named_configuration
from zarr.registry import register_codec

from atc_backtest.errors import DataError
from atc_backtest.stores.coding import LEVELS
from atc_backtest.stores.layout import PRICES

if TYPE_CHECKING:
    from zarr.core.indexing import SelectorTuple

    from atc_backtest.stores.tick_chunk import Header

NAME = "atc.ticks"
VERSION = 1
Selectors = tuple[Any, ...]


@dataclass(frozen=True)
class TickCodec(ArrayBytesCodecPartialDecodeMixin, ArrayBytesCodec):
    """Prices as ticks, written as differences to what they are near to, then compressed.

    `compressor`: blosc (zstd, bitshuffle) or pcodec, smaller, which needs the extra `pcodec`. `level`: how hard it
    tries, 1-9 or 0-12; -1 = as is good for prices, 5 or 8. `fields`: names of the first axis of a
    [field, symbol, bar] array, one for one; of close, open, high and low those that are there stand in this order,
    and are coded against each other where close is among them. Every other field is coded by itself.
    """

    compressor: str = "blosc"
    level: int = -1
    fields: tuple[str, ...] | None = None

    is_fixed_size = False

    def __post_init__(self) -> None:
        if self.compressor not in LEVELS:
            raise DataError(f"compressor {self.compressor!r} is not known: {' or '.join(LEVELS)}.")
        least, most, default = LEVELS[self.compressor]
        object.__setattr__(self, "level", default if self.level == -1 else self.level)
        if not least <= self.level <= most:
            raise DataError(f"level {self.level!r} of {self.compressor} is not allowed: {least} to {most}.")
        if self.fields is None:
            return
        object.__setattr__(self, "fields", tuple(self.fields))
        found = [name for name in self.fields if name in PRICES]
        if not self.fields or len(set(self.fields)) < len(self.fields) or not all(self.fields):
            raise DataError(f"fields {self.fields}: name each once, at least one.")
        if found != [name for name in PRICES if name in found]:
            raise DataError(f"fields {', '.join(self.fields)}: put prices in the order {', '.join(PRICES)}.")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        _, found = parse_named_configuration(data, NAME, require_configuration=False)
        settings: dict[str, Any] = dict(found or {})
        if settings.pop("version", VERSION) != VERSION:
            raise DataError(f"{NAME} of another version than {VERSION}: {data}. Use the program that wrote it.")
        unknown = settings.keys() - {"compressor", "level", "fields"}
        if unknown:
            raise DataError(f"{NAME} does not know {', '.join(sorted(unknown))}: update this program.")
        if not isinstance(settings.get("level", -1), int):
            raise DataError(f"level {settings['level']!r} of {NAME} is not allowed: a whole number.")
        return cls(**settings)

    def to_dict(self) -> dict[str, Any]:
        configuration: dict[str, Any] = {"version": VERSION, "compressor": self.compressor, "level": self.level}
        if self.fields is not None:
            configuration["fields"] = list(self.fields)
        return {"name": NAME, "configuration": configuration}

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        if dtype.to_native_dtype() != np.dtype(np.float64):
            raise DataError(f"{NAME} codes float64, not {dtype.to_native_dtype()}.")
        self._check_chunk(tuple(getattr(chunk_grid, "chunk_shape", shape)))

    def _check_chunk(self, shape: tuple[int, ...]) -> None:
        """Of one chunk."""
        if not 1 <= len(shape) <= 3:
            raise DataError(
                f"{NAME} codes arrays of [bar], [symbol, bar] or [field, symbol, bar], not {len(shape)} axes."
            )
        if self.fields is not None and (len(shape) != 3 or shape[0] != len(self.fields)):
            raise DataError(
                f"chunks of {shape} hold not all of the fields {', '.join(self.fields)} in their first axis."
            )

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        raise NotImplementedError("it depends on the prices")

    # What codes is imported where it codes: Numba and Blosc take half a second.

    def _encode_sync(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        from atc_backtest.stores.tick_chunk import ROLES, encode

        block = np.ascontiguousarray(chunk_array.as_numpy_array(), dtype=np.float64)
        self._check_chunk(block.shape)
        names = self.fields or ("",) * (block.shape[0] if block.ndim == 3 else 1)
        linked = "close" in names
        roles = [ROLES.get(name, 0) if linked else 0 for name in names]
        data = encode(block.reshape((1, 1, 1, *block.shape)[-3:]), roles, self.compressor, self.level)
        return chunk_spec.prototype.buffer.from_bytes(data)

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        return await asyncio.to_thread(self._encode_sync, chunk_array, chunk_spec)

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return _decode_whole(chunk_bytes, (slice(None),) * len(chunk_spec.shape), chunk_spec)

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_bytes, chunk_spec)

    async def _decode_partial_single(
        self, byte_getter: ByteGetter, selection: SelectorTuple, chunk_spec: ArraySpec
    ) -> NDBuffer | None:
        selectors = _selectors(selection, len(chunk_spec.shape))
        try:
            fields = _touched(selectors[0], chunk_spec.shape[0])
            if len(chunk_spec.shape) == 3 and 0 < len(fields) < chunk_spec.shape[0]:
                return await _decode_fields(byte_getter, fields, selectors, chunk_spec)
            data = await byte_getter.get(chunk_spec.prototype)
            return None if data is None else await asyncio.to_thread(_decode_whole, data, selectors, chunk_spec)
        except DataError as error:
            raise DataError(f"{byte_getter}: {error}") from error


async def _decode_fields(
    byte_getter: ByteGetter, fields: Sequence[int], selectors: Selectors, spec: ArraySpec
) -> NDBuffer | None:
    """Of some fields only: the header first, then the bytes that it says."""
    from atc_backtest.stores.tick_chunk import header_bytes, read_header

    head = await byte_getter.get(spec.prototype, RangeByteRequest(0, header_bytes(spec.shape[0])))
    if head is None:
        return None
    header = read_header(head.as_numpy_array())
    _check_shape(header, spec)
    runs = _runs(header.needed(fields))
    spans = [(header.spans[run[0]][0], header.spans[run[-1]][1]) for run in runs]
    found = await asyncio.gather(*(byte_getter.get(spec.prototype, RangeByteRequest(*span)) for span in spans))
    sections = {}
    for run, (first, _), data in zip(runs, spans, found, strict=True):
        if data is None:
            raise DataError("the chunk went away while it was read: read it again.")
        for at in run:
            start, stop = header.spans[at]
            sections[at] = data.as_numpy_array()[start - first : stop - first]
    return await asyncio.to_thread(_decode, header, sections, selectors, spec)


def _decode_whole(data: Buffer, selectors: Selectors, spec: ArraySpec) -> NDBuffer:
    from atc_backtest.stores.tick_chunk import open_chunk

    header, sections = open_chunk(data.as_numpy_array())
    _check_shape(header, spec)
    return _decode(header, sections, selectors, spec)


def _check_shape(header: Header, spec: ArraySpec) -> None:
    found = (len(header.roles), header.n_symbols, header.n_bars)
    if found != (1, 1, 1, *spec.shape)[-3:]:
        raise DataError(
            f"a chunk of {found} [field, symbol, bar] where the array's have {spec.shape}: it is another's."
        )


def _decode(header: Header, sections: dict[int, NDArray[np.uint8]], selectors: Selectors, spec: ArraySpec) -> NDBuffer:
    """`chunk[selectors]`, of which no more is decoded than the fields in it and the symbols and bars around it."""
    from atc_backtest.stores.tick_chunk import Box, decode

    lacking = 3 - len(spec.shape)
    touched = [range(1)] * lacking + [_touched(one, n) for one, n in zip(selectors, spec.shape, strict=True)]
    symbols, bars = ((some[0], some[-1] + 1) if len(some) else (0, 0) for some in touched[1:])
    box = Box(tuple(touched[0]), symbols, bars)
    out = np.empty((len(box.fields), symbols[1] - symbols[0], bars[1] - bars[0]))
    decode(header, sections, box, out)
    inside = [_inside(one, some) for one, some in zip(selectors, touched[lacking:], strict=True)]
    if not lacking:
        inside[0] = slice(None) if isinstance(selectors[0], slice) else np.searchsorted(touched[0], selectors[0])
    return spec.prototype.nd_buffer.from_numpy_array(out[(0,) * lacking][tuple(inside)])


# What Zarr selects of a chunk


def _selectors(selection: SelectorTuple, n_axes: int) -> Selectors:
    """One for every axis; of masks, what they choose."""
    found: Selectors = selection if isinstance(selection, tuple) else (selection,)
    whole = (slice(None),) * (n_axes - len(found))
    return (*(np.flatnonzero(one) if _is_mask(one) else one for one in found), *whole)


def _is_mask(selector: Any) -> bool:
    return isinstance(selector, np.ndarray) and selector.dtype == np.bool_


def _touched(selector: Any, size: int) -> Sequence[int]:
    """Indices that a selector chooses, ascending, each once."""
    if isinstance(selector, slice):
        return range(*selector.indices(size))
    touched: list[int] = np.unique(np.arange(size)[selector]).tolist()
    return touched


def _inside(selector: Any, touched: Sequence[int]) -> Any:
    """The selector for an axis that begins at the first index it chooses, and ends at the last."""
    if isinstance(selector, slice):
        return slice(None, None, selector.step)
    return np.asarray(selector) - touched[0] if len(touched) else selector


def _runs(sections: Sequence[int]) -> list[list[int]]:
    """Sections that lie side by side, together."""
    runs: list[list[int]] = []
    for at in sections:
        if runs and runs[-1][-1] == at - 1:
            runs[-1].append(at)
        else:
            runs.append([at])
    return runs


register_codec(NAME, TickCodec)
