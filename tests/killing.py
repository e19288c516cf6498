"""Commands on a store in a process that dies at its n-th disk operation, or when somebody kills it.

Run as a script it imports everything once and then forks a child for every line of JSON on its stdin:
{"command": name, "path": ..., "kill_at": n, "kill_after": seconds, "file_limit": bytes}, each perhaps null; it
answers with the child's exit status, negative for a signal.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from filling import FIELDS, HOUR, blocks, cut, hours

from atc_backtest.stores import disk, lock, upkeep
from atc_backtest.stores.coding import coder_of
from atc_backtest.stores.layout import Array
from atc_backtest.stores.memmap_store import heat
from atc_backtest.stores.opening import open_store
from atc_backtest.stores.zarr_store import new_store

NAMES = ["A", "B", "C"]
FAILED = 3

CHANGING = ("open", "pwrite", "ftruncate", "fsync", "replace", "rename", "unlink", "mkdir", "rmdir")
"""What the store asks of `os` that changes something on disk, or makes sure that it is there."""


class Disrupted:
    """`os`, whose n-th operation on disk does something else first."""

    left = 0
    """Operations until then."""

    def __init__(self, at: int | None, instead: Callable[[str, tuple[Any, ...]], None]) -> None:
        self.left = at or 0
        self._instead = instead
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        found = getattr(os, name)
        if name not in CHANGING:
            return found

        def call(*args: Any) -> Any:
            if name != "open" or args[1] & os.O_CREAT:
                with self._lock:
                    self.left -= 1
                    if self.left == 0:
                        self._instead(name, args)
            return found(*args)

        return call


def die(name: str, args: tuple[Any, ...]) -> None:
    if name == "pwrite":
        os.pwrite(args[0], args[1][: len(args[1]) // 2], args[2])
    os.kill(os.getpid(), signal.SIGKILL)


def append(path: Path) -> None:
    store = open_store(path)
    store.append(hours(store.info.n_bars, 30), [*NAMES, "NEW"], blocks(4, 30, seed=8))


def correct(path: Path) -> None:
    with open_store(path).writing("correct") as writer:
        writer.correct(hours(5, 10), NAMES[:2], cut(blocks(2, 40, seed=9), slice(2), slice(10, 20)))


def insert(path: Path) -> None:
    with open_store(path).writing("merge") as writer:
        writer.merge(hours(7, 4) + HOUR // 2, NAMES, cut(blocks(3, 9, seed=2), slice(3), slice(4, 8)))


def compact(path: Path) -> None:
    upkeep.compact(path, keep=1)


def rollback(path: Path) -> None:
    upkeep.rollback(path, 1)


def build(path: Path, overwrite: bool = False) -> None:
    wanted, ts = blocks(2, 50, seed=6), hours(3, 50)
    about = {"bar_ns": HOUR, "calendar": "24/7", "fields": FIELDS, "symbols": ["X", "Y"], "ts": ts}
    with new_store(path, **about, overwrite=overwrite) as writer:  # type: ignore[arg-type]
        for name in FIELDS:
            writer.write(name, (0, 2), (0, 50), wanted[name])


def overwrite(path: Path) -> None:
    build(path, overwrite=True)


def hot(path: Path) -> None:
    heat(open_store(path.with_name("source.zarr")), path)


COMMANDS = {one.__name__: one for one in (append, correct, insert, compact, rollback, build, overwrite, hot)}


def run(command: str, path: Path, kill_at: int | None, file_limit: int | None) -> None:
    if file_limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    disk.os = lock.os = Disrupted(kill_at, die)  # type: ignore[assignment]
    COMMANDS[command](path)


def serve() -> None:
    coder = coder_of("blosc", Array("close", ("close",)))  # children find the codec compiled
    coder.decode(coder.encode(np.ones((1, 2, 64))), (1, 2, 64))
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                run(asked["command"], Path(asked["path"]), asked["kill_at"], asked["file_limit"])
                os._exit(0)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(FAILED)
        if asked["kill_after"] is not None:
            time.sleep(asked["kill_after"])
            os.kill(child, signal.SIGKILL)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
