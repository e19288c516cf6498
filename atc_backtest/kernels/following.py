"""Following a state bar by bar with a kernel that has no quicker way of its own."""

from __future__ import annotations

import numpy as np

from atc_backtest.kernels.protocol import F64, I64, Kernel, Outputs, Prices, State


class BlockFollower:
    """`Follower` for any kernel: every bar is a block."""

    def __init__(self, kernel: Kernel, state: State) -> None:
        self._kernel = kernel
        self._state = state

    def update(self, close: F64) -> F64:
        outputs = Outputs.allocate(["signal"], len(self._state.configs), self._state.n_symbols, 1)
        self._kernel.advance(self._state, Prices(close[:, None]), outputs)
        assert outputs.signal is not None  # asked for above
        return outputs.signal[:, :, 0]

    def update_one(self, symbol: int, close: float) -> list[float]:
        bar = np.full(self._state.n_symbols, np.nan)
        bar[symbol] = close
        signals: list[float] = self.update(bar)[:, symbol].tolist()
        return signals

    def bars(self) -> I64:
        return self._state.bars.copy()

    def state(self) -> State:
        return self._state
