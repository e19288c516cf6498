"""One chunk of prices as bytes: a header, then a section a field, each compressed and checksummed apart.

docs/codec.md describes every byte. This knows nothing of Zarr: `codecs` makes a Zarr codec of it, and who holds a
chunk's bytes can decode them straight into the rows of a larger array:

    chunk = open_chunk(data)
    decode(chunk.header, chunk.sections, Box((0,), (0, 64), (0, 16_384)), out)

Any number of threads may encode and decode at the same time; a call works in the thread it is called in.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from atc_backtest.errors import DataError, UnavailableError
from atc_backtest.jit import CompiledWhenCalled
from atc_backtest.stores import tick_forms, tick_reading, tick_writing, ticks
from atc_backtest.stores.compressors import (
    MOST_BYTES,
    U8,
    damaged,
    pack_blosc,
    pack_floats,
    pack_pcodec,
    unpack_blosc,
    unpack_pcodec,
    unpacked_bytes,
)
from atc_backtest.stores.ticks import (
    ALONE,
    AT_BITS,
    AT_MAPS,
    AT_OFF,
    AT_PLACES,
    AT_RAW,
    CLOSE,
    F64,
    HIGH,
    LOW,
    N_STREAMS,
    OF_WIDTH,
    OPEN,
    RAW,
    ROW,
    TICKS,
    Streams,
)

if sys.byteorder != "little":
    raise UnavailableError("atc.ticks reads and writes prices on little-endian machines only.")

encode_rows = CompiledWhenCalled(tick_writing.encode_rows, (tick_forms, ticks))
locate = CompiledWhenCalled(tick_reading.locate, (ticks,))
decode_rows = CompiledWhenCalled(tick_reading.decode_rows, (ticks,))

MAGIC = b"ATCT"
VERSION = 1
COMPRESSORS = {"blosc": 0, "pcodec": 1}
ROLES = {"close": CLOSE, "open": OPEN, "high": HIGH, "low": LOW}
NEEDS = {ALONE: (), CLOSE: (), OPEN: (CLOSE,), HIGH: (CLOSE, OPEN), LOW: (CLOSE, OPEN)}
"""Roles whose sections a role is decoded with."""

HEAD = struct.Struct("<4sBBHII")
ENTRY = struct.Struct("<BxxxII")
CRC = struct.Struct("<I")
N_PARTS = 8
DTYPES = ("<u1", "<u2", "<u4", "<u8", "<f8", "u1", "u1", "<u8", "<f8")
"""Of the streams."""
IN_ROWS = range(AT_RAW + 1)
"""Streams that are parts of a section, their rows in order; AT_OFF and AT_BITS are too, maps and places go with the
table, which is the first part."""


@dataclass(frozen=True)
class Header:
    """What a chunk says first."""

    compressor: str
    n_symbols: int
    n_bars: int
    roles: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    """[start, stop) of each section within the chunk's bytes."""
    checksums: tuple[int, ...]

    def needed(self, fields: Iterable[int]) -> tuple[int, ...]:
        """Sections that some fields are decoded from, ascending."""
        wanted = set(fields)
        roles = {role for field in wanted for role in NEEDS[self.roles[field]]}
        return tuple(at for at, role in enumerate(self.roles) if at in wanted or role in roles)


class Chunk(NamedTuple):
    header: Header
    sections: dict[int, U8]


class Box(NamedTuple):
    """What to decode: fields in this order, half-open ranges of symbols and bars."""

    fields: tuple[int, ...]
    symbols: tuple[int, int]
    bars: tuple[int, int]


# Encoding


def encode(block: F64, roles: Sequence[int], compressor: str, level: int) -> bytes:
    """`block`, float64 [field, symbol, bar], as one chunk, which decodes to the same bits: that is tried.

    `roles` holds one of ALONE, CLOSE, OPEN, HIGH, LOW for each field: a close before an open, both before high
    and low. `UnavailableError` where pcodec is asked for and not installed.
    """
    if block[:1].nbytes > MOST_BYTES:
        raise DataError(f"a chunk of {block.shape} is too large: at most {MOST_BYTES:,} bytes a field.")
    block = np.ascontiguousarray(block).view()
    block.flags.writeable = False  # whatever it was: one kind of array, compiled for once
    for raw_only in (False, True):
        data = _encode(block, roles, compressor, level, raw_only)
        if _gives_back(data, block):
            return data
    raise DataError(f"a chunk of {block.shape} does not come back from {compressor} as it was: nothing was written.")


