"""Larger than RAM: `atc-backtest backtest` under a memory limit against the kernel alone on both cores.

    python benchmarks/out_of_core.py [--symbols 1000] [--bars 50000] [--memory-limit 1GB] [--threads N] [--folder DIR]

Makes a store of closes (`store synth`; kept in --folder and used again), then in turns runs the command in a child,
summing what every process of it ever held, and the kernel on prices of the same store that are in memory already.
The command's time is that of its bars, without the start of Python; its CPU time includes the start.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from measure import machine

from atc_backtest.config import AtcConfig
from atc_backtest.kernels import get_kernel
from atc_backtest.kernels.protocol import F64, Outputs, Prices
from atc_backtest.stores.opening import open_store
from atc_backtest.stores.synth import SynthSpec, synth

SAMPLE_SECONDS = 0.02


def descendants(pid: int) -> list[int]:
    """A process and all below it that live."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:  # it ended between listing and reading
            continue
        for child in children:
            found += descendants(int(child))
    return found


def peak_bytes(pid: int) -> int:
    """The most memory that a process has held, from /proc; 0 when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)


def watched(command: list[str]) -> tuple[str, int]:
    """A command's output, and the sum of its processes' peaks."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        peaks: dict[int, int] = {}
        ended = threading.Event()

        def sample() -> None:
            while not ended.wait(SAMPLE_SECONDS):
                for pid in descendants(child.pid):
                    peaks[pid] = max(peaks.get(pid, 0), peak_bytes(pid))

        sampler = threading.Thread(target=sample)
        sampler.start()
        output, _ = child.communicate()
        ended.set()
        sampler.join()
    if child.returncode:
        sys.exit(f"{' '.join(command)} ended with {child.returncode}")
    return output, sum(peaks.values())


def command_run(store: Path, run: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One run of the command: what it says of itself, and its peak."""
    command = [sys.executable, "-m", "atc_backtest", "backtest", str(store), "--out", str(run), "--overwrite", "--json"]
    command += ["--memory-limit", options.memory_limit, "--threads", str(options.threads)]
    began, cpu_began = time.perf_counter(), children_cpu()
    output, peak = watched(command)
    whole, cpu = time.perf_counter() - began, children_cpu() - cpu_began
    found = json.loads(output)
    return found | {"peak": peak, "whole": whole, "cpu_ns": 1e9 * cpu / found["bars"]}


def children_cpu() -> float:
    """Seconds of CPU of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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


def main() -> None:
    parser = argparse.ArgumentParser(description="Backtests under a memory limit against the kernel alone.")
    parser.add_argument("--symbols", type=int, default=1000)
    parser.add_argument("--bars", type=int, default=50_000)
    parser.add_argument("--memory-limit", default="1GB")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        store = folder / f"closes-{options.symbols}x{options.bars}.zarr"
        if not store.exists():
            made = synth(store, SynthSpec(options.symbols, options.bars, seed=1, bar_ns=10**9, fields=("close",)))
            print(f"made {store.name} in {made.seconds:.0f} s", flush=True)
        blocks = sample_blocks(store, options.threads)
        runs, kernels = [], []
        for _ in range(options.rounds):
            kernels.append(kernel_rate(blocks, options.threads, options.symbols * options.bars // 4))
            runs.append(command_run(store, folder / "run", options))
        report(options, runs, kernels)


def report(options: argparse.Namespace, runs: list[dict[str, Any]], kernels: list[tuple[float, float]]) -> None:
    """Every round, then the best of each side: other work on the machine only ever adds time."""
    print(machine())
    for run, (rate, cpu_ns) in zip(runs, kernels, strict=True):
        print(
            f"  command {run['bars'] / run['seconds'] / 1e6:6.2f} M bars/s, {run['cpu_ns']:.0f} ns of CPU a bar "
            f"({run['whole']:.1f} s whole), peak {run['peak'] / 1e6:.0f} MB; "
            f"kernel alone {rate / 1e6:6.2f} M bars/s, {cpu_ns:.0f} ns"
        )
    rates = [rate for rate, _ in kernels]
    best = max(run["bars"] / run["seconds"] for run in runs)
    raw = 8 * options.symbols * options.bars / 1e9
    print(
        f"{options.symbols:,} symbols x {options.bars:,} bars ({raw:.1f} GB of closes), {options.threads} threads, "
        f"limit {options.memory_limit}: {best / 1e6:.2f} M bars/s, {best / max(rates):.0%} of the kernel's own "
        f"{max(rates) / 1e6:.2f}; peak of all processes {max(run['peak'] for run in runs) / 1e6:.0f} MB"
    )


if __name__ == "__main__":
    main()
