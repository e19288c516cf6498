"""The plan: shapes and a memory budget in, partitions out. Pure integers, no reading, no clock.

A partition is a block of symbols (a chunk of the store, a part where chunks are fewer than workers can
share evenly, or several chunks one after another where each is over in a moment) and a block of parameter
sets, over all bars. It is read slab by slab along time (a slab: whole chunks), computed block by block within
a slab, with the state carried on, so that memory depends on neither the number of bars nor of partitions.
docs/memory.md tells more.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, replace
from heapq import heapreplace
from itertools import chain, groupby, pairwise

from atc_backtest.errors import ConfigError
from atc_backtest.pipelines import costs

ROW_GROUP = 1 << 18
"""Saved rows that wait in a writer before they are encoded, as one group: it has them and at most a block more."""

SMALLEST_BLOCK = 256
"""Bars; below this, fixed costs per call outweigh the bars themselves."""

MANY = 64
"""Tasks a worker; from here on, how they fall at the end hardly matters."""

Block = tuple[int, ...]
"""Symbols of one chunk, or a part of them: what is read and computed at once."""


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
    written_bytes: int = 0
    """On disk, per symbol, set and bar, of the largest dataset with a row a bar; about."""
    n_streams: int = 1
    """Of all sets: averages and signs that must be computed apart."""
    kernel: str = "rust"
    staging_bytes: int = 0
    """The most that a task holds in memory of what goes to a device and comes back."""


@dataclass(frozen=True)
class Partition:
    """Symbols by position in the store, ascending, and a half-open range of sets.

    Symbols of one chunk, or several chunks with all that is asked for of each. `index` names the part file.
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
    prefetch: bool
    """A slab is read while the one before it is computed."""
    seconds: float
    """What the run may take, by `costs`: an estimate, never a limit."""


