"""The figures of a report: finished accounts to columns, and how many bars a year has.

An account's running sums (see `accounts`) are all that is needed; nothing here looks at a series.
Undefined is None, never infinite and never a made-up 0: a ratio whose denominator is 0, a spread of
fewer than two values, anything without a bar, and a number too large for float64.

`best_trade` and `worst_trade` are trade returns; `mean_bars_held` is over closed trades;
`expectancy_ratio` is the expectancy over the absolute mean losing pnl. `max_drawdown_bars` is the
longest time from a peak to its recovery, one still lasting included; `max_drawdown_recovered` is
False when that longest one still lasts. Buy-and-hold is held from the first evaluated close to the
last, without costs. `ambiguous_bars`: those whose range held both a loss stop and the profit target.
`funding_paid` is negative where more was received. After a ruin the figures end at the bar of the ruin.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atc_backtest.accounts import ACCOUNT, OPEN, REASONS, TRADE, Rules
from atc_backtest.calendars import REMEDY, venue
from atc_backtest.errors import ConfigError

Value = float | int | bool | str | None

TIMESTAMP = "timestamp"
"""Type of a column of UTC nanoseconds since the epoch (int here, a timestamp in Parquet)."""

METRIC_COLUMNS: dict[str, str] = {
    "symbol": "string",
    "param_id": "int64",
    "n_bars": "int64",
    "start_ts": TIMESTAMP,
    "end_ts": TIMESTAMP,
    "total_return": "float64",
    "cagr": "float64",
    "volatility": "float64",
    "sharpe": "float64",
    "sortino": "float64",
    "max_drawdown": "float64",
    "max_drawdown_bars": "int64",
    "max_drawdown_recovered": "bool",
    "calmar": "float64",
    "exposure": "float64",
    "turnover": "float64",
    "trades": "int64",
    "win_rate": "float64",
    "profit_factor": "float64",
    "expectancy": "float64",
    "expectancy_ratio": "float64",
    "sqn": "float64",
    "best_trade": "float64",
    "worst_trade": "float64",
    "mean_bars_held": "float64",
    "fees_paid": "float64",
    "buy_hold_return": "float64",
    "buy_hold_max_drawdown": "float64",
    "final_equity": "float64",
    "ruined": "bool",
    "ambiguous_bars": "int64",
    "funding_paid": "float64",
}
"""Columns of metrics/, in order, with their types; every one but symbol and param_id may be null."""

TRADE_COLUMNS: dict[str, str] = {
    "trade_id": "int64",
    "symbol": "string",
    "param_id": "int64",
    "side": "string",
    "units": "float64",
    "entry_ts": TIMESTAMP,
    "entry_bar": "int64",
    "entry_price": "float64",
    "entry_fee": "float64",
    "exit_ts": TIMESTAMP,
    "exit_bar": "int64",
    "exit_price": "float64",
    "exit_fee": "float64",
    "pnl": "float64",
    "return": "float64",
    "bars": "int64",
    "exit_reason": "string",
    "mae": "float64",
    "mfe": "float64",
    "status": "string",
}
"""Columns of trades/, in order, with their types; those named exit_... are null while it is open."""

SECOND_NS = 10**9
DAY_NS = 86_400 * SECOND_NS
YEAR_NS = 31_557_600 * SECOND_NS  # 365.25 days

SESSION_NS = 23_400 * SECOND_NS  # 6.5 hours: 9:30 to 16:00 in New York
SESSIONS = 252


def _always(bar_ns: int) -> float:
    return YEAR_NS / bar_ns


def _weekdays(bar_ns: int) -> float:
    return YEAR_NS / bar_ns * (5 / 7 if bar_ns < 7 * DAY_NS else 1.0)


def _sessions(bar_ns: int, sessions: float, session_ns: int) -> float:
    if bar_ns >= 7 * DAY_NS:
        return YEAR_NS / bar_ns
    if bar_ns > DAY_NS:
        return sessions * DAY_NS / bar_ns
    return float(sessions * -(-session_ns // bar_ns))  # the last bar of a session may be cut short


def _us_sessions(bar_ns: int) -> float:
    return _sessions(bar_ns, SESSIONS, SESSION_NS)


_US_RULE = (
    "252 sessions a year of 6.5 hours: a daily bar is one session, a shorter one divides it (rounded "
    "up: 7 hourly bars a session); bars of a week or longer count by the 365.25-day year"
)
CALENDARS: dict[str, str] = {
    "24/7": "open always, as crypto: 365.25 days a year",
    "24/5": "open Monday to Friday around the clock, as FX: 5/7 of 365.25 days (bars below a week)",
    "XNYS": "New York Stock Exchange, regular hours: " + _US_RULE,
    "XNAS": "Nasdaq, regular hours: " + _US_RULE,
}
"""Name -> how bars of a year are counted, in words for a report."""

_COUNTS: dict[str, Callable[[int], float]] = {
    "24/7": _always,
    "24/5": _weekdays,
    "XNYS": _us_sessions,
    "XNAS": _us_sessions,
}


def bars_per_year(bar_ns: int, calendar: str | None, override: float | None = None) -> float:
    """A, the bars of a year that annualise the figures. `override` wins over the calendar.

    A calendar is one of `CALENDARS`, or a venue of the exchange-calendars package where that is installed, counted
    by its sessions as the US ones are. Raises `ConfigError` for an unknown or missing one, and for bar_ns <= 0.
    """
    if override is not None:
        return float(override)
    other = None if calendar is None or calendar in _COUNTS else venue(calendar)
    if calendar not in _COUNTS and other is None:
        found = "no calendar is set" if calendar is None else f"calendar = {calendar!r} is not known"
        raise ConfigError(
            f"{found}: choose one of {', '.join(CALENDARS)}, a venue of exchange-calendars such as XLON ({REMEDY}), "
            "or give bars_per_year, the bars in a year."
        )
    if bar_ns <= 0:
        raise ConfigError(f"bar size = {bar_ns} ns is not allowed: more than 0. Give bars_per_year instead.")
    return _sessions(bar_ns, other.sessions, other.session_ns) if other else _COUNTS[calendar](bar_ns)  # type: ignore[index]


def figures(account: np.void, rules: Rules, bars_per_year: float) -> dict[str, Value]:
    """`METRIC_COLUMNS` from n_bars on, in order, of one account: plain Python values, None undefined."""
    a: dict[str, Any] = dict(zip(ACCOUNT.names or (), account.item(), strict=True))
    row: dict[str, Value] = {"n_bars": a["n"], "fees_paid": a["fees"], "ruined": bool(a["ruined"])}
    row |= {"ambiguous_bars": a["ambiguous"], "funding_paid": a["funding"]} | _trades(a)
    if a["n"]:
        row |= _returns(a, rules, bars_per_year)
        row |= _drawdowns(a)
        row["calmar"] = _over(row["cagr"], abs(a["drawdown"]))
        row["exposure"] = a["held"] / a["n"]
        row["turnover"] = _over(a["traded"], a["equity_sum"] / a["n"])
        row["buy_hold_return"] = a["close"] / a["hold_start"] - 1
        row["buy_hold_max_drawdown"] = a["hold_drawdown"]
    return {name: _finite(row.get(name)) for name in list(METRIC_COLUMNS)[2:]}


def _returns(a: dict[str, Any], rules: Rules, bars_per_year: float) -> dict[str, Value]:
    n, scale = a["n"], math.sqrt(bars_per_year)
    years = (a["ts"] - a["start_ts"]) / YEAR_NS
    mean, squares = moments(a)
    deviation = math.sqrt(squares / (n - 1)) if n > 1 else None
    downside = math.sqrt(a["downside"] / n)
    return {
        "start_ts": a["start_ts"],
        "end_ts": a["ts"],
        "total_return": a["equity"] / a["start_equity"] - 1,
        "cagr": _growth(a["equity"] / a["start_equity"], years),
        "volatility": None if deviation is None else deviation * scale,
        "sharpe": _over((mean - rules.rf) * scale, deviation),
        "sortino": _over((mean - rules.mar) * scale, downside),
        "final_equity": a["equity"],
    }


def moments(account: Any) -> tuple[float, float]:
    """Mean of the returns, and the sum of their squared deviations from it, the unfinished group taken in."""
    n, total = account["n"], account["group_sum"]
    squares = account["m2"] + account["group_squares"] - total * total / n
    return account["mean"] + total / n, max(squares, 0.0)


def _drawdowns(a: dict[str, Any]) -> dict[str, Value]:
    lasting = a["n"] - 1 - a["peak_bar"]
    return {
        "max_drawdown": a["drawdown"],
        "max_drawdown_bars": max(lasting, a["longest_bars"]),
        "max_drawdown_recovered": lasting == 0 or lasting < a["longest_bars"],
    }


def _trades(a: dict[str, Any]) -> dict[str, Value]:
    count = a["trades"]
    row: dict[str, Value] = {"trades": count}
    if count:
        deviation = math.sqrt(a["pnl_m2"] / (count - 1)) if count > 1 else None
        row |= {
            "win_rate": a["wins"] / count,
            "profit_factor": _over(a["win_sum"], abs(a["loss_sum"])),
            "expectancy": a["pnl_mean"],
            "expectancy_ratio": a["pnl_mean"] / (abs(a["loss_sum"]) / a["losses"]) if a["losses"] else None,
            "sqn": _over(math.sqrt(count) * a["pnl_mean"], deviation),
            "best_trade": a["best"],
            "worst_trade": a["worst"],
            "mean_bars_held": a["trade_bars"] / count,
        }
    return row


def _growth(factor: float, years: float) -> float | None:
    """The yearly rate that makes `factor` in `years`; None over no time or beyond float64."""
    try:
        return math.pow(factor, 1 / years) - 1 if years > 0 else None
    except OverflowError:
        return None


def _over(numerator: Any, denominator: float | None) -> float | None:
    return numerator / denominator if numerator is not None and denominator else None


def _finite(value: Value) -> Value:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def longest_drawdown_ns(account: np.void) -> int | None:
    """The longest time from a peak to its recovery in ns, one still lasting included; None without bars."""
    if account["n"] == 0:
        return None
    lasting = account["ts"] - account["peak_ts"] if account["n"] - 1 > account["peak_bar"] else 0
    return int(max(account["longest_ns"], lasting))


def trade_columns(trades: NDArray[np.void], symbol: str, param_id: int) -> dict[str, list[Value]]:
    """`TRADE_COLUMNS` of closed and open trades of one account: plain Python values, None for null."""
    values = {name: trades[name].tolist() for name in TRADE.names or ()}
    n_trades = len(trades)
    is_open = [reason == OPEN for reason in values["reason"]]
    columns: dict[str, list[Value]] = values | {
        "symbol": [symbol] * n_trades,
        "param_id": [param_id] * n_trades,
        "side": ["long" if side > 0 else "short" for side in values["side"]],
        "exit_reason": [REASONS[reason] for reason in values["reason"]],
        "status": ["open" if still else "closed" for still in is_open],
    }
    for name in ("exit_ts", "exit_bar", "exit_price", "exit_fee", "exit_reason"):
        columns[name] = [None if still else value for value, still in zip(columns[name], is_open, strict=True)]
    return {name: columns[name] for name in TRADE_COLUMNS}


def relative_figures(moments: Mapping[str, float], rf: float, bars_per_year: float) -> dict[str, Value]:
    """beta, alpha, correlation, tracking_error and information_ratio of returns r against a benchmark's b.

    `moments`: n_bars, mean, m2 of r, hold_mean, hold_m2 of b, and hold_cov, the sum of products of both's deviations,
    as rows of `periods` hold them. beta = cov / var(b); alpha = (mean(r) - rf - beta (mean(b) - rf)) A, not
    compounded; tracking error = std(r - b, ddof=1) sqrt(A); information ratio = mean(r - b) A over it.
    """
    n, m2, hold_m2, cov = (float(moments[name]) for name in ("n_bars", "m2", "hold_m2", "hold_cov"))
    mean, hold_mean = float(moments["mean"]), float(moments["hold_mean"])
    beta = _over(cov, hold_m2)
    active_m2 = max(0.0, m2 + hold_m2 - 2 * cov)
    error = math.sqrt(active_m2 / (n - 1) * bars_per_year) if n > 1 else None
    return {
        "beta": beta,
        "alpha": None if beta is None else (mean - rf - beta * (hold_mean - rf)) * bars_per_year,
        "correlation": _over(cov, math.sqrt(m2 * hold_m2)),
        "tracking_error": error,
        "information_ratio": _over((mean - hold_mean) * bars_per_year, error),
    }
