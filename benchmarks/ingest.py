"""Ingest: rows a second of one core beside pandas in the same run, and peak memory at two sizes: `--help` for sizes.

A second is one of CPU time of the whole process, its helper threads included: what one core takes. `pandas alone`
only parses. `pandas, the same job` parses, checks, sorts, aligns and writes the same store, holding everything.
Peaks are VmHWM of child processes.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.feather as feather
import pyarrow.parquet as pq
from measure import machine

from atc_backtest.stores.base import FIELDS
from atc_backtest.stores.ingest import IngestOptions, ingest
from atc_backtest.stores.ingest.driver import gathered
from atc_backtest.stores.zarr_store import new_store

START_S = 1_577_836_800
MINUTE_NS = 60 * 10**9

PEAK = """
import sys
from pathlib import Path
from atc_backtest.stores.ingest import IngestOptions, ingest
ingest([Path(sys.argv[1])], Path(sys.argv[2]), IngestOptions(threads=int(sys.argv[3])))
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) * 1024)
"""


def minutes(n: int, seed: int) -> pa.Table:
    """Minute bars on a tick of 0.01."""
    rng = np.random.default_rng(seed)
    close = 30_000 * np.exp(np.cumsum(rng.normal(0, 5e-4, n)))
    opened = close * (1 + rng.normal(0, 2e-4, n))
    high, low = np.maximum(opened, close) * 1.0003, np.minimum(opened, close) * 0.9997
    values = {name: np.round(x, 2) for name, x in zip(FIELDS, (opened, high, low, close), strict=False)}
    return pa.table(
        {"time": (START_S + 60 * np.arange(n)) * 1000, **values, "volume": np.round(rng.lognormal(2, 1, n), 3)}
    )


def write_csv(table: pa.Table, path: Path) -> None:
    pacsv.write_csv(table, path, pacsv.WriteOptions(quoting_style="none"))


def with_text_times(table: pa.Table) -> pa.Table:
    text = table["time"].cast(pa.timestamp("ms")).cast(pa.timestamp("s")).cast(pa.string())
    return table.set_column(0, "time", text)


def long_table(folder: Path, n_symbols: int, n_bars: int) -> Path:
    """Symbols take turns at every time."""
    path, table = folder / "long.csv", minutes(n_bars, 0).to_pandas()
    names = pd.Series([f"S{i:05d}" for i in range(n_symbols)], name="symbol")
    with path.open("w", encoding="utf-8") as file:
        for i in range(n_bars):
            rows = names.to_frame().assign(**table.iloc[i].to_dict())
            rows["time"] = rows["time"].astype("int64")
            rows.to_csv(file, index=False, header=i == 0)
    return path


def make(folder: Path, n_rows: int, n_files: int) -> dict[str, Path]:
    """The same bars in every format."""
    places = {name: folder / name for name in ("csv", "iso", "zip", "parquet", "feather")}
    for place in places.values():
        place.mkdir(parents=True)
    for i in range(n_files):
        table = minutes(n_rows, i)
        write_csv(table, places["csv"] / f"S{i}.csv")
        write_csv(with_text_times(table), places["iso"] / f"S{i}.csv")
        with zipfile.ZipFile(places["zip"] / f"S{i}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(places["csv"] / f"S{i}.csv", f"S{i}.csv")
        pq.write_table(table, places["parquet"] / f"S{i}.parquet")
        feather.write_feather(table, places["feather"] / f"S{i}.feather", compression="lz4")
    return places


def by_pandas(source: Path) -> None:
    for path in sorted(source.glob("*.csv")):
        pd.read_csv(path)


def by_pandas_to_a_store(source: Path, store: Path) -> None:
    """What a good engineer's loop does, with the rules that it can state in a line each."""
    frames = {}
    for path in sorted(source.glob("*.csv")):
        frame = pd.read_csv(path)
        prices = frame[["open", "high", "low", "close"]]
        frame = frame[np.isfinite(prices).all(axis=1) & (prices > 0).all(axis=1) & (frame["high"] >= frame["low"])]
        frame["volume"] = frame["volume"].where((frame["volume"] >= 0) & np.isfinite(frame["volume"]))
        frame = frame.sort_values("time", kind="stable").drop_duplicates("time", keep="last")
        frames[path.stem] = frame.set_index("time")
    axis = pd.Index([], dtype="int64")
    for frame in frames.values():
        axis = axis.union(frame.index)
    aligned = {name: frame.reindex(axis) for name, frame in frames.items()}
    ts = axis.to_numpy() * 10**6
    given = {"bar_ns": MINUTE_NS, "calendar": "24/7", "fields": FIELDS, "symbols": list(frames), "ts": ts}
    with new_store(store, overwrite=True, **given) as writer:
        n_bars = writer.chunk[1]
        for start in range(0, ts.size, n_bars):
            stop = min(start + n_bars, ts.size)
            for name in FIELDS:
                block = np.stack([frame[name].to_numpy()[start:stop] for frame in aligned.values()])
                writer.write(name, (0, len(frames)), (start, stop), block)


