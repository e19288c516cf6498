"""The plan: shapes and a memory budget in, partitions out. Pure integers, no reading, no clock.

A partition is a block of symbols (whole chunks of the store) and a block of parameter sets, over all
bars. It is read slab by slab along time (a slab: whole chunks), computed block by block within a slab,
with the state carried on, so that memory depends on neither the number of bars nor of partitions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby

from atc_backtest.errors import ConfigError

ROW_GROUP = 1 << 18
"""Saved rows that wait in a writer before they are encoded."""

SMALLEST_BLOCK = 256
"""Bars; below this, fixed costs per call outweigh the bars themselves."""


@dataclass(frozen=True)
class Shape:
    """What the plan must know of a store and a run.

    `state_bytes` per symbol: what all of a stream's parameter sets share; `set_bytes` per symbol and
    set: equities and account. `saved_bytes` per symbol, set and bar: what `--save` holds back until
    it is written.
    """

    symbols: tuple[int, ...]
    """Positions in the store of the symbols to run, ascending."""
    n_bars: int
    chunk_symbols: int
    chunk_bars: int
    n_fields: int
    n_sets: int
    state_bytes: int
    set_bytes: int
    process_bytes: int
    """One process before its first bar: packages imported, kernels compiled."""
    saved_bytes: int = 0


@dataclass(frozen=True)
class Partition:
    """Symbols of one chunk, by position in the store, ascending, and a half-open range of sets.

    `index` names the part file.
    """

    index: int
    symbols: tuple[int, ...]
    sets: tuple[int, int]

    def __str__(self) -> str:
        """What progress displays and the Dask dashboard call this partition."""
        first, last = self.symbols[0], self.symbols[-1]
        return f"symbols {first}-{last}, sets {self.sets[0]}-{self.sets[1] - 1}"


@dataclass(frozen=True)
class Plan:
    """`projected_bytes` is a promise: all processes of the run together stay under it."""

    partitions: tuple[Partition, ...]
    slab_bars: int
    block_bars: int
    n_workers: int
    processes: bool
    task_bytes: int
    projected_bytes: int
    memory_limit: int | None
    prefetch: bool = True


def make_plan(shape: Shape, n_workers: int, processes: bool, memory_limit: int | None) -> Plan:
    """Cut a run into partitions that keep `n_workers` busy within `memory_limit` bytes.

    `processes`: each worker is a process of its own (beside the client), else a thread of one
    process. Raises `ConfigError` with the smallest budget that works when the limit is too small.
    """
    budget = math.inf if memory_limit is None else memory_limit
    fixed = _fixed_bytes(shape, n_workers, processes)
    sets = _sets_for_parallelism(shape, n_workers)
    block = shape.chunk_bars
    while True:
        task = _task_bytes(shape, sets, block)
        projected = fixed + n_workers * task
        if projected <= budget:
            break
        if block > SMALLEST_BLOCK:
            block = max(SMALLEST_BLOCK, block // 2)
        elif sets > 1:
            sets = (sets + 1) // 2
        else:
            raise ConfigError(
                f"a memory limit of {format_bytes(int(budget))} is too small for {n_workers} "
                f"worker{'s' if n_workers > 1 else ''}: this run needs at least {format_bytes(projected)}"
                + (f", or {format_bytes(_least(shape, processes))} with one worker" if n_workers > 1 else "")
                + ". Raise --memory-limit or lower the number of workers."
            )
    return Plan(
        partitions=_partitions(shape, sets),
        slab_bars=shape.chunk_bars,
        block_bars=block,
        n_workers=n_workers,
        processes=processes,
        task_bytes=task,
        projected_bytes=projected,
        memory_limit=memory_limit,
    )


def _fixed_bytes(shape: Shape, n_workers: int, processes: bool) -> int:
    return shape.process_bytes * (1 + n_workers if processes else 1)


def _least(shape: Shape, processes: bool) -> int:
    return _fixed_bytes(shape, 1, processes) + _task_bytes(shape, 1, min(SMALLEST_BLOCK, shape.chunk_bars))


def _sets_for_parallelism(shape: Shape, n_workers: int) -> int:
    """Sets per partition: all of them where symbols alone give every worker something to do."""
    groups = min(shape.n_sets, math.ceil(n_workers / len(_symbol_blocks(shape))))
    return math.ceil(shape.n_sets / groups)


def _task_bytes(shape: Shape, sets: int, block: int) -> int:
    """Peak of one partition: a slab of every field (decoded and being decoded), a block's working arrays."""
    symbols = max(len(block) for block in _symbol_blocks(shape))
    slab = 8 * shape.chunk_symbols * shape.chunk_bars
    times = 2 * 8 * shape.chunk_bars
    read = (shape.n_fields + 3) * slab + times
    state = symbols * (shape.state_bytes + 2 * sets * shape.set_bytes)
    working = 8 * block * (symbols * (sets + 3) + 2 * sets + 16)
    saved = 2 * shape.saved_bytes * min(symbols * sets * shape.n_bars, ROW_GROUP + block)
    return read + state + working + saved


def _symbol_blocks(shape: Shape) -> list[tuple[int, ...]]:
    blocks = groupby(shape.symbols, key=lambda symbol: symbol // shape.chunk_symbols)
    return [tuple(block) for _, block in blocks]


def _partitions(shape: Shape, sets: int) -> tuple[Partition, ...]:
    groups = [(first, min(first + sets, shape.n_sets)) for first in range(0, shape.n_sets, sets)]
    pairs = [(block, group) for block in _symbol_blocks(shape) for group in groups]
    return tuple(Partition(index, block, group) for index, (block, group) in enumerate(pairs))


UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}


def parse_bytes(text: str) -> int:
    """`1GB`, `512MiB`, `1.5e9` to bytes; `ConfigError` for anything else."""
    number = text.strip()
    unit = ""
    while number and number[-1].isalpha():
        number, unit = number[:-1], number[-1] + unit
    try:
        size = float(number) * UNITS[unit.upper()]
        if not 0 < size < 2**63:
            raise ValueError
    except (KeyError, ValueError):
        raise ConfigError(f"memory limit {text!r} is not a size: write e.g. 1GB, 800MB or 1.5GiB.") from None
    return round(size)


def format_bytes(size: int) -> str:
    """Bytes for people, in decimal units, rounded up so that the printed limit suffices."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if size >= scale:
            hundredths = -(-100 * size // scale)
            return f"{hundredths // 100}.{hundredths % 100:02d}".rstrip("0").rstrip(".") + f" {unit}"
    return f"{size} B"
