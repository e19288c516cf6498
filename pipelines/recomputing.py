"""Rows that a run did not save, computed again from the very version of the prices that it began with."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa

from atc_backtest.errors import StoreError
from atc_backtest.kernels import get_kernel
from atc_backtest.pipelines.backtest import Options, executor_of
from atc_backtest.pipelines.executors import Failed, untold
from atc_backtest.pipelines.job import check_saves
from atc_backtest.pipelines.partition import run_partition
from atc_backtest.pipelines.plan import Partition
from atc_backtest.pipelines.runs import Run, in_order, job_of, rows_in


def recomputed(run: Run, dataset: str, symbols: Collection[str], sets: tuple[int, int]) -> pa.Table:
    """Rows of a saved series for some symbols and the sets [start, stop): the bits that saving it would have kept.

    Sorted as `Run.table` has them; computed on threads of this process. `StoreError` where that version of the prices
    is no longer there.
    """
    job = job_of(run, get_kernel().name)
    job = replace(job, save=check_saves([dataset]))
    with TemporaryDirectory(prefix="atc-backtest-") as folder:
        again = replace(job, run=Path(folder))
        cut = list(_cut(run, symbols, sets))
        with executor_of(again, Options(), str) as executor:
            for outcome in executor.run(partial(run_partition, again), cut, untold, 0):
                if isinstance(outcome, Failed):
                    raise StoreError(f"{dataset} of {run.path} cannot be computed again: {outcome.error}")
        files = [again.part(dataset, partition.index) for partition in cut]
        return in_order(rows_in(files).to_table(), dataset)


def _cut(run: Run, symbols: Collection[str], sets: tuple[int, int]) -> Iterator[Partition]:
    """The run's partitions, each with what is asked for of it; without those of which nothing is."""
    names = run.manifest["symbols"]
    for partition in run.partitions:
        wanted = tuple(at for at in partition.symbols if names[at] in symbols)
        start, stop = max(partition.sets[0], sets[0]), min(partition.sets[1], sets[1])
        if wanted and start < stop:
            yield replace(partition, symbols=wanted, sets=(start, stop))
