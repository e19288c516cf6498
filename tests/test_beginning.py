"""A run that cannot begin leaves nothing behind, and what it was to replace as it was."""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filling import fill_store
from prices import tick_walk
from typer.testing import CliRunner

from atc_backtest.cli import app
from atc_backtest.config import AtcConfig, RunConfig
from atc_backtest.errors import StoreError
from atc_backtest.pipelines import backtest as running
from atc_backtest.pipelines import beginning
from atc_backtest.pipelines.backtest import Options, backtest
from atc_backtest.pipelines.guards import ledger
from atc_backtest.pipelines.runs import REPLACED, Run, open_run
from atc_backtest.pipelines.verify import verify
from atc_backtest.stores.opening import open_store

NOBODY = Options(scheduler="tcp://127.0.0.1:1", threads=1)
"""No scheduler answers there."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three symbols x 200 hourly bars."""
    path = tmp_path_factory.mktemp("beginning") / "prices.zarr"
    fill_store(path, np.stack([tick_walk(200, seed) for seed in range(3)]))
    return path


@pytest.fixture
def run(store: Path, tmp_path: Path) -> Run:
    return backtest(store, tmp_path / "run", [RunConfig()], Options(save=("trades",), threads=1))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_without_a_scheduler_there_is_no_run_and_no_trial(store: Path, tmp_path: Path) -> None:
    info = open_store(store).info
    before = ledger.read_ledger(info.path, info.id).trials
    with pytest.raises(StoreError, match="no Dask scheduler answers"):
        backtest(store, tmp_path / "deep" / "er" / "run", [RunConfig()], NOBODY)
    assert list(tmp_path.iterdir()) == []
    assert ledger.read_ledger(info.path, info.id).trials == before
    (tmp_path / "run").mkdir()
    with pytest.raises(StoreError, match="no Dask scheduler answers"):
        backtest(store, tmp_path / "run", [RunConfig()], NOBODY)
    assert list((tmp_path / "run").iterdir()) == []  # somebody else made it


@pytest.mark.parametrize("how", [{"overwrite": True}, {"resume": True, "save": ("trades",)}])
def test_an_earlier_run_stays_as_it_was(store: Path, run: Run, how: dict[str, Any]) -> None:
    for part in list((run.path / "commits").iterdir()):
        part.unlink()  # there is something to do
    before = content(run.path)
    with pytest.raises(StoreError, match="no Dask scheduler answers"):
        backtest(store, run.path, [RunConfig()], Options(scheduler=NOBODY.scheduler, **how))
    assert content(run.path) == before
    assert backtest(store, run.path, [RunConfig()], Options(save=("trades",), resume=True)).state == "complete"


def test_what_is_replaced_is_gone_once_the_run_has_begun(store: Path, run: Run) -> None:
    again = backtest(store, run.path, [RunConfig(AtcConfig(lambda_=0.5))], Options(overwrite=True))
    assert {path.name for path in again.path.iterdir()} == {"manifest.json", "commits", "metrics"}
    assert verify(again).ok


@pytest.mark.parametrize("at", range(4))
def test_a_disk_that_refuses_half_way_changes_nothing(
    store: Path, run: Run, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    before, renamed, left = content(run.path), Path.rename, [at]

    def full(path: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return renamed(path, target)

    if at:
        monkeypatch.setattr(Path, "rename", full)
    else:
        monkeypatch.setattr(beginning, "write_manifest", lambda *given: full(Path(), Path()))
        left[0] = 1
    with pytest.raises((StoreError, OSError), match="No space left on device"):
        backtest(store, run.path, [RunConfig()], Options(overwrite=True))
    assert content(run.path) == before


def test_killed_while_it_replaces_there_is_a_run_to_go_on_with(
    store: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever stays undone of putting aside and bringing back, as after kill -9."""
    monkeypatch.setattr(beginning, "_bring_back", lambda *given: None)
    monkeypatch.setattr(beginning, "_remove", lambda *given: None)
    with pytest.raises(StoreError, match="no Dask scheduler answers"):
        backtest(store, run.path, [RunConfig()], Options(scheduler=NOBODY.scheduler, overwrite=True))
    assert [path for path in run.path.iterdir() if path.name.startswith(REPLACED)]
    assert open_run(run.path).state == "unfinished"
    again = backtest(store, run.path, [RunConfig()], Options(resume=True))
    assert (again.state, verify(again).ok) == ("complete", True)
    assert {path.name for path in again.path.iterdir()} == {"manifest.json", "commits", "metrics"}


def test_ctrl_c_before_the_run_has_begun_is_told_as_that(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def interrupted(*given: object) -> Iterator[None]:
        signal.raise_signal(signal.SIGINT)
        yield

    monkeypatch.setattr(running, "executor_of", interrupted)
    result = CliRunner().invoke(app, ["backtest", str(store), "--out", str(tmp_path / "run")])
    assert result.exit_code == 130
    assert "interrupted before the run had begun" in result.stderr
    assert list(tmp_path.iterdir()) == []
