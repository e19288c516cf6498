"""Disks that are full or read-only, damage of single bytes, readers during commits, locks of all kinds."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filling import FIELDS, HOUR, blocks, cut, hours
from killing import COMMANDS, Disrupted

from atc_backtest.errors import StoreError
from atc_backtest.stores import disk, lock, upkeep
from atc_backtest.stores.folder import open_folder
from atc_backtest.stores.lock import this_process
from atc_backtest.stores.manifest import read_manifest
from atc_backtest.stores.memmap_store import heat
from atc_backtest.stores.opening import open_store
from atc_backtest.stores.verification import Verification, verify
from atc_backtest.stores.zarr_store import create_store

NAMES = ["A", "B", "C"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Three symbols x 40 bars in two appends."""
    path = tmp_path / "prices.zarr"
    wanted = blocks(3, 40, seed=1)
    store = create_store(path, bar_ns=HOUR, calendar="24/7", fields=FIELDS)
    for start in (0, 20):
        store.append(hours(start, 20), NAMES, cut(wanted, slice(3), slice(start, start + 20)))
    return path


def state(path: Path) -> dict[str, bytes]:
    """Every file of a store."""
    return {one.relative_to(path).as_posix(): one.read_bytes() for one in sorted(path.rglob("*")) if one.is_file()}


