"""Larger than RAM: `atc-backtest backtest` under a memory limit against the kernel alone, and what else is promised.

    python benchmarks/out_of_core.py [--row threads]... [--full] [--rounds 2] [--memory-limit 1GB] [--threads N]
                                     [--folder DIR]

Rows, all unless some are named; reduced in size unless `--full` is given:

    threads     closes from Zarr on all cores against the kernel alone on prices in memory
    cluster     the same with two worker processes, under 2 GB, for three processes do not fit into one: speed, and
                each worker's peak against its share
    tenfold     ten times the bars: the same peak, ten times as long
    one-symbol  one symbol of very many bars
    many-sets   a thousand parameter sets at once against as many single runs
    pandas      all closes in a pandas frame, a Numba loop over its columns
    scaling     one thread and two, one worker and two (a worker's imports count: the reduced size is felt)
    tiny        10 symbols x 1,500 bars: the whole command, from the shell and back

Stores are made by `store synth` (kept in --folder and used again). Where two things are compared they run in turns, in
one invocation, and the best of each counts: other work on the machine only ever adds time. A command's time is that of
its bars, without the start of Python and of workers, unless `whole` is said; its CPU time includes them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from measure import machine
from watching import Watched, watched

from atc_backtest.config import AtcConfig
from atc_backtest.kernels import get_kernel
from atc_backtest.kernels.protocol import F64, Outputs, Prices
from atc_backtest.pipelines.memory import PROCESS_BYTES
from atc_backtest.pipelines.plan import parse_bytes
from atc_backtest.stores.opening import open_store
from atc_backtest.stores.synth import SynthSpec, synth

MB, GB = 1e6, 1e9


@dataclass(frozen=True)
class Size:
    """Of a row's store, and how many parameter sets it has."""

    symbols: int
    bars: int
    sets: int = 1

    def __str__(self) -> str:
        raw = f"{8 * self.symbols * self.bars / GB:.2g} GB of closes"
        sets = f" x {self.sets:,} sets" if self.sets > 1 else ""
        return f"{self.symbols:,} symbols x {self.bars:,} bars{sets} ({raw})"


@dataclass(frozen=True)
class Bench:
    """How the rows are run."""

    folder: Path
    full: bool
    rounds: int
    memory_limit: str
    threads: int

    def size(self, reduced: Size, full: Size) -> Size:
        return full if self.full else reduced

    def store(self, size: Size) -> Path:
        """A store of that many closes, made where it is not there yet."""
        path = self.folder / f"closes-{size.symbols}x{size.bars}.zarr"
        if not path.exists():
            made = synth(path, SynthSpec(size.symbols, size.bars, seed=1, bar_ns=10**9, fields=("close",)))
            print(f"  made {path.name} in {made.seconds:.0f} s", flush=True)
        return path

    def backtest(self, store: Path, *options: str, limit: str | None = None) -> Ran:
        """The command, once."""
        command = [sys.executable, "-m", "atc_backtest", "backtest", str(store), "--out", str(self.folder / "run")]
        command += ["--overwrite", "--json", "--memory-limit", limit or self.memory_limit, *options]
        return Ran.of(watched(command))

    def best(self, *runs: Callable[[], Ran]) -> list[Ran]:
        """The fastest of each of several commands that take turns."""
        rounds = [[run() for run in runs] for _ in range(self.rounds)]
        return [min(times, key=lambda ran: ran.seconds) for times in zip(*rounds, strict=True)]


@dataclass(frozen=True)
class Ran:
    """A run of the command: bars, and seconds that they took, as it says itself."""

    bars: int
    seconds: float
    seen: Watched

    @classmethod
    def of(cls, seen: Watched) -> Ran:
        said = json.loads(seen.output)
        return cls(said["bars"], said["seconds"], seen)

    @property
    def rate(self) -> float:
        return self.bars / self.seconds

    def __str__(self) -> str:
        cpu = 1e9 * self.seen.cpu_seconds / self.bars
        return (
            f"{self.rate / 1e6:.2f} M bars/s in {self.seconds:.1f} s ({self.seen.seconds:.1f} s whole), "
            f"{cpu:.0f} ns of CPU a bar, peak of all processes {self.seen.peak / MB:.0f} MB"
        )


