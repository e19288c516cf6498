"""Is a run what it says it is? Its files as they were committed, its rows as a computation gives them again.

Every committed part is read and held against its record. All or a seeded sample of the pairs of symbol and
parameter set are computed anew from the prices that the run began with, by any kernel, and compared bit for
bit, group by group as `hashing` defines them; rows are looked at only where the groups' hashes differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from atc_backtest.errors import ConfigError, DataError, StoreError
from atc_backtest.pipelines.backtest import Options, executor_of, task_name
from atc_backtest.pipelines.choosing import kernel_of
from atc_backtest.pipelines.commits import PartRecord, file_digest, read_record
from atc_backtest.pipelines.executors import Failed, Tick, untold
from atc_backtest.pipelines.hashing import STEP, Hasher, Key, encoded_rows
from atc_backtest.pipelines.job import METRICS, Job
from atc_backtest.pipelines.partition import run_partition
from atc_backtest.pipelines.plan import Partition
from atc_backtest.pipelines.runs import JobPlace, Run, job_at, job_of, prices_of
from atc_backtest.pipelines.scratch import VERIFY, scratch


@dataclass(frozen=True)
class Finding:
    """Something that is not as it must be: a damaged part, or a group whose rows come out otherwise.

    `dataset` is `record` where the commit itself is damaged. Of a group: symbol, set, and its first row that
    differs, counted from 0, as stored and as recomputed (the columns that differ; None where there is no such row).
    """

    partition: int
    dataset: str
    what: str
    file: str | None = None
    symbol: str | None = None
    param_id: int | None = None
    row: int | None = None
    stored: dict[str, Any] | None = None
    recomputed: dict[str, Any] | None = None


@dataclass(frozen=True)
class Verification:
    """`pairs`: of symbol and set, recomputed out of `all_pairs` that are committed."""

    kernel: str
    parts: int
    pairs: int
    all_pairs: int
    unfinished: int
    """Partitions that are not committed, and so not verified."""
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return not self.findings


@dataclass(frozen=True)
class _Check:
    """A committed partition, and what of it is recomputed."""

    partition: Partition
    recompute: tuple[Partition, ...] = field(repr=False)


def verify(
    run: Run,
    sample: float = 1.0,
    seed: int = 0,
    options: Options | None = None,
    show: Callable[[int, int], None] = lambda done, total: None,
) -> Verification:
    """Check every committed part and recompute a share `sample` of the pairs, chosen by `seed`.

    `options` say where and by which kernel; `show` is given partitions done and in all. `ConfigError` for a
    sample outside (0, 1]; `StoreError` when the prices that the run began with are no longer there.
    """
    options = options or Options()
    if not 0 < sample <= 1:
        raise ConfigError(f"--sample {sample:g} is not allowed: more than 0, at most 1.")
    job = job_of(run, kernel_of(options.kernel, options.scheduler is not None))
    _check_prices(job)
    committed = run.done
    partitions = [partition for partition in run.partitions if partition.index in committed]
    checks = _checks(partitions, sample, seed)
    findings: list[Finding] = []
    job = replace(job, plan=replace(job.plan, n_workers=options.threads or job.plan.n_workers))
    with executor_of(job, options, lambda check: task_name(job, "verify", check.partition)) as executor:
        outcomes = executor.run(partial(_verified, JobPlace.of(run, job)), checks, untold, options.retries)
        for done, outcome in enumerate(outcomes, start=1):
            if isinstance(outcome, Failed):
                findings.append(Finding(outcome.item.partition.index, METRICS, f"cannot be verified: {outcome.error}"))
            else:
                findings += outcome.result
            show(done, len(checks))
    return Verification(
        kernel=job.kernel,
        parts=len(partitions) * (1 + len(job.save)),
        pairs=sum(_pairs(part) for check in checks for part in check.recompute),
        all_pairs=sum(map(_pairs, partitions)),
        unfinished=len(run.partitions) - len(partitions),
        findings=tuple(sorted(findings, key=lambda one: (one.partition, one.dataset, one.symbol or ""))),
    )


def _pairs(partition: Partition) -> int:
    return len(partition.symbols) * (partition.sets[1] - partition.sets[0])


def _check_prices(job: Job) -> None:
    try:
        prices_of(job)
    except StoreError as error:
        raise StoreError(
            f"{job.run} began with version {job.store_version} of {job.store}, which cannot be read any more: {error} "
            "Without those prices nothing can be recomputed."
        ) from error


def _checks(partitions: Sequence[Partition], sample: float, seed: int) -> list[_Check]:
    """Every partition, with an even share of all pairs: `ceil(sample * pairs)` of them, drawn without repetition."""
    sizes = [_pairs(partition) for partition in partitions]
    total = sum(sizes)
    chosen = np.sort(np.random.default_rng(seed).permutation(total)[: math.ceil(sample * total)])
    checks, first = [], 0
    for partition, size in zip(partitions, sizes, strict=True):
        bounds = np.searchsorted(chosen, (first, first + size))
        within = (chosen[bounds[0] : bounds[1]] - first).tolist()
        checks.append(_Check(partition, _cut(partition, within)))
        first += size
    return checks


def _cut(partition: Partition, pairs: Sequence[int]) -> tuple[Partition, ...]:
    """Partitions that hold these pairs alone: number `set * symbols + symbol` within `partition`."""
    if len(pairs) == _pairs(partition):
        return (partition,)
    cut = []
    for at, group in groupby(pairs, key=lambda pair: pair // len(partition.symbols)):
        param_id = partition.sets[0] + at
        symbols = tuple(partition.symbols[pair % len(partition.symbols)] for pair in group)
        cut.append(replace(partition, symbols=symbols, sets=(param_id, param_id + 1)))
    return tuple(cut)


def _verified(place: JobPlace, check: _Check, tick: Tick) -> tuple[Finding, ...]:
    """Where it runs, a worker: the parts of one partition, then their rows computed anew."""
    job, index = job_at(place), check.partition.index
    try:
        record = read_record(job.run, index)
    except DataError as error:
        return (Finding(index, "record", str(error)),)
    findings, sound = [], {}
    for dataset, part in record.items():
        try:
            sound[dataset] = _groups_of(job.run, dataset, part)
        except (DataError, OSError, pa.ArrowException) as error:
            findings.append(Finding(index, dataset, str(error), part.file))
    for partition in check.recompute:
        with scratch(job.run, VERIFY) as folder:
            again = replace(job, run=folder)
            run_partition(again, partition, tick)
            for dataset, stored in sound.items():
                findings += _compared(job, again, partition, dataset, record[dataset], stored)
    return tuple(findings)


def _groups_of(run: Path, dataset: str, part: PartRecord) -> dict[Key, bytes]:
    """Every group's hash of a sound part; `DataError` where it is not what was committed."""
    path = run / part.file
    if not path.is_file():
        raise DataError(f"{part.file} is missing.")
    changed = path.stat().st_size != part.size or file_digest(path) != part.blake2b
    if changed:
        raise DataError(f"{part.file} is damaged: its bytes are not those that were committed.")
    hasher = _hashed(path, dataset)
    if hasher.content() != part.sum:
        raise DataError(f"{part.file} holds other rows than its record in commits/ says.")
    return hasher.groups()


