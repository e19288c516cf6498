"""kill -9 at every operation on disk and at random moments: what is there is a committed version, whole."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from filling import FIELDS, HOUR, blocks, cut, hours
from killing import COMMANDS, FAILED, NAMES

from atc_backtest.errors import StoreError
from atc_backtest.stores import upkeep
from atc_backtest.stores.folder import open_folder
from atc_backtest.stores.manifest import kept_versions, read_manifest, version_name
from atc_backtest.stores.opening import open_store
from atc_backtest.stores.verification import verify
from atc_backtest.stores.zarr_store import create_store

ROOT = Path(__file__).resolve().parent.parent
Content = tuple[object, ...]


class Victims:
    """Processes that run a command on a store and may be killed."""

    def __init__(self) -> None:
        program = [sys.executable, str(ROOT / "tests" / "killing.py")]
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        self._server = subprocess.Popen(
            program,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PYTHONPATH": paths, "NUMBA_NUM_THREADS": "1"},
        )

    def run(
        self,
        command: str,
        path: Path,
        kill_at: int | None = None,
        kill_after: float | None = None,
        file_limit: int | None = None,
    ) -> int:
        """Exit status of the victim: -9 when it was killed."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        asked = {"command": command, "path": str(path), "kill_at": kill_at, "kill_after": kill_after}
        self._server.stdin.write(json.dumps(asked | {"file_limit": file_limit}) + "\n")
        self._server.stdin.flush()
        line = self._server.stdout.readline()
        assert line, "the process that forks the victims is gone"
        return int(line)

    def end(self) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()


@pytest.fixture(scope="module")
def victims() -> Iterator[Victims]:
    found = Victims()
    yield found
    found.end()


def base(path: Path, n_bars: int = 40) -> None:
    """Three versions of three symbols; for compaction the tail is long."""
    wanted = blocks(3, n_bars, seed=1)
    store = create_store(path, bar_ns=HOUR, calendar="24/7", fields=FIELDS)
    half = n_bars // 2
    store.append(hours(0, half), NAMES, cut(wanted, slice(3), slice(half)))
    store.append(hours(half, n_bars - half), NAMES, cut(wanted, slice(3), slice(half, n_bars)))


def content(path: Path) -> Content:
    """Everything that the newest version says; nothing where there is no store."""
    try:
        store = open_store(path)
    except StoreError:
        assert not path.exists()
        return ()
    info = store.info
    whole = (0, len(info.symbols)), (0, info.n_bars)
    return (info.symbols, store.ts(*whole[1]).tobytes(), *(store.read(name, *whole).tobytes() for name in info.fields))


def leftovers(path: Path) -> set[str]:
    """Files beside what the kept versions consist of, in the store and beside it."""
    folder = open_folder(path)
    current = read_manifest(folder)
    named = {"manifest.json"}
    for version in kept_versions(folder, current):
        name = version_name(version)
        named |= {name} | (read_manifest(folder, name) if folder.has(name) else current).names()
    beside = {one.name for one in path.parent.iterdir() if one.name.startswith(f".{path.name}.")}
    return ({name for name, _ in folder.sizes()} - named) | beside


def check_survivor(victims: Victims, command: str, path: Path, before: Content, after: Content) -> bool:
    """What a killed command left; whether it had committed."""
    found = content(path)
    assert found in (before, after)
    if found:
        assert verify(path).damage == ()
    if found == before != after or (command == "compact" and len(upkeep.history(path)) == 3):
        assert victims.run(command, path) == 0
    assert content(path) == after
    assert verify(path).damage == ()
    upkeep.repair(path)
    assert leftovers(path) == set()
    assert upkeep.repair(path).removed == ()
    assert content(path) == after
    return found == after


LONG = 16_384 + 50
"""Bars of a store that can be compacted."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For every command the folder that it starts from."""
    folder = tmp_path_factory.mktemp("bases")
    base(folder / "short" / "prices.zarr")
    base(folder / "long" / "prices.zarr", LONG)
    base(folder / "cold" / "source.zarr")
    (folder / "none").mkdir()
    starts = dict.fromkeys(COMMANDS, folder / "short") | {"build": folder / "none", "compact": folder / "long"}
    return starts | {"hot": folder / "cold"}


def scene(prepared: dict[str, Path], command: str, folder: Path) -> Path:
    shutil.copytree(prepared[command], folder)
    return folder / "prices.zarr"


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_killed_at_every_operation_on_disk(
    command: str, victims: Victims, prepared: dict[str, Path], tmp_path: Path
) -> None:
    done = scene(prepared, command, tmp_path / "done")
    before = content(done)
    assert victims.run(command, done) == 0
    after = content(done)
    assert (after == before) is (command == "compact")
    committed = []
    step = 3 if command == "compact" else 1
    for kill_at in range(1, 1000, step):
        path = scene(prepared, command, tmp_path / str(kill_at))
        status = victims.run(command, path, kill_at)
        if status == 0:
            break
        assert status == -signal.SIGKILL
        committed.append(check_survivor(victims, command, path, before, after))
        shutil.rmtree(path.parent)
    assert len(committed) >= 12
    assert committed == sorted(committed), "committed by one step, and not undone by a later one"
    assert committed[-1]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["append", "compact", "rollback", "correct", "overwrite"])
def test_killed_at_random_moments(command: str, victims: Victims, prepared: dict[str, Path], tmp_path: Path) -> None:
    done = scene(prepared, command, tmp_path / "done")
    before = content(done)
    began = time.perf_counter()
    assert victims.run(command, done) == 0
    took = time.perf_counter() - began
    after = content(done)
    rng = np.random.default_rng(0)
    for turn in range(12):
        path = scene(prepared, command, tmp_path / str(turn))
        assert victims.run(command, path, kill_after=rng.uniform(0, 1.2 * took)) in (0, -signal.SIGKILL)
        check_survivor(victims, command, path, before, after)
        shutil.rmtree(path.parent)


@pytest.mark.parametrize("command", ["append", "correct", "overwrite", "build", "hot"])
def test_a_real_limit_on_file_sizes(command: str, victims: Victims, prepared: dict[str, Path], tmp_path: Path) -> None:
    path = scene(prepared, command, tmp_path / "s")
    before = content(path)
    assert victims.run(command, path, file_limit=700) == FAILED
    assert content(path) == before
    if before:
        assert leftovers(path) == set()
        assert verify(path).damage == ()
    assert [one.name for one in path.parent.iterdir() if one.name.startswith(".")] == []
    assert victims.run(command, path) == 0