def failing(code: int, kinds: tuple[str, ...]) -> Callable[[str, tuple[Any, ...]], None]:
    def fail(name: str, args: tuple[Any, ...]) -> None:
        if name in kinds:
            if name == "pwrite":
                os.pwrite(args[0], args[1][: len(args[1]) // 2], args[2])
            raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("command", ["append", "correct", "insert", "rollback", "overwrite"])
def test_a_full_disk_is_said_and_leaves_the_version_that_was(
    command: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(path)
    failed = 0
    for at in range(1, 400):
        shutil.rmtree(tmp_path / "s", ignore_errors=True)
        shutil.copytree(path, tmp_path / "s")
        disrupted = Disrupted(at, failing(errno.ENOSPC, ("pwrite", "fsync", "open", "mkdir", "ftruncate")))
        monkeypatch.setattr(disk, "os", disrupted)
        monkeypatch.setattr(lock, "os", disrupted)
        said = ""
        try:
            COMMANDS[command](tmp_path / "s")
        except StoreError as error:
            said = str(error)
        monkeypatch.undo()
        if disrupted.left > 0:
            break
        if not said:
            continue
        failed += 1
        assert re.search("cannot write .*No space left on device.*What was committed before is unchanged", said), said
        after = state(tmp_path / "s")
        if after["manifest.json"] == before["manifest.json"]:
            versions = {name for name in after.keys() - before.keys() if name.startswith("versions/")}
            assert after == before or versions, after.keys() ^ before.keys()
        assert verify(tmp_path / "s").damage == ()
        upkeep.repair(tmp_path / "s")
        assert upkeep.repair(tmp_path / "s").removed == ()
    assert failed > 8


def test_a_folder_that_cannot_be_written_to_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state(path)
    monkeypatch.setattr(lock, "os", Disrupted(1, failing(errno.EROFS, ("open",))))
    with pytest.raises(StoreError, match=r"cannot write .*prices\.zarr: .*Read-only file system"):
        COMMANDS["append"](path)
    assert state(path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into any folder")
def test_a_read_only_folder_is_said(path: Path) -> None:
    path.chmod(0o500)
    with pytest.raises(StoreError, match=r"cannot write .*prices\.zarr: .*Permission denied"):
        COMMANDS["append"](path)
    path.chmod(0o700)


def flips(path: Path, offsets: int, seed: int) -> list[tuple[Path, int]]:
    rng = np.random.default_rng(seed)
    found = []
    for file in sorted(one for one in path.rglob("*") if one.is_file()):
        size = file.stat().st_size
        chosen = {0, size - 1, *rng.integers(0, size, offsets).tolist()}
        found += [(file, offset) for offset in sorted(chosen)]
    return found


def flip(file: Path, offset: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 1 << offset % 8
    file.write_bytes(data)


@pytest.mark.parametrize("kind", ["zarr", "memmap"])
def test_a_flipped_byte_anywhere_is_found_and_named(kind: str, path: Path, tmp_path: Path) -> None:
    wanted = {name: open_store(path).read(name, (0, 3), (0, 40)) for name in FIELDS}
    if kind == "memmap":
        path = Path(heat(open_store(path), tmp_path / "hot").info.path)
    assert verify(path).damage == ()
    for file, offset in flips(path, 4, seed=2):
        name = file.relative_to(path).as_posix()
        flip(file, offset)
        found = verify(path)
        assert name in {one.name for one in found.damage}, (name, offset)
        check_rest(path, name, found, wanted)
        flip(file, offset)
    assert verify(path).damage == ()


def check_rest(path: Path, name: str, found: Verification, wanted: dict[str, np.ndarray]) -> None:
    if name == "manifest.json":
        with pytest.raises(StoreError, match=r"damaged: manifest\.json|is not a store"):
            open_store(path)
        return
    store = open_store(path)
    lost = {field for one in found.damage if store.info.version in one.versions for field in one.fields}
    for field in set(FIELDS) - lost:
        assert store.read(field, (0, 3), (0, 40)).tobytes() == wanted[field].tobytes()
    current = name in read_manifest(open_folder(path)).names()
    if current and store.info.kind == "zarr" and "zarr.json" not in name and lost - {"ts"}:
        one = next(one for one in found.damage if one.name == name)
        assert one.symbols == ("A", "B", "C")
        assert one.first_ns == hours(0, 1)[0]
        assert one.last_ns == hours(39, 1)[0]
        assert lost
        for field in lost:
            with pytest.raises(StoreError, match=rf"damaged: .*{name}.*of A, B, C, .* to "):
                store.read(field, (0, 3), (0, 40))


def test_damage_costs_only_its_own_symbols_and_times(tmp_path: Path) -> None:
    path = tmp_path / "wide.zarr"
    store = create_store(path, bar_ns=HOUR, calendar="24/7", fields=("close", "volume"))
    names = [f"S{i}" for i in range(130)]
    wanted = cut(blocks(130, 9000), slice(130), slice(9000))
    store.append(hours(0, 9000), names, {name: wanted[name] for name in ("close", "volume")})
    (file,) = path.glob("tail/close/c/1/1.v*")
    flip(file, file.stat().st_size // 2)
    (one,) = verify(path).damage
    assert one.symbols == tuple(names[64:128])
    assert (one.first_ns, one.last_ns) == (hours(4096, 1)[0], hours(8191, 1)[0])
    assert one.fields == ("close",)
    store = open_store(path)
    with pytest.raises(
        StoreError,
        match=r"close of S64, .* and 56 more, 2016-02-06T08:00:00 to 2016-07-25T23:00:00\. The rest can be read",
    ):
        store.read("close", (0, 130), (0, 9000))
    assert store.read("close", (0, 64), (0, 9000)).tobytes() == wanted["close"][:64].tobytes()
    assert store.read("close", (64, 130), (0, 4096)).tobytes() == wanted["close"][64:, :4096].tobytes()
    assert store.read("volume", (0, 130), (0, 9000)).tobytes() == wanted["volume"].tobytes()


def test_a_damaged_manifest_is_brought_back(path: Path) -> None:
    flip(path / "manifest.json", 100)
    found = verify(path)
    assert found.version is None
    assert found.damage[0].name == "manifest.json"
    assert upkeep.repair(path).restored == ("manifest.json",)
    assert open_store(path).info.version == 2
    flip(path / "versions" / "000002.json", 100)
    assert upkeep.repair(path).restored == ("versions/000002.json",)
    flip(path / "versions" / "000001.json", 100)
    assert upkeep.repair(path).removed == ()
    assert [one.name for one in verify(path).damage] == ["versions/000001.json"]


def test_what_is_written_and_taken_back_leaves_nothing(path: Path) -> None:
    with open_store(path).writing() as writer:
        writer.append(hours(40, 5000), ["A"], blocks(1, 5000))
        writer.correct(hours(40, 5000), ["A"], {name: np.full((1, 5000), np.nan) for name in FIELDS})
    assert open_store(path).info.symbols[0].last_ns == hours(39, 1)[0]
    assert list(path.glob("tail/volume/c/0/1.v*")) == []
    assert verify(path).damage == ()
    assert upkeep.repair(path).removed == ()


def test_a_missing_object_is_damage_and_no_price(path: Path) -> None:
    (file,) = path.glob("tail/volume/c/0/0.v2")
    file.unlink()
    with pytest.raises(StoreError, match="volume of A, B, C"):
        open_store(path).read("volume", (0, 3), (0, 40))
    assert [one.name for one in verify(path).damage] == ["tail/volume/c/0/0.v2"]
    with pytest.raises(StoreError, match=r"version 2 of .* is not whole any more"):
        upkeep.rollback(path, 2)
    upkeep.rollback(path, 1)
    assert open_store(path).info.n_bars == 20


def test_a_reader_sees_its_version_while_others_are_committed(path: Path) -> None:
    reader = open_store(path)
    before = {name: reader.read(name, (0, 3), (0, 40)).tobytes() for name in FIELDS}
    ts = reader.ts(0, 40).tobytes()
    stop = False

    def read() -> int:
        turns = 0
        while not stop or not turns:
            for name in FIELDS:
                assert reader.read(name, (0, 3), (0, 40)).tobytes() == before[name]
            assert reader.ts(0, 40).tobytes() == ts
            turns += 1
        return turns

    with ThreadPoolExecutor(1) as pool:
        turns = pool.submit(read)
        for turn in range(20):
            store = open_store(path)
            with store.writing() as writer:
                writer.correct(hours(0, 40), NAMES, blocks(3, 40, seed=turn))
                writer.append(hours(40 + turn, 1), NAMES, blocks(3, 1, seed=turn))
        stop = True
        assert turns.result() > 0
    assert open_store(path).info.version == 22
    assert open_store(path, 2).read("close", (0, 3), (0, 40)).tobytes() == before["close"]


def test_the_lock_of_a_dead_process_is_taken_over_with_a_word(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dead = replace(this_process("append"), pid=2**22 - 1, started=7)
    (path / "writer.lock").write_text(json.dumps(asdict(dead)))
    COMMANDS["append"](path)
    assert f"the lock of a writer that died was taken over (process {dead.pid} on {dead.host}" in caplog.text
    assert not (path / "writer.lock").exists()
    again = replace(this_process("append"), started=7)  # our number, another process
    (path / "writer.lock").write_text(json.dumps(asdict(again)))
    COMMANDS["append"](path)
    (path / "writer.lock").write_text('{"host": "x')
    COMMANDS["append"](path)


def test_the_lock_of_another_host_stays_until_it_is_broken(path: Path) -> None:
    other = replace(this_process("atc-backtest append"), host="elsewhere", pid=77)
    (path / "writer.lock").write_text(json.dumps(asdict(other)))
    with pytest.raises(StoreError, match=r"process 77 on elsewhere, 'atc-backtest append', since .*--break-lock"):
        COMMANDS["append"](path)
    with pytest.raises(StoreError, match="--break-lock"):
        upkeep.repair(path)
    assert str(upkeep.repair(path, break_another_lock=True).broken_lock).startswith("process 77 on elsewhere")
    COMMANDS["append"](path)


def test_a_living_writer_keeps_its_lock(path: Path) -> None:
    with open_store(path).writing() as writer:
        writer.append(hours(40, 1), NAMES, blocks(3, 1))
        for attempt in (upkeep.repair, upkeep.compact, lambda p: upkeep.rollback(p, 1), COMMANDS["overwrite"]):
            with pytest.raises(
                StoreError, match=f"is being written by process {os.getpid()} on {socket.gethostname()}"
            ):
                attempt(path)
        with pytest.raises(StoreError, match="which lives: end that process first"):
            upkeep.repair(path, break_another_lock=True)
    assert open_store(path).info.n_bars == 41


def test_a_writer_whose_lock_was_taken_away_harms_nobody(path: Path) -> None:
    refused = r"0/0/0\.v3 is in the way, .*store repair"
    with pytest.raises(StoreError, match=refused), open_store(path).writing() as writer:  # noqa: PT012
        (path / "writer.lock").unlink()
        open_store(path).append(hours(50, 1), NAMES, blocks(3, 1))
        writer.append(hours(40, 1), NAMES, blocks(3, 1))
    assert verify(path).damage == ()
    assert open_store(path).ts(40, 41)[0] == hours(50, 1)[0]


def test_a_writer_that_is_overtaken_commits_nothing(path: Path) -> None:
    first, other = open_store(path).writing(), path.with_name("other.zarr")
    writer = first.__enter__()
    shutil.copytree(path, other)
    (other / "writer.lock").unlink()
    open_store(other).append(hours(50, 1), NAMES, blocks(3, 1))
    writer.append(hours(40, 1), NAMES, blocks(3, 1))
    shutil.copy(other / "manifest.json", path / "manifest.json")
    with pytest.raises(StoreError, match="is at version 3, this writer began at 2: open it again"):
        first.__exit__(None, None, None)


def test_repair_leaves_alone_what_is_not_the_stores(path: Path) -> None:
    (path / "notes.txt").write_text("mine")
    (path / "tail" / "close").mkdir(parents=True, exist_ok=True)
    (path / "tail" / "volume" / "c" / "0" / "9.v3").write_bytes(b"never committed")
    (path / "versions" / "000003.json").write_bytes(b"never committed")
    (path / "manifest.json.tmp").write_bytes(b"never committed")
    done = upkeep.repair(path)
    assert done.removed == ("manifest.json.tmp", "tail/volume/c/0/9.v3", "versions/000003.json")
    assert done.unknown == ("notes.txt",)
    assert (path / "notes.txt").read_text() == "mine"
    assert verify(path).damage == ()


def test_a_store_made_anew_is_another_store(path: Path) -> None:
    first = open_store(path).info
    COMMANDS["overwrite"](path)
    assert (open_store(path).info.id, open_store(path).info.version) == (first.id, first.version + 1)
    shutil.rmtree(path)
    COMMANDS["build"](path)
    assert open_store(path).info.id != first.id


def test_a_store_of_the_first_format_is_refused_and_can_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "prices.zarr"
    (path / "close" / "c" / "0").mkdir(parents=True)
    (path / "close" / "zarr.json").write_text("{}")
    (path / "close" / "c" / "0" / "0").write_bytes(b"x")
    (path / "zarr.json").write_text("{}")
    old = {"format": "atc-backtest store", "format_version": 1, "version": 4}
    (path / "manifest.json").write_text(json.dumps(old))
    with pytest.raises(StoreError, match="store format 1, this program reads 2: ingest it again"):
        open_store(path)
    COMMANDS["overwrite"](path)
    assert open_store(path).info.version == 5
    assert set(upkeep.repair(path).removed) == {"close/zarr.json", "close/c/0/0", "zarr.json"}
    assert verify(path).damage == ()