def _hashed(path: Path, dataset: str) -> Hasher:
    with pq.ParquetFile(path) as file:
        hasher = Hasher(dataset, file.schema_arrow)
        for batch in file.iter_batches(batch_size=STEP):
            hasher.update(pa.Table.from_batches([batch]))
    return hasher


def _compared(
    job: Job, again: Job, partition: Partition, dataset: str, part: PartRecord, stored: dict[Key, bytes]
) -> Iterator[Finding]:
    """One finding for every pair of `partition` whose rows differ."""
    fresh = again.part(dataset, partition.index)
    recomputed = _hashed(fresh, dataset).groups()
    for symbol in partition.symbols:
        for param_id in range(*partition.sets):
            key = job.symbols[symbol], param_id
            if stored.get(key) != recomputed.get(key):
                row, then, now = _first_difference(job.run / part.file, fresh, key)
                what = "the stored rows differ from the recomputed ones"
                yield Finding(partition.index, dataset, what, part.file, *key, row, then, now)


def _first_difference(
    stored: Path, recomputed: Path, key: Key
) -> tuple[int, dict[str, Any] | None, dict[str, Any] | None]:
    """Number of a group's first row that differs, and its columns that do, in both files."""
    at = 0
    one, other = _rows(stored, key), _rows(recomputed, key)
    left, right = next(one, None), next(other, None)
    while left is not None and right is not None:
        n = min(left.num_rows, right.num_rows)
        mine, yours = left.slice(0, n).combine_chunks(), right.slice(0, n).combine_chunks()
        differs = np.flatnonzero((encoded_rows(mine) != encoded_rows(yours)).any(axis=1))
        if differs.size:
            row = int(differs[0])
            return at + row, *_different_columns(mine.slice(row, 1), yours.slice(row, 1))
        at += n
        left = left.slice(n) if left.num_rows > n else next(one, None)
        right = right.slice(n) if right.num_rows > n else next(other, None)
    return at, _first_row(left), _first_row(right)


def _first_row(rows: pa.Table | None) -> dict[str, Any] | None:
    return None if rows is None else dict(rows.slice(0, 1).to_pylist()[0])


def _rows(path: Path, key: Key) -> Iterator[pa.Table]:
    """The rows of one group, a few at a time."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=STEP):
            mine = pc.and_(pc.equal(batch["symbol"], key[0]), pc.equal(batch["param_id"], key[1]))
            rows = pa.Table.from_batches([batch]).filter(mine)
            if rows.num_rows:
                yield rows


def _different_columns(stored: pa.Table, recomputed: pa.Table) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of one row in both, the columns that tell it apart, after those that say when it is."""
    names = [
        name
        for name in stored.column_names
        if name in ("ts", "trade_id", "entry_ts") or not _same(stored.select([name]), recomputed.select([name]))
    ]
    return stored.select(names).to_pylist()[0], recomputed.select(names).to_pylist()[0]


def _same(one: pa.Table, other: pa.Table) -> bool:
    if one.column_names[0] in ("symbol", "param_id"):
        return True
    return bool((encoded_rows(one.combine_chunks()) == encoded_rows(other.combine_chunks())).all())
