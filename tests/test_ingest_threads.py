"""Ingest side by side: the same whatever the threads, bounded in memory and open files, tidy after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from price_files import HEADER, HOUR_S, START_S, axis, bars, flat, left_behind, series, take, write_csv

from atc_backtest.errors import DataError
from atc_backtest.stores.base import parse_bar
from atc_backtest.stores.ingest import IngestOptions, IngestReport, ingest, spool
from atc_backtest.stores.zarr_store import ZarrStore, open_store

ROOT = Path(__file__).resolve().parent.parent
H = HOUR_S


def contents(store: ZarrStore) -> dict[str, bytes]:
    shape = (0, len(store.info.symbols)), (0, store.info.n_bars)
    return {field: store.read(field, *shape).tobytes() for field in store.info.fields} | {
        "ts": bytes(str(axis(store)), "ascii")
    }


def untimed(report: IngestReport) -> IngestReport:
    return replace(report, seconds=0.0, store=Path())


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    """Many files that share symbols and times: the last one read wins, wherever it was read."""
    rng = np.random.default_rng(7)
    for i in range(40):
        rows = []
        for _ in range(int(rng.integers(5, 60))):
            name, hour, close = rng.choice(list("ABCDEFG")), int(rng.integers(0, 50)), float(rng.integers(-1, 5))
            rows.append((name, *flat(START_S + hour * H, close)))
        write_csv(tmp_path / "in" / f"{i:02d}.csv", rows, ("symbol", *HEADER))
    regular = [(name, *flat(START_S + hour * H)) for name in "ABCDEFG" for hour in range(100, 160)]
    write_csv(tmp_path / "in" / "99.csv", regular, ("symbol", *HEADER))
    return tmp_path / "in"


def test_any_number_of_threads_gives_the_same_store_and_report(
    messy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for i, (threads, buffer_bytes) in enumerate(((1, 1 << 20), (2, 1000), (5, 1), (16, 500), (3, 1 << 20))):
        monkeypatch.setattr(spool, "BUFFER_BYTES", buffer_bytes)
        report, store = take(messy, tmp_path / f"{i}.zarr", threads=threads, batch_bytes=200)
        found.append((untimed(report), contents(store)))
    assert all(one == found[0] for one in found[1:])
    assert sum(symbol.conflicting_duplicate for symbol in found[0][0].symbols) > 100


def test_pieces_of_one_file_are_parsed_side_by_side(tmp_path: Path) -> None:
    rows = bars(5000)
    source = write_csv(tmp_path / "A.csv", rows)
    stores = [take(source, tmp_path / f"{n}.zarr", threads=n, batch_bytes=2000)[1] for n in (1, 4)]
    assert contents(stores[0]) == contents(stores[1])
    bad = write_csv(tmp_path / "B.csv", [*rows, (START_S, "x", 1, 1, 1, 1), *rows, (START_S, "y", 1, 1, 1, 1)])
    for n in (1, 4):
        with pytest.raises(DataError, match=r"line 5002 holds 'x'"):
            take(bad, tmp_path / "bad.zarr", threads=n, batch_bytes=2000)


def test_the_first_failure_in_the_order_of_sources_is_told(tmp_path: Path) -> None:
    """The second file fails at once, the first one late."""
    write_csv(tmp_path / "in" / "A.csv", [*bars(20_000), (START_S, "late", 1, 1, 1, 1)])
    write_csv(tmp_path / "in" / "B.csv", [*bars(200), (START_S, "soon", 1, 1, 1, 1)])
    for threads in (1, 2, 4):
        with pytest.raises(DataError, match="'late'"):
            take(tmp_path / "in", tmp_path / "s.zarr", threads=threads)
    assert left_behind(tmp_path) == []


def test_threads_share_a_zone(tmp_path: Path) -> None:
    """Each file widens the clock that all use: years apart, winters and summers."""
    for year in range(1960, 2040, 2):
        times = [f"{year}-{month}-{day} 12:00" for month in ("01", "07") for day in range(10, 20)]
        write_csv(tmp_path / "in" / f"Y{year}.csv", [flat(text, i + 1.0) for i, text in enumerate(times)])
    stores = [
        take(tmp_path / "in", tmp_path / f"{i}.zarr", threads=n, tz="America/New_York", bar=parse_bar("1d"))[1]
        for i, n in enumerate((1, 8, 8))
    ]
    assert contents(stores[0]) == contents(stores[1]) == contents(stores[2])


def test_a_field_that_a_left_out_symbol_lacks_stays(tmp_path: Path) -> None:
    write_csv(tmp_path / "in" / "HOUR.csv", bars(30))
    write_csv(tmp_path / "in" / "MINUTE.csv", [row[:5] for row in bars(30, step_s=60)], HEADER[:5])
    report, store = take(tmp_path / "in", tmp_path / "s.zarr", bar=parse_bar("1h"))
    assert report.fields == store.info.fields == ("open", "high", "low", "close", "volume")
    assert series(store, "volume").tolist() == [row[5] for row in bars(30)]
    assert [(symbol.name, symbol.rows_kept, symbol.other_bar) for symbol in report.symbols] == [
        *[("HOUR", 30, 0), ("MINUTE", 0, 30)]
    ]
    assert not any("volume is left out" in note for note in report.notes)
    assert any("MINUTE (1m)" in note for note in report.notes)
    report, _ = take(tmp_path / "in", tmp_path / "t.zarr", bar=parse_bar("1m"))
    assert report.fields == ("open", "high", "low", "close")


SLOW = """
import sys, time
from pathlib import Path
from atc_backtest.stores.ingest import ingest, IngestOptions
def show(*at):
    print("reading", flush=True)
    time.sleep(60)
