"""A kernel's state as bytes, and back: to stop today and go on tomorrow, on any kernel.

Layout, all numbers little-endian:

    8 bytes   b"ATCSTATE"
    4, 4      layout version, length h of the header
    h         header, UTF-8 JSON: spec, n_symbols, symbols, configs (the specification's names)
    ...       bars int64 [n_symbols]; each stream's values, float64 [width, n_symbols], in the order
              in which the configurations first name it; equities, float64 [configs, slots, n_symbols]
    32        SHA-256 of everything before
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from atc_backtest.config import AtcConfig, RunConfig, from_dict
from atc_backtest.errors import DataError
from atc_backtest.kernels.protocol import State

MAGIC = b"ATCSTATE"
VERSION = 1
SPEC = "atc-1"
"""The specification this state's numbers mean something in; any change of its arithmetic changes this."""

_FIXED = struct.Struct("<8sII")


def to_bytes(state: State, symbols: Sequence[str] = ()) -> bytes:
    """The whole state, and the symbols' names if given; equal states give equal bytes."""
    header = {
        "spec": SPEC,
        "n_symbols": state.n_symbols,
        "symbols": list(symbols),
        "configs": [RunConfig(config).to_dict()["atc"] for config in state.configs],
    }
    text = json.dumps(header, sort_keys=True).encode()
    parts = [_FIXED.pack(MAGIC, VERSION, len(text)), text, state.bars.astype("<i8").tobytes()]
    parts += [stream.values.astype("<f8").tobytes() for stream in state.streams]
    parts.append(state.equities.astype("<f8").tobytes())
    body = b"".join(parts)
    return body + hashlib.sha256(body).digest()


def from_bytes(blob: bytes, configs: Sequence[AtcConfig] | None = None) -> State:
    """The state that `to_bytes` wrote; with `configs`, only if it is theirs.

    Raises `DataError` for something else, another version, another specification, other
    configurations, or a damaged blob; nothing of a refused blob is used.
    """
    header, at = _header(blob)
    saved = tuple(from_dict({"atc": config}).atc for config in header["configs"])
    if configs is not None and tuple(configs) != saved:
        raise DataError(f"the state belongs to other configurations: {_difference(saved, tuple(configs))}.")
    state = State.new(saved, header["n_symbols"])
    for array in (state.bars, *(stream.values for stream in state.streams), state.equities):
        stored = np.frombuffer(blob, array.dtype.newbyteorder("<"), array.size, at)
        array[...] = stored.reshape(array.shape)
        at += array.nbytes
    return state


def symbols_of(blob: bytes) -> tuple[str, ...]:
    """The names saved with a state, in the order of its symbols; empty if none were."""
    return tuple(_header(blob)[0]["symbols"])


def _header(blob: bytes) -> tuple[dict[str, Any], int]:
    """The checked header, and where the arrays begin."""
    if len(blob) < _FIXED.size + 32 or not blob.startswith(MAGIC):
        raise DataError(f"{len(blob)} bytes that begin with {bytes(blob[:8])!r} are not a saved ATC state.")
    _, version, length = _FIXED.unpack_from(blob)
    if version != VERSION:
        raise DataError(
            f"the state has layout version {version}, this program reads {VERSION}: "
            "start from the first bar again, or use the program that wrote it."
        )
    if hashlib.sha256(blob[:-32]).digest() != blob[-32:]:
        raise DataError("the state's checksum does not match: it is damaged or cut short. Use an older copy.")
    header: dict[str, Any] = json.loads(blob[_FIXED.size : _FIXED.size + length])
    if header["spec"] != SPEC:
        raise DataError(f"the state follows specification {header['spec']!r}, this program {SPEC!r}: start anew.")
    return header, _FIXED.size + length


def _difference(saved: tuple[AtcConfig, ...], asked: tuple[AtcConfig, ...]) -> str:
    if len(saved) != len(asked):
        return f"it holds {len(saved)}, asked for are {len(asked)}"
    for index, (one, other) in enumerate(zip(saved, asked, strict=True)):
        for name, value in vars(one).items():
            if value != getattr(other, name):
                return f"set {index} has {name} = {value!r}, asked for is {getattr(other, name)!r}"
    return "none found"
