"""Ingest: Feather and Arrow, freqtrade's folder, Binance's archives, Lean's zips."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.ipc as ipc
import pytest
from price_files import (
    HEADER,
    HOUR_S,
    START_S,
    Row,
    assert_holds,
    axis,
    bars,
    only,
    refused,
    series,
    take,
    zipped,
)

from atc_backtest.stores.ingest.csv_file import KLINES
from atc_backtest.stores.zarr_store import ZarrStore


def lines(rows: list[tuple[object, ...]]) -> str:
    return "".join(",".join(str(cell) for cell in row) + "\n" for row in rows)


def table_of(rows: list[Row], time: str = "date", of: pa.DataType | None = None) -> pa.Table:
    columns = dict(zip((time, *HEADER[1:]), zip(*rows, strict=True), strict=True))
    if of is not None:
        columns[time] = pa.array([row[0] * 1000 for row in rows], pa.int64()).cast(pa.timestamp("ms", "UTC")).cast(of)
    return pa.table(columns)


def names(store: ZarrStore) -> list[str]:
    return [symbol.name for symbol in store.info.symbols]


# Arrow and Feather


@pytest.mark.parametrize("compression", ["uncompressed", "zstd", "lz4"])
def test_feather(tmp_path: Path, compression: str) -> None:
    rows = bars(1000)
    feather.write_feather(table_of(rows, "time"), tmp_path / "A.feather", compression=compression, chunksize=300)
    for batch_bytes in (1 << 20, 1000):
        report, store = take(tmp_path / "A.feather", tmp_path / "s.zarr", batch_bytes=batch_bytes, overwrite=True)
        assert (only(report).name, only(report).rows_read) == ("A", 1000)
        assert_holds(store, rows)


@pytest.mark.parametrize("make", [ipc.new_file, ipc.new_stream])
def test_arrow_files_and_streams_of_a_long_table(tmp_path: Path, make: object) -> None:
    made = {name: bars(40, seed) for seed, name in enumerate(("B", "A"))}
    rows = [row for name in made for row in made[name]]
    table = table_of(rows, "ts").append_column(
        "ticker", pa.array([n for n in made for _ in range(40)]).dictionary_encode()
    )
    with make(str(tmp_path / "long.arrow"), table.schema) as writer:  # type: ignore[operator]
        writer.write_table(table, max_chunksize=7)
    _, store = take(tmp_path / "long.arrow", tmp_path / "s.zarr")
    for name in made:
        assert_holds(store, made[name], name)


def test_feather_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "A.feather"
    for content in (b"", b"time,close\n1,2\n", b"ARROW1\0\0" + b"\xff" * 200):
        path.write_bytes(content)
        assert "A.feather cannot be read as Arrow or Feather" in refused(path, tmp_path / "s.zarr")


# freqtrade


def test_freqtrades_folder(tmp_path: Path) -> None:
    folder = tmp_path / "binance"
    (folder / "futures").mkdir(parents=True)
    made = [bars(60, seed) for seed in range(4)]
    table = table_of(made[0], of=pa.timestamp("ns", "UTC"))
    feather.write_feather(table, folder / "BTC_USDT-1h.feather", compression="lz4")
    feather.write_feather(
        table_of(made[1], of=pa.timestamp("ms", "UTC")), folder / "futures" / "BTC_USDT_USDT-1h-futures.feather"
    )
    for other in ("BTC_USDT_USDT-8h-mark", "BTC_USDT_USDT-1h-funding_rate", "BTC_USDT_USDT-trades"):
        feather.write_feather(table, folder / "futures" / f"{other}.feather")
    milliseconds = [[row[0] * 1000, *row[1:]] for row in made[2]]
    (folder / "ETH_USDT-1h.json").write_text(json.dumps(milliseconds))
    compact = json.dumps([[row[0] * 1000, *row[1:]] for row in made[3]], separators=(",", ":"))
    (folder / "LTC_USDT-1h.json.gz").write_bytes(gzip.compress(compact.encode()))
    (folder / "pairs.json").write_text('{"no": "prices"}')
    report, store = take(folder, tmp_path / "s.zarr")
    assert names(store) == ["BTC_USDT", "BTC_USDT_USDT", "ETH_USDT", "LTC_USDT"]
    for name, rows in zip(names(store), made, strict=True):
        assert_holds(store, rows, name)
    assert any("symbols from file names, as freqtrade" in note for note in report.notes)
    assert any(note.startswith("passed over, no prices of trades") and "and 1 more" in note for note in report.notes)
    assert any(note.startswith("passed over, single trades") for note in report.notes)
    only_marks = folder / "futures" / "BTC_USDT_USDT-8h-mark.feather"
    assert "1 files were passed over: no prices of trades" in refused(only_marks, tmp_path / "t.zarr")
    take(folder / "BTC_USDT-1h.feather", tmp_path / "u.zarr", symbol="X")


def rows_json(rows: list[Row], **how: object) -> str:
    return json.dumps([[row[0] * 1000, *row[1:]] for row in rows], **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("batch_bytes", [1, 1100, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_json_rows_in_blocks_of_any_size(tmp_path: Path, batch_bytes: int, indent: int | None) -> None:
    rows = bars(200)
    (tmp_path / "A.json").write_text(rows_json(rows, indent=indent))
    report, store = take(tmp_path / "A.json", tmp_path / "s.zarr", batch_bytes=batch_bytes)
    assert only(report).rows_read == 200
    assert_holds(store, rows)


def test_json_of_binances_interface(tmp_path: Path) -> None:
    rows = bars(20)
    klines = [[row[0] * 1000, *map(str, row[1:]), row[0] * 1000 + 1, "1.5", 7, "0.5", "0.25", "0"] for row in rows]
    (tmp_path / "A.json").write_text(json.dumps(klines))
    assert_holds(take(tmp_path / "A.json", tmp_path / "s.zarr")[1], rows)


GOOD = "[[1704067200000,1,1,1,1,1],[1704070800000,1,1,1,1,1],[1704074400000,1,1,1,1,1]]"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ("is empty",)),
        ("[]", ("no rows",)),
        ("[[]]", ("no rows",)),
        ('{"a": 1}', ("begins with",)),
        ("[1,2,3]", ("begins with",)),
        ('[{"date": 1}]', ("begins with",)),
        ("[[1,2,3]]", ("3 values",)),
        (GOOD[:-1], ("cut short",)),
        (GOOD[:-9], ("cut short",)),
        (GOOD + "x", ("more after its end", "cut short")),
        (GOOD[:-1] + ",[]]", ("no array of arrays",)),
        (GOOD.replace("],[", "],[],[", 1), ("no array of arrays",)),
        (GOOD.replace("],[", "] [", 1), ("no array of arrays",)),
        (GOOD.replace("1,1]", "1,[1]]", 1), ("begins with",)),
        (GOOD[:30] + "x" + GOOD[30:], ("mixes kinds",)),
        (GOOD.replace("00,1,1", "00,1 1,1", 1), ("'1 1'",)),
        (GOOD.replace(",1]]", "]]"), ("6 columns", "Expected 6")),
    ],
)
def test_json_that_is_none(tmp_path: Path, text: str, parts: tuple[str, ...]) -> None:
    (tmp_path / "A.json").write_text(text)
    for batch_bytes in (1 << 10, 1 << 20):
        said = refused(tmp_path / "A.json", tmp_path / "s.zarr", batch_bytes=batch_bytes)
        assert "A.json" in said
        assert any(part in said for part in parts), said


# Binance


def klines(rows: list[Row], scale: int = 1000) -> list[tuple[object, ...]]:
    return [(row[0] * scale, *row[1:], (row[0] + 3600) * scale - 1, 1.5, 7, 0.5, 0.25, 0) for row in rows]


def test_binances_archives(tmp_path: Path) -> None:
    start = START_S + 30 * 86_400
    btc, eth = bars(24 * 60, start_s=start), bars(48, start_s=start, seed=1)
    header = ",".join(KLINES) + "\n"
    for name, rows, scale, head in (
        ("BTCUSDT-1h-2024-12", btc[:700], 1000, ""),
        ("BTCUSDT-1h-2025-01", btc[700:1400], 1_000_000, ""),
        ("BTCUSDT-1h-2025-02-01", btc[1400:], 1_000_000, header),
        ("ETHUSD_PERP-1h-2024-12", eth, 1000, header),
    ):
        zipped(tmp_path / "in" / f"{name}.zip", {f"{name}.csv": head + lines(klines(rows, scale))})
    report, store = take(tmp_path / "in", tmp_path / "s.zarr", strict=True)
    assert names(store) == ["BTCUSDT", "ETHUSD_PERP"]
    assert_holds(store, btc, "BTCUSDT")
    assert_holds(store, eth, "ETHUSD_PERP")
    assert any("symbols from file names, as Binance" in note for note in report.notes)
    assert any("microseconds" in note for note in report.notes)
    _, store = take(tmp_path / "in", tmp_path / "t.zarr", symbol_pattern="^([A-Z]{3})")
    assert names(store) == ["BTC", "ETH"]


# Lean


NEW_YORK = "America/New_York"


def in_cents(rows: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    return [(row[0], *(round(float(price) * 10_000) for price in row[1:5]), *row[5:]) for row in rows]


def priced(n: int, seed: int = 0) -> list[Row]:
    return [(row[0], *(round(price, 4) for price in row[1:5]), row[5]) for row in bars(n, seed)]


def test_lean_equities(tmp_path: Path) -> None:
    data = tmp_path / "data" / "equity" / "usa"
    made = priced(300)
    for day, part in (("20240102", made[:150]), ("20240103", made[150:])):
        rows = [((570 + i) * 60_000, *row[1:]) for i, row in enumerate(part)]
        zipped(data / "minute" / "aapl" / f"{day}_trade.zip", {f"{day}_aapl_minute_trade.csv": lines(in_cents(rows))})
        quotes = {f"{day}_aapl_minute_quote.csv": "34200000,1,1,1,1,5,2,2,2,2,5\n"}
        zipped(data / "minute" / "aapl" / f"{day}_quote.zip", quotes)
    report, store = take(data / "minute", tmp_path / "m.zarr", tz=NEW_YORK, calendar="XNYS")
    assert (only(report).name, report.bar_ns) == ("aapl", 60 * 10**9)
    assert_holds(store, made)
    assert str(np.datetime64(axis(store)[0], "ns"))[:16] == "2024-01-02T14:30"
    assert any("bars of trades; prices divided by 10,000" in note for note in report.notes)
    assert any(note.startswith("passed over, quotes") and "and 1 more" in note for note in report.notes)
    assert "--tz America/New_York" in refused(data / "minute", tmp_path / "x.zarr")

    hourly = [(f"202401{2 + i // 7:02d} {9 + i % 7:02d}:00", *row[1:]) for i, row in enumerate(priced(70, 1))]
    zipped(data / "hour" / "spy.zip", {"spy.csv": lines(in_cents(hourly))})
    report, store = take(data / "hour", tmp_path / "h.zarr", tz=NEW_YORK)
    assert only(report).name == "spy"
    assert_holds(store, hourly)
    assert str(np.datetime64(axis(store)[0], "ns"))[:16] == "2024-01-02T14:00"


def test_lean_quotes_are_the_middle(tmp_path: Path) -> None:
    folder = tmp_path / "forex" / "oanda" / "hour"
    rows = [
        ("20240102 00:00", 1.0, 1.5, 0.5, 1.0, 0, 2.0, 2.5, 1.5, 2.0, 0),
        ("20240102 01:00", 1.0, 1.5, 0.5, 1.0, 0, "", "", "", "", ""),
        ("20240102 02:00", 0, 0, 0, 0, 0, 2.0, 2.5, 1.5, 2.0, 0),
        ("20240102 03:00", "", "", "", "", "", "", "", "", "", ""),
    ]
    zipped(folder / "eurusd.zip", {"eurusd.csv": lines(rows)})
    report, store = take(folder, tmp_path / "s.zarr", tz="UTC")
    assert report.fields == ("open", "high", "low", "close")
    assert (only(report).name, only(report).rows_read, only(report).bad_price) == ("eurusd", 4, 1)
    assert series(store, "open").tolist() == [1.5, 1.0, 2.0]
    assert series(store, "high").tolist() == [2.0, 1.5, 2.5]
    assert any("middle of bid and ask" in note for note in report.notes)


def test_lean_crypto_has_no_factor(tmp_path: Path) -> None:
    made = bars(30)
    daily = [(f"202401{i + 1:02d} 00:00", *row[1:]) for i, row in enumerate(made)]
    zipped(tmp_path / "crypto" / "coinbase" / "daily" / "btcusd_trade.zip", {"btcusd.csv": lines(daily)})
    zipped(
        tmp_path / "crypto" / "coinbase" / "daily" / "btcusd_quote.zip", {"btcusd.csv": "20240101 00:00" + ",1" * 10}
    )
    report, store = take(tmp_path / "crypto", tmp_path / "s.zarr", tz="UTC")
    assert only(report).name == "btcusd"
    assert_holds(store, made)


@pytest.mark.parametrize(
    ("place", "member", "text", "parts"),
    [
        ("x/20240102_trade.zip", "20240102_aapl_minute_trade.csv", "1,1,1,1,1,1\n", ("tells its market", "equity/usa")),
        (
            "future/cme/minute/es/20240102_trade.zip",
            "20240102_es_minute_trade_202403.csv",
            "1,1\n",
            ("future trade", "not read"),
        ),
        ("equity/usa/minute/a/20241302_trade.zip", "20241302_a_minute_trade.csv", "1,1,1,1,1,1\n", ("no day",)),
        ("equity/usa/minute/a/20240102_trade.zip", "20240102_a_minute_trade.csv", "1,1,1\n", ("6 values",)),
        (
            "equity/usa/minute/a/20240102_trade.zip",
            "20240102_a_minute_trade.csv",
            "86400000,1,1,1,1,1\n",
            ("since midnight",),
        ),
        ("equity/usa/hour/a.zip", "a.csv", "time,close\n1,2\n", ("6 values", "11 (quotes)")),
        ("x/a.zip", "a.csv", "20240102 00:00,1,1,1,1,1\n", ("no header", "Lean's folders")),
    ],
)
def test_lean_that_is_not_read(tmp_path: Path, place: str, member: str, text: str, parts: tuple[str, ...]) -> None:
    said = refused(zipped(tmp_path / place, {member: text}), tmp_path / "s.zarr", tz="UTC")
    assert [part for part in parts if part not in said] == [], said


def test_an_archive_with_a_name_twice(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "A.zip", "w") as archive:
        archive.writestr("a.csv", "time,close\n1,2\n")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.csv", "time,close\n1,3\n")
    assert "'a.csv' twice" in refused(tmp_path / "A.zip", tmp_path / "s.zarr")


def test_hours_of_the_axis(tmp_path: Path) -> None:
    """Times of Feather in whole nanoseconds survive as they are."""
    feather.write_feather(table_of(bars(5), of=pa.timestamp("ns", "UTC")), tmp_path / "A.feather")
    _, store = take(tmp_path / "A.feather", tmp_path / "s.zarr")
    assert axis(store) == [(START_S + i * HOUR_S) * 10**9 for i in range(5)]
