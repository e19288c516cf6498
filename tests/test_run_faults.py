"""Faults of every kind at moments drawn by seeds: nothing lost, nothing doubled, and the hash of the run never harmed.

Beside test_run_kills: clients that are stopped, storms that kill workers again and again, disks that are full, chunks
that are damaged, workers that crawl, and resumes that go on elsewhere each time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from filling import fill_store
from prices import tick_walk
from test_run_kills import PARTITIONS, PATIENCE_S, SAVED, check_what_is_committed, committed, start, wait_until

from atc_backtest.config import resolve
from atc_backtest.errors import StoreError
from atc_backtest.pipelines.backtest import Options, backtest
from atc_backtest.pipelines.commits import records
from atc_backtest.pipelines.runs import LOCK, Run, open_run
from atc_backtest.stores.memmap_store import heat
from atc_backtest.stores.opening import open_store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve chunks of symbols x 400 hourly bars."""
    path = tmp_path_factory.mktemp("faults") / "prices.zarr"
    close = np.stack([tick_walk(400, seed) for seed in range(16)])
    fill_store(path, np.tile(close, (PARTITIONS * 64 // 16, 1)))
    return path


@pytest.fixture(scope="module")
def whole(store: Path) -> Run:
    run = backtest(store, store.parent / "whole", [resolve(environment={})], Options(save=SAVED))
    assert len(run.done) == PARTITIONS
    return run


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


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A file system of that size at `place`; what it yields gives it another. Skips where nobody may mount."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        if os.environ.get("CI"):
            pytest.fail(f"cannot mount a small disk: {done.stderr}")
        pytest.skip(f"cannot mount a small disk, which takes root on Linux: {done.stderr.strip()}")
    try:
        yield lambda new: subprocess.run(["mount", "-o", f"remount,size={new}", str(place)], check=True) and None
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def room_for(run: Run, share: float) -> str:
    """A file system's size that holds a share of a run, in whole pages of each file."""
    pages = sum(-(-path.stat().st_size // 4096) for path in run.path.rglob("*") if path.is_file())
    return f"{max(64, int(4 * pages * share))}k"


@pytest.mark.parametrize("seed", range(3))
def test_a_disk_that_is_full_for_good_ends_partial(store: Path, whole: Run, tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with small_disk(tmp_path / "disk", room_for(whole, rng.uniform(0.3, 0.8))) as resize:
        out = tmp_path / "disk" / "run"
        errors = tmp_path / "run.err"
        code = _run_quietly(store, out, errors)
        assert code in (3, 4), errors.read_text()
        assert "space" in errors.read_text().lower()
        assert committed(out) < PARTITIONS
        check_what_is_committed(out, whole)
        resize("64m")
        assert _run_quietly(store, out, errors, "--resume") == 0, errors.read_text()
        check_complete(out, whole)


@pytest.mark.parametrize("seed", range(3))
def test_a_disk_that_is_full_for_a_while_delays(store: Path, whole: Run, tmp_path: Path, seed: int) -> None:
    """Room comes while failed partitions wait for their next try."""
    rng = np.random.default_rng(seed)
    with small_disk(tmp_path / "disk", room_for(whole, rng.uniform(0.3, 0.8))) as resize:
        out = tmp_path / "disk" / "run"
        errors = tmp_path / "run.err"
        room = threading.Event()

        def give_room() -> None:
            until = time.monotonic() + PATIENCE_S
            while not room.is_set() and time.monotonic() < until:
                if os.statvfs(tmp_path / "disk").f_bavail < 50:
                    time.sleep(0.1)
                    resize("64m")
                    return
                time.sleep(0.002)

        thread = threading.Thread(target=give_room)
        thread.start()
        try:
            code = _run_quietly(store, out, errors, "--retries", "6")
        finally:
            room.set()
            thread.join()
        assert code == 0, errors.read_text()
        check_complete(out, whole)


def _run_quietly(store: Path, out: Path, errors: Path, *args: str) -> int:
    """As `start`, its stderr elsewhere: the run's own disk may be full."""
    import sys

    command = [sys.executable, "-m", "atc_backtest", "backtest", str(store), "--out", str(out), "--threads", "2"]
    with errors.open("w") as file:
        done = subprocess.run(
            [*command, "--save", ",".join(SAVED), *args],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
            stdout=subprocess.DEVNULL,
            stderr=file,
            timeout=PATIENCE_S,
            check=False,
        )
    return done.returncode


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_chunk_sets_its_partition_aside(whole: Run, tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    harmed = tmp_path / "prices.zarr"
    close = np.stack([tick_walk(400, s) for s in range(16)])
    fill_store(harmed, np.tile(close, (PARTITIONS * 64 // 16, 1)))
    objects = sorted(path for path in harmed.rglob("c/*/*/*") if path.is_file() and "prices" in str(path))
    victim = objects[int(rng.integers(len(objects)))]
    sound = victim.read_bytes()
    at = int(rng.integers(len(sound)))
    victim.write_bytes(sound[:at] + bytes([sound[at] ^ 0x10]) + sound[at + 1 :])

    out = tmp_path / "run"
    finished(start(harmed, out, "--threads", 2), out, 4)
    assert committed(out) == PARTITIONS - 1
    (failure,) = open_run(out).set_aside
    assert failure.symbols[0] in said(out)
    check_what_is_committed(out, whole)
    finished(start(harmed, out, "--threads", 2, "--resume"), out, 4)  # it is damaged still
    victim.write_bytes(sound)
    finished(start(harmed, out, "--threads", 2, "--resume"), out)
    check_complete(out, whole)


def test_a_price_that_is_none_is_named_and_sets_its_partition_aside(tmp_path: Path) -> None:
    """A memmap twin is read without checksums: what harms it reaches the kernel's door."""
    symbol, bar, n_bars = 70, 123, 300
    fill_store(tmp_path / "prices.zarr", np.stack([tick_walk(n_bars, seed) for seed in range(130)]))
    cold, hot = open_store(tmp_path / "prices.zarr"), tmp_path / "hot"
    close = cold.read("close", (symbol, symbol + 1), (0, n_bars))[0]
    heat(cold, hot)
    for path in hot.rglob("close/c/*/*"):
        mapped = np.fromfile(path, np.float64)
        at = _where(mapped, close)
        if at is not None:
            mapped[at + bar] = -1.0
            mapped.tofile(path)
    out = tmp_path / "run"
    text = finished(start(hot, out, "--threads", 2), out, 4)
    when = np.datetime64(int(cold.ts(0, n_bars)[bar]), "ns")
    assert f"S070 has the close -1.0 at {when}" in text
    (failure,) = open_run(out).set_aside
    assert "S070" in failure.symbols
    assert failure.attempts == 1
    assert committed(out) == len(open_run(out).partitions) - 1 >= 1


def _where(values: np.ndarray, wanted: np.ndarray) -> int | None:
    """Where a series stands in a file."""
    for at in np.flatnonzero(values == wanted[0]).tolist():
        if np.array_equal(values[at : at + wanted.size], wanted):
            return int(at)
    return None


def test_two_clients_of_one_run(store: Path, whole: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(store, out, "--threads", 1)
    wait_until(lambda: committed(out) > 0, process)
    process.send_signal(signal.SIGSTOP)
    try:
        for options in (Options(save=SAVED, resume=True), Options(save=SAVED, overwrite=True)):
            with pytest.raises(StoreError, match=rf"process {process.pid} on .*backtest.*wait until it is done"):
                backtest(store, out, [resolve(environment={})], options)
        check_what_is_committed(out, whole)
    finally:
        process.send_signal(signal.SIGCONT)
    finished(process, out)
    check_complete(out, whole)


def test_the_lock_of_a_client_that_died_is_no_obstacle(store: Path, whole: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(store, out, "--threads", 2)
    wait_until(lambda: committed(out) > 0, process)
    process.kill()
    process.wait()
    assert json.loads((out / LOCK).read_text())["pid"] == process.pid
    finished(start(store, out, "--resume", "--threads", 2), out)
    check_complete(out, whole)
