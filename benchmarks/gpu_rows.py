"""Rows of gpu.py about the kernel itself: the machine, the floor, bits, its speed on the device, occupancy."""

from __future__ import annotations

import itertools
from dataclasses import replace
from itertools import pairwise

import numpy as np
from gpu_bench import CONFIG, Bench, CpuJob, ResidentJob, short
from gpu_floor import bytes_over_the_bus, of_a_set, of_layer1, of_layer2, of_stream, total
from measure import machine as cpu_machine

from atc_backtest.config import AtcConfig, PerFamily
from atc_backtest.kernels.cuda import CudaKernel
from atc_backtest.kernels.device import Variant
from atc_backtest.kernels.protocol import F64, OUTPUT_AXES, Kernel, Outputs, Prices, State
from atc_backtest.kernels.trial import differing

GB = 1e9
RESIDENT_TARGET, SETS_TARGET = 2e9, 10e9


def machine(bench: Bench) -> None:
    """0. What everything else was measured on."""
    bus, arithmetic = bench.bus, bench.arithmetic
    memory = bench.device.memory_rate(1 << 30 if bench.scale == 1 else 1 << 24)
    bench.report.table(
        "The machine",
        ["what", "found"],
        [
            *bench.device.facts(),
            ("CPU", cpu_machine()),
            ("threads of the CPU's kernel", f"{bench.cpu_name} (usable of this process)"),
            ("pinned memory to device", f"{bus.up / GB:.1f} GB/s"),
            ("device to pinned memory", f"{bus.down / GB:.1f} GB/s"),
            ("both ways at once, together", f"{bus.both / GB:.1f} GB/s"),
            ("the device's memory, a copy's bytes read and written", f"{memory / GB:.0f} GB/s"),
            ("double precision, additions and multiplications, not fused", f"{short(arithmetic.simple)}/s"),
            ("double precision, IEEE divisions", f"{short(arithmetic.divisions)}/s"),
        ],
    )


def floor(bench: Bench) -> None:
    """1. What the algorithm must do of a bar, and how fast this chip could do that."""
    parts = {**of_stream(CONFIG), **of_layer1(), **of_layer2()}
    whole = ["all of a bar, one set", total(parts.values())]
    rows = [[name, *map(str, (o.add, o.multiply, o.compare, o.round, o.divide))] for name, o in [*parts.items(), whole]]
    columns = ["of a bar and set, default lengths", "add", "multiply", "compare", "round", "divide"]
    bench.report.table("The floor: operations of double precision", columns, rows)
    up = bench.bus.up / bytes_over_the_bus()["up"]
    both = bench.bus.both / sum(bytes_over_the_bus().values())
    bounds = [
        ("1 set, arithmetic alone", bench.floor_rate(of_a_set(CONFIG)), "bars"),
        ("1,000 sets, each its own layer 1", bench.floor_rate(of_a_set(CONFIG, 1000, 1000)), "set-bars"),
        ("1,000 sets, one layer 1", bench.floor_rate(of_a_set(CONFIG, 1000, 1)), "set-bars"),
        ("closes over the bus (8 bytes up)", up, "bars"),
        ("closes up and signals down, both ways at once", both, "bars"),
    ]
    rows = [[what, f"{short(rate)} {unit}/s"] for what, rate, unit in bounds]
    bench.report.table("The floor: at best on this chip", ["bound", "at most"], rows)


SWEPT = [
    CONFIG,
    replace(CONFIG, profile="pine"),
    replace(CONFIG, long_threshold=0.3, short_threshold=0.0),
    replace(CONFIG, lambda_=0.5, decay=1.0, cutout=37, growth_horizon=None),
    replace(CONFIG, robustness="wide", cutout=37, lambda_=0.5, decay=1.0),
    replace(CONFIG, robustness="narrow", lengths=PerFamily(9, 40, 14, 100, 21, 33), profile="pine", growth_horizon=100),
    AtcConfig(lengths=PerFamily(8, 8, 8, 8, 8, 8), long_threshold=0.3),
    AtcConfig(lengths=PerFamily(16, 17, 31, 32, 33, 64), weights=PerFamily(1.5, 0.3, 1.0, 7.0, 0.5, 2.0)),
    AtcConfig(lengths=PerFamily(400, 300, 28, 8, 90, 500)),  # a workspace in the device's memory
]
"""Sets that bits are compared of, beside the default: each variant, shared averages, shared layers 1, long windows."""


