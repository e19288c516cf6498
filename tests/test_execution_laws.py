"""Laws of execution, for any series: cutting, compiling, the future, the sums, the costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from accounting import make_rules, play, random_bars
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_execution import naive

from atc_backtest.accounts import FILLS, NEXT_CLOSE, NEXT_OPEN, REASONS, RUIN, Bars, Rules
from atc_backtest.config import INTRABAR
from atc_backtest.execution import advance_bars, compiled

N_BARS = 120
plain = {
    "fill": st.sampled_from(FILLS),
    "shorts": st.booleans(),
    "neutral": st.sampled_from(["flat", "hold"]),
    "fee_bps": st.sampled_from([0.0, 1.5, 30.0]),
    "slippage_bps": st.sampled_from([0.0, 2.5, 100.0]),
    "size": st.sampled_from([0.3, 1.0, 8.0]),  # 8: some are ruined
    "warmup_bars": st.integers(0, N_BARS + 5),
    "mar": st.sampled_from([0.0, 0.001]),
}
executions = st.fixed_dictionaries(plain)
stops = {
    "stop_loss": st.sampled_from([None, "1%", "4%", "1atr"]),
    "take_profit": st.sampled_from([None, "2%", "8%", "2atr"]),
    "trailing_stop": st.sampled_from([None, "3%", "1.5atr"]),
    "atr_length": st.sampled_from([1, 5, 14]),
    "intrabar": st.sampled_from(INTRABAR),
}
everything = st.fixed_dictionaries(
    plain
    | stops
    | {
        "sides": st.sampled_from([(True, False), (True, True), (False, True)]),
        "delay_bars": st.integers(0, 5),
        "funding_bps": st.sampled_from([0.0, 3.0, -20.0]),
        "funding_interval": st.sampled_from(["8h", "1d", "30d"]),
        "eval_start": st.sampled_from([None, "1970-02-01"]),
        "eval_end": st.sampled_from([None, "1970-05-01", "1970-07-01"]),
        "has_open": st.booleans(),
    }
).map(lambda chosen: chosen | dict(zip(("longs", "shorts"), chosen.pop("sides"), strict=True)))
seeds = st.integers(0, 2**32 - 1)


def rules_of(settings: dict[str, Any]) -> Rules:
    given = dict(settings)
    return make_rules(**given) if given.pop("has_open", True) else make_rules(**given)._replace(opens=False)


def holes(bars: Bars, seed: int) -> Bars:
    """Some opens, highs and lows are missing."""
    rng = np.random.default_rng(seed)
    columns = {name: getattr(bars, name).copy() for name in ("open", "high", "low")}
    for column in columns.values():
        column[rng.random(N_BARS) < 0.05] = np.nan
    return replace(bars, **columns)


@given(everything, seeds)
@settings(deadline=None, max_examples=250)
def test_the_rules_written_down_once_more_give_the_same(execution: dict[str, Any], seed: int) -> None:
    rules, bars = rules_of(execution), holes(random_bars(seed, N_BARS), seed)
    played, expected = play(rules, bars), naive(rules, bars)
    trades = played.trades
    ours = [trades[name].tolist() for name in ("side", "entry_bar", "exit_bar")]
    assert list(zip(*ours, strict=True)) == [(trade[0], trade[1], trade[3]) for trade in expected.trades]
    assert [REASONS[reason] for reason in trades["reason"]] == [trade[6] for trade in expected.trades]
    prices = np.array([(trade[2], trade[4], trade[5]) for trade in expected.trades]).reshape(-1, 3)
    # Sums in another order; amounts are up to `size` times the equity, and funding is added instant by instant.
    for at, name in enumerate(("entry_price", "exit_price", "pnl")):
        np.testing.assert_allclose(trades[name], prices[:, at], rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(played.equity, expected.equity, rtol=1e-9, atol=1e-8)
    account = played.account[0]
    assert (account["ambiguous"], account["ruined"]) == (expected.ambiguous, expected.ruined)
    assert account["funding"] == pytest.approx(expected.funding, rel=1e-9, abs=1e-8)


@given(everything, seeds, st.lists(st.integers(0, N_BARS), max_size=5))
@settings(deadline=None, max_examples=400)
def test_cut_anywhere_is_uncut(execution: dict[str, Any], seed: int, cuts: list[int]) -> None:
    rules, bars = rules_of(execution), holes(random_bars(seed, N_BARS), seed)
    assert play(rules, bars, cuts=tuple(cuts)).bytes == play(rules, bars).bytes


@given(everything, seeds)
@settings(deadline=None, max_examples=120)
def test_compiled_code_gives_the_bits_of_plain_python(execution: dict[str, Any], seed: int) -> None:
    rules, bars = rules_of(execution), holes(random_bars(seed, N_BARS), seed)
    assert play(rules, bars, compiled()).bytes == play(rules, bars, advance_bars).bytes


@given(everything, seeds, st.integers(0, N_BARS - 1))
@settings(deadline=None, max_examples=200)
def test_a_future_bar_never_changes_the_past(execution: dict[str, Any], seed: int, t: int) -> None:
    rules, bars = rules_of(execution), random_bars(seed, N_BARS)
    other = random_bars(seed + 1, N_BARS)
    mixed = Bars(
        bars.ts,
        *(
            np.concatenate((getattr(bars, name)[:t], getattr(other, name)[t:]))
            for name in ("close", "signal", "open", "high", "low")
        ),
    )
    one, two = play(rules, bars), play(rules, mixed)
    assert one.position[:t].tobytes() == two.position[:t].tobytes()
    assert one.equity[:t].tobytes() == two.equity[:t].tobytes()
    past_one, past_two = (p.trades[p.trades["exit_bar"] < t].tobytes() for p in (one, two))
    assert past_one == past_two


@given(executions, seeds)
@settings(deadline=None, max_examples=60)
def test_a_fill_at_the_next_bar_does_not_know_its_close(execution: dict[str, Any], seed: int) -> None:
    """The decision at t and the fill at the open of t + 1 stand before the close of t + 1 is known."""
    rules = make_rules(**(execution | {"fill": "next_open", "warmup_bars": 0, "size": 0.3}))
    bars = random_bars(seed, N_BARS)
    last = N_BARS - 1
    close = bars.close.copy()
    close[last] *= 1.01
    one, two = play(rules, bars), play(rules, replace(bars, close=close))
    entered = [p.open["entry_price"].tolist() for p in (one, two)]
    assert entered[0] == entered[1]
    assert one.trades.tobytes() == two.trades.tobytes()


@given(everything, seeds)
@settings(deadline=None, max_examples=200)
def test_trade_pnl_adds_up_to_the_equity_won(execution: dict[str, Any], seed: int) -> None:
    played = play(rules_of(execution), random_bars(seed, N_BARS))
    account = played.account[0]
    won = played.trades["pnl"].sum() + played.open["pnl"].sum()
    # Rounding only: a trade's amounts are up to `size` times the equity of its time.
    largest = max(1000.0, np.nanmax(played.equity, initial=0.0))
    assert account["equity"] - account["start_equity"] == pytest.approx(won, rel=1e-12, abs=1e-11 * largest)
    assert account["trades"] == len(played.trades)
    assert account["trade_bars"] == played.trades["bars"].sum()


@given(executions, seeds)
@settings(deadline=None, max_examples=60)
def test_bars_in_position_are_those_of_the_trades(execution: dict[str, Any], seed: int) -> None:
    rules, bars = make_rules(**execution), random_bars(seed, N_BARS)
    played = play(rules, bars)
    held = played.trades["bars"].sum() + played.open["bars"].sum()
    if rules.fill == NEXT_OPEN:  # the last bar of a trade counts too when its close still finds it open
        at_close = played.trades["exit_price"] == bars.close[played.trades["exit_bar"]]
        held += len(played.open) + np.count_nonzero((played.trades["reason"] == RUIN) & at_close)
    assert played.account["held"][0] == held


@given(everything, seeds, st.floats(0.1, 30))
@settings(deadline=None, max_examples=200)
def test_doubling_the_fee_never_helps(execution: dict[str, Any], seed: int, fee_bps: float) -> None:
    """At no close, whatever else is set. Fills and stops are where they were, for no decision looks at the equity, so
    that each trade multiplies equity by a factor that falls with the fee. True of fees that leave something at every
    entry (size x fee < 1; an entry that leaves nothing is not made, and may be well avoided), and of the fee alone:
    slippage moves the entry, and with it the stops.
    """
    bars = random_bars(seed, N_BARS)
    once, twice = (play(rules_of(execution | {"fee_bps": fee}), bars) for fee in (fee_bps, 2 * fee_bps))
    evaluated = ~np.isnan(once.equity)
    assert (evaluated == ~np.isnan(twice.equity)).all()
    assert (twice.equity[evaluated] <= once.equity[evaluated] * (1 + 1e-12)).all()  # equal while nothing traded


@given(everything, seeds)
@settings(deadline=None, max_examples=200)
def test_equity_at_every_close_is_the_sum_of_its_parts(execution: dict[str, Any], seed: int) -> None:
    """Without costs: what was there at first, the moves of closed trades, and that of the one open at the close."""
    bars = random_bars(seed, N_BARS)
    free = {"fee_bps": 0.0, "slippage_bps": 0.0, "funding_bps": 0.0}
    played = play(rules_of(execution | free), bars)
    trades = np.concatenate((played.trades, played.open))
    expected = np.full(N_BARS, 1000.0)
    for trade in trades:
        entry, exit_ = int(trade["entry_bar"]), int(trade["exit_bar"])
        stop = exit_ if trade["reason"] else N_BARS  # the open one is marked to the end
        moved = trade["side"] * trade["units"] * (bars.close[entry:stop] - trade["entry_price"])
        expected[entry:stop] += moved
        expected[stop:] += trade["pnl"]
    evaluated = ~np.isnan(played.equity)
    largest = max(1000.0, np.nanmax(played.equity, initial=0.0))
    np.testing.assert_allclose(played.equity[evaluated], expected[evaluated], rtol=1e-10, atol=1e-11 * largest)


@given(executions, seeds)
@settings(deadline=None, max_examples=60)
def test_the_past_of_the_signal_is_the_position(execution: dict[str, Any], seed: int) -> None:
    """Units held after a fill are those of the target one bar before (at once when filling at the close)."""
    rules, bars = make_rules(**(execution | {"size": 0.3})), random_bars(seed, N_BARS)
    played = play(rules, bars)
    lag = 0 if rules.fill > NEXT_CLOSE else 1
    for trade in played.trades:
        assert played.position[trade["entry_bar"] - lag] == trade["side"]
        assert played.position[trade["exit_bar"] - lag] != trade["side"]


def test_start_equity_only_scales() -> None:
    bars = random_bars(5, 500)
    one, two = (play(make_rules(start_equity=start, fee_bps=3), bars) for start in (1024.0, 4096.0))
    assert (one.equity * 4).tobytes() == two.equity.tobytes()  # powers of two scale without rounding
