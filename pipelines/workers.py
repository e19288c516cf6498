"""In the process of a Dask worker: whether it is fit for a job, an item's attempt, and the bars it has done.

What a worker needs is looked at once in every process: by the client before any work starts, and by a
worker that joins later before its first item.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import atc_backtest
from atc_backtest.errors import AtcError, UnavailableError
from atc_backtest.kernels import best_kernel, get_kernel
from atc_backtest.kernels.devices import VISIBLE, named_gpus
from atc_backtest.pipelines.executors import Tick, UnfitWorkerError
from atc_backtest.pipelines.runs import JobPlace, job_at
from atc_backtest.stores.opening import open_store

PACKAGES = ("dask", "distributed", "cloudpickle", "numpy", "numba", "pyarrow", "zarr")
"""What must be of one version everywhere: other versions may compute other bits, or not read each other's messages."""
MESSAGES = ("dask", "distributed", "cloudpickle")
"""Of those, what concerns a scheduler: it computes nothing."""

TOPIC = "atc-backtest"
"""Of the events by which workers tell the bars that they have done."""
SAY_S = 0.5
"""Seconds between two such events of one item, at least."""
BEATS = 8
"""Heartbeats that a worker's bars a second are counted over."""


def dask_setup(worker: Any) -> None:
    """Called by Dask in the workers of a local cluster as they start, before anything of CUDA is loaded.

    Ctrl-C is the client's to hear, who ends them. Of the GPUs that the client named, each is given one, by its number.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gpus = named_gpus(os.environ.get(VISIBLE, ""))
    if gpus:
        os.environ[VISIBLE] = gpus[worker.name % len(gpus)]


@dataclass(frozen=True)
class Needs:
    """What a worker must have and see to compute parts of a job: the client's own, to compare with.

    `kernel`: a name, or `auto`: the best that a worker has. `versions`: of Python and `PACKAGES`; `sources`: digest of
    this package. `task_bytes`: of each thread.
    """

    place: JobPlace
    kernel: str
    store: str
    store_id: str
    store_version: int
    versions: tuple[tuple[str, str], ...]
    sources: str
    task_bytes: int


@dataclass(frozen=True)
class Inspected:
    """What a worker says of itself: `unfit` is None, or what it lacks and what to do; `kernel`: which it would take."""

    host: str
    unfit: str | None
    kernel: str
    n_threads: int
    memory_limit: int | None


@dataclass(frozen=True)
class Ended:
    """An attempt that came through, and its bars."""

    result: Any
    bars: int


@dataclass(frozen=True)
class Unfit:
    """An attempt that was not made, for the worker at `address` cannot make any."""

    address: str
    why: str


# Fit or not


def own_versions() -> tuple[tuple[str, str], ...]:
    """Of Python and `PACKAGES` in this process."""
    from distributed.versions import get_versions

    return tuple(sorted(relevant(get_versions(packages=PACKAGES)["packages"]).items()))


def relevant(packages: Mapping[str, str | None]) -> dict[str, str]:
    """Of the versions that Dask tells, those that must be the same: of Python the first two numbers."""
    python = ".".join((packages.get("python") or "missing").split(".")[:2])
    return {"python": python} | {name: packages.get(name) or "missing" for name in PACKAGES}


def other_versions(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str | None:
    """Which of `theirs` differ, with both versions; None when none does."""
    differing = [name for name in theirs if theirs[name] != ours[name]]
    if not differing:
        return None
    there = ", ".join(f"{name} {theirs[name]}" for name in differing)
    here = ", ".join(f"{name} {ours[name]}" for name in differing)
    return f"has {there}, and this program {here}: results could differ. Install the same versions on every host."


@lru_cache(maxsize=1)
def sources_digest() -> str:
    """Of the package's Python sources by name: the same version number may stand for other code."""
    root = Path(atc_backtest.__file__).parent
    digest = hashlib.blake2b(digest_size=8)
    for at, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if Path(at, name, "__init__.py").is_file())
        for file in sorted(Path(at, name) for name in files if name.endswith(".py")):
            digest.update(f"{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


@lru_cache(maxsize=4)
def check_fit(needs: Needs) -> None:
    """`UnfitWorkerError` says why this process cannot compute parts of the job; once it can, nothing more is read."""
    differing = other_versions(dict(own_versions()), dict(needs.versions))
    if differing is not None:
        raise UnfitWorkerError(differing)
    if sources_digest() != needs.sources:
        raise UnfitWorkerError(
            f"has another state of atc-backtest {atc_backtest.__version__} (sources {sources_digest()}, and this "
            f"program {needs.sources}): install the same one on every host."
        )
    try:
        get_kernel(needs.kernel)
    except AtcError as error:
        raise UnfitWorkerError(f"cannot use the kernel {needs.kernel}: {error}") from error
    _check_run(needs.place)
    _check_store(needs)


def _check_run(place: JobPlace) -> None:
    try:
        job_at(place)
    except AtcError as error:
        raise UnfitWorkerError(
            f"cannot see the run's folder {place.run} ({_reason(error)}), and workers write the parts themselves: "
            "give an --out on a file system that all hosts share under the same path."
        ) from error
    try:
        with tempfile.TemporaryFile(dir=place.run):
            pass
    except OSError as error:
        raise UnfitWorkerError(f"cannot write into the run's folder {place.run}: {error}.") from error


def _check_store(needs: Needs) -> None:
    place = "give a store that all hosts see under the same path, or a URL such as s3://bucket/prices.zarr"
    try:
        info = open_store(needs.store, needs.store_version).info
    except (AtcError, OSError) as error:
        raise UnfitWorkerError(
            f"cannot open the store {needs.store} ({_reason(error)}): {place}, with what it takes to open it (extras, "
            "credentials) on every host."
        ) from error
    if info.id != needs.store_id:
        raise UnfitWorkerError(f"sees another store at {needs.store}: {place}.")


def _reason(error: Exception) -> str:
    """In few words: what to do about it is another thing on a worker."""
    cause = error if isinstance(error, UnavailableError) else error.__cause__ or error
    return f"{type(cause).__name__}: {cause}"


async def inspect(needs: Needs, probes: Path, dask_worker: Any) -> Inspected:
    """Run by the client in every worker, beside its tasks: leaves a probe there that the client looks for."""
    import asyncio  # there already, where Dask is

    limit = dask_worker.memory_manager.memory_limit
    threads = dask_worker.state.nthreads
    unfit = await asyncio.to_thread(_unfit, needs)
    kernel = needs.kernel if unfit is not None else await asyncio.to_thread(best_kernel, needs.kernel)
    if unfit is None:
        try:
            (probes / probe_of(dask_worker.address)).touch()
        except OSError as error:
            unfit = f"cannot write into {probes.parent}: {error}."
    return Inspected(socket.gethostname(), unfit, kernel, threads, limit)


def probe_of(address: str) -> str:
    """The file that shows that a worker writes where the client reads."""
    return hashlib.blake2b(address.encode(), digest_size=16).hexdigest()


def _unfit(needs: Needs) -> str | None:
    try:
        check_fit(needs)
    except UnfitWorkerError as error:
        return str(error)
    return None


# Working


def attempt(
    function: Callable[[Any, Tick], Any], item: Any, pause_s: float, needs: Needs | None, key: str
) -> Ended | Unfit:
    """An item on a worker, if this is fit for it; `key` is the task's."""
    from distributed import get_worker

    worker = get_worker()
    unfit = None if needs is None else _unfit(needs)
    if unfit is not None:
        return Unfit(worker.address, f"the worker {worker.address} on {socket.gethostname()} {unfit}")
    time.sleep(pause_s)
    told = _Told(worker, key)
    return Ended(function(item, told), told.bars)


class _Told:
    """The tick of one attempt: its bars go to the client, now and then, and into the worker's own count."""

    def __init__(self, worker: Any, key: str) -> None:
        self._worker, self._key = worker, key
        self._count = _count_of(worker)
        self._said = time.monotonic()
        self.bars = 0

    def __call__(self, bars: int) -> None:
        self.bars += bars
        self._count.add(bars)
        if time.monotonic() - self._said >= SAY_S:
            self._said = time.monotonic()
            self._worker.log_event(TOPIC, {"key": self._key, "bars": self.bars})


class _BarCount:
    """A worker's bars since it started, as a metric of Dask: its dashboard's page of workers shows them."""

    name = "bars"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.bars = 0

    def add(self, bars: int) -> None:
        with self._lock:
            self.bars += bars

    def __call__(self, worker: Any) -> int:
        return self.bars


class _BarRate:
    """Bars a second over the last heartbeats: bars come a block at a time."""

    name = "bars/s"

    def __init__(self, count: _BarCount) -> None:
        self._count = count
        self._seen = deque([(time.monotonic(), count.bars)], maxlen=BEATS)

    def __call__(self, worker: Any) -> int:
        now, bars = time.monotonic(), self._count.bars
        then, before = self._seen[0]
        self._seen.append((now, bars))
        return round((bars - before) / max(now - then, 1e-3))


_FIRST_COUNT = threading.Lock()


def _count_of(worker: Any) -> _BarCount:
    """The worker's count, made when its first item comes."""
    with _FIRST_COUNT:
        found = worker.metrics.get(_BarCount.name)
        if isinstance(found, _BarCount):
            return found
        count = _BarCount()
        # A new table: a heartbeat may be going over the old one.
        worker.metrics = worker.metrics | {_BarCount.name: count, _BarRate.name: _BarRate(count)}
        return count
