"""Returns by calendar period, against what pandas and NumPy make of the saved equity."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from filling import fill_store
from prices import tick_walk

from atc_backtest.config import AtcConfig, ExecutionConfig, RunConfig
from atc_backtest.errors import ConfigError
from atc_backtest.periods import PERIODS, period_starts
from atc_backtest.pipelines.backtest import Options, backtest
from atc_backtest.pipelines.runs import Run, open_run
from atc_backtest.stores.opening import open_store

PANDAS = {"day": "D", "week": "W-SUN", "month": "M", "quarter": "Q", "year": "Y"}
HOUR = 3600 * 10**9
EXECUTION = ExecutionConfig(fee_bps=5.0, slippage_bps=2.0, shorts=True)


@pytest.mark.parametrize("period", PERIODS)
def test_starts_are_those_of_the_calendar(period: str) -> None:
    rng = np.random.default_rng(4)
    ts = np.sort(rng.integers(-(10**18), 3 * 10**18, 500))
    expected = pd.DatetimeIndex(ts).to_period(PANDAS[period]).unique()
    starts = period_starts(ts, period)
    assert starts[:-1].tolist() == expected.start_time.as_unit("ns").asi8.tolist()
    assert starts[-1] == (expected[-1] + 1).start_time.as_unit("ns").value


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hours of a year, over New Year; a late starter, one with a quarter missing, one that has no bar."""
    path = tmp_path_factory.mktemp("periods") / "prices.zarr"
    close = np.stack([tick_walk(9000, seed) for seed in range(5)])
    close[1, :3000] = close[2, 2000:4300] = close[3, ::2] = np.nan
    close[4] = np.nan
    fill_store(path, close)
    return path


def sets() -> list[RunConfig]:
    """The second is evaluated from the middle of a month on."""
    atc = AtcConfig(long_threshold=0.3, short_threshold=-0.3)
    return [
        RunConfig(execution=EXECUTION),
        RunConfig(atc=atc, execution=EXECUTION, eval_start="2024-03-11T05:00:00"),
    ]


def closes(store: Path) -> pd.DataFrame:
    """Present closes of every symbol by time."""
    opened = open_store(store)
    n = opened.info.n_bars
    values = opened.read("close", (0, len(opened.info.symbols)), (0, n))
    times = pd.DatetimeIndex(opened.ts(0, n), tz="UTC")
    return pd.DataFrame(values.T, index=times, columns=[symbol.name for symbol in opened.info.symbols])


def run_of(store: Path, name: str, **options: Any) -> Run:
    return backtest(store, store.parent / name, sets(), Options(**{"save": ("periods",)} | options))


@pytest.mark.parametrize("period", PERIODS)
def test_periods_are_what_the_equity_says(store: Path, period: str) -> None:
    run = run_of(store, f"oracle-{period}", save=("equity", "trades", "periods"), period=period, kernel="numba")
    rows = run.table("periods").to_pandas()
    equity, trades = run.table("equity").to_pandas(), run.table("trades").to_pandas()
    prices = closes(store)
    seen = 0
    for key, series in equity.groupby(["symbol", "param_id"]):
        values = series.equity.to_numpy()
        before = np.concatenate([[EXECUTION.start_equity], values[:-1]])
        which = series.ts.dt.tz_localize(None).dt.to_period(PANDAS[period])
        own = rows[(rows.symbol == key[0]) & (rows.param_id == key[1])].reset_index(drop=True)
        assert own.period_ts.dt.tz_localize(None).tolist() == which.unique().start_time.tolist()
        closed = trades[(trades.symbol == key[0]) & (trades.param_id == key[1]) & (trades.status == "closed")]
        assert own.trades.sum() == len(closed)
        for at, one in enumerate(which.unique()):
            inside = (which == one).to_numpy()
            returns = values[inside] / before[inside] - 1
            deviations = returns - returns.mean()
            row = own.iloc[at]
            assert row.n_bars == inside.sum()
            assert row.start_equity == before[inside][0]
            assert row.end_equity == values[inside][-1]
            assert row["mean"] == pytest.approx(returns.mean(), rel=1e-9, abs=1e-15)
            for power in (2, 3, 4):
                size = (np.abs(deviations) ** power).sum()
                assert row[f"m{power}"] == pytest.approx((deviations**power).sum(), abs=1e-9 * size)
            held = prices[key[0]].loc[series.ts]
            hold = held.pct_change().fillna(0.0)[inside].to_numpy()
            assert row.hold_return == pytest.approx(np.prod(1 + hold) - 1, abs=1e-12)
            assert row.hold_mean == pytest.approx(hold.mean(), abs=1e-14)
            assert row.hold_m2 == pytest.approx(((hold - hold.mean()) ** 2).sum(), rel=1e-9)
            size = (np.abs(deviations) * np.abs(hold - hold.mean())).sum()
            assert row.hold_cov == pytest.approx((deviations * (hold - hold.mean())).sum(), abs=1e-9 * size)
            when = closed.exit_ts.dt.tz_localize(None).dt.to_period(PANDAS[period])
            assert row.trades == (when == one).sum()
            seen += 1
    assert seen == len(rows) > 0


