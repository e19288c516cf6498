"""Fills, costs and trades, worked by hand; and what is refused."""

from __future__ import annotations

import math
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from subprocess import run as run_process

import numpy as np
import numpy.lib.recfunctions as rfn
import pytest
from accounting import DAY_NS, cut, make_bars, make_rules, play, random_bars

from atc_backtest.accounts import FILLS, NEXT_CLOSE, NEXT_OPEN, REASONS, TRADE, Bars, Rules, Saved, new_accounts
from atc_backtest.config import AtcConfig, ExecutionConfig, RunConfig
from atc_backtest.errors import ConfigError, DataError
from atc_backtest.execution import AdvanceBars, advance, advance_bars, compiled

# Hand-worked amounts are exact decimals; a few float64 roundings lie between them and the account.
CLOSE_TO = {"rel": 1e-13, "abs": 1e-10}


@pytest.fixture(params=["plain", "compiled"])
def run(request: pytest.FixtureRequest) -> AdvanceBars:
    return advance_bars if request.param == "plain" else compiled()


def near(value: float) -> object:
    return pytest.approx(value, **CLOSE_TO)


# --- worked by hand ------------------------------------------------------------------------------


def test_next_open_buys_and_sells_at_the_opens_after_the_decisions(run: AdvanceBars) -> None:
    bars = make_bars([10, 11, 12, 13, 12], [0, 1, 1, 0, 0], open=[10, 10, 10, 12, 15])
    played = play(make_rules(), bars, run)
    assert played.position.tolist() == [0, 1, 1, 0, 0]
    # 100 units at the open of bar 2, sold at the open of bar 4.
    assert played.equity.tolist() == near([1000, 1000, 1200, 1300, 1500])
    (trade,) = played.trades
    assert (trade["entry_bar"], trade["exit_bar"], trade["bars"]) == (2, 4, 2)
    assert (trade["entry_ts"], trade["exit_ts"]) == (2 * DAY_NS, 4 * DAY_NS)
    assert (trade["side"], trade["units"], trade["entry_price"], trade["exit_price"]) == (1, 100, 10, 15)
    assert (trade["pnl"], trade["return"], REASONS[trade["reason"]]) == (500, 0.5, "signal")
    assert played.account["held"][0] == 2
    assert played.account["traded"][0] == 2500


def test_next_close_fills_one_close_later(run: AdvanceBars) -> None:
    played = play(make_rules(fill="next_close"), make_bars([10, 11, 10, 12, 15, 7], [0, 1, 1, 0, 0, 0]), run)
    assert played.equity.tolist() == near([1000, 1000, 1000, 1200, 1500, 1500])
    (trade,) = played.trades
    assert (trade["entry_bar"], trade["exit_bar"], trade["entry_price"], trade["exit_price"]) == (2, 4, 10, 15)
    assert played.account["held"][0] == 2  # bars 3 and 4: at the close of 2 it was only being bought


def test_close_fills_at_the_close_that_decides(run: AdvanceBars) -> None:
    played = play(make_rules(fill="close"), make_bars([20, 10, 12, 15, 7], [0, 1, 1, 0, 0]), run)
    assert played.equity.tolist() == near([1000, 1000, 1200, 1500, 1500])
    (trade,) = played.trades
    assert (trade["entry_bar"], trade["exit_bar"], trade["entry_price"], trade["exit_price"]) == (1, 3, 10, 15)
    assert played.account["held"][0] == 2


def test_costs_of_a_round_trip(run: AdvanceBars) -> None:
    rules = make_rules(fill="close", fee_bps=100, slippage_bps=1000, size=0.55)
    played = play(rules, make_bars([10, 20, 20], [1, 0, 0]), run)
    # Buys at 11: 550 / 11 = 50 units, fee 5.50; sells at 18: 900, fee 9.
    assert played.equity.tolist() == near([1000 - 550 - 5.5 + 500, 1335.5, 1335.5])
    (trade,) = played.trades
    assert trade["units"] == near(50)
    assert (trade["entry_price"], trade["exit_price"]) == (near(11), near(18))
    assert (trade["entry_fee"], trade["exit_fee"]) == (near(5.5), near(9))
    assert (trade["pnl"], trade["return"]) == (near(335.5), near(335.5 / 550))
    assert played.account["fees"][0] == near(14.5)
    assert played.account["traded"][0] == near(1450)