@dataclass(frozen=True)
class _Cut:
    """How the run is cut: `blocks` of symbols, in order of the store, and how many sets a task has.

    `tasks`: of each group of sets, into which neighbouring blocks are gathered as evenly as they can be.
    """

    blocks: tuple[Block, ...]
    sets: int
    tasks: int

    def gathered(self, tasks: int) -> list[tuple[Block, ...]]:
        """The blocks of each of `tasks` tasks."""
        edges = [len(self.blocks) * k // tasks for k in range(tasks + 1)]
        return [self.blocks[start:stop] for start, stop in pairwise(edges)]

    def most(self, tasks: int) -> int:
        """Symbols of the largest of `tasks` tasks."""
        return max(sum(map(len, blocks)) for blocks in self.gathered(tasks))


@dataclass(frozen=True)
class _Level:
    """One way to spend memory."""

    block: int
    sets: int
    prefetch: bool
    tasks: int
    task_bytes: int


def make_plan(
    shape: Shape, n_workers: int, processes: bool, memory_limit: int | None, ram_bytes: int | None = None
) -> Plan:
    """Cut a run into partitions that keep `n_workers` busy within `memory_limit` bytes.

    `processes`: each worker is a process of its own (beside the client), else a thread of one
    process. Raises `ConfigError` with the smallest budget that works when the limit is too small.
    Without a limit it aims at half of `ram_bytes`, the machine's, and refuses nothing.
    """
    budget = _budget(memory_limit, ram_bytes)
    fixed = _fixed_bytes(shape, n_workers, processes)
    cut = _cut(shape, n_workers)
    levels = _levels(shape, cut)
    chosen = next((level for level in levels if fixed + n_workers * level.task_bytes <= budget), None)
    if chosen is None:
        if memory_limit is not None:
            needed, alone = (_least(shape, n, processes) for n in (n_workers, 1))
            raise ConfigError(_too_small(memory_limit, n_workers, needed, alone))
        chosen = min(levels, key=lambda level: level.task_bytes)
    return Plan(
        partitions=_partitions(shape, cut.gathered(chosen.tasks), chosen.sets),
        slab_bars=shape.chunk_bars,
        block_bars=chosen.block,
        n_workers=n_workers,
        processes=processes,
        task_bytes=chosen.task_bytes,
        projected_bytes=fixed + n_workers * chosen.task_bytes,
        memory_limit=memory_limit,
        prefetch=chosen.prefetch,
        seconds=_makespan(shape, cut.gathered(chosen.tasks), chosen.sets, n_workers),
    )


def plan_again(
    shape: Shape,
    partitions: tuple[Partition, ...],
    n_workers: int,
    processes: bool,
    memory_limit: int | None,
    ram_bytes: int | None = None,
) -> Plan:
    """The plan of a run that was cut before, into `partitions`: only blocks and reading ahead are chosen anew.

    Raises `ConfigError`, and aims at half of `ram_bytes`, as `make_plan` does.
    """
    budget = _budget(memory_limit, ram_bytes)
    sizes = [tuple(map(len, chunk_blocks(one.symbols, shape.chunk_symbols))) for one in partitions]
    sets = [stop - start for start, stop in (one.sets for one in partitions)]
    size, most = (max(map(max, sizes)), max(map(sum, sizes))), max(sets)
    blocks = _blocks(shape)
    choices = [*((block, True) for block in blocks), (blocks[-1], False)]
    fixed = _fixed_bytes(shape, n_workers, processes)
    needs = [fixed + n_workers * _task_bytes(shape, size, block, most, ahead) for block, ahead in choices]
    chosen = next((at for at, needed in enumerate(needs) if needed <= budget), None)
    if chosen is None:
        if memory_limit is not None:
            single = _fixed_bytes(shape, 1, processes) + (min(needs) - fixed) // n_workers
            raise ConfigError(_too_small(memory_limit, n_workers, min(needs), single))
        chosen = needs.index(min(needs))
    (block, ahead), needed = choices[chosen], needs[chosen]
    times = [_task_ns(shape, one, n) / 1e9 for one, n in zip(sizes, sets, strict=True)]
    return Plan(
        partitions=partitions,
        slab_bars=shape.chunk_bars,
        block_bars=block,
        n_workers=n_workers,
        processes=processes,
        task_bytes=(needed - fixed) // n_workers,
        projected_bytes=needed,
        memory_limit=memory_limit,
        prefetch=ahead,
        seconds=max(sum(times) / n_workers, *times),
    )


def _budget(memory_limit: int | None, ram_bytes: int | None) -> float:
    """Bytes to stay under: the limit, or half of the machine's memory where there is none."""
    return memory_limit or (math.inf if ram_bytes is None else ram_bytes // 2)


def _too_small(budget: int, n_workers: int, needed: int, alone: int) -> str:
    """`needed` bytes with so many workers, `alone` with one."""
    several = f"{n_workers} worker{'s' if n_workers > 1 else ''}"
    single = f", or {_exact(alone)} with one worker" if n_workers > 1 else ""
    return (
        f"a memory limit of {format_bytes(budget)} is too small for {several}: this run needs at least "
        f"{_exact(needed)}{single}. Raise --memory-limit or lower the number of workers."
    )


def _exact(size: int) -> str:
    return f"{format_bytes(size)} ({size} bytes)"


def _fixed_bytes(shape: Shape, n_workers: int, processes: bool) -> int:
    return shape.process_bytes * (1 + n_workers if processes else 1)


def _least(shape: Shape, n_workers: int, processes: bool) -> int:
    """The smallest budget that `make_plan` accepts."""
    smallest = min(level.task_bytes for level in _levels(shape, _cut(shape, n_workers)))
    return _fixed_bytes(shape, n_workers, processes) + n_workers * smallest


def _blocks(shape: Shape) -> list[int]:
    """Bars of a block, from a whole slab to `SMALLEST_BLOCK`."""
    blocks = [shape.chunk_bars]
    while blocks[-1] > SMALLEST_BLOCK:
        blocks.append(max(SMALLEST_BLOCK, blocks[-1] // 2))
    return blocks


def _levels(shape: Shape, cut: _Cut) -> list[_Level]:
    """From generous to sparing: smaller blocks cost little; then nothing is gathered, read ahead, or run together."""
    blocks, sets, apart = _blocks(shape), cut.sets, len(cut.blocks)
    block = blocks[-1]
    choices = [(bars, sets, True, cut.tasks) for bars in blocks]
    choices += [(block, sets, True, apart), (block, sets, False, apart)]
    while sets > 1:
        sets = (sets + 1) // 2
        choices.append((block, sets, False, apart))
    symbols = max(map(len, cut.blocks))
    return [_Level(*choice, _task_bytes(shape, (symbols, cut.most(choice[3])), *choice[:3])) for choice in choices]


def _task_bytes(shape: Shape, size: tuple[int, int], block: int, sets: int, prefetch: bool) -> int:
    """Peak of one partition: slabs of every field (the next one being decoded), a block's working arrays.

    `size`: symbols of its largest block, and of all. Of blocks that are gathered one is read and computed at a
    time; hashes and rows to write are of all.
    """
    symbols, gathered = size
    chunk = 8 * shape.chunk_symbols * shape.chunk_bars
    slab = 8 * symbols * shape.chunk_bars * shape.n_fields
    times = 2 * 8 * shape.chunk_bars
    read = (2 if prefetch else 1) * (slab + times) + 3 * chunk
    state = symbols * shape.state_bytes + 2 * gathered * sets * shape.set_bytes
    working = 8 * block * (symbols * (sets + shape.n_fields + 3) + 2 * sets + 26)
    staged = min(shape.staging_bytes, 2 * 8 * block * symbols * (sets + 2))
    saved = 2 * shape.saved_bytes * min(gathered * sets * shape.n_bars, ROW_GROUP + block)
    return read + state + working + staged + saved


def _cut(shape: Shape, n_workers: int) -> _Cut:
    """The cut that ends soonest by the estimate: a finer one where that is worth it, or tasks would be too long."""
    chunks = chunk_blocks(shape.symbols, shape.chunk_symbols)
    candidates = []
    for pieces in (2**k for k in range(shape.chunk_symbols.bit_length()) if 2**k <= shape.chunk_symbols):
        blocks = _split(chunks, pieces)
        groups: tuple[int, ...] = (1, *(n_workers * 2**k for k in range(3)))
        groups += (math.ceil(shape.n_sets / _longest_sets(shape, blocks)),)
        counts = {math.ceil(shape.n_sets / group) for group in groups}
        candidates += [_Cut(blocks, sets, len(blocks)) for sets in counts]
    candidates.sort(key=lambda cut: (len(cut.blocks) * math.ceil(shape.n_sets / cut.sets), len(cut.blocks)))
    best, best_seconds, best_long = candidates[0], math.inf, True
    for cut in candidates:
        seconds = _makespan(shape, cut.gathered(cut.tasks), cut.sets, n_workers)
        too_long = _task_ns(shape, (max(map(len, cut.blocks)),), cut.sets) > costs.LONGEST_NS
        worth = seconds < min(costs.WORTH * best_seconds, best_seconds - costs.WORTH_NS / 1e9)
        if (best_long and not too_long) or (worth and too_long <= best_long):
            best, best_seconds, best_long = cut, seconds, too_long
    return _gather(shape, best, n_workers)


def _gather(shape: Shape, cut: _Cut, n_workers: int) -> _Cut:
    """The same with fewer tasks, where they are short or their parts small; never so few that the run takes longer."""
    if any(a[-1] // shape.chunk_symbols == b[0] // shape.chunk_symbols for a, b in pairwise(cut.blocks)):
        return cut  # chunks were split because workers are more than they
    n_blocks, n_groups = len(cut.blocks), math.ceil(shape.n_sets / cut.sets)
    work = sum(n * _bars_ns(shape, size, cut.sets) for size, n in Counter(map(len, cut.blocks)).items())
    written = shape.written_bytes * len(shape.symbols) * cut.sets * shape.n_bars
    wanted = work / costs.SHORTEST_NS
    if written:
        wanted = min(wanted, max(written / costs.PART_BYTES, work / costs.LONGEST_NS))
    fewest = max(1, math.ceil(wanted), math.ceil(n_workers / n_groups))
    candidates = [n for n in range(fewest, fewest + n_workers) if n < n_blocks]
    times = {n: _makespan(shape, cut.gathered(n), cut.sets, n_workers) for n in (*candidates, n_blocks)}
    return replace(cut, tasks=min(times, key=lambda n: (times[n], n)))


def _longest_sets(shape: Shape, blocks: tuple[Block, ...]) -> int:
    """The most sets with which a task is not too long; 1 where even that is."""
    most = (max(map(len, blocks)),)
    return max(1, bisect_right(range(1, shape.n_sets + 1), costs.LONGEST_NS, key=lambda n: _task_ns(shape, most, n)))


def _task_ns(shape: Shape, sizes: tuple[int, ...], sets: int) -> float:
    """One task of blocks with so many symbols."""
    return costs.TASK_NS + sum(_bars_ns(shape, symbols, sets) for symbols in sizes)


def _bars_ns(shape: Shape, symbols: int, sets: int) -> float:
    """A block's bars: its chunks decoded whole, streams shared by its sets, an account a set."""
    kernel = costs.KERNEL[shape.kernel]
    lanes = math.ceil(symbols / kernel.lanes) * kernel.lanes
    computed = lanes * (kernel.stream_ns * min(shape.n_streams, sets) + kernel.set_ns * sets)
    read = costs.READ_NS * shape.n_fields * max(symbols, shape.chunk_symbols)
    return shape.n_bars * (read + computed + costs.ACCOUNT_NS * symbols * sets)


def _makespan(shape: Shape, tasks: list[tuple[Block, ...]], sets: int, n_workers: int) -> float:
    """Seconds until the last of the workers is done, each taking the next task when it is free."""
    last = shape.n_sets % sets
    groups = Counter({sets: shape.n_sets // sets}) + Counter({last: last > 0})
    times = [
        (_task_ns(shape, sizes, n_sets) / 1e9, n_tasks * n_groups)
        for sizes, n_tasks in Counter(tuple(map(len, blocks)) for blocks in tasks).items()
        for n_sets, n_groups in groups.items()
    ]
    if sum(count for _, count in times) > MANY * n_workers:
        return sum(seconds * count for seconds, count in times) / n_workers
    free = [0.0] * n_workers
    for seconds, count in sorted(times, reverse=True):
        for _ in range(count):
            heapreplace(free, free[0] + seconds)
    return max(free)


def chunk_blocks(symbols: Block, chunk_symbols: int) -> list[Block]:
    """Symbols, ascending, by the chunk of the store that they lie in."""
    return [tuple(block) for _, block in groupby(symbols, key=lambda symbol: symbol // chunk_symbols)]


def _split(chunks: list[Block], pieces: int) -> tuple[Block, ...]:
    """Every chunk's symbols in up to `pieces` parts, as even as they can be."""
    parts = []
    for chunk in chunks:
        n = min(pieces, len(chunk))
        edges = [len(chunk) * k // n for k in range(n + 1)]
        parts += [chunk[start:stop] for start, stop in pairwise(edges)]
    return tuple(parts)


def _partitions(shape: Shape, tasks: list[tuple[Block, ...]], sets: int) -> tuple[Partition, ...]:
    groups = [(first, min(first + sets, shape.n_sets)) for first in range(0, shape.n_sets, sets)]
    pairs = [(tuple(chain.from_iterable(blocks)), group) for blocks in tasks for group in groups]
    return tuple(Partition(index, symbols, group) for index, (symbols, group) in enumerate(pairs))


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
