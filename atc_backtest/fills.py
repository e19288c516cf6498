"""The loop over bars: what is decided, filled and marked, in which order.

Plain Python over arrays and an account's fields, compiled by `execution`; docs/execution.md has the rules. A bar on
which something may happen goes through every step. The bars after it that change nothing (the target stays, the
position is the target's, no stop is set and no funding falls due) are one stretch: found by the signal alone, and
marked together.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atc_backtest.accounts import CLOSE, F64, I8, I64, NEXT_OPEN, RUIN, Rules
from atc_backtest.booking import end_trade, side_of, trade
from atc_backtest.stops import pay_funding, stop_out, take_range, take_ranges


def fill_bars(
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
) -> tuple[int, int, int, int]:
    """Decide, fill and mark the bars of a block: those evaluated are begin .. end-1, `stop` come before `eval_end`.

    Returns begin, end, stop and the trades closed. Fills what `Saved` has room for.
    """
    begin, stop = _evaluated(account, rules, ts)
    _blank(position, equity, exposure, 0, begin, math.nan)
    _blank(position, equity, exposure, stop, ts.shape[0], math.nan)
    funded = account["funding_rate"] != 0.0
    tracked = rules.stops or trades.shape[0] > 0
    if rules.ranged:
        take_ranges(account, rules, high, low, close, 0, begin)
    first, target, stopped, queue = account["bars"], account["target"], account["stopped"], account["queue"]
    side = side_of(account)
    closed = held = 0
    i = end = begin
    while i < stop and not account["ruined"]:
        t = first + i
        prior = close[i - 1] if i > 0 else account["prior_close"]
        wanted = target if rules.delay == 0 else _oldest(queue, rules.delay)
        stopped = stopped if wanted == stopped else 0
        wanted = 0 if wanted == stopped else wanted
        if funded and side != 0:
            before = ts[i - 1] if i > 0 else account["ts"]
            pay_funding(account, rules, before + rules.bar_ns - 1, ts[i], prior)
        if rules.fill == NEXT_OPEN and side != wanted:
            closed = trade(account, rules, wanted, ts[i], t, open_[i], trades, closed)
            side = side_of(account)
        if rules.stops and side != 0:
            opened = open_[i] if rules.opens else math.nan
            account["stopped"] = 0
            closed = stop_out(account, rules, ts[i], t, (opened, high[i], low[i], close[i]), trades, closed)
            side = side_of(account)
            if account["stopped"] != 0 and account["stopped"] == wanted:  # else the target has left it already
                stopped = wanted
                wanted = 0
        if side != 0:
            held += 1
            if tracked:
                _track(account, high, low, i, i + 1)
            if funded:
                pay_funding(account, rules, ts[i], ts[i] + rules.bar_ns - 1, close[i])
        if rules.ranged and rules.fill == CLOSE:
            take_range(account, rules, high[i], low[i], close[i], prior)
        queue = _pushed(queue, target, rules.delay)
        target = _decided(rules, target, signal[i])
        if rules.fill == CLOSE:
            wanted = target if rules.delay == 0 else _oldest(queue, rules.delay)
            stopped = stopped if wanted == stopped else 0
            wanted = 0 if wanted == stopped else wanted
        if rules.fill != NEXT_OPEN and side != wanted:
            closed = trade(account, rules, wanted, ts[i], t, close[i], trades, closed)
            side = side_of(account)
        if rules.ranged and rules.fill != CLOSE:
            take_range(account, rules, high[i], low[i], close[i], prior)

        order = 0 if target == stopped else target
        equity[i] = account["cash"] + account["units"] * close[i]
        position[i] = order
        end = i + 1
        quiet = side == order and (side == 0 or not (rules.stops or funded)) and (stopped == 0 or stopped == target)
        if quiet and equity[i] > 0.0 and (rules.delay == 0 or queue == _uniform(target, rules.delay)):
            end = _hold(account, rules, target, order, signal, close, position, equity, end, stop)
            if side != 0:
                held += end - i - 1
                if tracked:
                    _track(account, high, low, i + 1, end)
            if rules.ranged:
                take_ranges(account, rules, high, low, close, i + 1, end)
        if exposure.shape[0]:
            _expose(account, close, equity, exposure, i, end)
        if equity[end - 1] <= 0.0:
            if not account["ruined"]:
                closed = end_trade(account, ts[end - 1], first + end - 1, close[end - 1], 0.0, RUIN, trades, closed)
            equity[end - 1] = 0.0
            target = side = 0
        i = end
    if account["ruined"]:
        if end > begin:
            _blank(position, equity, exposure, end - 1, end, 0.0)
        _blank(position, equity, exposure, end, stop, 0.0)
    account["held"] += held
    account["target"], account["stopped"], account["queue"] = target, stopped, queue
    if stop > 0:
        account["prior_close"] = close[stop - 1]
    return begin, end, stop, closed


def _evaluated(account: Any, rules: Rules, ts: I64) -> tuple[int, int]:
    """Bars of the block from the first evaluated one to the end of evaluation, half-open."""
    stop = ts.shape[0]
    while stop > 0 and ts[stop - 1] >= rules.eval_end_ns:
        stop -= 1
    begin = 0
    if account["started"] == 0:
        while begin < stop and (account["bars"] + begin < rules.warmup_bars or ts[begin] < rules.eval_start_ns):
            begin += 1
        account["started"] = 1 if begin < stop else 0
    return begin, stop


def _blank(position: I8, equity: F64, exposure: F64, start: int, stop: int, value: float) -> None:
    """Bars without a position: not evaluated (NaN), or after a ruin (0)."""
    for i in range(start, stop):
        position[i] = 0
        equity[i] = value
        if exposure.shape[0]:
            exposure[i] = value


def _decided(rules: Rules, target: int, a: float) -> int:
    """The target that the signal decides: long, short, or neutral; a NaN is flat."""
    if a > rules.long_threshold:
        return 1
    if a < rules.short_threshold:
        return -1
    return target if rules.hold and a == a else 0


def _hold(
    account: Any,
    rules: Rules,
    target: int,
    order: int,
    signal: F64,
    close: F64,
    position: I8,
    equity: F64,
    start: int,
    stop: int,
) -> int:
    """Mark bars from `start` on while they decide the same target: the end of them, or of one that leaves nothing."""
    cash, units = account["cash"], account["units"]
    i = start
    while i < stop and _decided(rules, target, signal[i]) == target:
        worth = cash + units * close[i]
        equity[i] = worth
        position[i] = order
        i += 1
        if worth <= 0.0:
            break
    return i


def _pushed(queue: int, target: int, delay: int) -> int:
    """The queue with `target` as its newest, the oldest one gone."""
    return ((queue << 2) | (target & 3)) & ((1 << (2 * delay)) - 1)


def _oldest(queue: int, delay: int) -> int:
    """The target decided `delay` bars before the last one."""
    bits = (queue >> (2 * (delay - 1))) & 3
    return -1 if bits == 3 else bits


def _uniform(target: int, delay: int) -> int:
    """The queue of one target alone."""
    return ((1 << (2 * delay)) - 1) // 3 * (target & 3)


def _expose(account: Any, close: F64, equity: F64, exposure: F64, start: int, stop: int) -> None:
    """Market value over equity of the bars of one position."""
    units = account["units"]
    for i in range(start, stop):
        exposure[i] = units * close[i] / equity[i] if units != 0.0 and equity[i] > 0.0 else 0.0


def _track(account: Any, high: F64, low: F64, start: int, stop: int) -> None:
    """The best and worst prices of these bars, a NaN left out, into the open trade's."""
    top, bottom = account["trade_high"], account["trade_low"]
    for i in range(start, stop):
        top = high[i] if high[i] > top else top
        bottom = low[i] if low[i] < bottom else bottom
    account["trade_high"], account["trade_low"] = top, bottom


COMPILED = (_evaluated, _blank, _decided, _hold, _pushed, _oldest, _uniform, _expose, _track, fill_bars)
