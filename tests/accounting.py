"""Playing signals against prices, for the tests of execution, figures and oracles."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atc_backtest.accounts import Bars, Rules, Saved, new_accounts
from atc_backtest.config import ExecutionConfig, RunConfig
from atc_backtest.execution import AdvanceBars, advance, open_trade

DAY_NS = 86_400 * 10**9


@dataclass(frozen=True)
class Played:
    """What came of a series: the account at its end, closed and open trades, one value per bar."""

    account: NDArray[np.void]
    trades: NDArray[np.void]
    open: NDArray[np.void]
    position: NDArray[np.int8]
    equity: NDArray[np.float64]
    exposure: NDArray[np.float64]

    @property
    def bytes(self) -> bytes:
        parts = (self.account, self.trades, self.position, self.equity, self.exposure)
        return b"".join(part.tobytes() for part in parts)


RUN_SETTINGS = ("mar", "rf", "eval_start", "eval_end")


def make_rules(warmup_bars: int = 0, **settings: Any) -> Rules:
    """Rules for daily bars with the default thresholds and a start equity of 1000; any setting of [execution], and
    of [run] those in `RUN_SETTINGS`."""
    of_run = {name: settings.pop(name) for name in RUN_SETTINGS if name in settings}
    execution = ExecutionConfig(**({"fill": "next_open", "start_equity": 1000.0} | settings))
    return Rules.of(RunConfig(execution=execution, **of_run), warmup_bars, True, DAY_NS)


def make_bars(close: ArrayLike, signal: ArrayLike, **columns: ArrayLike) -> Bars:
    """Daily bars from the epoch; open, high, low and ts may be given by name."""
    ts = np.asarray(columns.pop("ts", np.arange(len(np.asarray(close))) * DAY_NS), dtype=np.int64)
    prices = {name: np.array(column, dtype=np.float64) for name, column in columns.items()}
    return Bars(ts, np.array(close, dtype=np.float64), np.array(signal, dtype=np.float64), **prices)


def cut(bars: Bars, start: int, stop: int) -> Bars:
    """Bars start .. stop-1, in arrays of their own."""
    columns = (bars.ts, bars.close, bars.signal, bars.open, bars.high, bars.low)
    pieces: Any = [None if column is None else column[start:stop].copy() for column in columns]
    return Bars(*pieces)


def play(rules: Rules, bars: Bars, run: AdvanceBars | None = None, cuts: tuple[int, ...] = ()) -> Played:
    """Advance a fresh account over the bars, in pieces ending at `cuts` and at the end."""
    account = new_accounts(rules, 1)
    n_bars = len(bars.ts)
    edges = [0, *sorted(cuts), n_bars]
    trades, position, equity, exposure = [], [], [], []
    saved = Saved.room(n_bars, exposure=True)
    for start, stop in pairwise(edges):
        closed = advance(account[0], rules, cut(bars, start, stop), saved, run)
        trades.append(saved.trades[:closed].copy())
        position.append(saved.position[: stop - start].copy())
        equity.append(saved.equity[: stop - start].copy())
        exposure.append(saved.exposure[: stop - start].copy())
    return Played(
        account,
        np.concatenate(trades),
        open_trade(account[0]),
        np.concatenate(position),
        np.concatenate(equity),
        np.concatenate(exposure),
    )


def random_bars(seed: int, n_bars: int, volatility: float = 0.02, nan_share: float = 0.02) -> Bars:
    """A walk with gaps between close and open, and a signal that crosses both thresholds and is at times NaN."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, volatility, n_bars)))
    open_ = np.concatenate((close[:1], close[:-1])) * np.exp(rng.normal(0, volatility / 4, n_bars))
    high = np.maximum(open_, close) * np.exp(np.abs(rng.normal(0, volatility / 4, n_bars)))
    low = np.minimum(open_, close) * np.exp(-np.abs(rng.normal(0, volatility / 4, n_bars)))
    signal = np.clip(np.repeat(rng.normal(0, 0.5, n_bars // 3 + 1), 3)[:n_bars], -1, 1)
    signal[rng.random(n_bars) < nan_share] = np.nan
    ts = np.cumsum(rng.integers(1, 4, n_bars)) * DAY_NS  # days are missing: elapsed time is not bars
    return Bars(ts.astype(np.int64), close, signal, open_, high, low)
