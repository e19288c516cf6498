"""empyrical and ffn on the same equity: every figure that they share with this package, on 200 random series.

## Where they differ on purpose, each tested below
- CAGR: empyrical's years are bars over bars a year, here they are elapsed time, as ffn's; from the first evaluated
  bar, although E0 is the equity before it. Calmar follows.
- ffn's risk-free rate is yearly and the same for Sharpe and Sortino; here (as empyrical's) it is of a bar, and the
  Sortino ratio has a minimum acceptable return of its own.
- Drawdown duration: ffn counts from the first bar below the peak, here from the last one at it: one bar more; and one
  that still lasts counts there to the last bar.
- A ratio over no spread is None here; empyrical and ffn return NaN or infinity.
- ffn takes the first value of a series for its first peak: it is given E0 before the first bar.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from accounting import DAY_NS, Played, make_bars, make_rules, play, random_bars
from oracle import oracle

from atc_backtest.accounts import Bars, Rules
from atc_backtest.metrics import YEAR_NS, Value, figures

YEARLY = 365.25
N_SERIES = 200
RF, MAR = 1e-4, 2e-4


def played(seed: int) -> tuple[Rules, Bars, Played, dict[str, Value]]:
    """A random strategy over daily bars: sides, fills and costs drawn too."""
    rng = np.random.default_rng(seed)
    longs, shorts = [(True, False), (True, True), (False, True)][rng.integers(3)]
    fill = ["next_open", "next_close", "close"][rng.integers(3)]
    rules = make_rules(fill=fill, longs=longs, shorts=shorts, fee_bps=float(rng.integers(10)), rf=RF, mar=MAR)
    walk = random_bars(seed, 300)
    bars = make_bars(walk.close, walk.signal, ts=np.arange(300) * DAY_NS, open=walk.open)
    found = play(rules, bars)
    return rules, bars, found, figures(found.account[0], rules, YEARLY)


def returns(rules: Rules, equity: np.ndarray) -> np.ndarray:
    curve = np.concatenate(([rules.start_equity], equity))
    return np.asarray(curve[1:] / curve[:-1] - 1)


@pytest.mark.parametrize("seed", range(N_SERIES))
def test_empyrical_has_the_same_figures(seed: int) -> None:
    empyrical = oracle("empyrical")
    rules, bars, found, row = played(seed)
    r, market = returns(rules, found.equity), np.diff(bars.close) / bars.close[:-1]
    expected = {
        "total_return": empyrical.cum_returns_final(r),
        "volatility": empyrical.annual_volatility(r, annualization=YEARLY),
        "sharpe": empyrical.sharpe_ratio(r, risk_free=RF, annualization=YEARLY),
        "sortino": empyrical.sortino_ratio(r, required_return=MAR, annualization=YEARLY),
        "max_drawdown": empyrical.max_drawdown(r),
        "buy_hold_max_drawdown": empyrical.max_drawdown(market),
        "buy_hold_return": empyrical.cum_returns_final(market),
    }
    # Sums in another order, amplified where mean and rf nearly cancel.
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-8, abs=1e-12)

    elapsed = len(r) / ((bars.ts[-1] - bars.ts[0]) / YEAR_NS)
    assert row["cagr"] == pytest.approx(empyrical.cagr(r, annualization=elapsed), rel=1e-9)
    assert row["calmar"] == pytest.approx(empyrical.calmar_ratio(r, annualization=elapsed), rel=1e-9)
    assert row["cagr"] != pytest.approx(empyrical.cagr(r, annualization=YEARLY), rel=1e-6)


@pytest.mark.parametrize("seed", range(N_SERIES))
def test_ffn_has_the_same_figures(seed: int) -> None:
    ffn, pandas = oracle("ffn"), oracle("pandas")
    rules, bars, found, row = played(seed)
    days = pandas.DatetimeIndex(np.concatenate(([-DAY_NS], bars.ts)))
    curve = pandas.Series(np.concatenate(([rules.start_equity], found.equity)), days)
    r = pandas.Series(returns(rules, found.equity), days[1:])
    ends = pandas.Series([rules.start_equity, found.equity[-1]], days[[1, -1]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yearly_rf = (1 + RF) ** YEARLY - 1
        expected: dict[str, Any] = {
            "total_return": ffn.calc_total_return(curve),
            "cagr": ffn.calc_cagr(ends),
            "sharpe": ffn.calc_sharpe(r, rf=yearly_rf, nperiods=YEARLY),
            "sortino": ffn.calc_sortino_ratio(r, rf=(1 + MAR) ** YEARLY - 1, nperiods=YEARLY),
            "max_drawdown": ffn.calc_max_drawdown(curve),
            "calmar": ffn.calc_cagr(ends) / abs(ffn.calc_max_drawdown(curve)),
        }
        assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-8, abs=1e-12)
        details = ffn.core.drawdown_details(ffn.to_drawdown_series(curve))
        assert row["cagr"] != pytest.approx(ffn.calc_cagr(curve), rel=1e-6)  # a day more
        assert row["sharpe"] != pytest.approx(ffn.calc_sharpe(r, rf=RF, nperiods=YEARLY), rel=1e-6)

    lengths = details["Length"].to_numpy(dtype=np.int64) + 1  # from the last bar at the peak
    if details["End"].iloc[-1] == days[-1] and curve.iloc[-1] < curve.max():
        lasting = len(curve) - 1 - int(np.flatnonzero(curve.to_numpy() == curve.max())[-1])
        lengths[-1] = lasting
    assert row["max_drawdown_bars"] == lengths.max()


def test_a_ratio_over_no_spread_is_none() -> None:
    empyrical, ffn, pandas = oracle("empyrical"), oracle("ffn"), oracle("pandas")
    rules = make_rules()
    row = figures(play(rules, make_bars(np.full(50, 100.0), np.zeros(50))).account[0], rules, YEARLY)
    assert (row["sharpe"], row["sortino"], row["calmar"]) == (None, None, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = [
            empyrical.sharpe_ratio(np.zeros(50), annualization=YEARLY),
            ffn.calc_sharpe(pandas.Series(np.full(50, 0.0)), rf=0.0, nperiods=YEARLY),
        ]
    assert not np.isfinite(theirs).any()
