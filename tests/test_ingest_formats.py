"""Ingest: what files it reads and how it knows their columns, and what it refuses to read, saying why."""

from __future__ import annotations

import gzip
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from price_files import (
    HEADER,
    HOUR_S,
    START_S,
    Row,
    assert_holds,
    bars,
    only,
    refused,
    series,
    take,
    write_csv,
    zipped,
)

MS = 1000


def text_of(tmp_path: Path, rows: list[Row]) -> str:
    return write_csv(tmp_path / "text" / "any.csv", rows).read_text()


def table_of(rows: list[Row]) -> pa.Table:
    return pa.table(dict(zip(HEADER, zip(*rows, strict=True), strict=True)))


# Formats


def test_gzip(tmp_path: Path) -> None:
    rows = bars(50)
    path = tmp_path / "BRK.B.csv.gz"
    path.write_bytes(gzip.compress(text_of(tmp_path, rows).encode()))
    report, store = take(path, tmp_path / "s.zarr")
    assert only(report).name == "BRK.B"
    assert_holds(store, rows)


def test_zip_of_one_file_gives_it_its_own_name(tmp_path: Path) -> None:
    rows = bars(50)
    members = {"data.csv": text_of(tmp_path, rows), "README.txt": "hello", "__MACOSX/._data.csv": "\0"}
    report, store = take(zipped(tmp_path / "ETHUSDT.zip", members), tmp_path / "s.zarr")
    assert only(report).name == "ETHUSDT"
    assert_holds(store, rows)


def test_zip_of_several_files(tmp_path: Path) -> None:
    one, two = bars(50, seed=1), bars(50, seed=2)
    archive = zipped(tmp_path / "all.zip", {"x/ONE.csv": text_of(tmp_path, one), "x/TWO.CSV": text_of(tmp_path, two)})
    _, store = take(archive, tmp_path / "s.zarr")
    assert_holds(store, one, "ONE")
    assert_holds(store, two, "TWO")


def test_parquet(tmp_path: Path) -> None:
    rows = bars(1000)
    pq.write_table(table_of(rows), tmp_path / "A.parquet", row_group_size=300)
    _, store = take(tmp_path / "A.parquet", tmp_path / "s.zarr")
    assert_holds(store, rows)


def test_parquet_of_other_types(tmp_path: Path) -> None:
    prices = ["0.1", "1234567890.12345678", "0.00000001"]
    columns = {
        "Time": pa.array([START_S, START_S + HOUR_S, START_S + 2 * HOUR_S], pa.uint32()),
        "Ticker": pa.array(["A", "A", "A"]).dictionary_encode(),
        "Open": pa.array([Decimal(price) for price in prices], pa.decimal128(20, 8)),
        "High": pa.array([16.540001, 2e9, 1], pa.float32()),
        "Close": pa.array(prices),
        "Volume": pa.array([1, None, 3], pa.int64()),
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    report, store = take(tmp_path / "x.parquet", tmp_path / "s.zarr")
    assert only(report).name == "A"
    assert report.fields == ("open", "high", "close", "volume")
    assert series(store, "close").tolist() == series(store, "open").tolist() == [float(price) for price in prices]
    assert series(store, "high").tolist() == [float(np.float32(16.540001)), 2e9, 1]
    assert np.array_equal(series(store, "volume"), [1, np.nan, 3], equal_nan=True)


def test_binance_klines_without_a_header(tmp_path: Path) -> None:
    rows = bars(50)
    klines = [(row[0] * MS, *row[1:], row[0] * MS + 3_599_999, 1.5, 7, 0.5, 0.25, 0) for row in rows]
    path = write_csv(tmp_path / "BTCUSDT-1h-2024-01.csv", klines, header=None)
    report, store = take(path, tmp_path / "s.zarr", symbol_pattern="^([A-Z]+)-1h-")
    assert only(report).name == "BTCUSDT"
    assert only(report).rows_read == 50, "the first line is a row"
    assert_holds(store, rows)
    assert any("Binance" in note for note in report.notes)


def test_one_long_table(tmp_path: Path) -> None:
    made = {name: bars(40, seed) for seed, name in enumerate(("B", "A", "NA"))}
    rows = [(name, *made[name][i]) for i in range(40) for name in made]
    path = write_csv(tmp_path / "long.csv", rows, header=("Ticker", *HEADER))
    report, store = take(path, tmp_path / "s.zarr")
    assert [symbol.name for symbol in report.symbols] == ["A", "B", "NA"]
    for name in made:
        assert_holds(store, made[name], name)


def test_a_folder_with_everything(tmp_path: Path) -> None:
    made = [bars(30, seed) for seed in range(4)]
    folder = tmp_path / "in"
    write_csv(folder / "deep" / "A.csv", made[0])
    (folder / "B.csv.gz").write_bytes(gzip.compress(text_of(tmp_path, made[1]).encode()))
    zipped(folder / "C.zip", {"C.csv": text_of(tmp_path, made[2])})
    pq.write_table(table_of(made[3]), folder / "D.parquet")
    for ignored in ("notes.txt", ".A.csv", "_SUCCESS.csv", ".hidden/Z.csv"):
        (folder / ignored).parent.mkdir(exist_ok=True)
        (folder / ignored).write_text("\0 no prices")
    report, store = take([folder, folder / "B.csv.gz"], tmp_path / "s.zarr")
    assert report.files == 4, "a file named twice is read once"
    for name, rows in zip("ABCD", made, strict=True):
        assert_holds(store, rows, name)


def test_archives_of_one_symbol_are_merged(tmp_path: Path) -> None:
    rows = bars(90)
    for month, part in (("2024-01", rows[:40]), ("2024-02", rows[35:70]), ("2024-03", rows[70:])):
        write_csv(tmp_path / "in" / f"ETHUSDT-1h-{month}.csv", part)
    report, store = take(tmp_path / "in", tmp_path / "s.zarr", symbol_pattern="^([A-Z]+)-")
    symbol = only(report)
    assert (symbol.name, symbol.rows_read, symbol.rows_kept, symbol.exact_duplicate) == ("ETHUSDT", 95, 90, 5)
    assert_holds(store, rows)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_other_delimiters_and_a_byte_order_mark(tmp_path: Path, delimiter: str) -> None:
    rows = bars(20)
    path = write_csv(tmp_path / "A.csv", rows, delimiter=delimiter)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"time", b'"time"').replace(b"\r\n", b"\r\n\r\n"))
    assert_holds(take(path, tmp_path / "s.zarr")[1], rows)


