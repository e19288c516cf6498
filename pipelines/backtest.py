"""The main job: a store and parameter sets in, a run folder of Parquet parts out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from atc_backtest import __version__
from atc_backtest.accounts import ACCOUNT, FILLS, Rules
from atc_backtest.config import RunConfig
from atc_backtest.errors import ConfigError
from atc_backtest.kernels import get_kernel
from atc_backtest.kernels.protocol import EQUITY_SLOTS, Outputs, Prices, StreamKey, StreamLayout, warmup_bars
from atc_backtest.metrics import bars_per_year
from atc_backtest.periods import PERIOD, check_period
from atc_backtest.pipelines import accounting
from atc_backtest.pipelines.commits import SetAside, set_aside
from atc_backtest.pipelines.executors import Executor, Failed, Threads, Tick, existing_cluster, local_cluster
from atc_backtest.pipelines.hashing import GROUP_BYTES
from atc_backtest.pipelines.job import PERIODS, Job, check_saves
from atc_backtest.pipelines.partition import PartSummary, run_partition
from atc_backtest.pipelines.plan import Partition, Shape, make_plan
from atc_backtest.pipelines.runs import (
    Basis,
    JobPlace,
    Run,
    create_run,
    discard_unfinished,
    job_at,
    open_run,
    resume_job,
)
from atc_backtest.pipelines.stream import SOURCE_FIELDS, needed_fields
from atc_backtest.stores.base import StoreInfo
from atc_backtest.stores.opening import absolute, open_store
from atc_backtest.symbol_costs import SymbolCosts, check_symbols

PROCESS_BYTES = {"rust": 360 * 2**20, "numba": 560 * 2**20, "cuda": 800 * 2**20, "reference": 360 * 2**20}
"""Of a kernel: a process with everything imported and compiled, Numba's compiler included; measured."""

SAVED_BYTES = {"signals": 40, "equity": 40, "trades": 200, PERIODS: 150}
"""A saved row while it waits in its writer, and again while it is encoded."""

WRITTEN_BYTES = {"signals": 4, "equity": 5}
"""A row on disk, of the datasets with a row a bar; measured on random walks."""


@dataclass(frozen=True)
class Options:
    """How a run is carried out and what it leaves behind; nothing but `costs`, of single symbols, changes a figure.

    `workers`: processes of a LocalCluster; `scheduler`: address of an existing one; neither:
    `threads` of this process (default: one per core). `memory_limit`: bytes of all processes.
    `retries`: further attempts at a partition whose error may pass. `period`: one of `periods.PERIODS`, what
    the rows of periods/ are of.
    """

    kernel: str = "auto"
    symbols: tuple[str, ...] | None = None
    save: tuple[str, ...] = ()
    period: str = "month"
    workers: int | None = None
    scheduler: str | None = None
    threads: int | None = None
    memory_limit: int | None = None
    retries: int = 2
    overwrite: bool = False
    resume: bool = False
    costs: tuple[SymbolCosts, ...] = ()


@dataclass(frozen=True)
class Progress:
    """What a caller may show while a run goes on.

    `started(job, bars, dashboard)` once, with the bars (times sets) still to do; `advanced(bars)`
    often.
    """

    started: Callable[[Job, int, str | None], None] = lambda job, bars, dashboard: None
    advanced: Callable[[int], None] = lambda bars: None


def prepare(store: str | Path, out: Path, sets: Sequence[RunConfig], options: Options) -> Job:
    """Everything about a run that can be known, and refused, before any work."""
    if not sets:
        raise ConfigError("no parameter set given: a run needs at least one.")
    if options.workers is not None and options.scheduler is not None:
        raise ConfigError("--workers starts a cluster and --scheduler uses one that is there: give one of them.")
    for name in ("workers", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name} {value} is not allowed: at least 1.")
    if options.retries < 0:
        raise ConfigError(f"--retries {options.retries} is not allowed: at least 0.")
    info = open_store(store).info
    chosen = _chosen(info, options.symbols)
    save = check_saves(options.save)
    kernel = get_kernel(options.kernel).name
    n_workers = options.workers or options.threads or os.cpu_count() or 1
    clustered = options.workers is not None or options.scheduler is not None
    job = Job(
        store=absolute(store),
        run=out.resolve(),
        store_id=info.id,
        store_version=info.version,
        symbols=tuple(symbol.name for symbol in info.symbols),
        sets=tuple(sets),
        bars_per_year=tuple(
            bars_per_year(info.bar_ns, run.calendar or info.calendar, run.bars_per_year) for run in sets
        ),
        kernel=kernel,
        save=save,
        period=check_period(options.period),
        plan=make_plan(
            _shape(info, chosen, sets, save, kernel), n_workers, clustered, options.memory_limit, _ram_bytes()
        ),
        costs=check_symbols(options.costs, {symbol.name for symbol in info.symbols}, str(store)),
    )
    return resume_job(job) if options.resume else job


