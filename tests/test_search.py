"""Searches: resumed anywhere they are the search that was never stopped, and their one run is a run like any other."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import atc
from filling import fill_store
from prices import tick_walk

from atc_backtest.config import RunConfig
from atc_backtest.errors import AtcError, ConfigError, StoreError, UnavailableError
from atc_backtest.pipelines import search as searching
from atc_backtest.pipelines.backtest import Options, backtest
from atc_backtest.pipelines.runs import open_run
from atc_backtest.pipelines.search import Goal, Search, search, study_of
from atc_backtest.pipelines.surface import View, set_values
from atc_backtest.pipelines.sweep import read_spec
from atc_backtest.pipelines.verify import verify

pytest.importorskip("optuna", reason="the extra `optuna` is not installed")

SPEC = read_spec(
    {"sets": [{"fee_bps": 1, "slippage_bps": 0}, {"fee_bps": 0, "slippage_bps": 2}]},
    {
        "lengths": "14:60",
        "lambda": "0.001:1:log",
        "decay": "0.01:0.05:0.01",
        "profile": "enhance,pine",
        "size": "0.5,1",
    },
)
GOAL = Goal(trials=20, block=8)
OPTIONS = Options(save=("trades", "periods"), threads=1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("search") / "prices.zarr"
    fill_store(path, np.stack([tick_walk(300, seed) for seed in range(3)]))
    return path


def searched(store: Path, out: Path, goal: Goal = GOAL, **changes: Any) -> Search:
    spec = changes.pop("spec", SPEC)
    options = Options(**({"save": OPTIONS.save, "threads": 1} | changes))
    return search(store, out, RunConfig(), spec, goal, options)


@pytest.fixture(scope="module")
def found(store: Path) -> Search:
    return searched(store, store.parent / "whole")


def test_what_was_tried_lies_within_and_is_judged_by_the_figure(found: Search) -> None:
    assert found.run is not None
    assert len(found.trials) == 20
    at = {config: position for position, config in enumerate(found.run.sets)}
    values = set_values(found.run, View())
    for trial in found.trials:
        assert trial.config is not None
        assert trial.value == values[at[trial.config]]
        assert trial.config.atc.lengths.ema in range(14, 61)
        assert trial.config.atc.decay in (0.01, 0.02, 0.03, 0.04, 0.05)
        assert (trial.config.execution.fee_bps, trial.config.execution.slippage_bps) in ((1.0, 0.0), (0.0, 2.0))
        assert trial.settings["lambda"] == trial.config.atc.lambda_ == float(f"{trial.config.atc.lambda_:.6g}")
    assert found.best == int(np.argmax([trial.value for trial in found.trials]))


def test_the_run_of_all_sets_is_the_one_that_a_sweep_of_them_makes(store: Path, found: Search, tmp_path: Path) -> None:
    assert found.run is not None
    plain = backtest(store, tmp_path / "plain", found.run.sets, OPTIONS)
    assert found.run.content_hash() == plain.content_hash()
    assert found.run.table("metrics").schema == plain.table("metrics").schema
    for name in plain.datasets:
        assert found.run.table(name).equals(plain.table(name))
    assert verify(found.run, options=Options(kernel="numba", threads=1)).ok


@pytest.mark.parametrize("stage", ["a block that ran", "a block that runs", "proposals", "all"])
def test_a_search_that_was_killed_goes_on_as_if_it_had_not_been(
    store: Path, found: Search, tmp_path: Path, stage: str
) -> None:
    out = tmp_path / "again"
    shutil.copytree(found.path, out)
    last = out / "blocks" / "00002"
    if stage == "all":
        next((out / "all" / "commits").iterdir()).unlink()
    else:
        shutil.rmtree(out / "all")
    if stage == "a block that runs":
        next((last / "commits").iterdir()).unlink()
    elif stage == "proposals":
        shutil.rmtree(last)
    elif stage == "a block that ran":
        shutil.rmtree(last)
        last.with_suffix(".json").unlink()
    again = searched(store, out, resume=True)
    assert again.trials == found.trials
    assert again.run is not None
    assert found.run is not None
    assert again.run.content_hash() == found.run.content_hash()


def test_more_trials_go_on_from_those_that_are_there(store: Path, tmp_path: Path) -> None:
    first = searched(store, tmp_path / "more", Goal(trials=8, block=8))
    more = searched(store, tmp_path / "more", Goal(trials=16, block=8), resume=True)
    straight = searched(store, tmp_path / "straight", Goal(trials=16, block=8))
    assert more.trials[:8] == first.trials
    assert more.trials == straight.trials


def test_a_small_space_is_tried_once_each(store: Path, tmp_path: Path) -> None:
    spec = read_spec({}, {"lengths.ema": "20,30", "profile": "enhance,pine"})
    found = searched(store, tmp_path / "small", Goal(12, 5, View("total_return", ascending=True)), spec=spec)
    assert found.run is not None
    assert len(found.run.sets) == len(set(found.run.sets)) <= 4
    assert found.best is not None
    least = found.trials[found.best].value
    assert least == min(trial.value for trial in found.trials if trial.value is not None)


def test_it_learns(store: Path, tmp_path: Path) -> None:
    """Turnover falls with a longer minimum: later proposals lie closer to the best end than the first, random ones."""
    spec = read_spec({}, {"cutout": "0:290"})
    found = searched(store, tmp_path / "learn", Goal(40, 10, View("n_bars")), spec=spec, save=())
    cutouts = [trial.settings["cutout"] for trial in found.trials]
    assert np.mean(cutouts[-10:]) < np.mean(cutouts[:10])  # type: ignore[arg-type]


def test_what_the_settings_refuse_is_a_failed_trial(store: Path, tmp_path: Path) -> None:
    spec = read_spec({}, {"long_threshold": "-0.9:0.3:0.1"})
    with pytest.raises(
        ConfigError, match=r"the proposal long_threshold=-0\.\d: short_threshold = -0.1 .*--skip-invalid"
    ):
        searched(store, tmp_path / "refused", Goal(12, 12), spec=spec)
    found = searched(store, tmp_path / "skipped", Goal(12, 6, skip_invalid=True), spec=spec)
    failed = [trial for trial in found.trials if trial.config is None]
    assert failed
    assert all(trial.value is None and float(trial.settings["long_threshold"]) < -0.1 for trial in failed)
    spec = read_spec({}, {"lengths.ema": "1,2"})
    with pytest.raises(ConfigError, match="all 3 proposals were refused"):
        searched(store, tmp_path / "none", Goal(3, 3, skip_invalid=True), spec=spec)


def test_optuna_sees_the_trials(found: Search) -> None:
    study = study_of(found, SPEC, GOAL)
    assert [trial.value for trial in study.trials] == [trial.value for trial in found.trials]
    assert study.best_trial.number == found.best


@pytest.mark.parametrize(
    ("goal", "changes", "error", "message"),
    [
        (Goal(0), {}, ConfigError, "--trials 0 is not allowed"),
        (Goal(5, 0), {}, ConfigError, "--block 0 is not allowed"),
        (Goal(5, view=View("luck")), {}, ConfigError, "--by 'luck' is not a figure"),
        (
            Goal(5),
            {"spec": read_spec({}, {"cutout": "1:9"}, random=3)},
            ConfigError,
            "give one of --random and --search",
        ),
        (Goal(5), {"spec": read_spec({}, {})}, ConfigError, "a search of nothing"),
        (Goal(5), {"resume": True}, StoreError, "holds no search to go on with"),
    ],
)
def test_what_is_no_search(
    store: Path, tmp_path: Path, goal: Goal, changes: dict[str, Any], error: type[AtcError], message: str
) -> None:
    with pytest.raises(error, match=message):
        searched(store, tmp_path / "run", goal, **changes)
    assert not (tmp_path / "run").exists()


def test_what_is_in_the_way_or_has_changed(store: Path, found: Search, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="already holds a search"):
        searched(store, found.path)
    with pytest.raises(ConfigError, match="begun with another block, view"):
        searched(store, found.path, Goal(20, 4, View("cagr")), resume=True)
    (tmp_path / "mine").write_text("")
    with pytest.raises(StoreError, match="is not a search"):
        searched(store, tmp_path)
    out = tmp_path / "over"
    searched(store, out, Goal(4, 4))
    again = searched(store, out, Goal(4, 2), overwrite=True)
    assert sorted(path.name for path in (out / "blocks").glob("*.json")) == ["00000.json", "00001.json"]
    assert len(again.trials) == 4


def test_prices_that_grow_end_the_search(tmp_path: Path) -> None:
    path, out = tmp_path / "grows.zarr", tmp_path / "run"
    close = np.stack([tick_walk(250, seed) for seed in range(2)])
    fill_store(path, close[:, :200])
    searched(path, out, Goal(3, 3))
    fill_store(path, close[:, 200:], start=200)
    with pytest.raises(ConfigError, match="begun with another store"):
        searched(path, out, Goal(6, 3), resume=True)


def test_without_optuna_the_command_is_named(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UnavailableError, match=r"pip install 'atc-backtest\[optuna\]'"):
        searched(store, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_block_that_is_partial_stops_the_search(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = backtest

    def broken(*args: Any, **kwargs: Any) -> Any:
        run = whole(*args, **kwargs)
        next((run.path / "commits").iterdir()).unlink()
        return run

    monkeypatch.setattr(searching, "backtest", broken)
    found = searched(store, tmp_path / "run", Goal(8, 4))
    assert (found.run, found.trials) == (None, ())
    assert found.blocked is not None
    monkeypatch.undo()
    assert searched(store, tmp_path / "run", Goal(8, 4), resume=True).run is not None


# The command line


def test_the_command_says_what_is_missing_or_how_to_go_on(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("sweep", store, "--search", "optuna", "--trials", 4, "--block", 4, "--set", "lengths=14:40")
    whole = backtest

    def broken(*args: Any, **kwargs: Any) -> Any:
        run = whole(*args, **kwargs)
        next((run.path / "commits").iterdir()).unlink()
        return run

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(searching, "backtest", broken)
    result = atc(*command, "--out", tmp_path / "partial", "--threads", 1)
    assert result.exit_code == 4
    assert "partial: 1 of 1 partitions are missing" in result.stderr
    monkeypatch.setattr(searching, "backtest", interrupted)
    stopped = atc(*command, "--out", tmp_path / "stopped")
    assert stopped.exit_code == 130
    assert "--resume" in stopped.stderr


def test_the_command(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = (
        "sweep",
        store,
        "--search",
        "optuna",
        "--trials",
        6,
        "--block",
        4,
        "--set",
        "lengths=14:40",
        "--out",
        out,
    )
    plan = atc(*command, "--plan")
    assert "6 trials in 2 blocks of 4, each a run like this one" in plan.stdout
    assert json.loads(atc(*command, "--plan", "--json").stdout)["blocks"] == 2
    assert not out.exists()
    result = atc(*command)
    assert result.exit_code == 0, result.stderr
    assert "6 trials, " in result.stdout
    assert f"next: atc-backtest surface {out / 'all'}" in result.stdout
    again = json.loads(atc(*command, "--resume", "--json").stdout)
    assert again["trials"] == 6
    assert again["run"] == str(open_run(out / "all").path.resolve())
    assert atc("sweep", store, "--search", "luck", "--set", "cutout=1:9").exit_code == 2
