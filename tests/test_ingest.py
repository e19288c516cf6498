"""Ingest: one test per rule about rows, each counted, kept to the letter, and refused under --strict."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from price_files import HOUR_S, START_S, axis, bars, flat, left_behind, only, present, refused, series, take, write_csv
from typer.testing import CliRunner

from atc_backtest.cli import app
from atc_backtest.errors import ConfigError, DataError, StoreError
from atc_backtest.stores.base import format_bar, parse_bar
from atc_backtest.stores.ingest import DONE, RULES, IngestOptions, SymbolReport, ingest
from atc_backtest.stores.ingest.report import DROPPING
from atc_backtest.stores.zarr_store import open_store

H = HOUR_S
T0 = START_S


def hours(*closes: float) -> list[tuple[object, ...]]:
    return [flat(T0 + i * H, close) for i, close in enumerate(closes)]


def counted(symbol: SymbolReport) -> dict[str, int]:
    """The counters that are not zero."""
    return {rule: getattr(symbol, rule) for rule in RULES if getattr(symbol, rule)}


def test_good_rows_arrive_bit_for_bit(tmp_path: Path) -> None:
    rows = bars(500)
    report, store = take(write_csv(tmp_path / "AAA.csv", rows), tmp_path / "s.zarr")
    assert axis(store) == [row[0] * 10**9 for row in rows]
    for column, field in enumerate(("open", "high", "low", "close", "volume"), start=1):
        assert series(store, field).tolist() == [row[column] for row in rows]
    symbol = only(report)
    assert (symbol.name, symbol.rows_read, symbol.rows_kept, counted(symbol)) == ("AAA", 500, 500, {})
    assert (symbol.first_ns, symbol.last_ns) == (rows[0][0] * 10**9, rows[-1][0] * 10**9)
    assert (report.bar_ns, report.calendar, report.n_bars) == (H * 10**9, "24/7", 500)
    assert store.info.bar_ns == report.bar_ns
    assert store.info.calendar == "24/7"
    assert left_behind(tmp_path) == []


def test_missing_bars_stay_missing(tmp_path: Path) -> None:
    write_csv(tmp_path / "in" / "A.csv", [flat(T0, 1.0), flat(T0 + H, 2.0), flat(T0 + 4 * H, 3.0)])
    write_csv(tmp_path / "in" / "B.csv", [flat(T0 + H, 5.0), flat(T0 + 2 * H, 6.0)])
    report, store = take(tmp_path / "in", tmp_path / "s.zarr")
    assert axis(store) == [(T0 + h * H) * 10**9 for h in (0, 1, 2, 4)]
    assert np.array_equal(series(store, "close", "A"), [1, 2, math.nan, 3], equal_nan=True)
    assert np.array_equal(series(store, "volume", "B"), [math.nan, 1, 1, math.nan], equal_nan=True)
    assert [symbol.rows_kept for symbol in report.symbols] == [3, 2]


# Rules about rows


@pytest.mark.parametrize("price", ["0", "-1", "", "nan", "inf", "-inf"])
@pytest.mark.parametrize("column", [1, 2, 3, 4])
def test_bad_prices_are_dropped(tmp_path: Path, price: str, column: int) -> None:
    bad = list(flat(T0 + H))
    bad[column] = price
    source = write_csv(tmp_path / "A.csv", [flat(T0), tuple(bad), flat(T0 + 2 * H), flat(T0 + 3 * H)])
    report, store = take(source, tmp_path / "s.zarr")
    assert counted(only(report)) == {"bad_price": 1}
    assert [time[11:13] for time, _ in present(store)] == ["00", "02", "03"]
    said = refused(source, tmp_path / "strict.zarr", strict=True)
    field = ("open", "high", "low", "close")[column - 1]
    value = {"": "empty or NaN", "nan": "empty or NaN", "0": "0.0", "-1": "-1.0"}.get(price, price)
    for part in ("A.csv", "A at 2024-01-01 01:00:00 UTC", f"{field} {value}", "above 0", "without --strict"):
        assert part in said


def test_high_below_low_is_dropped(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "A.csv", [*hours(1, 2, 3), (T0 + 3 * H, 10, 9.5, 10.5, 10, 1)])
    report, store = take(source, tmp_path / "s.zarr")
    assert counted(only(report)) == {"high_below_low": 1}
    assert series(store).tolist() == [1, 2, 3]
    said = refused(source, tmp_path / "strict.zarr", strict=True)
    for part in ("A.csv", "A at 2024-01-01 03:00:00 UTC", "high 9.5 below low 10.5", "without --strict"):
        assert part in said


def test_open_or_close_outside_the_range_is_kept_and_counted(tmp_path: Path) -> None:
    odd = [(T0 + 3 * H, 12, 11, 9, 10, 1), (T0 + 4 * H, 10, 11, 9, 8, 1)]
    source = write_csv(tmp_path / "A.csv", hours(1, 2, 3) + odd)
    for strict in (False, True):
        report, store = take(source, tmp_path / "s.zarr", strict=strict, overwrite=True)
        assert counted(only(report)) == {"outside_range": 2}
        assert series(store).tolist() == [1, 2, 3, 10, 8]


def test_bad_volumes_are_made_missing(tmp_path: Path) -> None:
    volumes = (5, -1, "inf", "", 0)
    source = write_csv(tmp_path / "A.csv", [flat(T0 + i * H, 7, volume) for i, volume in enumerate(volumes)])
    report, store = take(source, tmp_path / "s.zarr")
    assert counted(only(report)) == {"bad_volume": 2}, "an empty volume is missing, not bad"
    assert np.array_equal(series(store, "volume"), [5, math.nan, math.nan, math.nan, 0], equal_nan=True)
    assert series(store).tolist() == [7] * 5
    said = refused(source, tmp_path / "strict.zarr", strict=True)
    for part in ("A.csv", "A at 2024-01-01 01:00:00 UTC", "volume -1.0", "without --strict"):
        assert part in said


def test_unsorted_rows_are_sorted(tmp_path: Path) -> None:
    rows = hours(1, 2, 3, 4, 5)
    source = write_csv(tmp_path / "A.csv", [rows[i] for i in (0, 3, 1, 2, 4)])
    report, store = take(source, tmp_path / "s.zarr")
    assert counted(only(report)) == {"unsorted": 2}
    assert series(store).tolist() == [1, 2, 3, 4, 5]
    said = refused(source, tmp_path / "strict.zarr", strict=True)
    for part in ("A: the row at 2024-01-01 01:00:00 UTC", "sorted", "without --strict"):
        assert part in said


def test_exact_duplicates_are_dropped(tmp_path: Path) -> None:
    rows = hours(1, 2, 3)
    empty = flat(T0 + 3 * H, 4, "")
    source = write_csv(tmp_path / "A.csv", [*rows, rows[2], empty, empty])
    report, store = take(source, tmp_path / "s.zarr")
    assert counted(only(report)) == {"exact_duplicate": 2}
    assert series(store).tolist() == [1, 2, 3, 4]
    said = refused(source, tmp_path / "strict.zarr", strict=True)
    for part in ("A: the row at 2024-01-01 02:00:00 UTC", "twice", "without --strict"):
        assert part in said


def test_of_conflicting_duplicates_the_last_one_read_stays(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "A.csv", [*hours(1, 2, 3), flat(T0 + H, 7), flat(T0 + H, 8), flat(T0 + H, 8)])
    report, store = take(source, tmp_path / "s.zarr")
    assert counted(only(report)) == {"exact_duplicate": 1, "conflicting_duplicate": 2, "unsorted": 3}
    assert series(store).tolist() == [1, 8, 3]
    ordered = write_csv(tmp_path / "B.csv", [*hours(1, 2), flat(T0 + H, 7)])
    said = refused(ordered, tmp_path / "strict.zarr", strict=True)
    for part in ("B: the row at 2024-01-01 01:00:00 UTC", "twice with other values", "without --strict"):
        assert part in said


def test_a_bad_row_does_not_win_over_a_good_one(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "A.csv", [*hours(1, 2, 3), flat(T0 + 2 * H, 0)])
    report, store = take(source, tmp_path / "s.zarr")
    assert counted(only(report)) == {"bad_price": 1}
    assert series(store).tolist() == [1, 2, 3]


def test_rows_off_the_grid_are_kept_and_counted(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "A.csv", [*hours(1, 2, 3, 4), flat(T0 + 4 * H + 60, 5), flat(T0 + 6 * H, 6)])
    for strict in (False, True):
        report, store = take(source, tmp_path / "s.zarr", strict=strict, overwrite=True)
        assert counted(only(report)) == {"off_grid": 1}
        assert series(store).tolist() == [1, 2, 3, 4, 5, 6]


def test_bars_of_half_past_are_on_their_own_grid(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "A.csv", bars(20, start_s=T0 + 1800))
    assert counted(only(take(source, tmp_path / "s.zarr")[0])) == {}


# Bar sizes


def test_mixed_bar_sizes_are_refused_or_chosen_from(tmp_path: Path) -> None:
    write_csv(tmp_path / "in" / "HOUR.csv", bars(20))
    write_csv(tmp_path / "in" / "MINUTE.csv", bars(30, step_s=60))
    write_csv(tmp_path / "in" / "ONE.csv", bars(1))
    said = refused(tmp_path / "in", tmp_path / "s.zarr")
    for part in ("1m: MINUTE", "1h: HOUR", "--bar 1m"):
        assert part in said
    assert "ONE" not in said
    report, store = take(tmp_path / "in", tmp_path / "s.zarr", bar=parse_bar("1h"))
    assert [symbol.name for symbol in store.info.symbols] == ["HOUR", "ONE"], "a single row goes with any size"
    left = report.symbols[1]
    assert (left.name, left.rows_read, left.rows_kept, left.first_ns) == ("MINUTE", 30, 0, None)
    assert counted(left) == {"other_bar": 30}
    assert any("MINUTE (1m)" in note for note in report.notes)
    said = refused(tmp_path / "in", tmp_path / "strict.zarr", bar=parse_bar("1h"), strict=True)
    for part in ("1m: MINUTE", "1h: HOUR", "without --strict"):
        assert part in said
    said = refused(tmp_path / "in", tmp_path / "other.zarr", bar=parse_bar("1d"))
    for part in ("1d", "1m: MINUTE", "1h: HOUR", "--bar"):
        assert part in said


def test_the_bar_size_is_the_commonest_step_and_of_two_the_smaller(tmp_path: Path) -> None:
    steps = (2, 1, 2, 1, 5)
    times = np.cumsum([0, *steps]).tolist()
    source = write_csv(tmp_path / "A.csv", [flat(T0 + step * H) for step in times])
    assert take(source, tmp_path / "s.zarr")[0].bar_ns == H * 10**9


def test_one_row_needs_a_bar_size(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "A.csv", bars(1))
    said = refused(source, tmp_path / "s.zarr")
    assert "A: one row" in said
    assert "--bar 1d" in said
    report, store = take(source, tmp_path / "s.zarr", bar=parse_bar("1d"))
    assert (report.bar_ns, store.info.n_bars) == (86_400 * 10**9, 1)


@pytest.mark.parametrize(
    ("text", "ns"), [("1m", 60e9), ("5m", 300e9), ("1h", 3600e9), ("1d", 86400e9), ("1w", 604800e9)]
)
def test_bar_sizes_as_text(text: str, ns: float) -> None:
    assert parse_bar(text) == ns
    assert format_bar(int(ns)) == text


@pytest.mark.parametrize("text", ["", "0h", "1", "h", "1.5h", "-1h", "1M", "1y", "1 month", "99999999999w"])
def test_bar_sizes_that_are_none(text: str) -> None:
    with pytest.raises(DataError, match="whole number") as caught:
        parse_bar(text)
    assert repr(text) in str(caught.value)
    assert "1h" in str(caught.value)
    with pytest.raises(DataError, match="more than 0"):
        format_bar(0)


# The report


def test_every_row_read_is_accounted_for(tmp_path: Path) -> None:
    rows = [*hours(1, 2, 3, 4), flat(T0, 1), flat(T0 + H, 9), flat(T0 + 9 * H, 0), (T0 + 8 * H, 1, 1, 2, 1, 1)]
    write_csv(tmp_path / "in" / "A.csv", rows)
    write_csv(tmp_path / "in" / "B.csv", bars(7, step_s=60))
    write_csv(tmp_path / "in" / "DEAD.csv", [flat(T0, 0), flat(T0 + H, -1)])
    report, store = take(tmp_path / "in", tmp_path / "s.zarr", bar=parse_bar("1h"))
    for symbol in report.symbols:
        assert symbol.rows_read == symbol.rows_kept + sum(getattr(symbol, rule) for rule in DROPPING)
    assert [(symbol.name, symbol.rows_read, symbol.rows_kept) for symbol in report.symbols] == [
        ("A", 8, 4),
        ("B", 7, 0),
        ("DEAD", 2, 0),
    ]
    assert [symbol.n_bars for symbol in store.info.symbols] == [4]
    assert any("none of their rows" in note and "DEAD" in note for note in report.notes)
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert plain["store"] == str(tmp_path / "s.zarr")
    assert plain["symbols"][0] == asdict(report.symbols[0])
    assert set(DONE) == set(RULES) <= set(asdict(report.symbols[0]))


def test_progress_counts_files_and_rows(tmp_path: Path) -> None:
    for name in ("A", "B"):
        write_csv(tmp_path / "in" / f"{name}.csv", bars(9))
    seen: list[tuple[int, int, int]] = []
    ingest([tmp_path / "in"], tmp_path / "s.zarr", IngestOptions(), lambda *at: seen.append(at))
    assert [rows for _, _, rows in seen] == [9, 18, 18]
    assert seen[-1] == (2, 2, 18)
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


# Where the store goes


def test_an_existing_store_is_replaced_only_when_told(tmp_path: Path) -> None:
    take(write_csv(tmp_path / "A.csv", bars(9)), tmp_path / "s.zarr")
    other = write_csv(tmp_path / "B.csv", bars(5))
    with pytest.raises(StoreError, match="--overwrite") as caught:
        take(other, tmp_path / "s.zarr")
    assert str(tmp_path / "s.zarr") in str(caught.value)
    with pytest.raises(DataError):
        take(write_csv(tmp_path / "C.csv", [flat(T0, 0)]), tmp_path / "s.zarr", overwrite=True)
    assert [symbol.name for symbol in open_store(tmp_path / "s.zarr").info.symbols] == ["A"], "still the old one"
    take(other, tmp_path / "s.zarr", overwrite=True)
    assert [symbol.name for symbol in open_store(tmp_path / "s.zarr").info.symbols] == ["B"]
    assert left_behind(tmp_path) == []


def test_what_is_no_store_is_never_replaced(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "A.csv", bars(9))
    (tmp_path / "letters").mkdir()
    with pytest.raises(StoreError, match="not a store"):
        take(source, tmp_path / "letters", overwrite=True)


def test_an_interrupted_ingest_leaves_nothing(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "A.csv", bars(9))

    def interrupt(*_: int) -> None:
        assert left_behind(tmp_path) != []
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest([source], tmp_path / "s.zarr", IngestOptions(), interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["A.csv"]


def test_a_store_in_a_folder_yet_to_be_made(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "A.csv", bars(9))
    refused(write_csv(tmp_path / "Z.csv", [flat(T0, 0)]), tmp_path / "s.zarr")
    take(source, tmp_path / "deep" / "er" / "s.zarr")
    assert [path.name for path in (tmp_path / "deep" / "er").iterdir()] == ["s.zarr"]


# Options


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"tz": "Mars/Base"}, ("'Mars/Base'", "America/New_York")),
        ({"tz": "America"}, ("'America'", "America/New_York")),
        ({"wall_clock": True}, ("wall_clock", "--tz")),
        ({"columns": {"adj": "x"}}, ("'adj'", "--column FIELD=NAME", "close")),
        ({"symbol": " "}, ("symbol", "--symbol BTCUSDT")),
        ({"symbol": "A", "symbol_pattern": "(.)"}, ("--symbol", "--symbol-pattern")),
        ({"symbol_pattern": "("}, ("'('", "--symbol-pattern")),
        ({"symbol_pattern": "abc"}, ("0 groups", "--symbol-pattern")),
        ({"bar": 0}, ("bar = 0", "--bar 1h")),
        ({"batch_bytes": 0}, ("batch_bytes = 0", "at least 1")),
    ],
)
def test_options_that_cannot_be(options: dict[str, object], parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(IngestOptions(), **options)  # type: ignore[arg-type]
    assert [part for part in parts if part not in str(caught.value)] == []


# What people see


def test_the_table_shows_the_rules_that_rows_met(tmp_path: Path) -> None:
    write_csv(tmp_path / "in" / "A.csv", [*hours(1, 2, 3), flat(T0 + 3 * H, 0), flat(T0 + 4 * H, 5, -1)])
    write_csv(tmp_path / "in" / "B.csv", hours(1, 2, 3, 4))
    command = ["ingest", str(tmp_path / "in"), "--store", str(tmp_path / "s.zarr")]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    headings, a, b = (line.split() for line in shown.stdout.splitlines()[:3])
    assert " ".join(headings) == (
        "symbol rows read kept bad price: dropped bad volume: volume made missing first (UTC) last (UTC)"
    )
    assert a == ["A", "5", "4", "1", "1", "2024-01-01", "2024-01-01", "04:00:00"]
    assert b == ["B", "4", "4", "0", "0", "2024-01-01", "2024-01-01", "03:00:00"]
    for part in (
        "epoch numbers in seconds, UTC",
        "9 rows of 2 files",
        "2 symbols x 5 bars of 1h",
        "next   atc-backtest",
    ):
        assert part in shown.stdout
    plain = CliRunner().invoke(app, [*command, "--overwrite", "--json"])
    assert json.loads(plain.stdout)["symbols"][0]["bad_price"] == 1


def test_a_refusal_is_a_sentence_and_exit_code_3(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "A.csv", [flat("2024-01-01"), flat("2024-01-02")])
    shown = CliRunner().invoke(app, ["ingest", str(source), "--store", str(tmp_path / "s.zarr")])
    assert shown.exit_code == 3
    assert shown.stderr.startswith("error: ")
    assert "--tz UTC" in shown.stderr