# Columns


@pytest.mark.parametrize(
    "header",
    [
        ("Open time", "Open", "High", "Low", "Close", "Volume"),
        ("timestamp_ms", "OPEN", "HIGH", "LOW", "CLOSE", "VOLUME"),
        ("t", "o", "h", "l", "c", "v"),
        ("<DATE>", "<OPEN>", "<HIGH>", "<LOW>", "<CLOSE>", "<VOL>"),
        (" date ", " open_price", "high price", "priceLow", "Close_Price", "qty"),
    ],
)
def test_columns_are_recognised(tmp_path: Path, header: tuple[str, ...]) -> None:
    rows = bars(20)
    assert_holds(take(write_csv(tmp_path / "A.csv", rows, header), tmp_path / "s.zarr")[1], rows)


def test_columns_named_by_the_user(tmp_path: Path) -> None:
    rows = [(*row, row[4] / 2, "X", row[0] * MS) for row in bars(20)]
    source = write_csv(tmp_path / "long.csv", rows, ("date", *HEADER[1:], "adj_close", "who", "when"))
    report, store = take(source, tmp_path / "s.zarr", columns={"close": "Adj_Close", "symbol": "who", "ts": "when"})
    assert only(report).name == "X"
    assert series(store).tolist() == [row[4] / 2 for row in rows]
    assert any("columns not used: date, close" in note for note in report.notes)


def test_an_adjusted_close_is_never_taken_unasked(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "A.csv", [(row[0], row[4]) for row in bars(9)], ("date", "adj_close"))
    said = refused(source, tmp_path / "s.zarr")
    for part in ("A.csv", "close", "adj_close", "--column close=NAME"):
        assert part in said


def test_only_close_is_needed_and_fields_are_those_of_all_files(tmp_path: Path) -> None:
    rows = bars(20)
    write_csv(tmp_path / "in" / "A.csv", rows)
    write_csv(tmp_path / "in" / "B.csv", [(row[0], row[1], row[4]) for row in rows], ("time", "open", "close"))
    report, store = take(tmp_path / "in", tmp_path / "s.zarr")
    assert report.fields == store.info.fields == ("open", "close")
    for field in ("high", "low", "volume"):
        assert any(note.startswith(f"{field} is left out") and "B.csv" in note for note in report.notes)
    report, store = take(tmp_path / "in" / "B.csv", tmp_path / "b.zarr", columns={"open": "close", "close": "open"})
    assert series(store, "close").tolist() == [row[1] for row in rows]


# Symbols


