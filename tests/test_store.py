"""What every store must do: the conformance suite over each of them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from filling import FIELDS, HOUR, Blocks, blocks, cut, hours
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atc_backtest.errors import DataError, StoreError
from atc_backtest.stores import upkeep
from atc_backtest.stores.base import Store, SymbolInfo, WritableStore, Writer
from atc_backtest.stores.memmap_store import create_memmap
from atc_backtest.stores.opening import open_store
from atc_backtest.stores.verification import verify
from atc_backtest.stores.zarr_store import create_store
from atc_backtest.stores.zarr_store import open_group as zarr_group


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
                    part = wanted[field][slice(*symbols), slice(*bars)]
                    assert block.tobytes() == np.ascontiguousarray(part).tobytes()
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

    def test_one_block_of_calls_is_one_version(self, store: WritableStore) -> None:
        wanted = blocks(3, 60)
        with store.writing() as writer:
            for start in range(0, 60, 20):
                writer.append(hours(start, 20), ["A", "B", "C"], cut(wanted, slice(3), slice(start, start + 20)))
            assert writer.info.version == 1
            assert np.array_equal(writer.ts(0, 60), hours(0, 60))
            assert self.same(writer, wanted)
            assert self.reopened(store).info.n_bars == 0
        assert store.info.version == self.reopened(store).info.version == 1
        assert self.same(self.reopened(store), wanted)

    def test_a_block_that_raises_or_changes_nothing_commits_nothing(self, store: WritableStore) -> None:
        wanted = blocks(2, 30)
        store.append(hours(0, 30), ["A", "B"], wanted)
        with pytest.raises(DataError, match="no bar at ts"), store.writing() as writer:  # noqa: PT012
            writer.append(hours(30, 30), ["A", "B"], blocks(2, 30, seed=5))
            writer.correct(hours(70, 1), ["A"], cut(wanted, [0], slice(1)))
        with store.writing() as writer:
            writer.merge(hours(0, 30), ["A", "B"], wanted)
            writer.correct(hours(4, 3), ["B"], cut(wanted, [1], slice(4, 7)))
            writer.add_times(hours(3, 9))
        assert self.reopened(store).info.version == 1
        assert self.same(self.reopened(store), wanted)

    def test_corrections_take_what_they_say_and_missing_bars_with_it(self, store: WritableStore) -> None:
        wanted = blocks(3, 50)
        store.append(hours(0, 50), ["A", "B", "C"], wanted)
        other = cut(blocks(2, 50, seed=7), slice(2), slice(10, 20))
        for block in other.values():
            block[0, :] = np.nan
        with store.writing() as writer:
            writer.correct(hours(10, 10), ["C", "A"], other)
            with pytest.raises(DataError, match=r"no bar at ts \d+: correct times it has, merge others"):
                writer.correct(hours(45, 10), ["C", "A"], other)
        for name, block in wanted.items():
            block[2, 10:20], block[0, 10:20] = other[name][0], other[name][1]
        assert self.same(self.reopened(store), wanted)
        self.check_symbols(self.reopened(store), wanted)

    def test_a_symbol_that_loses_its_first_and_last_bars_knows_it(self, store: WritableStore) -> None:
        wanted = blocks(1, 40)
        store.append(hours(0, 40), ["A"], wanted)
        nothing = {name: np.full((1, 12), np.nan) for name in FIELDS}
        with store.writing() as writer:
            writer.correct(hours(0, 12), ["A"], nothing)
            writer.correct(hours(28, 12), ["A"], nothing)
        for block in wanted.values():
            block[:, :12] = block[:, 28:] = np.nan
        self.check_symbols(self.reopened(store), wanted)
        with store.writing() as writer:
            writer.correct(hours(12, 16), ["A"], {name: np.full((1, 16), np.nan) for name in FIELDS})
        assert self.reopened(store).info.symbols == (SymbolInfo("A", 0, 0, 0),)

    @settings(max_examples=12, suppress_health_check=[HealthCheck.differing_executors])
    @given(data=st.data())
    def test_merging_in_any_order_is_as_if_it_had_come_at_once(
        self, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        store = self.fresh(tmp_path_factory.mktemp("s"))
        wanted, names = blocks(5, 60, seed=3), list("ABCDE")
        cells = [(row, start) for row in range(5) for start in range(0, 60, 12)]
        order = data.draw(st.permutations(cells))
        sizes = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=9))
        at = 0
        while at < len(order):
            size = sizes[at % len(sizes)]
            with store.writing() as writer:
                for row, start in order[at : at + size]:
                    writer.merge(hours(start, 12), [names[row]], cut(wanted, [row], slice(start, start + 12)))
            at += size
        found = self.reopened(store)
        rows = [names.index(symbol.name) for symbol in found.info.symbols]
        expected = cut(wanted, rows, slice(60))
        assert np.array_equal(found.ts(0, 60), hours(0, 60))
        assert self.same(found, expected)
        self.check_symbols(found, expected)

    def test_what_is_merged_over_keeps_what_it_has_where_there_is_nothing_new(self, store: WritableStore) -> None:
        old, new = blocks(2, 30), blocks(2, 30, seed=11)
        for block in new.values():
            block[:, ::2] = np.nan
        store.append(hours(0, 30), ["A", "B"], old)
        with store.writing() as writer:
            writer.merge(hours(0, 30), ["A", "B"], new)
        taken = ~np.isnan(new["close"])
        assert self.same(store, {name: np.where(taken, new[name], old[name]) for name in FIELDS})

    def same(self, store: Store | Writer, wanted: Blocks) -> bool:
        n_symbols, n_bars = wanted["close"].shape
        assert (len(store.info.symbols), store.info.n_bars) == (n_symbols, n_bars)
        found = {name: store.read(name, (0, n_symbols), (0, n_bars)) for name in wanted}
        return all(found[name].tobytes() == np.ascontiguousarray(wanted[name]).tobytes() for name in wanted)

    def check_symbols(self, store: WritableStore, wanted: Blocks) -> None:
        ts = store.ts(0, store.info.n_bars)
        for symbol, close in zip(store.info.symbols, wanted["close"], strict=True):
            present = np.flatnonzero(~np.isnan(close))
            span = (int(ts[present[0]]), int(ts[present[-1]])) if present.size else (0, 0)
            assert (symbol.n_bars, symbol.first_ns, symbol.last_ns) == (present.size, *span)

    def test_a_second_writer_is_refused_and_told_who_writes(self, store: WritableStore) -> None:
        other = self.reopened(store)
        with store.writing() as writer:
            writer.append(hours(0, 5), ["A"], blocks(1, 5))
            with pytest.raises(StoreError, match=rf"is being written by process {os.getpid()} on .*since"):
                other.append(hours(0, 5), ["A"], blocks(1, 5))
        with pytest.raises(StoreError, match="at version 1, this writer opened 0: another writer was faster"):
            other.append(hours(5, 5), ["A"], blocks(1, 5))
        assert self.reopened(store).info.version == 1

    def test_history_rollback_and_back(self, store: WritableStore) -> None:
        first, second = blocks(2, 30), blocks(3, 40, seed=4)
        store.append(hours(0, 30), ["A", "B"], first)
        with store.writing() as writer:
            writer.merge(hours(0, 40), ["A", "B", "C"], second)
        place = store.info.path
        merged = {name: store.read(name, (0, 3), (0, 40)) for name in FIELDS}
        upkeep.rollback(place, 1)
        assert self.same(self.reopened(store), first)
        upkeep.rollback(place, 2)
        assert self.same(self.reopened(store), merged)
        upkeep.rollback(place, 3)
        assert self.same(self.reopened(store), first)
        assert self.reopened(store).info.version == 5
        assert [one.commit.version for one in upkeep.history(place)] == [0, 1, 2, 3, 4, 5]
        assert upkeep.history(place)[-1].commit.what == "rollback to version 3"
        assert verify(place).damage == ()
        with pytest.raises(StoreError, match="has no version 9: it keeps 0, 1, 2, 3, 4, 5"):
            upkeep.rollback(place, 9)

    def test_old_versions_go_when_they_are_dropped(self, store: WritableStore) -> None:
        wanted = blocks(2, 40)
        for start in range(0, 40, 10):
            store.append(hours(start, 10), ["A", "B"], cut(wanted, slice(2), slice(start, start + 10)))
        done = upkeep.compact(store.info.path, keep=2)
        assert done.dropped == (0, 1, 2)
        assert done.freed_bytes > 0
        assert [one.kept for one in upkeep.history(store.info.path)] == [False] * 3 + [True] * 2
        assert verify(store.info.path).versions == (3, 4)
        assert verify(store.info.path).damage == ()
        assert upkeep.repair(store.info.path).removed == ()
        assert self.same(self.reopened(store), wanted)
        with pytest.raises(StoreError, match="has no version 1: it keeps 3, 4"):
            upkeep.rollback(store.info.path, 1)

    def test_zarr_reads_what_is_committed(self, store: WritableStore) -> None:
        wanted = blocks(70, 300)
        store.append(hours(0, 300), [f"S{i}" for i in range(70)], wanted)
        group = zarr_group(store.info.path)
        assert np.array_equal(group["ts"][:], hours(0, 300))
        for band in ("history", "tail"):
            for array in group[band].array_values():
                for at, field in enumerate(array.attrs["fields"]):
                    found = array[at] if array.ndim == 3 else array[:]
                    assert found.tobytes() == wanted[field][:, : found.shape[1]].tobytes()
                    assert found.shape[1] in (0, 300)

    @settings(max_examples=15, suppress_health_check=[HealthCheck.differing_executors])
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
        return open_store(store.info.path)


class TestRawZarrStore(TestZarrStore):
    def fresh(self, folder: Path) -> WritableStore:
        return create_store(folder / "prices.zarr", bar_ns=HOUR, calendar="24/7", fields=FIELDS, codec="raw")


class TestPcodecZarrStore(TestZarrStore):
    def fresh(self, folder: Path) -> WritableStore:
        pytest.importorskip("pcodec", reason="pip install 'atc-backtest[pcodec]'")
        return create_store(folder / "prices.zarr", bar_ns=HOUR, calendar="24/7", fields=FIELDS, codec="pcodec")


class TestMemmapStore(TestZarrStore):
    def fresh(self, folder: Path) -> WritableStore:
        return create_memmap(folder / "hot", bar_ns=HOUR, calendar="24/7", fields=FIELDS)


class TestZarrStoreInMemory(TestZarrStore):
    """The same behind a URL."""

    def fresh(self, folder: Path) -> WritableStore:
        return create_store(f"memory:/{folder}/prices.zarr", bar_ns=HOUR, calendar="24/7", fields=FIELDS)