def test_what_was_counted_adds_up_to_the_figures(store: Path) -> None:
    run = run_of(store, "adds-up")
    total = run.table("periods").to_pandas().groupby(["symbol", "param_id"])[["n_bars", "held", "trades", "fees_paid"]]
    figures = run.table().to_pandas().set_index(["symbol", "param_id"])
    summed = total.sum()
    assert len(summed) == 8  # the symbol without bars has none
    for key, row in summed.iterrows():
        figure = figures.loc[key]
        assert (row.n_bars, row.trades) == (figure.n_bars, figure.trades)
        assert row.held / row.n_bars == pytest.approx(figure.exposure)
        assert row.fees_paid == pytest.approx(figure.fees_paid)


def test_what_is_held_at_the_end_of_a_period(store: Path) -> None:
    run = run_of(store, "held", save=("equity", "signals", "periods"))
    rows = run.table("periods").to_pylist()
    position = {
        (row["symbol"], row["param_id"], row["ts"]): row["position"] for row in run.table("signals").to_pylist()
    }
    equity = run.table("equity").to_pandas().groupby(["symbol", "param_id"])
    seen = set()
    for row in rows:
        mine = equity.get_group((row["symbol"], row["param_id"]))
        end = mine[
            mine.ts.dt.tz_localize(None).dt.to_period("M").dt.start_time == row["period_ts"].replace(tzinfo=None)
        ]
        before = position[row["symbol"], row["param_id"], end.ts.iloc[-2]]  # filled at the last bar's open
        assert np.sign(row["end_exposure"]) == before
        assert abs(row["end_exposure"]) < 1.2
        seen.add(before)
    assert seen == {-1, 0, 1}


def test_no_cut_changes_a_bit(store: Path) -> None:
    whole = run_of(store, "whole", threads=1, period="week").contents()["periods"]
    by_row = run_of(store, "by-row", save=("signals", "periods"), period="week").contents()["periods"]
    with pytest.raises(ConfigError, match="at least") as refused:
        run_of(store, "refused", memory_limit=1, threads=1, period="week")
    least = int(re.findall(r"\((\d+) bytes\)", str(refused.value))[0])
    small = run_of(store, "small", memory_limit=least, threads=1, period="week")
    assert small.manifest["plan"]["block_bars"] < 9000
    assert whole == by_row == small.contents()["periods"]


def test_other_periods_are_no_continuation(store: Path) -> None:
    run = run_of(store, "months")
    with pytest.raises(ConfigError, match="period"):
        run_of(store, "months", resume=True, period="day")
    assert open_run(run.path).state == "complete"
    with pytest.raises(ConfigError, match=r"fortnight.*day, week, month"):
        run_of(store, "never", period="fortnight")


def test_a_ruin_ends_the_periods(tmp_path: Path) -> None:
    close = np.concatenate([np.linspace(100, 200, 900), np.full(600, 0.01)])[None]
    fill_store(tmp_path / "prices.zarr", close)
    ruinous = RunConfig(execution=ExecutionConfig(size=3.0))
    run = backtest(tmp_path / "prices.zarr", tmp_path / "run", [ruinous], Options(save=("periods",), period="day"))
    rows = run.table("periods").to_pylist()
    assert run.table()["ruined"].to_pylist() == [True]
    assert rows[-1]["end_equity"] == 0.0
    assert sum(row["n_bars"] for row in rows) == run.table()["n_bars"].to_pylist()[0] < 1500
