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

TILE = 32
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

    def table(self, place: Place) -> I64:
        """The structure, with addresses for arrays."""
        counts = (self.n_windows, self.levels, self.history, self.y_rows, self.y_slots)
        return np.array([*(place(array) for array in self.arrays), *counts], dtype=np.int64)

    def work_bytes(self, layers: int) -> int:
        """A warp's workspace: `work_of` in atc.cu."""
        rows = self.history + TILE
        doubles = (
            (2 + 3 * self.levels) * rows
            + 2 * self.n_windows * TILE
            + N_LENGTHS * (self.y_rows + TILE)
            + (1 + TILE)
            + 3 * TILE
            + (1 + 2 + 3) * N_LENGTHS * TILE
            + layers * N_FAMILIES * (1 + TILE)
            + N_FAMILIES * TILE
            + TILE
        )
        signs = N_AVERAGES * (2 * TILE + 1)
        return 8 * (doubles + -(-signs // 8))


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
    )


def members_table(of: MemberConstants, place: Place) -> I64:
    """`struct Members`; on the device, members are numbered from 0 and others have no place."""
    whole = ("layer1", "leader", "cutout", "up", "down", "growth_row", "growth_start", "growth_last")
    addresses = [place(np.arange(of.config.size))]
    addresses += [place(np.ascontiguousarray(getattr(of, name), dtype=np.int64)) for name in whole]
    addresses += [place(np.ascontiguousarray(getattr(of, name))) for name in ("keep", "weights", "growth")]
    return np.array([*addresses, of.config.size, of.leader.size, of.growth.shape[1]], dtype=np.int64)


OUTPUTS = tuple(OUTPUT_AXES)
"""In the order of `struct Block`."""
