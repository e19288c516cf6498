"""What the GPU kernel reads, packed: a stream's and its members' numbers, tables of addresses, sizes of workspaces.

Plain NumPy; `atc.cu` has the structures whose fields the tables hold, eight bytes each, in this order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from atc_backtest.kernels.lowering import MemberConstants, StreamConstants, shortest_windows
from atc_backtest.kernels.protocol import (
    F64,
    I64,
    N_AVERAGES,
    N_FAMILIES,
    N_LENGTHS,
    OUTPUT_AXES,
    StreamKey,
    StreamLayout,
)

TILE, KAMA = 32, 5
ROW, PART_ROW, LAYERS, RULES = TILE + 1, TILE // 2 + 1, 2, 3
SIDES = -(-LAYERS * N_FAMILIES * ROW // 8)
Place = Callable[[Any], int]
"""Puts an array where the kernel can read it; its address."""


@dataclass(frozen=True)
class DeviceStream:
    """A `StreamKey` as the kernel wants it: arrays in the order of `struct Stream`, then its counts."""

    arrays: tuple[F64 | I64, ...]
    n_windows: int
    levels: int
    history: int
    y_rows: int
    y_slots: int
    width: int
    settled: int

    def table(self, place: Place) -> I64:
        """The structure, with addresses for arrays."""
        counts = (self.n_windows, self.levels, self.history, self.y_rows, self.y_slots, self.width, self.settled)
        return np.array([*(place(array) for array in self.arrays), *counts], dtype=np.int64)

    @property
    def work_bytes(self) -> int:
        """A warp's workspace: `work_of` in atc.cu."""
        rows = self.history + TILE
        doubled = max((1 + 3 * self.levels) * rows, 2 * N_LENGTHS * ROW, N_LENGTHS * self.y_rows)
        averages = doubled + 2 * self.n_windows * TILE + N_LENGTHS * ROW + 2 * TILE
        equities = N_AVERAGES * PART_ROW + LAYERS * N_FAMILIES * ROW + LAYERS * TILE * RULES + SIDES
        lasting = rows + N_LENGTHS * (self.y_rows + TILE) + (1 + TILE) + TILE + TILE
        return 8 * (lasting + max(averages, equities) + -(-N_AVERAGES * ROW // 8))


@lru_cache(maxsize=256)
def stream_of(key: StreamKey) -> DeviceStream:
    layout = StreamLayout.of(key)
    constants = StreamConstants.of(layout)
    shortest, which, windows = shortest_windows(layout)
    numbers = ("alpha", "sma", "wma", "lsma_w", "lsma_s", "hma_half", "hma_smooth")
    whole = (layout.lengths, layout.first, layout.smooth, shortest, which, windows)
    return DeviceStream(
        arrays=(
            *(np.ascontiguousarray(getattr(constants, name), dtype=np.float64) for name in numbers),
            *(np.ascontiguousarray(values, dtype=np.int64) for values in whole),
        ),
        n_windows=windows.size,
        levels=int(windows.max()).bit_length() - 1,
        history=layout.history,
        y_rows=int(layout.smooth.max()) - 1,
        y_slots=layout.y_slots,
        width=layout.width,
        settled=int(max(layout.first.max() + 1, layout.lengths[KAMA].max())),
    )


def members_table(of: MemberConstants, place: Place) -> I64:
    """`struct Members`; on the device, members are numbered from 0 and others have no place."""
    order = np.argsort(of.layer1, kind="stable")
    start = np.searchsorted(of.layer1[order], np.arange(of.leader.size + 1))
    whole = [getattr(of, name)[order] for name in ("cutout", "up", "down", "growth_row", "growth_start", "growth_last")]
    arrays = [order, of.layer1[order], start, *whole]
    addresses = [place(np.ascontiguousarray(array, dtype=np.int64)) for array in arrays]
    addresses += [place(np.ascontiguousarray(array)) for array in (of.keep[order], of.weights[order], of.growth)]
    return np.array([*addresses, of.config.size, of.leader.size, of.growth.shape[1]], dtype=np.int64)


OUTPUTS = tuple(OUTPUT_AXES)
"""In the order of `struct Block`."""
