"""Accounts summed over symbols, bar by bar, exactly: in any order, however symbols are cut into tasks.

A sum is kept as whole and fractional part, both integers, which add without rounding. Each task sums its block of
symbols; what it found is added to the total and forgotten, so that memory is 64 bytes for each bar and task.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atc_backtest.errors import ConfigError, StoreError
from atc_backtest.pipelines.accounting import Advanced
from atc_backtest.pipelines.backtest import Options, executor_of, task_name
from atc_backtest.pipelines.choosing import kernel_of
from atc_backtest.pipelines.executors import Failed, Tick, untold
from atc_backtest.pipelines.job import Job
from atc_backtest.pipelines.memory import process_bytes
from atc_backtest.pipelines.plan import Partition, chunk_blocks, format_bytes
from atc_backtest.pipelines.runs import JobPlace, Run, job_at, job_of, prices_of
from atc_backtest.pipelines.scratch import PORTFOLIO, scratch
from atc_backtest.pipelines.stream import EXPOSURE, Stream
from atc_backtest.pipelines.weighing import Weights

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

SUMS = ("equity", "gross", "net", "market")
"""Summed over symbols: growth of the accounts, market value held, the same with its sign, growth of buy-and-hold."""

FRACTION = 2.0**48
"""Units of the fractional parts: sums of 10,000 symbols stay within int64."""

BAR_BYTES = 8 * 2 * len(SUMS)
"""Of one sum."""


@dataclass(frozen=True)
class _Task:
    """A block of symbols, whose sums go to `file`; `weights` of its symbols alone."""

    partition: Partition
    file: Path
    starts: I64
    weights: F64


def summed(run: Run, weights: Weights, param_id: int, options: Options, show: Callable[[int, int], None]) -> F64:
    """`SUMS` over all symbols, [4, bars], relative to the portfolio's value at the last rebalance, without cash."""
    job = job_of(run, kernel_of(options.kernel, options.scheduler is not None))
    info = prices_of(job).info
    n_bars = info.n_bars
    _check_memory(job, options, n_bars)
    blocks = sorted({block for part in run.partitions for block in chunk_blocks(part.symbols, info.chunk[0])})
    place = {symbol: at for at, symbol in enumerate(sorted(symbol for block in blocks for symbol in block))}
    total = np.zeros((len(SUMS), 2, n_bars), np.int64)

    def named(task: _Task) -> str:
        return task_name(job, "portfolio", task.partition)

    with scratch(run.path, PORTFOLIO) as folder, executor_of(job, options, named) as executor:
        tasks = [
            _Task(
                Partition(index, block, (param_id, param_id + 1)),
                folder / f"{index}.npy",
                weights.starts,
                weights.weights[[place[symbol] for symbol in block]],
            )
            for index, block in enumerate(blocks)
        ]
        outcomes = executor.run(partial(_sum_block, JobPlace.of(run, job)), tasks, untold, options.retries)
        for done, outcome in enumerate(outcomes, start=1):
            if isinstance(outcome, Failed):
                raise StoreError(f"{named(outcome.item)}: {outcome.error}. Nothing was written.")
            total += np.load(outcome.item.file, mmap_mode="r")
            outcome.item.file.unlink()
            show(done, len(tasks))
    whole: F64 = total[:, 0] + total[:, 1] / FRACTION
    return whole


def _check_memory(job: Job, options: Options, n_bars: int) -> None:
    """`ConfigError` where the sums of all tasks and of the total do not fit into the limit with what a run needs."""
    workers = options.workers or options.threads or job.plan.n_workers
    processes = 1 + workers if options.workers or options.scheduler else 1
    needed = processes * process_bytes(job.kernel) + workers * job.plan.task_bytes + (workers + 3) * BAR_BYTES * n_bars
    if options.memory_limit is not None and options.memory_limit < needed:
        raise ConfigError(
            f"a memory limit of {format_bytes(options.memory_limit)} is too small for {workers} workers: sums over "
            f"{n_bars:,} bars need {format_bytes(needed)}. Raise --memory-limit or lower the number of workers."
        )


