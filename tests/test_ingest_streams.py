"""Ingest streams: batches of any size give the same store, memory stays bounded, real prices arrive whole."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from price_files import HEADER, START_S, axis, bars, flat, only, series, take, write_csv

from atc_backtest.errors import StoreError
from atc_backtest.stores.base import parse_bar
from atc_backtest.stores.ingest import IngestReport, spool
from atc_backtest.stores.zarr_store import ZarrStore

ROOT = Path(__file__).resolve().parent.parent

MESSY = st.lists(
    st.tuples(
        st.sampled_from(["A", "B", "C"]),
        st.integers(0, 12),
        st.sampled_from([1.0, 2.0, 3.5, 0.0, -1.0, float("nan")]),
        st.sampled_from([0.0, 7.0, -1.0, float("nan")]),
    ),
    min_size=2,
    max_size=120,
)

REGULAR = [(symbol, hour, 1.0, 1.0) for symbol in "ABC" for hour in range(100, 140)]
"""Enough steps of an hour to make that the bar size, whatever is drawn."""


def naive(rows: list[tuple[str, int, float, float]]) -> dict[str, dict[int, tuple[float, float]]]:
    """Symbol -> time -> (close, volume) of the rows that stay: the rules once more, a row at a time."""
    stays: dict[str, dict[int, tuple[float, float]]] = {}
    for symbol, hour, close, volume in rows:
        if close > 0:
            stays.setdefault(symbol, {})[hour] = (close, volume if volume >= 0 else float("nan"))
    return stays


def contents(store: ZarrStore) -> dict[str, np.ndarray]:
    n_symbols, n_bars = len(store.info.symbols), store.info.n_bars
    return {field: store.read(field, (0, n_symbols), (0, n_bars)) for field in store.info.fields}


def untimed(report: IngestReport) -> IngestReport:
    return replace(report, seconds=0.0, store=Path(), notes=())


@given(MESSY, st.integers(1, 3000))
@settings(max_examples=15)
def test_batches_of_any_size_give_the_same_store(rows: list[tuple[str, int, float, float]], batch_bytes: int) -> None:
    rows = rows + REGULAR
    columns = (("symbol", [row[0] for row in rows]), ("ts", [START_S + 3600 * row[1] for row in rows]))
    table = pa.table({**dict(columns), "close": [row[2] for row in rows], "volume": [row[3] for row in rows]})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pq.write_table(table, folder / "long.parquet")
        pacsv.write_csv(table, folder / "long.csv")
        made = [
            take(folder / "long.parquet", folder / "whole.zarr"),
            take(folder / "long.parquet", folder / "cut.zarr", batch_bytes=batch_bytes),
            take(folder / "long.csv", folder / "text.zarr", batch_bytes=batch_bytes),
        ]
        reports = [untimed(report) for report, _ in made]
        found = [contents(store) for _, store in made]
        axes = [axis(store) for _, store in made]
    assert reports[0] == reports[1] == reports[2]
    assert axes[0] == axes[1] == axes[2]
    for field, values in found[0].items():
        assert all(np.array_equal(values, other[field], equal_nan=True) for other in found[1:])


@given(MESSY)
@settings(max_examples=15)
def test_what_stays_is_what_a_plain_loop_keeps(rows: list[tuple[str, int, float, float]]) -> None:
    rows = rows + REGULAR
    expected = naive(rows)
    with tempfile.TemporaryDirectory() as name:
        lines = [(symbol, START_S + 3600 * hour, close, volume) for symbol, hour, close, volume in rows]
        source = write_csv(Path(name) / "long.csv", lines, ("symbol", "ts", "close", "volume"))
        _, store = take(source, Path(name) / "s.zarr", batch_bytes=1)
        hours = [(ns // 10**9 - START_S) // 3600 for ns in axis(store)]
        found = contents(store)
    assert hours == sorted({hour for kept in expected.values() for hour in kept})
    assert [symbol.name for symbol in store.info.symbols] == sorted(expected)
    for row, kept in enumerate(expected[name] for name in sorted(expected)):
        for column, field in enumerate(("close", "volume")):
            wanted = [kept.get(hour, (np.nan, np.nan))[column] for hour in hours]
            assert np.array_equal(found[field][row], wanted, equal_nan=True)


def test_many_symbols_in_small_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More symbols than a chunk holds, a buffer that is emptied many times, files longer than a piece."""
    monkeypatch.setattr(spool, "BUFFER_BYTES", 1 << 12)
    monkeypatch.setattr(spool, "PIECE_ROWS", 50)
    names = [f"S{i:03d}" for i in range(130)]
    rows = [(name, *row) for row in bars(170) for name in names]
    source = write_csv(tmp_path / "long.csv", rows[::-1], ("symbol", *HEADER))
    report, store = take(source, tmp_path / "s.zarr", batch_bytes=1 << 14)
    assert [(symbol.rows_kept, symbol.unsorted) for symbol in report.symbols] == [(170, 169)] * 130
    for field, column in (("open", 1), ("close", 4), ("volume", 5)):
        expected = np.array([row[column] for row in bars(170)])
        assert (contents(store)[field] == expected).all()


