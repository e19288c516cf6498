"""Runs that are killed at random moments, resumed, and read while they go on: the hash of the run never killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from filling import apart, fill_store
from prices import tick_walk

from atc_backtest.config import resolve
from atc_backtest.errors import StoreError
from atc_backtest.pipelines.backtest import Options, backtest
from atc_backtest.pipelines.runs import Run, open_run
from atc_backtest.pipelines.verify import verify

ROOT = Path(__file__).resolve().parent.parent
SAVED = ("signals", "equity", "trades")
PARTITIONS = 12
PATIENCE_S = 120
APART = (
    "import runpy; from atc_backtest.pipelines import costs; costs.SHORTEST_NS = costs.PART_BYTES = 1.0; "
    "runpy.run_module('atc_backtest', run_name='__main__', alter_sys=True)"
)
"""The command with a plan that gathers no chunks, however soon they are done."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return twelve_chunks(tmp_path_factory.mktemp("kills") / "prices.zarr")


@pytest.fixture(scope="module")
def whole(store: Path) -> Run:
    return run_apart(store)


def twelve_chunks(path: Path) -> Path:
    """A store of twelve chunks of symbols x 400 hourly bars."""
    close = np.stack([tick_walk(400, seed) for seed in range(16)])
    fill_store(path, np.tile(close, (PARTITIONS * 64 // 16, 1)))
    return path


def run_apart(store: Path) -> Run:
    """The run that nobody harmed, a partition a chunk."""
    with apart():
        run = backtest(store, store.parent / "whole", [resolve(environment={})], Options(save=SAVED))
    assert len(run.done) == PARTITIONS
    return run


def start(store: Path, out: Path, *args: object) -> subprocess.Popen[str]:
    """`atc-backtest backtest` in a process of its own, a partition a chunk; its stderr in a file beside the run."""
    command = [sys.executable, "-c", APART, "backtest", store, "--out", out, "--save", ",".join(SAVED), *args]
    with out.with_suffix(".err").open("w") as said:
        return subprocess.Popen(
            [str(word) for word in command],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=said,
            text=True,
        )


def committed(out: Path) -> int:
    return len(list((out / "commits").glob("part-*.json")))


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until it holds or the process is over."""
    until = time.monotonic() + PATIENCE_S
    while not condition() and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.002)


def check_what_is_committed(out: Path, whole: Run) -> None:
    """Whole partitions and nothing else, while their writer is at work or dead."""
    try:
        seen = open_run(out).table("equity")
    except StoreError:  # nothing yet
        return
    expected = whole.table("equity").to_pandas().set_index("symbol")
    found = seen.to_pandas().set_index("symbol")
    symbols = found.index.unique()
    assert len(symbols) % 64 == 0
    assert found.equals(expected.loc[symbols])


def resume_until_done(store: Path, out: Path, *args: object) -> None:
    process = start(store, out, "--resume", *args)
    assert process.wait(PATIENCE_S) == 0, out.with_suffix(".err").read_text()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("where", [("--threads", 2), ("--workers", 2)], ids=["threads", "cluster"])
def test_killed_at_random_moments_and_resumed(
    store: Path, whole: Run, tmp_path: Path, where: tuple[str, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    out = tmp_path / "run"
    for after in sorted(rng.integers(0, PARTITIONS, 2)):
        begun = (out / "manifest.json").exists()
        process = start(store, out, *where, *(["--resume"] if begun else []))
        wait_until(lambda after=after: committed(out) > after, process)  # type: ignore[misc]
        check_what_is_committed(out, whole)
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        check_what_is_committed(out, whole)
    resume_until_done(store, out, *where)
    run = open_run(out)
    assert (run.state, run.content_hash()) == ("complete", whole.content_hash())
    assert not list(out.rglob("*.tmp"))
    assert verify(run, sample=0.01, seed=seed).ok


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_worker_that_dies_is_replaced(store: Path, whole: Run, tmp_path: Path, how: signal.Signals) -> None:
    out = tmp_path / "run"
    process = start(store, out, "--workers", 2)
    wait_until(lambda: committed(out) > 0, process)
    workers = [
        one for one in psutil.Process(process.pid).children(recursive=True) if "spawn_main" in str(one.cmdline())
    ]
    assert len(workers) == 2
    workers[0].send_signal(how)
    assert process.wait(PATIENCE_S) == 0, out.with_suffix(".err").read_text()
    assert open_run(out).content_hash() == whole.content_hash()


def test_the_scheduler_dies_and_the_run_is_resumed_elsewhere(store: Path, whole: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    quiet = {"cwd": tmp_path, "env": env, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    dask = [sys.executable, "-m", "dask"]
    server = subprocess.Popen(
        [*dask, "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"],
        **quiet,  # type: ignore[call-overload]
    )
    worker = subprocess.Popen(
        [*dask, "worker", address, "--nthreads", "1", "--no-dashboard", "--death-timeout", "5"],
        **quiet,  # type: ignore[call-overload]
    )
    try:
        time.sleep(4)
        process = start(store, out, "--scheduler", address)
        wait_until(lambda: committed(out) > 1, process)
        server.kill()
        assert process.wait(PATIENCE_S) == 3, out.with_suffix(".err").read_text()
        assert "scheduler is gone" in out.with_suffix(".err").read_text()
        assert "--resume" in out.with_suffix(".err").read_text()
    finally:
        for one in (server, worker):
            one.kill()
            one.wait()
    resume_until_done(store, out, "--threads", 2)
    assert open_run(out).content_hash() == whole.content_hash()
