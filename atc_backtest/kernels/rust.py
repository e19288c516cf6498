"""The Rust kernel: symbols side by side in vector lanes. Built where there is a Rust toolchain.

The algorithm is the crate in `rust/`, a file for each part of `protocol`'s order of operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from atc_backtest.config import AtcConfig
from atc_backtest.errors import UnavailableError
from atc_backtest.kernels.lowering import MemberConstants, StreamConstants
from atc_backtest.kernels.protocol import Outputs, Prices, State, StreamKey, StreamLayout, check_advance

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
        jobs = [
            (
                _stream(stream.key),
                MemberConstants.of(state.configs, stream.members, state.bars, n_bars),
                stream.values,
            )
            for stream in state.streams
        ]
        self._advance(jobs, state.bars, state.equities, prices, outputs, self._level)


@lru_cache(maxsize=256)
def _stream(key: StreamKey) -> Stream:
    """Lengths and constants in the extension's own form."""
    from atc_backtest.kernels._rust import Stream

    layout = StreamLayout.of(key)
    return Stream(layout, StreamConstants.of(layout))
