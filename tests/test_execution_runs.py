"""Stops, funding and costs of single symbols in whole runs: the same rows however cut, refused where they differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filling import fill_store
from prices import tick_walk
from typer.testing import CliRunner

from atc_backtest.cli import app
from atc_backtest.config import AtcConfig, ExecutionConfig, RunConfig
from atc_backtest.errors import ConfigError
from atc_backtest.pipelines.backtest import Options, backtest
from atc_backtest.pipelines.report import Selection, basis, report_table, warnings
from atc_backtest.pipelines.runs import open_run
from atc_backtest.pipelines.verify import verify
from atc_backtest.symbol_costs import SymbolCosts

EVERYTHING = ExecutionConfig(
    fee_bps=5.0,
    slippage_bps=2.0,
    shorts=True,
    delay_bars=1,
    stop_loss="2%",
    take_profit="3atr",
    trailing_stop="4%",
    funding_bps=1.0,
)
RUN = RunConfig(AtcConfig(), EVERYTHING, calendar="24/7", eval_end="2024-01-25")
COSTS = (SymbolCosts("S001", 0.0, 0.0, None), SymbolCosts("S002", 50.0, None, -3.0))
ALL = ("signals", "equity", "trades")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five symbols x 900 hourly bars from 2024 on, some of them missing."""
    path = tmp_path_factory.mktemp("stores") / "prices.zarr"
    close = np.stack([tick_walk(900, seed) for seed in range(5)])
    close[1, :90] = close[2, 450::5] = np.nan
    fill_store(path, close)
    return path


def test_rows_do_not_depend_on_the_cut_and_are_verified(store: Path, tmp_path: Path) -> None:
    sets = [RUN, replace(RUN, execution=replace(EVERYTHING, stop_loss=None, intrabar="best"))]
    whole = backtest(store, tmp_path / "whole", sets, Options(save=ALL, costs=COSTS, threads=1))
    cut = backtest(store, tmp_path / "cut", sets, Options(save=ALL, costs=COSTS, threads=3, kernel="numba"))
    assert whole.content_hash() == cut.content_hash()
    assert verify(whole, options=Options(kernel="numba")).ok
    rows = whole.table().to_pylist()
    assert [row["stop_loss"] for row in rows[:2]] == ["2%", None]
    trades = whole.table("trades").to_pylist()
    assert {trade["exit_reason"] for trade in trades} >= {"stop_loss", "take_profit", "trailing_stop", "reversal"}
    last = np.datetime64("2024-01-24T23:00", "ns")
    assert max(row["end_ts"].to_datetime64() for row in rows) == last
    assert any(row["funding_paid"] != 0 for row in rows)


def test_dates_of_evaluation_change_no_value(store: Path, tmp_path: Path) -> None:
    """State is learnt from the first bar whatever counts: every signal has the same bits, and the dates are kept."""
    plain = RunConfig(AtcConfig(), EVERYTHING, calendar="24/7")
    dated = replace(plain, eval_start="2024-01-15T06:00", eval_end="2024-01-25")
    runs = [backtest(store, tmp_path / str(at), [run], Options(save=ALL)) for at, run in enumerate((plain, dated))]
    whole, some = (run.table("signals").drop_columns("position") for run in runs)
    assert whole.equals(some)
    times = runs[1].table("equity")["ts"].to_numpy()
    assert (times.min(), times.max()) == (np.datetime64("2024-01-15T06:00"), np.datetime64("2024-01-24T23:00"))


def test_symbols_are_charged_what_the_file_says(store: Path, tmp_path: Path) -> None:
    charged = backtest(store, tmp_path / "charged", [RUN], Options(costs=COSTS)).table().to_pylist()
    common = backtest(store, tmp_path / "common", [RUN], Options()).table().to_pylist()
    execution = replace(EVERYTHING, fee_bps=50.0, funding_bps=-3.0)
    dear = backtest(store, tmp_path / "dear", [replace(RUN, execution=execution)], Options()).table().to_pylist()
    assert charged[0] == common[0]
    assert charged[1]["fees_paid"] == 0 < common[1]["fees_paid"]
    assert charged[2] == dear[2] != common[2]
    assert charged[3:] == common[3:]


def test_costs_are_kept_and_may_not_change_when_resumed(store: Path, tmp_path: Path) -> None:
    run = backtest(store, tmp_path / "run", [RUN], Options(costs=COSTS))
    kept = [{"symbol": "S001", "fee_bps": 0.0, "slippage_bps": 0.0, "funding_bps": None}]
    assert open_run(run.path).manifest["costs"][:1] == kept
    backtest(store, run.path, [RUN], Options(costs=COSTS, resume=True))
    with pytest.raises(ConfigError, match="was begun with other costs"):
        backtest(store, run.path, [RUN], Options(resume=True))
    with pytest.raises(ConfigError, match=r"--costs names S009"):
        backtest(store, tmp_path / "other", [RUN], Options(costs=(SymbolCosts("S009", 1.0, None, None),)))


def test_the_report_says_how_positions_were_taken_and_left(store: Path, tmp_path: Path) -> None:
    run = backtest(store, tmp_path / "run", [RUN], Options(costs=COSTS))
    text = "\n".join(basis(run))
    for part in (
        "fill next_open 1 bars later",
        "long and short",
        "stop loss 2%, take profit 3atr, trailing stop 4% (within bars, worst first)",
        "atr of 14 bars",
        "funding 1 bps every 8h",
        "evaluated [the first bar, 2024-01-25)",
        "of 2 symbols by --costs",
    ):
        assert part in text
    found = warnings(run, report_table(run, Selection()))
    assert any("stop and target within one bar" in warning for warning in found) == any(
        row["ambiguous_bars"] for row in run.table().to_pylist()
    )
    plain = backtest(store, tmp_path / "plain", [RunConfig(execution=ExecutionConfig(longs=False, shorts=True))])
    assert "short only, neutral flat, size 1, start 10000" in "\n".join(basis(plain))


def test_without_highs_and_lows_stops_look_at_closes(tmp_path: Path) -> None:
    path = tmp_path / "closes.zarr"
    fill_store(path, np.stack([tick_walk(900, 3)]), fields=("close",))
    run = backtest(path, tmp_path / "run", [RUN], Options(save=("trades",)))
    assert "against closes alone: no highs and lows" in "\n".join(basis(run))
    assert {trade["exit_reason"] for trade in run.table("trades").to_pylist()} >= {"stop_loss"}


def test_the_command_takes_costs_sides_and_an_end(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "costs.csv"
    file.write_text("symbol,fee_bps\nS001,0\n", encoding="utf-8")
    where = ["backtest", str(store), "--out", str(tmp_path / "run"), "--costs", str(file), "--json"]
    settings = ["--no-longs", "--shorts", "--eval-end", "2024-01-25", "--set", "stop_loss=2%"]
    done = CliRunner().invoke(app, [*where, *settings])
    assert done.exit_code == 0, done.output
    run = open_run(tmp_path / "run")
    assert run.manifest["costs"] == [{"symbol": "S001", "fee_bps": 0.0, "slippage_bps": None, "funding_bps": None}]
    execution = run.sets[0].execution
    assert (execution.longs, execution.shorts, execution.stop_loss) == (False, True, "2%")
    assert run.sets[0].eval_end == "2024-01-25"
