"""Funding, sides, delay, the end of evaluation and costs of single symbols, worked by hand."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from accounting import DAY_NS, make_bars, make_rules, play, random_bars

from atc_backtest.accounts import REASONS, Charges, Rules, Saved, new_accounts
from atc_backtest.config import ExecutionConfig, RunConfig
from atc_backtest.errors import ConfigError
from atc_backtest.execution import AdvanceBars, advance, advance_bars, compiled
from atc_backtest.metrics import TRADE_COLUMNS
from atc_backtest.symbol_costs import SymbolCosts, charges_of, check_symbols, read_costs

CLOSE_TO = {"rel": 1e-13, "abs": 1e-10}
HOUR_NS = DAY_NS // 24


@pytest.fixture(params=["plain", "compiled"])
def run(request: pytest.FixtureRequest) -> AdvanceBars:
    return advance_bars if request.param == "plain" else compiled()


def near(value: object) -> object:
    return pytest.approx(value, **CLOSE_TO)


# --- funding -------------------------------------------------------------------------------------


def test_a_daily_bar_pays_every_interval_that_it_contains(run: AdvanceBars) -> None:
    # 10 units from the open of bar 1 on: 8:00 and 16:00 at its close of 110, 0:00 of bar 2 before its open at 110
    # too, then 8:00 and 16:00 at 120; 0:00 of bar 3 at 120, and sold at its open for 130.
    rules = make_rules(funding_bps=10, funding_interval="8h")
    bars = make_bars([100, 110, 120, 100], [1, 1, 0, 0], open=[100, 100, 115, 130])
    played = play(rules, bars, run)
    assert played.account["funding"][0] == near(3 * 1.1 + 3 * 1.2)
    assert played.equity.tolist() == near([1000, 1100 - 2.2, 1200 - 3.3 - 2.4, 1300 - 6.9])
    assert played.trades["pnl"].tolist() == near([300 - 6.9])
    assert played.account["traded"][0] == near(2300)  # funding is no trade, and no fee
    assert played.account["fees"][0] == 0


def test_shorts_receive_what_longs_pay_and_the_other_way_round(run: AdvanceBars) -> None:
    bars = make_bars([100, 100, 100], [-1, -1, -1])
    for rate in (10, -10):
        played = play(make_rules(shorts=True, funding_bps=rate, funding_interval="1d"), bars, run)
        assert played.account["funding"][0] == near(-rate / 10)  # once, at the beginning of bar 2
        assert played.open["pnl"].tolist() == near([rate / 10])


def test_hourly_bars_pay_at_the_open_that_is_the_instant(run: AdvanceBars) -> None:
    rules = make_rules(fill="close", funding_bps=100, funding_interval="2h")._replace(bar_ns=HOUR_NS)
    bars = make_bars([100, 100, 50, 50, 50], [1, 1, 1, 0, 0], ts=np.arange(5) * HOUR_NS)
    played = play(rules, bars, run)
    # Held from the close of bar 0 (1:00) to that of bar 3 (4:00): 2:00 at the close before it of 100. At 4:00 it is
    # sold already.
    assert played.equity.tolist() == near([1000, 1000, 500 - 10, 490, 490])
    assert played.account["funding"][0] == near(10)


def test_missing_bars_pay_too(run: AdvanceBars) -> None:
    rules = make_rules(fill="close", funding_bps=10, funding_interval="1d")
    bars = make_bars([100, 200], [1, 1], ts=[0, 5 * DAY_NS])
    assert play(rules, bars, run).account["funding"][0] == near(5 * 1.0)  # five midnights at the close of 100


def test_a_position_stopped_in_a_bar_does_not_pay_within_it(run: AdvanceBars) -> None:
    rules = make_rules(stop_loss="5%", funding_bps=10, funding_interval="8h")
    bars = make_bars([100, 100], [1, 1], low=[100, 90], high=[100, 100])
    played = play(rules, bars, run)
    assert [REASONS[reason] for reason in played.trades["reason"]] == ["stop_loss"]
    assert played.account["funding"][0] == 0


def test_funding_can_ruin(run: AdvanceBars) -> None:
    played = play(make_rules(funding_bps=10_000, funding_interval="1d"), make_bars([100] * 4, [1] * 4), run)
    assert played.equity.tolist() == near([1000, 1000, 0, 0])
    assert [REASONS[reason] for reason in played.trades["reason"]] == ["ruin"]


def test_funding_needs_the_length_of_a_bar() -> None:
    with pytest.raises(ConfigError, match="funding_bps = 1 needs bars of a known length"):
        Rules.of(RunConfig(execution=ExecutionConfig(funding_bps=1)), 0, True)


# --- sides, delay, end of evaluation -------------------------------------------------------------


def test_sides(run: AdvanceBars) -> None:
    bars = make_bars([100.0] * 5, [0.5, -0.5, 0.0, -0.5, 0.5])
    sides = {(True, False): [1, 0, 0, 0, 1], (True, True): [1, -1, 0, -1, 1], (False, True): [0, -1, 0, -1, 0]}
    for (longs, shorts), expected in sides.items():
        assert play(make_rules(longs=longs, shorts=shorts), bars, run).position.tolist() == expected
    held = play(make_rules(longs=False, shorts=True, neutral="hold"), bars, run)
    assert held.position.tolist() == [0, -1, -1, -1, -1]


@pytest.mark.parametrize("delay", range(6))
@pytest.mark.parametrize("fill", ["next_open", "next_close", "close"])
def test_a_delay_moves_every_fill_by_bars(run: AdvanceBars, fill: str, delay: int) -> None:
    signal = [0, 1, 1, -1, 0, 1, *[0] * 8]
    rules = make_rules(fill=fill, shorts=True, delay_bars=delay)
    played = play(rules, make_bars([100.0] * 14, signal), run)
    first = (1 if fill == "close" else 2) + delay
    assert played.trades["entry_bar"].tolist() == [first, first + 2, first + 4]
    assert played.trades["exit_bar"].tolist() == [first + 2, first + 3, first + 5]
    assert played.trades["side"].tolist() == [1, -1, 1]
    assert played.position.tolist() == np.sign(signal).tolist()  # what is decided comes when it came


def test_bars_from_the_end_on_change_nothing(run: AdvanceBars) -> None:
    whole = make_bars([100, 110, 120, 90, 80], [1, 1, 1, 0, -1], open=[100, 100, 115, 95, 85])
    rules = make_rules(eval_end="1970-01-04", shorts=True)
    played = play(rules, whole, run)
    assert played.equity[:3].tolist() == near([1000, 1100, 1200])
    assert np.isnan(played.equity[3:]).all()
    assert np.isnan(played.exposure[3:]).all()
    assert played.position.tolist() == [1, 1, 1, 0, 0]
    (trade,) = played.open
    assert (trade["exit_price"], trade["exit_ts"], trade["bars"]) == (120, 2 * DAY_NS, 1)
    account = played.account[0]
    assert (account["n"], account["ts"], account["close"], account["bars"]) == (3, 2 * DAY_NS, 120, 3)
    earlier = make_bars([100, 110, 120], [1, 1, 1], open=[100, 100, 115])
    assert account.tobytes() == play(rules, earlier, run).account[0].tobytes()


def test_nothing_is_evaluated_between_a_start_and_an_end_without_bars(run: AdvanceBars) -> None:
    rules = make_rules(eval_start="1980-01-01", eval_end="1981-01-01")
    assert play(rules, make_bars([1, 2, 3], [1, 1, 1]), run).account["n"][0] == 0


# --- costs of single symbols ---------------------------------------------------------------------


def test_accounts_are_charged_what_is_theirs(run: AdvanceBars) -> None:
    bars, saved = random_bars(1, 100), Saved.room(100)
    rules, own = make_rules(fee_bps=1), make_rules(fee_bps=100, slippage_bps=20)
    charged = new_accounts(rules, 2, [Charges(0.0001, 0.0, 0.0), Charges(0.01, 0.002, 0.0)])
    for account, alone in zip(charged, (rules, own), strict=True):
        advance(account, rules, bars, saved, run)
        assert account.tobytes() == play(alone, bars, run).account.tobytes()
    assert charged["trades"].tolist() == [charged["trades"][0]] * 2 != [0, 0]


def written(folder: Path, text: str) -> Path:
    file = folder / "costs.csv"
    file.write_text(text, encoding="utf-8")
    return file


def test_costs_are_read_and_fall_back_on_the_run(tmp_path: Path) -> None:
    text = "\ufeffsymbol, fee_bps,slippage_bps,funding_bps\nBBB,5,,-1\n\nAAA, 2.5,1,\n"
    costs = read_costs(written(tmp_path, text))
    assert costs == (SymbolCosts("AAA", 2.5, 1.0, None), SymbolCosts("BBB", 5.0, None, -1.0))
    execution = ExecutionConfig(fee_bps=10, slippage_bps=20, funding_bps=30)
    assert charges_of(costs, ["BBB", "CCC", "AAA"], execution) == [
        Charges(0.0005, 0.002, -0.0001),
        Charges(0.001, 0.002, 0.003),
        Charges(0.00025, 0.0001, 0.003),
    ]
    assert read_costs(written(tmp_path, "fee_bps,symbol\n0,AAA\n")) == (SymbolCosts("AAA", 0.0, None, None),)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "begins with ''.*symbol,fee_bps,slippage_bps,funding_bps"),
        ("symbol\nAAA\n", "begins with 'symbol'"),
        ("symbol,fees\nAAA,1\n", "begins with 'symbol,fees'"),
        ("symbol,fee_bps,fee_bps\nAAA,1,2\n", "begins with"),
        ("symbol,fee_bps\nAAA,1,2\n", "line 2 has 3 values.*2 columns"),
        ("symbol,fee_bps\nAAA,1\nAAA,2\n", "line 3: symbol 'AAA' is there twice"),
        ("symbol,fee_bps\n,1\n", "line 2: symbol '' is missing"),
        ("symbol,fee_bps\nAAA,cheap\n", "line 2: fee_bps = 'cheap'"),
        ("symbol,fee_bps\nAAA,-1\n", r"line 2: fee_bps = -1.0.*>= 0"),
        ("symbol,funding_bps\nAAA,nan\n", "line 2: funding_bps = nan"),
    ],
)
def test_costs_that_cannot_be_taken_are_named(tmp_path: Path, text: str, found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        read_costs(written(tmp_path, text))


def test_costs_that_are_not_there_and_symbols_that_are_unknown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the costs .*Check --costs"):
        read_costs(tmp_path / "none.csv")
    costs = (SymbolCosts("AAA", 1.0, None, None), SymbolCosts("BCB", 1.0, None, None))
    with pytest.raises(ConfigError, match=r"--costs names BCB, which prices\.zarr does not hold"):
        check_symbols(costs, {"AAA", "BBB"}, "prices.zarr")
    assert check_symbols(costs[:1], {"AAA", "BBB"}, "prices.zarr") == costs[:1]


# --- doors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value", "allowed"),
    [
        ("stop_loss", "5", "a percentage such as '5%'"),
        ("stop_loss", 0.05, "multiples of the average true range"),
        ("take_profit", "0%", "a percentage"),
        ("trailing_stop", "-2atr", "a percentage"),
        ("trailing_stop", "1e999%", "a percentage"),
        ("stop_loss", "1.2.3%", "a percentage"),
        ("atr_length", 0, "from 1 to"),
        ("intrabar", "random", "worst, best, open_first"),
        ("delay_bars", 6, "from 0 to 5"),
        ("funding_bps", math.inf, "finite"),
        ("funding_interval", "8 hours", "minutes, hours or days"),
        ("funding_interval", "0h", "minutes, hours or days"),
        ("funding_interval", 8, "minutes, hours or days"),
        ("longs", False, "true where longs is false"),
    ],
)
def test_settings_that_are_not_allowed_are_named(setting: str, value: object, allowed: str) -> None:
    with pytest.raises(ConfigError, match="is not allowed") as refused:
        ExecutionConfig(**{setting: value})  # type: ignore[arg-type]
    assert allowed in str(refused.value)
    assert setting in str(refused.value) or setting == "longs"


def test_an_end_has_to_be_after_the_start() -> None:
    with pytest.raises(ConfigError, match=r"eval_end = '2020-01-01'.*later than eval_start \(2020-01-01\)"):
        RunConfig(eval_start="2020-01-01", eval_end="2020-01-01")


def test_equal_distances_are_one_setting() -> None:
    one = ExecutionConfig(stop_loss=" 5.0 %", take_profit="2ATR", trailing_stop="none")
    assert one == ExecutionConfig(stop_loss="5%", take_profit="2.0atr")


def test_every_setting_is_described() -> None:
    text = (Path(__file__).resolve().parent.parent / "docs" / "execution.md").read_text(encoding="utf-8")
    names = [field.name for field in fields(ExecutionConfig)] + ["eval_start", "eval_end", *REASONS[1:], *TRADE_COLUMNS]
    assert [name for name in names if name not in text and name not in ("symbol", "param_id")] == []
