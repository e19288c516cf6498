"""A device whose warps have 32 lanes: the branch of `atc.cu` that GPUs run, compiled by g++.

`LaneDriver` takes lanes one at a time in any order, so that a barrier that lacks shows in wrong bits (warp_fibers.cpp).
`ProgramDriver` does so in a program of its own, or runs a thread a lane under one of g++'s sanitizers
(warp_threads.cpp).
"""

from __future__ import annotations

import atexit
import ctypes
import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from host_device import HostDriver, compiler, unavailable
from numpy.typing import NDArray

from atc_backtest.kernels.device import SOURCE, Variant

TESTS = Path(__file__).resolve().parent
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-parameter")
FLAGS = ("-std=c++17", "-O1", *WARNINGS, "-ffp-contract=off", "-fPIC")
ENGINES = {
    "fibers": ("warp_fibers.cpp",),
    "thread": ("warp_threads.cpp", "-g", "-fsanitize=thread"),
    "address": ("warp_threads.cpp", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
}
"""What runs lanes, and g++'s options for it; sanitizers by their names."""
LIMIT_SECONDS = 120
"""Of a program: threads that wait for each other at different barriers never end."""


class LaneError(Exception):
    """What lanes or a sanitizer found wrong with the kernel."""


@dataclass
class Launching:
    """How a grid is run, and what of it is spoilt for a test of the test."""

    blocks: int | None = None
    """None: one a symbol, with shared memory; else so many, whose workspaces lie in the device's memory."""
    seed: int = 0
    without: int = 0
    """A line whose barriers are passed by."""
    lacks: int = 0
    """Bytes that workspaces are too small."""

    @property
    def is_far(self) -> bool:
        return self.blocks is not None


class LaneDriver(HostDriver):
    """`seen`: how often warps have met at each line of the source, 0 for their end."""

    def __init__(self, how: Launching | None = None) -> None:
        super().__init__()
        self.how = Launching() if how is None else how
        self.seen = np.zeros(1 + len(SOURCE.read_text(encoding="utf-8").splitlines()), np.int64)

    def compute(self, variant: Variant, tables: tuple[Any, Any, Any], symbols: int, work_bytes: int) -> None:
        how, given = self.how, work_bytes - self.how.lacks
        blocks, guard = how.blocks or symbols, 64
        scratch = np.full(blocks * given + guard, 0xA5, np.uint8) if how.is_far else None
        places = [self.address(array) for array in (*tables, *([] if scratch is None else [scratch]))]
        addresses = [ctypes.c_void_p(place) for place in (*places, None)[:4]]
        seen = ctypes.c_void_p(self.seen.ctypes.data)
        fault = fibers(variant, how.is_far).run_warps(
            *addresses, ctypes.c_int64(given), blocks, how.seed, how.without, seen
        )
        if fault:
            raise LaneError(fault.decode())
        if scratch is not None and not (scratch[-guard:] == 0xA5).all():
            raise LaneError("the kernel wrote beyond its workspaces")


class ProgramDriver(HostDriver):
    """Each launch is a program of its own, to which arrays go through a file and from which they come back; `engine`
    names one of `ENGINES`. It may crash without harm.
    """

    def __init__(self, engine: str, how: Launching | None = None) -> None:
        super().__init__()
        self.how = Launching() if how is None else how
        self._engine = engine
        self._named: WeakValueDictionary[int, NDArray[Any]] = WeakValueDictionary()

    def address(self, device: NDArray[Any]) -> int:
        place = super().address(device)
        self._named[place] = device
        return place

    def compute(self, variant: Variant, tables: tuple[Any, Any, Any], symbols: int, work_bytes: int) -> None:
        words = {int(word) for table in tables for word in table}
        arrays = [*tables, *(self._named[word] for word in words if word in self._named)]
        how = self.how
        head = [how.blocks or symbols, work_bytes - how.lacks, how.is_far, how.seed, how.without, len(arrays)]
        for array in arrays:
            head += [int(array.ctypes.data), array.nbytes]
        command = [*start_of(self._engine), str(program(variant, how.is_far, self._engine))]
        with TemporaryDirectory(prefix="atc-lanes-") as folder:
            launch, result = Path(folder, "launch"), Path(folder, "result")
            launch.write_bytes(b"".join([np.array(head, np.int64).tobytes(), *(array.tobytes() for array in arrays)]))
            said = _run([*command, str(launch), str(result)])
            if said:
                raise LaneError(said)
            content = result.read_bytes()
        start = sum(table.nbytes for table in tables)
        for array in arrays[len(tables) :]:
            array[...] = np.frombuffer(content, array.dtype, array.size, start).reshape(array.shape)
            start += array.nbytes


@cache
def fibers(variant: Variant, is_far: bool) -> ctypes.CDLL:
    """The kernel of a variant with what runs its lanes, as a shared library."""
    return as_library(kernel_object("fibers", SOURCE, *variant.macros, f"-DFAR={int(is_far)}"))


@cache
def program(variant: Variant, is_far: bool, engine: str) -> Path:
    """The same as a program."""
    kernel = kernel_object(engine, SOURCE, *variant.macros, f"-DFAR={int(is_far)}")
    return _linked(engine, kernel, _object(engine, TESTS / "warp_launch.cpp"), "-pthread")


def as_library(kernel: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(_linked("fibers", kernel, "-shared")))
    library.run_warps.restype = ctypes.c_char_p
    return library


def kernel_object(engine: str, source: Path, *macros: str) -> Path:
    return _object(engine, source, *macros, "-include", str(TESTS / "warp.h"), "-x", "c++")


@cache
def _object(engine: str, source: Path, *options: str) -> Path:
    made = _made(".o")
    said = _run([str(compiler()), *FLAGS, *ENGINES[engine][1:], *options, "-c", str(source), "-o", str(made)])
    assert not said, said
    return made


def _linked(engine: str, *options: Path | str) -> Path:
    file, *sanitizer = ENGINES[engine]
    made = _made("")
    said = _run([str(compiler()), *sanitizer, str(_object(engine, TESTS / file)), *map(str, options), "-o", str(made)])
    assert not said, said
    return made


def _made(suffix: str) -> Path:
    """The name of a new file, which is gone when tests are over."""
    folder = mkdtemp(prefix="atc-lanes-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder, "made" + suffix)


def _run(command: list[str]) -> str:
    """What it says when it fails, else nothing."""
    env = os.environ | {"TSAN_OPTIONS": "halt_on_error=1", "ASAN_OPTIONS": "detect_leaks=0"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        return f"no end after {LIMIT_SECONDS} s: {command[0]}"
    return "" if done.returncode == 0 else done.stderr or f"exit status {done.returncode}"


@cache
def start_of(engine: str) -> tuple[str, ...]:
    """What programs are started with: nothing, or `setarch -R` where ThreadSanitizer cannot bear addresses drawn from
    more than 28 bits. Skips where g++ has no such sanitizer or it does not run; fails so in CI.
    """
    empty = _made(".cpp")
    empty.write_text("int main() {}\n", encoding="utf-8")
    built = empty.with_suffix("")
    said = _run([str(compiler()), *ENGINES[engine][1:], str(empty), "-o", str(built)])
    starts = [] if said else [start for start in ((), ("setarch", "-R")) if not start or shutil.which(start[0])]
    for start in starts:
        said = _run([*start, str(built)])
        if not said:
            return start
    unavailable(f"g++ has no {engine} sanitizer that runs here: {said.strip()[-300:]}")


@cache
def barriers() -> dict[int, str]:
    """Lines of `atc.cu` where lanes of a GPU wait for each other, and the function each stands in."""
    found, function = {}, ""
    for number, line in enumerate(SOURCE.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("DEVICE "):
            function = line.partition("(")[0].split()[-1]
        if "SYNC();" in line:
            assert line.count("SYNC();") == 1
            found[number] = function
    return found