def _sum_block(place: JobPlace, task: _Task, tick: Tick) -> None:
    """Where it runs, a worker: the block's sums, into the task's file."""
    job = job_at(place)
    store = prices_of(job)
    stream = Stream(job, task.partition, store, (EXPOSURE,))
    sums = np.zeros((len(SUMS), 2, store.info.n_bars), np.int64)
    summing = _Summing(stream, task, sums)
    at = 0
    with stream.blocks() as blocks:
        for ts, block in blocks:
            summing.begin(ts, at)
            tick(stream.advance(ts, block, summing))
            at += ts.size
    with task.file.open("wb") as file:
        np.save(file, sums)


class _Summing:
    """Takes a stream's accounts, symbol by symbol, into the sums of their block.

    Carried for each symbol: its account's equity, exposure and close at the last evaluated bar (0 before one), and
    equity and close at the last rebalance.
    """

    def __init__(self, stream: Stream, task: _Task, sums: I64) -> None:
        self._room = stream.room
        self._starts, self._weights = task.starts, task.weights
        self._sums = sums
        n = len(stream.symbols)
        self._last = np.zeros((3, n))
        self._last[0] = stream.rules[0].start_equity
        self._base = np.zeros((2, n))
        self._pieces: list[tuple[int, int, int, bool]] = []
        self._ts: I64 = np.zeros(0, np.int64)
        self._at = 0
        self._interval = -1

    def begin(self, ts: I64, at: int) -> None:
        """The block that comes next: bar `at` of the axis and on. It falls into pieces (start, stop, interval, new)."""
        interval = np.searchsorted(self._starts, ts, side="right") - 1
        edges = [0, *(np.flatnonzero(np.diff(interval)) + 1), ts.size]
        self._pieces = []
        for start, stop in pairwise(edges):
            self._pieces.append((start, stop, int(interval[start]), int(interval[start]) != self._interval))
            self._interval = int(interval[start])
        self._ts, self._at = ts, at

    def __call__(self, rows: slice, set_: int, found: Advanced) -> None:
        row = rows.start
        saved = self._room.saved
        counted = ~np.isnan(saved.equity[: found.bars])
        place = np.searchsorted(self._room.ts[: found.bars][counted], self._ts, side="right")
        given = (saved.equity, saved.exposure, self._room.picked[0])
        equity, exposure, close = (
            np.concatenate([[last], values[: found.bars][counted]])[place]
            for last, values in zip(self._last[:, row], given, strict=True)
        )
        for start, stop, interval, is_new in self._pieces:
            if interval < 0:
                continue
            if is_new:
                before = (equity[start - 1], close[start - 1]) if start else self._last[[0, 2], row]
                self._base[:, row] = before
            weight = self._weights[row, interval]
            if weight > 0:
                cut = slice(start, stop)
                self._add(row, weight, slice(self._at + start, self._at + stop), equity[cut], exposure[cut], close[cut])
        self._last[:, row] = equity[-1], exposure[-1], close[-1]

    def _add(self, row: int, weight: float, bars: slice, equity: F64, exposure: F64, close: F64) -> None:
        grown = weight * (equity / self._base[0, row])
        if self._base[1, row] == 0.0 and close[-1] > 0.0:
            self._base[1, row] = close[close > 0.0][0]
        base = self._base[1, row]
        market = weight * (np.where(close > 0.0, close, base) / base) if base > 0.0 else np.full(close.size, weight)
        for at, values in enumerate((grown, grown * np.abs(exposure), grown * exposure, market)):
            whole = np.floor(values)
            self._sums[at, 0, bars] += whole.astype(np.int64)
            self._sums[at, 1, bars] += np.rint((values - whole) * FRACTION).astype(np.int64)
