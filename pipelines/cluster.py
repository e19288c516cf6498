"""Partitions on Dask: a bounded number in flight, what they tell while they run, and workers that come and go.

With `connecting`, where clusters come from, and `workers`, which runs in their processes, the one door to Dask.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from atc_backtest.errors import StoreError, UnavailableError
from atc_backtest.pipelines.executors import (
    Item,
    Outcome,
    Result,
    Tick,
    UnfitWorkerError,
    WorkerLostError,
    drive,
)
from atc_backtest.pipelines.workers import (
    TOPIC,
    Ended,
    Needs,
    Unfit,
    attempt,
)

logger = logging.getLogger(__name__)

LOOK_S = 2.0
"""Seconds between looks at whether a cluster is there still, and which workers it has."""
PATIENCE_S = 60.0
"""Seconds that a cluster may be without any worker."""
NAMED = 5
"""Unfit workers that an error names."""
EVERYTHING = "all"
"""Dask's topic of what happens to workers."""
EARLY_S = 5.0
"""Seconds within which a worker that lacks this package has joined, been given an item and ended."""
LEFT_AT_ONCE = (
    "the worker %s joined and ended by itself %.1f s later, when it was given work: where its log says No module named "
    "..., install there what is installed here, atc-backtest first. Others of its host are not named."
)


@dataclass(frozen=True)
class Setup:
    """How items run on a cluster.

    `name_of`: an item's name on the dashboard, which groups by what stands before its first `-`. `resources`: of
    Dask, e.g. GPU: 1, that each item takes while it runs. `report`: where Dask's performance report goes. `gpus`: of
    this machine, of which each worker of a local cluster is given one.
    """

    name_of: Callable[[Any], str] = str
    resources: tuple[tuple[str, float], ...] = ()
    report: Path | None = None
    gpus: tuple[str, ...] = ()

    @property
    def demands(self) -> str:
        """The resources as people write them."""
        return ", ".join(f"{name}={amount:g}" for name, amount in self.resources)


class Cluster:
    """Workers of Dask; what they do shows on their dashboard under the names of the items."""

    def __init__(self, client: Any, setup: Setup, needs: Needs | None = None) -> None:
        self._client = client
        self._setup = setup
        self._needs = needs

    @property
    def dashboard(self) -> str | None:
        return self._client.dashboard_link or None

    def run(
        self, function: Callable[[Item, Tick], Result], items: Iterable[Item], tick: Tick, retries: int = 0
    ) -> Iterator[Outcome[Item, Result]]:
        live = _Live(tick)
        pool = _ClusterPool(self._client, self._setup, self._needs, live)
        self._client.subscribe_topic(TOPIC, live.heard)
        if self._needs is not None:
            self._client.subscribe_topic(EVERYTHING, _Newcomers().heard)
        try:
            with _reporting(self._client, self._setup.report):
                yield from drive(pool, function, items, retries)
        finally:
            pool.leave()


class _Newcomers:
    """Warns of workers that join during a run and end when they are given their first item, once for each host.

    One without this package cannot read the item, and ends itself before it could tell: all that is seen from here
    is that it came and went, with the item still to do.
    """

    def __init__(self) -> None:
        self._joined: dict[str, float] = {}
        self._hosts: set[str | None] = set()

    def heard(self, event: tuple[float, Any]) -> None:
        """An event of Dask's scheduler: when, and what."""
        when, what = event
        if not isinstance(what, dict):
            return
        address = str(what.get("worker"))
        if what.get("action") == "add-worker":
            self._joined[address] = when
        elif what.get("action") == "remove-worker":
            stayed = when - self._joined.pop(address, -math.inf)
            host = urlsplit(address).hostname
            if stayed <= EARLY_S and what.get("processing-tasks") and not what.get("expected"):
                if host not in self._hosts:
                    logger.warning(LEFT_AT_ONCE, address, stayed)
                self._hosts.add(host)


class _Live:
    """Bars as workers tell them while an item runs; its end tells the rest, or takes back those of a failed attempt."""

    def __init__(self, tick: Tick) -> None:
        self._tick = tick
        self._told: dict[str, int] = {}
        self._lock = threading.Lock()

    def began(self, key: str) -> None:
        with self._lock:
            self._told[key] = 0

    def heard(self, event: tuple[float, Any]) -> None:
        """An event of Dask: (time, {key, bars so far}), perhaps of another run or of an item that has ended."""
        key, bars = event[1]["key"], event[1]["bars"]
        with self._lock:
            before = self._told.get(key)
            if before is not None and bars > before:
                self._told[key] = bars
                self._tick(bars - before)

    def ended(self, key: str, bars: int) -> None:
        with self._lock:
            missing = bars - self._told.pop(key, bars)
            if missing:
                self._tick(missing)


