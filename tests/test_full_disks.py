"""Runs on a disk that is full, for a while or for longer: what is said, with which exit code, and how they go on."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import atc
from filling import three_chunks

from atc_backtest.config import RunConfig
from atc_backtest.errors import StoreError
from atc_backtest.pipelines import cluster, commits, parts
from atc_backtest.pipelines.backtest import Options, backtest
from atc_backtest.pipelines.runs import open_run
from atc_backtest.pipelines.verify import verify

RUN = RunConfig()

pytestmark = pytest.mark.usefixtures("apart")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return three_chunks(tmp_path_factory.mktemp("full") / "prices.zarr")


def mounted(folder: Path, size: str) -> None:
    """A small file system at `folder`. Skips, and says why, where nobody may mount one."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here ({done.stderr.strip()}): needs root")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a megabyte."""
    mounted(tmp_path / "disk", "1m")
    yield tmp_path / "disk"
    subprocess.run(["umount", "--lazy", str(tmp_path / "disk")], check=True)


def fill_up(disk: Path, leave: int) -> Path:
    """A file that leaves so many bytes of the disk."""
    rest = disk / "rest"
    rest.write_bytes(bytes(shutil.disk_usage(disk).free - leave))
    return rest


@pytest.mark.parametrize("seed", range(4))
def test_a_disk_that_stays_full_ends_the_run_which_is_resumed_when_there_is_room(
    store: Path, tmp_path: Path, small_disk: Path, seed: int
) -> None:
    whole = backtest(store, tmp_path / "whole", [RUN], Options(save=("trades",)))
    rest = fill_up(small_disk, int(np.random.default_rng(seed).integers(16_384, 100_000)))
    command = ("backtest", store, "--out", small_disk / "run", "--save", "trades", "--threads", 1 + seed % 2)
    done = atc(*command, "--retries", 0)
    assert done.exit_code == 4, done.output
    assert "No space left on device" in done.stderr
    assert len(open_run(small_disk / "run").done) < 3
    rest.unlink()
    assert atc(*command, "--resume").exit_code == 0
    run = open_run(small_disk / "run")
    assert (run.state, run.content_hash()) == ("complete", whole.content_hash())
    assert verify(run).ok
    assert not list(run.path.rglob("*.tmp"))


def test_a_disk_that_is_full_for_a_while_is_waited_for(store: Path, tmp_path: Path, small_disk: Path) -> None:
    whole = backtest(store, tmp_path / "whole", [RUN], Options(save=("trades",)))
    rest = fill_up(small_disk, 40_000)
    timer = threading.Timer(1.0, rest.unlink)
    timer.start()
    done = atc("backtest", store, "--out", small_disk / "run", "--save", "trades", "--threads", 2, "--retries", 4)
    assert done.exit_code == 0, done.stderr
    timer.join()
    run = open_run(small_disk / "run")
    assert (run.state, run.content_hash()) == ("complete", whole.content_hash())
    assert verify(run).ok


def test_a_disk_without_room_for_a_run_is_refused(store: Path, small_disk: Path) -> None:
    rest = fill_up(small_disk, 4096)
    command = ("backtest", store, "--out", small_disk / "run")
    done = atc(*command)
    assert done.exit_code == 3
    assert "No space left on device. Check the folder and the free space.\n" in done.stderr
    rest.unlink()
    assert atc(*command).exit_code == 0


@pytest.mark.parametrize("refusals", [1, 1000], ids=["once", "for good"])
def test_a_run_ends_partial_also_where_what_failed_cannot_be_written_down(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusals: int
) -> None:
    """No room for the record of a commit, nor, once or for good, for that of what was set aside."""
    write_record, write_json, refused = parts.write_record, commits.write_json, []

    def full(run: Path, index: int, records: Any) -> None:
        if index:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_record(run, index, records)

    def small(path: Path, content: Any) -> None:
        if path.parent.name == commits.FAILED and len(refused) < refusals:
            refused.append(path)
            raise StoreError(f"cannot write {path}")
        write_json(path, content)

    monkeypatch.setattr(parts, "write_record", full)
    monkeypatch.setattr(commits, "write_json", small)
    command = ("backtest", store, "--out", tmp_path / "run", "--threads", 1, "--retries", 0)
    done = atc(*command)
    assert done.exit_code == 4, done.output
    assert "partial: 2 of 3 partitions are missing" in done.stderr
    run = open_run(tmp_path / "run")
    for_good = refusals > 1
    assert (run.state, len(run.set_aside)) == (("unfinished", 0) if for_good else ("partial", 2))
    assert ("partition 2 failed: OSError: [Errno 28] No space left" in done.stderr) == for_good
    assert ("2 that failed cannot be named in" in done.stderr) == for_good
    assert ("Tracebacks are in" in done.stderr) != for_good
    monkeypatch.setattr(parts, "write_record", write_record)
    assert atc(*command, "--resume").exit_code == 0
    assert open_run(tmp_path / "run").state == "complete"


def test_a_report_of_dask_that_does_not_fit_is_no_failure_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Report:
        def __init__(self, filename: str, mode: str) -> None:
            self.filename = Path(filename)

        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            self.filename.touch()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(logging.getLogger("atc_backtest"), "propagate", True)
    monkeypatch.setattr(cluster.import_dask()[1], "performance_report", Report)
    with caplog.at_level(logging.WARNING, "atc_backtest"), cluster._reporting(None, tmp_path / "report.html"):
        pass
    assert "Dask's report cannot be written to" in caplog.text
    assert list(tmp_path.iterdir()) == []
