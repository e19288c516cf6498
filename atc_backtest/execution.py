"""Positions, fills and costs: the final signal of one symbol to trades, equity and running sums.

One account per (parameter set, symbol), advanced by any number of bars and as often as there are
pieces of the series: its whole memory is one `ACCOUNT` record. `advance_bars` is plain Python over
scalars; `advance` runs the same function compiled by Numba, with the same bits.

## The rules, where more than one reading is possible
- Bars are the present bars of the symbol; t counts them from its own first.
- The target is decided at the close of t from A[t]: long above `long_threshold`, short below
  `short_threshold` where shorts are allowed, otherwise neutral: flat, or what the target was (hold).
  A NaN is flat. With shorts off, A below `short_threshold` is neutral too.
- The first evaluated bar e0 is the first with t >= `warmup_bars` and ts >= `eval_start_ns`; it is
  also the first whose target counts. The figures cover e0 .. last; E0 is the equity just before e0.
- Fills at: next_open, the open of the next present bar; next_close, its close; close, the close of t
  itself. A present bar without an open (NaN) fills nothing: the order waits for the next bar.
- Buys pay p * (1 + slippage), sells get p * (1 - slippage); fee = rate * |units| * that fill price.
- units = size * equity / fill price, with the equity at that moment, all of it cash. A reversal
  closes, pays, and opens with what is left. While the target stays, the units stay.
- An entry whose costs would leave nothing (equity at the unslipped price <= 0) is not made.
- Ruin: a closing fill leaves cash <= 0, or a close marks equity <= 0. The account is closed at 0,
  the trade's reason is `ruin`, its pnl is the equity it was opened with. After a mark nothing is
  filled or paid: the position is written off. That bar is the last one evaluated; later ones have
  position 0 and equity 0.
- A bar is in position when units are held at its close, before any fill at that same close.
- mae and mfe: the worst and best price of the bars held and of the exit fill, as a fraction of the
  entry fill. A position opened at an open has seen that bar's range, one opened at a close has not;
  one closed at a close has seen the range, one closed at an open only the fill.
- A drawdown runs from the last bar at the peak to the bar that regains it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atc_backtest import jit
from atc_backtest.accounts import (
    ACCOUNT,
    CLOSE,
    F64,
    I8,
    I64,
    NEXT_CLOSE,
    NEXT_OPEN,
    OPEN,
    REVERSAL,
    RUIN,
    SIGNAL,
    TRADE,
    Bars,
    Rules,
    Saved,
)
from atc_backtest.config import RunConfig

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
        pnl = account["units"] * (account["close"] - account["entry_price"]) - account["entry_fee"]
        _write(account, trade, account["ts"], account["bars"] - 1, account["close"], 0.0, pnl, OPEN)
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
    closed = _fill_bars(account, rules, ts, open_, high, low, close, signal, trades, position, equity, exposure)
    _sum_bars(account, rules, ts, close, equity)
    return closed


def _fill_bars(
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
    """Decide, fill and mark bar by bar; the trades closed. Fills what `Saved` has room for."""
    exposes = exposure.shape[0] > 0
    closed = 0
    held = 0
    first = account["bars"]
    target = account["target"]
    side = _side(account)
    for i in range(ts.shape[0]):
        t = first + i
        if account["started"] == 0:
            if t < rules.warmup_bars or ts[i] < rules.eval_start_ns:
                position[i] = 0
                equity[i] = math.nan
                if exposes:
                    exposure[i] = math.nan
                continue
            account["started"] = 1
        if account["ruined"]:
            position[i] = 0
            equity[i] = 0.0
            if exposes:
                exposure[i] = 0.0
            continue

        if rules.fill == NEXT_OPEN and side != target:
            closed = _trade(account, rules, target, ts[i], t, open_[i], trades, closed)
            side = _side(account)
        if side != 0:
            held += 1
            if high[i] > account["trade_high"]:
                account["trade_high"] = high[i]
            if low[i] < account["trade_low"]:
                account["trade_low"] = low[i]
        if rules.fill == NEXT_CLOSE and side != target:
            closed = _trade(account, rules, target, ts[i], t, close[i], trades, closed)
            side = _side(account)
        if signal[i] > rules.long_threshold:
            target = 1
        elif signal[i] < rules.short_threshold and rules.shorts:
            target = -1
        elif not rules.hold or math.isnan(signal[i]):
            target = 0
        if rules.fill == CLOSE and side != target:
            closed = _trade(account, rules, target, ts[i], t, close[i], trades, closed)
            side = _side(account)

        worth = account["cash"] + account["units"] * close[i]
        if worth <= 0.0:
            worth = 0.0
            if not account["ruined"]:
                closed = _end_trade(account, ts[i], t, close[i], 0.0, RUIN, trades, closed)
            target = side = 0
        position[i] = target
        equity[i] = worth
        if exposes:
            exposure[i] = account["units"] * close[i] / worth if side != 0 else 0.0
    account["bars"] = first + ts.shape[0]
    account["held"] += held
    account["target"] = target
    return closed


def _side(account: Any) -> int:
    """1 long, -1 short, 0 flat."""
    units = account["units"]
    return 1 if units > 0.0 else -1 if units < 0.0 else 0


def _trade(account: Any, rules: Rules, target: int, ts: int, t: int, price: float, trades: Any, closed: int) -> int:
    """Bring the position to another side at `price` (NaN: not now); the trades closed so far."""
    units = account["units"]
    if math.isnan(price):
        return closed
    if units != 0.0:
        fill = price * (1.0 - rules.slippage) if units > 0.0 else price * (1.0 + rules.slippage)
        value = abs(units) * fill
        fee = rules.fee * value
        account["cash"] = account["cash"] + units * fill - fee
        account["fees"] += fee
        account["traded"] += value
        reason = RUIN if account["cash"] <= 0.0 else SIGNAL if target == 0 else REVERSAL
        closed = _end_trade(account, ts, t, fill, fee, reason, trades, closed)
    if target != 0:  # after a ruin there is no cash, and so no entry
        _enter(account, rules, target, ts, t, price)
    return closed


def _enter(account: Any, rules: Rules, target: int, ts: int, t: int, price: float) -> None:
    """Open the target's side with a fraction of the cash, unless its costs would leave nothing."""
    cash = account["cash"]
    fill = price * (1.0 + rules.slippage) if target > 0 else price * (1.0 - rules.slippage)
    size = rules.size * cash / fill
    value = size * fill
    fee = rules.fee * value
    units = size if target > 0 else -size
    left = cash - units * fill - fee
    if left + units * price <= 0.0:
        return
    account["cash"] = left
    account["units"] = units
    account["fees"] += fee
    account["traded"] += value
    account["entry_ts"] = ts
    account["entry_bar"] = t
    account["entry_price"] = fill
    account["entry_fee"] = fee
    account["entry_equity"] = cash
    account["trade_high"] = fill
    account["trade_low"] = fill


