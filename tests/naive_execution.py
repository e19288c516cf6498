"""docs/execution.md once more, for tests: whole arrays, no stretches, no state that travels; slow and short."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from atc_backtest.accounts import BEST, CLOSE, NEXT_OPEN, OPEN_FIRST, Bars, Rules


@dataclass
class Position:
    side: int
    units: float
    bar: int
    price: float
    fee: float
    worth: float
    atr: float
    best: float
    funding: float = 0.0


@dataclass
class Naive:
    """`trades`: side, entry bar, entry price, exit bar, exit price, pnl, reason; `equity` NaN where nothing counts."""

    equity: list[float]
    cash: float
    trades: list[tuple[int, int, float, int, float, float, str]] = field(default_factory=list)
    position: Position | None = None
    funding: float = 0.0
    ambiguous: int = 0
    stopped: int = 0
    ruined: bool = False


def targets(rules: Rules, signal: np.ndarray, first: int) -> list[int]:
    """What every bar decides; before the first evaluated one nothing."""
    found = [0] * len(signal)
    for t in range(first, len(signal)):
        neutral = found[t - 1] if rules.hold and t > first and not np.isnan(signal[t]) else 0
        found[t] = 1 if signal[t] > rules.long_threshold else -1 if signal[t] < rules.short_threshold else neutral
    return found


def average_true_range(bars: Bars, length: int) -> np.ndarray:
    prior = np.roll(bars.close, 1)
    prior[0] = np.nan
    high, low = (np.where(np.isnan(x), bars.close, x) for x in (bars.high, bars.low))
    ranges = np.nanmax(np.stack([high - low, abs(high - prior), abs(low - prior)]), axis=0)
    if len(ranges) < length:
        return np.full(len(ranges), np.nan)
    seeded = np.concatenate(([ranges[:length].mean()], ranges[length:]))
    smoothed = pd.Series(seeded).ewm(alpha=1 / length, adjust=False).mean().to_numpy()
    return np.concatenate((np.full(length - 1, np.nan), smoothed))


def naive(rules: Rules, bars: Bars) -> Naive:
    """Every rule, bar by bar."""
    n = len(bars.ts)
    counted = (np.arange(n) >= rules.warmup_bars) & (bars.ts >= rules.eval_start_ns) & (bars.ts < rules.eval_end_ns)
    first = int(np.argmax(counted)) if counted.any() else n
    decided = targets(rules, bars.signal, first)
    atr = average_true_range(bars, rules.atr_length)
    book = Naive([math.nan] * n, rules.start_equity)
    for t in np.flatnonzero(counted).tolist():
        if book.ruined:
            book.equity[t] = 0.0
            continue
        known = atr[t - 1] if t else math.nan
        before = decided[t - 1 - rules.delay] if t - 1 - rules.delay >= 0 else 0
        if t and book.position:
            fund(book, rules, int(bars.ts[t - 1]) + rules.bar_ns, int(bars.ts[t]), bars.close[t - 1])
        if rules.fill == NEXT_OPEN:
            follow(book, rules, before, t, bars.open[t], known)
        else:
            wait(book, before)
        if book.position and rules.stops:
            look_for_stops(book, rules, bars, t, before)
        if book.position:
            highs_lows = (bars.high[t], bars.low[t])[:: book.position.side]
            if book.position.side * (highs_lows[0] - book.position.best) > 0:
                book.position.best = highs_lows[0]
            fund(book, rules, int(bars.ts[t]) + 1, int(bars.ts[t]) + rules.bar_ns - 1, bars.close[t])
        if rules.fill == CLOSE:
            follow(book, rules, decided[t - rules.delay] if t >= rules.delay else 0, t, bars.close[t], atr[t])
        elif rules.fill != NEXT_OPEN:
            follow(book, rules, before, t, bars.close[t], known)
        held = book.position
        book.equity[t] = max(0.0, book.cash + (held.side * held.units * bars.close[t] if held else 0.0))
        if book.equity[t] == 0.0 and not book.ruined:
            assert held is not None
            book.ruined = True
            book.trades.append((held.side, held.bar, held.price, t, bars.close[t], -held.worth, "ruin"))
            book.position = None
    return book


def wait(book: Naive, target: int) -> int:
    """The order of a target: none while it is the side that was stopped."""
    book.stopped = book.stopped if target == book.stopped else 0
    return 0 if book.stopped else target


def follow(book: Naive, rules: Rules, target: int, t: int, price: float, atr: float) -> None:
    order = wait(book, target)
    side = book.position.side if book.position else 0
    if order == side or math.isnan(price):
        return
    if book.position:
        leave(book, rules, t, price, "reversal" if order else "signal")
    if order and not book.ruined:
        fill = price * (1 + order * rules.slippage)
        units = rules.size * book.cash / fill
        fee = rules.fee * units * fill
        if book.cash - fee + order * units * (price - fill) > 0:
            book.position = Position(order, units, t, fill, fee, book.cash, atr, fill)
            book.cash -= order * units * fill + fee


def leave(book: Naive, rules: Rules, t: int, price: float, reason: str) -> None:
    held = book.position
    assert held is not None
    fill = price * (1 - held.side * rules.slippage)
    fee = rules.fee * held.units * fill
    book.cash += held.side * held.units * fill - fee
    pnl = held.side * held.units * (fill - held.price) - held.fee - fee - held.funding
    if book.cash <= 0:
        book.cash, book.ruined, reason, pnl = 0.0, True, "ruin", -held.worth
    book.trades.append((held.side, held.bar, held.price, t, fill, pnl, reason))
    book.position = None


def look_for_stops(book: Naive, rules: Rules, bars: Bars, t: int, target: int) -> None:
    held = book.position
    assert held is not None
    side = held.side
    opened, close = bars.open[t] if rules.opens else math.nan, bars.close[t]
    high, low = (close if math.isnan(x) else x for x in (bars.high[t], bars.low[t]))
    levels: list[tuple[float, str]] = []  # of loss stops, in units of the side: larger is nearer
    for share, multiple, base, name in (
        (rules.stop_share, rules.stop_atr, held.price, "stop_loss"),
        (rules.trail_share, rules.trail_atr, held.best, "trailing_stop"),
    ):
        if share > 0 or multiple * held.atr > 0:
            levels.append((base - side * (share * base + (multiple * held.atr if multiple else 0.0)), name))
    loss, reason = max(
        levels, key=lambda level: (side * level[0], level[1] == "stop_loss"), default=(-side * math.inf, "")
    )
    away = rules.profit_share * held.price + (rules.profit_atr * held.atr if rules.profit_atr else 0.0)
    profit = held.price + side * away if away > 0 else side * math.inf
    lost, won = side * (low if side > 0 else high) <= side * loss, side * (high if side > 0 else low) >= side * profit
    if side * opened <= side * loss:
        price = opened
    elif side * opened >= side * profit:
        price, reason = opened, "take_profit"
    elif lost or won:
        if lost and won:
            book.ambiguous += 1
            won = rules.intrabar == BEST or (rules.intrabar == OPEN_FIRST and abs(profit - opened) < abs(opened - loss))
        price = profit if won else min(loss * side, close * side) * side if math.isnan(opened) else loss
        reason = "take_profit" if won else reason
    else:
        return
    leave(book, rules, t, price, reason)
    book.stopped = side if target == side else 0  # a target that has left already may come back at once


def fund(book: Naive, rules: Rules, start: int, stop: int, price: float) -> None:
    """Every instant from start to stop, both included, one by one."""
    held = book.position
    assert held is not None
    instant = -(-start // rules.funding_ns) * rules.funding_ns
    while instant <= stop and rules.funding:
        paid = rules.funding * held.side * held.units * price
        book.cash -= paid
        book.funding += paid
        held.funding += paid
        instant += rules.funding_ns