def _gives_back(data: bytes, block: F64) -> bool:
    found = np.empty_like(block)
    n_fields, n_symbols, n_bars = block.shape
    try:
        decode(*open_chunk(data), Box(tuple(range(n_fields)), (0, n_symbols), (0, n_bars)), found)
    except DataError:
        return False
    return np.array_equal(found.view(np.int64), block.view(np.int64))


def _encode(block: F64, roles: Sequence[int], compressor: str, level: int, raw_only: bool) -> bytes:
    n_fields, n_symbols, n_bars = block.shape
    cells = n_symbols * n_bars
    capacities = [cells] * N_STREAMS
    capacities[AT_MAPS], capacities[AT_PLACES] = n_symbols * ((n_bars + 7) // 8), 5 * cells
    streams = Streams(*(np.empty((n_fields, n), dtype) for n, dtype in zip(capacities, DTYPES, strict=True)))
    table, used = np.zeros((n_fields, n_symbols), ROW), np.zeros((n_fields, N_STREAMS), np.int64)
    narrowest = 2 if compressor == "pcodec" else 1
    encode_rows(block, np.array(roles, np.int64), narrowest, raw_only, table, streams, used)
    sections = []
    for field in range(n_fields):
        arrays = [stream[field, :n] for stream, n in zip(streams, used[field], strict=True)]
        pack = _parts_by_pcodec if compressor == "pcodec" else _parts_by_blosc
        parts = pack(table[field], arrays, level, n_bars)
        meta = b"".join(part.tobytes() for part in (table[field], arrays[AT_MAPS], arrays[AT_PLACES]))
        packed = pack_blosc(np.frombuffer(meta, np.uint8), 5, 0, plain=True)
        smaller = len(packed) < len(meta)
        parts.insert(0, packed if smaller else meta)
        sections.append(bytes([smaller]) + _lengths(parts) + b"".join(parts))
    entries = [
        ENTRY.pack(role, len(section), google_crc32c.value(section))
        for role, section in zip(roles, sections, strict=True)
    ]
    head = HEAD.pack(MAGIC, VERSION, COMPRESSORS[compressor], n_fields, n_symbols, n_bars) + b"".join(entries)
    return b"".join((head, CRC.pack(google_crc32c.value(head)), *sections))


def _lengths(parts: list[bytes]) -> bytes:
    """As LEB128."""
    found = bytearray()
    for length in map(len, parts):
        while length > 127:
            found.append(length & 127 | 128)
            length >>= 7
        found.append(length)
    return bytes(found)


def _parts_by_blosc(table: Any, arrays: list[Any], level: int, n_bars: int) -> list[bytes]:
    parts = [pack_blosc(arrays[at], level, n_bars * arrays[at].itemsize) for at in IN_ROWS[:-1]]
    parts.append(pack_floats(arrays[AT_RAW], level, n_bars * 8))
    return [*parts, *(pack_blosc(arrays[at], level, 0) for at in (AT_OFF, AT_BITS))]


def _parts_by_pcodec(table: Any, arrays: list[Any], level: int, n_bars: int) -> list[bytes]:
    in_stream = _stream_of(table)
    rows = [table["n_present"][in_stream == at].tolist() for at in IN_ROWS]
    parts = [pack_pcodec(arrays[at], level, rows[at], differences=at != AT_RAW) for at in IN_ROWS]
    off = (pack_pcodec(arrays[at], level, [arrays[at].size], differences=False) for at in (AT_OFF, AT_BITS))
    return [*parts, *off]


def _stream_of(table: Any) -> NDArray[np.int64]:
    """The stream that holds each row's numbers, -1 = none."""
    integers = np.where(table["width"] > 0, OF_WIDTH[table["width"]], -1)
    return np.where(table["kind"] == TICKS, integers, np.where(table["kind"] == RAW, AT_RAW, -1))


# Decoding


def header_bytes(n_fields: int) -> int:
    """Length of the header of a chunk of so many fields."""
    return HEAD.size + n_fields * ENTRY.size + CRC.size


def read_header(data: bytes | U8) -> Header:
    """The header that a chunk's bytes begin with. `DataError` where it is damaged or of another version."""
    head = bytes(data[: HEAD.size])
    if len(head) < HEAD.size or head[: len(MAGIC)] != MAGIC:
        raise damaged("it does not begin as one of atc.ticks")
    _, version, compressor, n_sections, n_symbols, n_bars = HEAD.unpack(head)
    if version != VERSION:
        raise DataError(f"chunk of atc.ticks, version {version}: this program reads version {VERSION}. Update it.")
    head = bytes(data[: header_bytes(n_sections)])
    if len(head) < header_bytes(n_sections):
        raise damaged(f"{len(head):,} bytes, its header alone has {header_bytes(n_sections):,}")
    if CRC.unpack(head[-CRC.size :])[0] != google_crc32c.value(head[: -CRC.size]):
        raise damaged("its header does not match its checksum")
    entries = [ENTRY.unpack_from(head, HEAD.size + at * ENTRY.size) for at in range(n_sections)]
    names = {number: name for name, number in COMPRESSORS.items()}
    if compressor not in names or not {role for role, _, _ in entries} <= NEEDS.keys():
        raise damaged(f"compressor {compressor} or a field's role is unknown")
    stops = np.cumsum([len(head), *(length for _, length, _ in entries)]).tolist()
    return Header(
        compressor=names[compressor],
        n_symbols=n_symbols,
        n_bars=n_bars,
        roles=tuple(role for role, _, _ in entries),
        spans=tuple(pairwise(stops)),
        checksums=tuple(checksum for _, _, checksum in entries),
    )


def open_chunk(data: bytes | U8) -> Chunk:
    """Header and sections of a whole chunk; `DataError` where bytes are missing or left over."""
    header = read_header(data)
    stop = header.spans[-1][1] if header.spans else header_bytes(0)
    if len(data) != stop:
        raise damaged(f"{len(data):,} bytes where {stop:,} belong")
    array = np.frombuffer(data, np.uint8)
    return Chunk(header, {at: array[slice(*span)] for at, span in enumerate(header.spans)})


def verify(data: bytes | U8) -> None:
    """Compares every checksum of a whole chunk, without decoding it; `DataError` where one differs."""
    header, sections = open_chunk(data)
    for at, section in sections.items():
        _check(header, at, section)


def decode(header: Header, sections: Mapping[int, U8], box: Box, out: F64) -> None:
    """Fills `out`, float64 [field, symbol, bar] as `box` says; any strides, but bars lie side by side.

    `sections` holds the bytes of at least `header.needed(box.fields)`. `DataError` where they are damaged.
    """
    needed = header.needed(box.fields)
    tables, at = np.empty((len(needed), header.n_symbols), ROW), np.empty((len(needed), header.n_symbols, 4), np.int64)
    used, parts, maps, places = np.zeros((len(needed) + 1, N_STREAMS), np.int64), [], [], []
    for i, section in enumerate(needed):
        _check(header, section, sections[section])
        packed, (meta, *rest) = _split(sections[section])
        used[i + 1] = used[i]
        tables[i], found = _read_table(packed, meta, header, at[i], used[i + 1])
        n_maps = used[i + 1, AT_MAPS] - used[i, AT_MAPS]
        if found.size != n_maps + used[i + 1, AT_PLACES] - used[i, AT_PLACES]:
            raise damaged("a table that contradicts its bitmaps")
        parts.append(rest)
        maps.append(found[:n_maps])
        places.append(found[n_maps:])
    arrays = [np.empty(n, dtype) for n, dtype in zip(used[-1], DTYPES, strict=True)]
    arrays[AT_MAPS], arrays[AT_PLACES] = np.concatenate(maps), np.concatenate(places)
    for i in range(len(needed)):
        targets = [arrays[stream][used[i, stream] : used[i + 1, stream]] for stream in (*IN_ROWS, AT_OFF, AT_BITS)]
        unpack = unpack_pcodec if header.compressor == "pcodec" else unpack_blosc
        asked = set(_stream_of(tables[i][slice(*box.symbols)]).tolist())
        for stream, (part, target) in enumerate(zip(parts[i], targets, strict=True)):
            if stream in asked or stream not in IN_ROWS:
                unpack(part, target)
    _decode_rows(header, needed, box, tables, Streams(*arrays), at, out)


def _check(header: Header, at: int, section: U8) -> None:
    start, stop = header.spans[at]
    if len(section) != stop - start:
        raise damaged(f"{len(section):,} bytes of field {at} where {stop - start:,} belong")
    if google_crc32c.value(section) != header.checksums[at]:
        raise damaged(f"field {at} does not match its checksum")


def _split(section: U8) -> tuple[bool, list[U8]]:
    """Whether the first part is packed, and the parts."""
    head, at, stops = section[: 1 + 5 * N_PARTS].tobytes(), 1, [0]
    for _ in range(N_PARTS):
        length = shift = 0
        while at < len(head) and head[at] > 127:
            length |= (head[at] & 127) << shift
            at, shift = at + 1, shift + 7
        if at == len(head):
            raise damaged("lengths of parts that do not end")
        stops.append(stops[-1] + (length | head[at] << shift))
        at += 1
    if at + stops[-1] != section.size or head[0] > 1:
        raise damaged("parts that do not add up")
    return head[0] == 1, [section[at + start : at + stop] for start, stop in pairwise(stops)]


def _read_table(
    packed: bool, data: U8, header: Header, at: NDArray[np.int64], used: NDArray[np.int64]
) -> tuple[Any, U8]:
    """A section's table, and the bitmaps and positions behind it; `at` and `used` as `locate` fills them."""
    n_table = header.n_symbols * ROW.itemsize
    n_bytes = unpacked_bytes(data) if packed else data.size
    if not n_table <= n_bytes <= n_table + header.n_symbols * (6 * header.n_bars + 1):
        raise damaged("a table of other length than its symbols have")
    meta = np.empty(n_bytes, np.uint8)
    if packed:
        unpack_blosc(data, meta)
    else:
        meta[:] = data
    table = meta[:n_table].view(ROW)
    if not locate(table, header.n_bars, at, used):
        raise damaged("a table that contradicts itself")
    return table, meta[n_table:]


def _decode_rows(
    header: Header, needed: tuple[int, ...], box: Box, tables: Any, streams: Streams, at: NDArray[np.int64], out: F64
) -> None:
    (first, last), (start, stop) = box.symbols, box.bars
    if out.shape != (len(box.fields), last - first, stop - start) or out.dtype != np.float64:
        raise DataError(f"out is {out.dtype} {out.shape}: give float64 of the box asked for, {box}.")
    if 0 in out.shape:
        return
    if not 0 <= first < last <= header.n_symbols or not 0 <= start < stop <= header.n_bars:
        raise DataError(f"{box} lies outside the chunk's {header.n_symbols} symbols and {header.n_bars:,} bars.")
    strides = [stride // 8 for stride in out.strides]
    if (strides[2] != 1 and out.shape[2] > 1) or min(strides) < 0 or any(stride % 8 for stride in out.strides):
        raise DataError(f"out has strides {out.strides}: its bars must lie side by side, all else ascend.")
    spanned = 1 + sum((n - 1) * stride for n, stride in zip(out.shape, strides, strict=True))
    flat = np.lib.stride_tricks.as_strided(out, (spanned,), (8,))
    out_at = np.full(len(needed), -1)
    for i, field in enumerate(box.fields):
        out_at[needed.index(field)] = i * strides[0]
    roles = np.array([header.roles[section] for section in needed])
    chosen = np.arange(first, last)
    if not decode_rows(tables, roles, chosen, start, stop, header.n_bars, streams, at, flat, out_at, strides[1]):
        raise damaged("rows that contradict their table")
