"""Other people's programs on the same signals and returns: vectorbt for fills, empyrical for figures.

## Where they differ from this package on purpose
- vectorbt fills on the bar it is told to; targets and delays are worked out here, in plain Python.
- vectorbt never borrows: a purchase is cut to the cash that also pays its fee. Sizes here leave room.
- vectorbt makes a reversal one order sized before any cost; here it is two, the second of what is
  left. Each bar is therefore given to vectorbt twice: once to close, once to open.
- empyrical's years are bars over bars a year, here they are elapsed time: CAGR and Calmar agree once
  empyrical is told how many bars a year of elapsed time had.
- empyrical takes a spread within rounding of 0 for 0 and returns NaN; here a spread is 0 when it is.
"""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from accounting import DAY_NS, Played, make_bars, make_rules, play, random_bars
from numpy.typing import NDArray

from atc_backtest.accounts import CLOSE, FILLS, NEXT_OPEN, Bars, Rules
from atc_backtest.metrics import YEAR_NS, figures

N_BARS = 150
N_CASES = 25


def oracle(name: str) -> ModuleType:
    """Import with its own warnings silenced: they are not about this package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"{name} is an oracle of the dev extra: pip install -e '.[dev]'")


def targets(rules: Rules, signal: NDArray[np.float64]) -> list[int]:
    """The target after each bar, as the specification says it."""
    chosen, target = [], 0
    for a in signal.tolist():
        if a > rules.long_threshold:
            target = 1
        elif a < rules.short_threshold and rules.shorts:
            target = -1
        elif np.isnan(a) or not rules.hold:
            target = 0
        chosen.append(target)
    return chosen


def orders(rules: Rules, bars: Bars) -> dict[str, NDArray[np.float64]]:
    """Two rows a bar, [2 * n_bars]: close what is held, then open the new side; NaN orders nothing."""
    n_bars = len(bars.ts)
    assert bars.open is not None
    prices = bars.open if rules.fill == NEXT_OPEN else bars.close
    wanted = targets(rules, bars.signal)
    filled = wanted if rules.fill == CLOSE else [0, *wanted[:-1]]
    size, value_price = np.full(2 * n_bars, np.nan), np.repeat(prices, 2)
    side = 0
    for i, target in enumerate(filled):
        if target == side:
            continue
        if side:
            size[2 * i] = 0.0
        if target:
            size[2 * i + 1] = target * rules.size
            value_price[2 * i + 1] = prices[i] * (1 + target * rules.slippage)  # equity buys units at the fill
        side = target
    return {"size": size, "price": np.repeat(prices, 2), "val_price": value_price, "close": np.repeat(bars.close, 2)}


def vectorbt_plays(rules: Rules, cases: list[Bars]) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Equity at the closes, [n_bars, n_cases], and vectorbt's trade records."""
    vbt = oracle("vectorbt")
    columns = [orders(rules, bars) for bars in cases]
    stacked = {name: np.column_stack([column[name] for column in columns]) for name in columns[0]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        portfolio = vbt.Portfolio.from_orders(
            stacked["close"],
            size=stacked["size"],
            price=stacked["price"],
            val_price=stacked["val_price"],
            size_type="targetpercent",
            direction="both",
            fees=rules.fee,
            slippage=rules.slippage,
            init_cash=rules.start_equity,
            freq="1D",
        )
        return portfolio.value().to_numpy()[1::2], portfolio.trades.values


COSTS = [
    {"fee_bps": 0.0, "slippage_bps": 0.0, "size": 1.0},
    {"fee_bps": 10.0, "slippage_bps": 0.0, "size": 0.99},
    {"fee_bps": 7.5, "slippage_bps": 5.0, "size": 0.5},
]


@pytest.mark.slow
@pytest.mark.parametrize("costs", COSTS, ids=["free", "fee", "fee-slippage-half"])
@pytest.mark.parametrize("neutral", ["flat", "hold"])
@pytest.mark.parametrize("shorts", [False, True], ids=["long", "both"])
@pytest.mark.parametrize("fill", FILLS)
def test_vectorbt_has_the_same_equity_and_trades(
    fill: str, shorts: bool, neutral: str, costs: dict[str, float]
) -> None:
    rules = make_rules(fill=fill, shorts=shorts, neutral=neutral, **costs)
    cases = [random_bars(1000 + case, N_BARS, volatility=0.01) for case in range(N_CASES)]
    equity, records = vectorbt_plays(rules, cases)
    assert len(records) > 3 * N_CASES
    for case, bars in enumerate(cases):
        played = play(rules, bars)
        # vectorbt rounds balances within 1e-12 of 0 to 0, and adds in another order.
        np.testing.assert_allclose(played.equity, equity[:, case], rtol=1e-9)
        assert_same_trades(played, records[records["col"] == case])


def assert_same_trades(played: Played, records: NDArray[Any]) -> None:
    """One to one, in order, the open one last."""
    ours = np.concatenate((played.trades, played.open))
    assert len(ours) == len(records)
    assert (ours["entry_bar"] == records["entry_idx"] // 2).all()
    assert (ours["exit_bar"] == records["exit_idx"] // 2).all()
    assert ((ours["side"] < 0) == (records["direction"] == 1)).all()
    assert ((ours["reason"] > 0) == (records["status"] == 1)).all()
    for name, theirs in (
        ("units", "size"),
        ("entry_price", "entry_price"),
        ("entry_fee", "entry_fees"),
        ("exit_price", "exit_price"),
        ("exit_fee", "exit_fees"),
        ("pnl", "pnl"),
        ("return", "return"),
    ):
        # A pnl is a difference of amounts near 1000: 1e-9 of those.
        np.testing.assert_allclose(ours[name], records[theirs], rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("seed", range(20))
def test_empyrical_has_the_same_figures(seed: int) -> None:
    empyrical = oracle("empyrical")
    rules = make_rules(fill="next_close", shorts=True, fee_bps=5, rf=1e-4, mar=2e-4)
    walk = random_bars(seed, 300)
    bars = make_bars(walk.close, walk.signal, ts=np.arange(300) * DAY_NS)
    played = play(rules, bars)
    yearly = 365.25
    row = figures(played.account[0], rules, yearly)
    curve = np.concatenate(([rules.start_equity], played.equity))
    r = curve[1:] / curve[:-1] - 1
    expected = {
        "total_return": empyrical.cum_returns_final(r),
        "volatility": empyrical.annual_volatility(r, annualization=yearly),
        "sharpe": empyrical.sharpe_ratio(r, risk_free=rules.rf, annualization=yearly),
        "sortino": empyrical.sortino_ratio(r, required_return=rules.mar, annualization=yearly),
        "max_drawdown": empyrical.max_drawdown(r),
    }
    # Sums in another order, amplified where mean and rf nearly cancel.
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-9)

    elapsed = (bars.ts[-1] - bars.ts[0]) / YEAR_NS
    per_elapsed_year = len(r) / elapsed
    assert row["cagr"] == pytest.approx(empyrical.cagr(r, annualization=per_elapsed_year), rel=1e-9)
    assert row["calmar"] == pytest.approx(empyrical.calmar_ratio(r, annualization=per_elapsed_year), rel=1e-9)
    assert row["cagr"] != pytest.approx(empyrical.cagr(r, annualization=yearly), rel=1e-6)


def test_empyrical_has_the_same_buy_and_hold_drawdown() -> None:
    empyrical = oracle("empyrical")
    walk = random_bars(77, 500)
    row = figures(play(make_rules(), walk).account[0], make_rules(), 365.25)
    r = np.diff(walk.close) / walk.close[:-1]
    assert row["buy_hold_max_drawdown"] == pytest.approx(empyrical.max_drawdown(r), rel=1e-12)
    assert row["buy_hold_return"] == pytest.approx(empyrical.cum_returns_final(r), rel=1e-12)
