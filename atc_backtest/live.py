"""Live use: the same state machine, one bar at a time, exactly the batch result.

>>> from atc_backtest.config import AtcConfig
>>> live = Live([AtcConfig()], ["BTCUSDT", "ETHUSDT"], kernel="numba")
>>> live.update({"BTCUSDT": 64250.5, "ETHUSDT": 3127.85}).shape
(1, 2)
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atc_backtest.config import AtcConfig
from atc_backtest.errors import DataError
from atc_backtest.kernels import get_kernel
from atc_backtest.kernels.checkpoint import from_bytes, symbols_of, to_bytes
from atc_backtest.kernels.protocol import Outputs, Prices, State

F64 = NDArray[np.float64]


class Live:
    """Signals of some symbols under some configurations, updated in time that history does not change.

    Not for several threads at once. `symbols` fixes the order of every array.
    """

    def __init__(self, configs: Sequence[AtcConfig], symbols: Sequence[str], kernel: str = "auto") -> None:
        repeated = [name for name, count in Counter(symbols).items() if count > 1]
        if repeated:
            raise DataError(f"symbols named more than once: {', '.join(repeated)}. Name each once.")
        self._kernel = get_kernel(kernel)
        self._symbols = tuple(symbols)
        self._at = {name: at for at, name in enumerate(self._symbols)}
        self._use(self._kernel.new_state(configs, len(self._symbols)))

    def _use(self, state: State) -> None:
        self._configs = state.configs
        self._follower = self._kernel.follow(state)

    @property
    def symbols(self) -> tuple[str, ...]:
        return self._symbols

    @property
    def configs(self) -> tuple[AtcConfig, ...]:
        return self._configs

    @property
    def bars(self) -> NDArray[np.int64]:
        """[symbols] bars seen so far."""
        return self._follower.bars()

    def update(self, prices: Mapping[str, float] | ArrayLike) -> F64:
        """One closed bar: its closes to the final signals, float64 [configs, symbols].

        `prices`: a mapping symbol -> close (symbols left out have no bar), or one close per symbol
        in order (NaN: no bar). The result is NaN where there is no bar or no signal yet.
        Raises `DataError` for unknown symbols and prices that are not finite and > 0; the state is
        then as it was.
        """
        if isinstance(prices, Mapping):
            if len(prices) == 1:
                return self._one(*next(iter(prices.items())))
            bar = np.full(len(self._symbols), np.nan)
            for name, price in prices.items():
                bar[self._place(name)] = price
            return self._follower.update(bar)
        bar = np.asarray(prices, dtype=np.float64)
        if bar.shape != (len(self._symbols),):
            raise DataError(f"prices have shape {bar.shape}: give one per symbol, ({len(self._symbols)},).")
        return self._follower.update(np.ascontiguousarray(bar))

    def _one(self, name: str, price: float) -> F64:
        at = self._place(name)
        signals = np.full((len(self._configs), len(self._symbols)), np.nan)
        signals[:, at] = self._follower.update_one(at, price)
        return signals

    def _place(self, name: str) -> int:
        at = self._at.get(name)
        if at is None:
            raise DataError(f"unknown symbol {name!r}: this Live follows {', '.join(self._symbols[:20])}.")
        return at

    def warm_up(self, close: F64) -> F64:
        """Take history, float64 [symbols, bars] with NaN for missing bars; the last bar's signals.

        For a store: `live.warm_up(store.read("close", (0, n_symbols), (start, stop)))`, in pieces of
        any size.
        """
        outputs = Outputs.allocate(["signal"], len(self.configs), *close.shape)
        state = self._follower.state()
        self._kernel.advance(state, Prices(np.ascontiguousarray(close)), outputs)
        self._use(state)
        assert outputs.signal is not None  # asked for above
        last: F64 = outputs.signal[:, :, -1] if close.shape[1] else np.full(outputs.signal.shape[:2], np.nan)
        return last.copy()

    def save(self, path: Path) -> None:
        """Write the state: to a temporary file, synced, then renamed, so that `path` is always whole."""
        blob = to_bytes(self._follower.state(), self._symbols)
        hidden = path.with_name(f".{path.name}.tmp")
        with hidden.open("wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        hidden.replace(path)

    @classmethod
    def load(cls, path: Path, kernel: str = "auto") -> Live:
        """Go on from a saved state, on any kernel. `DataError` when it is damaged or something else."""
        try:
            blob = path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read the live state {path}: {error}.") from error
        live = cls(from_bytes(blob).configs, symbols_of(blob), kernel)
        live._use(from_bytes(blob))
        return live
