"""Ingest: times of every kind, zones, and the two nights a year on which clocks change."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from price_files import HOUR_S, START_S, Row, axis, bars, flat, only, present, refused, take, write_csv

from atc_backtest.stores.ingest.zones import Zone

NEW_YORK = "America/New_York"
FIELDS = ("time", "open", "high", "low", "close", "volume")


def csv_of(tmp_path: Path, times: list[object], closes: list[float] | None = None) -> Path:
    closes = closes or [float(i + 1) for i in range(len(times))]
    return write_csv(tmp_path / "A.csv", [flat(*row) for row in zip(times, closes, strict=True)])


def parquet_of(tmp_path: Path, times: pa.Array) -> Path:
    path = tmp_path / "A.parquet"
    pq.write_table(pa.table({"time": times, "close": [float(i + 1) for i in range(len(times))]}), path)
    return path


# Kinds of times


def test_dates_without_separators_are_not_taken_for_milliseconds_of_1976(tmp_path: Path) -> None:
    message = refused(csv_of(tmp_path, [202401020000, 202401020001]), tmp_path / "s.zarr")
    assert "column 'time' holds 202401020000, a date and time without separators" in message
    assert "ISO 8601" in message


EXPECTED = [(START_S + i * HOUR_S) * 10**9 for i in range(3)]


@pytest.mark.parametrize(
    ("unit", "scale"), [("seconds", 1), ("milliseconds", 10**3), ("microseconds", 10**6), ("nanoseconds", 10**9)]
)
@pytest.mark.parametrize("kind", ["csv", "int", "float"])
def test_epoch_numbers_by_magnitude_said_aloud(tmp_path: Path, unit: str, scale: int, kind: str) -> None:
    times = [(START_S + i * HOUR_S) * scale for i in range(3)]
    if kind == "csv":
        source = csv_of(tmp_path, times)
    else:
        source = parquet_of(tmp_path, pa.array(np.array(times, dtype=np.int64 if kind == "int" else np.float64)))
    report, store = take(source, tmp_path / "s.zarr")
    assert axis(store) == EXPECTED
    assert any(f"'time': epoch numbers in {unit}, UTC" in note for note in report.notes)


def test_epoch_seconds_with_fractions(tmp_path: Path) -> None:
    _, store = take(csv_of(tmp_path, ["1704067200.0", "1704067200.25", "1704067200.500001"]), tmp_path / "s.zarr")
    assert [ns - START_S * 10**9 for ns in axis(store)] == [0, 250_000_000, 500_001_000]


@pytest.mark.parametrize(
    "times",
    [
        ["2024-01-01T00:00:00Z", "2024-01-01T01:00:00Z", "2024-01-01T02:00:00Z"],
        ["2024-01-01 00:00 UTC", "2024-01-01 01:00 UTC", "2024-01-01 02:00 UTC"],
        ["2024-01-01 01:00:00+01:00", "2023-12-31 20:00:00-05:00", "2024-01-01 02:00:00.000+0000"],
    ],
)
def test_text_with_an_offset(tmp_path: Path, times: list[object]) -> None:
    for options in ({}, {"tz": NEW_YORK}):
        report, store = take(csv_of(tmp_path, times), tmp_path / "s.zarr", overwrite=True, **options)
        assert axis(store) == EXPECTED
        assert any("with their offset" in note for note in report.notes)


@pytest.mark.parametrize(
    ("times", "zone", "expected"),
    [
        (["2024-01-01", "2024-01-02", "2024-01-03"], "UTC", "2024-01-01 00:00:00"),
        (["2024-01-01", "2024-01-02", "2024-01-03"], NEW_YORK, "2024-01-01 05:00:00"),
        (["2024-07-01 09:30", "2024-07-01 09:31", "2024-07-01 09:32"], NEW_YORK, "2024-07-01 13:30:00"),
        (["2024-07-01T09:30:00.5", "2024-07-01T09:31:00.5"], "Asia/Kolkata", "2024-07-01 04:00:00"),
    ],
)
def test_text_without_an_offset_needs_a_zone(tmp_path: Path, times: list[object], zone: str, expected: str) -> None:
    source = csv_of(tmp_path, times)
    said = refused(source, tmp_path / "s.zarr")
    for part in ("A.csv", "'time'", str(times[0]), "--tz UTC", "--tz America/New_York"):
        assert part in said
    report, store = take(source, tmp_path / "s.zarr", tz=zone)
    assert present(store)[0][0] == expected
    assert any(f"without an offset, on the clock of {zone}" in note for note in report.notes)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([datetime(2024, 1, 1, h) for h in range(3)], pa.timestamp("us")),
        pa.array([datetime(2024, 1, 1, h) for h in range(3)], pa.timestamp("ns")),
        pa.array([date(2024, 1, d) for d in (1, 2, 3)], pa.date32()),
        pa.array([date(2024, 1, d) for d in (1, 2, 3)], pa.date64()),
    ],
)
def test_arrow_times_without_a_zone_need_one(tmp_path: Path, column: pa.Array) -> None:
    source = parquet_of(tmp_path, column)
    said = refused(source, tmp_path / "s.zarr")
    for part in ("A.parquet", "'time'", "2024-01-01", "--tz UTC"):
        assert part in said
    _, store = take(source, tmp_path / "s.zarr", tz=NEW_YORK)
    assert present(store)[0][0] == "2024-01-01 05:00:00"


def test_arrow_times_with_a_zone_are_instants(tmp_path: Path) -> None:
    times = pa.array([datetime(2024, 1, 1, h, tzinfo=UTC) for h in range(3)], pa.timestamp("ms", "Europe/Berlin"))
    _, store = take(parquet_of(tmp_path, times), tmp_path / "s.zarr", tz=NEW_YORK)
    assert axis(store) == EXPECTED


def test_epoch_numbers_on_a_wall_clock(tmp_path: Path) -> None:
    source = csv_of(tmp_path, [(START_S + i * HOUR_S) * 1000 for i in range(3)])
    report, store = take(source, tmp_path / "s.zarr", tz=NEW_YORK, wall_clock=True)
    assert present(store)[0][0] == "2024-01-01 05:00:00"
    assert any(f"milliseconds, on the clock of {NEW_YORK}" in note for note in report.notes)
    _, store = take(source, tmp_path / "t.zarr", tz=NEW_YORK)
    assert axis(store) == EXPECTED, "without wall_clock they are instants"


@pytest.mark.parametrize(
    ("times", "parts"),
    [
        (["20240101", "20240102"], ("20240101", "no epoch number", "ISO 8601")),
        (["99999999999", "99999999998"], ("99999999999", "no epoch number")),
        (["01/02/24", "01/03/24"], ("'01/02/24'", "not a time", "ISO 8601", "--column ts=NAME")),
        (["01/02/2024", "01/03/2024"], ("01/02/2024", "day from month", "--date-format '%d/%m/%Y'", "'%m/%d/%Y'")),
        (["01/13/2024", "13/01/2024"], ("'time'", "in some rows")),
        (["09:30", "09:31"], ("'09:30'", "not a time")),
        (["2024-01-01T00:00Z", "2024-01-01T01:00"], ("'time'", "mixes kinds", "one kind a file")),
        (["2024-01-01", "1704067200"], ("'time'", "mixes kinds")),
        (["1704067200", "2024-01-01"], ("'time'", "mixes kinds")),
        (["2024-01-01", "2024-13-41"], ("2024-13-41", "'time'")),
        (["1704067200", "1704067260000"], ("'time'", "seconds", "1704067260000", "one unit a file")),
        (["1704067200", ""], ("'time'", "without a time", "mend")),
        (["", "1704067200"], ("'time'", "no time in its first row", "mend")),
        (["2024-01-01", "2999-01-01"], ("'time'", "2999")),
    ],
)
def test_times_that_are_none(tmp_path: Path, times: list[object], parts: tuple[str, ...]) -> None:
    said = refused(csv_of(tmp_path, times), tmp_path / "s.zarr", tz="UTC")
    assert [part for part in ("A.csv", *parts) if part not in said] == [], said


def test_columns_of_other_types_are_no_times(tmp_path: Path) -> None:
    said = refused(parquet_of(tmp_path, pa.array([True, False])), tmp_path / "s.zarr", tz="UTC")
    for part in ("A.parquet", "'time'", "bool", "not a time"):
        assert part in said


# Clock changes: New York, 2024-03-10 02:00 to 03:00, and 2024-11-03 02:00 back to 01:00


def test_times_the_clocks_skipped_are_dropped(tmp_path: Path) -> None:
    source = csv_of(tmp_path, [f"2024-03-10 {hour:02d}:00" for hour in range(6)])
    report, store = take(source, tmp_path / "s.zarr", tz=NEW_YORK)
    symbol = only(report)
    assert (symbol.nonexistent_time, symbol.rows_kept, symbol.off_grid) == (1, 5, 0)
    assert present(store) == [
        (f"2024-03-10 {hour:02d}:00:00", close) for hour, close in ((5, 1), (6, 2), (7, 4), (8, 5), (9, 6))
    ]
    said = refused(source, tmp_path / "strict.zarr", tz=NEW_YORK, strict=True)
    for part in ("A.csv", "A at 2024-03-10 02:00 local time", "skipped", "without --strict"):
        assert part in said


def autumn(step_minutes: int) -> list[object]:
    """Local times of 2024-11-03, 00:00 to 03:00 as the clock showed them: 01:00 to 02:00 twice."""
    start = datetime(2024, 11, 3, 4, tzinfo=UTC)
    instants = (start + timedelta(minutes=m) for m in range(0, 300, step_minutes))
    return [instant.astimezone(ZoneInfo(NEW_YORK)).strftime("%Y-%m-%d %H:%M") for instant in instants]


@pytest.mark.parametrize("step_minutes", [1, 5, 15, 30, 60])
@pytest.mark.parametrize("batch_bytes", [1, 1 << 20])
def test_the_second_pass_of_a_repeated_hour_is_later(tmp_path: Path, step_minutes: int, batch_bytes: int) -> None:
    times = autumn(step_minutes)
    report, store = take(
        csv_of(tmp_path, times), tmp_path / "s.zarr", tz=NEW_YORK, batch_bytes=batch_bytes, strict=True
    )
    step_ns = step_minutes * 60 * 10**9
    assert axis(store) == list(range(axis(store)[0], axis(store)[0] + len(times) * step_ns, step_ns))
    assert [close for _, close in present(store)] == [float(i + 1) for i in range(len(times))]
    assert (only(report).repeated_hour, only(report).unsorted) == (60 // step_minutes, 0)


def test_a_repeated_hour_that_was_traded_once_is_the_earlier(tmp_path: Path) -> None:
    source = csv_of(tmp_path, ["2024-11-03 00:00", "2024-11-03 01:00", "2024-11-03 02:00", "2024-11-03 03:00"])
    report, store = take(source, tmp_path / "s.zarr", tz=NEW_YORK)
    assert [time[11:13] for time, _ in present(store)] == ["04", "05", "07", "08"]
    assert only(report).repeated_hour == 0


def test_a_row_given_twice_in_a_repeated_hour_is_a_duplicate(tmp_path: Path) -> None:
    times: list[object] = ["2024-11-03 00:00", "2024-11-03 01:00", "2024-11-03 01:00", "2024-11-03 02:00"]
    report, store = take(csv_of(tmp_path, times, [1, 2, 2, 3]), tmp_path / "s.zarr", tz=NEW_YORK)
    assert (only(report).exact_duplicate, only(report).repeated_hour) == (1, 0)
    assert [time[11:13] for time, _ in present(store)] == ["04", "05", "07"]


def test_a_repeated_hour_out_of_order_is_not_guessed_at(tmp_path: Path) -> None:
    times = autumn(60)[::-1]
    report, store = take(csv_of(tmp_path, times), tmp_path / "s.zarr", tz=NEW_YORK)
    assert (only(report).conflicting_duplicate, only(report).repeated_hour) == (1, 0)
    assert [time[11:13] for time, _ in present(store)] == ["04", "05", "07", "08"]


def test_daily_bars_of_a_place_are_on_its_grid_all_year(tmp_path: Path) -> None:
    days = [(datetime(2024, 1, 1) + timedelta(days=i)).strftime("%Y-%m-%d") for i in range(366)]
    report, store = take(csv_of(tmp_path, list(days)), tmp_path / "s.zarr", tz=NEW_YORK)
    assert (report.bar_ns, only(report).off_grid, store.info.n_bars) == (86_400 * 10**9, 0, 366)


ZONES = (
    "UTC",
    NEW_YORK,
    "Europe/London",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "America/Sao_Paulo",
)


@given(st.sampled_from(ZONES), st.lists(st.integers(0, 2_000_000_000), min_size=1, max_size=30))
def test_clocks_agree_with_zoneinfo(name: str, seconds: list[int]) -> None:
    instants = np.array(seconds, dtype=np.int64) * 10**9
    zone = ZoneInfo(name)
    moments = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=s) for s in seconds]
    shown = [moment.astimezone(zone).replace(tzinfo=None) for moment in moments]
    clock = Zone(name).clock(instants)
    local = clock.to_local(instants)
    assert local.tolist() == [round((s - datetime(1970, 1, 1)) / timedelta(seconds=1)) * 10**9 for s in shown]
    back, exists = Zone(name).clock(local).to_utc(local)
    assert exists.all()
    earlier = [s.replace(tzinfo=zone, fold=0).astimezone(UTC) for s in shown]
    assert back.tolist() == [round((e - moments[0]) / timedelta(seconds=1) + seconds[0]) * 10**9 for e in earlier]


@pytest.mark.parametrize("name", ZONES)
def test_skipped_times_are_those_zoneinfo_cannot_give_back(name: str) -> None:
    zone = ZoneInfo(name)
    start = datetime(2018, 1, 1)
    shown = [start + timedelta(minutes=30 * i) for i in range(2 * 48 * 365)]
    local = np.array([round((s - datetime(1970, 1, 1)) / timedelta(seconds=1)) for s in shown]) * 10**9
    _, exists = Zone(name).clock(local).to_utc(local)
    back = [s.replace(tzinfo=zone).astimezone(UTC).astimezone(zone).replace(tzinfo=None) for s in shown]
    assert exists.tolist() == [one == other for one, other in zip(shown, back, strict=True)]


def test_zones_may_differ_from_file_to_file_by_their_kind(tmp_path: Path) -> None:
    """One file of instants, one of local times, of the same symbol: merged on instants."""
    rows: list[Row] = bars(4)
    write_csv(tmp_path / "in" / "A-1.csv", rows[:2])
    local = [("2023-12-31 21:00", *rows[2][1:]), ("2023-12-31 22:00", *rows[3][1:])]
    write_csv(tmp_path / "in" / "A-2.csv", local)
    report, store = take(tmp_path / "in", tmp_path / "s.zarr", tz=NEW_YORK, symbol_pattern="^(A)")
    assert axis(store) == [row[0] * 10**9 for row in rows]
    assert len([note for note in report.notes if note.startswith("column 'time'")]) == 2
