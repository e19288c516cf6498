"""Positions, fills and costs: the final signal of one symbol to trades, equity and running sums.

One account per (parameter set, symbol), advanced by any number of bars and as often as there are
pieces of the series: its whole memory is one `ACCOUNT` record. `advance_bars` and what it calls (`fills`,
`booking`, `stops`, `sums`) is plain Python over scalars; `advance` runs it compiled by Numba, with the same bits.

## The rules, where more than one reading is possible
docs/execution.md has an example of each.
- Bars are the present bars of the symbol; t counts them from its own first.
- The target is decided at the close of t from A[t]: long above `long_threshold` where longs are held, short
  below `short_threshold` where shorts are, otherwise neutral: flat, or what the target was (hold). A NaN is flat.
- The first evaluated bar e0 is the first with t >= `warmup_bars` and ts >= `eval_start_ns`; it is
  also the first whose target counts. The figures cover e0 .. last; E0 is the equity just before e0.
  Bars with ts >= `eval_end_ns` are not looked at: what is open stays open, marked at the close before.
- Fills at: next_open, the open of the next present bar; next_close, its close; close, the close of t
  itself; `delay` bars later. A present bar without an open (NaN) fills nothing: the order waits for the next bar.
- Buys pay p * (1 + slippage), sells get p * (1 - slippage); fee = rate * |units| * that fill price.
- units = size * equity / fill price, with the equity at that moment, all of it cash. A reversal
  closes, pays, and opens with what is left. While the target stays, the units stay.
- An entry whose costs would leave nothing (equity at the unslipped price <= 0) is not made.
- Stops: their distance is fixed at the entry, from the entry fill's price and the average true range of the last
  close before it (of that very close when filling there). A trailing stop follows the best price of the bars before,
  so a bar's own high never raises the stop that its low reaches. They are looked for in every bar from the entry on
  (after it, when the entry was at a close), after a fill at its open and before one at its close: beyond at the open
  fills at the open; reached by the range fills at the stop; both reached, `intrabar` decides: worst takes the loss,
  best the profit, open_first the one nearer to the open (the loss when equally near or without an open). Without an
  open a loss fills at the close where that is worse. Without high and low the close is the range.
- After a stop the target has to leave the stopped side, and may then come back: till then the position is flat.
- Funding: at every whole multiple of `funding_ns` since 1970 the position pays rate * units * price: in a bar, of
  what is held after its open and its stops, at its close; from the end of a bar to the open of the next, of what is
  held after the one's close, at that close. It counts into the trade's pnl.
- Ruin: a closing fill leaves cash <= 0, or a close marks equity <= 0. The account is closed at 0,
  the trade's reason is `ruin`, its pnl is the equity it was opened with. After a mark nothing is
  filled or paid: the position is written off. That bar is the last one evaluated; later ones have
  position 0 and equity 0.
- A bar is in position when units are held at its close, before any fill at that same close.
- mae and mfe: the worst and best price of the bars held and of the exit fill, as a fraction of the
  entry fill. A position opened at an open has seen that bar's range, one opened at a close has not;
  one closed at a close has seen the range, one closed at an open or by a stop only the fill.
- A drawdown runs from the last bar at the peak to the bar that regains it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atc_backtest import accounts, booking, fills, jit, stops, sums
from atc_backtest.accounts import ACCOUNT, F64, I8, I64, OPEN, TRADE, Bars, Rules, Saved
from atc_backtest.booking import open_pnl, write
from atc_backtest.config import RunConfig
from atc_backtest.fills import fill_bars
from atc_backtest.sums import sum_bars

PARTS = (booking, stops, fills, sums)
"""The modules that are compiled into `advance_bars`; `COMPILED` in each names their functions."""

SOURCES = (accounts, *PARTS)
"""The modules that compiled code depends on."""

AdvanceBars = Callable[..., int]


def advance(account: np.void, rules: Rules, bars: Bars, saved: Saved, run: AdvanceBars | None = None) -> int:
    """Take a block of bars into `account` (changed in place); the number of trades it closed.

    `account`: one element of `new_accounts`. `run`: the loop, compiled unless given. Cutting the
    series anywhere gives the same bits as one block.
    """
    saved.check(bars.ts.shape[0])
    run = compiled() if run is None else run
    close = bars.close
    open_ = close if bars.open is None else bars.open
    high = close if bars.high is None else bars.high
    low = close if bars.low is None else bars.low
    series = (bars.ts, open_, high, low, close, bars.signal)
    return run(account, rules, *series, saved.trades, saved.position, saved.equity, saved.exposure)


def open_trade(account: np.void) -> NDArray[np.void]:
    """The trade still open, marked at the last close, as `TRADE` [1]; [0] when flat."""
    trades = np.zeros(1 if account["units"] != 0.0 else 0, dtype=TRADE)
    for trade in trades:
        pnl = open_pnl(account, account["close"])
        write(account, trade, account["ts"], account["bars"] - 1, account["close"], 0.0, pnl, OPEN)
    return trades


def advance_bars(
    account: Any,
    rules: Rules,
    ts: I64,
    open_: F64,
    high: F64,
    low: F64,
    close: F64,
    signal: F64,
    trades: NDArray[np.void],
    position: I8,
    equity: F64,
    exposure: F64,
) -> int:
    """The loop behind `advance`: arguments as there, unchecked."""
    begin, end, stop, closed = fill_bars(
        account, rules, ts, open_, high, low, close, signal, trades, position, equity, exposure
    )
    sum_bars(account, rules, ts, close, equity, begin, end)
    account["bars"] += stop
    return closed


@cache
def jitable() -> None:
    """Let compiled code call `advance_bars` and what it is made of; once is enough."""
    from numba.extending import register_jitable

    for function in (*(function for part in PARTS for function in part.COMPILED), advance_bars):
        register_jitable(function)


@cache
def compiled() -> AdvanceBars:
    """`advance_bars` as machine code that releases the GIL: compiled, or read from Numba's cache, once.

    One signature, inputs read-only: arrays of a store's map and fresh ones run the same code.
    """
    import numba

    jitable()
    typeof: Any = numba.typeof
    rules = Rules.of(RunConfig(), 0, has_open=True)
    series = numba.types.Array(numba.float64, 1, "C", readonly=True)
    signature = numba.int64(
        typeof(np.zeros(1, ACCOUNT)[0]),
        typeof(rules),
        numba.types.Array(numba.int64, 1, "C", readonly=True),
        *(series,) * 5,
        typeof(np.zeros(0, TRADE)),
        numba.int8[::1],
        numba.float64[::1],
        numba.float64[::1],
    )
    return jit.compiled(advance_bars, [signature], sources=SOURCES, allocates=False)
