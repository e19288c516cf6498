"""The main job: a store and parameter sets in, a run folder of Parquet parts out."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from atc_backtest import __version__
from atc_backtest.accounts import ACCOUNT, FILLS, Rules
from atc_backtest.config import RunConfig
from atc_backtest.errors import ConfigError
from atc_backtest.kernels import AUTO, get_kernel
from atc_backtest.kernels.devices import visible_gpus
from atc_backtest.kernels.protocol import EQUITY_SLOTS, Outputs, Prices, StreamKey, StreamLayout, warmup_bars
from atc_backtest.metrics import bars_per_year
from atc_backtest.periods import PERIOD, check_period
from atc_backtest.pipelines import accounting
from atc_backtest.pipelines.beginning import beginning
from atc_backtest.pipelines.choosing import choose
from atc_backtest.pipelines.cluster import Setup
from atc_backtest.pipelines.commits import SetAside, say_unnamed, set_aside
from atc_backtest.pipelines.connecting import check_dashboard, existing_cluster, local_cluster
from atc_backtest.pipelines.executors import Executor, Failed, Threads, Tick
from atc_backtest.pipelines.guards import ledger
from atc_backtest.pipelines.hashing import GROUP_BYTES
from atc_backtest.pipelines.job import PERIODS, Job, check_saves
from atc_backtest.pipelines.memory import STAGING_BYTES, process_bytes, ram_bytes
from atc_backtest.pipelines.partition import PartSummary, run_partition
from atc_backtest.pipelines.plan import Partition, Plan, Shape, make_plan, plan_again
from atc_backtest.pipelines.runs import (
    Basis,
    JobPlace,
    Run,
    check_place,
    check_resumes,
    discard_unfinished,
    job_at,
    open_run,
    remove_leftovers,
    writing,
)
from atc_backtest.pipelines.stream import SOURCE_FIELDS, needed_fields
from atc_backtest.pipelines.workers import Needs, own_versions, sources_digest
from atc_backtest.stores.base import StoreInfo
from atc_backtest.stores.opening import absolute, open_store, stem
from atc_backtest.symbol_costs import SymbolCosts, check_symbols

DASK_REPORT = "dask-report.html"
"""In the run's folder, with `Options.dask_report`; no reader of runs looks at it."""

SAVED_BYTES = {"signals": 40, "equity": 40, "trades": 200, PERIODS: 150}
"""A saved row while it waits in its writer, and again while it is encoded."""

WRITTEN_BYTES = {"signals": 4, "equity": 5}
"""A row on disk, of the datasets with a row a bar; measured on random walks."""


