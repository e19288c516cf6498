"""What the rows of gpu.py share: sizes, prices, timings in turns, tables that are printed and kept."""

from __future__ import annotations

import mmap
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from gpu_devices import Arithmetic, Bus, Device
from gpu_drivers import Resident
from gpu_floor import Operations

from atc_backtest.config import AtcConfig
from atc_backtest.kernels import cuda, get_kernel
from atc_backtest.kernels.cuda import SHARE, CudaKernel
from atc_backtest.kernels.protocol import F64, Kernel, Outputs, Prices, State

CONFIG = AtcConfig()
NO_RESERVE = 0x4000
"""Linux's MAP_NORESERVE, which Python's mmap does not name everywhere."""
FEWEST_SYMBOLS, FEWEST_SETS, FEWEST_BARS = 3, 3, 300


@dataclass(frozen=True)
class Size:
    symbols: int
    bars: int
    sets: int = 1

    @property
    def set_bars(self) -> int:
        return self.symbols * self.bars * self.sets

    def __str__(self) -> str:
        sets = f" x {self.sets:,} sets" if self.sets > 1 else ""
        return f"{self.symbols:,} symbols x {self.bars:,} bars{sets}"


@dataclass(frozen=True)
class Spread:
    """Seconds of several rounds."""

    times: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.times)

    def rate(self, count: int) -> str:
        """Of `count` things a round: the median, the slowest and the fastest."""
        rates = [count / seconds for seconds in (self.median, max(self.times), min(self.times))]
        spread = f" ({short(rates[1])} to {short(rates[2])}, {len(self.times)} rounds)" if len(self.times) > 1 else ""
        return f"{short(rates[0])}/s{spread}"


