"""Numba's compiler behind one door: compiled once per machine, whoever comes first, without a race.

Numba's cache on disk is not safe against processes that write it at the same time: one may leave its
code under another's name. Here a function has explicit signatures, and compiling or loading them happens
under a lock on its folder: the first process compiles, the others read.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any


def compiled(function: Callable[..., Any], signatures: Sequence[Any], *, allocates: bool = True) -> Callable[..., Any]:
    """`function` as machine code for these Numba signatures: without the GIL, IEEE, no fast-math.

    `allocates` False: it makes no arrays, and so none is reference-counted, which costs time in loops.

    Cached on disk beside the function's file or, where that cannot be written, in the user's cache folder
    (or `NUMBA_CACHE_DIR`); where none can be, compiled in every process. Divisions by zero follow IEEE.
    """
    import numba

    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": allocates}
    try:
        made = numba.njit(cache=True, **options)(function)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        return _with(numba.njit(**options)(function), signatures)  # no writable folder for the cache
    with _locked(Path(made.stats.cache_path)):
        return _with(made, signatures)


def _with(made: Any, signatures: Sequence[Any]) -> Callable[..., Any]:
    for signature in signatures:
        made.compile(signature)
    made.disable_compile()
    result: Callable[..., Any] = made
    return result


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".atc-backtest.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
