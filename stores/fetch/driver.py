"""Many downloads at a time: as an async iterator, as a plain one for threads, and as one call with a report."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
from contextlib import aclosing, closing
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from atc_backtest.stores.fetch.download import Downloader, load_aiohttp, open_session
from atc_backtest.stores.fetch.options import Fetched, FetchOptions, FetchReport
from atc_backtest.stores.fetch.partial import only_one, sync
from atc_backtest.stores.fetch.templates import Job

Progress = Callable[[int, int], None]
"""Called with files done and bytes received so far."""

Taken = TypeVar("Taken")

_Ended = tuple[int, list[Fetched]] | BaseException | None
"""What a worker tells: a job's number and its files; that it broke; that it is done."""


async def fetch_files(
    jobs: Iterable[Job], folder: Path, options: FetchOptions | None = None, progress: Progress | None = None
) -> AsyncGenerator[Fetched, None]:
    """Download `jobs` into `folder`, yielding what became of each as soon as it ended, in the order of the jobs.

    Jobs are taken one by one as connections get free. Close it, as `contextlib.aclosing` does, to stop early:
    what is there then can be gone on with. Raises `UnavailableError` without aiohttp, `StoreError` when the
    folder cannot be written or another process fetches into it.
    """
    options = options or FetchOptions()
    load_aiohttp()
    waiting = enumerate(jobs)
    ended: asyncio.Queue[_Ended] = asyncio.Queue()
    tally = _Tally(progress)
    with only_one(folder):
        async with open_session(options) as session:
            downloader = Downloader(session, folder, options, tally.received)
            workers = [asyncio.create_task(_work(downloader, waiting, ended)) for _ in range(options.concurrency)]
            early: dict[int, list[Fetched]] = {}
            turn, running = 0, len(workers)
            try:
                while running:
                    result = await ended.get()
                    if isinstance(result, BaseException):
                        raise result
                    if result is None:
                        running -= 1
                        continue
                    early[result[0]] = result[1]
                    tally.ended(len(result[1]))
                    while turn in early:
                        for file in early.pop(turn):
                            yield file
                        turn += 1
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
                sync(folder)


async def _work(downloader: Downloader, waiting: Iterator[tuple[int, Job]], ended: asyncio.Queue[_Ended]) -> None:
    """Take jobs until none is left, which is told by None, or one raises, which is told by what it raised."""
    try:
        for turn, job in waiting:
            files = [await downloader.get(job)]
            if files[0].status == "missing" and job.instead:
                files = [await downloader.get(other) for other in job.instead]
            ended.put_nowait((turn, files))
        ended.put_nowait(None)
    except Exception as error:
        ended.put_nowait(error)


class _Tally:
    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._files = 0
        self._bytes = 0

    def received(self, n_bytes: int) -> None:
        self._bytes += n_bytes
        self._tell()

    def ended(self, n_files: int) -> None:
        self._files += n_files
        self._tell()

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self._files, self._bytes)


def each_file(
    jobs: Iterable[Job], folder: Path, options: FetchOptions | None = None, progress: Progress | None = None
) -> Generator[Fetched, None, None]:
    """`fetch_files` for code that is not async: downloads go on in a thread while the caller works on results.

    Close it to stop early; an interruption (Ctrl-C) in the caller does that, too.
    """
    ended: queue.SimpleQueue[Fetched | BaseException | None] = queue.SimpleQueue()
    loop = asyncio.new_event_loop()

    async def run() -> None:
        async with aclosing(fetch_files(jobs, folder, options, progress)) as files:
            async for file in files:
                ended.put(file)

    task = loop.create_task(run())

    def work() -> None:
        try:
            loop.run_until_complete(task)
        except BaseException as error:
            ended.put(error)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
            ended.put(None)

    thread = threading.Thread(target=work, name="fetch", daemon=True)
    thread.start()
    try:
        while (result := ended.get()) is not None:
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        while thread.is_alive():
            if not loop.is_closed():
                _cancel(loop, task)
            thread.join(0.2)


def _cancel(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    try:
        loop.call_soon_threadsafe(task.cancel)
    except RuntimeError:  # the loop closed in between
        return


class Collected:
    """A report that grows by what it is told."""

    def __init__(self, folder: Path) -> None:
        self._began = time.perf_counter()
        self._report = FetchReport(folder)
        self._missing: list[str] = []
        self._failed: list[Fetched] = []

    def add(self, file: Fetched) -> None:
        if file.status == "missing":
            self._missing.append(file.name)
        elif file.status == "failed":
            self._failed.append(file)
        self._report = replace(
            self._report,
            fetched=self._report.fetched + (file.status == "fetched"),
            skipped=self._report.skipped + (file.status == "skipped"),
            resumed=self._report.resumed + file.resumed,
            n_bytes=self._report.n_bytes + file.n_bytes,
        )

    def report(self) -> FetchReport:
        seconds = time.perf_counter() - self._began
        return replace(self._report, seconds=seconds, missing=tuple(self._missing), failed=tuple(self._failed))


def fetch(
    jobs: Iterable[Job], folder: Path, options: FetchOptions | None = None, progress: Progress | None = None
) -> FetchReport:
    """Download `jobs` into `folder` and say what became of them."""
    collected = Collected(folder)
    with closing(each_file(jobs, folder, options, progress)) as files:
        for file in files:
            collected.add(file)
    return collected.report()


class _NotWholeError(Exception):
    """Something could not be fetched: what was is no whole history."""


def fetch_into(
    jobs: Iterable[Job],
    folder: Path,
    take: Callable[[Iterator[Path]], Taken],
    options: FetchOptions | None = None,
    progress: Progress | None = None,
) -> tuple[FetchReport, Taken | None]:
    """`fetch`, with every file that is there handed to `take` as it is verified, others still downloading.

    `take` gets an iterator of paths in the order of the jobs, made by this thread, and returns what this
    returns beside the report. Where a file failed, or all are missing, the iterator raises at its end, so that
    `take` commits nothing, and None is returned in its place.
    """
    collected = Collected(folder)

    def paths() -> Generator[Path, None, None]:
        with closing(each_file(jobs, folder, options, progress)) as files:
            for file in files:
                collected.add(file)
                if file.path is not None:
                    yield file.path
        if not collected.report().ok:
            raise _NotWholeError

    try:
        with closing(paths()) as arriving:
            taken = take(arriving)
    except _NotWholeError:
        return collected.report(), None
    return collected.report(), taken