def bits(bench: Bench) -> None:
    """2. Against Rust, bit for bit: raises where one differs."""
    rows, differ = [], 0

    def compared(what: str, close: F64, configs: list[AtcConfig], names: tuple[str, ...], pieces: int) -> None:
        nonlocal differ
        found, values = _differences(bench, close, configs, names, pieces)
        differ += found
        bars = int(np.count_nonzero(close == close))
        rows.append([what, f"{bars:,}", str(len(configs)), f"{values:,}", f"{found:,}"])
        bench.report.say(f"{what}: {found:,} differences of {values:,}")

    size = bench.size(5000, 20_000)
    step = max(1, size.symbols // 5)
    close = bench.walks(size, missing=0.01)
    for first in range(0, size.symbols, step):
        part = close[first : first + step]
        compared(f"symbols {first:,} to {first + len(part):,}, signals and state", part, [CONFIG], ("signal",), 2)
    few = close[: max(2, size.symbols // 10)]
    compared(f"{len(few):,} symbols, sets of all kinds, signals and state", few, SWEPT, ("signal",), 3)
    corner = np.ascontiguousarray(close[: min(32, size.symbols), -min(2000, size.bars) :])
    compared("all outputs and state", corner, SWEPT[:5], tuple(OUTPUT_AXES), 2)
    columns = ["compared with " + bench.cpu.name, "bars", "sets", "values", "differences"]
    total_bars = sum(int(row[1].replace(",", "")) * int(row[2]) for row in rows)
    rows.append(["all", f"{total_bars:,} set-bars", "", "", f"{differ:,}"])
    bench.report.table("Bits", columns, rows)
    if differ:
        raise AssertionError(f"{differ:,} values differ from {bench.cpu.name}'s")


def _differences(
    bench: Bench, close: F64, configs: list[AtcConfig], names: tuple[str, ...], pieces: int
) -> tuple[int, int]:
    """Values that differ in the outputs named and in the final state, and how many were compared. The GPU takes the
    bars in pieces, the CPU in one."""
    on_gpu, gpu_state = _advanced(CudaKernel(bench.device.driver), close, configs, names, pieces)
    cpu = CpuJob(bench, close, configs, names)
    cpu()
    found = values = 0
    for part, outputs, state in zip(cpu.parts, cpu.outputs, cpu.states, strict=True):
        pairs = [(getattr(on_gpu, name)[:, part], getattr(outputs, name)) for name in names]
        pairs.append((gpu_state.equities[:, :, part], state.equities))
        pairs.append((gpu_state.bars[part].astype(float), state.bars.astype(float)))
        pairs += [
            (ours.values[:, part], theirs.values) for ours, theirs in zip(gpu_state.streams, state.streams, strict=True)
        ]
        for ours, theirs in pairs:
            found += differing(np.ascontiguousarray(ours), np.ascontiguousarray(theirs))
            values += ours.size
    return found, values


def _advanced(
    kernel: Kernel, close: F64, configs: list[AtcConfig], names: tuple[str, ...], pieces: int
) -> tuple[Outputs, State]:
    symbols, bars = close.shape
    whole, state = Outputs.allocate(names, len(configs), symbols, bars), kernel.new_state(configs, symbols)
    edges = np.linspace(0, bars, pieces + 1).astype(int)
    for start, stop in pairwise(edges):
        piece = Outputs.allocate(names, len(configs), symbols, int(stop - start))
        kernel.advance(state, Prices(np.ascontiguousarray(close[:, start:stop])), piece)
        for name in names:
            getattr(whole, name)[..., start:stop] = getattr(piece, name)
    return whole, state


def resident(bench: Bench) -> None:
    """3. Prices and signals on the device, one set."""
    size = bench.size(10_000, 20_000)
    job = ResidentJob(bench, bench.walks(size), [CONFIG])
    spread = bench.in_turns({str(size): job})[str(size)]
    rate, best = job.set_bars / spread.median, bench.floor_rate(of_a_set(CONFIG))
    bench.report.table(
        "On the device, one set",
        ["what", "bars a second", "launches", "of the floor", "of the target"],
        [
            [
                str(size),
                spread.rate(job.set_bars),
                str(job.launches),
                f"{rate / best:.1%}",
                f"{rate / RESIDENT_TARGET:.2f}x",
            ]
        ],
    )


def sweep_sets(n: int) -> list[AtcConfig]:
    """Sets that share lengths and nothing behind averages and their signals: 40 lambdas, 5 decays, 5 cutouts."""
    grid = itertools.product(range(5), range(5), range(40))
    found = (replace(CONFIG, lambda_=0.01 + i / 100, decay=0.01 * (1 + j), cutout=k) for k, j, i in grid)
    return list(itertools.islice(found, n))


def voting_sets(n: int) -> list[AtcConfig]:
    """Sets that share layer 1 too."""
    steps = [0.001 * i for i in range(n)]
    return [
        replace(
            CONFIG, long_threshold=s, short_threshold=-s, weights=PerFamily(1.0 + s, 1.0, 1.0, 1.0 + s / 2, 1.0, 1.0)
        )
        for s in steps
    ]


def sets(bench: Bench) -> None:
    """4. A thousand sets that share lengths, on the device."""
    size = bench.size(1000, 20_000, 1000)
    close = bench.walks(size)
    rows = []
    for what, made, layers in (("each its own layer 1", sweep_sets, size.sets), ("one layer 1", voting_sets, 1)):
        job = ResidentJob(bench, close, made(size.sets))
        name = f"{size}, {what}"
        spread = bench.in_turns({name: job})[name]
        rate = job.set_bars / spread.median
        best = bench.floor_rate(of_a_set(CONFIG, size.sets, layers))
        rows.append(
            [name, spread.rate(job.set_bars), str(job.launches), f"{rate / best:.1%}", f"{rate / SETS_TARGET:.2f}x"]
        )
        del job
        bench.device.release()
    columns = ["what", "set-bars a second", "launches", "of the floor", "of the target"]
    bench.report.table("On the device, many sets", columns, rows)


def occupancy(bench: Bench) -> None:
    """8. What fits into a processor, and how many symbols it takes to fill the device."""
    rows, job = [], None
    for symbols in (64, 256, 1024, 4096, 16_384):
        size = bench.size(symbols, 20_000)
        job = ResidentJob(bench, bench.walks(size), [CONFIG])
        spread = bench.in_turns({str(size): job})[str(size)]
        share = job.set_bars / spread.median / bench.floor_rate(of_a_set(CONFIG))
        rows.append([str(size), spread.rate(job.set_bars), f"{share:.1%}"])
        bench.device.release()
    variant = next(asked for asked in job.driver.launched if isinstance(asked, Variant))
    work_bytes = int(job.driver.launched[-1])
    bench.report.table("Occupancy", ["what", "found"], bench.device.occupancy(variant, work_bytes))
    bench.report.table("Symbols side by side", ["what", "bars a second", "of the floor"], rows)