@dataclass(frozen=True)
class Options:
    """How a run is carried out and what it leaves behind; nothing but `costs`, of single symbols, changes a figure.

    `kernel`: a name, or `auto`, as `choosing` has it. `workers`: processes of a LocalCluster; `scheduler`: address of
    an existing one; neither: `threads` of this process (default: one per core). `memory_limit`: bytes of all processes.
    `retries`: further attempts at a partition whose error may pass. `period`: one of `periods.PERIODS`, what
    the rows of periods/ are of. `ledger`: the run is entered among the store's trials.

    Of a cluster: `resources` (of Dask, name and amount) that each partition takes; `dashboard_address`, HOST:PORT of
    a LocalCluster's; `keep` it up until `Progress.kept` returns; `dask_report`: Dask's report in the run's folder.
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
    ledger: bool = True
    costs: tuple[SymbolCosts, ...] = ()
    resources: tuple[tuple[str, float], ...] = ()
    dashboard_address: str | None = None
    keep: bool = False
    dask_report: bool = False


@dataclass(frozen=True)
class Progress:
    """What a caller may show while a run goes on.

    `started(job, bars, dashboard)` once, with the bars (times sets) still to do; `advanced(bars)`
    often, less than 0 when an attempt failed; `kept(run)` with `Options.keep` when the run is over: the cluster
    stays up until it returns.
    """

    started: Callable[[Job, int, str | None], None] = lambda job, bars, dashboard: None
    advanced: Callable[[int], None] = lambda bars: None
    kept: Callable[[Run], None] = lambda run: None


def prepare(store: str | Path, out: Path, sets: Sequence[RunConfig], options: Options) -> Job:
    """Everything about a run that can be known, and refused, before any work."""
    if not sets:
        raise ConfigError("no parameter set given: a run needs at least one.")
    _check_place(options)
    for name in ("workers", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name} {value} is not allowed: at least 1.")
    if options.retries < 0:
        raise ConfigError(f"--retries {options.retries} is not allowed: at least 0.")
    info = open_store(store).info
    chosen = _chosen(info, options.symbols)
    save = check_saves(options.save)
    begun = open_run(out) if options.resume else None
    kernel, plan = choose(
        options.kernel,
        lambda name: _plan(_shape(info, chosen, sets, save, name), begun, options),
        processes=options.workers is not None,
        elsewhere=options.scheduler is not None,
    )
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
        plan=plan,
        costs=check_symbols(options.costs, {symbol.name for symbol in info.symbols}, str(store)),
    )
    if begun is not None:
        check_resumes(job, begun)
    return job


def _plan(shape: Shape, begun: Run | None, options: Options) -> Plan:
    """How the run is cut: anew, or as the one that has `begun` was."""
    n_workers = options.workers or options.threads or os.cpu_count() or 1
    clustered = options.workers is not None or options.scheduler is not None
    if begun is None:
        return make_plan(shape, n_workers, clustered, options.memory_limit, ram_bytes())
    if shape.symbols != begun.positions:
        raise ConfigError(f"{begun.path} was begun with other --symbols: resume with the same ones.")
    return plan_again(shape, begun.partitions, n_workers, clustered, options.memory_limit, ram_bytes())


def backtest(
    store: str | Path,
    out: Path,
    sets: Sequence[RunConfig],
    options: Options | None = None,
    progress: Progress | None = None,
) -> Run:
    """Run every parameter set over the store's symbols and commit the parts under `out`.

    Raises `ConfigError`, `DataError` or `StoreError` before work starts where it can, also when another process
    is at work on that run. A run that stops half-way keeps its committed parts and continues with
    `Options.resume`. A partition that fails for good is set aside and the others go on: the run comes back with
    state `partial`.
    """
    options, progress = options or Options(), progress or Progress()
    job = prepare(store, out, sets, options)
    if not options.resume:
        check_place(job.run, options.overwrite)
    with writing(job.run):
        return _carry_out(job, options, progress)


def _carry_out(job: Job, options: Options, progress: Progress) -> Run:
    """Begin the run or go on with it, for whoever holds `writing`."""
    info = open_store(job.store, job.store_version).info
    with ExitStack() as stack:
        with _begun(job, info, options) as run:
            done = run.done
            todo = [p for p in job.plan.partitions if p.index not in done]
            executor = None
            if todo:
                executor = stack.enter_context(executor_of(job, options, partial(task_name, job, "backtest")))
            if options.ledger:
                ledger.record(run)
        progress.started(job, sum(_symbol_bars(info, p) for p in todo), executor.dashboard if executor else None)
        if executor is None:
            return run
        work = partial(_run_at, JobPlace.of(run, job))
        unnamed: Sequence[SetAside] = ()
        for outcome in executor.run(work, todo, progress.advanced, options.retries):
            if isinstance(outcome, Failed):
                unnamed = set_aside(job.run, [*unnamed, _failure(job, outcome)])
        say_unnamed(job.run, set_aside(job.run, unnamed))
        if options.keep:
            progress.kept(run)
    remove_leftovers(run)
    return run


@contextmanager
def _begun(job: Job, info: StoreInfo, options: Options) -> Iterator[Run]:
    """The run: a new one, which is gone again where the block fails, or the one to go on with."""
    if not options.resume:
        with beginning(job, _versions(), [_basis(run, info) for run in job.sets], options.overwrite) as run:
            yield run
        return
    run = open_run(job.run)
    check_resumes(job, run)  # what was prepared from may have been replaced before the lock was ours
    discard_unfinished(run)
    yield run


def _check_place(options: Options) -> None:
    """Options that contradict each other about where a run is carried out."""
    if options.workers is not None and options.scheduler is not None:
        raise ConfigError("--workers starts a cluster and --scheduler uses one that is there: give one of them.")
    of_any = {"--resources": options.resources, "--dask-report": options.dask_report}
    of_ours = {"--dashboard-address": options.dashboard_address, "--keep": options.keep}
    for name, value in (of_any | of_ours).items():
        if value and options.workers is None and options.scheduler is None:
            raise ConfigError(f"{name} is of a cluster: add --workers N, which starts one, or leave it out.")
        if value and options.scheduler is not None and name in of_ours:
            raise ConfigError(
                f"{name} is of the cluster that --workers starts: the one at {options.scheduler} has its own dashboard "
                "and stays in any case. Leave it out."
            )
    if options.workers is not None:
        check_dashboard(options.dashboard_address, options.dask_report)
    for name, amount in options.resources:
        if not 0 < amount < math.inf:
            raise ConfigError(f"--resources {name}={amount:g} is not allowed: more than 0.")


def _run_at(place: JobPlace, partition: Partition, tick: Tick) -> PartSummary:
    """Where it runs, a worker: one partition of the job that the run's folder holds."""
    return run_partition(job_at(place), partition, tick)