def test_costs_of_a_short(run: AdvanceBars) -> None:
    rules = make_rules(fill="close", fee_bps=100, slippage_bps=1000, shorts=True)
    played = play(rules, make_bars([10, 5, 5], [-1, 0, 0]), run)
    # Sells 1000 / 9 units at 9, fee 10; buys them back at 5.5.
    units = 1000 / 9
    final = 1000 - 10 + units * (9 - 5.5) - 0.01 * units * 5.5
    assert played.equity.tolist() == near([1000 + 1000 - 10 - units * 10, final, final])
    (trade,) = played.trades
    assert (trade["side"], trade["units"], trade["pnl"]) == (-1, near(units), near(final - 1000))
    assert trade["return"] == near((final - 1000) / 1000)


def test_a_reversal_closes_pays_and_opens_with_what_is_left(run: AdvanceBars) -> None:
    rules = make_rules(fill="close", fee_bps=100, shorts=True)
    played = play(rules, make_bars([10, 20, 10], [1, -1, 0]), run)
    # 100 units at 10, fee 10; sold at 20 for 2000, fee 20: 1970. Short 98.5 at 20, fee 19.70; back at 10, fee 9.85.
    assert played.equity.tolist() == near([990, 1970 - 19.7, 1970 - 19.7 + 985 - 9.85])
    assert [REASONS[reason] for reason in played.trades["reason"]] == ["reversal", "signal"]
    assert played.trades["side"].tolist() == [1, -1]
    assert played.trades["trade_id"].tolist() == [0, 1]
    assert played.trades["units"].tolist() == near([100, 98.5])
    assert played.trades["pnl"].tolist() == near([970, 985 - 19.7 - 9.85])
    assert played.account["fees"][0] == near(10 + 20 + 19.7 + 9.85)


@pytest.mark.parametrize(("neutral", "positions"), [("flat", [1, 0, -1, 0, 1]), ("hold", [1, 1, -1, -1, 1])])
def test_neutral_is_flat_or_what_the_target_was(run: AdvanceBars, neutral: str, positions: list[int]) -> None:
    bars = make_bars([10.0] * 5, [0.5, 0.1, -0.5, -0.1, 0.5])  # on a threshold is neutral
    assert play(make_rules(neutral=neutral, shorts=True), bars, run).position.tolist() == positions


def test_without_shorts_a_low_signal_is_neutral(run: AdvanceBars) -> None:
    bars = make_bars([10.0] * 3, [0.5, -0.5, -0.5])
    assert play(make_rules(), bars, run).position.tolist() == [1, 0, 0]
    assert play(make_rules(neutral="hold"), bars, run).position.tolist() == [1, 1, 1]


def test_a_nan_signal_is_flat_even_when_neutral_holds(run: AdvanceBars) -> None:
    played = play(make_rules(neutral="hold"), make_bars([10.0] * 3, [0.5, math.nan, 0.0]), run)
    assert played.position.tolist() == [1, 0, 0]


def test_units_stay_fixed_while_the_target_stays(run: AdvanceBars) -> None:
    played = play(make_rules(fill="close", fee_bps=50), make_bars([10, 20, 40, 5], [1, 0.6, 0.9, 1]), run)
    assert len(played.trades) == 0
    assert played.open["units"].tolist() == [100]
    assert played.account["fees"][0] == near(5)


def test_an_open_trade_is_marked_at_the_last_close(run: AdvanceBars) -> None:
    bars = make_bars([10, 12, 8, 11], [1, 1, 1, 1], high=[10, 13, 9, 11], low=[9, 11, 7, 10])
    played = play(make_rules(fill="close", fee_bps=100), bars, run)
    assert len(played.trades) == 0
    (trade,) = played.open
    assert (REASONS[trade["reason"]], trade["trade_id"], trade["bars"]) == ("open", 0, 3)
    assert (trade["exit_bar"], trade["exit_price"], trade["exit_fee"]) == (3, 11, 0)
    assert (trade["pnl"], trade["return"]) == (near(90), near(0.09))
    assert (trade["mae"], trade["mfe"]) == (near(-0.3), near(0.3))
    assert played.equity[-1] == near(1090)


def test_a_signal_on_the_last_bar_stays_a_target(run: AdvanceBars) -> None:
    played = play(make_rules(), make_bars([10, 11], [0, 1]), run)
    assert played.position.tolist() == [0, 1]
    assert len(played.trades) == len(played.open) == 0


def test_bars_without_an_open_fill_nothing(run: AdvanceBars) -> None:
    bars = make_bars([10, 10, 10, 20], [1, 1, 1, 1], open=[10, math.nan, 10, 20])
    played = play(make_rules(), bars, run)
    assert played.open["entry_bar"].tolist() == [2]
    assert played.equity[-1] == near(2000)


