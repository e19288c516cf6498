"""Schedulers and workers of Dask as people start them, each in a process and a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import distributed

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 60


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


@contextmanager
def dask_process(
    folder: Path, *args: object, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """`dask ...` in a working folder of its own until the block ends; its output in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "said").open("ab") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", *map(str, args)],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"} | dict(env or {}),
            stdout=said,
            stderr=said,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


@contextmanager
def scheduler(folder: Path) -> Iterator[str]:
    """The address of a scheduler."""
    told = folder / "scheduler.json"
    with dask_process(
        folder, "scheduler", "--host", "127.0.0.1", "--port", 0, "--no-dashboard", "--scheduler-file", told
    ):
        wait_until(told.is_file)
        with distributed.Client(scheduler_file=str(told), set_as_default=False) as client:
            address = str(client.scheduler.address)
        yield address


@contextmanager
def worker(address: str, folder: Path, *args: object, env: Mapping[str, str] | None = None) -> Iterator[None]:
    """One more worker of `address`, once the scheduler knows it."""
    with distributed.Client(address, set_as_default=False) as client:
        before = len(client.nthreads())
        command = ("worker", address, "--nthreads", 1, "--no-dashboard", "--death-timeout", PATIENCE_S, *args)
        with dask_process(folder, *command, env=env):
            wait_until(lambda: len(client.nthreads()) > before)
            yield
        wait_until(lambda: len(client.nthreads()) <= before)
