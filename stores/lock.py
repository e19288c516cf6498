"""One writer at a time: a file that names the writer, held by the kernel as long as the writer lives.

The file is locked with flock, which dies with its process, and holds who that is: host, process, when the
process was started, since when, what command. Where file systems do not lock across machines, what the file
says decides: a writer of another host keeps its right until somebody takes it away by hand.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from atc_backtest.errors import StoreError

LOG = logging.getLogger("atc_backtest.stores")
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


@dataclass(frozen=True)
class Owner:
    """Who writes. `started`: the kernel's clock tick at which the process began; process numbers come again."""

    host: str
    pid: int
    started: int
    since: str
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, {self.command!r}, since {self.since}"

    @property
    def here(self) -> bool:
        return self.host == socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether the process is there still; of this host only."""
        return _started(self.pid) == self.started


def this_process(command: str) -> Owner:
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    return Owner(socket.gethostname(), os.getpid(), _started(os.getpid()), since, command)


def to_bytes(owner: Owner) -> bytes:
    return json.dumps(asdict(owner)).encode()


def parse_owner(data: bytes) -> Owner | None:
    """None for what a writer that died in the middle of it left."""
    try:
        return Owner(**json.loads(data))
    except (ValueError, TypeError):
        return None


def refusal(place: str, owner: Owner | None, remedy: str | None = None) -> StoreError:
    """What a second writer is told. `remedy`: how to take a lock away from another host; None: that of stores."""
    folder = place.removesuffix("/writer.lock")
    if owner is None:
        return StoreError(f"{folder} is being written by another process: wait until it is done.")
    if owner.here:
        return StoreError(f"{folder} is being written by {owner}: wait until it is done.")
    return StoreError(
        f"{folder} is being written by {owner}, or was when that machine went away. When you are sure it no longer "
        f"writes: {remedy or f'atc-backtest store repair --break-lock {folder}'}"
    )


@contextlib.contextmanager
def locked(path: Path, command: str, remedy: str | None = None) -> Iterator[bool]:
    """Hold the lock while the block runs. `StoreError` names the writer that has it; `remedy` as in `refusal`.

    True where its last owner did not release it, for it was killed.
    """
    handle, taken_over = _take(path, remedy)
    try:
        found = os.pread(handle, 1 << 16, 0)
        before = parse_owner(found)
        if before is not None:
            if not before.here or before.alive:
                raise refusal(str(path), before, remedy)
            LOG.warning("%s: the lock of a writer that died was taken over (%s).", path.parent, before)
        try:
            os.ftruncate(handle, 0)
            os.pwrite(handle, to_bytes(this_process(command)), 0)
            yield taken_over
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108
    finally:
        os.close(handle)


@contextlib.contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Wait until nobody else holds the lock at `path`, and hold it while the block runs. The file goes with it.

    Where the file system knows no locks, nobody waits.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108
    finally:
        os.close(handle)


def is_free(path: Path) -> bool:
    """Whether no living writer holds the lock at `path`; another host's counts as living."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        if not _flock(handle):
            return False
        owner = parse_owner(os.pread(handle, 1 << 16, 0))
        return owner is None or (owner.here and not owner.alive)
    finally:
        os.close(handle)


def break_lock(path: Path) -> str | None:
    """Take the lock away from whoever has it; its owner in words, None where there was none."""
    try:
        owner = parse_owner(path.read_bytes())
    except FileNotFoundError:
        return None
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108
    return str(owner) if owner else "a writer that did not say its name"


def _take(path: Path, remedy: str | None) -> tuple[int, bool]:
    """A handle of the locked file that stands at `path`, and whether it was there before.

    Its last owner may have removed the one we opened: then once more.
    """
    while True:
        there = path.exists()
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if not _flock(handle):
            owner = parse_owner(os.pread(handle, 1 << 16, 0))
            os.close(handle)
            raise refusal(str(path), owner, remedy)
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(handle).st_ino == path.stat().st_ino:
                return handle, there
        os.close(handle)


def _flock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True


def _started(pid: int) -> int:
    """Clock tick since boot at which a process began, -1 where there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return -1
    return int(text.rpartition(")")[2].split()[19])