def backtest(
    store: str | Path,
    out: Path,
    sets: Sequence[RunConfig],
    options: Options | None = None,
    progress: Progress | None = None,
) -> Run:
    """Run every parameter set over the store's symbols and commit the parts under `out`.

    Raises `ConfigError`, `DataError` or `StoreError` before work starts where it can; a run that
    stops half-way keeps its committed parts and continues with `Options.resume`. A partition that fails
    for good is set aside and the others go on: the run comes back with state `partial`.
    """
    options, progress = options or Options(), progress or Progress()
    job = prepare(store, out, sets, options)
    info = open_store(store, job.store_version).info
    if options.resume:
        discard_unfinished(open_run(job.run))
    else:
        create_run(job, _versions(), [_basis(run, info) for run in sets], options.overwrite)
    run = open_run(out)
    done = run.done
    todo = [p for p in job.plan.partitions if p.index not in done]
    if not todo:
        progress.started(job, 0, None)
        return run
    compile_kernel(job)
    work = partial(_run_at, JobPlace.of(run, job))
    with executor_of(job, options) as executor:
        progress.started(job, sum(_symbol_bars(info, p) for p in todo), executor.dashboard)
        for outcome in executor.run(work, todo, progress.advanced, options.retries):
            if isinstance(outcome, Failed):
                _set_aside(job, outcome)
            elif job.plan.processes:  # threads have said so as they went
                progress.advanced(outcome.result.symbol_bars)
    return run


def _run_at(place: JobPlace, partition: Partition, tick: Tick) -> PartSummary:
    """Where it runs, a worker: one partition of the job that the run's folder holds."""
    return run_partition(job_at(place), partition, tick)


def _set_aside(job: Job, failed: Failed[Partition]) -> None:
    partition = failed.item
    names = tuple(job.symbols[symbol] for symbol in partition.symbols)
    failure = SetAside(partition.index, names, partition.sets, failed.error, failed.traceback, failed.attempts)
    set_aside(job.run, failure)


def _basis(run: RunConfig, info: StoreInfo) -> Basis:
    rules = Rules.of(run, 0, "open" in info.fields, info.bar_ns)
    ranges = {"high", "low"} <= set(info.fields)
    return Basis(calendar=run.calendar or info.calendar, fill=FILLS[rules.fill], ranges=ranges)


def executor_of(job: Job, options: Options) -> AbstractContextManager[Executor]:
    """Where the options say that partitions run."""
    if options.scheduler is not None:
        return existing_cluster(options.scheduler)
    if options.workers is not None:
        limit = options.memory_limit
        share = None if limit is None else (limit - PROCESS_BYTES[job.kernel]) // options.workers
        return local_cluster(options.workers, share)
    return nullcontext(Threads(job.plan.n_workers))


def _ram_bytes() -> int | None:
    """This machine's memory; None where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # no POSIX
        return None


def _chosen(info: StoreInfo, names: tuple[str, ...] | None) -> tuple[int, ...]:
    position = {symbol.name: at for at, symbol in enumerate(info.symbols)}
    if names is None:
        if not position:
            raise ConfigError(f"the store {info.path} holds no symbols: ingest some first.")
        return tuple(range(len(position)))
    unknown = [name for name in names if name not in position]
    if unknown or not names:
        some = ", ".join(list(position)[:20]) + (", ..." if len(position) > 20 else "")
        raise ConfigError(f"--symbols {', '.join(unknown) or '(none)'}: not in {info.path}, which holds {some}.")
    return tuple(sorted({position[name] for name in names}))


def _shape(
    info: StoreInfo, chosen: tuple[int, ...], sets: Sequence[RunConfig], save: Sequence[str], kernel: str
) -> Shape:
    has_open = "open" in info.fields
    rules = [Rules.of(run, warmup_bars(run.atc), has_open, info.bar_ns) for run in sets]
    fields = needed_fields(rules, [run.source for run in sets], save)
    for run in sets:
        missing = [name for name in SOURCE_FIELDS[run.source] if name not in info.fields]
        if missing:
            raise ConfigError(
                f"source = {run.source!r} needs the fields {', '.join(missing)}, which {info.path} lacks: "
                "ingest files that have them, or use source = 'close'."
            )
    layouts = [StreamLayout.of(key) for key in {StreamKey.of(run.atc) for run in sets}]
    return Shape(
        symbols=chosen,
        n_bars=info.n_bars,
        chunk_symbols=info.chunk[0],
        chunk_bars=info.chunk[1],
        n_fields=len(fields),
        n_sets=len(sets),
        state_bytes=8 * sum(layout.width for layout in layouts),
        set_bytes=(
            8 * EQUITY_SLOTS
            + ACCOUNT.itemsize
            + (PERIOD.itemsize if PERIODS in save else 0)
            + GROUP_BYTES * (1 + len(save)) // 2
        ),
        process_bytes=PROCESS_BYTES[kernel],
        saved_bytes=sum(SAVED_BYTES[name] for name in save),
        written_bytes=max((WRITTEN_BYTES.get(name, 0) for name in save), default=0),
        n_streams=len(layouts),
        kernel=kernel,
    )


def _symbol_bars(info: StoreInfo, partition: Partition) -> int:
    n_sets = partition.sets[1] - partition.sets[0]
    return n_sets * sum(info.symbols[symbol].n_bars for symbol in partition.symbols)


def _versions() -> dict[str, str]:
    return {"atc-backtest": __version__} | {
        name: version(name) for name in ("numpy", "numba", "zarr", "pyarrow", "dask")
    }


def compile_kernel(job: Job) -> None:
    """Compile kernel and execution once, here: workers then only read Numba's cache and never race."""
    run = job.sets[0]
    kernel = get_kernel(job.kernel)
    close = np.linspace(1.0, 2.0, 8)[None]
    outputs = Outputs.allocate(["signal"], 1, 1, 8)
    kernel.advance(kernel.new_state([run.atc], 1), Prices(close), outputs)
    accounting.compiled()
