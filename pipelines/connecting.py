"""Where a cluster comes from: started on this machine, or connected to, after a look at all that its workers need."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from atc_backtest.errors import ConfigError, StoreError, UnavailableError
from atc_backtest.kernels.devices import VISIBLE
from atc_backtest.pipelines.cluster import Cluster, Setup, import_dask, slots_of
from atc_backtest.pipelines.executors import Executor
from atc_backtest.pipelines.memory import process_bytes
from atc_backtest.pipelines.scratch import PROBE, scratch
from atc_backtest.pipelines.workers import (
    MESSAGES,
    PACKAGES,
    Inspected,
    Needs,
    inspect,
    other_versions,
    own_versions,
    probe_of,
    relevant,
)

NAMED = 5
"""Unfit workers that an error names."""
BOKEH = "the Dask dashboard and its reports need bokeh: pip install 'atc-backtest[dashboard]'."

ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "BLOSC_NTHREADS"), 1
)
"""A worker is one thread; libraries that would start more of their own are told so before they are imported."""


QUIET = {"DASK_LOGGING__DISTRIBUTED": "critical"}
"""What a worker says of connections that end with the run is nobody's concern; errors of tasks reach the client."""


@contextlib.contextmanager
def local_cluster(
    n_workers: int, worker_bytes: int | None, setup: Setup | None = None, dashboard: str | None = None
) -> Iterator[Executor]:
    """`n_workers` processes of one thread each on this machine, gone when the block ends.

    `worker_bytes`: memory after which a worker is ended and started anew; None: no limit. Workers hold no data
    for each other, so there is nothing to spill and nothing to wait for below that limit. A worker that dies
    fails what it had: our own retries decide, not the scheduler's. `dashboard`: HOST:PORT, default any free port of
    this machine; without bokeh there is none, and asking for one is an error.
    """
    setup = setup or Setup()
    dask, distributed = import_dask()
    check_dashboard(dashboard, setup.report is not None)
    settings = {
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": 1.0,
        "distributed.scheduler.allowed-failures": 0,
        "distributed.nanny.pre-spawn-environ": ONE_THREAD | QUIET | {"MALLOC_TRIM_THRESHOLD_": 65536},
        "distributed.worker.preload": ["atc_backtest.pipelines.workers"],
    }
    if setup.gpus:
        settings[f"distributed.nanny.environ.{VISIBLE}"] = ",".join(setup.gpus)
    with dask.config.set(settings), contextlib.ExitStack() as stack:
        try:
            cluster = distributed.LocalCluster(
                n_workers=n_workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=worker_bytes or 0,
                dashboard_address=(dashboard or "127.0.0.1:0") if _has_bokeh() else None,
                resources=dict(setup.resources) or None,
                silence_logs=40,
            )
        except OSError as error:
            raise StoreError(f"no cluster can be started here (dashboard at {dashboard}): {error}.") from error
        client = distributed.Client(stack.enter_context(cluster))
        yield Cluster(stack.enter_context(client), setup)


def check_dashboard(address: str | None, report: bool) -> None:
    """Whether a local cluster can have a dashboard at `address` and make a report, where they are asked for."""
    if address is not None and not re.fullmatch(r"(\S+)?:\d{1,5}", address):
        raise ConfigError(f"--dashboard-address {address!r} is not HOST:PORT: write e.g. 127.0.0.1:8787.")
    if (address is not None or report) and not _has_bokeh():
        raise UnavailableError(BOKEH)


