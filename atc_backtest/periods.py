"""Returns by calendar period: sums of a day, a month, a year from which figures of any span can be made.

A row of periods is what a period leaves behind: how many evaluated bars, the equity before the first and at the
last, and the moments of the per-bar returns in between. Rows merge, so that a fold of a walk-forward, a year, or
any other union of periods has its Sharpe ratio without a look at the bars.

Periods are those of UTC; a week begins on Monday. A bar belongs to the period of its opening time.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atc_backtest.accounts import F64, I64
from atc_backtest.errors import ConfigError

PERIODS = ("day", "week", "month", "quarter", "year")

DAY_NS = 86_400 * 10**9

PERIOD_COLUMNS: dict[str, str] = {
    "symbol": "string",
    "param_id": "int64",
    "period_ts": "timestamp",
    "n_bars": "int64",
    "start_equity": "float64",
    "end_equity": "float64",
    "mean": "float64",
    "m2": "float64",
    "m3": "float64",
    "m4": "float64",
    "held": "int64",
    "trades": "int64",
    "traded": "float64",
    "fees_paid": "float64",
    "end_exposure": "float64",
    "hold_return": "float64",
    "hold_mean": "float64",
    "hold_m2": "float64",
    "hold_cov": "float64",
}
"""Columns of periods/, in order, with their types; none is null.

`period_ts`: the beginning of the period. `n_bars`: evaluated bars in it, at least 1. `start_equity`: at the last
evaluated close before it, or the start equity; `end_equity`: at its last evaluated close. `mean`: of the per-bar
simple returns of equity; `m2`, `m3`, `m4`: sums of the 2nd to 4th powers of their deviations from that mean.
`held`: bars in position. `trades`: closed ones; `traded`: value of all fills; `fees_paid`. `end_exposure`: market value
held after the last bar over equity, negative when short. Of buy-and-hold, from the first evaluated close on:
`hold_return` of the period, `hold_mean` and `hold_m2` of its per-bar returns, and `hold_cov`, the sum of products of
both's deviations: over `hold_m2` it is the beta of the equity."""

PERIOD = np.dtype(
    [("row", np.int64)]
    + [(name, np.float64 if kind == "float64" else np.int64) for name, kind in list(PERIOD_COLUMNS.items())[2:]]
)
"""One period of one account, as it is summed; `row` is the account's place in its block."""


def check_period(name: str) -> str:
    """`name` if it is one of `PERIODS`; `ConfigError` else."""
    if name not in PERIODS:
        raise ConfigError(f"period = {name!r} is not known: choose one of {', '.join(PERIODS)}.")
    return name


def period_starts(ts: I64, period: str) -> I64:
    """Beginning of every period that holds one of `ts` (ascending ns), ascending, and that of the one after."""
    if period == "week":  # 1970-01-01 was a Thursday
        weeks = np.unique((ts // DAY_NS + 3) // 7)
        return (np.append(weeks, weeks[-1] + 1) * 7 - 3) * DAY_NS
    if period == "day":
        days = np.unique(ts // DAY_NS)
        return np.append(days, days[-1] + 1) * DAY_NS
    months = {"month": 1, "quarter": 3, "year": 12}[period]
    numbers = np.unique(ts.astype("datetime64[ns]").astype("datetime64[M]").astype(np.int64) // months)
    starts = np.append(numbers, numbers[-1] + 1) * months
    return starts.astype("datetime64[M]").astype("datetime64[ns]").astype(np.int64)


def new_periods(n: int) -> NDArray[np.void]:
    """`PERIOD` [n]: for every account the period it is in, nothing summed yet."""
    return np.zeros(n, PERIOD)


def begin_period(period: Any, row: int, start: int, account: Any) -> None:
    """Empty `period`, which begins at `start`; until it ends it keeps what `account` had counted by then."""
    period["row"] = row
    period["period_ts"] = start
    period["n_bars"] = 0
    period["start_equity"] = period["end_equity"] = account["equity"]
    period["mean"] = period["m2"] = period["m3"] = period["m4"] = 0.0
    period["held"] = account["held"]
    period["trades"] = account["trades"]
    period["traded"] = account["traded"]
    period["fees_paid"] = account["fees"]
    period["hold_return"] = account["close"]
    period["hold_mean"] = period["hold_m2"] = period["hold_cov"] = 0.0


def end_period(period: Any, account: Any) -> None:
    """Make of what was counted before the period what was counted in it: one difference, however bars were cut."""
    period["held"] = account["held"] - period["held"]
    period["trades"] = account["trades"] - period["trades"]
    period["traded"] = account["traded"] - period["traded"]
    period["fees_paid"] = account["fees"] - period["fees_paid"]
    worth, base = account["equity"], period["hold_return"]
    period["end_exposure"] = account["units"] * account["close"] / worth if worth > 0.0 else 0.0
    period["hold_return"] = account["close"] / (base if base > 0.0 else account["hold_start"]) - 1.0


def add_returns(period: Any, equity: F64, close: F64, before: float, n: int) -> None:
    """Take the evaluated ones of the first `n` bars of `equity` (NaN: before, a ruin: the last) into the moments.

    `before`: the last evaluated close before them, 0 if there is none. Pébay's one-pass update, bar by bar, so that
    the bits do not depend on how bars come in pieces. Source: P. Pébay, Formulas for robust, one-pass parallel
    computation of covariances and arbitrary-order statistical moments (2008).
    """
    count, last = period["n_bars"], period["end_equity"]
    mean, m2, m3, m4 = period["mean"], period["m2"], period["m3"], period["m4"]
    hold_mean, hold_m2, hold_cov = period["hold_mean"], period["hold_m2"], period["hold_cov"]
    for i in range(n):
        if math.isnan(equity[i]):
            continue
        if last == 0.0:
            break
        deviation = equity[i] / last - 1.0 - mean
        last = equity[i]
        hold_deviation = (close[i] / before - 1.0 if before > 0.0 else 0.0) - hold_mean
        before = close[i]
        older = count
        count += 1
        step = deviation / count
        square = step * step
        spread = deviation * step * older
        mean += step
        m4 += spread * square * (count * count - 3 * count + 3) + 6.0 * square * m2 - 4.0 * step * m3
        m3 += spread * step * (count - 2) - 3.0 * step * m2
        m2 += spread
        hold_mean += hold_deviation / count
        hold_m2 += hold_deviation * (hold_deviation / count) * older
        hold_cov += deviation * (hold_deviation / count) * older
    period["n_bars"], period["end_equity"] = count, last
    period["mean"], period["m2"], period["m3"], period["m4"] = mean, m2, m3, m4
    period["hold_mean"], period["hold_m2"], period["hold_cov"] = hold_mean, hold_m2, hold_cov
