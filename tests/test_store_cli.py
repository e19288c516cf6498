"""`atc-backtest store ...` as people and scripts use it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from filling import FIELDS, HOUR, blocks, cut, hours
from typer.testing import CliRunner, Result

from atc_backtest.cli import app
from atc_backtest.stores.opening import open_store
from atc_backtest.stores.zarr_store import create_store

NAMES = ["A", "B"]


def atc(*args: object) -> Result:
    return CliRunner().invoke(app, ["store", *(str(arg) for arg in args)])


def parsed(*args: object) -> dict[str, object]:
    result = atc(*args, "--json")
    assert result.exit_code in (0, 3), result.stderr
    found: dict[str, object] = json.loads(result.stdout)
    return found


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two symbols x 40 bars in two appends."""
    path = tmp_path / "prices.zarr"
    wanted = blocks(2, 40)
    made = create_store(path, bar_ns=HOUR, calendar="24/7", fields=FIELDS)
    for start in (0, 20):
        made.append(hours(start, 20), NAMES, cut(wanted, slice(2), slice(start, start + 20)))
    return path


def test_info_of_now_and_then(store: Path) -> None:
    text = atc("info", store).stdout
    assert "version 2, bars of 1h, calendar 24/7" in text
    assert "2 symbols x 40 bars" in text
    assert "40 bars in the tail" in text
    assert parsed("info", store, "--version", 1)["n_bars"] == 20
    refused = atc("info", store, "--version", 7)
    assert refused.exit_code == 3
    assert "has no version 7: it keeps 0, 1, 2" in refused.stderr


def test_history_rollback_and_compact(store: Path) -> None:
    assert "version 3 is what version 1 was: 2 symbols x 20 bars" in atc("rollback", store, 1).stdout
    lines = atc("history", store).stdout.splitlines()
    assert lines[0].split()[:2] == ["version", "committed"]
    assert "rollback to version 1" in lines[-1]
    assert lines[-1].endswith("current")
    done = parsed("compact", store, "--keep", 1)
    assert done["dropped"] == [0, 1, 2]
    states = json.loads(atc("history", store, "--json").stdout)
    assert [(one["version"], one["kept"]) for one in states] == [(0, False), (1, False), (2, False), (3, True)]
    assert "dropped" in atc("history", store).stdout
    refused = atc("rollback", store, 2)
    assert refused.exit_code == 3
    assert "has no version 2: it keeps 3" in refused.stderr
    assert atc("compact", store, "--keep", 0).exit_code == 3
    assert "0 bars moved" in atc("compact", store).stdout


def test_verify_exits_with_3_on_damage_and_says_the_way_out(store: Path) -> None:
    assert atc("verify", store).stdout.startswith(f"{store}: sound (")
    assert parsed("verify", store)["damage"] == []
    (chunk,) = store.glob("tail/volume/c/0/0.v2")
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"?")
    result = atc("verify", store)
    assert result.exit_code == 3
    assert "tail/volume/c/0/0.v2: its checksum is wrong" in result.stdout
    assert "volume of A, B" in result.stdout
    assert f"next  atc-backtest store rollback {store} 1" in result.stdout
    (one,) = parsed("verify", store)["damage"]  # type: ignore[misc]
    assert (one["symbols"], one["versions"]) == (NAMES, [2])  # type: ignore[index]
    assert atc("rollback", store, 1).exit_code == 0
    assert open_store(store).read("volume", (0, 2), (0, 20)).shape == (2, 20)


def test_repair(store: Path) -> None:
    assert atc("repair", store).stdout == "nothing to repair\n"
    (store / "ts" / "c" / "7.v9").write_bytes(b"never committed")
    (store / "notes.txt").write_text("mine")
    said = atc("repair", store).stdout
    assert "removed 1 never committed" in said
    assert "left alone: notes.txt" in said
    (store / "manifest.json").write_text("{}")
    assert atc("verify", store).exit_code == 3
    assert "restored manifest.json" in atc("repair", store).stdout
    assert open_store(store).info.version == 2


def test_hot_stores_are_stores(store: Path, tmp_path: Path) -> None:
    hot = tmp_path / "hot"
    assert "2 symbols x 40 bars, close (memmap, version 1)" in atc("hot", store, hot, "--fields", "close").stdout
    found, wanted = (open_store(one).read("close", (0, 2), (0, 40)) for one in (hot, store))
    assert np.array_equal(found, wanted, equal_nan=True)
    assert not found.flags.writeable
    assert "already holds a store" in atc("hot", store, hot).stderr
    assert parsed("hot", store, hot, "--overwrite")["fields"] == list(FIELDS)
    assert parsed("info", hot)["version"] == 2
    assert "is a zarr store: choose another path for a memmap one" in atc("hot", hot, store, "--overwrite").stderr
    assert atc("hot", store, tmp_path / "x", "--fields", "vwap").exit_code == 3
    result = CliRunner().invoke(app, ["backtest", str(hot), "--out", str(tmp_path / "run"), "--threads", "1"])
    assert result.exit_code == 0, result.stderr


def test_what_is_no_store(tmp_path: Path) -> None:
    for command in (["info"], ["history"], ["verify"], ["compact"], ["repair"], ["rollback", 1], ["hot", "x"]):
        result = atc(command[0], tmp_path / "absent", *command[1:])
        assert result.exit_code == 3, command
        assert "absent is not a store" in result.stderr, command
    assert list(tmp_path.iterdir()) == []
