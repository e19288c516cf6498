"""What happens to a position within a bar: stops that its range reaches, and funding that falls due.

Plain Python over an account's fields, called by `fills` and compiled with it; docs/execution.md has the rules.
"""

from __future__ import annotations

import math
from typing import Any

from atc_backtest.accounts import BEST, F64, OPEN_FIRST, STOP_LOSS, TAKE_PROFIT, TRAILING_STOP, Rules
from atc_backtest.booking import leave, side_of


def stop_out(
    account: Any, rules: Rules, ts: int, t: int, prices: tuple[float, float, float, float], trades: Any, closed: int
) -> int:
    """Leave the position where bar t's `prices` (open, high, low, close) reach a stop; the trades closed so far.

    A stop beyond which the bar opens fills at the open. Where both lie within the range, `rules.intrabar` decides
    which was first and the bar is counted as ambiguous.
    """
    side = side_of(account)
    opened, high, low, close = prices
    high = high if high == high else close
    low = low if low == low else close
    worst, best = (low, high) if side > 0 else (high, low)
    loss, reason = _loss_stop(account, rules, side)
    profit = account["profit_price"]
    if side * (opened - loss) <= 0.0:  # false where there is no open
        price = opened
    elif side * (opened - profit) >= 0.0:
        price, reason = opened, TAKE_PROFIT
    else:
        lost, won = side * (worst - loss) <= 0.0, side * (best - profit) >= 0.0
        if not (lost or won):
            return closed
        if lost and won:
            account["ambiguous"] += 1
            nearer = abs(profit - opened) < abs(opened - loss)
            lost = not (rules.intrabar == BEST or (rules.intrabar == OPEN_FIRST and nearer))
        price = loss if lost else profit
        reason = reason if lost else TAKE_PROFIT
        if lost and math.isnan(opened) and side * (close - loss) < 0.0:
            price = close  # whether it opened beyond the stop is not known
    account["stopped"] = side
    return leave(account, ts, t, price, reason, trades, closed)


def _loss_stop(account: Any, rules: Rules, side: int) -> tuple[float, int]:
    """The nearer of stop-loss and trailing stop, and its name."""
    loss = account["stop_price"]
    distance = account["trail_distance"]
    if rules.trail_share > 0.0 or distance > 0.0:
        peak = account["trade_high"] if side > 0 else account["trade_low"]
        trail = peak * (1.0 - side * rules.trail_share) - side * distance
        if side * (trail - loss) > 0.0:
            return trail, TRAILING_STOP
    return loss, STOP_LOSS


def take_range(account: Any, rules: Rules, high: float, low: float, close: float, prior: float) -> None:
    """Take a bar's true range into Wilder's average: the mean of the first `atr_length`, then smoothed by it."""
    high = high if high == high else close
    low = low if low == low else close
    seen, length = account["atr_bars"], rules.atr_length
    true_range = high - low
    if seen > 0:
        true_range = max(true_range, abs(high - prior), abs(low - prior))
    account["atr_bars"] = seen + 1
    if seen < length:
        total = account["atr"] + true_range
        account["atr"] = total / length if seen + 1 == length else total
    else:
        account["atr"] = (account["atr"] * (length - 1) + true_range) / length


def take_ranges(account: Any, rules: Rules, high: F64, low: F64, close: F64, start: int, stop: int) -> None:
    """`take_range` of bars start .. stop-1 of a block."""
    for i in range(start, stop):
        take_range(account, rules, high[i], low[i], close[i], close[i - 1] if i > 0 else account["prior_close"])


def pay_funding(account: Any, rules: Rules, after: int, until: int, price: float) -> None:
    """What falls due at the instants in (after, until], on the position's market value at `price`."""
    instants = until // rules.funding_ns - after // rules.funding_ns
    if instants > 0:
        paid = instants * account["funding_rate"] * account["units"] * price
        account["cash"] -= paid
        account["funding"] += paid
        account["trade_funding"] += paid


COMPILED = (_loss_stop, stop_out, take_range, take_ranges, pay_funding)