def short(value: float) -> str:
    """Three digits and a unit: 2.31 G."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.3g}"


@dataclass
class Report:
    """Printed as it comes, with a line as progress wherever something takes its time; kept for JSON."""

    tables: list[dict[str, object]] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)

    def say(self, text: str) -> None:
        print(f"[{time.perf_counter() - self.began:6.1f} s] {text}", flush=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.tables.append({"title": title, "columns": list(columns), "rows": [list(row) for row in rows]})
        print(f"\n### {title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
        for row in rows:
            print(f"| {' | '.join(row)} |")
        print(flush=True)


@dataclass
class Bench:
    """A device, and how large and how long everything is."""

    device: Device
    report: Report
    folder: Path
    scale: float
    rounds: int
    limit_s: float
    cores: int
    rehearse: bool

    def size(self, symbols: int, bars: int, sets: int = 1) -> Size:
        """Scaled, never below what says something."""

        def scaled(n: int, least: int) -> int:
            return max(min(n, least), round(n * self.scale))

        return Size(
            scaled(symbols, FEWEST_SYMBOLS), scaled(bars, FEWEST_BARS), scaled(sets, FEWEST_SETS) if sets > 1 else 1
        )

    @cached_property
    def bus(self) -> Bus:
        return self.device.bus(256 << 20 if self.scale == 1 else 16 << 20)

    @cached_property
    def arithmetic(self) -> Arithmetic:
        return self.device.arithmetic()

    @cached_property
    def cpu(self) -> Kernel:
        """What the GPU is held to: Rust, or what `auto` finds without it; reports name it."""
        return get_kernel("auto")

    @property
    def cpu_name(self) -> str:
        return f"{self.cpu.name} on {self.cores} cores"

    def floor_rate(self, operations: Operations) -> float:
        """Bars (and sets) a second if this chip did nothing but a bar's operations."""
        return 1 / operations.seconds(self.arithmetic.simple, self.arithmetic.divisions)

    def in_turns(self, jobs: Mapping[str, Callable[[], float]]) -> dict[str, Spread]:
        """Seconds that jobs say themselves, in interleaved rounds after one warm-up; fewer rounds once `limit_s` is
        over, one at least."""
        for name, work in jobs.items():
            self.report.say(f"warming up: {name}")
            work()
        times: dict[str, list[float]] = {name: [] for name in jobs}
        began = time.perf_counter()
        for turn in range(self.rounds):
            if turn and time.perf_counter() - began > self.limit_s:
                break
            for name, work in jobs.items():
                times[name].append(work())
        self.report.say("; ".join(f"{name} {statistics.median(seen):.4f} s" for name, seen in times.items()))
        return {name: Spread(tuple(seen)) for name, seen in times.items()}

    def walks(self, size: Size, missing: float = 0.0) -> F64:
        """Random walks on ticks; with `missing`, that share of bars is, and a tenth of symbols are listed late."""
        close = np.empty((size.symbols, size.bars))
        step = max(1, -(-size.symbols // (4 * self.cores)))

        def fill(first: int) -> None:
            rows = close[first : first + step]
            rng = np.random.default_rng(first)
            np.exp(np.cumsum(rng.normal(0, 0.001, rows.shape), axis=1), out=rows)
            np.maximum(np.round(100 * rows, 2), 0.01, out=rows)
            if missing:
                rows[rng.random(rows.shape, dtype=np.float32) < missing] = np.nan
                late = rng.random(rows.shape[0]) < 0.1
                rows[late, : size.bars // 4] = np.nan

        with ThreadPoolExecutor(self.cores) as pool:
            list(pool.map(fill, range(0, size.symbols, step)))
        return close


@contextmanager
def set_for_a_while(**constants: int) -> Iterator[None]:
    """Constants of `kernels.cuda`: SLAB_BYTES, SLOTS."""
    before = {name: getattr(cuda, name) for name in constants}
    try:
        for name, value in constants.items():
            setattr(cuda, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(cuda, name, value)


def room(sets: int, symbols: int, bars: int) -> Outputs:
    """Signals that nobody has touched yet: memory is taken where it is written."""
    return Outputs(signal=np.empty((sets, symbols, bars)))


def promised(sets: int, symbols: int, bars: int) -> Outputs:
    """Signals that will never be written: address space without memory behind it, which may be more than there is."""
    n_bytes = 8 * sets * symbols * bars
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE
    return Outputs(signal=np.frombuffer(mmap.mmap(-1, n_bytes, flags=flags)).reshape(sets, symbols, bars))


class ResidentJob:
    """Signals of all bars with prices, state and signals on the device: the seconds of its launches alone.

    Where signals of all bars are more than fits, they are computed in several calls, each of which goes on with the
    state of the one before; the device forgets them in between.
    """

    def __init__(self, bench: Bench, close: F64, configs: Sequence[AtcConfig]) -> None:
        symbols, bars = close.shape
        room_bytes = int(0.6 * SHARE * bench.device.driver.free_bytes())
        n_calls = -(-8 * bars * symbols * len(configs) // room_bytes)
        a_call = bars // n_calls
        self.set_bars = symbols * n_calls * a_call * len(configs)
        self._pieces = [Prices(np.ascontiguousarray(close[:, i * a_call : (i + 1) * a_call])) for i in range(n_calls)]
        self._configs = list(configs)
        self._outputs = promised(len(configs), symbols, a_call)
        assert self._outputs.signal is not None
        self.driver = Resident(bench.device, (self._outputs.signal,))
        self._kernel = CudaKernel(self.driver)
        self._warm = False

    def __call__(self) -> float:
        self.driver.seconds.clear()
        state = self._kernel.new_state(self._configs, self._pieces[0].close.shape[0])
        with set_for_a_while(SLAB_BYTES=1 << 60, SLOTS=1):
            for piece in self._pieces if self._warm else self._pieces[:1]:
                self._kernel.advance(state, piece, self._outputs)
        self._warm = True
        return sum(self.driver.seconds)

    @property
    def launches(self) -> int:
        return len(self.driver.seconds)


class CpuJob:
    """Signals on all cores, symbols cut into parts for threads; the seconds of a round."""

    def __init__(
        self, bench: Bench, close: F64, configs: Sequence[AtcConfig], names: Sequence[str] = ("signal",)
    ) -> None:
        self._kernel, self._cores, self._configs = bench.cpu, bench.cores, list(configs)
        cuts = np.linspace(0, close.shape[0], min(close.shape[0], 4 * bench.cores) + 1).astype(int)
        self.parts = [slice(int(a), int(b)) for a, b in pairwise(cuts)]
        self._prices = [Prices(close[part]) for part in self.parts]
        self.outputs = [Outputs.allocate(names, len(configs), *prices.close.shape) for prices in self._prices]
        self.states: list[State] = []
        self.set_bars = close.size * len(configs)

    def _advance(self, part: int) -> State:
        state = self._kernel.new_state(self._configs, self._prices[part].close.shape[0])
        self._kernel.advance(state, self._prices[part], self.outputs[part])
        return state

    def __call__(self) -> float:
        began = time.perf_counter()
        with ThreadPoolExecutor(self._cores) as pool:
            self.states = list(pool.map(self._advance, range(len(self.parts))))
        return time.perf_counter() - began
