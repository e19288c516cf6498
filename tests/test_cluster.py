"""Clusters: what a worker must have before it is given work, the names of tasks, and what is told while they run."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusters import PATIENCE_S, ROOT, dask_process, scheduler, wait_until, worker
from dask.utils import key_split
from filling import fill_store
from prices import tick_walk
from typer.testing import CliRunner

from atc_backtest.cli import app
from atc_backtest.config import RunConfig
from atc_backtest.errors import ConfigError, StoreError, UnavailableError
from atc_backtest.pipelines import cluster, connecting, workers
from atc_backtest.pipelines.backtest import DASK_REPORT, Options, backtest, needs_of, prepare, task_name
from atc_backtest.pipelines.cluster import Setup
from atc_backtest.pipelines.connecting import existing_cluster, local_cluster
from atc_backtest.pipelines.executors import Done, Tick, UnfitWorkerError
from atc_backtest.pipelines.memory import PROCESS_BYTES
from atc_backtest.pipelines.plan import Partition
from atc_backtest.pipelines.runs import Run, job_of, open_run
from atc_backtest.pipelines.verify import verify
from atc_backtest.pipelines.workers import Inspected, Needs, check_fit
from atc_backtest.stores.copying import copy_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three chunks of symbols x 300 hourly bars."""
    path = tmp_path_factory.mktemp("cluster") / "us-prices.zarr"
    fill_store(path, np.stack([tick_walk(300, seed) for seed in range(130)]))
    return path


@pytest.fixture(scope="module")
def whole(store: Path) -> Run:
    return backtest(store, store.parent / "whole", [RunConfig()], Options(threads=1))


@pytest.fixture
def needs(whole: Run) -> Needs:
    return needs_of(job_of(whole, "numba"))


# Names


@pytest.mark.parametrize("stem", ["prices", "us-stocks-1m", "2024", "a,b", "x-abcdefab"])
def test_tasks_are_grouped_by_store_and_command(store: Path, stem: str) -> None:
    job = replace(prepare(store, store.parent / "none", [RunConfig()] * 9, Options()), store=f"/data/{stem}.zarr")
    keys = [task_name(job, "backtest", Partition(k, tuple(range(k, k + 64)), (0, 9))) for k in range(5)]
    assert {key_split(f"{key} (0123456789ab)") for key in keys} == {f"{stem.replace('-', '_')}: backtest"}
    assert ": S003 .. S066 (64 symbols), sets 0 .. 8, slabs of " in keys[3]
    assert ": S007, set 2, slabs of " in task_name(job, "verify", Partition(1, (7,), (2, 3)))


# What is told


def _twice(item: str, tick: Tick) -> int:
    tick(5)
    time.sleep(workers.SAY_S)
    tick(2)
    if not Path(item).exists():
        Path(item).touch()
        raise OSError("may pass")
    tick(3)
    return 10


def test_bars_are_told_while_an_item_runs_and_taken_back_when_it_fails(tmp_path: Path) -> None:
    ticks: list[int] = []
    with local_cluster(1, None) as executor:
        outcomes = list(executor.run(_twice, [str(tmp_path / "once")], ticks.append, retries=1))
    assert [one.result for one in outcomes if isinstance(one, Done)] == [10]
    assert ticks == [7, -7, 7, 3]


# Options