def test_axes_that_hardly_meet(tmp_path: Path) -> None:
    """Longer than a chunk of bars; each symbol is there for a part, one with a hole of whole chunks."""
    n = 40_000
    minutes = {"A": range(0, n, 1), "B": range(30_000, n + 5_000), "C": [*range(10), *range(39_000, n)]}
    for name, kept in minutes.items():
        rows = [flat(START_S + 60 * minute, minute + 1.0) for minute in kept]
        write_csv(tmp_path / "in" / f"{name}.csv", rows)
    _, store = take(tmp_path / "in", tmp_path / "s.zarr")
    assert store.info.n_bars == n + 5_000
    for name, kept in minutes.items():
        expected = np.full(n + 5_000, np.nan)
        expected[list(kept)] = np.array(list(kept)) + 1.0
        assert np.array_equal(series(store, "close", name), expected, equal_nan=True)


def test_a_full_disk_is_a_store_error_and_leaves_nothing(tmp_path: Path) -> None:
    """The limit on a file's size stands for the disk's."""
    source = write_csv(tmp_path / "A.csv", bars(30_000))
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        "from atc_backtest.cli import main; sys.argv = ['atc-backtest', *sys.argv[1:]]; main()"
    )
    command = [sys.executable, "-c", script, "ingest", str(source), "--store", str(tmp_path / "s.zarr")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "cannot write" in done.stderr
    assert "uncompressed" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["A.csv"]
    assert issubclass(StoreError, OSError)


PEAK = """
import sys
from pathlib import Path
from atc_backtest.stores.ingest import ingest
ingest([Path(sys.argv[1])], Path(sys.argv[2]))
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) * 1024)
"""


def peak_bytes(folder: Path, n_bars: int, n_symbols: int) -> tuple[int, int]:
    """Size of a long table whose symbols take turns, and the most memory that ingesting it took."""
    source = folder / f"{n_bars}.csv"
    with source.open("w", encoding="utf-8") as file:
        file.write("symbol," + ",".join(HEADER) + "\n")
        for row in bars(n_bars):
            text = ",".join(f"{value:.9g}" for value in row[1:])
            file.writelines(f"S{i},{row[0]},{text}\n" for i in range(n_symbols))
    command = [sys.executable, "-c", PEAK, str(source), str(folder / f"{n_bars}.zarr")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return source.stat().st_size, int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="peak memory of a process is read from Linux's /proc"
)
def test_memory_does_not_grow_with_the_input(tmp_path: Path) -> None:
    """2.5 times the rows, 2.5 million, may not cost half of the text they add; held at once they would cost twice.

    Both are past the 16 MB of rows that wait for their files and fill a chunk of the store: everything that
    has a limit has reached it. The half is slack of the allocators, which measures at up to 20 MB either way.
    """
    less, less_peak = peak_bytes(tmp_path, 34_000, 30)
    more, more_peak = peak_bytes(tmp_path, 85_000, 30)
    assert more > 90e6
    assert more_peak - less_peak < (more - less) / 2, f"{less_peak / 1e6:.0f} MB, then {more_peak / 1e6:.0f} MB"
    assert more_peak < 500e6, "the imports and the compiled codec are 240 MB of it"


# Real prices


def assert_same_as_pandas(store: ZarrStore, symbol: str, frame: pd.DataFrame, ns: pd.Series) -> None:
    """The frame's rows are the symbol's bars, all of them and bit for bit."""
    for field in store.info.fields:
        found = series(store, field, symbol)
        kept = ~np.isnan(series(store, "close", symbol))
        assert np.array_equal(np.array(axis(store))[kept], ns.to_numpy())
        assert np.array_equal(found[kept], frame[field].to_numpy(dtype=np.float64))


@pytest.mark.parametrize("folder", ["bitfinex_1m", "binance_1h", "binance_1m"])
def test_crypto(shared_data: Path, tmp_path: Path, folder: str) -> None:
    report, store = take(shared_data / folder, tmp_path / "s.zarr", symbol_pattern="^([A-Z0-9]+)", strict=True)
    assert report.bar_ns == parse_bar(folder.rpartition("_")[2])
    assert any("milliseconds, UTC" in note for note in report.notes)
    for path in sorted((shared_data / folder).glob("*.parquet")):
        frame = pd.read_parquet(path)
        assert_same_as_pandas(store, path.stem.partition("_")[0], frame, frame["time"] * 10**6)


def test_us_daily(shared_data: Path, tmp_path: Path) -> None:
    options = {"tz": "America/New_York", "calendar": "XNYS", "strict": True}
    report, store = take(shared_data / "us_daily", tmp_path / "s.zarr", **options)
    assert len(report.symbols) == 150
    assert not any(symbol.off_grid for symbol in report.symbols)
    assert any("columns not used: adj_close" in note for note in report.notes)
    frame = pd.read_parquet(shared_data / "us_daily" / "pystock_150sym.parquet")
    opens = pd.to_datetime(frame["date"]).dt.tz_localize("America/New_York").dt.tz_convert("UTC")
    frame["ns"] = opens.dt.as_unit("ns").astype("int64")
    for symbol in ("AAL", "AAPL", "YUM"):
        part = frame[frame["symbol"] == symbol].sort_values("ns")
        assert_same_as_pandas(store, symbol, part, part["ns"])


@pytest.mark.parametrize(("size", "bar"), [("hour", "1h"), ("minute", "1m")])
def test_lean_equities_are_on_exchange_time(shared_data: Path, tmp_path: Path, size: str, bar: str) -> None:
    paths = sorted((shared_data / "lean").glob(f"equity_{size}_*.parquet"))
    pattern = f"^equity_{size}_(.+)$"
    options = {"tz": "America/New_York", "wall_clock": True, "calendar": "XNYS", "symbol_pattern": pattern}
    report, store = take(paths, tmp_path / "s.zarr", strict=True, **options)
    assert report.bar_ns == parse_bar(bar)
    for path in paths:
        frame = pd.read_parquet(path)
        opens = pd.to_datetime(frame["time"], unit="ms").dt.tz_localize("America/New_York").dt.tz_convert("UTC")
        assert_same_as_pandas(store, path.stem.rpartition("_")[2], frame, opens.dt.as_unit("ns").astype("int64"))


def test_lean_as_a_whole_has_two_bar_sizes(shared_data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--bar 1m") as caught:
        take(shared_data / "lean", tmp_path / "s.zarr")
    assert "1h: equity_hour_aapl, equity_hour_spy, fx_hour_bid_eurusd" in str(caught.value)
    report, _ = take(shared_data / "lean" / "fx_hour_bid_eurusd.parquet", tmp_path / "s.zarr", calendar="24/5")
    assert report.fields == ("open", "high", "low", "close")
    assert only(report).rows_kept == 74_439
