"""Runs that meet bad prices, or another process at work on them: what is said, what stays, how it goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from commands import atc
from filling import fill_store, three_chunks
from prices import tick_walk

from atc_backtest.config import RunConfig
from atc_backtest.errors import StoreError
from atc_backtest.pipelines import parts
from atc_backtest.pipelines.backtest import Options, Progress, backtest
from atc_backtest.pipelines.partition import run_partition
from atc_backtest.pipelines.runs import LOCK, job_of, open_run, writing
from atc_backtest.pipelines.verify import verify
from atc_backtest.stores import transaction
from atc_backtest.stores.lock import this_process
from atc_backtest.stores.zarr_store import open_store

ROOT = Path(__file__).resolve().parent.parent
RUN = RunConfig()

pytestmark = pytest.mark.usefixtures("apart")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return three_chunks(tmp_path_factory.mktemp("faults") / "prices.zarr")


def holder(run: Path) -> subprocess.Popen[str]:
    """A process that has the right to write a run, until it is killed."""
    program = f"""
import sys, time
from pathlib import Path
from atc_backtest.pipelines.runs import writing
with writing(Path({str(run)!r})):
    print("held", flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def held(store: Path, tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A finished run at which another process is at work, and that process."""
    backtest(store, tmp_path / "run", [RUN])
    process = holder(tmp_path / "run")
    yield tmp_path / "run", process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("how", ["--resume", "--overwrite"])
def test_a_second_process_is_refused_and_told_who_is_at_work(
    store: Path, held: tuple[Path, subprocess.Popen[str]], how: str
) -> None:
    run, process = held
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    refused = atc("backtest", store, "--out", run, how)
    assert refused.exit_code == 3
    who = f"process {process.pid} on {socket.gethostname()}, 'atc-backtest backtest', since 20"
    assert f"{run} is being written by {who}" in refused.stderr
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_readers_do_not_mind_who_writes(held: tuple[Path, subprocess.Popen[str]]) -> None:
    run, _ = held
    assert open_run(run).table().num_rows == 130
    assert atc("report", run).exit_code == 0
    assert verify(open_run(run)).ok


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_the_right_of_a_process_that_died_is_free(
    store: Path, held: tuple[Path, subprocess.Popen[str]], how: signal.Signals
) -> None:
    run, process = held
    process.send_signal(how)
    assert process.wait(60) == -how
    assert (run / LOCK).exists()
    assert backtest(store, run, [RUN], Options(resume=True)).state == "complete"
    assert not (run / LOCK).exists()


def test_one_process_cannot_carry_out_a_run_twice_at_once(store: Path, tmp_path: Path) -> None:
    said = []

    def again(n_bars: int) -> None:
        with pytest.raises(StoreError, match=f"is being written by process {os.getpid()} on ") as caught:
            backtest(store, tmp_path / "run", [RUN], Options(resume=True))
        said.append(str(caught.value))

    run = backtest(store, tmp_path / "run", [RUN], Options(threads=1), Progress(advanced=again))
    assert len(said) == len(run.done) == 3
    assert run.state == "complete"


def test_the_right_of_another_host_stays_until_it_is_taken_away(store: Path, tmp_path: Path) -> None:
    run = backtest(store, tmp_path / "run", [RUN])
    other = replace(this_process("atc-backtest backtest"), host="elsewhere", pid=77)
    (run.path / LOCK).write_text(json.dumps(asdict(other)))
    with pytest.raises(StoreError, match=rf"process 77 on elsewhere, .*no longer writes: remove .*{LOCK}"):
        backtest(store, tmp_path / "run", [RUN], Options(resume=True))
    (run.path / LOCK).unlink()
    assert backtest(store, tmp_path / "run", [RUN], Options(resume=True)).state == "complete"


def test_a_folder_that_is_no_run_gets_no_lock(tmp_path: Path, store: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(StoreError, match="is not a run: choose another --out"):
        backtest(store, tmp_path, [RUN], Options(overwrite=True))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(StoreError, match=r"cannot write .*thesis\.txt"), writing(tmp_path / "thesis.txt"):
        pass


@pytest.mark.parametrize(("source", "field"), [("close", "close"), ("hl2", "low")])
def test_a_price_that_the_kernel_refuses_sets_its_partition_aside_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, field: str
) -> None:
    monkeypatch.setattr(transaction, "check_values", lambda *args: None)
    path = tmp_path / "prices.zarr"
    fill_store(path, np.stack([tick_walk(300, seed) for seed in range(130)]))
    with open_store(path).writing() as writer:
        ts, at = open_store(path).ts(0, 300), slice(200, 201)
        bad = {name: open_store(path).read(name, (70, 71), (200, 201)) for name in open_store(path).info.fields}
        bad[field] = np.full((1, 1), -1e6)
        writer.correct(ts[at], ["S070"], bad)
    done = atc("backtest", path, "--threads", 1, "--out", tmp_path / "run", "--set", f'source="{source}"')
    assert done.exit_code == 4, done.stderr
    when = np.datetime_as_string(np.datetime64(int(ts[200]), "ns"), "s")
    assert f"S070 has the {source if source == 'close' else 'source'} -" in done.stderr
    assert f" at {when}" in done.stderr
    assert "after 1 attempt: DataError" in done.stderr
    run = open_run(tmp_path / "run")
    assert (run.state, run.done) == ("partial", {0, 2})
    assert "S070" in run.set_aside[0].symbols
    assert verify(run, sample=0.1).ok


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_chunk_sets_its_symbols_aside_until_it_is_brought_back(
    store: Path, tmp_path: Path, seed: int
) -> None:
    whole = backtest(store, tmp_path / "whole", [RUN], Options(save=("trades",)))
    path, rng = tmp_path / "prices.zarr", np.random.default_rng(seed)
    shutil.copytree(store, path)
    (chunk,) = path.glob("tail/prices/c/0/1/0.v*")
    sound = chunk.read_bytes()
    at = int(rng.integers(len(sound)))
    chunk.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << int(rng.integers(8))]) + sound[at + 1 :])
    command = ("backtest", path, "--out", tmp_path / "run", "--save", "trades", "--threads", int(rng.integers(1, 3)))
    done = atc(*command, "--retries", 0)
    assert done.exit_code == 4, done.stderr
    assert "partition 1 (64 symbols: S064, S065, S066, S067, S068, ...; set 0)" in done.stderr
    assert chunk.relative_to(path).as_posix() in done.stderr
    assert open_run(tmp_path / "run").done == {0, 2}
    chunk.write_bytes(sound)
    assert atc(*command, "--resume").exit_code == 0
    run = open_run(tmp_path / "run")
    assert (run.state, run.content_hash()) == ("complete", whole.content_hash())
    assert verify(run).ok


@pytest.mark.slow
@pytest.mark.parametrize("everybody", [False, True], ids=["client", "group"])
def test_ctrl_c_on_a_local_cluster_leaves_no_process_and_is_resumed(tmp_path: Path, everybody: bool) -> None:
    path = tmp_path / "long.zarr"
    fill_store(path, np.stack([tick_walk(3_000, seed) for seed in range(130)]), fields=("close",))
    whole = backtest(path, tmp_path / "whole", [RUN])
    command = [sys.executable, "-m", "atc_backtest", "backtest", str(path), "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        [*command, "--workers", "2", "--kernel", "reference"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    while len(family := psutil.Process(process.pid).children(recursive=True)) < 3 or not list(
        (tmp_path / "run" / "metrics").glob(".*.tmp")
    ):
        time.sleep(0.05)
        assert process.poll() is None
    if everybody:  # as a terminal does it
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "--resume" in said
    assert "Traceback" not in said
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []
    run = backtest(path, tmp_path / "run", [RUN], Options(resume=True))
    assert (run.state, run.content_hash()) == ("complete", whole.content_hash())
    assert verify(run, sample=0.1).ok


DIES = """
import os, signal, sys
from atc_backtest.pipelines import costs, parts
costs.SHORTEST_NS = costs.PART_BYTES = 1.0
kept, left = parts.write_record, [int(sys.argv.pop(1))]

def dying(run, index, records):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    kept(run, index, records)

parts.write_record = dying
from atc_backtest.cli import main
main()
"""


@pytest.mark.slow
def test_killed_between_parts_and_record_again_and_again(store: Path, tmp_path: Path) -> None:
    whole = backtest(store, tmp_path / "whole", [RUN], Options(save=("trades",)))
    out = tmp_path / "run"
    command = [sys.executable, "-c", DIES]
    rest = ["backtest", str(store), "--out", str(out), "--save", "trades", "--threads", "1"]
    for done, commits in enumerate((0, 1, 1)):
        again = ["--resume"] if done else []
        died = subprocess.run(
            [*command, str(commits), *rest, *again], check=False, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
        assert died.returncode == -signal.SIGKILL
        run = open_run(out)
        assert len(run.done) == done < len(list((out / "trades").glob("part-*.parquet")))
    run = backtest(store, out, [RUN], Options(resume=True, save=("trades",)))
    assert (run.state, run.content_hash()) == ("complete", whole.content_hash())
    assert verify(run).ok


def test_two_attempts_at_one_partition_commit_one_of_them(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that outlived its client, and the one that took its place: cut into other blocks, so of other bytes."""
    out = tmp_path / "run"
    options = Options(save=("signals",), threads=1)
    backtest(store, out, [RUN], options)
    shutil.rmtree(out / "commits")
    job = job_of(open_run(out), "numba")
    kept, came = parts.write_record, []

    def late(*args: Any) -> None:
        came.append(args)
        time.sleep(0.5 if len(came) % 2 else 0)  # whoever comes first is overtaken, were it not for their turns
        kept(*args)

    monkeypatch.setattr(parts, "write_record", late)
    for partition in job.plan.partitions:
        jobs = [replace(job, plan=replace(job.plan, block_bars=bars)) for bars in (64, 300)]
        threads = [threading.Thread(target=run_partition, args=(one, partition, lambda bars: None)) for one in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    run = open_run(out)
    assert run.state == "complete"
    assert verify(run).ok
    assert not [path for path in out.rglob(".*") if path.is_file()]