@pytest.mark.parametrize(
    "options", [["--dashboard-address", ":8787"], ["--keep"], ["--dask-report"], ["--resources", "GPU=1"]]
)
def test_options_of_a_cluster_ask_for_one(store: Path, tmp_path: Path, options: list[str]) -> None:
    result = CliRunner().invoke(app, ["backtest", str(store), "--out", str(tmp_path / "run"), *options])
    assert result.exit_code == 3
    assert f"{options[0]} is of a cluster: add --workers N" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (Options(scheduler="tcp://10.0.0.1:8786", keep=True), "stays in any case"),
        (Options(scheduler="tcp://10.0.0.1:8786", dashboard_address=":1"), "has its own dashboard"),
        (Options(workers=1, resources=(("GPU", 0.0),)), "--resources GPU=0 is not allowed"),
        (Options(workers=1, dashboard_address="everywhere"), "is not HOST:PORT"),
    ],
)
def test_options_that_make_no_sense_are_refused(store: Path, tmp_path: Path, options: Options, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        backtest(store, tmp_path / "run", [RunConfig()], options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [{"dashboard_address": ":0"}, {"dask_report": True}])
def test_without_bokeh_a_dashboard_is_refused(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setitem(sys.modules, "bokeh", None)
    with pytest.raises(UnavailableError, match=r"atc-backtest\[dashboard\]"):
        backtest(store, tmp_path / "run", [RunConfig()], Options(workers=1, **options))
    assert not (tmp_path / "run").exists()


# Fit or not


def test_this_process_is_fit(needs: Needs) -> None:
    check_fit(needs)


def test_what_makes_a_worker_unfit_is_said(needs: Needs, store: Path, tmp_path: Path) -> None:
    versions = dict(needs.versions)
    wrong = {
        rf"has numpy {versions['numpy']}, and this program numpy 1.0": replace(
            needs, versions=tuple((versions | {"numpy": "1.0"}).items())
        ),
        r"has another state of atc-backtest .*this program 0123": replace(needs, sources="0123"),
        r"cannot see the run's folder .*absent .*file system that all hosts share": replace(
            needs, place=replace(needs.place, run=tmp_path / "absent")
        ),
        r"cannot see the run's folder .*replaced": replace(needs, place=replace(needs.place, id="other")),
        r"cannot open the store .*absent.zarr .*s3://": replace(needs, store=str(tmp_path / "absent.zarr")),
        r"sees another store at": replace(needs, store_id="other"),
        r"cannot use the kernel swift": replace(needs, kernel="swift"),
    }
    for said, other in wrong.items():
        with pytest.raises(UnfitWorkerError, match=said):
            check_fit(other)


def test_answers_are_judged(needs: Needs) -> None:
    sound = Inspected("h", None, "numba", 2, None)
    judge = connecting._unfit_by
    assert judge(sound, needs, True) is None
    assert judge(replace(sound, memory_limit=10**12), needs, True) is None
    least = PROCESS_BYTES["numba"] + 2 * needs.task_bytes
    assert judge(replace(sound, memory_limit=least), needs, True) is None
    assert f"this run needs {least:,} with" in (judge(replace(sound, memory_limit=least - 1), needs, True) or "")
    rust = replace(sound, kernel="rust", memory_limit=least - 1)
    assert judge(rust, needs, True) is None
    assert "with the kernel cuda" in (judge(replace(rust, kernel="cuda"), needs, True) or "")
    assert "writes into another" in (judge(sound, needs, False) or "")
    assert "atc-backtest first" in (judge(ModuleNotFoundError("No module named 'atc_backtest'"), needs, False) or "")


# Workers in processes of their own

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with scheduler(tmp_path_factory.mktemp("scheduler")) as found:
        yield found


def _pretending(folder: Path) -> dict[str, str]:
    """The environment of a worker whose numpy says that it is another one."""
    about = folder / "numpy-0.9.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 0.9\n")
    return {"PYTHONPATH": f"{folder}:{ROOT}:{ROOT / 'tests'}"}


BLOCK = """
import sys

class Block:
    def find_spec(self, name, path, target=None):
        if name == "atc_backtest":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Block())
"""


def _without_us(folder: Path) -> dict[str, str]:
    """The environment of a worker that cannot import this package."""
    folder.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(BLOCK)
    return {"PYTHONPATH": str(folder)}


@slow
def test_two_workers_in_folders_of_their_own_and_an_s3_store(
    store: Path, whole: Run, bucket: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{bucket}/{tmp_path.name}.zarr"
    copy_store(store, url)
    monkeypatch.chdir(tmp_path)
    with worker(address, tmp_path / "one"), worker(address, tmp_path / "two"):
        run = backtest(url, Path("run"), [RunConfig()], Options(scheduler=address))
        assert run.content_hash() == whole.content_hash()
        assert verify(run, options=Options(scheduler=address)).ok
        assert not [path for path in run.path.iterdir() if path.name.startswith(".")]
        with worker(address, tmp_path / "three", env={"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}):
            with pytest.raises(
                StoreError, match=rf"not fit for this run: worker tcp://\S+ on \S+: cannot open .*{url}"
            ):
                backtest(url, Path("refused"), [RunConfig()], Options(scheduler=address))
            before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
            with pytest.raises(StoreError, match="cannot open"):
                backtest(url, Path("run"), [RunConfig()], Options(scheduler=address, overwrite=True))
            assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"run", "one", "two", "three"}


@slow
def test_other_versions_missing_packages_and_resources_are_refused_at_connect(
    store: Path, address: str, tmp_path: Path
) -> None:
    ours = dict(workers.own_versions())["numpy"]
    options = Options(scheduler=address)
    with worker(address, tmp_path / "good"):
        with worker(address, tmp_path / "old", env=_pretending(tmp_path / "packages")):
            said = rf"worker tcp://127\.0\.0\.1:\d+: has numpy 0\.9, and this program numpy {ours}"
            with pytest.raises(StoreError, match=said):
                backtest(store, tmp_path / "run", [RunConfig()], options)
        with (
            worker(address, tmp_path / "bare", env=_without_us(tmp_path / "blocked")),
            pytest.raises(StoreError, match=r"worker tcp://\S+: lacks a package .*atc.backtest"),
        ):
            backtest(store, tmp_path / "run", [RunConfig()], options)
        with pytest.raises(ConfigError, match=r'no worker of tcp.* has the resources GPU=2: .*--resources "GPU=2"'):
            backtest(store, tmp_path / "run", [RunConfig()], replace(options, resources=(("GPU", 2),)))
    assert not (tmp_path / "run").exists()


def _where(item: int, tick: Tick) -> str | None:
    time.sleep(0.3)
    return os.environ.get("ATC_TEST_HOST")


@slow
def test_items_go_where_their_resources_are(address: str, tmp_path: Path) -> None:
    with (
        worker(address, tmp_path / "plain"),
        worker(address, tmp_path / "gpu", "--resources", "GPU=1", env={"ATC_TEST_HOST": "gpu"}),
        existing_cluster(address, Setup(resources=(("GPU", 1),))) as executor,
    ):
        outcomes = list(executor.run(_where, range(4), lambda bars: None))
    assert [one.result for one in outcomes if isinstance(one, Done)] == ["gpu"] * 4


@slow
def test_an_unfit_worker_that_joins_later_is_given_nothing(
    needs: Needs, address: str, tmp_path: Path, warned: list[str]
) -> None:
    def items() -> Iterator[int]:
        """Until it was given some, and ten more."""
        yield from takewhile(lambda number: not warned, range(300))
        yield from range(1000, 1010)

    with worker(address, tmp_path / "good"), existing_cluster(address, Setup(), needs) as executor:
        outcomes = executor.run(_where, items(), lambda bars: None)
        first = next(outcomes)
        with worker(address, tmp_path / "bad", env=_pretending(tmp_path / "packages")):
            rest = list(outcomes)
    assert all(isinstance(one, Done) for one in (first, *rest))
    done = [one.item for one in (first, *rest)]
    assert sorted(done) == [*range(len(done) - 10), *range(1000, 1010)]
    (warning,) = warned
    assert warning.startswith("the worker tcp://127.0.0.1:")
    assert warning.endswith("It is given no work.")


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the client is warned of."""
    said: list[str] = []

    class ToList(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    monkeypatch.setattr(cluster.logger, "handlers", [ToList(logging.WARNING)])
    return said


def test_workers_that_leave_as_soon_as_they_have_work_are_told_of_once_a_host(warned: list[str]) -> None:
    newcomers, left = cluster._Newcomers(), {"action": "remove-worker", "expected": False, "processing-tasks": {"one"}}
    newcomers.heard((0.0, "somebody's own event"))
    newcomers.heard((0.0, {"action": "gather", "count": 1}))
    newcomers.heard((1.0, left | {"worker": "tcp://10.0.0.1:1"}))  # it was there before the run
    for port, stayed, how in ((2, 60.0, {}), (3, 0.1, {"expected": True}), (4, 0.1, {"processing-tasks": set()})):
        newcomers.heard((10.0, {"action": "add-worker", "worker": f"tcp://10.0.0.1:{port}"}))
        newcomers.heard((10.0 + stayed, left | how | {"worker": f"tcp://10.0.0.1:{port}"}))
    assert warned == []
    for address in ("tcp://10.0.0.1:5", "tcp://10.0.0.1:6", "tcp://[fe80::1]:5"):
        newcomers.heard((20.0, {"action": "add-worker", "worker": address}))
        newcomers.heard((20.2, left | {"worker": address}))
    first, second = warned
    assert first.startswith(
        "the worker tcp://10.0.0.1:5 joined and ended by itself 0.2 s later, when it was given work"
    )
    assert "atc-backtest first" in first
    assert second.startswith("the worker tcp://[fe80::1]:5 joined")


@slow
def test_a_worker_that_joins_later_without_the_package_is_told_of(
    needs: Needs, address: str, tmp_path: Path, warned: list[str]
) -> None:
    def items() -> Iterator[int]:
        yield from takewhile(lambda number: not warned, range(300))
        yield from range(1000, 1010)

    bare = ("worker", address, "--nworkers", 2, "--nthreads", 1, "--no-dashboard", "--death-timeout", PATIENCE_S)
    with worker(address, tmp_path / "good"), existing_cluster(address, Setup(), needs) as executor:
        outcomes = executor.run(_where, items(), lambda bars: None, retries=3)
        first = next(outcomes)
        with dask_process(tmp_path / "bare", *bare, env=_without_us(tmp_path / "blocked")):
            rest = list(outcomes)
    assert all(isinstance(one, Done) for one in (first, *rest))
    (warning,) = warned
    assert re.match(r"the worker tcp://127\.0\.0\.1:\d+ joined and ended by itself", warning)


@slow
def test_a_kept_cluster_stays_until_it_is_interrupted(store: Path, whole: Run, tmp_path: Path) -> None:
    args = ["backtest", store, "--out", tmp_path / "run", "--workers", 1, "--keep", "--dask-report", "--json"]
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "atc_backtest", *map(str, args)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=out,
            stderr=err,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    wait_until(lambda: "kept: the cluster" in (tmp_path / "err").read_text() or process.poll() is not None)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    found = json.loads((tmp_path / "out").read_text())
    assert (found["state"], found["hash"]) == ("complete", whole.content_hash())
    assert found["dashboard"].startswith("http://127.0.0.1:")
    assert f"dashboard: {found['dashboard']}" in (tmp_path / "err").read_text()
    run = open_run(tmp_path / "run")
    assert "bokeh" in (run.path / DASK_REPORT).read_text().lower()
    assert run.content_hash() == whole.content_hash()
    assert verify(run).ok