def by_ingest(source: Path, store: Path, codec: str = "blosc") -> None:
    ingest([source], store, IngestOptions(threads=1, overwrite=True, tz="UTC", codec=codec))


def reading_alone(source: Path, store: Path) -> None:
    with gathered([source], store, IngestOptions(threads=1, tz="UTC"), None):
        pass


def cpu_medians(jobs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """CPU seconds of each job, the median of interleaved rounds after one warm-up."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(rounds + 1):
        for name, work in jobs.items():
            began = time.process_time()
            work()
            if turn:
                times[name].append(time.process_time() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def peak_mb(source: Path, store: Path, threads: int) -> float:
    shutil.rmtree(store, ignore_errors=True)
    command = [sys.executable, "-c", PEAK, str(source), str(store), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{source} with {threads} threads: {done.stderr}")
    return int(done.stdout) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000, help="of each of four files (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--symbols", type=int, default=5000, help="of the long table (default: %(default)s)")
    options = parser.parse_args()
    n_files = 4
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        places, store = make(folder / "in", options.rows, n_files), folder / "s.zarr"
        n = options.rows * n_files
        jobs: dict[str, Callable[[], object]] = {
            "pandas read_csv alone": lambda: by_pandas(places["csv"]),
            "pandas, the same job": lambda: by_pandas_to_a_store(places["csv"], folder / "p.zarr"),
            "CSV, reading and cleaning": lambda: reading_alone(places["csv"], store),
            "CSV": lambda: by_ingest(places["csv"], store),
            "CSV, codec raw": lambda: by_ingest(places["csv"], store, "raw"),
            "CSV, times as text": lambda: by_ingest(places["iso"], store),
            "zip of CSV": lambda: by_ingest(places["zip"], store),
            "Parquet": lambda: by_ingest(places["parquet"], store),
            "Feather": lambda: by_ingest(places["feather"], store),
        }
        found = cpu_medians(jobs, options.rounds)
        print(f"{machine()}; medians of {options.rounds} interleaved rounds; {n:,} minute bars in {n_files} files\n")
        print("| what | M rows/s a core | of pandas alone | of pandas, the same job |\n|---|---|---|---|")
        alone, same = found["pandas read_csv alone"], found["pandas, the same job"]
        for what, seconds in found.items():
            print(f"| {what} | {n / seconds / 1e6:.2f} | {alone / seconds:.2f}x | {same / seconds:.2f}x |")
        print("\n| peak memory | MB |\n|---|---|")
        for factor in (1, 4):
            more = folder / f"more{factor}"
            more.mkdir()
            for i in range(n_files):
                write_csv(minutes(options.rows * factor, i), more / f"S{i}.csv")
            for threads in (1, 2, 8):
                print(f"| {n * factor:,} rows, {threads} threads | {peak_mb(more, store, threads):.0f} |")
            shutil.rmtree(more)
        for bars in (40, 160):
            path = long_table(folder, options.symbols, bars)
            print(
                f"| long table, {options.symbols:,} symbols taking turns, {options.symbols * bars:,} rows | ",
                end="",
                flush=True,
            )
            print(f"{peak_mb(path, store, 2):.0f} |")


if __name__ == "__main__":
    main()
