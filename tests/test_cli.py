"""The command line as people and scripts use it: exit codes, messages, machine output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commands import atc
from filling import fill_store
from prices import tick_walk

from atc_backtest import __version__
from atc_backtest.config import from_dict, parse_toml
from atc_backtest.metrics import METRIC_COLUMNS


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "prices.zarr"
    fill_store(path, np.stack([tick_walk(500, seed) for seed in range(3)]))
    return path


@pytest.fixture(scope="module")
def finished(store: Path) -> Path:
    path = store.parent / "finished"
    assert atc("backtest", store, "--out", path, "--fee-bps", 5).exit_code == 0
    return path


def test_version_and_help() -> None:
    assert atc("--version").stdout == f"atc-backtest {__version__}\n"
    text = atc("--help").stdout
    for command in ("ingest", "backtest", "report", "store", "doctor"):
        assert command in text


def test_help_waits_for_nothing_heavy() -> None:
    program = "import sys, atc_backtest.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert not {"numpy", "numba", "zarr", "pyarrow", "pandas", "dask", "distributed", "rich"} & set(loaded)


@pytest.mark.parametrize(
    ("more", "unneeded"),
    [(["--plan"], {"zarr", "pandas", "numba", "blosc2", "dask", "asyncio"}), ([], {"zarr", "dask", "distributed"})],
    ids=["plan", "run"],
)
def test_what_a_plan_and_a_run_do_without(store: Path, tmp_path: Path, more: list[str], unneeded: set[str]) -> None:
    words = ["backtest", str(store), "--out", str(tmp_path / "run"), *more]
    program = f"import sys; from atc_backtest.cli import app; app({words}, standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert not unneeded & set(done.stdout.splitlines()[-1].split())


def test_usage_errors_exit_with_2(store: Path, finished: Path) -> None:
    assert atc("backtest").exit_code == 2
    assert atc("nonsense").exit_code == 2
    assert atc("backtest", store, "--set", "lengths.ema").exit_code == 2
    assert atc("report", finished, "--json", "--csv").exit_code == 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--set", "lengths.ema=3"], "lengths.ema = 3 is not allowed: an integer from 8 to 4090"),
        (["--set", "speed=3"], "unknown setting 'speed'"),
        (["--profile", "classic"], "profile = 'classic' is not allowed: one of enhance, pine"),
        (["--config", "absent.toml"], "cannot read the configuration absent.toml"),
        (["--memory-limit", "lots"], "memory limit 'lots' is not a size"),
        (["--memory-limit", "1MB"], "too small"),
        (["--symbols", "NOPE"], "--symbols NOPE: not in"),
        (["--save", "everything"], "cannot save 'everything'"),
        (["--kernel", "fortran"], "unknown kernel 'fortran'"),
    ],
)
def test_refusals_exit_with_3_and_a_sentence(store: Path, tmp_path: Path, args: list[str], message: str) -> None:
    result = atc("backtest", store, "--out", tmp_path / "run", *args)
    assert result.exit_code == 3
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_calendar_that_no_run_could_use_is_refused_at_ingest(tmp_path: Path) -> None:
    result = atc("ingest", tmp_path, "--store", tmp_path / "s", "--calendar", "MARS")
    assert result.exit_code == 3
    assert "calendar = 'MARS' is not known: choose one of 24/7, 24/5, XNYS" in result.stderr


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    for command in (["backtest", tmp_path / "absent"], ["store", "info", tmp_path / "absent"], ["report", tmp_path]):
        result = atc(*command)
        assert result.exit_code == 3
        assert str(tmp_path) in result.stderr


def test_show_config_prints_what_would_run(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[atc]\nlengths.ema = 30\n[execution]\nfee_bps = 1.5\n")
    args = ["backtest", store, "--config", file, "--show-config", "--shorts", "--set", "lambda=0.04"]
    result = atc(*args, env={"ATC_FEE_BPS": "2.5", "ATC_LAMBDA": "0.9"})
    config = from_dict(parse_toml(result.stdout))
    assert config.atc.lengths.ema == 30
    assert config.execution.fee_bps == 2.5
    assert config.execution.shorts
    assert config.atc.lambda_ == 0.04


def test_backtest_says_what_it_did_and_how_to_go_on(store: Path, tmp_path: Path) -> None:
    result = atc("backtest", store, "--out", tmp_path / "run", "--symbols", "S000,S002")
    assert result.exit_code == 0, result.stderr
    assert "2 symbols, 1,000 bars" in result.stdout
    assert f"atc-backtest report {tmp_path / 'run'}" in result.stdout
    again = atc("backtest", store, "--out", tmp_path / "run")
    assert again.exit_code == 3
    assert "already holds a run" in again.stderr
    machine = atc("backtest", store, "--out", tmp_path / "run", "--overwrite", "--json")
    assert json.loads(machine.stdout)["bars"] == 1500


def test_plan_prints_and_does_nothing(store: Path, tmp_path: Path) -> None:
    result = atc("backtest", store, "--out", tmp_path / "run", "--plan", "--threads", 1)
    assert "1 partitions on 1 threads" in result.stdout
    assert "memory: at most" in result.stdout
    assert json.loads(atc("backtest", store, "--plan", "--json").stdout)["partitions"]
    assert not (tmp_path / "run").exists()


def test_report_as_table_json_and_csv(finished: Path) -> None:
    table = atc("report", finished).stdout
    assert "S000" in table
    assert "8766 bars (calendar 24/7)" in table
    assert "fee 5 bps" in table
    assert f"report    {finished / 'metrics'}" in table
    found = json.loads(atc("report", finished, "--json").stdout)
    assert (found["state"], found["set_aside"]) == ("complete", [])
    assert found["datasets"]["metrics"]["rows"] == len(found["rows"]) == 3
    rows = found["rows"]
    assert list(rows[0]) == list(METRIC_COLUMNS)
    assert [row["sharpe"] for row in rows] == sorted((row["sharpe"] for row in rows), reverse=True)
    assert rows[0]["start_ts"].endswith("Z")
    lines = atc("report", finished, "--csv", "--sort", "symbol", "--ascending").stdout.splitlines()
    assert lines[0].replace('"', "").split(",") == list(METRIC_COLUMNS)
    assert [line.split(",")[0].strip('"') for line in lines[1:]] == ["S000", "S001", "S002"]
    assert len(json.loads(atc("report", finished, "--json", "--limit", 1).stdout)["rows"]) == 1
    wrong = atc("report", finished, "--sort", "luck")
    assert wrong.exit_code == 3
    assert "cannot sort by 'luck': the columns are symbol" in wrong.stderr


def test_report_warns_of_what_flatters(store: Path, tmp_path: Path) -> None:
    atc("backtest", store, "--out", tmp_path / "run", "--fill", "close")
    text = atc("report", tmp_path / "run").stdout
    assert "warning   fill = close" in text
    assert "warning   no costs" in text


def test_store_info(store: Path) -> None:
    text = atc("store", "info", store).stdout
    assert "bars of 1h, calendar 24/7" in text
    assert "3 symbols x 500 bars" in text
    found = json.loads(atc("store", "info", store, "--json").stdout)
    assert [symbol["name"] for symbol in found["symbols"]] == ["S000", "S001", "S002"]


def test_doctor_names_every_kernel_and_what_brings_the_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    text = atc("doctor").stdout
    for name in ("kernel rust", "kernel numba", "kernel auto", "cargo", "zarr"):
        assert name in text
    monkeypatch.setitem(sys.modules, "atc_backtest.kernels._rust", None)
    findings = {finding["name"]: finding for finding in json.loads(atc("doctor", "--json").stdout)}
    assert findings["kernel rust"]["found"] == "unavailable"
    assert "Rust toolchain" in findings["kernel rust"]["remedy"]
    assert findings["kernel auto"]["found"] == "numba"


def test_ctrl_c_exits_with_130_and_says_how_to_go_on(tmp_path: Path) -> None:
    path = tmp_path / "long.zarr"
    fill_store(path, np.stack([tick_walk(60_000, seed) for seed in range(4)]), fields=("close",))
    command = [sys.executable, "-m", "atc_backtest", "backtest", str(path), "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        [*command, "--kernel", "reference"], stderr=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "100"}
    )
    while not (tmp_path / "run" / "metrics").exists():  # it has begun
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "--resume" in said
    assert "Traceback" not in said
    resumed = subprocess.run([*command, "--resume", "--kernel", "numba"], check=False, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
