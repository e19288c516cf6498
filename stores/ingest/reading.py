"""Many sources read side by side: rows checked and spooled by symbol, the same whatever the number of threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from atc_backtest.stores.base import I64
from atc_backtest.stores.ingest import spool as spooling
from atc_backtest.stores.ingest.options import IngestOptions
from atc_backtest.stores.ingest.rules import Names, Tally, apply_rules
from atc_backtest.stores.ingest.spool import Filling, Spool
from atc_backtest.stores.ingest.tables import Table

Progress = Callable[[int, int, int], None]
"""Called with files done, files in all, and rows read so far."""

MOST_THREADS = 8
"""Of those that nobody asked for: each holds a few megabytes."""


def n_threads(options: IngestOptions) -> int:
    return options.threads or min(len(os.sched_getaffinity(0)), MOST_THREADS)


@dataclass
class _Shared:
    """What the threads of one reading have in common."""

    n_files: int
    progress: Progress | None
    lock: threading.Lock = field(default_factory=threading.Lock)
    stopped: bool = False
    n_done: int = 0
    n_rows: int = 0

    def count(self, rows: int) -> None:
        with self.lock:
            self.n_rows += rows
            if self.progress is not None:
                self.progress(self.n_done, self.n_files, self.n_rows)


class Reading:
    """One pass over tables into a spool. `symbols_of[i]` are the numbers of table i's symbols that had rows."""

    def __init__(self, tables: Iterable[Table], fields: Sequence[str], spool: Spool, options: IngestOptions) -> None:
        self.names = Names()
        self.tally = Tally(self.names)
        self.symbols_of: list[I64] = []
        self._tables = tables
        self._ahead = n_threads(options) // len(tables) if isinstance(tables, Sequence) else 0
        self._fields = fields
        self._spool = spool
        self._options = options
        self._threads = n_threads(options)
        self._fillings: list[Filling] = []
        self._own = threading.local()

    def run(self, progress: Progress | None) -> int:
        """Read everything; the number of rows. Of several failures the first one in the order of sources is raised."""
        shared = _Shared(len(self._tables) if isinstance(self._tables, Sequence) else 0, progress)
        with ThreadPoolExecutor(self._threads) as pool:
            futures: list[Future[Tally]] = []
            try:
                for table in self._tables:  # some may be on their way yet
                    shared.n_files = max(shared.n_files, len(futures) + 1)
                    futures.append(pool.submit(self._read, len(futures), table, shared))
                self._gather(futures)
            except BaseException:
                shared.stopped = True
                for future in futures:
                    future.cancel()
                raise
        for filling in self._fillings:
            filling.flush()
        self._spool.straighten()
        shared.count(0)
        return shared.n_rows

    def _gather(self, futures: list[Future[Tally]]) -> None:
        futures.reverse()
        while futures:
            tally = futures[-1].result()
            self.tally.take(tally)
            self.symbols_of.append(tally.seen())
            futures.pop()  # and its tally with it

    def _read(self, i: int, table: Table, shared: _Shared) -> Tally:
        if not hasattr(self._own, "filling"):
            limit = spooling.BUFFER_BYTES // self._threads
            self._own.filling = Filling(self._spool, limit)
            with shared.lock:
                self._fillings.append(self._own.filling)
        tally = Tally(self.names)
        where = table.label if self._options.strict else None
        as_written = self._options.strict and table.time.zone is not None  # for a refusal to quote
        batches = table.rows(self._fields, self.names, self._options.batch_bytes, self._ahead, as_written)
        for rows, exists, shown in batches:
            if shared.stopped:
                break
            self._own.filling.add(apply_rules(rows, exists, shown, self._fields, tally, where), i)
            shared.count(rows.ts.size)
        with shared.lock:
            shared.n_done += 1
        return tally
