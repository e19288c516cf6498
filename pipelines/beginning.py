"""How a run comes about: its folder and manifest, in place of an earlier run, or nothing where it cannot begin.

What a new run replaces lies in a hidden folder of the run until the new one has begun. At every moment the folder
holds a manifest: cut short, there is a run with fewer parts, not something unknown.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from atc_backtest.errors import StoreError
from atc_backtest.pipelines import commits
from atc_backtest.pipelines.job import Job
from atc_backtest.pipelines.runs import (
    LOCK,
    MANIFEST,
    REPLACED,
    Basis,
    Run,
    check_place,
    is_occupied,
    open_run,
    write_manifest,
)


@contextmanager
def beginning(job: Job, versions: Mapping[str, str], bases: Sequence[Basis], overwrite: bool) -> Iterator[Run]:
    """A new run, for whoever holds `writing`. Where the block fails, it is gone, and what it replaced is back.

    `overwrite` replaces an earlier run, never anything else. `StoreError` when something is in the way.
    """
    run = job.run
    check_place(run, overwrite)
    aside = _put_aside(run) if is_occupied(run) else None
    try:
        write_manifest(job, versions, bases)
        yield open_run(run)
    except BaseException:
        _remove(run, aside)
        if aside is not None:
            _bring_back(run, aside)
        raise
    if aside is not None:
        shutil.rmtree(aside, ignore_errors=True)  # what is left of it goes when the run is resumed


def create_run(job: Job, versions: Mapping[str, str], bases: Sequence[Basis], overwrite: bool) -> Run:
    """A run that has begun, as `beginning` makes it."""
    with beginning(job, versions, bases, overwrite) as run:
        return run


def _put_aside(run: Path) -> Path:
    """All but the lock into a hidden folder, commits first; a manifest stays, too. `StoreError`: all is as it was."""
    aside = run / f"{REPLACED}{secrets.token_hex(6)}"
    children = [child for child in run.iterdir() if child.name != LOCK]
    try:
        aside.mkdir()
        shutil.copy2(run / MANIFEST, aside)
        for child in sorted(children, key=lambda child: child.name != commits.COMMITS):
            if child.name != MANIFEST:
                child.rename(aside / child.name)
    except BaseException as error:
        _bring_back(run, aside)
        if isinstance(error, OSError):
            raise StoreError(f"cannot replace the run {run}: {error}. Check the folder and the free space.") from error
        raise
    return aside


def _remove(run: Path, aside: Path | None) -> None:
    """All but the lock and what was put aside; until that comes back, a manifest stays."""
    kept = {LOCK} if aside is None else {LOCK, MANIFEST, aside.name}
    for child in [child for child in run.iterdir() if child.name not in kept]:
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()


def _bring_back(run: Path, aside: Path) -> None:
    """What was put aside, commits last."""
    if aside.is_dir():
        for child in sorted(aside.iterdir(), key=lambda child: child.name == commits.COMMITS):
            child.replace(run / child.name)
        aside.rmdir()
