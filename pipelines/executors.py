"""Where partitions run: threads here, a LocalCluster, or a scheduler that is already there.

The one door to Dask. An executor takes a function and small items, keeps two of them a worker in
flight, and hands back how each ended as it comes; nothing large goes through it.
"""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

from atc_backtest.errors import StoreError, UnavailableError

Item = TypeVar("Item")
Result = TypeVar("Result")
Tick = Callable[[int], None]
"""Called by a running function with the bars it has just done; raises `Stopped` when it must end.

Less than 0: those of an attempt that failed."""

IN_FLIGHT = 2
PAUSE_S = 0.2
"""Before the second attempt; four times as long before each further one."""
LOOK_S = 2.0
"""Seconds between looks at whether a cluster is there still."""
PATIENCE_S = 60.0
"""Seconds that a cluster may be without any worker."""


class Stopped(BaseException):
    """A sibling failed or the user interrupted: leave without a result."""


class WorkerLostError(OSError):
    """The process that an item ran in died, or the connection to it."""


@dataclass(frozen=True)
class Done(Generic[Item, Result]):
    """An item that came through."""

    item: Item
    result: Result


@dataclass(frozen=True)
class Failed(Generic[Item]):
    """An item that failed in its last attempt, with the error of that one."""

    item: Item
    error: str
    traceback: str
    attempts: int


Outcome = Done[Item, Result] | Failed[Item]


class Executor(Protocol):
    """`run` yields how every item ended, in the order they end.

    An item whose error may pass (any `OSError`: a disk, a store's network, a lost worker) is tried again, after
    a pause, up to `retries` times; what would fail again (bad prices, bad settings, a mistake in the program) is not.
    `StoreError` ends the run when the executor itself is gone.
    """

    @property
    def n_workers(self) -> int: ...

    @property
    def dashboard(self) -> str | None: ...

    def run(
        self, function: Callable[[Item, Tick], Result], items: Iterable[Item], tick: Tick, retries: int = 0
    ) -> Iterator[Outcome[Item, Result]]: ...


class _Pool(Protocol):
    """What threads and clusters do each in their way; `_drive` does the rest."""

    def submit(self, function: Callable[[Any, Tick], Any], item: Any, pause_s: float) -> Any: ...

    def alive(self) -> int:
        """Workers that are there now."""
        ...

    def wait(self, futures: Iterable[Any]) -> Iterable[Any]:
        """Those that have ended, at least one."""
        ...

    def error(self, future: Any) -> tuple[BaseException, str] | None:
        """What it failed with, and its traceback."""
        ...


def _drive(
    pool: _Pool, n_workers: int, function: Callable[[Item, Tick], Result], items: Iterable[Item], retries: int
) -> Iterator[Outcome[Item, Result]]:
    todo = iter(items)
    again: deque[tuple[Item, int]] = deque()
    running: dict[Any, tuple[Item, int]] = {}
    while True:
        for item in islice(todo, max(0, IN_FLIGHT * n_workers - len(running))):
            running[pool.submit(function, item, 0.0)] = item, 1
        # One a worker: nobody waits behind an item that may take its worker down with it.
        while again and len(running) < max(1, pool.alive()):
            item, attempt = again.popleft()
            running[pool.submit(function, item, PAUSE_S * 4.0 ** (attempt - 2))] = item, attempt
        if not running:
            return
        for future in pool.wait(running):
            item, attempt = running.pop(future)
            failure = pool.error(future)
            if failure is None:
                result = future.result()
                del future
                yield Done(item, result)
            elif isinstance(failure[0], OSError) and attempt <= retries:
                again.append((item, attempt + 1))
            elif isinstance(failure[0], Exception):
                yield Failed(item, f"{type(failure[0]).__name__}: {failure[0]}", failure[1], attempt)
            else:
                raise failure[0]


class Threads:
    """Threads of this process; `tick` is called as work goes on."""

    dashboard: str | None = None

    def __init__(self, n_workers: int) -> None:
        self.n_workers = n_workers

    def run(
        self, function: Callable[[Item, Tick], Result], items: Iterable[Item], tick: Tick, retries: int = 0
    ) -> Iterator[Outcome[Item, Result]]:
        stop = threading.Event()

        def stoppable(bars: int) -> None:
            if stop.is_set():
                raise Stopped
            tick(bars)

        with ThreadPoolExecutor(self.n_workers, thread_name_prefix="atc") as pool:
            try:
                yield from _drive(
                    _ThreadPool(pool, self.n_workers, stop, stoppable), self.n_workers, function, items, retries
                )
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)


class _ThreadPool:
    def __init__(self, pool: ThreadPoolExecutor, n_workers: int, stop: threading.Event, tick: Tick) -> None:
        self._pool = pool
        self._n_workers = n_workers
        self._stop = stop
        self._tick = tick

    def submit(self, function: Callable[[Any, Tick], Any], item: Any, pause_s: float) -> Future[Any]:
        bars_done = 0

        def counted(bars: int) -> None:
            nonlocal bars_done
            bars_done += bars
            self._tick(bars)

        def attempt() -> Any:
            self._stop.wait(pause_s)
            try:
                return function(item, counted)
            except Exception:
                self._tick(-bars_done)  # the next attempt does them again
                raise

        return self._pool.submit(attempt)

    def alive(self) -> int:
        return self._n_workers

    def wait(self, futures: Iterable[Future[Any]]) -> Iterable[Future[Any]]:
        return wait(list(futures), return_when=FIRST_COMPLETED).done

    def error(self, future: Future[Any]) -> tuple[BaseException, str] | None:
        error = future.exception()
        return None if error is None else (error, "".join(traceback.format_exception(error)))


