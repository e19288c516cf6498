"""Portfolios against a plain simulation of their accounts' saved equity; the same bits however they are summed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from filling import fill_store
from hypothesis import given
from hypothesis import strategies as st
from prices import tick_walk
from typer.testing import CliRunner

from atc_backtest.cli import app
from atc_backtest.config import ExecutionConfig, RunConfig
from atc_backtest.errors import ConfigError, StoreError
from atc_backtest.pipelines.backtest import Options, backtest
from atc_backtest.pipelines.calendar_returns import by_period
from atc_backtest.pipelines.portfolio import Portfolio, portfolio, weighting_of
from atc_backtest.pipelines.runs import Run
from atc_backtest.stores.opening import open_store
from atc_backtest.weights import Weighting, capped, shares

N_BARS = 9000
N_SYMBOLS = 70  # two chunks
EXECUTION = ExecutionConfig(fee_bps=5.0, slippage_bps=2.0, shorts=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Hours of a year: a late starter, one that ends early, one with gaps, one that has no bar, one that is ruined."""
    path = tmp_path_factory.mktemp("portfolio") / "prices.zarr"
    close = np.stack([tick_walk(N_BARS, seed) for seed in range(N_SYMBOLS)])
    close[1, :3000] = close[2, 5000:] = close[3, ::3] = close[4] = np.nan
    close[5, 4000:] = 0.01
    fill_store(path, close)
    sets = [RunConfig(execution=EXECUTION), RunConfig(execution=ExecutionConfig(size=2.5))]
    return backtest(path, path.parent / "run", sets, Options(save=("equity", "periods")))


def simulated(run: Run, weighting: Weighting, param_id: int) -> pd.Series:
    """The portfolio's equity from the saved series, one rebalance after another, in pandas."""
    rows = run.table("equity").to_pandas()
    own = rows[rows.param_id == param_id].pivot(index="ts", columns="symbol", values="equity")
    names = run.manifest["symbols"]
    start = run.sets[param_id].execution.start_equity
    own = own.reindex(columns=names)
    returns = own.ffill().fillna(start).pct_change(fill_method=None).where(own.notna())
    first = own.index[0]
    returns.loc[first] = own.loc[first] / start - 1
    for name in names:  # the first evaluated bar counts from the start equity
        begun = own[name].first_valid_index()
        if begun is not None:
            returns.loc[begun, name] = own.loc[begun, name] / start - 1
    periods = run.table("periods").to_pandas()
    periods = periods[periods.param_id == param_id]
    starts = sorted(periods.period_ts.unique())
    every = weighting.rebalance or len(starts)
    exposure = periods.pivot(index="period_ts", columns="symbol", values="end_exposure").reindex(columns=names)
    equity = own.ffill().fillna(start)
    value, pieces, drifted = start, [], None
    for at in range(0, len(starts), every):
        begin = starts[at]
        end = starts[at + every] if at + every < len(starts) else None
        before = own[own.index < begin]
        inside = own[(own.index >= begin) & ((own.index < end) if end is not None else True)]
        if drifted is None:
            members = inside.notna().any()
            volatility = pd.Series(np.nan, names)
        else:
            members = own[(own.index >= starts[at - every]) & (own.index < begin)].notna().any()
            members &= before.ffill().iloc[-1].fillna(start) > 0
            from_ts = starts[max(0, at - weighting.lookback)]
            volatility = returns[(returns.index >= from_ts) & (returns.index < begin)].std()
        weights = shares(weighting, members.to_numpy(), volatility.to_numpy())
        if drifted is not None:
            held = exposure[exposure.index < begin].iloc[-every:].ffill().iloc[-1].fillna(0).abs().to_numpy()
            value *= 1 - (np.abs(weights - drifted) * held).sum() * weighting.cost_bps / 10_000
        base = np.full(len(names), start) if before.empty else before.ffill().iloc[-1].fillna(start).to_numpy()
        grown = equity.loc[inside.index].to_numpy() / np.where(base > 0, base, 1)
        worth = value * (grown @ weights + 1 - weights.sum())
        pieces.append(pd.Series(worth, inside.index))
        end_weights = grown[-1] * weights
        drifted = end_weights / (end_weights.sum() + 1 - weights.sum())
        value = worth[-1]
    return pd.concat(pieces)


CASES = [
    Weighting(rebalance=0),
    Weighting(cost_bps=7.0),
    Weighting(rebalance=3, cap=0.02, cost_bps=20.0),
    Weighting("volatility", lookback=4, cost_bps=7.0),
    Weighting("volatility", cap=0.03, rebalance=2, lookback=2),
]