def kernel_rate(blocks: list[F64], n_threads: int, at_least_bars: int) -> tuple[float, float]:
    """The kernel alone, a block a thread at a time: present bars a second, and ns of CPU a bar."""
    kernel = get_kernel("auto")
    prices = [Prices(block) for block in blocks]
    n_present = [int((block == block).sum()) for block in blocks]
    states = [kernel.new_state([AtcConfig()], block.shape[0]) for block in blocks]
    outputs = [Outputs.allocate(["signal"], 1, *block.shape) for block in blocks]

    def advance(at: int) -> int:
        kernel.advance(states[at], prices[at], outputs[at])
        return n_present[at]

    rounds = max(1, at_least_bars // sum(n_present))
    began, cpu_began = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(n_threads) as pool:
        done = sum(sum(pool.map(advance, range(len(blocks)))) for _ in range(rounds))
    return done / (time.perf_counter() - began), 1e9 * (time.process_time() - cpu_began) / done


def sample_blocks(store: Path, n_threads: int) -> list[F64]:
    """Blocks of 64 symbols x up to 16,384 bars from all over the store, four a thread."""
    opened = open_store(store)
    symbols, bars = opened.info.chunk
    n_rows, n_columns = -(-len(opened.info.symbols) // symbols), max(1, opened.info.n_bars // bars)
    blocks = []
    for k in range(4 * n_threads):
        row, column = k * n_rows // (4 * n_threads), k % n_columns
        first, start = row * symbols, column * bars
        rows = (first, min(first + symbols, len(opened.info.symbols)))
        blocks.append(opened.read("close", rows, (start, min(start + bars, opened.info.n_bars))).copy())
    return blocks


def against_kernel(bench: Bench, size: Size, target: float, *options: str) -> Ran:
    """The command and the kernel alone in turns; prints both, returns the fastest command."""
    store = bench.store(size)
    blocks = sample_blocks(store, bench.threads)
    kernels, runs = [], []
    for _ in range(bench.rounds):
        kernels.append(kernel_rate(blocks, bench.threads, size.symbols * size.bars // 4))
        runs.append(bench.backtest(store, *options))
    best, kernel = min(runs, key=lambda ran: ran.seconds), max(rate for rate, _ in kernels)
    cpu = min(1e9 * ran.seen.cpu_seconds / ran.bars for ran in runs)
    kernel_cpu = min(cpu for _, cpu in kernels)
    print(f"  {size}, limit {bench.memory_limit}, best of {bench.rounds}")
    print(f"  command {best}")
    print(f"  kernel alone {kernel / 1e6:.2f} M bars/s on {bench.threads} threads, {kernel_cpu:.0f} ns of CPU a bar")
    print(f"  {best.rate / kernel:.0%} of the kernel (asked for: {target:.0%}); by CPU time {kernel_cpu / cpu:.0%}")
    return best


def threads(bench: Bench) -> None:
    size = bench.size(Size(1000, 50_000), Size(5000, 200_000))
    ran = against_kernel(bench, size, 0.7, "--threads", str(bench.threads))
    print(f"  peak {ran.seen.peak / MB:.0f} MB of {parse_bytes(bench.memory_limit) / MB:.0f} MB allowed")


def cluster(bench: Bench) -> None:
    size = bench.size(Size(1000, 100_000), Size(5000, 200_000))
    limit = "2GB" if parse_bytes(bench.memory_limit) < 2 * GB else bench.memory_limit
    ran = against_kernel(replace(bench, memory_limit=limit), size, 0.6, "--workers", "2")
    share = (parse_bytes(limit) - PROCESS_BYTES[get_kernel("auto").name]) / 2
    peaks = ", ".join(f"{peak / MB:.0f}" for peak in ran.seen.peaks)
    print(f"  MB that its processes held at most: {peaks}; a worker's share {share / MB:.0f}")


def tenfold(bench: Bench) -> None:
    large = bench.size(Size(500, 200_000), Size(5000, 200_000))
    small = Size(large.symbols, large.bars // 10)
    stores = [bench.store(small), bench.store(large)]
    one, ten = bench.best(*(partial(bench.backtest, store, "--threads", str(bench.threads)) for store in stores))
    print(f"  {small}: {one}")
    print(f"  {large}: {ten}")
    times, bars = ten.seconds / one.seconds, ten.bars / one.bars
    print(f"  {bars:.2f}x the bars (listings differ): {times:.2f}x as long, peak {ten.seen.peak / one.seen.peak:.2f}x")


def one_symbol(bench: Bench) -> None:
    size = bench.size(Size(1, 10_000_000), Size(1, 200_000_000))
    ran = bench.backtest(bench.store(size), "--threads", str(bench.threads))
    print(f"  {size}, one task: {ran} (asked for: at most 400 MB)")


SETS = """
import itertools, json, sys
from pathlib import Path
from atc_backtest.config import AtcConfig, PerFamily, RunConfig
from atc_backtest.pipelines.backtest import Options, Progress, backtest
store, out, limit, threads, n_sets, first, count = sys.argv[1:]
grid = itertools.product((21, 28, 35, 42, 49), (0.01, 0.02, 0.03, 0.05), (0.01, 0.03, 0.1, 0.3, 1.0), range(10))
sets = [
    RunConfig(AtcConfig(PerFamily(*[length] * 6), lambda_=growth, decay=decay, long_threshold=0.1 + k / 50))
    for length, growth, decay, k in grid
][:: 1000 // int(n_sets)][int(first) : int(first) + int(count)]
import time
began = []
options = Options(memory_limit=int(limit), threads=int(threads), overwrite=True)
started = lambda job, bars, dashboard: began.extend([time.perf_counter(), bars])
run = backtest(store, Path(out), sets, options, Progress(started=started))
print(json.dumps({"bars": began[1], "seconds": time.perf_counter() - began[0], "state": run.state}))
"""
"""A backtest of `count` of a thousand sets: 5 lengths, 4 growth rates, 5 decays, 10 thresholds."""


def many_sets(bench: Bench) -> None:
    size = bench.size(Size(128, 5_000, 100), Size(2000, 20_000, 1000))
    store, n_single = bench.store(Size(size.symbols, size.bars)), 3
    common = [str(store), str(bench.folder / "run"), str(parse_bytes(bench.memory_limit)), str(bench.threads)]

    def run(first: int, count: int) -> Ran:
        arguments = [*common, str(size.sets), str(first), str(count)]
        return Ran.of(watched([sys.executable, "-c", SETS, *arguments]))

    together = run(0, size.sets)
    singles = [run(k * size.sets // n_single, 1).seconds for k in range(n_single)]
    apart = sum(singles) / n_single * size.sets
    print(f"  {size}, limit {bench.memory_limit}: {together}")
    print(
        f"  single runs {apart:.0f} s, extrapolated from {n_single} of {', '.join(f'{s:.2f}' for s in singles)} s, "
        f"without their starts: all sets at once take {together.seconds / apart:.2f}x that (asked for: 0.55x)"
    )


LOOP = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
import numpy as np, pandas as pd
from plain_numba import atc
from atc_backtest.config import AtcConfig
atc(np.linspace(1.0, 2.0, 200), AtcConfig())  # compile
began = time.perf_counter()
closes = pd.read_parquet(sys.argv[2])
bars = 0
for name in closes:
    close = closes[name].dropna().to_numpy()
    if len(close) > 60:
        atc(close, AtcConfig())
    bars += len(close)
print(json.dumps({"bars": bars, "seconds": time.perf_counter() - began}))
"""
"""What is written first: all closes in a frame, a compiled function for each column."""


def looped(bench: Bench, store: Path, part: Size) -> Ran:
    """The first symbols of a store, from a Parquet file with a column each."""
    import pandas as pd

    opened, path = open_store(store), bench.folder / "closes.parquet"
    names = [symbol.name for symbol in opened.info.symbols[: part.symbols]]
    pd.DataFrame(opened.read("close", (0, part.symbols), (0, part.bars)).T, columns=names).to_parquet(path)
    return Ran.of(watched([sys.executable, "-c", LOOP, str(Path(__file__).resolve().parent), str(path)]))


def pandas(bench: Bench) -> None:
    size = bench.size(Size(1000, 50_000), Size(5000, 200_000))
    store = bench.store(size)
    few, part = Size(1, size.bars), Size(max(2, size.symbols // 20), size.bars)
    alone, loop = looped(bench, store, few), looped(bench, store, part)
    ran = bench.backtest(store, "--threads", str(bench.threads))
    seconds = loop.seconds * ran.bars / loop.bars
    a_symbol = (loop.seen.peak - alone.seen.peak) / (part.symbols - few.symbols)
    peak = alone.seen.peak + a_symbol * (size.symbols - few.symbols)
    print(f"  {size}: {ran}, signals, accounts and figures")
    print(
        f"  pandas from one Parquet file and a Numba loop on one core, signals alone: {seconds:.0f} s and "
        f"{peak / GB:.1f} GB, extrapolated from {part}: {loop.seconds:.1f} s, {loop.seen.peak / MB:.0f} MB, and "
        f"one symbol: {alone.seen.peak / MB:.0f} MB"
    )
    print(f"  the command takes {ran.seconds / seconds:.2f}x its time and {ran.seen.peak / peak:.2f}x its memory")


def scaling(bench: Bench) -> None:
    size = bench.size(Size(1000, 100_000), Size(5000, 200_000))
    store = bench.store(size)
    for what in ("threads", "workers"):
        one, two = bench.best(*(partial(bench.backtest, store, f"--{what}", n, limit="2GB") for n in ("1", "2")))
        print(f"  {size}, 1 of {what}: {one}")
        print(f"  {size}, 2 of {what}: {two}")
        print(f"  {two.rate / one.rate:.2f}x as fast with two (asked for: 1.85x)")


def tiny(bench: Bench) -> None:
    size = Size(10, 1_500)
    store = bench.store(size)
    whole = sorted(bench.backtest(store).seen.seconds for _ in range(2 + bench.rounds))
    print(f"  {size}: {whole[0]:.2f} s whole, best of {len(whole)}, worst {whole[-1]:.2f} (asked for: under 1.5 s)")


ROWS: dict[str, Callable[[Bench], None]] = {
    "threads": threads,
    "cluster": cluster,
    "tenfold": tenfold,
    "one-symbol": one_symbol,
    "many-sets": many_sets,
    "pandas": pandas,
    "scaling": scaling,
    "tiny": tiny,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Backtests under a memory limit against the kernel alone.")
    parser.add_argument("--row", action="append", choices=ROWS, help="only this one; can be repeated")
    parser.add_argument("--full", action="store_true", help="the sizes of docs/memory.md: 8 GB of closes, half an hour")
    parser.add_argument("--memory-limit", default="1GB")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("atc-backtest", "numpy", "numba", "zarr", "pyarrow", "dask")
    )
    print(f"{machine()}\n{versions}, kernel {get_kernel('auto').name}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(folder, options.full, options.rounds, options.memory_limit, options.threads)
        for name in options.row or ROWS:
            print(f"\n{name}", flush=True)
            ROWS[name](bench)


if __name__ == "__main__":
    main()
