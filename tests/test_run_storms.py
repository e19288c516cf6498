"""Runs in a storm, at moments drawn by seeds: nothing lost, nothing doubled, and the hash of the run never harmed.

Clients that are stopped, workers that are killed again and again or crawl, resumes that go on elsewhere each time.
"""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from test_run_kills import (
    PARTITIONS,
    PATIENCE_S,
    check_what_is_committed,
    committed,
    run_apart,
    start,
    twelve_chunks,
    wait_until,
)

from atc_backtest.pipelines.commits import records
from atc_backtest.pipelines.runs import LOCK, Run, open_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return twelve_chunks(tmp_path_factory.mktemp("storms") / "prices.zarr")


@pytest.fixture(scope="module")
def whole(store: Path) -> Run:
    return run_apart(store)


def check_complete(out: Path, whole: Run) -> None:
    """Every partition once: a record, its parts and no others, each pair of symbol and set in one of them."""
    run = open_run(out)
    assert (run.state, run.content_hash()) == ("complete", whole.content_hash())
    named = Counter(part.file for _, parts in records(out) for part in parts.values())
    on_disk = Counter(str(path.relative_to(out)) for path in out.rglob("part-*.parquet"))
    assert named == on_disk
    pairs = Counter(zip(*run.table().select(["symbol", "param_id"]).to_pydict().values(), strict=True))
    assert set(pairs.values()) == {1}
    assert len(pairs) == PARTITIONS * 64
    assert not list(out.rglob("*.tmp"))
    assert not (out / LOCK).exists()


def finished(process: subprocess.Popen[str], out: Path, code: int = 0) -> str:
    assert process.wait(PATIENCE_S) == code, said(out)
    return said(out)


def said(out: Path) -> str:
    return out.with_suffix(".err").read_text()


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Processes of a local cluster that compute; none once it is over."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
        return [one for one in children if "spawn_main" in " ".join(one.cmdline())]
    except psutil.Error:  # somebody has just ended
        return []


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_the_client_is_stopped(store: Path, whole: Run, tmp_path: Path, how: signal.Signals, seed: int) -> None:
    rng, out = np.random.default_rng(seed), tmp_path / "run"
    process = start(store, out, "--threads", 2)
    after = int(rng.integers(0, PARTITIONS - 4))
    wait_until(lambda: committed(out) > after, process)
    process.send_signal(how)
    code = process.wait(PATIENCE_S)
    if how == signal.SIGINT and committed(out) < PARTITIONS:
        assert code == 130
        assert "--resume" in said(out)
        assert "Traceback" not in said(out)
    check_what_is_committed(out, whole)
    finished(start(store, out, "--resume", "--threads", 2), out)
    check_complete(out, whole)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=lambda how: how.name)
def test_the_client_of_a_cluster_is_stopped_and_leaves_nobody_behind(
    store: Path, whole: Run, tmp_path: Path, how: signal.Signals
) -> None:
    out = tmp_path / "run"
    process = start(store, out, "--workers", 2)
    wait_until(lambda: committed(out) > 1, process)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(how)
    process.wait(PATIENCE_S)
    assert family
    _, alive = psutil.wait_procs(family, timeout=20)
    assert [one.pid for one in alive] == []
    finished(start(store, out, "--resume", "--threads", 2), out)
    check_complete(out, whole)


@pytest.mark.parametrize("seed", range(3))
def test_a_storm_kills_workers_again_and_again(store: Path, whole: Run, tmp_path: Path, seed: int) -> None:
    """One or both, by signals of three kinds, more often than a partition has tries: it may end partial."""
    rng, out = np.random.default_rng(seed), tmp_path / "run"
    process = start(store, out, "--workers", 2, "--retries", 3)
    for after in sorted(rng.integers(0, PARTITIONS - 2, 3)):
        wait_until(lambda after=after: committed(out) > after, process)  # type: ignore[misc]
        victims = workers_of(process)
        for victim in victims[: int(rng.integers(1, 3))]:
            how = rng.choice(np.array([signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM]))
            _send(victim, int(how))
    code = process.wait(PATIENCE_S)
    assert code in (0, 4), said(out)
    check_what_is_committed(out, whole)
    if code == 4:
        finished(start(store, out, "--resume", "--threads", 2), out)
    check_complete(out, whole)


def _send(process: psutil.Process, how: int) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(how)


@pytest.mark.parametrize("seed", [0])
def test_a_worker_twenty_times_slower(store: Path, whole: Run, tmp_path: Path, seed: int) -> None:
    """Stopped for nineteen parts of twenty; the other takes over what is not begun."""
    out = tmp_path / "run"
    process = start(store, out, "--workers", 2)
    wait_until(lambda: committed(out) > 0, process)
    slow = workers_of(process)[seed % 2]
    ended = threading.Event()

    def crawl() -> None:
        while not ended.is_set():
            _send(slow, signal.SIGSTOP)
            ended.wait(0.19)
            _send(slow, signal.SIGCONT)
            ended.wait(0.01)

    thread = threading.Thread(target=crawl)
    thread.start()
    try:
        finished(process, out)
    finally:
        ended.set()
        thread.join()
    check_complete(out, whole)


@pytest.mark.parametrize("seed", range(4))
def test_resumed_somewhere_else_each_time(store: Path, whole: Run, tmp_path: Path, seed: int) -> None:
    """Killed three times, gone on with by other kernels, threads, processes and limits."""
    rng, out = np.random.default_rng(seed), tmp_path / "run"
    places: list[tuple[object, ...]] = [
        ("--threads", 1, "--kernel", "numba"),
        ("--threads", 3, "--memory-limit", "900MB"),
        ("--threads", 2, "--kernel", "rust" if _has_rust() else "numba"),
        ("--workers", 2),
    ]
    for place in rng.permutation(len(places)).tolist()[:3]:
        begun = (out / "manifest.json").exists()
        before = committed(out)
        process = start(store, out, *places[place], *(["--resume"] if begun else []))
        wait_until(lambda before=before: committed(out) > before + 1, process)  # type: ignore[misc]
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.wait()
        check_what_is_committed(out, whole)
    finished(start(store, out, "--resume"), out)
    check_complete(out, whole)


def _has_rust() -> bool:
    try:
        from atc_backtest.kernels import _rust  # noqa: F401
    except ImportError:
        return False
    return True
