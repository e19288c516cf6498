"""Stores behind URLs: memory://, and s3:// against moto's server on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from filling import FIELDS, HOUR, blocks, fill_store, hours
from prices import tick_walk
from typer.testing import CliRunner

from atc_backtest.cli import app
from atc_backtest.config import RunConfig
from atc_backtest.errors import StoreError, UnavailableError
from atc_backtest.pipelines.backtest import Options, backtest
from atc_backtest.stores import upkeep
from atc_backtest.stores.copying import copy_store
from atc_backtest.stores.folder import open_folder
from atc_backtest.stores.memmap_store import heat
from atc_backtest.stores.opening import absolute, open_store, stem
from atc_backtest.stores.verification import verify
from atc_backtest.stores.zarr_store import create_store, new_store, open_group


@pytest.fixture(params=["memory", "s3"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A prefix of its own in either kind."""
    if request.param == "memory":
        return f"memory:/{tmp_path}"
    return f"{request.getfixturevalue('bucket')}/{tmp_path.name}"


def test_a_whole_store_is_written_and_read(base: str) -> None:
    place, wanted = f"{base}/prices.zarr", blocks(70, 200)
    about = {"bar_ns": HOUR, "calendar": "24/7", "fields": FIELDS, "symbols": [f"S{i}" for i in range(70)]}
    with pytest.raises(KeyboardInterrupt), new_store(place, **about, ts=hours(0, 200)) as writer:  # type: ignore[arg-type]  # noqa: PT012
        writer.write("close", (0, 64), (0, 200), wanted["close"][:64])
        raise KeyboardInterrupt
    with pytest.raises(StoreError, match="is not a store"):
        open_store(place)
    with new_store(place, **about, ts=hours(0, 200)) as writer:  # type: ignore[arg-type]
        for rows in ((0, 64), (64, 70)):
            for name in FIELDS:
                writer.write(name, rows, (0, 200), wanted[name][slice(*rows)])
    store = open_store(place)
    assert store.info.path == place
    for name in FIELDS:
        assert store.read(name, (0, 70), (0, 200)).tobytes() == wanted[name].tobytes()
    assert np.array_equal(open_group(place)["ts"][:], hours(0, 200))
    assert verify(place).damage == ()
    assert upkeep.repair(place).removed == ()
    with pytest.raises(StoreError, match="already holds a store"), new_store(place, **about, ts=hours(0, 1)):  # type: ignore[arg-type]
        pass


def test_copies_go_there_and_back(base: str, tmp_path: Path) -> None:
    fill_store(tmp_path / "a.zarr", np.stack([tick_walk(300, seed) for seed in range(3)]))
    copy_store(tmp_path / "a.zarr", f"{base}/copy.zarr")
    copy_store(f"{base}/copy.zarr", tmp_path / "b.zarr")
    first, there, back = (open_store(one) for one in (tmp_path / "a.zarr", f"{base}/copy.zarr", tmp_path / "b.zarr"))
    assert len({one.info.id for one in (first, there, back)}) == 3
    assert first.info.version == there.info.version == back.info.version
    for store in (there, back):
        assert store.info.symbols == first.info.symbols
        assert store.read("close", (0, 3), (0, 300)).tobytes() == first.read("close", (0, 3), (0, 300)).tobytes()
        assert verify(store.info.path).damage == ()
    with pytest.raises(StoreError, match="already holds a store"):
        copy_store(tmp_path / "a.zarr", f"{base}/copy.zarr")
    back.append(first.ts(299, 300) + HOUR, ["S000"], {name: np.ones((1, 1)) for name in first.info.fields})
    assert open_store(tmp_path / "b.zarr").info.n_bars == 301


def test_damage_behind_a_url_stops_a_copy(base: str, tmp_path: Path) -> None:
    fill_store(tmp_path / "a.zarr", tick_walk(50, 1)[None])
    copy_store(tmp_path / "a.zarr", f"{base}/bad.zarr")
    folder = open_folder(f"{base}/bad.zarr")
    name = next(name for name, _ in folder.sizes("ts"))
    folder.put(name, folder.read(name)[:-1] + b"?")
    with pytest.raises(StoreError, match=rf"damaged: {name} .*Nothing was copied"):
        copy_store(f"{base}/bad.zarr", tmp_path / "b.zarr")
    assert [one.name for one in tmp_path.iterdir()] == ["a.zarr"]
    assert [one.name for one in verify(f"{base}/bad.zarr").damage] == [name]


def test_a_backtest_and_the_commands_take_urls(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fill_store(tmp_path / "a.zarr", np.stack([tick_walk(300, seed) for seed in range(3)]))
    url = f"{base}/prices.zarr"
    here = backtest(tmp_path / "a.zarr", tmp_path / "here", [RunConfig()], Options(threads=1)).table()

    def atc(*args: object) -> str:
        result = CliRunner().invoke(app, [str(arg) for arg in args])
        assert result.exit_code == 0, result.stderr
        return result.stdout

    assert f"next  atc-backtest backtest {url}" in atc("store", "copy", "a.zarr", url)
    assert "3 symbols, 900 bars" in atc("backtest", url, "--threads", 1)
    assert backtest(url, tmp_path / "there", [RunConfig()], Options(threads=1)).table().equals(here)
    assert (tmp_path / "runs" / "prices").is_dir()
    assert json.loads(atc("store", "info", url, "--json"))["path"] == url
    assert "sound" in atc("store", "verify", url)
    assert "copy of" in atc("store", "history", url)
    hot = heat(open_store(url), tmp_path / "hot")
    assert hot.read("close", (0, 3), (0, 300)).tobytes() == open_store(url).read("close", (0, 3), (0, 300)).tobytes()


def test_what_cannot_be_reached_is_named(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="s3://prices/absent is not a store"):
        open_store(f"{bucket}/absent")
    with pytest.raises(StoreError, match="s3://nobodys/x"):
        create_store("s3://nobodys/x", bar_ns=HOUR, calendar="24/7", fields=("close",))
    with pytest.raises(StoreError, match=r"mars://x cannot be opened: .*mars"):
        open_store("mars://x")

    def absent(url: str, **options: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", absent)
    with pytest.raises(UnavailableError, match=r"pip install 'atc-backtest\[s3\]'"):
        open_store("s3://prices/x")


def test_a_writer_behind_a_url_keeps_others_out(base: str) -> None:
    store = create_store(f"{base}/s.zarr", bar_ns=HOUR, calendar="24/7", fields=("close",))
    with store.writing() as writer:
        writer.append(hours(0, 3), ["A"], {"close": np.ones((1, 3))})
        with pytest.raises(StoreError, match="is being written by process"):
            open_store(f"{base}/s.zarr").append(hours(0, 3), ["A"], {"close": np.ones((1, 3))})
    assert open_store(f"{base}/s.zarr").info.n_bars == 3


def test_memmap_stores_lie_on_a_disk(tmp_path: Path) -> None:
    fill_store(tmp_path / "a.zarr", tick_walk(50, 1)[None])
    with pytest.raises(StoreError, match="lies on a disk: give a folder"):
        heat(open_store(tmp_path / "a.zarr"), "memory://hot")


def test_places_and_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("a.zarr") == str(tmp_path / "a.zarr")
    assert absolute("s3://b/a.zarr") == "s3://b/a.zarr"
    assert [stem(one) for one in ("x/a.zarr", "s3://b/c/a.zarr/", "a")] == ["a", "a", "a"]
