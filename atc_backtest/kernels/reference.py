"""The reference as a kernel: for checking the others on small data, not for work.

It knows no state: every call computes the whole series so far again, and hands out the last bars.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from atc_backtest.config import AtcConfig
from atc_backtest.errors import DataError
from atc_backtest.kernels.following import BlockFollower
from atc_backtest.kernels.protocol import (
    F64,
    OUTPUT_AXES,
    Follower,
    Outputs,
    Prices,
    State,
    check_advance,
)
from atc_backtest.reference import atc


@dataclass(frozen=True)
class ReferenceState(State):
    """A `State` that remembers every price; its streams and equities stay as they began."""

    past: list[Prices] = field(default_factory=list)


class ReferenceKernel:
    """`Kernel` by recomputing; time and memory grow with all bars ever seen."""

    name = "reference"

    def new_state(self, configs: Sequence[AtcConfig], n_symbols: int) -> State:
        return ReferenceState(**vars(State.new(configs, n_symbols)))

    def follow(self, state: State) -> Follower:
        return BlockFollower(self, state)

    def advance(self, state: State, prices: Prices, outputs: Outputs) -> None:
        check_advance(state, prices, outputs)
        if not isinstance(state, ReferenceState):
            raise DataError(
                "the reference kernel cannot continue another kernel's state: it keeps none. "
                "Start it from the first bar, or use --kernel rust or numba."
            )
        n_bars = prices.close.shape[1]
        state.past.append(Prices(prices.close.copy(), prices.averaged.copy()))
        close = np.concatenate([block.close for block in state.past], axis=1)
        source = np.concatenate([block.averaged for block in state.past], axis=1)
        for c, config in enumerate(state.configs):
            for symbol in range(state.n_symbols):
                result = atc(close[symbol], config, source[symbol])
                for name in OUTPUT_AXES:
                    out: F64 | None = getattr(outputs, name)
                    if out is not None:
                        values: F64 = getattr(result, name)
                        out[c, symbol] = values[..., values.shape[-1] - n_bars :]
        state.bars[:] = np.count_nonzero(~np.isnan(close), axis=1)
