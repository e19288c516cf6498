"""Where partitions run: threads here, a LocalCluster, or a scheduler that is already there.

The one door to Dask. An executor takes a function and small items, keeps two of them a worker in
flight, and hands back each result as it comes; nothing large goes through it.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any, Protocol, TypeVar

from atc_backtest.errors import StoreError, UnavailableError

Item = TypeVar("Item")
Result = TypeVar("Result")
Tick = Callable[[int], None]
"""Called by a running function with the bars it has just done; raises `Stopped` when it must end."""

IN_FLIGHT = 2


class Stopped(BaseException):
    """A sibling failed or the user interrupted: leave without a result."""


class Executor(Protocol):
    """`run` yields results in the order they finish; its first error ends the run and is raised."""

    @property
    def n_workers(self) -> int: ...

    @property
    def dashboard(self) -> str | None: ...

    def run(self, function: Callable[[Item, Tick], Result], items: Iterable[Item], tick: Tick) -> Iterator[Result]: ...


class Threads:
    """Threads of this process; `tick` is called as work goes on."""

    dashboard: str | None = None

    def __init__(self, n_workers: int) -> None:
        self.n_workers = n_workers

    def run(self, function: Callable[[Item, Tick], Result], items: Iterable[Item], tick: Tick) -> Iterator[Result]:
        stop = threading.Event()

        def stoppable(bars: int) -> None:
            if stop.is_set():
                raise Stopped
            tick(bars)

        todo = iter(items)
        with ThreadPoolExecutor(self.n_workers, thread_name_prefix="atc") as pool:
            running: set[Future[Result]] = set()
            try:
                while True:
                    for item in islice(todo, IN_FLIGHT * self.n_workers - len(running)):
                        running.add(pool.submit(function, item, stoppable))
                    if not running:
                        return
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield future.result()
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)


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

    def run(self, function: Callable[[Item, Tick], Result], items: Iterable[Item], tick: Tick) -> Iterator[Result]:
        _, distributed = _distributed()
        todo = iter(items)
        finished = distributed.as_completed()
        n_running = 0
        try:
            for item in islice(todo, IN_FLIGHT * self.n_workers):
                finished.add(self._submit(function, item))
                n_running += 1
            while n_running:
                future = next(finished)
                n_running -= 1
                result = future.result()
                future.release()
                yield result
                for item in islice(todo, 1):
                    finished.add(self._submit(function, item))
                    n_running += 1
        finally:
            with contextlib.suppress(Exception):
                self._client.cancel(list(finished.futures), force=True)

    def _submit(self, function: Callable[[Item, Tick], Result], item: Item) -> Any:
        key = f"{item} ({uuid.uuid4().hex[:12]})"
        return self._client.submit(function, item, _silent, key=key, pure=False, retries=0)


def _silent(bars: int) -> None:
    """The tick of a worker in another process."""


@contextlib.contextmanager
def local_cluster(n_workers: int, worker_bytes: int | None) -> Iterator[Executor]:
    """`n_workers` processes of one thread each on this machine, gone when the block ends.

    `worker_bytes`: memory after which Dask restarts a worker; None: no limit.
    """
    dask, distributed = _distributed()
    quiet = {
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.target": False,
        "distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": 1, "MALLOC_TRIM_THRESHOLD_": 65536},
    }
    with (
        dask.config.set(quiet),
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