class _ClusterPool:
    """Futures are released as soon as they have ended, so that the scheduler forgets them."""

    def __init__(self, client: Any, setup: Setup, needs: Needs | None, live: _Live) -> None:
        self._client = client
        self._setup = setup
        self._needs = needs
        self._live = live
        self._pending: dict[Any, frozenset[str] | None] = {}
        """Futures -> the workers they may run on, None: all."""
        self._ended: dict[str, Ended] = {}
        """What came of items that ended well: fetched once, for the worker that holds it may die."""
        self._unfit: dict[str, str] = {}
        """Address of a worker that is given nothing more -> why."""
        self._known: tuple[float, int] | None = None
        """When capacity was looked at, and what it was."""

    def submit(self, function: Callable[[Any, Tick], Any], item: Any, pause_s: float) -> Any:
        key = f"{self._setup.name_of(item)} ({uuid.uuid4().hex[:12]})"
        allowed = frozenset(self._slots()) if self._unfit else None
        if allowed is not None and not allowed:
            raise StoreError(f"no worker is fit for this run. {self._reasons()}")
        self._live.began(key)
        future = self._client.submit(
            attempt,
            function,
            item,
            pause_s,
            self._needs,
            key,
            key=key,
            pure=False,
            retries=0,
            resources=dict(self._setup.resources) or None,
            workers=None if allowed is None else sorted(allowed),
        )
        self._pending[future] = allowed
        return future

    def _slots(self) -> dict[str, int]:
        """Fit workers that are there now -> items that each can run at once."""
        return {
            address: n
            for address, n in slots_of(self._client, self._setup.resources).items()
            if n and address not in self._unfit
        }

    def capacity(self) -> int:
        now = time.monotonic()
        if self._known is None or now - self._known[0] > LOOK_S:
            self._known = now, self.alive()
        return self._known[1]

    def alive(self) -> int:
        return sum(self._slots().values())

    def wait(self, futures: Iterable[Any]) -> Iterable[Any]:
        _, distributed = import_dask()
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
                return list(ended)
            self._check_scheduler()
            slots = self._slots()
            if slots:
                alone_since = None
                self._free_stranded(set(slots))
            elif alone_since is None:
                alone_since = time.monotonic()
            elif time.monotonic() - alone_since > PATIENCE_S:
                kind = f"worker with {self._setup.demands}" if self._setup.resources else "worker"
                raise StoreError(
                    f"the Dask scheduler has had no fit {kind} for {PATIENCE_S:g} s: start some and continue with "
                    f"--resume. {self._reasons()}".rstrip()
                )

    def _free_stranded(self, alive: set[str]) -> None:
        """What may run only on workers that have all gone is cancelled, and so tried again on others."""
        stranded = [future for future, allowed in self._pending.items() if allowed and not allowed & alive]
        if stranded:
            self._client.cancel(stranded, force=True)

    def error(self, future: Any) -> tuple[BaseException, str] | None:
        self._pending.pop(future, None)
        failure = self._failure(future)
        if failure is not None:
            self._live.ended(future.key, 0)
            future.release()
        return failure

    def _failure(self, future: Any) -> tuple[BaseException, str] | None:
        _, distributed = import_dask()
        if future.status == "finished":
            try:
                found = future.result()
            except (OSError, distributed.scheduler.KilledWorker, distributed.client.CancelledError) as lost:
                return WorkerLostError(f"the worker process died before it told what came of this ({lost})"), ""
            if isinstance(found, Unfit):
                return self._ban(found), ""
            self._ended[future.key] = found
            return None
        if future.status != "error":
            return WorkerLostError(f"the scheduler dropped the task ({future.status})"), ""
        error = future.exception()
        text = "".join(traceback.format_exception(type(error), error, future.traceback()))
        if isinstance(error, distributed.scheduler.KilledWorker):
            return WorkerLostError(f"the worker process died while it computed this ({error})"), text
        return error, text

    def _ban(self, unfit: Unfit) -> UnfitWorkerError:
        if unfit.address not in self._unfit:
            logger.warning("%s It is given no work.", unfit.why)
            self._unfit[unfit.address] = unfit.why
            self._known = None
        return UnfitWorkerError(unfit.why)

    def _reasons(self) -> str:
        return " ".join(list(self._unfit.values())[:NAMED])

    def result(self, future: Any) -> Any:
        found = self._ended.pop(future.key)
        self._live.ended(future.key, found.bars)
        future.release()
        return found.result

    def _check_scheduler(self) -> None:
        if self._client.status != "running":
            raise StoreError(
                "the Dask scheduler is gone: what was committed stays. Start it again and continue with --resume."
            )

    def leave(self) -> None:
        """Nobody waits for the rest, nor listens."""
        with contextlib.suppress(Exception):  # a scheduler that is gone has nothing to cancel
            self._client.unsubscribe_topic(TOPIC)
            if self._needs is not None:
                self._client.unsubscribe_topic(EVERYTHING)
            self._client.cancel(list(self._pending), force=True)


def slots_of(client: Any, resources: tuple[tuple[str, float], ...]) -> dict[str, int]:
    """Worker -> items that it can run at once, by its threads and the resources that an item takes."""
    if not resources:
        return dict(client.nthreads())
    return {
        address: min(about["nthreads"], *(int(about["resources"].get(name, 0) // amount) for name, amount in resources))
        for address, about in client.scheduler_info(n_workers=-1)["workers"].items()
    }


@contextlib.contextmanager
def _reporting(client: Any, path: Path | None) -> Iterator[None]:
    """Dask's performance report of the block at `path`, when that ends well; a warning where it cannot be written."""
    if path is None:
        yield
        return
    _, distributed = import_dask()
    hidden = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    report = distributed.performance_report(filename=str(hidden), mode="inline")
    report.__enter__()
    yield
    try:
        report.__exit__(None, None, None)
        hidden.replace(path)
    except OSError as error:  # the run is as good without
        logger.warning("warning: Dask's report cannot be written to %s: %s.", path, error)
    finally:
        hidden.unlink(missing_ok=True)


def import_dask() -> tuple[Any, Any]:
    """Dask and distributed; `UnavailableError` where they are not installed."""
    try:
        import dask
        import distributed
    except ImportError as error:
        raise UnavailableError(f"Dask is not installed ({error}): pip install dask distributed.") from error
    return dask, distributed
