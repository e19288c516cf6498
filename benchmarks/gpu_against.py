"""Rows of gpu.py that set the kernel against something: the bus, array operations, the CPU, the pipeline on the CPU."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cupy_arrays
import numpy as np
from cupy_arrays import Steps
from gpu_bench import CONFIG, Bench, CpuJob, ResidentJob, Size, Spread, room, set_for_a_while
from gpu_devices import seconds_of
from gpu_drivers import Landed, Resident
from gpu_rows import sweep_sets, voting_sets
from watching import watched

from atc_backtest.config import AtcConfig
from atc_backtest.kernels import cuda
from atc_backtest.kernels.cuda import CudaKernel
from atc_backtest.kernels.device import Driver
from atc_backtest.kernels.protocol import F64, Prices
from atc_backtest.kernels.trial import differing

BUS_TARGET, OVERLAP_TARGET, ARRAYS_TARGET = 0.6, 1.4, 5.0
ALONE = "one slab at a time"
AGREES = 0.95
"""Share of signals that the yardstick must have as the kernels do: ties between an average on a tick and the close fall
to one side by its rounding, and a signal lasts until the next crossing."""


class CallJob:
    """`advance` over all bars with another driver around the device's, or its own; the seconds of the whole call, or of
    as many calls side by side as there are threads, each with its share of the symbols."""

    def __init__(self, driver: Driver, close: F64, slots: int, slab_bytes: int, threads: int = 1) -> None:
        self._driver, self._kernel, self._threads = driver, CudaKernel(driver), threads
        self._slots, self._slab_bytes = slots, slab_bytes
        self._prices = [Prices(part) for part in np.array_split(close, min(threads, len(close)))]
        self.outputs = [room(1, *prices.close.shape) for prices in self._prices]

    def __call__(self) -> float:
        if isinstance(self._driver, Landed):
            self._driver.begin()
        states = [self._kernel.new_state([CONFIG], len(prices.close)) for prices in self._prices]
        with set_for_a_while(SLOTS=self._slots, SLAB_BYTES=self._slab_bytes), ThreadPoolExecutor(self._threads) as pool:
            began = time.perf_counter()
            list(pool.map(self._kernel.advance, states, self._prices, self.outputs))
            return time.perf_counter() - began

    def signals(self) -> F64:
        """[1, symbols, bars], of the last call."""
        return np.concatenate([outputs.signal for outputs in self.outputs if outputs.signal is not None], axis=1)


def bus(bench: Bench) -> None:
    """5. Prices and signals over the bus, with overlap and without."""
    size = bench.size(10_000, 20_000)
    close = bench.walks(size)
    slab = min(cuda.SLAB_BYTES, 2 * close.nbytes // 8)
    pinned = bench.device.pinned(close.shape)
    pinned[...] = close
    landed, plain = Landed(bench.device), bench.device.driver
    threads = min(4, bench.cores)
    jobs = {
        "ordinary": CallJob(plain, close, 2, slab),
        f"ordinary, {ALONE}": CallJob(plain, close, 1, slab),
        f"ordinary, {threads} threads": CallJob(plain, close, 2, slab, threads),
        "page-locked": CallJob(landed, pinned, 2, slab),
        f"page-locked, {ALONE}": CallJob(landed, pinned, 1, slab),
    }
    spreads = bench.in_turns(jobs)
    launches = _launches_alone(bench, close, slab)
    bound = close.nbytes / bench.bus.up
    rows = []
    for name, spread in spreads.items():
        share, both = bound / spread.median, max(bound, launches) / spread.median
        rows.append([name, spread.rate(close.size), f"{share:.1%}", f"{both:.1%}"])
    columns = [f"{size}: prices and signals in memory that is", "bars a second", "of the bus", "of bus or launches"]
    bench.report.table("Over the bus, one set", columns, rows)
    bench.report.table("Over the bus: what bounds it", ["what", "measured"], _bounds(spreads, bound, launches))
    expected = jobs["ordinary"].signals()
    _same_signals(f"{threads} threads", jobs[f"ordinary, {threads} threads"].signals(), expected)
    slabs = [one for one in landed.down if one.ndim == 3 and one.shape[:2] == expected.shape[:2]]
    _same_signals("page-locked", np.concatenate(slabs, axis=2), expected)


def _bounds(spreads: Mapping[str, Spread], bound: float, launches: float) -> list[list[str]]:
    """Seconds of the bus and of launches, what is neither, and what overlap gains."""
    locked = spreads["page-locked"].median
    facts = [
        ["closes over the bus, as measured alone", f"{bound:.4f} s"],
        ["launches of these slabs, alone", f"{launches:.4f} s"],
        ["page-locked, beyond the longer of these two", f"{locked - max(bound, launches):.4f} s"],
        ["page-locked, of the bus (asked for)", f"{bound / locked:.1%} ({BUS_TARGET:.0%})"],
    ]
    for name in ("page-locked", "ordinary"):
        gain = spreads[f"{name}, {ALONE}"].median / spreads[name].median
        facts.append([f"{name}, with overlap against without (asked for)", f"{gain:.2f}x ({OVERLAP_TARGET}x)"])
    return facts


def _launches_alone(bench: Bench, close: F64, slab: int) -> float:
    """Seconds of the launches of a call that is cut as the others are."""
    driver = Resident(bench.device)
    CallJob(driver, close, 2, slab)()
    return sum(driver.seconds)


def _same_signals(what: str, found: F64, expected: F64) -> None:
    if found.shape != expected.shape or differing(found, expected):
        raise AssertionError(f"{what}: signals {found.shape} are not those of an ordinary call {expected.shape}")


def arrays(bench: Bench) -> None:
    """6. Against the same algorithm in array operations on the same device."""
    ways = bench.device.steps()
    for name, steps in ways.items():
        _check_arrays(bench, name, steps)
    rows = []
    for size in (bench.size(10_000, 20_000), bench.size(1000, 2000, 64)):
        close, configs = bench.walks(size), sweep_sets_without_cutout(size.sets)
        ours = ResidentJob(bench, close, configs)
        jobs: dict[str, Callable[[], float]] = {"kernel": ours}
        jobs |= {name: ArrayJob(bench, close, configs, steps) for name, steps in ways.items()}
        spreads = bench.in_turns(jobs)
        rate = ours.set_bars / spreads["kernel"].median
        for name, spread in spreads.items():
            count = ours.set_bars if name == "kernel" else size.set_bars
            ratio = rate / (count / spread.median)
            rows.append(
                [str(size), name, spread.rate(count), f"{ratio:.1f}x ({ratio / ARRAYS_TARGET:.2f} of the target)"]
            )
        del ours, jobs
        bench.device.release()
    columns = ["on the device", "what", "set-bars a second", "the kernel is faster by"]
    bench.report.table("Against array operations", columns, rows)


def sweep_sets_without_cutout(n: int) -> list[AtcConfig]:
    """The yardstick has no cutout."""
    return [replace(one, cutout=0) for one in sweep_sets(n)] if n > 1 else [CONFIG]


class ArrayJob:
    """The yardstick over prices that are on the device; signals stay there."""

    def __init__(self, bench: Bench, close: F64, configs: Sequence[AtcConfig], steps: Steps) -> None:
        self._device, self._configs, self._steps = bench.device, list(configs), steps
        self._close = bench.device.xp.asarray(close)

    def __call__(self) -> float:
        xp = self._device.xp
        seconds = seconds_of(self._device, lambda: cupy_arrays.atc(self._close, self._configs, xp, self._steps))
        self._device.release()
        return seconds


def _check_arrays(bench: Bench, name: str, steps: Steps) -> None:
    """The yardstick computes what the kernels do, or it is none."""
    close = bench.walks(bench.size(64, 2000))
    xp = bench.device.xp
    found = cupy_arrays.atc(xp.asarray(close), [CONFIG], xp, steps)[0]
    found = found.get() if hasattr(found, "get") else found
    cpu = CpuJob(bench, close, [CONFIG])
    cpu()
    expected = np.concatenate([outputs.signal[0] for outputs in cpu.outputs if outputs.signal is not None])
    agree = float(np.isclose(found, expected, rtol=0, atol=1e-9).mean())
    bench.report.say(f"{name}: {agree:.2%} of {close.size:,} signals are {bench.cpu.name}'s")
    if agree < AGREES:
        raise AssertionError(
            f"{name}: only {agree:.2%} of signals agree with {bench.cpu.name}'s, at least {AGREES:.0%}"
        )


@dataclass(frozen=True)
class Compared:
    """One thing on the GPU and on all cores."""

    what: str
    gpu: Spread
    gpu_count: int
    cpu: Spread
    cpu_count: int

    def row(self) -> list[str]:
        ratio = self.gpu_count / self.gpu.median / (self.cpu_count / self.cpu.median)
        return [self.what, self.gpu.rate(self.gpu_count), self.cpu.rate(self.cpu_count), f"{ratio:.1f}x"]


def rust(bench: Bench) -> None:
    """7. Against the CPU's kernel on all cores of this machine."""
    size = bench.size(10_000, 20_000)
    close = bench.walks(size)
    job, cpu = ResidentJob(bench, close, [CONFIG]), CpuJob(bench, close, [CONFIG])
    call = CallJob(bench.device.driver, close, cuda.SLOTS, cuda.SLAB_BYTES)
    spreads = bench.in_turns({"device": job, "call": call, "cpu": cpu})
    compared = [
        Compared(f"{size}, on the device", spreads["device"], job.set_bars, spreads["cpu"], cpu.set_bars),
        Compared(f"{size}, memory to memory", spreads["call"], close.size, spreads["cpu"], cpu.set_bars),
    ]
    del job, cpu, call, close
    bench.device.release()
    for what, made in (("each its own layer 1", sweep_sets), ("one layer 1", voting_sets)):
        sets = bench.size(1000, 2000, 1000)
        walks, configs = bench.walks(sets), made(sets.sets)
        few = np.ascontiguousarray(walks[:, : max(32, min(sets.bars, 500))])  # signals of all: 4 GB
        job, cpu = ResidentJob(bench, walks, configs), CpuJob(bench, few, configs)
        spreads = bench.in_turns({"device": job, "cpu": cpu})
        name = f"{Size(sets.symbols, sets.bars, sets.sets)}, {what}, on the device"
        compared.append(Compared(name, spreads["device"], job.set_bars, spreads["cpu"], cpu.set_bars))
        del job, cpu
        bench.device.release()
    columns = ["what", "GPU, set-bars a second", f"{bench.cpu_name}, set-bars a second", "ratio"]
    bench.report.table("Against the CPU", columns, [one.row() for one in compared])


