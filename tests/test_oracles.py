"""vectorbt on the same signals: fills, equity and trades one to one, and its stops.

## Where it differs from this package on purpose
- vectorbt fills on the bar it is told to; targets and delays are worked out here, in plain Python.
- vectorbt never borrows: a purchase is cut to the cash that also pays its fee. Sizes here leave room.
- vectorbt makes a reversal one order sized before any cost; here it is two, the second of what is
  left. Each bar is therefore given to vectorbt twice: once to close, once to open.
- vectorbt makes one order a bar, so a bar that stops out takes no other signal, and it enters again at the next entry
  signal; here a fill at that bar's close is made, and the target has to leave first. The signals of these cases pass
  through flat between two sides and enter once, where both say the same.
"""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from accounting import Played, make_rules, play, random_bars
from numpy.typing import NDArray
from oracle import oracle

from atc_backtest.accounts import CLOSE, FILLS, NEXT_OPEN, REASONS, Bars, Rules

N_BARS = 150
N_CASES = 25


def targets(rules: Rules, signal: NDArray[np.float64]) -> list[int]:
    """The target after each bar, as the specification says it."""
    chosen, target = [], 0
    for a in signal.tolist():
        if a > rules.long_threshold:
            target = 1
        elif a < rules.short_threshold:
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
@pytest.mark.parametrize("sides", [(True, False), (True, True), (False, True)], ids=["long", "both", "short"])
@pytest.mark.parametrize("fill", FILLS)
def test_vectorbt_has_the_same_equity_and_trades(
    fill: str, sides: tuple[bool, bool], neutral: str, costs: dict[str, float]
) -> None:
    rules = make_rules(fill=fill, longs=sides[0], shorts=sides[1], neutral=neutral, **costs)
    cases = [random_bars(1000 + case, N_BARS, volatility=0.01) for case in range(N_CASES)]
    equity, records = vectorbt_plays(rules, cases)
    assert len(records) > 2 * N_CASES
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


# --- stops ---------------------------------------------------------------------------------------

STOPS = [
    {"stop_loss": "2%"},
    {"take_profit": "3%"},
    {"trailing_stop": "2.5%"},
    {"stop_loss": "1.5%", "take_profit": "4%"},
    {"trailing_stop": "3%", "take_profit": "5%", "fee_bps": 10.0, "slippage_bps": 5.0},
]


def calm_signal(rng: np.random.Generator) -> NDArray[np.float64]:
    """Stretches of long and short with flat ones between them."""
    pieces = [(side, length) for side in rng.choice([0.5, -0.5], N_BARS) for length in (rng.integers(2, 15),)]
    signal = np.concatenate([np.repeat([0.0, side], [rng.integers(1, 4), length]) for side, length in pieces])
    return np.ascontiguousarray(signal[:N_BARS])


def vectorbt_stops(rules: Rules, cases: list[Bars]) -> NDArray[Any]:
    """Trade records where every side is entered at the close that decides it, and left at the one that ends it."""
    vbt = oracle("vectorbt")
    sides = np.column_stack([np.sign(bars.signal) for bars in cases])
    before = np.vstack([np.zeros(len(cases)), sides[:-1]])
    columns = {
        name: np.column_stack([getattr(bars, name) for bars in cases]) for name in ("open", "high", "low", "close")
    }
    kind = {"stop_loss": rules.stop_share, "trail": rules.trail_share, "take_profit": rules.profit_share}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        portfolio = vbt.Portfolio.from_signals(
            columns["close"],
            entries=(sides > 0) & (before <= 0),
            exits=(sides <= 0) & (before > 0),
            short_entries=(sides < 0) & (before >= 0),
            short_exits=(sides >= 0) & (before < 0),
            open=columns["open"],
            high=columns["high"],
            low=columns["low"],
            sl_stop=kind["stop_loss"] or kind["trail"] or np.nan,
            sl_trail=kind["trail"] > 0,
            tp_stop=kind["take_profit"] or np.nan,
            stop_entry_price="fillprice",
            stop_exit_price="stopmarket",
            size=100.0,
            size_type="value",
            fees=rules.fee,
            slippage=rules.slippage,
            init_cash=1e6,
            freq="1D",
        )
        return portfolio.trades.values  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.parametrize("stops", STOPS, ids=lambda stops: "-".join(stops))
def test_vectorbt_has_the_same_stops(stops: dict[str, Any]) -> None:
    rules = make_rules(fill="close", shorts=True, **stops)
    cases = []
    for case in range(40):
        bars = random_bars(2000 + case, N_BARS, volatility=0.015, nan_share=0)
        cases.append(replace(bars, signal=calm_signal(np.random.default_rng(case))))
    records = vectorbt_stops(rules, cases)
    seen: Counter[str] = Counter()
    for case, bars in enumerate(cases):
        played = play(rules, bars)
        ours, theirs = np.concatenate((played.trades, played.open)), records[records["col"] == case]
        seen.update(REASONS[reason] for reason in ours["reason"])
        assert ours["entry_bar"].tolist() == theirs["entry_idx"].tolist()
        assert ours["exit_bar"].tolist() == theirs["exit_idx"].tolist()
        assert ((ours["side"] < 0) == (theirs["direction"] == 1)).all()
        for name, their_name in (("entry_price", "entry_price"), ("exit_price", "exit_price"), ("return", "return")):
            np.testing.assert_allclose(ours[name], theirs[their_name], rtol=1e-9, atol=1e-12, err_msg=name)
    assert all(seen[name] > 40 for name in stops if not name.endswith("bps"))