@contextlib.contextmanager
def existing_cluster(address: str, setup: Setup | None = None, needs: Needs | None = None) -> Iterator[Executor]:
    """The workers of a scheduler at `address`, e.g. tcp://10.0.0.5:8786; they stay when we leave.

    `StoreError` when nobody answers, no worker is connected, versions differ, or a worker does not have or see what
    the job `needs`; `ConfigError` when no worker has the resources that are asked for.
    """
    setup = setup or Setup()
    _, distributed = import_dask()
    try:
        with warnings.catch_warnings():  # Dask warns of what we refuse
            warnings.simplefilter("ignore", distributed.versions.VersionMismatchWarning)
            client = distributed.Client(address, timeout="10s")
    except (OSError, ValueError, TimeoutError) as error:
        raise StoreError(
            f"no Dask scheduler answers at {address}: {error}. Start one (`dask scheduler`) and check the address."
        ) from error
    with client:
        if not client.nthreads():
            raise StoreError(f"the scheduler at {address} has no workers: start some (`dask worker {address}`).")
        _check_versions(client, setup)
        useful = [worker for worker, n in slots_of(client, setup.resources).items() if n]
        if not useful:
            raise ConfigError(
                f"no worker of {address} has the resources {setup.demands}: start some with "
                f'`dask worker {address} --resources "{setup.demands.replace(", ", " ")}"`, or ask for less.'
            )
        if needs is not None:
            _check_workers(client, needs, useful)
        yield Cluster(client, setup, needs)


def _check_versions(client: Any, setup: Setup) -> None:
    found = client.get_versions(packages=[*PACKAGES, "bokeh"])
    ours = dict(own_versions())
    scheduler = found["scheduler"]["packages"]
    theirs = {name: version for name, version in relevant(scheduler).items() if name in ("python", *MESSAGES)}
    wrong = {"scheduler": other_versions(theirs, ours)}
    for address, about in found["workers"].items():
        wrong[f"worker {address}"] = other_versions(relevant(about["packages"]), ours)
    _refuse(wrong)
    if setup.report is not None and scheduler["bokeh"] is None:
        raise UnavailableError(f"on the scheduler's host, {BOKEH}")


def _check_workers(client: Any, needs: Needs, useful: Sequence[str]) -> None:
    """Whether the workers that may be given work have and see what the job needs, before any starts."""
    try:
        with scratch(needs.place.run, PROBE) as folder:
            answers = client.run(inspect, needs, folder, workers=useful, on_error="return")
            arrived = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise StoreError(f"cannot write into the run's folder {needs.place.run}: {error}.") from error
    there = client.nthreads()
    wrong = {}
    for address, answer in answers.items():
        host = f" on {answer.host}" if isinstance(answer, Inspected) else ""
        if address in there:
            wrong[f"worker {address}{host}"] = _unfit_by(answer, needs, probe_of(address) in arrived)
    _refuse(wrong)


def _unfit_by(answer: Inspected | Exception, needs: Needs, arrived: bool) -> str | None:
    """Why a worker that gave this answer cannot work; None where it can."""
    if isinstance(answer, Exception):
        if ModuleNotFoundError.__name__ in repr(answer):  # Dask wraps what it cannot send
            return f"lacks a package ({answer}): install there what is installed here, atc-backtest first."
        return f"cannot be looked at ({type(answer).__name__}: {answer})."
    if answer.unfit is not None:
        return answer.unfit
    if not arrived:
        return (
            f"writes into another {needs.place.run} than this machine reads: "
            "give an --out on a file system that all hosts share under the same path."
        )
    least = process_bytes(answer.kernel) + answer.n_threads * needs.task_bytes
    if answer.memory_limit and answer.memory_limit < least:
        return (
            f"may take {answer.memory_limit:,} bytes for {answer.n_threads} threads, and this run needs {least:,} "
            f"with the kernel {answer.kernel}: "
            "start it with a larger --memory-limit or fewer --nthreads, or lower --memory-limit here."
        )
    return None


def _refuse(wrong: Mapping[str, str | None]) -> None:
    """`StoreError` that names who is unfit, those for the same reason together."""
    reasons: dict[str, list[str]] = {}
    for whom, why in wrong.items():
        if why is not None:
            reasons.setdefault(why, []).append(whom)
    if reasons:
        said = [
            f"{', '.join(whom[:NAMED])}{' and others' if len(whom) > NAMED else ''}: {why}"
            for why, whom in list(reasons.items())[:NAMED]
        ]
        raise StoreError(f"not fit for this run: {' '.join(said)} Nothing was computed.")


def _has_bokeh() -> bool:
    try:
        import bokeh  # noqa: F401
    except ImportError:
        return False
    return True
