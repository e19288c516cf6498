"""Stops, worked by hand: where they lie, what a bar does to them, and what comes after."""

from __future__ import annotations

import math

import numpy as np
import pytest
from accounting import Played, make_bars, make_rules, play
from numpy.typing import ArrayLike

from atc_backtest.accounts import REASONS, Rules
from atc_backtest.execution import AdvanceBars, advance_bars, compiled

CLOSE_TO = {"rel": 1e-13, "abs": 1e-10}


@pytest.fixture(params=["plain", "compiled"])
def run(request: pytest.FixtureRequest) -> AdvanceBars:
    return advance_bars if request.param == "plain" else compiled()


def near(value: object) -> object:
    return pytest.approx(value, **CLOSE_TO)


def quoted(rules: Rules, bars: list[tuple[float, float, float, float]], signal: ArrayLike, run: AdvanceBars) -> Played:
    """Played over open, high, low, close of each bar."""
    opened, high, low, close = (list(column) for column in zip(*bars, strict=True))
    return play(rules, make_bars(close, signal, open=opened, high=high, low=low), run)


def exits(played: Played) -> list[tuple[str, int, float]]:
    """Reason, bar and price of every exit."""
    columns = (played.trades[name].tolist() for name in ("reason", "exit_bar", "exit_price"))
    return [(REASONS[reason], bar, price) for reason, bar, price in zip(*columns, strict=True)]


FLAT = (100.0, 100.0, 100.0, 100.0)
# Decided at the close of bar 0, bought 10 units at the open of bar 1 for 100.
LONG = [1, 1, 1, 1]
SHORT = [-1, -1, -1, -1]


def test_a_stop_loss_fills_at_its_price(run: AdvanceBars) -> None:
    bars = [FLAT, (100, 103, 96, 101), (101, 102, 94, 99), (99, 120, 99, 120)]
    played = quoted(make_rules(stop_loss="5%"), bars, LONG, run)
    assert exits(played) == [("stop_loss", 2, 95.0)]
    (trade,) = played.trades
    assert (trade["pnl"], trade["bars"]) == (near(-50), 1)
    # Bar 2's range was left on the way: of it the exit alone is an excursion.
    assert (trade["mae"], trade["mfe"]) == (near(-0.05), near(0.03))
    assert played.equity.tolist() == near([1000, 1010, 950, 950])
    assert played.position.tolist() == [1, 1, 0, 0]
    assert played.account["held"][0] == 1  # at the close of bar 2 it was gone


def test_a_stop_of_a_short_lies_above_and_its_profit_below(run: AdvanceBars) -> None:
    bars = [FLAT, (100, 104, 96, 101), (101, 106, 99, 99), FLAT]
    assert exits(quoted(make_rules(shorts=True, stop_loss="5%"), bars, SHORT, run)) == [("stop_loss", 2, 105.0)]
    bars = [FLAT, (100, 104, 96, 101), (101, 102, 94, 99), FLAT]
    assert exits(quoted(make_rules(shorts=True, take_profit="5%"), bars, SHORT, run)) == [("take_profit", 2, 95.0)]


def test_slippage_and_fee_are_paid_at_a_stop(run: AdvanceBars) -> None:
    rules = make_rules(fill="close", stop_loss="10%", slippage_bps=1000, fee_bps=100)
    played = quoted(rules, [FLAT, (100, 100, 90, 90)], [1, 1], run)
    # Bought at 110; the stop lies at 99, sold there for 89.10.
    units = 1000 / 110
    (trade,) = played.trades
    assert (trade["entry_price"], trade["exit_price"]) == (near(110), near(89.1))
    assert (trade["exit_fee"], trade["pnl"]) == (near(units * 0.891), near(units * (89.1 - 110) - 10 - units * 0.891))


@pytest.mark.parametrize(
    ("stop", "bar", "expected"),
    [
        ({"stop_loss": "5%"}, (90, 97, 88, 96), ("stop_loss", 2, 90.0)),  # worse than 95
        ({"take_profit": "5%"}, (111, 112, 104, 106), ("take_profit", 2, 111.0)),  # better than 105
        ({"trailing_stop": "5%"}, (92, 97, 88, 96), ("trailing_stop", 2, 92.0)),
        ({"stop_loss": "5%"}, (95, 97, 95, 96), ("stop_loss", 2, 95.0)),
    ],
)
def test_a_gap_beyond_a_stop_fills_at_the_open(
    run: AdvanceBars, stop: dict[str, str], bar: tuple[float, float, float, float], expected: tuple[str, int, float]
) -> None:
    assert exits(quoted(make_rules(**stop), [FLAT, FLAT, bar, FLAT], LONG, run)) == [expected]


