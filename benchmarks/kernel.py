"""The kernels' speed, as ratios measured side by side in one run: `make bench`.

Every row is the median of interleaved rounds on one core (two where it says so), default parameters
unless named, the final signal written. `plain` is plain_numba.py; its result is compared with the
kernels' before anything is timed.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import plain_numba
from measure import machine, medians

from atc_backtest.accounts import Bars, Rules, Saved, new_accounts
from atc_backtest.config import FAMILIES, AtcConfig, RunConfig
from atc_backtest.execution import advance
from atc_backtest.kernels import get_kernel
from atc_backtest.kernels.protocol import Kernel, Outputs, Prices, warmup_bars
from atc_backtest.kernels.rust import RustKernel
from atc_backtest.live import Live

CONFIG = AtcConfig()
SETS = [replace(CONFIG, lambda_=0.01 + 0.005 * i, decay=0.01 * (1 + i % 5)) for i in range(20)]
THRESHOLDS = [replace(CONFIG, long_threshold=0.05 * i, short_threshold=-0.05 * i) for i in range(20)]


def walks(n_symbols: int, n_bars: int) -> np.ndarray:
    steps = np.random.default_rng(1).normal(0, 0.001, (n_symbols, n_bars))
    return np.round(100 * np.exp(np.cumsum(steps, axis=1)), 2)


def job(
    kernel: Kernel, close: np.ndarray, configs: list[AtcConfig], outputs: Outputs | None = None
) -> Callable[[], None]:
    prices = Prices(close)
    outputs = Outputs.allocate(["signal"], len(configs), *close.shape) if outputs is None else outputs
    return lambda: kernel.advance(kernel.new_state(configs, close.shape[0]), prices, outputs)


def check() -> None:
    """Numba and every Rust path agree on 20,000 bars, plain Numba on 2,000, before they are compared for speed."""
    close = walks(2, 20_000)
    found = []
    for kernel in (get_kernel("numba"), *(RustKernel(level) for level in ("avx512", "avx2", "portable"))):
        outputs = Outputs.allocate(["signal"], 1, 2, 20_000)
        kernel.advance(kernel.new_state([CONFIG], 2), Prices(close), outputs)
        found.append(outputs.signal)
    assert all(np.array_equal(found[0], other) for other in found[1:]), "kernels disagree"
    # plain_numba slides its windows: after some thousand bars its drift alone flips crossings.
    head = np.ascontiguousarray(close[0, :2000])
    assert np.abs(plain_numba.atc(head, CONFIG) - found[0][0, 0, :2000]).max() < 1e-9, "plain_numba disagrees"


def backtest(kernel: Kernel, close: np.ndarray) -> Callable[[], None]:
    """The signal, then the account of each symbol: what a run without saved series does."""
    run = RunConfig(CONFIG)
    rules = Rules.of(run, warmup_bars(CONFIG), has_open=False)
    outputs = Outputs.allocate(["signal"], 1, *close.shape)
    ts = np.arange(close.shape[1]) * 60 * 10**9
    saved, signals = Saved.room(close.shape[1], trades=False), job(kernel, close, [CONFIG], outputs)

    def work() -> None:
        signals()
        accounts = new_accounts(rules, close.shape[0])
        for symbol, row in enumerate(close):
            advance(accounts[symbol], rules, Bars(ts=ts, close=row, signal=outputs.signal[0, symbol]), saved)

    return work


def talib_averages(close: np.ndarray) -> Callable[[], None]:
    """TA-Lib's 54 averages of one symbol, and nothing else."""
    import talib

    def work() -> None:
        for family, name in enumerate(FAMILIES):
            for length in CONFIG.family_lengths(family):
                if name == "hma":
                    raw = 2 * talib.WMA(close, length // 2) - talib.WMA(close, length)
                    talib.WMA(raw, math.isqrt(length))
                else:
                    getattr(talib, {"lsma": "LINEARREG"}.get(name, name.upper()))(close, length)

    return work


def first_call_of_numba() -> float:
    """Seconds from asking for the kernel to its first result, in a new process with an empty cache."""
    program = """
import time, numpy as np
from atc_backtest.config import AtcConfig
from atc_backtest.kernels.protocol import Outputs, Prices
began = time.perf_counter()
from atc_backtest.kernels import get_kernel
kernel = get_kernel("numba")
kernel.advance(kernel.new_state([AtcConfig()], 1), Prices(np.ones((1, 8))), Outputs())
print(time.perf_counter() - began)
"""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"NUMBA_CACHE_DIR": cache}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
        )
    return float(done.stdout)


def in_two_threads(kernel: Kernel, close: np.ndarray, pool: ThreadPoolExecutor) -> Callable[[], None]:
    halves = [job(kernel, np.ascontiguousarray(half), [CONFIG]) for half in np.array_split(close, 2)]
    return lambda: [future.result() for future in [pool.submit(half) for half in halves]] and None


