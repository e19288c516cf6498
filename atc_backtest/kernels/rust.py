"""The Rust kernel: symbols side by side in vector lanes. Built where there is a Rust toolchain.

The algorithm is the crate in `rust/`, a file for each part of `protocol`'s order of operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from atc_backtest.config import AtcConfig
from atc_backtest.errors import UnavailableError
from atc_backtest.kernels.lowering import MemberConstants, StreamConstants
from atc_backtest.kernels.protocol import (
    F64,
    I64,
    Follower,
    Outputs,
    Prices,
    State,
    StreamKey,
    StreamLayout,
    check_advance,
)

if TYPE_CHECKING:
    from atc_backtest.kernels._rust import Stream


class RustKernel:
    """`Kernel` in Rust. `UnavailableError` where the extension was not built.

    `level`: the processor's vector instructions to use, "avx512", "avx2", "portable", or "auto" for
    the best there is. The bits are the same with each.
    """

    name = "rust"

    def __init__(self, level: str = "auto") -> None:
        try:
            from atc_backtest.kernels._rust import advance
        except ImportError as error:
            raise UnavailableError(
                f"the Rust kernel is not installed ({error}): install a Rust toolchain (https://rustup.rs), "
                "then install atc-backtest again (in a clone: make venv, or pip install --force-reinstall .). "
                "The Numba kernel needs no Rust."
            ) from error
        self._advance = advance
        self._level = level

    def new_state(self, configs: Sequence[AtcConfig], n_symbols: int) -> State:
        return State.new(configs, n_symbols)

    def advance(self, state: State, prices: Prices, outputs: Outputs) -> None:
        check_advance(state, prices, outputs)
        n_bars = prices.close.shape[1]
        if n_bars == 0:
            return
        self._advance(_jobs(state, n_bars), state.bars, state.equities, prices, outputs, self._level)

    def follow(self, state: State) -> Follower:
        return RustFollower(state, self._level)


AHEAD = 4096
"""Bars that a follower's growth tables reach ahead."""


class RustFollower:
    """`Follower` whose state lies in the extension, everything of a group of symbols together."""

    def __init__(self, state: State, level: str) -> None:
        from atc_backtest.kernels import _rust

        self._state = state
        self._follower = _rust.Follower(_jobs(state, AHEAD), state.bars, state.equities, level)
        self._shape = (len(state.configs), state.n_symbols)
        self._ahead = AHEAD

    def update(self, close: F64) -> F64:
        self._look_ahead()
        signals = np.empty(self._shape)
        if self._follower.update(close, signals) >= 0:
            Prices(np.ascontiguousarray(close)[:, None])  # says which and why
        return signals

    def update_one(self, symbol: int, close: float) -> list[float]:
        self._look_ahead()
        signals = self._follower.update_one(symbol, close)
        if signals is None:
            bar = np.full((self._shape[1], 1), np.nan)
            bar[symbol] = close
            Prices(bar)  # says which and why
            raise AssertionError("a price was refused that is allowed")
        return signals

    def _look_ahead(self) -> None:
        if self._ahead == 0:
            self._state.bars[:], self._ahead = self.bars(), AHEAD
            self._follower.grow([members for _, members, _ in _jobs(self._state, AHEAD)])
        self._ahead -= 1

    def bars(self) -> I64:
        return np.array(self._follower.bars(), dtype=np.int64)

    def state(self) -> State:
        state = self._state
        self._follower.store([stream.values for stream in state.streams], state.bars, state.equities)
        return state


def _jobs(state: State, n_bars: int) -> list[tuple[Stream, MemberConstants, F64]]:
    """Every stream with what its members need for the next `n_bars` bars, and its values."""
    return [
        (_stream(stream.key), MemberConstants.of(state.configs, stream.members, state.bars, n_bars), stream.values)
        for stream in state.streams
    ]


@lru_cache(maxsize=256)
def _stream(key: StreamKey) -> Stream:
    """Lengths and constants in the extension's own form."""
    from atc_backtest.kernels._rust import Stream

    layout = StreamLayout.of(key)
    return Stream(layout, StreamConstants.of(layout))
