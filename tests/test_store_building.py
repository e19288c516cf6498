"""Stores that are built whole, replaced, found in the way, or are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from filling import HOUR, hours
from prices import tick_walk

from atc_backtest.errors import DataError, StoreError
from atc_backtest.stores.zarr_store import create_store, new_store, open_store


def build(path: Path, fail: bool = False, overwrite: bool = False) -> None:
    close = tick_walk(30, 1)[None]
    with new_store(
        path, bar_ns=HOUR, calendar="XNYS", fields=("close",), symbols=["A"], ts=hours(0, 30), overwrite=overwrite
    ) as writer:
        writer.write("close", (0, 1), (0, 30), close)
        if fail:
            raise KeyboardInterrupt


def test_a_store_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "prices.zarr"
    with pytest.raises(KeyboardInterrupt):
        build(path, fail=True)
    assert list(tmp_path.iterdir()) == []
    build(path)
    with pytest.raises(KeyboardInterrupt):
        build(path, fail=True, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["prices.zarr"]
    info = open_store(path).info
    assert (info.n_bars, info.calendar, info.version) == (30, "XNYS", 1)
    assert info.symbols[0].n_bars == 30


def test_nothing_that_is_in_the_way_is_touched(tmp_path: Path) -> None:
    path = tmp_path / "prices.zarr"
    build(path)
    with pytest.raises(StoreError, match="already holds a store: choose another path, or replace it with --overwrite"):
        build(path)
    build(path, overwrite=True)
    assert open_store(path).info.version == 2
    other = tmp_path / "thesis"
    other.mkdir()
    with pytest.raises(StoreError, match="is not a store: choose another path; nothing was touched"):
        build(other, overwrite=True)
    with pytest.raises(DataError, match="a store holds close"):
        create_store(tmp_path / "x", bar_ns=HOUR, calendar="24/7", fields=("open",))


def test_what_is_no_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"absent is not a store .*atc-backtest ingest"):
        open_store(tmp_path / "absent")
    path = tmp_path / "s"
    build(path)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"format_version": 99}))
    with pytest.raises(StoreError, match="store format 99, this program reads 2"):
        open_store(path)
    (path / "manifest.json").write_text(json.dumps({k: v for k, v in manifest.items() if k != "chunk"}))
    with pytest.raises(StoreError, match=r"is damaged: manifest\.json: its checksum is missing"):
        open_store(path)
    (path / "manifest.json").write_text("{}")
    with pytest.raises(StoreError, match="of another kind"):
        open_store(path)
