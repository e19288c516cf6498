"""Hidden folders in a run for what is computed and thrown away: each its owner's, and nobody else's while that lives.

    .verify-0a1b2c3d/         what is in the making
    .verify-0a1b2c3d.lock     who makes it, held by the kernel as long as that process lives

The lock is there before the folder and goes after it: a folder without one is nobody's. What an owner that was
killed left is removed by whoever comes next to the same run: the next one that makes such a folder, or --resume. A
host does not judge the processes of another one: what those leave waits for somebody on their own host.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atc_backtest.stores.lock import is_free, locked, parse_owner

VERIFY, PORTFOLIO, PROBE = "verify", "portfolio", "probe"


@contextmanager
def scratch(parent: Path, kind: str) -> Iterator[Path]:
    """An empty hidden folder in `parent`, gone when the block ends; `kind`: one of those above.

    `OSError` where none can be made.
    """
    remove_abandoned(parent)
    folder = parent / f".{kind}-{os.urandom(6).hex()}"
    with locked(_lock_of(folder), f"atc-backtest {kind}"):
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(parent: Path) -> None:
    """Remove the hidden folders in `parent` whose owners are gone."""
    for kind in (VERIFY, PORTFOLIO, PROBE):
        for found in parent.glob(f".{kind}-*"):
            folder = found.with_suffix("")
            if _is_abandoned(_lock_of(folder)):
                shutil.rmtree(folder, ignore_errors=True)
                _lock_of(folder).unlink(missing_ok=True)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _is_abandoned(lock: Path) -> bool:
    """Whether whoever held it is gone. One that names nobody yet is about to be held: looking would be in the way."""
    try:
        named = parse_owner(lock.read_bytes()) is not None
    except FileNotFoundError:
        return True
    return named and is_free(lock)