def _end_trade(account: Any, ts: int, t: int, price: float, fee: float, reason: int, trades: Any, closed: int) -> int:
    """Book the position as closed at `price`, the cash being settled; ruin takes all that is left."""
    pnl = account["units"] * (price - account["entry_price"]) - account["entry_fee"] - fee
    if reason == RUIN:
        pnl = -account["entry_equity"]
        account["cash"] = 0.0
        account["ruined"] = 1
    gain = pnl / (abs(account["units"]) * account["entry_price"])
    if trades.shape[0]:
        _write(account, trades[closed], ts, t, price, fee, pnl, reason)

    account["units"] = 0.0
    account["trades"] += 1
    account["trade_bars"] += t - account["entry_bar"]
    if pnl > 0.0:
        account["wins"] += 1
        account["win_sum"] += pnl
    elif pnl < 0.0:
        account["losses"] += 1
        account["loss_sum"] += pnl
    deviation = pnl - account["pnl_mean"]
    account["pnl_mean"] += deviation / account["trades"]
    account["pnl_m2"] += deviation * (pnl - account["pnl_mean"])
    if account["trades"] == 1 or gain > account["best"]:
        account["best"] = gain
    if account["trades"] == 1 or gain < account["worst"]:
        account["worst"] = gain
    return closed + 1