def test_a_missing_bar_moves_the_fill_to_the_next_present_one(run: AdvanceBars) -> None:
    bars = make_bars([10, 10, 20], [1, 1, 1], ts=[0, 5 * DAY_NS, 6 * DAY_NS])
    played = play(make_rules(), bars, run)
    assert played.open["entry_ts"].tolist() == [5 * DAY_NS]
    assert played.open["entry_bar"].tolist() == [1]


def test_warm_up_holds_no_position_and_does_not_count(run: AdvanceBars) -> None:
    played = play(make_rules(warmup_bars=2, fill="close"), make_bars([10, 20, 10, 20, 30], [1] * 5), run)
    assert played.position.tolist() == [0, 0, 1, 1, 1]
    assert np.isnan(played.equity[:2]).all()
    assert played.equity[2:].tolist() == near([1000, 2000, 3000])
    account = played.account[0]
    assert (account["n"], account["start_ts"], account["ts"]) == (3, 2 * DAY_NS, 4 * DAY_NS)
    assert account["hold_start"] == 10


def test_eval_start_begins_with_the_first_bar_at_or_after_it(run: AdvanceBars) -> None:
    rules = Rules.of(RunConfig(eval_start="1970-01-03", execution=ExecutionConfig(fill="close")), 1, True)
    played = play(rules, make_bars([10, 20, 10, 20], [1] * 4), run)
    assert played.position.tolist() == [0, 0, 1, 1]
    assert played.account["start_ts"][0] == 2 * DAY_NS


def test_a_series_shorter_than_its_warm_up(run: AdvanceBars) -> None:
    played = play(make_rules(warmup_bars=9), make_bars([10, 11], [1, 1]), run)
    assert played.account["n"][0] == 0
    assert np.isnan(played.equity).all()
    assert not played.position.any()


def test_no_bars_change_nothing(run: AdvanceBars) -> None:
    rules = make_rules()
    assert play(rules, make_bars([], []), run).account.tobytes() == new_accounts(rules, 1).tobytes()


# --- ruin ----------------------------------------------------------------------------------------


def test_a_short_is_ruined_at_a_close(run: AdvanceBars) -> None:
    rules = make_rules(fill="close", fee_bps=100, shorts=True)
    played = play(rules, make_bars([10, 12, 25, 5, 5], [-1] * 5, high=[10, 12, 30, 5, 5]), run)
    assert played.equity.tolist() == near([990, 790, 0, 0, 0])
    assert played.position.tolist() == [-1, -1, 0, 0, 0]
    (trade,) = played.trades
    assert (REASONS[trade["reason"]], trade["exit_bar"], trade["exit_price"]) == ("ruin", 2, 25)
    # Nothing is traded at a mark; the loss is all there was, not the debt.
    assert (trade["exit_fee"], trade["pnl"], trade["return"]) == (0, -1000, -1)
    assert trade["mae"] == near(-2)
    account = played.account[0]
    assert (account["ruined"], account["n"], account["ts"]) == (1, 3, 2 * DAY_NS)
    assert (account["cash"], account["units"], account["fees"], account["traded"]) == (0, 0, near(10), near(1000))
    assert account["drawdown"] == -1
    assert account["held"] == 3 - 1  # not held at the close it was opened at


@pytest.mark.parametrize("fill", FILLS)
def test_a_closing_fill_can_ruin(run: AdvanceBars, fill: str) -> None:
    # Doubled by a leverage of 10, a fall of a fifth takes more than all.
    signal = {"next_open": [1, 0, 0, 1], "next_close": [1, 1, 0, 1], "close": [0, 1, 0, 1]}[fill]
    bars = make_bars([10, 10, 8, 8], signal, open=[10, 10, 8, 8])
    played = play(make_rules(fill=fill, size=10, fee_bps=1), bars, run)
    assert played.equity.tolist() == near([1000, 999, 0, 0])
    assert [REASONS[reason] for reason in played.trades["reason"]] == ["ruin"]
    assert played.trades["pnl"].tolist() == [-1000]
    assert not played.position[2:].any()
    assert played.account["ruined"][0] == 1


def test_a_reversal_that_ruins_does_not_open(run: AdvanceBars) -> None:
    played = play(make_rules(fill="close", size=10, shorts=True), make_bars([10, 8, 8], [1, -1, -1]), run)
    assert [REASONS[reason] for reason in played.trades["reason"]] == ["ruin"]
    assert played.trades["exit_fee"].tolist() == [0]
    assert played.account["n"][0] == 2