def test_symbol_by_name(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in" / "prices.csv", bars(9))
    assert only(take(source, tmp_path / "s.zarr", symbol="SPY")[0]).name == "SPY"
    write_csv(tmp_path / "in" / "more.csv", bars(9))
    said = refused(tmp_path / "in", tmp_path / "t.zarr", symbol="SPY")
    for part in ("--symbol SPY", "2 were found", "--symbol-pattern"):
        assert part in said


def test_symbol_pattern_must_be_found(tmp_path: Path) -> None:
    said = refused(write_csv(tmp_path / "prices.csv", bars(9)), tmp_path / "s.zarr", symbol_pattern="^([A-Z]+)-")
    for part in ("prices.csv", "'^([A-Z]+)-'", "'prices'", "--symbol-pattern"):
        assert part in said


def test_symbols_of_a_column_have_their_names(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "long.csv", [(*row, "A") for row in bars(9)], (*HEADER, "symbol"))
    said = refused(source, tmp_path / "s.zarr", symbol="B")
    assert "'symbol'" in said
    assert "--symbol" in said
    source = write_csv(tmp_path / "gap.csv", [(*row, " ") for row in bars(9)], (*HEADER, "symbol"))
    said = refused(source, tmp_path / "s.zarr")
    for part in ("gap.csv", "'symbol'", "without a symbol"):
        assert part in said


# Refusals


CUT = gzip.compress(b"time,close\n" + b"".join(b"%d,1\n" % (START_S + i) for i in range(9000)))[:-3000]


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("A.csv", b"", ("is empty", "leave it out")),
        ("A.csv", b" \n\n", ("is empty", "leave it out")),
        ("A.csv", b"time,close\n", ("no rows", "leave it out")),
        ("A.csv", b"\x89PNG\r\n\x1a\n\0\0", ("UTF-8", "convert it")),
        ("A.csv", "time,cløse\n".encode("utf-16"), ("UTF-8", "convert it")),
        ("A.csv", b"<html>sorry</html>\n", ("recognised as ts", "<html>sorry</html>", "--column ts=NAME")),
        ("A.csv", b"time,price,x\n1,2,3\n", ("recognised as close", "time, price, x", "--column close=NAME")),
        ("A.csv", b"when,close\n1,2\n", ("recognised as ts", "when, close", "open_time", "--column ts=NAME")),
        ("A.csv", b"date,time,close\n1,2,3\n", ("'date' and 'time'", "--column ts='date'")),
        ("A.csv", b"time,close,Close\n1,2,3\n", ("'close' and 'Close'", "--column close='close'")),
        ("A.csv", b"1,2,3\n4,5,6\n", ("no header", "'1,2,3'", "12 columns", "column names")),
        ("A.csv", b"time,close\n1704067200,1\n1704067201,n/k\n", ("'close'", "line 3", "'n/k'", "--column")),
        ("A.csv", b"time,close\n1704067200,1\n1704067201,1,2\n", ("line 3", "leave it out")),
        ("A.csv.gz", b"time,close\n", ("cannot be read", "leave it out")),
        ("A.csv.gz", CUT, ("cannot be read", "leave it out")),
        ("A.zip", b"time,close\n", ("no whole zip archive", "leave it out")),
        ("A.parquet", b"time,close\n", ("cannot be read", "leave it out")),
        ("A.txt", b"time,close\n", ("ending", ".csv, .csv.gz, .zip, .parquet")),
    ],
)
def test_files_that_are_no_prices(tmp_path: Path, name: str, content: bytes, parts: tuple[str, ...]) -> None:
    (tmp_path / name).write_bytes(content)
    said = refused(tmp_path / name, tmp_path / "s.zarr")
    assert [part for part in (name, *parts) if part not in said] == [], said


def test_a_bad_number_far_down_is_found_and_nothing_stays(tmp_path: Path) -> None:
    rows: list[Row] = [*bars(3000), (START_S * 2, "1", "1", "1", "1,5", "0")]
    said = refused(write_csv(tmp_path / "A.csv", rows, delimiter=";"), tmp_path / "s.zarr", batch_bytes=4096)
    for part in ("A.csv", "'close'", "line 3002", "'1,5'", "not a number"):
        assert part in said


def test_zip_without_csv(tmp_path: Path) -> None:
    said = refused(zipped(tmp_path / "A.zip", {"a.txt": "hello"}), tmp_path / "s.zarr")
    assert "holds no .csv file" in said


def test_parquet_without_numbers(tmp_path: Path) -> None:
    pq.write_table(pa.table({"time": [START_S, START_S + 1], "close": ["1.5", "n/k"]}), tmp_path / "A.parquet")
    said = refused(tmp_path / "A.parquet", tmp_path / "s.zarr")
    for part in ("A.parquet", "'close'", "n/k", "--column"):
        assert part in said
    pq.write_table(pa.table({"time": [START_S], "close": [True]}), tmp_path / "A.parquet")
    assert "type bool" in refused(tmp_path / "A.parquet", tmp_path / "s.zarr")


def test_columns_the_user_names_must_be_there(tmp_path: Path) -> None:
    said = refused(write_csv(tmp_path / "A.csv", bars(9)), tmp_path / "s.zarr", columns={"close": "adj"})
    for part in ("A.csv", "'adj' for close is not there", "time, open, high, low, close, volume"):
        assert part in said


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("hello")
    said = refused(tmp_path / "in", tmp_path / "s.zarr")
    for part in ("nothing to read", str(tmp_path / "in"), ".csv, .csv.gz, .zip, .parquet"):
        assert part in said
    said = refused(tmp_path / "nowhere", tmp_path / "s.zarr")
    assert f"{tmp_path / 'nowhere'} does not exist" in said
    assert "no path was given" in refused([], tmp_path / "s.zarr")


def test_rows_that_are_all_dropped(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "A.csv", [(START_S, 0, 0, 0, 0, 0)])
    said = refused(source, tmp_path / "s.zarr")
    for part in ("none of the 1 rows", "A.csv", "--strict"):
        assert part in said
