"""What every store must do: the conformance suite, and what is particular to Zarr."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prices import tick_walk

from atc_backtest.errors import DataError, StoreError
from atc_backtest.stores.base import WritableStore
from atc_backtest.stores.zarr_store import create_store, new_store, open_store

HOUR = 3600 * 10**9
FIELDS = ("open", "high", "low", "close", "volume")


def blocks(n_symbols: int, n_bars: int, seed: int = 0) -> dict[str, np.ndarray]:
    close = np.stack([tick_walk(n_bars, seed + s) for s in range(n_symbols)])
    close[:, 3::7] = np.nan
    rng = np.random.default_rng(seed)
    found = {name: close * factor for name, factor in zip(FIELDS, (1.0, 1.1, 0.9, 1.0, 1.0), strict=True)}
    found["volume"] = np.where(np.isnan(close), np.nan, rng.integers(0, 10**6, close.shape) / 7)
    return found


def hours(start: int, n: int) -> np.ndarray:
    return (np.arange(start, start + n) + 400_000) * HOUR


class Conformance:
    """Subclass with a `store` fixture: an empty WritableStore of all fields and hourly bars."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> WritableStore:
        raise NotImplementedError

    def reopened(self, store: WritableStore) -> WritableStore:
        raise NotImplementedError

    def test_reads_back_every_bit_of_any_block(self, store: WritableStore) -> None:
        names, wanted = [f"S{i}" for i in range(70)], blocks(70, 500)
        store.append(hours(0, 500), names, wanted)
        for found in (store, self.reopened(store)):
            assert [s.name for s in found.info.symbols] == names
            assert found.info.n_bars == 500
            for field in FIELDS:
                for symbols, bars in (
                    ((0, 70), (0, 500)),
                    ((3, 4), (499, 500)),
                    ((60, 70), (17, 301)),
                    ((5, 5), (0, 9)),
                ):
                    block = found.read(field, symbols, bars)
                    assert block.flags.c_contiguous
                    assert block.dtype == np.float64
                    cut = wanted[field][slice(*symbols), slice(*bars)]
                    assert block.tobytes() == np.ascontiguousarray(cut).tobytes()
            assert np.array_equal(found.ts(100, 200), hours(100, 100))

    def test_symbols_know_their_present_bars(self, store: WritableStore) -> None:
        wanted = blocks(2, 40)
        for block in wanted.values():
            block[1, :10] = np.nan
            block[1, 30:] = np.nan
        store.append(hours(0, 40), ["A", "B"], wanted)
        present = np.flatnonzero(~np.isnan(wanted["close"][1]))
        info = store.info.symbols[1]
        assert (info.name, info.n_bars) == ("B", present.size)
        assert (info.first_ns, info.last_ns) == (hours(present[0], 1)[0], hours(present[-1], 1)[0])

    def test_appends_join_without_a_seam_and_take_new_symbols(self, store: WritableStore) -> None:
        whole = blocks(3, 900)
        for at, (start, stop, rows) in enumerate(((0, 100, [0, 1]), (100, 101, [1]), (101, 900, [2, 0]))):
            part = {name: np.ascontiguousarray(block[rows, start:stop]) for name, block in whole.items()}
            store.append(hours(start, stop - start), [f"S{row}" for row in rows], part)
            assert store.info.n_bars == stop
            assert store.info.version == at + 1
        expected = whole["close"].copy()
        expected[0, 100] = np.nan
        expected[1, 101:] = np.nan
        expected[2, :101] = np.nan
        assert np.array_equal(self.reopened(store).read("close", (0, 3), (0, 900)), expected, equal_nan=True)

    def test_an_open_reader_keeps_the_version_it_opened(self, store: WritableStore) -> None:
        store.append(hours(0, 50), ["A"], blocks(1, 50))
        reader = self.reopened(store)
        before = reader.read("close", (0, 1), (0, 50))
        store.append(hours(50, 50), ["A", "B"], blocks(2, 50, seed=9))
        assert reader.info.n_bars == 50
        assert len(reader.info.symbols) == 1
        assert reader.read("close", (0, 1), (0, 50)).tobytes() == before.tobytes()
        with pytest.raises(DataError, match=r"bars \[0, 51\) lie outside the store's \[0, 50\)"):
            reader.read("close", (0, 1), (0, 51))

    def test_many_threads_read_the_same(self, store: WritableStore) -> None:
        wanted = blocks(8, 400)
        store.append(hours(0, 400), [f"S{i}" for i in range(8)], wanted)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda s: store.read("close", (s % 8, s % 8 + 1), (0, 400)), range(64)))
        for s, block in enumerate(found):
            assert np.array_equal(block[0], wanted["close"][s % 8], equal_nan=True)

    def test_an_empty_store_is_one(self, store: WritableStore) -> None:
        found = self.reopened(store)
        assert found.info.n_bars == 0
        assert found.info.symbols == ()
        assert found.ts(0, 0).size == 0
        assert found.read("close", (0, 0), (0, 0)).shape == (0, 0)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"close": -1.0}, r"close of B at ts \d+ = .*-1.0.*finite prices > 0"),
            ({"close": np.inf}, r"close of B .*inf"),
            ({"open": 0.0}, r"open of B .*0.0"),
            ({"volume": -3.0}, r"volume of B .*-3.0"),
            ({"high": 1.0}, r"high of B .*1.0.* lies below its low"),
            ({"close": np.nan}, r"open of B .*missing ones \(close NaN\) NaN everywhere"),
        ],
    )
    def test_bad_values_are_named_and_nothing_is_written(
        self, store: WritableStore, change: dict[str, float], message: str
    ) -> None:
        bad = blocks(2, 9)
        for field, value in change.items():
            bad[field][1, 2] = value
        with pytest.raises(DataError, match=message):
            store.append(hours(0, 9), ["A", "B"], bad)
        assert self.reopened(store).info.n_bars == 0

    def test_times_that_do_not_go_forward_are_refused(self, store: WritableStore) -> None:
        store.append(hours(0, 9), ["A"], blocks(1, 9))
        with pytest.raises(DataError, match="is not later than the store's last bar"):
            store.append(hours(7, 9), ["A"], blocks(1, 9))
        store.append(hours(9, 1), ["A"], {name: np.full((1, 1), np.nan) for name in FIELDS})
        with pytest.raises(DataError, match="is not later than the store's last bar"):
            store.append(hours(9, 1), ["A"], blocks(1, 1))
        with pytest.raises(DataError, match=r"ts\[1\] = \d+ is not later than ts\[0\]"):
            store.append(np.array([hours(50, 1)[0]] * 2), ["A"], blocks(1, 2))
        with pytest.raises(DataError, match="int64 nanoseconds"):
            store.append(hours(50, 9).astype(float), ["A"], blocks(1, 9))  # type: ignore[arg-type]

    def test_wrong_shapes_fields_and_names_are_refused(self, store: WritableStore) -> None:
        with pytest.raises(DataError, match=r"open is float64 \(1, 8\): give float64 \(1, 9\)"):
            store.append(hours(0, 9), ["A"], blocks(1, 8))
        with pytest.raises(DataError, match="do not match the store's open, high, low, close, volume"):
            store.append(hours(0, 9), ["A"], {"close": blocks(1, 9)["close"]})
        with pytest.raises(DataError, match="symbols repeat: A, A"):
            store.append(hours(0, 9), ["A", "A"], blocks(2, 9))
        with pytest.raises(DataError, match="no field 'vwap': it holds open"):
            store.read("vwap", (0, 0), (0, 0))

    @settings(max_examples=15)
    @given(values=st.lists(st.floats(5e-324, 1.7e308), min_size=1, max_size=40))
    def test_adversarial_floats_survive(self, values: list[float], tmp_path_factory: pytest.TempPathFactory) -> None:
        store = self.fresh(tmp_path_factory.mktemp("s"))
        close = np.array([values])
        store.append(hours(0, close.size), ["A"], dict.fromkeys(FIELDS, close))
        assert self.reopened(store).read("close", (0, 1), (0, close.size)).tobytes() == close.tobytes()

    def fresh(self, folder: Path) -> WritableStore:
        raise NotImplementedError


