"""What no store may hold, refused before anything is written."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atc_backtest.errors import DataError
from atc_backtest.stores.base import FIELDS, I64, Blocks, StoreInfo


def check_fields(fields: Sequence[str]) -> None:
    if not {"close"} <= set(fields) <= set(FIELDS):
        raise DataError(f"fields {', '.join(fields)}: a store holds close, and of {', '.join(FIELDS)} what you like.")


def check_times(ts: I64) -> None:
    if ts.dtype != np.int64 or ts.ndim != 1:
        raise DataError(f"ts is {ts.dtype} {ts.shape}: give int64 nanoseconds, one per bar.")
    later = np.diff(ts) > 0
    if not later.all():
        at = int(np.argmin(later))
        raise DataError(f"ts[{at + 1}] = {ts[at + 1]} is not later than ts[{at}] = {ts[at]}: sort and de-duplicate.")


def check_later(ts: I64, last: int | None) -> None:
    if last is not None and ts.size and ts[0] <= last:
        raise DataError(
            f"ts[0] = {ts[0]} is not later than the store's last bar {last}: append only later bars, "
            "merge or correct others."
        )


def check_shapes(fields: Sequence[str], ts: I64, symbols: Sequence[str], blocks: Blocks) -> None:
    if len(set(symbols)) != len(symbols):
        raise DataError(f"symbols repeat: {', '.join(symbols)}. Name each once.")
    if set(blocks) != set(fields):
        raise DataError(f"fields {', '.join(blocks)} do not match the store's {', '.join(fields)}: give those.")
    shape = (len(symbols), ts.size)
    for name, block in blocks.items():
        if block.dtype != np.float64 or block.shape != shape:
            raise DataError(f"{name} is {block.dtype} {block.shape}: give float64 {shape}, [symbols, bars].")


def check_values(ts: I64, symbols: Sequence[str], blocks: Blocks) -> None:
    """Present bars have finite prices > 0 and volume >= 0 or NaN; missing ones are NaN in every field."""
    missing = np.isnan(blocks["close"])
    for name, block in blocks.items():
        bad = ~missing & ~((block > 0) & (block < np.inf)) if name != "volume" else block < 0
        bad |= missing & ~np.isnan(block)
        if bad.any():
            row, bar = (int(i) for i in np.argwhere(bad)[0])
            raise DataError(
                f"{name} of {symbols[row]} at ts {ts[bar]} = {block[row, bar]!r}: present bars have finite prices > 0 "
                "and volume >= 0 or NaN, missing ones (close NaN) NaN everywhere."
            )
    if {"high", "low"} <= set(blocks) and (blocks["high"] < blocks["low"]).any():
        row, bar = (int(i) for i in np.argwhere(blocks["high"] < blocks["low"])[0])
        high, low = blocks["high"][row, bar], blocks["low"][row, bar]
        raise DataError(
            f"high of {symbols[row]} at ts {ts[bar]} = {high!r} lies below its low {low!r}: mend or drop it."
        )


def as_stored(info: StoreInfo, blocks: Blocks) -> Blocks:
    """What a store keeps of blocks: itself, but for volume where it is rounded to `volume_bits`."""
    if info.volume_bits is None or "volume" not in blocks:
        return blocks
    from atc_backtest.stores.ticks import round_to_bits  # brings Numba

    return {**blocks, "volume": round_to_bits(blocks["volume"], info.volume_bits)}