def test_two_trades_can_end_in_one_bar(run: AdvanceBars) -> None:
    # The reversal at the open is ruined by the close of the same bar: one trade more than bars.
    rules = make_rules(shorts=True)
    bars = make_bars([10, 10, 30], [1, -1, -1], open=[10, 10, 10])
    played = play(rules, bars, run, cuts=(2,))
    assert [REASONS[reason] for reason in played.trades["reason"]] == ["reversal", "ruin"]
    assert played.trades["exit_bar"].tolist() == [2, 2]


def test_an_entry_whose_costs_leave_nothing_is_not_made(run: AdvanceBars) -> None:
    rules = make_rules(fill="close", fee_bps=10_000)
    played = play(rules, make_bars([10, 20, 20], [1, 1, 1]), run)
    assert played.equity.tolist() == [1000, 1000, 1000]
    assert played.position.tolist() == [1, 1, 1]
    assert (played.account["fees"][0], played.account["ruined"][0], len(played.open)) == (0, 0, 0)


# --- exposure ------------------------------------------------------------------------------------


def test_exposure_is_the_market_value_over_the_equity_at_the_close(run: AdvanceBars) -> None:
    bars = make_bars([10, 10, 20, 5, 5], [0, 1, 1, -1, -1])
    played = play(make_rules(fill="close", size=0.5, shorts=True, warmup_bars=1), bars, run)
    # 50 units at 10 with 500 in cash: 500 of 1000, 1000 of 1500. Sold at 5 for 750 in all: 75 short.
    assert np.isnan(played.exposure[0])
    assert played.exposure[1:].tolist() == near([0.5, 1000 / 1500, -0.5, -0.5])
    ruined = play(make_rules(fill="close", shorts=True), make_bars([10, 30, 10], [-1, -1, -1]), run)
    assert ruined.exposure.tolist() == near([-1, 0, 0])
    assert play(make_rules(), make_bars([10, 11], [0, 0]), run).exposure.tolist() == [0, 0]


# --- excursions ----------------------------------------------------------------------------------

RANGES = {"open": [100, 100, 100, 90, 100], "high": [150, 120, 130, 140, 160], "low": [80, 95, 70, 60, 50]}


@pytest.mark.parametrize(
    ("fill", "signal", "mae", "mfe"),
    [
        # In at the open of bar 1, out at the open of bar 3: the ranges of 1 and 2, and the fill at 90.
        ("next_open", [1, 1, 0, 0, 0], -0.3, 0.3),
        # In at the close of bar 1, out at the close of bar 3: the ranges of 2 and 3.
        ("next_close", [1, 1, 0, 0, 0], -0.4, 0.4),
        ("close", [0, 1, 1, 0, 0], -0.4, 0.4),
    ],
)
def test_excursions_cover_the_bars_held(run: AdvanceBars, fill: str, signal: list[int], mae: float, mfe: float) -> None:
    bars = make_bars([100.0] * 5, signal, **RANGES)
    (trade,) = play(make_rules(fill=fill), bars, run).trades
    assert (trade["mae"], trade["mfe"]) == (near(mae), near(mfe))
    (trade,) = play(make_rules(fill=fill, shorts=True), replace(bars, signal=-bars.signal), run).trades
    assert (trade["mae"], trade["mfe"]) == (near(-mfe), near(-mae))


@pytest.mark.parametrize(("exit_open", "mae", "mfe"), [(50, -0.5, 0), (150, 0, 0.5)])
def test_the_exit_fill_is_an_excursion(run: AdvanceBars, exit_open: float, mae: float, mfe: float) -> None:
    bars = make_bars([100.0] * 4, [1, 0, 0, 0], open=[100, 100, exit_open, 100])
    (trade,) = play(make_rules(), bars, run).trades
    assert (trade["mae"], trade["mfe"]) == (near(mae), near(mfe))


# --- doors ---------------------------------------------------------------------------------------