class TestZarrStore(Conformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> WritableStore:
        return self.fresh(tmp_path)

    def fresh(self, folder: Path) -> WritableStore:
        return create_store(folder / "prices.zarr", bar_ns=HOUR, calendar="24/7", fields=FIELDS)

    def reopened(self, store: WritableStore) -> WritableStore:
        return open_store(Path(store.info.path))


def test_what_a_killed_append_wrote_is_never_a_price(tmp_path: Path) -> None:
    path = tmp_path / "prices.zarr"
    store = create_store(path, bar_ns=HOUR, calendar="24/7", fields=("close",))
    store.append(hours(0, 20), ["A", "B"], {"close": blocks(2, 20)["close"]})
    program = f"""
import os, numpy as np
from pathlib import Path
from atc_backtest.stores import zarr_store
zarr_store._commit = lambda *args: os.kill(os.getpid(), 9)
ts = (np.arange(20, 30) + 400_000) * {HOUR}
zarr_store.open_store(Path({str(path)!r})).append(ts, ["B", "C"], {{"close": np.full((2, 10), 7.0)}})
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert open_store(path).info.n_bars == 20
    open_store(path).append(hours(20, 5), ["A"], {"close": np.full((1, 5), 3.0)})
    open_store(path).append(hours(25, 5), ["A", "D"], {"close": np.full((2, 5), 4.0)})
    found = open_store(path)
    assert [s.name for s in found.info.symbols] == ["A", "B", "D"]
    assert np.isnan(found.read("close", (1, 2), (20, 30))).all()
    assert np.isnan(found.read("close", (2, 3), (0, 25))).all()
    assert (found.read("close", (2, 3), (25, 30)) == 4.0).all()


def test_the_time_axis_grows_beyond_its_spare_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atc_backtest.stores.zarr_store.SPARE_CHUNKS", 0)
    store = create_store(tmp_path / "s", bar_ns=HOUR, calendar="24/7", fields=("close",))
    close = np.stack([tick_walk(40_000, s) for s in range(3)])
    for start in range(0, 40_000, 10_000):
        part = np.ascontiguousarray(close[:, start : start + 10_000])
        store.append(hours(start, 10_000), ["A", "B", "C"], {"close": part})
    assert np.array_equal(open_store(tmp_path / "s").read("close", (0, 3), (0, 40_000)), close)


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
    with pytest.raises(StoreError, match="store format 99, this program reads 1"):
        open_store(path)
    (path / "manifest.json").write_text(json.dumps({k: v for k, v in manifest.items() if k != "chunk"}))
    with pytest.raises(StoreError, match=r"is damaged: its manifest\.json lacks 'chunk'"):
        open_store(path)
    (path / "manifest.json").write_text("{}")
    with pytest.raises(StoreError, match="of another kind"):
        open_store(path)


def test_a_second_writer_that_was_faster_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    create_store(path, bar_ns=HOUR, calendar="24/7", fields=("close",))
    one, other = open_store(path), open_store(path)
    one.append(hours(0, 5), ["A"], {"close": np.ones((1, 5))})
    with pytest.raises(StoreError, match="at version 1, this writer opened 0: another writer was faster"):
        other.append(hours(5, 5), ["A"], {"close": np.ones((1, 5))})
