"""What is drawn of one symbol and set: computed again by one pass over the prices, whatever the run has saved.

The pass is the backtest's own (`Stream`): same version of the store, same bits. Memory does not grow with the bars:
series are thinned out as they come, returns counted, trades above `TRADES` thinned out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atc_backtest.accounts import TRADE
from atc_backtest.config import FAMILIES
from atc_backtest.execution import open_trade
from atc_backtest.kernels import get_kernel
from atc_backtest.metrics import figures
from atc_backtest.periods import PERIOD, end_period
from atc_backtest.pipelines.accounting import Advanced
from atc_backtest.pipelines.backtest import compile_kernel
from atc_backtest.pipelines.calendar_returns import Row
from atc_backtest.pipelines.job import PERIODS
from atc_backtest.pipelines.pages.histogram import Distribution, Histogram
from atc_backtest.pipelines.pages.monthly import rows_of
from atc_backtest.pipelines.pages.sampling import F64, I64, NearAndFar, Sampled
from atc_backtest.pipelines.plan import Partition
from atc_backtest.pipelines.runs import Run, job_of, prices_of
from atc_backtest.pipelines.stream import EXPOSURE, LAYERS, Stream
from atc_backtest.stores.base import Store

LINES = ("equity", "hold", "drawdown", "hold_drawdown", "close", "signal")
LAYER1 = tuple(f"layer1_{family}" for family in FAMILIES)
WEIGHTS = tuple(f"weight_{family}" for family in FAMILIES)
MEANS = ("exposure", "long", "short", *LAYER1, *WEIGHTS)
"""`exposure`: market value over equity; `long`, `short`: 1 where such a position is held; weights add up to 1."""

TRADES = 4000
EXTREME_TRADES = 400


@dataclass(frozen=True)
class Series:
    """One symbol and set.

    `sampled` is drawn of the whole span, `near` when one zooms in; None where all bars are drawn in any case.
    `periods`: rows of periods/, in order: days, or what the run saved. `trades`, `TRADE`, in order: all `n_trades`, or
    every `trade_step`-th and those of the largest gains and losses. `figures`: the columns of metrics/.
    """

    sampled: Sampled
    near: Sampled | None
    periods: list[Row]
    trades: NDArray[np.void]
    n_trades: int
    trade_step: int
    returns: Distribution | None
    figures: dict[str, Any]


def recompute(
    run: Run, symbol: str, param_id: int, show: Callable[[int, int], None] = lambda done, total: None
) -> Series:
    """One pass over the prices of `symbol` at the version that the run names; `show` takes bars done and in all.

    `StoreError` where that store or version is gone or another store is in its place.
    """
    job = replace(job_of(run, get_kernel().name), period="day")
    store = prices_of(job)
    compile_kernel(job)
    partition = Partition(0, (job.symbols.index(symbol),), (param_id, param_id + 1))
    stream = Stream(job, partition, store, ("trades", EXPOSURE, PERIODS, LAYERS))
    taking = _Taking(stream, store)
    n_bars, at = store.info.n_bars, 0
    with stream.blocks() as blocks:
        for ts, block in blocks:
            taking.ts = ts
            stream.advance(ts, block, taking)
            at += ts.size
            show(at, n_bars)
    return taking.finish(job.bars_per_year[param_id])


class _Taking:
    """Takes the account of a stream of one symbol and set, block by block. `ts`: of the block that comes next."""

    def __init__(self, stream: Stream, store: Store) -> None:
        self._stream = stream
        self._sampler = NearAndFar(store.info.symbols[stream.symbols[0]].n_bars, LINES, MEANS)
        self._histogram = Histogram()
        self._trades = KeptTrades()
        self._days: list[NDArray[np.void]] = []
        start = stream.rules[0].start_equity
        self._last, self._peak, self._hold_peak = start, start, start
        self.ts: I64 = np.zeros(0, np.int64)

    def __call__(self, rows: slice, set_: int, found: Advanced) -> None:
        room, n = self._stream.room, found.bars
        if found.periods:
            self._days.append(room.ended[: found.periods].copy())
        self._trades.add(room.saved.trades[: found.trades])
        if n == 0:
            return
        ts = room.ts[:n]
        equity, close = room.saved.equity[:n], room.picked[0, :n]
        start = self._stream.rules[0].start_equity
        first = float(self._stream.accounts[0][0]["hold_start"])
        hold = np.where(np.isnan(equity), np.nan, close / first * start) if first > 0 else np.full(n, np.nan)
        drawdown, self._peak = under_water(equity, self._peak)
        hold_drawdown, self._hold_peak = under_water(hold, self._hold_peak)
        self._count_returns(equity)
        lines = [equity, hold, drawdown, hold_drawdown, close, room.signal[:n]]
        exposure = room.saved.exposure[:n]
        sides = [np.where(np.isnan(exposure), np.nan, exposure > 0), np.where(np.isnan(exposure), np.nan, exposure < 0)]
        place = np.searchsorted(self.ts, ts)
        layer1, equity2 = (values[0][:, place] for values in self._stream.layers[0])
        weights = equity2 / equity2.sum(axis=0)
        self._sampler.add(ts, np.stack([*lines, exposure, *sides, *layer1, *weights]))

    def _count_returns(self, equity: F64) -> None:
        """Of the evaluated bars; an account that is ruined has no more."""
        returns, self._last = returns_of(equity[~np.isnan(equity)], self._last)
        self._histogram.add(returns)

    def finish(self, bars_per_year: float) -> Series:
        """What came in, and the figures of the account."""
        stream = self._stream
        account, day = stream.accounts[0][0], stream.periods[0][0]
        if day["n_bars"]:
            end_period(day, account)
            self._days.append(stream.periods[0].copy())
        self._trades.add(open_trade(account))
        sampled, near = self._sampler.finish()
        return Series(
            sampled=sampled,
            near=near,
            periods=rows_of(np.concatenate([np.zeros(0, PERIOD), *self._days])),
            trades=self._trades.kept(),
            n_trades=self._trades.n,
            trade_step=self._trades.step,
            returns=self._histogram.finish(),
            figures=figures(account, stream.rules[0], bars_per_year),
        )


def returns_of(equity: F64, last: float) -> tuple[F64, float]:
    """Per-bar returns of an account worth `last` before, and what it is worth then; none after a ruin."""
    values = np.concatenate([[last], equity])
    alive = values[:-1] > 0
    return values[1:][alive] / values[:-1][alive] - 1, float(values[-1])


def under_water(values: F64, peak: float) -> tuple[F64, float]:
    """Values over their running peak, less 1 (NaN stays), and the peak to go on with; it begins at `peak`."""
    peaks = np.fmax.accumulate(np.concatenate([[peak], values]))
    return values / peaks[1:] - 1, float(peaks[-1])


class KeptTrades:
    """At most some `TRADES` of any number: every `step`-th, a power of two, and the largest gains and losses."""

    def __init__(self) -> None:
        self.n = 0
        self.step = 1
        self._spread = self._largest = np.zeros(0, TRADE)

    def add(self, trades: NDArray[np.void]) -> None:
        """The next trades, in order."""
        places = np.arange(self.n, self.n + trades.size)
        self.n += trades.size
        self._spread = np.concatenate([self._spread, trades[places % self.step == 0]])
        while self._spread.size > TRADES:
            self._spread = self._spread[::2]
            self.step *= 2
        among = np.concatenate([self._largest, trades])
        order = np.argsort(-np.abs(among["pnl"]), kind="stable")[:EXTREME_TRADES]
        self._largest = among[np.sort(order)]

    def kept(self) -> NDArray[np.void]:
        """In order, each once."""
        if self.step == 1:
            return self._spread
        both = np.concatenate([self._spread, self._largest])
        _, first = np.unique(both["trade_id"], return_index=True)
        return both[first]