def live(n_symbols: int, n_bars: int) -> Callable[[], object]:
    follower = Live([CONFIG], [f"S{i}" for i in range(n_symbols)], kernel="rust")
    follower.warm_up(walks(n_symbols, 200))
    bar = walks(n_symbols, 1)[:, 0]
    return lambda: [follower.update(bar) for _ in range(n_bars)]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    rounds = options.parse_args().rounds
    check()
    wide, one, flat = walks(64, 100_000), walks(1, 100_000), walks(1000, 1500)
    rust, numba = get_kernel("rust"), get_kernel("numba")
    portable, avx2 = RustKernel("portable"), RustKernel("avx2")
    few, some = np.ascontiguousarray(wide[:8, :20_000]), np.ascontiguousarray(wide[:, :20_000])
    with ThreadPoolExecutor(2) as pool:
        seconds = medians(
            {
                "plain": lambda: plain_numba.atc(one[0], CONFIG),
                "rust": job(rust, wide, [CONFIG]),
                "avx2": job(avx2, wide, [CONFIG]),
                "portable": job(portable, wide, [CONFIG]),
                "flat": job(rust, flat, [CONFIG]),
                "one": job(rust, one, [CONFIG]),
                "numba": job(numba, some, [CONFIG]),
                "some": job(rust, some, [CONFIG]),
                "single": job(rust, few, [CONFIG]),
                "twenty": job(rust, few, SETS),
                "thresholds": job(rust, few, THRESHOLDS),
                "backtest": backtest(rust, wide),
                "talib": talib_averages(one[0]),
                "threads": in_two_threads(rust, wide, pool),
                "live 1": live(1, 5000),
                "live 10k": live(10_000, 50),
                "recompute": job(rust, walks(1, 1500), [CONFIG]),
            },
            rounds,
        )
    ns = {
        "plain": seconds["plain"] / one.size,
        "rust": seconds["rust"] / wide.size,
        "avx2": seconds["avx2"] / wide.size,
        "portable": seconds["portable"] / wide.size,
        "flat": seconds["flat"] / flat.size,
        "one": seconds["one"] / one.size,
        "numba": seconds["numba"] / some.size,
        "some": seconds["some"] / some.size,
        "backtest": seconds["backtest"] / wide.size,
        "talib": seconds["talib"] / one.size,
    }
    ns = {name: 1e9 * value for name, value in ns.items()}
    print(f"# {machine()}; medians of {rounds} interleaved rounds\n")
    print("| what | measured | against |\n|---|---|---|")

    def row(what: str, measured: str, against: str) -> None:
        print(f"| {what} | {measured} | {against} |")

    def over_plain(name: str) -> str:
        return f"1/{ns['plain'] / ns[name]:.1f} of plain"

    row("plain Numba, an array per average", f"{ns['plain']:.0f} ns a bar", "1")
    row("Rust, best path, 64 symbols x 100k bars", f"{ns['rust']:.1f} ns a bar", over_plain("rust"))
    row("Rust, AVX2", f"{ns['avx2']:.1f} ns a bar", over_plain("avx2"))
    row("Rust, portable (SSE2 here)", f"{ns['portable']:.1f} ns a bar", over_plain("portable"))
    row(
        "Rust, 1,000 symbols x 1,500 bars", f"{ns['flat']:.1f} ns a bar", f"{ns['flat'] / ns['rust']:.2f}x of 64 x 100k"
    )
    row("Rust, one symbol, 100k bars", f"{ns['one']:.0f} ns a bar", over_plain("one"))
    row("Rust, signals and their backtest, reduced", f"{ns['backtest']:.1f} ns a bar", over_plain("backtest"))
    row(
        "Numba, 64 symbols x 20k bars",
        f"{ns['numba']:.1f} ns a bar",
        f"{over_plain('numba')}, {ns['numba'] / ns['some']:.2f}x of Rust",
    )
    row("Numba, first call with an empty cache", f"{first_call_of_numba():.1f} s", "")
    row(
        "TA-Lib, the 54 averages alone",
        f"{ns['talib']:.0f} ns a bar",
        f"{ns['talib'] / ns['rust']:.1f}x of Rust with everything",
    )
    for name, what in (("twenty", "20 sets sharing lengths"), ("thresholds", "20 sets sharing all but thresholds")):
        row(
            what,
            f"{1e9 * seconds[name] / few.size / 20:.1f} ns a bar and set",
            f"{seconds[name] / seconds['single'] / 20:.2f}x of 20 single runs",
        )
    row("two threads", "", f"{seconds['rust'] / seconds['threads']:.2f}x one")
    row("live, one bar of 1 symbol", f"{1e6 * seconds['live 1'] / 5000:.2f} µs", "")
    row("live, one bar of 10,000 symbols", f"{1e3 * seconds['live 10k'] / 50:.2f} ms", "")
    row("live against recomputing 1,500 bars", "", f"1/{seconds['recompute'] / (seconds['live 1'] / 5000):.0f}")


if __name__ == "__main__":
    main()
