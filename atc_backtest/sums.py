"""Running sums of an account's evaluated bars, of which the figures are made.

Plain Python over arrays and an account's fields, compiled by `execution`. Bars go in groups of `GROUP`, counted
from the first evaluated one: a group's returns are summed about the mean of those before it, and merged when it is
full. So a bar costs a few additions that do not wait for each other, no digits cancel, and no cut moves a bit.
"""

from __future__ import annotations

from typing import Any

from atc_backtest.accounts import F64, GROUP, I64, Rules


def sum_bars(account: Any, rules: Rules, ts: I64, close: F64, equity: F64, begin: int, end: int) -> None:
    """Take the evaluated bars begin .. end-1 of a block into the sums; `bars` counts those before the block."""
    if begin > 0 and account["n"] == 0:
        account["ts"] = ts[begin - 1]
    if begin >= end:
        return
    if account["n"] == 0:
        account["start_ts"] = ts[begin]
        account["peak_ts"] = account["ts"] if account["bars"] + begin > 0 else ts[begin]
        account["hold_start"] = account["hold_peak"] = account["hold_bottom"] = close[begin]
    start = begin
    while start < end:
        n = account["n"]
        stop = min(end, start + GROUP - n % GROUP)
        _sum_group(account, rules, ts, close, equity, start, stop)
        account["n"] = n + stop - start
        if account["n"] % GROUP == 0:
            merge_group(account)
        start = stop
    account["ts"] = ts[end - 1]
    account["close"] = close[end - 1]
    if account["bottom"] < account["peak"]:
        account["drawdown"] = min(account["drawdown"], account["bottom"] / account["peak"] - 1.0)
    if account["hold_bottom"] < account["hold_peak"]:
        account["hold_drawdown"] = min(account["hold_drawdown"], account["hold_bottom"] / account["hold_peak"] - 1.0)


def merge_group(account: Any) -> None:
    """Take the group's sums into mean and squares of all returns so far, and begin another."""
    total, n = account["group_sum"], account["n"]
    account["mean"] += total / n
    account["m2"] += account["group_squares"] - total * total / n
    account["group_sum"] = account["group_squares"] = 0.0


def _sum_group(account: Any, rules: Rules, ts: I64, close: F64, equity: F64, start: int, stop: int) -> None:
    """Bars of one group. Sums live in locals: a record's fields would go through memory at every bar."""
    last, mean, mar = account["equity"], account["mean"], rules.mar
    total, group_sum, group_squares = account["equity_sum"], account["group_sum"], account["group_squares"]
    downside = account["downside"]
    top = low = equity[start]
    hold_top = hold_low = close[start]
    for i in range(start, stop):
        r = equity[i] / last - 1.0
        last = equity[i]
        total += last
        deviation = r - mean
        group_sum += deviation
        group_squares += deviation * deviation
        short = r - mar
        short = short if short < 0.0 else 0.0
        downside += short * short
        top = last if last > top else top
        low = last if last < low else low
        hold_top = close[i] if close[i] > hold_top else hold_top
        hold_low = close[i] if close[i] < hold_low else hold_low
    account["equity"], account["equity_sum"], account["downside"] = last, total, downside
    account["group_sum"], account["group_squares"] = group_sum, group_squares
    if top >= account["peak"]:
        _follow_peaks(account, ts, equity, start, stop)
    elif low < account["bottom"]:
        account["bottom"] = low
    if hold_top >= account["hold_peak"]:
        _follow_hold(account, close, start, stop)
    elif hold_low < account["hold_bottom"]:
        account["hold_bottom"] = hold_low


def _follow_peaks(account: Any, ts: I64, equity: F64, start: int, stop: int) -> None:
    """Bar by bar where a peak is among them. Division rounds in order, so the deepest drawdown under one peak is
    that of the lowest value, divided once."""
    peak, peak_bar, bottom = account["peak"], account["peak_bar"], account["bottom"]
    for i in range(start, stop):
        value = equity[i]
        if value >= peak:
            bar = account["n"] + i - start
            if bar - peak_bar > 1:
                account["longest_bars"] = max(account["longest_bars"], bar - peak_bar)
                account["longest_ns"] = max(account["longest_ns"], ts[i] - account["peak_ts"])
            if bottom < peak:
                account["drawdown"] = min(account["drawdown"], bottom / peak - 1.0)
            peak = bottom = value
            peak_bar = bar
            account["peak_ts"] = ts[i]
        elif value < bottom:
            bottom = value
    account["peak"], account["peak_bar"], account["bottom"] = peak, peak_bar, bottom


def _follow_hold(account: Any, close: F64, start: int, stop: int) -> None:
    """The same of buy-and-hold, whose time under water is not asked for."""
    peak, bottom = account["hold_peak"], account["hold_bottom"]
    for i in range(start, stop):
        if close[i] >= peak:
            if bottom < peak:
                account["hold_drawdown"] = min(account["hold_drawdown"], bottom / peak - 1.0)
            peak = bottom = close[i]
        elif close[i] < bottom:
            bottom = close[i]
    account["hold_peak"], account["hold_bottom"] = peak, bottom


COMPILED = (merge_group, _follow_peaks, _follow_hold, _sum_group, sum_bars)