def _write(account: Any, trade: Any, ts: int, t: int, price: float, fee: float, pnl: float, reason: int) -> None:
    """Fill one `TRADE` with the account's position, leaving it at `price`."""
    entry = account["entry_price"]
    units = abs(account["units"])
    top = price if price > account["trade_high"] else account["trade_high"]
    bottom = price if price < account["trade_low"] else account["trade_low"]
    up = top / entry - 1.0
    down = bottom / entry - 1.0
    long = account["units"] > 0.0
    trade["trade_id"] = account["trades"]
    trade["side"] = 1 if long else -1
    trade["units"] = units
    trade["entry_ts"] = account["entry_ts"]
    trade["entry_bar"] = account["entry_bar"]
    trade["entry_price"] = entry
    trade["entry_fee"] = account["entry_fee"]
    trade["exit_ts"] = ts
    trade["exit_bar"] = t
    trade["exit_price"] = price
    trade["exit_fee"] = fee
    trade["pnl"] = pnl
    trade["return"] = pnl / (units * entry)
    trade["bars"] = t - account["entry_bar"]
    trade["reason"] = reason
    trade["mae"] = down if long else 0.0 - up
    trade["mfe"] = up if long else 0.0 - down


def _sum_bars(account: Any, rules: Rules, ts: I64, close: F64, equity: F64) -> None:
    """Take the evaluated bars of `equity` into the running sums: a NaN is before, a ruin the last.

    The sums live in locals: a record's fields would go through memory at every bar. Division rounds in order,
    so that the deepest drawdown under one peak is that of the lowest value, divided once.
    """
    n, start_ts, last_ts, last = account["n"], account["start_ts"], account["ts"], account["equity"]
    total, mean, m2, downside = account["equity_sum"], account["mean"], account["m2"], account["downside"]
    peak, peak_bar, peak_ts = account["peak"], account["peak_bar"], account["peak_ts"]
    drawdown, longest_bars, longest_ns = account["drawdown"], account["longest_bars"], account["longest_ns"]
    hold_start, hold_peak, hold_drawdown = (
        account["hold_start"],
        account["hold_peak"],
        account["hold_drawdown"],
    )
    last_close, seen = account["close"], account["bars"] - ts.shape[0]
    bottom, hold_bottom = peak, hold_peak
    for i in range(ts.shape[0]):
        if math.isnan(equity[i]):
            last_ts = ts[i]
            continue
        if last == 0.0:
            break
        if n == 0:
            start_ts = ts[i]
            peak_ts = last_ts if seen + i > 0 else start_ts
            hold_start = hold_peak = hold_bottom = close[i]
        r = equity[i] / last - 1.0
        last = equity[i]
        last_ts = ts[i]
        last_close = close[i]
        total += last
        deviation = r - mean
        mean += deviation * (1.0 / (n + 1))
        m2 += deviation * (r - mean)
        short = r - rules.mar
        short = short if short < 0.0 else 0.0
        downside += short * short

        if last >= peak:
            if n - peak_bar > 1:
                longest_bars = max(longest_bars, n - peak_bar)
                longest_ns = max(longest_ns, last_ts - peak_ts)
            if bottom < peak:
                drawdown = min(drawdown, bottom / peak - 1.0)
            peak, peak_bar, peak_ts = last, n, last_ts
            bottom = last
        elif last < bottom:
            bottom = last
        if last_close >= hold_peak:
            if hold_bottom < hold_peak:
                hold_drawdown = min(hold_drawdown, hold_bottom / hold_peak - 1.0)
            hold_peak = hold_bottom = last_close
        elif last_close < hold_bottom:
            hold_bottom = last_close
        n += 1
    if bottom < peak:
        drawdown = min(drawdown, bottom / peak - 1.0)
    if hold_bottom < hold_peak:
        hold_drawdown = min(hold_drawdown, hold_bottom / hold_peak - 1.0)
    account["n"], account["start_ts"], account["ts"], account["equity"] = n, start_ts, last_ts, last
    account["equity_sum"], account["mean"], account["m2"], account["downside"] = total, mean, m2, downside
    account["peak"], account["peak_bar"], account["peak_ts"] = peak, peak_bar, peak_ts
    account["drawdown"], account["longest_bars"], account["longest_ns"] = drawdown, longest_bars, longest_ns
    account["hold_start"], account["hold_peak"], account["hold_drawdown"] = (
        hold_start,
        hold_peak,
        hold_drawdown,
    )
    account["close"] = last_close


@cache
def jitable() -> None:
    """Let compiled code call `advance_bars` and what it is made of; once is enough."""
    from numba.extending import register_jitable

    for part in (_side, _write, _end_trade, _enter, _trade, _fill_bars, _sum_bars, advance_bars):
        register_jitable(part)


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
    return jit.compiled(advance_bars, [signature])