def test_rules_take_percent_and_thresholds_from_the_run() -> None:
    execution = ExecutionConfig(fee_bps=7.5, slippage_bps=2, size=0.5, shorts=True, neutral="hold", start_equity=5)
    run = RunConfig(AtcConfig(long_threshold=0.2, short_threshold=-0.3), execution, rf=0.1, mar=0.2)
    rules = Rules.of(run, 31, has_open=False)
    assert (rules.fill, rules.fee, rules.slippage, rules.size) == (NEXT_CLOSE, 0.00075, 0.0002, 0.5)
    assert (rules.long_threshold, rules.short_threshold, rules.hold) == (0.2, -0.3, True)
    assert (rules.warmup_bars, rules.eval_start_ns, rules.eval_end_ns) == (31, -(2**63) + 1, 2**63 - 1)
    assert (rules.start_equity, rules.rf, rules.mar) == (5.0, 0.1, 0.2)
    assert (rules.stops, rules.ranged, rules.opens) == (False, False, False)
    assert Rules.of(run, 31, has_open=True).fill == NEXT_OPEN


def test_fills_at_opens_need_opens() -> None:
    run = RunConfig(execution=ExecutionConfig(fill="next_open"))
    with pytest.raises(ConfigError, match=r"next_open.*the store has none.*next_close"):
        Rules.of(run, 0, has_open=False)


def test_columns_that_do_not_fit_are_named() -> None:
    ts = np.arange(3, dtype=np.int64)
    with pytest.raises(DataError, match=r"signal is float64 \(2,\).*float64 \(3,\)"):
        Bars(ts, np.ones(3), np.ones(2))
    with pytest.raises(DataError, match="close is float32"):
        Bars(ts, np.ones(3, np.float32), np.ones(3))
    with pytest.raises(DataError, match="high is float64"):
        Bars(ts, np.ones(3), np.ones(3), high=np.ones(6)[::2])


@pytest.mark.parametrize(("name", "size"), [("trades", 3), ("position", 2), ("equity", 2), ("exposure", 2)])
def test_arrays_without_room_are_refused(name: str, size: int) -> None:
    rules = make_rules()
    room = Saved.room(3, exposure=True)
    saved = replace(room, **{name: getattr(room, name)[:size]})
    with pytest.raises(DataError, match=f"{name} is .* at least {size + 1}"):
        advance(new_accounts(rules, 1)[0], rules, make_bars([1, 2, 3], [0, 0, 0]), saved)


def test_trades_may_be_left_out() -> None:
    rules, bars = make_rules(shorts=True), random_bars(3, 300)
    with_trades, without = new_accounts(rules, 1), new_accounts(rules, 1)
    closed = advance(with_trades[0], rules, bars, Saved.room(300))
    assert advance(without[0], rules, bars, Saved.room(300, trades=False)) == closed > 10  # and the exposure too
    excursions = ["trade_high", "trade_low"]  # nobody reads them then
    assert rfn.drop_fields(with_trades, excursions).tobytes() == rfn.drop_fields(without, excursions).tobytes()


def test_read_only_prices_are_taken() -> None:
    bars = cut(random_bars(3, 50), 0, 50)
    rules = make_rules()
    expected = play(rules, bars).account.tobytes()
    account = new_accounts(rules, 1)
    for name in ("ts", "close", "signal", "open", "high", "low"):
        getattr(bars, name).flags.writeable = False
    advance(account[0], rules, bars, Saved.room(50))
    assert account.tobytes() == expected


def test_threads_share_the_compiled_loop() -> None:
    rules, bars = make_rules(shorts=True), random_bars(8, 2000)
    accounts = new_accounts(rules, (2, 4))
    compiled.cache_clear()  # threads may meet before it is compiled
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda account: advance(account, rules, bars, Saved.room(2000)), accounts.reshape(-1)))
    assert {account.tobytes() for account in accounts.reshape(-1)} == {play(rules, bars).account.tobytes()}


def test_importing_execution_does_not_import_numba() -> None:
    code = "import sys, atc_backtest.execution, atc_backtest.metrics; sys.exit('numba' in sys.modules)"
    assert run_process([sys.executable, "-c", code], check=False).returncode == 0


def test_a_trade_record_is_what_its_columns_say() -> None:
    """pnl and return can be worked out again from the other columns."""
    played = play(make_rules(shorts=True, fee_bps=5, slippage_bps=3), random_bars(11, 1000))
    trades = played.trades
    assert trades.dtype == TRADE
    assert len(trades) > 50
    gross = trades["side"] * trades["units"] * (trades["exit_price"] - trades["entry_price"])
    np.testing.assert_array_equal(trades["pnl"], gross - trades["entry_fee"] - trades["exit_fee"])
    np.testing.assert_array_equal(trades["return"], trades["pnl"] / (trades["units"] * trades["entry_price"]))
    np.testing.assert_array_equal(trades["trade_id"], np.arange(len(trades)))
    assert (trades["mae"] <= 0).all()
    assert (trades["mfe"] >= 0).all()