ingest([Path(sys.argv[1])], Path(sys.argv[2]), IngestOptions(threads=1), show)
"""


def test_a_killed_ingest_leaves_nothing_for_long(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in" / "A.csv", bars(50))
    command = [sys.executable, "-c", SLOW, str(source), str(tmp_path / "s.zarr")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "reading\n"
        (folder,) = left_behind(tmp_path)
        take(source, tmp_path / "other.zarr")
        assert left_behind(tmp_path) == [folder], "that of a living process stays"
        process.send_signal(signal.SIGKILL)
    assert left_behind(tmp_path) == [folder]
    fresh, old = tmp_path / ".x.zarr.rows-young", tmp_path / ".x.zarr.rows-old"
    fresh.mkdir()
    old.mkdir()
    os.utime(old, (time.time() - 1000,) * 2)
    take(source, tmp_path / "s.zarr")
    assert left_behind(tmp_path) == [fresh.name], "its owner may be about to take it"


MANY = """
import resource, sys
from pathlib import Path
from atc_backtest.stores.ingest import IngestOptions, ingest
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
report = ingest([Path(sys.argv[1])], Path(sys.argv[2]), IngestOptions(threads=2))
assert all(symbol.rows_kept == int(sys.argv[3]) for symbol in report.symbols), report.symbols[:3]
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(len(report.symbols), int(status["VmHWM"].split()[0]) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="peak memory of a process is read from Linux's /proc"
)
@pytest.mark.parametrize("by", ["time", "symbol"])
def test_thousands_of_symbols_with_few_open_files(tmp_path: Path, by: str) -> None:
    n_symbols, n_bars = 5000, 120
    source = tmp_path / "long.csv"
    names = [f"S{i:04d}" for i in range(n_symbols)]
    with source.open("w", encoding="utf-8") as file:
        file.write("symbol,time,open,high,low,close,volume\n")
        for one in range(n_bars) if by == "time" else names:
            if by == "time":
                file.writelines(f"{name},{START_S + one * H},1.5,2.5,0.5,1.25,3\n" for name in names)
            else:
                file.writelines(f"{one},{START_S + i * H},1.5,2.5,0.5,1.25,3\n" for i in range(n_bars))
    command = [sys.executable, "-c", MANY, str(source), str(tmp_path / "s.zarr"), str(n_bars)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found, peak = map(int, done.stdout.split())
    assert found == n_symbols
    assert peak < 500e6, f"{peak / 1e6:.0f} MB, of which the imports and the compiled codec are 240"


def test_files_are_read_while_later_ones_are_still_on_their_way(tmp_path: Path) -> None:
    """And the store is that of the files all given at once."""
    files = [write_csv(tmp_path / f"{name}.csv", bars(50, seed)) for seed, name in enumerate("ABC")]
    read = threading.Event()

    def coming() -> Iterator[Path]:
        yield files[0]
        assert read.wait(30), "the first file is not read before the second is there"
        yield from files[1:]

    def shown(done: int, n_files: int, rows: int) -> None:
        if rows >= 50:
            read.set()

    ingest(coming(), tmp_path / "lazy.zarr", IngestOptions(tz="UTC"), shown)
    ingest(files, tmp_path / "whole.zarr", IngestOptions(tz="UTC"))
    assert contents(open_store(tmp_path / "lazy.zarr")) == contents(open_store(tmp_path / "whole.zarr"))


def test_a_later_file_that_lacks_a_field_is_refused_when_files_come_one_by_one(tmp_path: Path) -> None:
    first = write_csv(tmp_path / "A.csv", bars(50))
    poorer = write_csv(tmp_path / "B.csv", [row[:5] for row in bars(50)], HEADER[:5])
    with pytest.raises(DataError, match=r"B\.csv.*volume"):
        ingest(iter([first, poorer]), tmp_path / "s.zarr", IngestOptions(tz="UTC"))
    assert not (tmp_path / "s.zarr").exists()
