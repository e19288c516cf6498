"""Append: what is new is added, what is there is compared, what disagrees is refused or, when told, corrected."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from price_files import HEADER, HOUR_S, START_S, Row, axis, bars, flat, left_behind, present, series, take, write_csv
from typer.testing import CliRunner

from atc_backtest.cli import app
from atc_backtest.errors import ConfigError, DataError, StoreError
from atc_backtest.stores.ingest import AppendReport, IngestOptions, append
from atc_backtest.stores.ingest.rules import show_time
from atc_backtest.stores.zarr_store import ZarrStore, open_store

ROOT = Path(__file__).resolve().parent.parent
H = HOUR_S
T0 = START_S


def hours(*closes: float, start: int = 0) -> list[Row]:
    return [flat(T0 + (start + i) * H, close) for i, close in enumerate(closes)]


def made(folder: Path, **rows: list[Row]) -> Path:
    """A store of symbols with rows."""
    for name, kept in rows.items():
        write_csv(folder / "first" / f"{name}.csv", kept)
    take(folder / "first", folder / "s.zarr")
    return folder / "s.zarr"


def add(store: Path, source: Path | Sequence[Path], correct: bool = False, **options: object) -> AppendReport:
    sources = [source] if isinstance(source, Path) else list(source)
    report = append(sources, store, IngestOptions(**options), correct)  # type: ignore[arg-type]
    assert left_behind(store.parent) == []
    return report


def counts(report: AppendReport) -> dict[str, tuple[int, int, int]]:
    return {one.name: (one.identical, one.new, one.corrected) for one in report.symbols}


def contents(store: ZarrStore) -> dict[str, object]:
    shape = (0, len(store.info.symbols)), (0, store.info.n_bars)
    fields = {field: store.read(field, *shape).tobytes() for field in store.info.fields}
    return fields | {"ts": axis(store), "symbols": [symbol.name for symbol in store.info.symbols]}


def test_later_bars_new_symbols_and_missing_bars_come_in(tmp_path: Path) -> None:
    path = made(tmp_path, A=hours(1, 2, 3), B=[*hours(7), *hours(9, 9, 9, start=2)])
    before = open_store(path)
    write_csv(tmp_path / "more" / "A.csv", hours(3, 4, 5, start=2))
    write_csv(tmp_path / "more" / "B.csv", hours(6, 7, 8, 9, start=-1))
    write_csv(tmp_path / "more" / "C.csv", hours(0.5, 0.25, start=1))
    report = add(path, tmp_path / "more")
    assert counts(report) == {"A": (1, 2, 0), "B": (2, 2, 0), "C": (0, 2, 0)}
    assert (report.version_before, report.version, report.n_bars) == (before.info.version, before.info.version + 1, 6)
    store = open_store(path)
    assert [symbol.name for symbol in store.info.symbols] == ["A", "B", "C"]
    assert [(ns // 10**9 - T0) // H for ns in axis(store)] == [-1, 0, 1, 2, 3, 4]
    nan = math.nan
    for name, expected in (
        ("A", [nan, 1, 2, 3, 4, 5]),
        ("B", [6, 7, 8, 9, 9, 9]),
        ("C", [nan, nan, 0.5, 0.25, nan, nan]),
    ):
        assert np.array_equal(series(store, "close", name), expected, equal_nan=True)
        assert np.array_equal(np.isnan(series(store, "volume", name)), np.isnan(expected))
    assert present(before, "A") == [(f"2024-01-01 0{i}:00:00", i + 1.0) for i in range(3)], (
        "an open reader keeps its version"
    )


def test_a_second_time_writes_no_version(tmp_path: Path) -> None:
    path = made(tmp_path, A=bars(80)[:50])
    source = write_csv(tmp_path / "A.csv", bars(80))
    first, again = add(path, source), add(path, source)
    assert counts(first) == {"A": (50, 30, 0)}
    assert counts(again) == {"A": (80, 0, 0)}
    assert again.version == again.version_before == first.version == open_store(path).info.version


def test_overlaps_that_disagree_are_shown_and_nothing_is_written(tmp_path: Path) -> None:
    path = made(tmp_path, A=hours(1, 2, 3), B=hours(4, 5, 6))
    before = contents(open_store(path))
    write_csv(tmp_path / "more" / "A.csv", [*hours(1), (T0 + H, 2, 2.5, 2, 2, ""), *hours(3, 4, start=2)])
    write_csv(tmp_path / "more" / "B.csv", hours(4, 5.5, 6))
    with pytest.raises(DataError) as caught:
        add(path, tmp_path / "more")
    said = str(caught.value)
    for part in (
        "2 bars of 2 symbols disagree",
        "nothing was written",
        f"A at {show_time((T0 + H) * 10**9)}  high: stored 2.0, given 2.5; volume: stored 1.0, given missing",
        "B at 2024-01-01 01:00:00 UTC  open: stored 5.0, given 5.5; high: stored 5.0, given 5.5",
        "--correct",
    ):
        assert part in said
    assert "low: stored 2.0" not in said
    assert contents(open_store(path)) == before
    report = add(path, tmp_path / "more", correct=True)
    assert counts(report) == {"A": (2, 1, 1), "B": (2, 0, 1)}
    store = open_store(path)
    assert series(store, "high", "A").tolist() == [1, 2.5, 3, 4]
    assert np.array_equal(series(store, "volume", "A"), [1, math.nan, 1, 1], equal_nan=True)
    assert np.array_equal(series(store, "close", "B"), [4, 5.5, 6, math.nan], equal_nan=True)
    assert counts(add(path, tmp_path / "more", correct=True)) == {"A": (4, 0, 0), "B": (3, 0, 0)}


def test_a_refusal_names_the_first_and_counts_all(tmp_path: Path) -> None:
    path = made(tmp_path, A=hours(*range(1, 101)))
    source = write_csv(tmp_path / "A.csv", hours(*range(2, 102)))
    shown = CliRunner().invoke(app, ["append", str(source), "--store", str(path)])
    assert shown.exit_code == 3
    assert "100 bars of 1 symbol disagree" in shown.stderr
    assert shown.stderr.count("\n  A at ") == 20
    assert "and 80 bars more" in shown.stderr
    assert open_store(path).info.version == 1


def test_the_command_prints_and_speaks_json(tmp_path: Path) -> None:
    path = made(tmp_path, A=hours(1, 2, 3))
    source = write_csv(tmp_path / "A.csv", [*hours(2, 3, 4, start=1), flat(T0 + 4 * H, 0)])
    command = ["append", str(source), "--store", str(path)]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert (
        lines[0][-8:] == ["identical", "new", "corrected", "first", "(UTC)", "last", "(UTC)"][-8:]
        or "identical" in lines[0]
    )
    assert lines[1][:7] == ["A", "4", "3", "1", "2", "1", "0"]
    assert "version 2, 4 bars of 1h" in shown.stdout
    again = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert (again["version"], again["version_before"]) == (2, 2)
    assert {key: again["symbols"][0][key] for key in ("name", "rows_read", "identical", "new", "bad_price")} == {
        **{"name": "A", "rows_read": 4, "identical": 3, "new": 0, "bad_price": 1}
    }
    assert "nothing new, still version 2" in CliRunner().invoke(app, command).stdout


def test_bars_of_another_size_are_left_out_or_refused(tmp_path: Path) -> None:
    path = made(tmp_path, A=hours(1, 2, 3, 4, 5))
    minutes = [flat(T0 + 10 * H + 60 * i) for i in range(10)]
    with pytest.raises(DataError, match="no symbol has bars of 1h"):
        add(path, write_csv(tmp_path / "A.csv", minutes))
    write_csv(tmp_path / "more" / "A.csv", minutes)
    write_csv(tmp_path / "more" / "B.csv", hours(1, 2, 3))
    report = add(path, tmp_path / "more")
    assert counts(report) == {"A": (0, 0, 0), "B": (0, 3, 0)}
    assert report.symbols[0].rows.other_bar == 10
    days = write_csv(tmp_path / "D.csv", [flat(T0 + 86_400 * i) for i in range(4)])
    with pytest.raises(DataError, match="no symbol has bars of 1h"):
        add(path, days)


def test_two_rows_over_a_gap_tell_no_other_size(tmp_path: Path) -> None:
    path = made(tmp_path, A=hours(1, 2, 3, 4, 5))
    report = add(path, write_csv(tmp_path / "A.csv", [*hours(6, start=5), *hours(9, start=53)]))
    assert counts(report) == {"A": (0, 2, 0)}
    assert len(present(open_store(path))) == 7


def test_fields_of_the_store_must_be_there_others_are_said(tmp_path: Path) -> None:
    path = made(tmp_path, A=hours(1, 2, 3))
    lacking = write_csv(tmp_path / "A.csv", [row[:5] for row in hours(4, start=3)], HEADER[:5])
    with pytest.raises(DataError, match="has no volume, which the store has") as caught:
        add(path, lacking)
    assert "--column volume=NAME" in str(caught.value)
    closes = take(
        write_csv(tmp_path / "C.csv", [(r[0], r[4]) for r in hours(1, 2, 3)], ("time", "close")), tmp_path / "c.zarr"
    )
    assert closes[1].info.fields == ("close",)
    report = add(tmp_path / "c.zarr", write_csv(tmp_path / "more" / "C.csv", hours(4, start=3)))
    assert counts(report) == {"C": (0, 1, 0)}
    with pytest.raises(StoreError, match="not a store"):
        add(tmp_path / "none.zarr", tmp_path / "A.csv")


def test_rules_hold_for_what_comes_in(tmp_path: Path) -> None:
    path = made(tmp_path, A=hours(1, 2, 3))
    rows = [*hours(5, start=4), *hours(4, start=3), *hours(4, start=3), *hours(-1, start=6), *hours(3, start=2)]
    source = write_csv(tmp_path / "A.csv", rows)
    (symbol,) = add(path, source).symbols
    assert (symbol.rows.rows_read, symbol.rows.bad_price, symbol.rows.exact_duplicate) == (5, 1, 1)
    assert symbol.rows.rows_kept == symbol.identical + symbol.new == 3
    with pytest.raises(DataError, match="without --strict"):
        add(path, source, strict=True)


@pytest.mark.slow
def test_a_killed_append_is_whole_or_not_there_and_runs_again(tmp_path: Path) -> None:
    path = made(tmp_path, **{name: bars(3000, seed)[:2000] for seed, name in enumerate("ABC")})
    for seed, name in enumerate("ABC"):
        write_csv(tmp_path / "more" / f"{name}.csv", bars(3000, seed))
    shutil.copytree(path, tmp_path / "twin.zarr")
    add(tmp_path / "twin.zarr", tmp_path / "more")
    before, after = contents(open_store(path)), contents(open_store(tmp_path / "twin.zarr"))
    command = [sys.executable, "-m", "atc_backtest", "append", str(tmp_path / "more"), "--store", str(path)]
    for delay_s in np.linspace(0.25, 1.0, 8).tolist():
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            time.sleep(delay_s)
            process.kill()
        assert contents(open_store(path)) in (before, after)
    assert subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode == 0
    assert contents(open_store(path)) == after
    assert open_store(path).info.version == 2
    assert left_behind(tmp_path) == []


VALUES = st.dictionaries(
    st.tuples(st.sampled_from("ABCDE"), st.integers(0, 40)), st.sampled_from([1.0, 2.0, 3.5]), min_size=1, max_size=60
)


@given(VALUES, VALUES)
@settings(max_examples=12)
def test_appending_is_a_union_whatever_the_order(
    old: dict[tuple[str, int], float], new: dict[tuple[str, int], float]
) -> None:
    """Against a plain dictionary: new over old when correct, refused exactly when a bar differs otherwise."""
    regular = {(name, hour): 1.0 for name in "AB" for hour in range(50, 60)}
    old, new = old | regular, new | regular
    differ = [key for key in new if key in old and old[key] != new[key]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        header = ("symbol", *HEADER)
        for which, values in (("old", old), ("new", new)):
            rows = [(symbol, *flat(T0 + hour * H, close)) for (symbol, hour), close in sorted(values.items())]
            write_csv(folder / f"{which}.csv", rows, header)
        take(folder / "old.csv", folder / "s.zarr", bar=H * 10**9)
        kept = {symbol.name for symbol in open_store(folder / "s.zarr").info.symbols}
        if {"A", "B"} & kept & {key[0] for key in differ}:
            before = contents(open_store(folder / "s.zarr"))
            with pytest.raises(DataError) as caught:
                append([folder / "new.csv"], folder / "s.zarr")
            assert "disagree" in str(caught.value)
            assert contents(open_store(folder / "s.zarr")) == before
        report = append([folder / "new.csv"], folder / "s.zarr", correct=True)
        assert all(one.rows.rows_kept == one.identical + one.new + one.corrected for one in report.symbols)
        took = {one.name for one in report.symbols if one.rows.rows_kept}
        expected = {key: close for key, close in old.items() if key[0] in kept}
        expected |= {key: close for key, close in new.items() if key[0] in took}
        store = open_store(folder / "s.zarr")
        at = [(ns // 10**9 - T0) // H for ns in axis(store)]
        close = store.read("close", (0, len(store.info.symbols)), (0, store.info.n_bars))
        names = [symbol.name for symbol in store.info.symbols]
        found = {(names[i], at[j]): float(close[i, j]) for i, j in np.argwhere(~np.isnan(close)).tolist()}
    assert found == expected


def test_a_store_that_rounds_volume_says_so_keeps_prices_and_compares_what_it_would_keep(tmp_path: Path) -> None:
    rows = [(*row[:5], 1_234_567 + 8_191 * i) for i, row in enumerate(bars(60))]
    write_csv(tmp_path / "A.csv", rows[:40])
    _, exact = take(tmp_path / "A.csv", tmp_path / "exact.zarr")
    _, store = take(tmp_path / "A.csv", tmp_path / "s.zarr", volume_bits=8)
    assert (exact.info.volume_bits, store.info.volume_bits) == (None, 8)
    given, kept = (one.read("volume", (0, 1), (0, 40)) for one in (exact, store))
    assert 0 < np.abs(kept / given - 1).max() <= 2**-8
    for field in ("open", "high", "low", "close"):
        assert store.read(field, (0, 1), (0, 40)).tobytes() == exact.read(field, (0, 1), (0, 40)).tobytes()
    write_csv(tmp_path / "more" / "A.csv", rows)
    report = add(tmp_path / "s.zarr", tmp_path / "more")
    assert counts(report) == {"A": (40, 20, 0)}
    assert open_store(tmp_path / "s.zarr").info.volume_bits == 8
    assert counts(add(tmp_path / "s.zarr", tmp_path / "more")) == {"A": (60, 0, 0)}
    for bad in (0, 53):
        with pytest.raises(ConfigError, match=f"volume_bits = {bad} is not allowed: 1 to 52"):
            IngestOptions(volume_bits=bad)