def test_a_trailing_stop_follows_the_best_price_of_the_bars_before(run: AdvanceBars) -> None:
    bars = [FLAT, (100, 110, 99, 109), (109, 130, 105, 112), (112, 118, 110, 115)]
    played = quoted(make_rules(trailing_stop="10%"), bars, LONG, run)
    # 110 at bar 1 puts it at 99, so bar 2 passes although it falls from 130 to 105; 130 puts it at 117.
    assert exits(played) == [("trailing_stop", 3, 112.0)]  # opened below it
    bars[3] = (119, 121, 110, 115)
    assert exits(quoted(make_rules(trailing_stop="10%"), bars, LONG, run)) == [("trailing_stop", 3, near(117.0))]


def test_the_trailing_stop_of_a_short_follows_the_lows(run: AdvanceBars) -> None:
    bars = [FLAT, (100, 101, 80, 85), (85, 87, 82, 86), (86, 89, 86, 87)]
    played = quoted(make_rules(shorts=True, trailing_stop="10%"), bars, SHORT, run)
    assert exits(played) == [("trailing_stop", 3, near(88.0))]


def test_the_nearer_of_two_loss_stops_is_the_one(run: AdvanceBars) -> None:
    rules = make_rules(stop_loss="5%", trailing_stop="10%")
    bars = [FLAT, (100, 104, 94, 96), FLAT, FLAT]
    assert exits(quoted(rules, bars, LONG, run)) == [("stop_loss", 1, 95.0)]
    bars = [FLAT, (100, 120, 100, 119), (119, 119, 107, 110), FLAT]
    assert exits(quoted(rules, bars, LONG, run)) == [("trailing_stop", 2, near(108.0))]


@pytest.mark.parametrize(
    ("intrabar", "opened", "expected"),
    [
        ("worst", 100, ("stop_loss", 2, 95.0)),
        ("best", 100, ("take_profit", 2, 110.0)),
        ("open_first", 100, ("stop_loss", 2, 95.0)),
        ("open_first", 104, ("take_profit", 2, 110.0)),
        ("open_first", 102.5, ("stop_loss", 2, 95.0)),  # as near to one as to the other
        ("open_first", math.nan, ("stop_loss", 2, 95.0)),
        ("best", 94, ("stop_loss", 2, 94.0)),  # the open came first, and nothing is ambiguous
    ],
)
def test_both_within_one_bar_is_decided_by_the_policy_and_counted(
    run: AdvanceBars, intrabar: str, opened: float, expected: tuple[str, int, float]
) -> None:
    rules = make_rules(stop_loss="5%", take_profit="10%", intrabar=intrabar)
    played = quoted(rules, [FLAT, FLAT, (opened, 112, 94, 100), FLAT], LONG, run)
    assert exits(played) == [expected]
    assert played.account["ambiguous"][0] == (opened != 94)


def test_an_entry_at_an_open_can_be_stopped_in_its_bar_one_at_a_close_cannot(run: AdvanceBars) -> None:
    bars = [FLAT, (100, 101, 90, 100), FLAT, FLAT]
    at_open = quoted(make_rules(stop_loss="5%"), bars, LONG, run)
    assert exits(at_open) == [("stop_loss", 1, 95.0)]
    assert (at_open.trades["bars"][0], at_open.account["held"][0]) == (0, 0)
    assert exits(quoted(make_rules(stop_loss="5%", fill="next_close"), bars, LONG, run)) == []
    bars[1:3] = FLAT, (100, 101, 90, 100)
    assert exits(quoted(make_rules(stop_loss="5%", fill="close"), bars, [0, 1, 1, 1], run)) == [("stop_loss", 2, 95.0)]


def test_the_fill_at_an_open_comes_before_the_stops_and_one_at_a_close_after(run: AdvanceBars) -> None:
    bars = [FLAT, FLAT, (101, 102, 90, 100), FLAT]
    assert exits(quoted(make_rules(stop_loss="5%"), bars, [1, 0, 0, 0], run)) == [("signal", 2, 101.0)]
    rules = make_rules(stop_loss="5%", fill="next_close", shorts=True)
    bars = [FLAT, FLAT, (101, 102, 90, 98), (98, 99, 97, 97)]
    played = quoted(rules, bars, [1, -1, -1, -1], run)
    assert exits(played) == [("stop_loss", 2, 95.0)]
    assert (played.open["side"][0], played.open["entry_bar"][0], played.open["entry_price"][0]) == (-1, 2, 98.0)


def test_after_a_stop_the_target_has_to_leave_before_it_counts_again(run: AdvanceBars) -> None:
    bars = [FLAT, (100, 100, 90, 100), *[FLAT] * 6]
    played = quoted(make_rules(stop_loss="5%"), bars, [1, 1, 1, 0, 1, 1, 1, 1], run)
    assert exits(played) == [("stop_loss", 1, 95.0)]
    assert played.position.tolist() == [1, 0, 0, 0, 1, 1, 1, 1]
    assert played.open["entry_bar"].tolist() == [5]
    turned = quoted(make_rules(stop_loss="5%", shorts=True), bars, [1, 1, -1, -1, 1, 1, 1, 1], run)
    assert turned.trades["side"].tolist() == [1, -1]
    assert turned.trades["entry_bar"].tolist() == [1, 3]
    assert turned.open["entry_bar"].tolist() == [5]


