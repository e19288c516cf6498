"""Ingest: dates as people write them, a date and a time in two columns, decimal commas, a first line of comment."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from price_files import HEADER, HOUR_S, START_S, axis, bars, flat, only, refused, series, take, write_csv

from atc_backtest.errors import ConfigError
from atc_backtest.stores.ingest import IngestOptions
from atc_backtest.stores.ingest.dates import DateForm

DAY_S = 86_400
EXPECTED = [(START_S + i * DAY_S) * 10**9 for i in range(20)]
DAYS = [datetime(2024, 1, 1) + timedelta(days=i) for i in range(20)]


def csv_of(tmp_path: Path, times: list[object], name: str = "A") -> Path:
    return write_csv(tmp_path / f"{name}.csv", [flat(value, i + 1.0) for i, value in enumerate(times)])


def refused_in_utc(source: Path, store: Path, **options: object) -> str:
    return refused(source, store, **{"tz": "UTC"} | options)


@pytest.mark.parametrize(
    "form",
    [
        *(
            "%d/%m/%Y",
            "%m/%d/%Y",
            "%d.%m.%Y",
            "%m-%d-%Y",
            "%Y/%m/%d",
            "%Y.%m.%d",
            "%d/%m/%Y %H:%M",
            "%m/%d/%Y %H:%M:%S",
        ),
        *("%Y.%m.%d %H:%M", "%Y%m%d %H%M%S", "%Y%m%d %H:%M", "%m/%d/%Y %I:%M %p", "%d/%m/%Y, %H:%M:%S.%f"),
    ],
)
@pytest.mark.parametrize("batch_bytes", [1, 1 << 20])
def test_forms_that_the_column_tells(tmp_path: Path, form: str, batch_bytes: int) -> None:
    source = csv_of(tmp_path, [day.strftime(form) for day in DAYS])
    report, store = take(source, tmp_path / "s.zarr", tz="UTC", batch_bytes=batch_bytes)
    assert axis(store) == EXPECTED
    assert any(f"read as {form} " in note for note in report.notes)
    assert "--tz UTC" in refused_in_utc(source, tmp_path / "t.zarr", tz=None)


@pytest.mark.parametrize(
    "form", ["%d/%m/%Y", "%m/%d/%y", "%d-%b-%Y", "%B %d, %Y", "%Y%m%d", "%Y-%m-%d %I-%p", "%Y%m%d%H%M", "%d%%%m%%%Y"]
)
def test_forms_that_the_user_tells(tmp_path: Path, form: str) -> None:
    source = csv_of(tmp_path, [day.strftime(form) for day in DAYS[:12]])
    _, store = take(source, tmp_path / "s.zarr", tz="UTC", date_format=form)
    assert axis(store) == EXPECTED[:12]


def test_numbers_of_parquet_may_be_dates(tmp_path: Path) -> None:
    days = [int(day.strftime("%Y%m%d")) for day in DAYS]
    pq.write_table(pa.table({"date": days, "close": [1.0] * 20}), tmp_path / "A.parquet")
    assert "--date-format %Y%m%d" in refused_in_utc(tmp_path / "A.parquet", tmp_path / "s.zarr")
    _, store = take(tmp_path / "A.parquet", tmp_path / "s.zarr", tz="UTC", date_format="%Y%m%d")
    assert axis(store) == EXPECTED


def test_day_and_month_must_be_told_apart(tmp_path: Path) -> None:
    said = refused_in_utc(csv_of(tmp_path, [f"0{i}/01/2024" for i in range(1, 10)]), tmp_path / "s.zarr")
    for part in ("01/01/2024", "--date-format '%d/%m/%Y'", "--date-format '%m/%d/%Y'"):
        assert part in said
    said = refused_in_utc(csv_of(tmp_path, ["13/01/2024", "01/14/2024"]), tmp_path / "s.zarr")
    assert "in some rows" in said
    said = refused_in_utc(csv_of(tmp_path, ["13/01/2024", "2024-01-14"]), tmp_path / "s.zarr")
    for part in ("'2024-01-14'", "another form", "'%d/%m/%Y'", "--date-format"):
        assert part in said
    for wrong in ("31/02/2024", "00/01/2024", "01/00/2024"):
        said = refused_in_utc(csv_of(tmp_path, ["13/01/2024", wrong]), tmp_path / "s.zarr")
        assert f"{wrong!r}, which is no time" in said


@pytest.mark.parametrize("form", ["%d/%m", "%Y", "%Y-%m-%d %Q", "%Y-%m-%d %Y", "%d/%m/%Y %I:%M", "", "%Y-%m-%d%"])
def test_forms_that_are_none(form: str) -> None:
    with pytest.raises(ConfigError, match="date_format"):
        IngestOptions(date_format=form)


@given(st.datetimes(datetime(1970, 1, 1), datetime(2068, 12, 31)), st.sampled_from(["%Y", "%y"]), st.booleans())
def test_a_form_reads_what_strftime_writes(when: datetime, year: str, half: bool) -> None:
    form = f"%d.%m.{year} " + ("%I:%M:%S.%f %p" if half else "%H:%M:%S.%f")
    found = DateForm(form).to_ns(pa.array([when.strftime(form)]), "x", "y")
    assert int(found[0]) == int(np.datetime64(when, "ns").astype(np.int64))


def test_a_date_alone_before_1970_with_fractions() -> None:
    found = DateForm("%d/%m/%Y %H:%M:%S.%f").to_ns(pa.array(["1/2/1960 01:02:03.5"]), "x", "y")
    assert str(np.datetime64(int(found[0]), "ns")) == "1960-02-01T01:02:03.500000000"


# Two columns


@pytest.mark.parametrize(
    ("header", "day", "clock"),
    [
        (("date", "time"), "%Y-%m-%d", "%H:%M"),
        (("<DATE>", "<TIME>"), "%Y.%m.%d", "%H:%M:%S"),
        (("Date", "Time"), "%Y%m%d", "%H%M%S"),
        (("Date", "Time"), "%m/%d/%Y", "%I:%M %p"),
        (("time", "date"), "%H:%M", "%d/%m/%Y"),
    ],
)
def test_a_date_and_its_time_in_two_columns(tmp_path: Path, header: tuple[str, str], day: str, clock: str) -> None:
    times = [datetime(2024, 1, 1) + timedelta(hours=i) for i in range(400)]
    rows = [(when.strftime(day), when.strftime(clock), 1, i + 1) for i, when in enumerate(times)]
    source = write_csv(tmp_path / "A.csv", rows, (*header, "open", "close"))
    _, store = take(source, tmp_path / "s.zarr", tz="UTC", batch_bytes=3000)
    assert axis(store) == [(START_S + i * HOUR_S) * 10**9 for i in range(400)]


def test_two_columns_of_parquet(tmp_path: Path) -> None:
    table = pa.table(
        {"date": [date(2024, 1, 1)] * 3, "time": [time(9 + i) for i in range(3)], "close": [1.0, 2.0, 3.0]}
    )
    pq.write_table(table, tmp_path / "A.parquet")
    _, store = take(tmp_path / "A.parquet", tmp_path / "s.zarr", tz="UTC")
    assert axis(store) == [(START_S + (9 + i) * HOUR_S) * 10**9 for i in range(3)]


def test_two_columns_named_by_the_user(tmp_path: Path) -> None:
    rows = [(f"{i + 1:02d}.01.24", "0930", 1.0) for i in range(3)]
    source = write_csv(tmp_path / "A.csv", rows, ("Tag", "Zeit", "close"))
    options = {"columns": {"ts": "Tag+Zeit"}, "date_format": "%d.%m.%y %H%M"}
    report, store = take(source, tmp_path / "s.zarr", tz="UTC", **options)
    assert axis(store) == [(START_S + i * DAY_S + 34_200) * 10**9 for i in range(3)]
    assert any("column 'Tag Zeit'" in note for note in report.notes)
    assert "'Uhr' for ts is not there" in refused_in_utc(source, tmp_path / "t.zarr", columns={"ts": "Tag+Uhr"})


@pytest.mark.parametrize("row", [("2024-01-01 00:00", "1704067200"), ("2024-01-01", "x"), ("1", "2")])
def test_two_columns_that_are_no_date_and_time(tmp_path: Path, row: tuple[str, str]) -> None:
    source = write_csv(tmp_path / "A.csv", [(*row, 1.0)], ("date", "time", "close"))
    assert "'date' and 'time' could all be ts" in refused_in_utc(source, tmp_path / "s.zarr")


def test_an_empty_cell_of_two_is_no_time(tmp_path: Path) -> None:
    rows = [("2024-01-01", "00:00", 1), ("2024-01-01", " ", 1)]
    source = write_csv(tmp_path / "A.csv", rows, ("date", "time", "close"))
    assert "'date time' has a row without a time" in refused_in_utc(source, tmp_path / "s.zarr")


# Decimal commas and comments


def comma(rows: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    return [(row[0], *(str(cell).replace(".", ",") for cell in row[1:])) for row in rows]


def test_decimal_commas(tmp_path: Path) -> None:
    rows = bars(30)
    source = write_csv(tmp_path / "A.csv", comma(rows), delimiter=";")
    report, store = take(source, tmp_path / "s.zarr")
    for column, field in enumerate(HEADER[1:], start=1):
        assert series(store, field).tolist() == [row[column] for row in rows]
    assert any("decimal comma" in note for note in report.notes)


def test_a_comma_that_may_part_thousands_is_asked_about(tmp_path: Path) -> None:
    rows = [(START_S + i * HOUR_S, "1,234") for i in range(3)]
    source = write_csv(tmp_path / "A.csv", rows, ("time", "close"), delimiter=";")
    said = refused_in_utc(source, tmp_path / "s.zarr")
    for part in ("'close'", "1,234", "thousands", "--decimal-comma"):
        assert part in said
    assert series(take(source, tmp_path / "s.zarr", decimal_comma=True)[1]).tolist() == [1.234] * 3
    mixed = write_csv(tmp_path / "B.csv", [(START_S, "1,5"), (START_S + 1, "1.5")], ("time", "close"), delimiter=";")
    assert "'1.5', not a number" in refused_in_utc(mixed, tmp_path / "t.zarr")
    plain = write_csv(tmp_path / "C.csv", bars(3))
    assert "delimited by commas" in refused_in_utc(plain, tmp_path / "t.zarr", decimal_comma=True)


@pytest.mark.parametrize("first", ["https://www.CryptoDataDownload.com", "# made by hand, 2024", "http://x.y/z?a=1,"])
def test_a_first_line_of_comment_is_skipped_and_said(tmp_path: Path, first: str) -> None:
    rows = bars(30)
    source = write_csv(tmp_path / "A.csv", rows)
    source.write_text(f"{first}\n{source.read_text()}")
    report, store = take(source, tmp_path / "s.zarr")
    assert only(report).rows_read == 30
    assert series(store).tolist() == [row[4] for row in rows]
    assert any("was skipped" in note and first[:8] in note for note in report.notes)
    bad = write_csv(tmp_path / "B.csv", [*rows, (START_S * 2, "1", "1", "1", "x", "0")])
    bad.write_text(f"{first}\n\n{bad.read_text()}")
    assert "line 34" in refused_in_utc(bad, tmp_path / "t.zarr")