@pytest.mark.parametrize("param_id", [0, 1])
@pytest.mark.parametrize("weighting", CASES, ids=str)
def test_a_portfolio_is_the_sum_of_its_accounts(run: Run, weighting: Weighting, param_id: int) -> None:
    found = portfolio(run, weighting, param_id, options=Options(overwrite=True))
    expected = simulated(run, weighting, param_id)
    series = found.series.to_pandas().set_index("ts")
    assert series.index.tolist() == expected.index.tolist()
    assert series.equity.to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-9)
    assert found.figures["total_return"] == pytest.approx(expected.iloc[-1] / 10_000 - 1, rel=1e-9)
    r = (expected / expected.shift(fill_value=10_000.0) - 1).to_numpy()
    b = (series.benchmark / series.benchmark.shift(fill_value=series.benchmark.iloc[0]) - 1).to_numpy()
    year = run.manifest["sets"][0]["bars_per_year"]
    assert found.figures["sharpe"] == pytest.approx(r.mean() / r.std(ddof=1) * np.sqrt(year), rel=1e-6)
    assert found.figures["beta"] == pytest.approx(np.cov(r, b)[0, 1] / b.var(ddof=1), rel=1e-6)
    assert found.figures["correlation"] == pytest.approx(np.corrcoef(r, b)[0, 1], rel=1e-6)
    active = (r - b).mean() / (r - b).std(ddof=1) * np.sqrt(year)
    assert found.figures["information_ratio"] == pytest.approx(active, rel=1e-6)


def test_the_same_bits_however_it_is_summed(run: Run, tmp_path: Path) -> None:
    store = run.manifest["store"]["path"]
    weighting = Weighting("volatility", lookback=3, cost_bps=5.0)
    whole = portfolio(run, weighting, name="whole").series
    other = backtest(store, tmp_path / "other", list(run.sets), Options(save=("periods",), threads=4))
    assert len(other.partitions) > len(run.partitions)
    assert portfolio(other, weighting, options=Options(kernel="numba", threads=3)).series.equals(whole)


def test_exposures(run: Run) -> None:
    series = portfolio(run, Weighting(), name="exposed").series.to_pandas()
    assert series.gross.min() >= 0
    assert (series.net.abs() <= series.gross + 1e-12).all()
    assert 0.2 < series.gross.mean() < 1.05
    assert series.net.min() < 0 < series.net.max()
    alone = portfolio(run, Weighting(), 1, name="long-only").series.to_pandas()
    assert alone.net.to_numpy() == pytest.approx(alone.gross.to_numpy())


def test_against_a_symbol(run: Run) -> None:
    found = portfolio(run, Weighting(), benchmark="S000", name="vs")
    store = open_store(run.manifest["store"]["path"])
    close = pd.Series(store.read("close", (0, 1), (0, N_BARS))[0], pd.DatetimeIndex(store.ts(0, N_BARS), tz="UTC"))
    own = close.loc[found.series["ts"].to_pandas()]
    assert found.series["benchmark"].to_numpy() == pytest.approx((own / own.iloc[0] * 10_000).to_numpy())
    with pytest.raises(ConfigError, match="NOPE"):
        portfolio(run, Weighting(), benchmark="NOPE")


def test_the_weights_are_written(run: Run) -> None:
    found = portfolio(run, Weighting(cap=0.015), name="written")
    table = pq.read_table(found.path / "weights.parquet").to_pandas()
    assert table.weight.max() <= 0.015 + 1e-15
    assert (table.groupby("ts").weight.sum() <= 1 + 1e-12).all()
    assert "S004" not in set(table.symbol)
    about = json.loads((found.path / "portfolio.json").read_text())
    assert about["weighting"]["cap"] == 0.015
    assert about["figures"]["final_equity"] == found.series["equity"][-1].as_py()
    with pytest.raises(StoreError, match="--overwrite"):
        portfolio(run, Weighting(cap=0.015), name="written")


def test_the_ruined_and_the_ended_get_nothing_more(run: Run) -> None:
    ruined = run.table().to_pandas().query("param_id == 1 and ruined").set_index("symbol").end_ts
    assert "S005" in ruined.index
    found = portfolio(run, Weighting(), 1, name="ruined")
    table = pq.read_table(found.path / "weights.parquet").to_pandas()
    last = table.groupby("symbol").ts.max()
    assert last["S005"] <= ruined["S005"] < last.max()
    store = open_store(run.manifest["store"]["path"])
    ended = pd.Timestamp(store.info.symbols[2].last_ns, tz="UTC")
    assert last["S002"] <= ended + pd.Timedelta(days=31) < last.max()


def test_what_a_run_must_have(run: Run, tmp_path: Path) -> None:
    store = run.manifest["store"]["path"]
    bare = backtest(store, tmp_path / "bare", [RunConfig()], Options(symbols=("S000",)))
    with pytest.raises(ConfigError, match="--save periods"):
        portfolio(bare, Weighting())
    with pytest.raises(ConfigError, match="sets 0 to 1"):
        portfolio(run, Weighting(), 2)
    with pytest.raises(ConfigError, match="too small"):
        portfolio(run, Weighting(), name="tight", options=Options(memory_limit=10**8))