def _failure(job: Job, failed: Failed[Partition]) -> SetAside:
    partition = failed.item
    names = tuple(job.symbols[symbol] for symbol in partition.symbols)
    return SetAside(partition.index, names, partition.sets, failed.error, failed.traceback, failed.attempts)


def _basis(run: RunConfig, info: StoreInfo) -> Basis:
    rules = Rules.of(run, 0, "open" in info.fields, info.bar_ns)
    ranges = {"high", "low"} <= set(info.fields)
    return Basis(calendar=run.calendar or info.calendar, fill=FILLS[rules.fill], ranges=ranges)


def executor_of(job: Job, options: Options, name_of: Callable[[Any], str]) -> AbstractContextManager[Executor]:
    """Where the options say that partitions of the run at `job.run` go; `name_of` them on a cluster's dashboard.

    What is to be compiled on this machine is: its workers then only read Numba's cache and never race.
    """
    report = job.run / DASK_REPORT if options.dask_report else None
    setup = Setup(name_of, options.resources, report)
    if options.scheduler is not None:
        return existing_cluster(options.scheduler, setup, needs_of(job))
    compile_kernel(job)
    if options.workers is not None:
        limit = options.memory_limit
        share = None if limit is None else (limit - process_bytes(job.kernel)) // options.workers
        setup = replace(setup, gpus=visible_gpus() if job.kernel in (AUTO, "cuda") else ())
        return local_cluster(options.workers, share, setup, options.dashboard_address)
    return nullcontext(Threads(job.plan.n_workers))


def needs_of(job: Job) -> Needs:
    """What workers of an existing cluster must have for the job, whose run has begun."""
    return Needs(
        place=JobPlace.of(open_run(job.run), job),
        kernel=job.kernel,
        store=job.store,
        store_id=job.store_id,
        store_version=job.store_version,
        versions=own_versions(),
        sources=sources_digest(),
        task_bytes=job.plan.task_bytes,
    )


def task_name(job: Job, verb: str, partition: Partition) -> str:
    """What Dask's dashboard calls a partition's task: `prices: backtest-3: AAA .. ZZZ (64 symbols), sets 0 .. 9, ...`.

    Dask groups tasks by what stands before the first hyphen that no word follows.
    """
    names = [job.symbols[symbol] for symbol in partition.symbols]
    symbols = names[0] if len(names) == 1 else f"{names[0]} .. {names[-1]} ({len(names)} symbols)"
    first, last = partition.sets[0], partition.sets[1] - 1
    sets = f"set {first}" if first == last else f"sets {first} .. {last}"
    group = f"{stem(job.store).replace('-', '_')}: {verb}"
    return f"{group}-{partition.index}: {symbols}, {sets}, slabs of {job.plan.slab_bars} bars"


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
        process_bytes=process_bytes(kernel),
        saved_bytes=sum(SAVED_BYTES[name] for name in save),
        written_bytes=max((WRITTEN_BYTES.get(name, 0) for name in save), default=0),
        n_streams=len(layouts),
        kernel=kernel,
        staging_bytes=STAGING_BYTES.get(kernel, 0),
    )


def _symbol_bars(info: StoreInfo, partition: Partition) -> int:
    n_sets = partition.sets[1] - partition.sets[0]
    return n_sets * sum(info.symbols[symbol].n_bars for symbol in partition.symbols)


def _versions() -> dict[str, str]:
    return {"atc-backtest": __version__} | {
        name: version(name) for name in ("numpy", "numba", "zarr", "pyarrow", "dask")
    }


def compile_kernel(job: Job) -> None:
    """Compile kernel (of `auto` the CPU's) and accounts here, or read what was compiled before."""
    run = job.sets[0]
    kernel = get_kernel(job.kernel)
    close = np.linspace(1.0, 2.0, 8)[None]
    outputs = Outputs.allocate(["signal"], 1, 1, 8)
    kernel.advance(kernel.new_state([run.atc], 1), Prices(close), outputs)
    accounting.compiled()
