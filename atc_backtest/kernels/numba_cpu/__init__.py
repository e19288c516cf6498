"""The Numba kernel: symbols side by side in vector lanes, a tile of bars at a time.

`passes` holds the formulas, compiled once for each `Variant` (robustness, profile, parity) and for any
lengths, so that a sweep over lengths compiles nothing; `vectors` is what they are written in, `layout`
what they read, `block` the way of prices and state through them. Compiled at the first call, cached on
disk, without the GIL.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from atc_backtest.config import AtcConfig
from atc_backtest.kernels.following import BlockFollower
from atc_backtest.kernels.lowering import MemberConstants
from atc_backtest.kernels.numba_cpu.block import block_function
from atc_backtest.kernels.numba_cpu.layout import members_of, plan_of, tile_of
from atc_backtest.kernels.protocol import (
    F64,
    OUTPUT_AXES,
    Follower,
    Outputs,
    Prices,
    State,
    StreamState,
    check_advance,
)


class NumbaKernel:
    """`Kernel` on Numba; needs no Rust toolchain."""

    name = "numba"

    def new_state(self, configs: Sequence[AtcConfig], n_symbols: int) -> State:
        return State.new(configs, n_symbols)

    def follow(self, state: State) -> Follower:
        return BlockFollower(self, state)

    def advance(self, state: State, prices: Prices, outputs: Outputs) -> None:
        check_advance(state, prices, outputs)
        if prices.close.shape[1] == 0:
            return
        for stream in state.streams:
            _advance_stream(state, stream, prices, outputs)
        state.bars[:] += np.count_nonzero(~np.isnan(prices.close), axis=1)


def _advance_stream(state: State, stream: StreamState, prices: Prices, outputs: Outputs) -> None:
    n_bars = prices.close.shape[1]
    plan = plan_of(stream.key)
    members = MemberConstants.of(state.configs, stream.members, state.bars, n_bars)
    block_function(plan.variant)(
        prices.close,
        prices.averaged,
        state.bars,
        stream.values,
        state.equities,
        plan.constants,
        members_of(members),
        tile_of(plan, members, n_bars),
        _outputs(outputs, state.n_symbols, n_bars),
    )


def _outputs(outputs: Outputs, n_symbols: int, n_bars: int) -> tuple[F64, ...]:
    """Each as [configs, symbols, values, bars]; no configurations where it is not asked for."""
    arrays = []
    for name, axes in OUTPUT_AXES.items():
        array: F64 | None = getattr(outputs, name)
        shape = (0, 0, 0, 0) if array is None else (array.shape[0], n_symbols, math.prod(axes), n_bars)
        arrays.append(np.empty(shape) if array is None else array.reshape(shape))
    return tuple(arrays)
