"""What says that a partition is done, or was set aside: one small JSON file each, named when it is whole.

    commits/part-00000.json   its parts: file, rows, content hash, size and BLAKE2b of the file, kernel
    failed/part-00001.json    what failed for good: symbols, sets, error, traceback, attempts

The record in commits/ is written after all parts of the partition have their names: it is the commit. Parts
without one do not count, and the next attempt writes over them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from atc_backtest.errors import DataError, StoreError
from atc_backtest.pipelines.hashing import Content

COMMITS = "commits"
FAILED = "failed"

TOLD = 5
"""Failures that a warning tells of where they cannot be written down."""

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class PartRecord:
    """One committed Parquet file. `file` is relative to the run's folder; `content` as 64 hex digits.

    `kernel`: which computed it; None where that was not recorded.
    """

    file: str
    rows: int
    content: str
    size: int
    blake2b: str
    kernel: str | None = None

    @property
    def sum(self) -> Content:
        return Content(self.rows, int(self.content, 16))


@dataclass(frozen=True)
class SetAside:
    """A partition that failed in every attempt. `sets` is half-open."""

    partition: int
    symbols: tuple[str, ...]
    sets: tuple[int, int]
    error: str
    traceback: str
    attempts: int


def record_path(run: Path, index: int) -> Path:
    """Where the commit of partition `index` is recorded."""
    return run / COMMITS / f"part-{index:05d}.json"


def turn_path(run: Path, index: int) -> Path:
    """What attempts at partition `index` take turns by; its folder is made."""
    folder = run / COMMITS
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f".part-{index:05d}.lock"


def is_committed(run: Path, index: int) -> bool:
    return record_path(run, index).is_file()


def write_record(run: Path, index: int, parts: Mapping[str, PartRecord]) -> None:
    """Commit partition `index`; dataset -> its part, whose file has its name already."""
    for part in parts.values():
        _sync_folder((run / part.file).parent)
    write_json(record_path(run, index), {name: asdict(part) for name, part in parts.items()})


def committed(run: Path) -> frozenset[int]:
    """Indices of the committed partitions."""
    return frozenset(_index(path) for path in (run / COMMITS).glob("part-*.json"))


def read_record(run: Path, index: int) -> dict[str, PartRecord]:
    """Dataset -> part. `DataError` when the record is damaged."""
    path = record_path(run, index)
    try:
        return {name: PartRecord(**part) for name, part in read_json(path).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is damaged ({error}): remove it, and continue the run with --resume to compute its partition anew."
        ) from error


def records(run: Path) -> Iterator[tuple[int, dict[str, PartRecord]]]:
    """Every committed partition, ascending."""
    for index in sorted(committed(run)):
        yield index, read_record(run, index)


def set_aside(run: Path, failures: Sequence[SetAside]) -> Sequence[SetAside]:
    """Name partitions that failed for good, in order; those come back that there is no room to name now."""
    for at, failure in enumerate(failures):
        try:
            write_json(run / FAILED / f"part-{failure.partition:05d}.json", asdict(failure))
        except StoreError:
            return failures[at:]
    return ()


def say_unnamed(run: Path, failures: Sequence[SetAside]) -> None:
    """Warn of partitions that failed on a disk so full that not even that could be written there."""
    for failure in failures[:TOLD]:
        LOG.warning("warning: partition %d failed: %s", failure.partition, failure.error)
    if failures:
        LOG.warning(
            "warning: %d that failed cannot be named in %s: make room there, and --resume computes them.",
            len(failures),
            run / FAILED,
        )


def read_set_aside(run: Path) -> tuple[SetAside, ...]:
    """The partitions that were set aside and have not been committed since, ascending."""
    done = committed(run)
    found = (read_json(path) for path in sorted((run / FAILED).glob("part-*.json")) if _index(path) not in done)
    return tuple(
        SetAside(**(one | {"symbols": tuple(one["symbols"]), "sets": (one["sets"][0], one["sets"][1])}))
        for one in found
    )


def forget_set_aside(run: Path, indices: Iterable[int]) -> None:
    """These are tried again."""
    for index in indices:
        (run / FAILED / f"part-{index:05d}.json").unlink(missing_ok=True)


def file_digest(path: Path) -> str:
    """BLAKE2b of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """The file at `path`, whole or not at all, and on disk when this returns. `StoreError` when it cannot be."""
    hidden = path.with_name(f".{path.name}.{os.urandom(6).hex()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with hidden.open("w", encoding="utf-8") as file:
                json.dump(content, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            hidden.replace(path)
        finally:
            with contextlib.suppress(OSError):  # on a full disk the first error counts
                hidden.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error}. Check the folder and the free space.") from error


def read_json(path: Path) -> dict[str, Any]:
    """`OSError` or `ValueError` when it is not there or not JSON."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _index(path: Path) -> int:
    return int(path.stem.removeprefix("part-"))


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