def test_a_target_that_had_left_before_the_stop_may_come_back_at_once(run: AdvanceBars) -> None:
    # Bought at the close of bar 1; to be sold at the close of bar 3, stopped out before that.
    bars = [FLAT, FLAT, FLAT, (100, 100, 90, 100), FLAT, FLAT]
    played = quoted(make_rules(stop_loss="5%", fill="next_close"), bars, [1, 1, 0, 1, 1, 1], run)
    assert exits(played) == [("stop_loss", 3, 95.0)]
    assert played.open["entry_bar"].tolist() == [4]


def test_a_stop_that_leaves_nothing_is_a_ruin(run: AdvanceBars) -> None:
    played = quoted(make_rules(stop_loss="5%", size=10), [FLAT, (100, 100, 99, 99), (80, 80, 80, 80), FLAT], LONG, run)
    assert exits(played) == [("ruin", 2, 80.0)]
    assert played.equity.tolist() == near([1000, 900, 0, 0])
    assert played.account["ruined"][0] == 1


def test_multiples_of_the_average_true_range(run: AdvanceBars) -> None:
    # Ranges 4, 2, 6 (from the prior close): their mean is 4; then (2 * 4 + 10) / 3 = 6 after bar 3.
    bars = [(100, 102, 98, 100), (100, 101, 99, 100), (104, 106, 104, 104), (104, 109, 99, 104), (104, 105, 92, 100)]
    rules = make_rules(stop_loss="2atr", atr_length=3, fill="next_close")
    played = quoted(rules, bars, [1] * 5, run)
    assert rules.warmup_bars == 3
    assert np.isnan(played.equity[:3]).all()
    # Decided at the close of bar 3, bought at that of bar 4 with the range known before it: 2 x 6 below 100.
    assert played.account["stop_price"][0] == near(88.0)
    assert played.account["atr"][0] == near((2 * 6 + 13) / 3)
    closing = quoted(make_rules(stop_loss="2atr", atr_length=3, fill="close"), bars, [1] * 5, run)
    assert exits(closing) == [("stop_loss", 4, near(104.0 - 12))]


def test_profit_and_trail_by_the_average_true_range(run: AdvanceBars) -> None:
    bars = [(100, 102, 98, 100)] * 3 + [(100, 102, 98, 101), (101, 107, 101, 106), (106, 109, 103, 104)]
    rules = make_rules(take_profit="2atr", atr_length=2)
    assert exits(quoted(rules, bars, [1] * 6, run)) == [("take_profit", 5, near(108.0))]
    # Bought at 100 with a range of 4: a trail of 4 below 107 is reached in bar 5 (its own 109 does not count yet).
    rules = make_rules(trailing_stop="1atr", atr_length=2)
    assert exits(quoted(rules, bars, [1] * 6, run)) == [("trailing_stop", 5, near(103.0))]


@pytest.mark.parametrize(
    ("stop", "close", "expected"),
    [
        ({"stop_loss": "5%"}, 90, ("stop_loss", 2, 90.0)),
        ({"take_profit": "5%"}, 110, ("take_profit", 2, near(105.0))),
    ],
)
def test_closes_alone_give_the_worse_price(
    run: AdvanceBars, stop: dict[str, str], close: float, expected: tuple[str, int, float]
) -> None:
    rules = make_rules(fill="next_close", **stop)._replace(opens=False)
    bars = make_bars([100, 100, close, 100], [1, 1, 1, 1])
    assert exits(play(rules, bars, run)) == [expected]


def test_a_bar_without_its_range_is_its_close(run: AdvanceBars) -> None:
    bars = [FLAT, FLAT, (100, math.nan, math.nan, 94), FLAT]
    assert exits(quoted(make_rules(stop_loss="5%"), bars, LONG, run)) == [("stop_loss", 2, 95.0)]
    bars[2] = (100, math.nan, math.nan, 96)
    assert exits(quoted(make_rules(stop_loss="5%"), bars, LONG, run)) == []


def test_stops_change_nothing_that_they_do_not_reach(run: AdvanceBars) -> None:
    bars = [FLAT, (100, 102, 99, 101), (101, 103, 100, 102), (102, 104, 101, 103)]
    signal = [1, 1, 0, 0]
    far = {"stop_loss": "50%", "take_profit": "50%", "trailing_stop": "50%"}
    with_stops, without = (quoted(make_rules(**stops), bars, signal, run) for stops in (far, {}))
    assert with_stops.equity.tobytes() == without.equity.tobytes()
    assert with_stops.trades.tobytes() == without.trades.tobytes()