TWIN = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from host_device import HostDriver
from atc_backtest import kernels
from atc_backtest.cli import main
from atc_backtest.kernels.cuda import CudaKernel
kernels.KERNELS["cuda"] = lambda: CudaKernel(HostDriver())
main()
"""
"""The command with the twin in the GPU's place."""


def pipeline(bench: Bench) -> None:
    """9. The command over a store: the same content hash, and how long each takes."""
    from atc_backtest.stores.synth import SynthSpec, synth

    size = bench.size(1000, 50_000)
    store = bench.folder / f"closes-{size.symbols}x{size.bars}.zarr"
    if not store.exists():
        made = synth(store, SynthSpec(size.symbols, size.bars, seed=1, fields=("close",)))
        bench.report.say(f"made {store.name} in {made.seconds:.0f} s")
    os.environ["XDG_STATE_HOME"] = str(bench.folder / "state")  # runs of a benchmark enter nobody's ledger
    said: dict[str, list[dict[str, object]]] = {"cuda": [], bench.cpu.name: []}
    for _ in range(min(bench.rounds, 3)):
        for kernel, runs in said.items():
            runs.append(json.loads(watched(_command(bench, str(store), kernel)).output))
            bench.report.say(f"--kernel {kernel}: {runs[-1]['seconds']} s")
    hashes = {str(run["hash"]) for runs in said.values() for run in runs}
    rows = []
    for kernel, runs in said.items():
        spread = Spread(tuple(float(str(run["seconds"])) for run in runs))
        rows.append([f"--kernel {kernel}", spread.rate(int(str(runs[0]["bars"]))), str(runs[0]["hash"])[:16]])
    bench.report.table(f"The command, {size}", ["what", "bars a second", "content hash"], rows)
    if len(hashes) != 1:
        raise AssertionError(f"content hashes differ: {', '.join(sorted(hashes))}")


def _command(bench: Bench, store: str, kernel: str) -> list[str]:
    tests = Path(__file__).resolve().parent.parent / "tests"
    program = ["-c", TWIN, str(tests)] if bench.rehearse else ["-m", "atc_backtest"]
    options = ["--out", str(bench.folder / f"run-{kernel}"), "--overwrite", "--json", "--kernel", kernel]
    return [sys.executable, *program, "backtest", store, *options]
