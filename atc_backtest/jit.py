"""Numba's compiler behind one door: compiled once per machine, whoever comes first, without a race.

Numba's cache on disk is not safe against processes that write it at the same time: one may leave its
code under another's name. And it looks for changes in a function's own file only. Here compiling and
loading happen under a lock on the cache's folder, so that the first process compiles and the others read;
and a function's name in the cache carries a hash of every source that is compiled into it.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

logger = logging.getLogger(__name__)

MARK = "_of_sources_"


def compiled(
    function: Callable[..., Any],
    signatures: Sequence[Any],
    *,
    sources: Sequence[ModuleType] = (),
    allocates: bool = True,
) -> Callable[..., Any]:
    """`function` as machine code for these Numba signatures: without the GIL, IEEE, no fast-math.

    `sources`: modules, besides its own, whose functions are compiled in. `allocates` False: it makes no
    arrays, and so none is reference-counted, which costs time in loops. Cached on disk beside the function's
    file or, where that cannot be written, in the user's cache folder (or `NUMBA_CACHE_DIR`); where none can
    be, or its disk is full, compiled in every process. Divisions by zero follow IEEE. What has to be compiled is
    logged as information.
    """
    import numba

    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": allocates}
    _name_after(function, [str(module.__file__) for module in sources])
    try:
        made = numba.njit(cache=True, **options)(function)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        return _with(numba.njit(**options)(function), signatures)  # no writable folder for the cache
    folder = Path(made.stats.cache_path)
    named = function.__qualname__.rpartition(".")[2]
    try:
        with _locked(folder):
            if not any(folder.glob(f"*{named}-*.nbi")):
                logger.info("compiling %s, once on this machine: some seconds", named.partition(MARK)[0])
            return _with(made, signatures)
    except OSError as error:
        logger.warning("%s is compiled in every process, for it cannot be kept: %s", named.partition(MARK)[0], error)
        return _with(numba.njit(**options)(function), signatures)


class CompiledWhenCalled:
    """A function as `compiled` makes it, for the types of arguments that it is called with, when they come."""

    def __init__(self, function: Callable[..., Any], sources: Sequence[ModuleType]) -> None:
        functools.update_wrapper(self, function)
        self._function, self._sources = function, tuple(sources)
        self._signatures: list[Any] = []
        self._made: Callable[..., Any] | None = None
        self._lock = threading.Lock()

    def __call__(self, *arguments: Any) -> Any:
        if self._made is not None:
            try:
                return self._made(*arguments)
            except TypeError as error:
                if "No matching definition" not in str(error):
                    raise
        return self._for(arguments)(*arguments)

    def _for(self, arguments: tuple[Any, ...]) -> Callable[..., Any]:
        import numba

        typeof: Any = numba.typeof
        signature = tuple(typeof(argument) for argument in arguments)
        with self._lock:
            if self._made is None or signature not in self._signatures:
                self._signatures.append(signature)
                self._made = compiled(self._function, self._signatures, sources=self._sources)
            return self._made


def _name_after(function: Callable[..., Any], files: list[str]) -> None:
    """Put a hash of these sources and the function's own into its name, by which the cache finds it."""
    name, _, before = function.__qualname__.partition(MARK)
    digest = hashlib.sha256()
    for file in (function.__code__.co_filename, *files):
        with contextlib.suppress(OSError):  # a source that cannot be read cannot have been edited
            digest.update(Path(file).read_bytes())
    if not before:
        function.__qualname__ = f"{name}{MARK}{digest.hexdigest()[:16]}"


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