def test_costs_of_a_rebalance_are_those_of_the_set(run: Run) -> None:
    assert weighting_of(run, 0, "equal", None, 1, 12, None).cost_bps == 7.0
    assert weighting_of(run, 0, "equal", None, 1, 12, 1.5).cost_bps == 1.5


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rule": "best"}, "equal, volatility"),
        ({"cap": 0.0}, "at most 1"),
        ({"rebalance": -1}, "0 for never"),
        ({"lookback": 0}, "at least 1"),
        ({"cost_bps": -1.0}, "at least 0"),
        ({"rule": "volatility", "rebalance": 0}, "need a past"),
    ],
)
def test_weightings_that_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Weighting(**settings)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0.01, 1))
def test_a_cap_holds_and_loses_nothing_that_has_room(values: list[float], cap: float) -> None:
    weights = np.array(values)
    if weights.sum() > 0:
        weights /= weights.sum()
    got = capped(weights, cap)
    assert got.max() <= cap * (1 + 1e-12)
    assert (got[weights == 0] == 0).all()
    room = cap * np.count_nonzero(weights)
    assert got.sum() == pytest.approx(min(weights.sum(), room), rel=1e-9)


def test_calm_accounts_get_more() -> None:
    weights = shares(Weighting("volatility"), np.array([True, True, True, False]), np.array([0.1, 0.2, np.nan, 0.1]))
    assert weights == pytest.approx(np.array([10, 5, 20 / 3, 0]) / (65 / 3))


def test_returns_by_period(run: Run) -> None:
    equity = run.table("equity").to_pandas()
    own = equity[(equity.symbol == "S000") & (equity.param_id == 0)].set_index("ts").equity
    r = own / own.shift(fill_value=10_000.0) - 1
    for by, rule in (("month", "M"), ("quarter", "Q"), ("year", "Y")):
        table = by_period(run, "S000", 0, by).to_pandas()
        keys = own.index.tz_localize(None).to_period(rule)
        assert table.total_return.to_numpy() == pytest.approx((1 + r).groupby(keys).prod().to_numpy() - 1)
        assert table.volatility.to_numpy() == pytest.approx(r.groupby(keys).std().to_numpy() * np.sqrt(8766), rel=1e-9)
    rolling = by_period(run, "S000", 0, "month", 3).to_pandas()
    assert rolling.sharpe[:2].isna().all()
    keys = own.index.tz_localize(None).to_period("M")
    span = r[(keys >= keys.unique()[1]) & (keys <= keys.unique()[3])]
    assert rolling.sharpe[3] == pytest.approx(span.mean() / span.std() * np.sqrt(8766), rel=1e-9)
    with pytest.raises(ConfigError, match="do not add up"):
        by_period(run, "S000", 0, "week")
    with pytest.raises(ConfigError, match="symbol of the run"):
        by_period(run, "NOPE")


@pytest.mark.parametrize("saved", [True, False])
def test_returns_against_another_symbol(run: Run, tmp_path: Path, saved: bool) -> None:
    store = open_store(run.manifest["store"]["path"])
    mine = run
    if not saved:  # the equity is computed again
        mine = backtest(store.info.path, tmp_path / "bare", list(run.sets), Options(save=("periods",)))
    equity = run.table("equity").to_pandas()
    own = equity[(equity.symbol == "S001") & (equity.param_id == 0)].set_index("ts").equity
    close = pd.Series(store.read("close", (3, 4), (0, N_BARS))[0], pd.DatetimeIndex(store.ts(0, N_BARS), tz="UTC"))
    held = close.ffill().bfill().loc[own.index]
    r, b = own / own.shift(fill_value=10_000.0) - 1, held / held.shift(fill_value=held.iloc[0]) - 1
    table = by_period(mine, "S001", 0, "quarter", benchmark="S003").to_pandas()
    for at, (_, both) in enumerate(pd.DataFrame({"r": r, "b": b}).groupby(own.index.tz_localize(None).to_period("Q"))):
        assert table.beta[at] == pytest.approx(both.cov().loc["r", "b"] / both.b.var(), rel=1e-9)
        assert table.hold_return[at] == pytest.approx((1 + both.b).prod() - 1, rel=1e-9)
        active = (both.r - both.b).mean() / (both.r - both.b).std() * np.sqrt(8766)
        assert table.information_ratio[at] == pytest.approx(active, rel=1e-6)
    with pytest.raises(ConfigError, match="no bars of that symbol"):
        by_period(mine, "S001", benchmark="S004")


def test_commands(run: Run) -> None:
    def said(*words: str) -> str:
        result = CliRunner().invoke(app, list(words))
        assert result.exit_code == 0, result.output
        return result.stdout

    assert "Sharpe" in said("returns", str(run.path), "--symbol", "S001", "--by", "quarter")
    rows = json.loads(said("returns", str(run.path), "--symbol", "S001", "--json"))["rows"]
    assert rows[0]["period_ts"].startswith("2024-05")
    assert "buy-and-hold with the same weights" in said("portfolio", str(run.path), "--cap", "0.05", "--name", "told")
    made = json.loads(said("portfolio", str(run.path), "--name", "told", "--overwrite", "--json"))
    assert made["figures"]["rebalances"] == 12
    assert isinstance(portfolio(run, Weighting(), name="last"), Portfolio)
