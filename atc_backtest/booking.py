"""Trades: what a fill does to an account, and how a closed trade is booked.

Plain Python over an account's fields, called by `fills` and compiled with it; docs/execution.md has the rules.
"""

from __future__ import annotations

import math
from typing import Any

from atc_backtest.accounts import REVERSAL, RUIN, SIGNAL, Rules


def side_of(account: Any) -> int:
    """1 long, -1 short, 0 flat."""
    units = account["units"]
    return 1 if units > 0.0 else -1 if units < 0.0 else 0


def trade(account: Any, rules: Rules, target: int, ts: int, t: int, price: float, trades: Any, closed: int) -> int:
    """Bring the position to another side at `price` (NaN: not now); the trades closed so far."""
    if math.isnan(price):
        return closed
    if account["units"] != 0.0:
        closed = leave(account, ts, t, price, SIGNAL if target == 0 else REVERSAL, trades, closed)
    if target != 0:  # after a ruin there is no cash, and so no entry
        _enter(account, rules, target, ts, t, price)
    return closed


def leave(account: Any, ts: int, t: int, price: float, reason: int, trades: Any, closed: int) -> int:
    """Close the position at `price`, paying slippage and fee; the trades closed so far."""
    units = account["units"]
    slippage = account["slippage_rate"]
    fill = price * (1.0 - slippage) if units > 0.0 else price * (1.0 + slippage)
    value = abs(units) * fill
    fee = account["fee_rate"] * value
    account["cash"] = account["cash"] + units * fill - fee
    account["fees"] += fee
    account["traded"] += value
    return end_trade(account, ts, t, fill, fee, RUIN if account["cash"] <= 0.0 else reason, trades, closed)


def _enter(account: Any, rules: Rules, target: int, ts: int, t: int, price: float) -> None:
    """Open the target's side with a fraction of the cash, unless its costs would leave nothing."""
    cash = account["cash"]
    slippage = account["slippage_rate"]
    fill = price * (1.0 + slippage) if target > 0 else price * (1.0 - slippage)
    size = rules.size * cash / fill
    value = size * fill
    fee = account["fee_rate"] * value
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
    account["trade_funding"] = 0.0
    account["trade_high"] = fill
    account["trade_low"] = fill
    if rules.stops:
        _place_stops(account, rules, target, fill)


def _place_stops(account: Any, rules: Rules, side: int, entry: float) -> None:
    """Where the new position is given up: a distance of 0 is no stop."""
    atr = account["atr"]
    loss = rules.stop_share * entry + rules.stop_atr * atr
    profit = rules.profit_share * entry + rules.profit_atr * atr
    account["stop_price"] = entry - side * loss if loss > 0.0 else -side * math.inf
    account["profit_price"] = entry + side * profit if profit > 0.0 else side * math.inf
    account["trail_distance"] = rules.trail_atr * atr


def end_trade(account: Any, ts: int, t: int, price: float, fee: float, reason: int, trades: Any, closed: int) -> int:
    """Book the position as closed at `price`, the cash being settled; ruin takes all that is left."""
    pnl = open_pnl(account, price) - fee
    if reason == RUIN:
        pnl = -account["entry_equity"]
        account["cash"] = 0.0
        account["ruined"] = 1
    gain = pnl / (abs(account["units"]) * account["entry_price"])
    if trades.shape[0]:
        write(account, trades[closed], ts, t, price, fee, pnl, reason)

    account["units"] = 0.0
    account["trades"] += 1
    account["trade_bars"] += t - account["entry_bar"]
    # Selects, not branches: which trades win cannot be predicted.
    account["wins"] += 1 if pnl > 0.0 else 0
    account["win_sum"] += pnl if pnl > 0.0 else 0.0
    account["losses"] += 1 if pnl < 0.0 else 0
    account["loss_sum"] += pnl if pnl < 0.0 else 0.0
    deviation = pnl - account["pnl_mean"]
    account["pnl_mean"] += deviation / account["trades"]
    account["pnl_m2"] += deviation * (pnl - account["pnl_mean"])
    if account["trades"] == 1 or gain > account["best"]:
        account["best"] = gain
    if account["trades"] == 1 or gain < account["worst"]:
        account["worst"] = gain
    return closed + 1


def open_pnl(account: Any, price: float) -> float:
    """Of the position at `price`, after its entry's fee and the funding that it has paid."""
    gross = account["units"] * (price - account["entry_price"])
    return float(gross - account["entry_fee"] - account["trade_funding"])


def write(account: Any, record: Any, ts: int, t: int, price: float, fee: float, pnl: float, reason: int) -> None:
    """Fill one `TRADE` with the account's position, leaving it at `price`."""
    entry = account["entry_price"]
    units = abs(account["units"])
    top = price if price > account["trade_high"] else account["trade_high"]
    bottom = price if price < account["trade_low"] else account["trade_low"]
    up = top / entry - 1.0
    down = bottom / entry - 1.0
    long = account["units"] > 0.0
    record["trade_id"] = account["trades"]
    record["side"] = 1 if long else -1
    record["units"] = units
    record["entry_ts"] = account["entry_ts"]
    record["entry_bar"] = account["entry_bar"]
    record["entry_price"] = entry
    record["entry_fee"] = account["entry_fee"]
    record["exit_ts"] = ts
    record["exit_bar"] = t
    record["exit_price"] = price
    record["exit_fee"] = fee
    record["pnl"] = pnl
    record["return"] = pnl / (units * entry)
    record["bars"] = t - account["entry_bar"]
    record["reason"] = reason
    record["mae"] = down if long else 0.0 - up
    record["mfe"] = up if long else 0.0 - down


COMPILED = (side_of, trade, leave, _enter, _place_stops, end_trade, open_pnl, write)
