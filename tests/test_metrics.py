"""Figures: by hand, against plain NumPy over the whole equity curve, undefined as None; calendars."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from accounting import DAY_NS, Played, make_bars, make_rules, play, random_bars
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from atc_backtest.accounts import FILLS, TRADE, Bars, Rules, new_accounts
from atc_backtest.errors import ConfigError
from atc_backtest.metrics import (
    CALENDARS,
    METRIC_COLUMNS,
    TRADE_COLUMNS,
    Value,
    bars_per_year,
    figures,
    longest_drawdown_ns,
    moments,
    trade_columns,
)

HOUR_NS = 3600 * 10**9
YEAR_S = 31_557_600
COUNTED = {"symbol", "param_id", "n_bars", "trades", "fees_paid", "ruined", "ambiguous_bars", "funding_paid"}
UNDEFINED_WITHOUT_BARS = set(METRIC_COLUMNS) - COUNTED
UNDEFINED_WITHOUT_TRADES = {
    "win_rate",
    "profit_factor",
    "expectancy",
    "expectancy_ratio",
    "sqn",
    "best_trade",
    "worst_trade",
    "mean_bars_held",
}


def nulls(row: dict[str, Value]) -> set[str]:
    return {name for name, value in row.items() if value is None}


def drawn(equity: list[float]) -> Played:
    """An account whose equity is this: long from the first close, 1 unit of money a unit of price."""
    return play(make_rules(fill="close", start_equity=equity[0]), make_bars(equity, [1] * len(equity)))


# --- by hand -------------------------------------------------------------------------------------


def test_figures_of_a_short_series_by_hand() -> None:
    played = drawn([100, 110, 99, 99, 132])
    row = figures(played.account[0], make_rules(), 4.0)
    r = [0, 0.1, -0.1, 0, 1 / 3]
    mean = sum(r) / 5
    deviation = math.sqrt(sum((x - mean) ** 2 for x in r) / 4)
    expected = {
        "n_bars": 5,
        "start_ts": 0,
        "end_ts": 4 * DAY_NS,
        "total_return": 0.32,
        "cagr": 1.32 ** (YEAR_S / (4 * 86_400)) - 1,
        "volatility": deviation * 2,
        "sharpe": mean / deviation * 2,
        "sortino": mean / math.sqrt(0.01 / 5) * 2,
        "max_drawdown": -0.1,
        "max_drawdown_bars": 3,  # from the peak at bar 1 to bar 4
        "max_drawdown_recovered": True,
        "calmar": (1.32 ** (YEAR_S / (4 * 86_400)) - 1) / 0.1,
        "exposure": 4 / 5,  # bought at the first close
        "turnover": 100 / 108,
        "trades": 0,
        "fees_paid": 0,
        "buy_hold_return": 0.32,
        "buy_hold_max_drawdown": -0.1,
        "final_equity": 132,
        "ruined": False,
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    assert nulls(row) == UNDEFINED_WITHOUT_TRADES
    assert list(row) == list(METRIC_COLUMNS)[2:]
    assert longest_drawdown_ns(played.account[0]) == 3 * DAY_NS


def test_figures_of_trades_by_hand() -> None:
    # Bought and sold at closes: 10 -> 11, 10 -> 8, 10 -> 10, 10 -> 13, each with the whole equity.
    close = [10, 11, 10, 8, 10, 10, 10, 13]
    played = play(make_rules(fill="close"), make_bars(close, [1, 0] * 4))
    row = figures(played.account[0], make_rules(), 252.0)
    pnl = np.array([100, -220, 0, 264])
    expected = {
        "trades": 4,
        "win_rate": 0.5,  # a pnl of 0 is no win and no loss
        "profit_factor": 364 / 220,
        "expectancy": 36,
        "expectancy_ratio": 36 / 220,
        "sqn": 2 * 36 / pnl.std(ddof=1),
        "best_trade": 0.3,
        "worst_trade": -0.2,
        "mean_bars_held": 1,
        "exposure": 0.5,
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-12)


def test_rf_and_mar_are_returns_of_a_bar() -> None:
    bars, rules = make_bars([100, 110, 99], [1, 1, 1]), make_rules(fill="close", rf=0.01, mar=0.02)
    row = figures(play(rules, bars).account[0], rules, 9.0)
    r = np.array([0, 0.1, -0.1])
    assert row["sharpe"] == pytest.approx((r.mean() - 0.01) / r.std(ddof=1) * 3, rel=1e-12)
    downside = math.sqrt((np.minimum(r - 0.02, 0) ** 2).mean())
    assert row["sortino"] == pytest.approx((r.mean() - 0.02) / downside * 3, rel=1e-12)


@pytest.mark.parametrize(
    ("equity", "bars", "recovered"),
    [
        ([100, 110, 120], 0, True),
        ([100, 100, 100], 0, True),
        ([100, 100, 90, 100], 2, True),  # the last bar at the peak to the one that regains it
        ([100, 90, 80, 95], 3, False),
        ([100, 90, 80, 110, 105], 3, True),  # the lasting one is shorter
        ([100, 90, 110, 105, 104], 2, False),  # as long, and it still lasts
        ([100, 90, 110, 105, 104, 103], 3, False),
    ],
)
def test_drawdown_duration(equity: list[float], bars: int, recovered: bool) -> None:
    played = drawn(equity)
    row = figures(played.account[0], make_rules(), 252.0)
    assert (row["max_drawdown_bars"], row["max_drawdown_recovered"]) == (bars, recovered)
    assert longest_drawdown_ns(played.account[0]) == bars * DAY_NS


def test_the_start_is_the_first_peak() -> None:
    rules = make_rules(fill="close", fee_bps=100, warmup_bars=1)
    played = play(rules, make_bars([10, 10, 10], [1, 1, 1], ts=[4 * DAY_NS, 5 * DAY_NS, 7 * DAY_NS]))
    row = figures(played.account[0], rules, 252.0)
    assert row["max_drawdown"] == pytest.approx(-0.01, rel=1e-12)
    assert row["max_drawdown_bars"] == 2  # from the bar before the first evaluated one
    assert longest_drawdown_ns(played.account[0]) == 3 * DAY_NS


def test_a_ruined_account() -> None:
    rules = make_rules(fill="close", shorts=True)
    row = figures(play(rules, make_bars([10, 25, 10, 10], [-1] * 4)).account[0], rules, 252.0)
    expected = {"n_bars": 2, "total_return": -1, "cagr": -1, "max_drawdown": -1, "calmar": -1, "final_equity": 0}
    expected |= {"ruined": True, "trades": 1, "worst_trade": -1, "end_ts": DAY_NS, "buy_hold_return": 1.5}
    assert {name: row[name] for name in expected} == expected


# --- undefined is None ---------------------------------------------------------------------------


def test_without_bars_nothing_is_defined() -> None:
    rules = make_rules(warmup_bars=9)
    account = play(rules, make_bars([10, 11], [1, 1])).account[0]
    row = figures(account, rules, 252.0)
    assert nulls(row) == UNDEFINED_WITHOUT_BARS
    assert (row["n_bars"], row["trades"], row["fees_paid"], row["ruined"]) == (0, 0, 0.0, False)
    assert longest_drawdown_ns(account) is None


def test_one_bar_has_no_spread_and_no_time() -> None:
    row = figures(drawn([100]).account[0], make_rules(), 252.0)
    undefined = {"cagr", "volatility", "sharpe", "sortino", "calmar"}
    assert nulls(row) == undefined | UNDEFINED_WITHOUT_TRADES
    assert (row["total_return"], row["max_drawdown"], row["turnover"]) == (0, 0, 1)


def test_a_flat_account_has_no_ratios() -> None:
    row = figures(play(make_rules(), make_bars([10, 12, 11], [0, 0, 0])).account[0], make_rules(), 252.0)
    assert nulls(row) == {"sharpe", "sortino", "calmar"} | UNDEFINED_WITHOUT_TRADES
    assert (row["volatility"], row["cagr"], row["exposure"], row["turnover"]) == (0, 0, 0, 0)
    assert row["buy_hold_max_drawdown"] == pytest.approx(11 / 12 - 1)


def test_only_wins_have_no_profit_factor() -> None:
    played = play(make_rules(fill="close"), make_bars([10, 11], [1, 0]))
    row = figures(played.account[0], make_rules(), 252.0)
    assert nulls(row) >= {"profit_factor", "expectancy_ratio", "sqn"}
    assert (row["win_rate"], row["expectancy"]) == (1, pytest.approx(100))


def test_the_best_of_losing_trades_is_a_loss() -> None:
    close = [10, 8, 10, 9]
    played = play(make_rules(fill="close"), make_bars(close, [1, 0, 1, 0]))
    row = figures(played.account[0], make_rules(), 252.0)
    assert (row["best_trade"], row["worst_trade"]) == (pytest.approx(-0.1), pytest.approx(-0.2))


def test_a_growth_beyond_float64_is_not_infinite() -> None:
    bars = make_bars([1, 1e9], [1, 1], ts=[0, 1000])
    row = figures(play(make_rules(fill="close"), bars).account[0], make_rules(), 252.0)
    assert row["cagr"] is None
    assert row["total_return"] == pytest.approx(1e9 - 1)


# --- against plain NumPy -------------------------------------------------------------------------


def naive(played: Played, bars: Bars, rules: Rules, yearly: float) -> dict[str, Value]:
    """The table of figures, word for word, from whole arrays."""
    inside = ~np.isnan(played.equity)
    if played.account["ruined"][0]:
        inside[np.flatnonzero(played.equity == 0)[0] + 1 :] = False
    equity, close, ts = played.equity[inside], bars.close[inside], bars.ts[inside]
    n, curve = len(equity), np.concatenate(([rules.start_equity], equity))
    r = curve[1:] / curve[:-1] - 1
    peak = np.maximum.accumulate(curve)
    at_peak = np.flatnonzero(curve == peak)
    spans = [(stop - start, True) for start, stop in pairwise(at_peak) if stop - start > 1]
    spans += [(n - at_peak[-1], False)] if at_peak[-1] < n else []
    longest = max(spans, key=lambda span: (span[0], not span[1]), default=(0, True))
    years = (ts[-1] - ts[0]) / 1e9 / YEAR_S
    cagr = (equity[-1] / rules.start_equity) ** (1 / years) - 1
    fees = played.trades["entry_fee"].sum() + played.trades["exit_fee"].sum() + played.open["entry_fee"].sum()
    pnl = played.trades["pnl"]
    losses = pnl[pnl < 0]
    return {
        "n_bars": n,
        "start_ts": int(ts[0]),
        "end_ts": int(ts[-1]),
        "total_return": equity[-1] / rules.start_equity - 1,
        "cagr": cagr,
        "volatility": r.std(ddof=1) * math.sqrt(yearly),
        "sharpe": (r.mean() - rules.rf) / r.std(ddof=1) * math.sqrt(yearly),
        "sortino": (r.mean() - rules.mar) / math.sqrt((np.minimum(r - rules.mar, 0) ** 2).mean()) * math.sqrt(yearly),
        "max_drawdown": (curve / peak - 1).min(),
        "max_drawdown_bars": int(longest[0]),
        "max_drawdown_recovered": longest[1],
        "calmar": cagr / abs((curve / peak - 1).min()),
        "trades": len(pnl),
        "win_rate": (pnl > 0).mean(),
        "profit_factor": pnl[pnl > 0].sum() / abs(losses.sum()),
        "expectancy": pnl.mean(),
        "expectancy_ratio": pnl.mean() / abs(losses.mean()),
        "sqn": math.sqrt(len(pnl)) * pnl.mean() / pnl.std(ddof=1),
        "best_trade": played.trades["return"].max(),
        "worst_trade": played.trades["return"].min(),
        "mean_bars_held": played.trades["bars"].mean(),
        "fees_paid": fees,
        "buy_hold_return": close[-1] / close[0] - 1,
        "buy_hold_max_drawdown": (close / np.maximum.accumulate(close) - 1).min(),
        "final_equity": equity[-1],
        "ruined": bool(played.account["ruined"][0]),
    }


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(FILLS),
    st.booleans(),
    st.sampled_from([0.5, 1.0, 6.0]),
    st.lists(st.integers(0, 400), max_size=3),
)
@settings(deadline=None, max_examples=60)
def test_running_sums_are_the_figures_of_the_whole_series(
    seed: int, fill: str, shorts: bool, size: float, cuts: list[int]
) -> None:
    rules = make_rules(fill=fill, shorts=shorts, size=size, fee_bps=4, warmup_bars=20, rf=1e-4, mar=2e-4)
    bars = random_bars(seed, 400)
    played = play(rules, bars, cuts=tuple(cuts))
    assume(len(played.trades) >= 3 and (played.trades["pnl"] < 0).any())  # the ratios below are defined
    row = figures(played.account[0], rules, 365.25)
    expected = naive(played, bars, rules, 365.25)
    # Sums in another order: a few hundred roundings, amplified where mean and rf nearly cancel.
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_spread_of_many_small_returns_does_not_cancel() -> None:
    """Returns of 1e-9 around 1e-3: a sum of squares minus a square would keep no digit."""
    rng = np.random.default_rng(1)
    r = 1e-3 + 1e-9 * rng.normal(size=3000)
    close = np.concatenate(([1.0], np.cumprod(1 + r)))
    rules = make_rules(fill="close", start_equity=1.0)
    played = play(rules, make_bars(close, np.ones(3001)))
    account = played.account[0]
    r = np.diff(np.concatenate(([1.0], played.equity))) / np.concatenate(([1.0], played.equity[:-1]))
    mean, squares = moments(account)
    assert mean == pytest.approx(r.mean(), rel=1e-12)
    assert squares == pytest.approx(((r - r.mean()) ** 2).sum(), rel=1e-9)


# --- columns -------------------------------------------------------------------------------------


def test_columns_are_those_of_the_specification() -> None:
    metric = (
        "symbol param_id n_bars start_ts end_ts total_return cagr volatility sharpe sortino max_drawdown "
        "max_drawdown_bars max_drawdown_recovered calmar exposure turnover trades win_rate profit_factor "
        "expectancy expectancy_ratio sqn best_trade worst_trade mean_bars_held fees_paid buy_hold_return "
        "buy_hold_max_drawdown final_equity ruined ambiguous_bars funding_paid"
    )
    trade = (
        "trade_id symbol param_id side units entry_ts entry_bar entry_price entry_fee exit_ts exit_bar "
        "exit_price exit_fee pnl return bars exit_reason mae mfe status"
    )
    assert list(METRIC_COLUMNS) == metric.split()
    assert list(TRADE_COLUMNS) == trade.split()


def test_figures_have_the_types_of_their_columns() -> None:
    rules = make_rules(shorts=True, fee_bps=1)
    row = figures(play(rules, random_bars(2, 500)).account[0], rules, 365.25)
    types = {"int64": int, "float64": float, "bool": bool, "timestamp": int}
    assert {name: type(value) for name, value in row.items()} == {name: types[METRIC_COLUMNS[name]] for name in row}


def test_trade_columns() -> None:
    rules = make_rules(fill="close", shorts=True)
    played = play(rules, make_bars([10, 11, 10, 12], [1, -1, 0, 1]))
    columns = trade_columns(np.concatenate((played.trades, played.open)), "ABC", 7)
    assert list(columns) == list(TRADE_COLUMNS)
    assert columns["symbol"] == ["ABC"] * 3
    assert columns["param_id"] == [7] * 3
    assert columns["trade_id"] == [0, 1, 2]
    assert columns["side"] == ["long", "short", "long"]
    assert columns["exit_reason"] == ["reversal", "signal", None]
    assert columns["status"] == ["closed", "closed", "open"]
    assert columns["entry_bar"] == [0, 1, 3]
    assert columns["exit_bar"] == [1, 2, None]
    assert columns["exit_ts"] == [DAY_NS, 2 * DAY_NS, None]
    assert columns["exit_price"] == [11, 10, None]
    assert columns["exit_fee"] == [0, 0, None]
    assert columns["bars"] == [1, 1, 0]
    none = trade_columns(np.zeros(0, TRADE), "ABC", 7)
    assert none == {name: [] for name in TRADE_COLUMNS}


def test_figures_do_not_touch_the_account() -> None:
    rules = make_rules()
    account = play(rules, random_bars(4, 200)).account
    before = account.tobytes()
    assert figures(account[0], rules, 252.0) == figures(account[0], rules, 252.0)
    assert account.tobytes() == before
    fresh = new_accounts(rules, (2, 3))
    assert figures(fresh[1, 2], rules, 252.0)["n_bars"] == 0


# --- calendars -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bar_ns", "calendar", "expected"),
    [
        (HOUR_NS, "24/7", 8766),
        (HOUR_NS // 60, "24/7", 525_960),
        (DAY_NS, "24/7", 365.25),
        (DAY_NS, "24/5", 365.25 * 5 / 7),
        (HOUR_NS, "24/5", 8766 * 5 / 7),
        (7 * DAY_NS, "24/5", 365.25 / 7),
        (DAY_NS, "XNYS", 252),
        (DAY_NS, "XNAS", 252),
        (HOUR_NS // 60, "XNYS", 252 * 390),
        (HOUR_NS // 2, "XNYS", 252 * 13),
        (HOUR_NS, "XNYS", 252 * 7),
        (4 * HOUR_NS, "XNYS", 252 * 2),
        (2 * DAY_NS, "XNYS", 126),
        (7 * DAY_NS, "XNYS", 365.25 / 7),
    ],
)
def test_bars_per_year(bar_ns: int, calendar: str, expected: float) -> None:
    assert bars_per_year(bar_ns, calendar) == pytest.approx(expected, rel=1e-15)


def test_an_override_wins() -> None:
    assert bars_per_year(DAY_NS, "24/7", 240.0) == 240.0
    assert bars_per_year(DAY_NS, "LSE", 240) == 240.0


@pytest.mark.parametrize(("calendar", "found"), [("MARS", "calendar = 'MARS' is not known"), (None, "no calendar")])
def test_an_unknown_calendar_is_refused(calendar: str | None, found: str) -> None:
    with pytest.raises(ConfigError) as refused:
        bars_per_year(DAY_NS, calendar)
    message = str(refused.value)
    assert found in message
    assert "bars_per_year" in message
    assert all(name in message for name in CALENDARS)


def test_a_bar_without_size_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"bar size = 0 ns.*bars_per_year"):
        bars_per_year(0, "24/7")


def test_every_calendar_counts() -> None:
    assert all(bars_per_year(DAY_NS, name) > 200 for name in CALENDARS)


def test_annualising_is_by_the_number_given() -> None:
    account = play(make_rules(), random_bars(9, 300)).account[0]
    one, four = (figures(account, make_rules(), yearly) for yearly in (100.0, 400.0))
    for name in ("volatility", "sharpe", "sortino"):
        assert four[name] == pytest.approx(2 * one[name])
    assert one["cagr"] == four["cagr"]