class Cluster:
    """Dask workers; `tick` stays silent until a whole item is done."""

    def __init__(self, client: Any) -> None:
        self._client = client

    @property
    def n_workers(self) -> int:
        return max(1, int(sum(self._client.nthreads().values())))

    @property
    def dashboard(self) -> str | None:
        return self._client.dashboard_link or None

    def run(
        self, function: Callable[[Item, Tick], Result], items: Iterable[Item], tick: Tick, retries: int = 0
    ) -> Iterator[Outcome[Item, Result]]:
        pool = _ClusterPool(self._client)
        try:
            yield from _drive(pool, self.n_workers, function, items, retries)
        finally:
            pool.cancel()


class _ClusterPool:
    """Futures are let go of as soon as they have ended, so that the scheduler forgets them."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._pending: set[Any] = set()

    def submit(self, function: Callable[[Any, Tick], Any], item: Any, pause_s: float) -> Any:
        key = f"{item} ({uuid.uuid4().hex[:12]})"
        future = self._client.submit(_attempt, function, item, pause_s, key=key, pure=False, retries=0)
        self._pending.add(future)
        return future

    def alive(self) -> int:
        return int(sum(self._client.nthreads().values()))

    def wait(self, futures: Iterable[Any]) -> Iterable[Any]:
        _, distributed = _distributed()
        alone_since = None
        while True:
            try:
                ended = distributed.wait(list(futures), timeout=LOOK_S, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                ended = set()
            except distributed.client.FuturesCancelledError as error:
                self._check_scheduler()
                ended = {future for future in futures if future.status == "cancelled"}
                if not ended:
                    raise StoreError(f"the Dask scheduler lost its tasks ({error}): continue with --resume.") from error
            if ended:
                self._pending -= ended
                return list(ended)
            self._check_scheduler()
            if self.alive():
                alone_since = None
            elif alone_since is None:
                alone_since = time.monotonic()
            elif time.monotonic() - alone_since > PATIENCE_S:
                raise StoreError(
                    f"the Dask scheduler has had no worker for {PATIENCE_S:g} s: start some and continue with --resume."
                )

    def error(self, future: Any) -> tuple[BaseException, str] | None:
        _, distributed = _distributed()
        if future.status == "finished":
            return None
        if future.status != "error":
            return WorkerLostError(f"the scheduler dropped the task ({future.status})"), ""
        error = future.exception()
        text = "".join(traceback.format_exception(type(error), error, future.traceback()))
        if isinstance(error, distributed.scheduler.KilledWorker):
            return WorkerLostError(f"the worker process died while it computed this ({error})"), text
        return error, text

    def _check_scheduler(self) -> None:
        if self._client.status != "running":
            raise StoreError(
                "the Dask scheduler is gone: what was committed stays. Start it again and continue with --resume."
            )

    def cancel(self) -> None:
        """Nobody waits for the rest."""
        with contextlib.suppress(Exception):  # a scheduler that is gone has nothing to cancel
            self._client.cancel(list(self._pending), force=True)


def _attempt(function: Callable[[Any, Tick], Any], item: Any, pause_s: float) -> Any:
    """An item on a worker in another process."""
    time.sleep(pause_s)
    return function(item, _silent)


def _silent(bars: int) -> None:
    """The tick of a worker in another process."""


ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "BLOSC_NTHREADS"), 1
)
"""A worker is one thread; libraries that would start more of their own are told so before they are imported."""


@contextlib.contextmanager
def local_cluster(n_workers: int, worker_bytes: int | None) -> Iterator[Executor]:
    """`n_workers` processes of one thread each on this machine, gone when the block ends.

    `worker_bytes`: memory after which a worker is ended and started anew; None: no limit. Workers hold no data
    for each other, so there is nothing to spill and nothing to wait for below that limit. A worker that dies
    fails what it had: our own retries decide, not the scheduler's.
    """
    dask, distributed = _distributed()
    settings = {
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": 1.0,
        "distributed.scheduler.allowed-failures": 0,
        "distributed.nanny.pre-spawn-environ": ONE_THREAD | {"MALLOC_TRIM_THRESHOLD_": 65536},
    }
    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=worker_bytes or 0,
            dashboard_address="127.0.0.1:0" if _has_bokeh() else None,
            silence_logs=40,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield Cluster(client)


@contextlib.contextmanager
def existing_cluster(address: str) -> Iterator[Executor]:
    """The workers of a scheduler at `address`, e.g. tcp://10.0.0.5:8786; they stay when we leave.

    `StoreError` when nobody answers or no worker is connected, or versions differ.
    """
    _, distributed = _distributed()
    try:
        client = distributed.Client(address, timeout="10s")
    except (OSError, ValueError, TimeoutError) as error:
        raise StoreError(
            f"no Dask scheduler answers at {address}: {error}. Start one (`dask scheduler`) and check the address."
        ) from error
    with client:
        if not client.nthreads():
            raise StoreError(f"the scheduler at {address} has no workers: start some (`dask worker {address}`).")
        yield Cluster(client)


def _distributed() -> tuple[Any, Any]:
    try:
        import dask
        import distributed
    except ImportError as error:
        raise UnavailableError(f"Dask is not installed ({error}): pip install dask distributed.") from error
    return dask, distributed


def _has_bokeh() -> bool:
    try:
        import bokeh  # noqa: F401
    except ImportError:
        return False
    return True
