"""Where partitions run: what an executor is, and threads of this process. `cluster` has the one of Dask.

An executor takes a function and small items, keeps two of them a worker in flight, and hands back how each
ended as it comes; nothing large goes through it.
"""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

from atc_backtest.errors import StoreError

Item = TypeVar("Item")
Result = TypeVar("Result")
Tick = Callable[[int], None]
"""Called by a running function with the bars it has just done; raises `Stopped` when it must end.

Less than 0: those of an attempt that failed."""

IN_FLIGHT = 2
PAUSE_S = 0.2
"""Before the second attempt; four times as long before each further one."""


def untold(bars: int) -> None:
    """The tick of one who counts items and not bars."""


class Stopped(BaseException):
    """A sibling failed or the user interrupted: leave without a result."""


class WorkerLostError(OSError):
    """The process that an item ran in died, or the connection to it."""


class UnfitWorkerError(StoreError):
    """A worker lacks what the job needs: it is given nothing more, and the item goes to another one."""


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
    `StoreError` ends the run when the executor itself is gone. `tick` is called as work goes on.
    """

    @property
    def dashboard(self) -> str | None: ...

    def run(
        self, function: Callable[[Item, Tick], Result], items: Iterable[Item], tick: Tick, retries: int = 0
    ) -> Iterator[Outcome[Item, Result]]: ...


class Pool(Protocol):
    """What threads and clusters do each in their way; `drive` does the rest."""

    def submit(self, function: Callable[[Any, Tick], Any], item: Any, pause_s: float) -> Any: ...

    def capacity(self) -> int:
        """Items that can run at once, as known some seconds ago at the earliest."""
        ...

    def alive(self) -> int:
        """Items that can run at once now."""
        ...

    def wait(self, futures: Iterable[Any]) -> Iterable[Any]:
        """Those that have ended, at least one."""
        ...

    def error(self, future: Any) -> tuple[BaseException, str] | None:
        """What it failed with, and its traceback."""
        ...

    def result(self, future: Any) -> Any:
        """Of one without an error."""
        ...


def drive(
    pool: Pool, function: Callable[[Item, Tick], Result], items: Iterable[Item], retries: int
) -> Iterator[Outcome[Item, Result]]:
    """`Executor.run` over any pool."""
    todo = iter(items)
    again: deque[tuple[Item, int]] = deque()
    running: dict[Any, tuple[Item, int]] = {}
    while True:
        for item in islice(todo, max(0, IN_FLIGHT * max(1, pool.capacity()) - len(running))):
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
                yield Done(item, pool.result(future))
            elif isinstance(failure[0], UnfitWorkerError):
                again.append((item, attempt))
            elif isinstance(failure[0], OSError) and attempt <= retries:
                again.append((item, attempt + 1))
            elif isinstance(failure[0], Exception):
                yield Failed(item, f"{type(failure[0]).__name__}: {failure[0]}", failure[1], attempt)
            else:
                raise failure[0]


class Threads:
    """Threads of this process."""

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
                yield from drive(_ThreadPool(pool, self.n_workers, stop, stoppable), function, items, retries)
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

    def capacity(self) -> int:
        return self._n_workers

    def alive(self) -> int:
        return self._n_workers

    def wait(self, futures: Iterable[Future[Any]]) -> Iterable[Future[Any]]:
        return wait(list(futures), return_when=FIRST_COMPLETED).done

    def error(self, future: Future[Any]) -> tuple[BaseException, str] | None:
        error = future.exception()
        return None if error is None else (error, "".join(traceback.format_exception(error)))

    def result(self, future: Future[Any]) -> Any:
        return future.result()
