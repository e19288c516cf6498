"""A CuPy made of NumPy, for what the benchmark asks of it beyond the driver: arrays, their kernels, figures of a chip.

All is done at once, where it is asked for; the order of streams is fake_cupy's subject. Arrays are of a class of
their own, so that one of the host in a kernel's place is refused. Where the real CuPy is installed (it imports
without a GPU), no name is given out that it does not have.
"""

from __future__ import annotations

import ctypes
import importlib.util
import inspect
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any

import numpy as np
from fake_cupy import VARIANTS, CUDARuntimeError, OutOfMemoryError
from host_device import compiler, library

TO_DEVICE, TO_HOST = 1, 2
ATTRIBUTES = {
    "MultiProcessorCount": 132,
    "MaxSharedMemoryPerBlockOptin": 227 << 10,
    "MaxSharedMemoryPerMultiprocessor": 228 << 10,
    "MaxThreadsPerMultiProcessor": 2048,
}


class Array(np.ndarray):
    @property
    def data(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(ptr=self.ctypes.data)

    def get(self) -> np.ndarray:
        return np.array(self)


def on_the_host(at: int, size: int) -> np.ndarray:
    return np.ctypeslib.as_array(ctypes.cast(at, ctypes.POINTER(ctypes.c_uint8)), (size,))


class Pool:
    """Of memory: each piece is its own."""

    def malloc(self, size: int) -> Any:
        memory = np.full(max(size, 1), 0xA5, np.uint8)
        return SimpleNamespace(memory=memory, ptr=memory.ctypes.data)

    def total_bytes(self) -> int:
        return 0

    def get_limit(self) -> int:
        return 0

    def free_all_blocks(self) -> None:
        """Nothing is kept."""


class Stream:
    ptr = 7

    def __init__(self, non_blocking: bool = False) -> None:
        assert non_blocking, "the legacy default stream waits for all others"

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def synchronize(self) -> None: ...

    def wait_event(self, event: object) -> None: ...

    def record(self, event: object) -> object:
        return event


class Device:
    compute_capability, attributes = "90", ATTRIBUTES

    def __init__(self, number: int = 0) -> None:
        self.id = number

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


class Function:
    """`advance` is run by its twin; others do nothing."""

    num_regs, local_size_bytes, shared_size_bytes, max_dynamic_shared_size_bytes = 168, 0, 0, 0
    kernel = SimpleNamespace(ptr=1)

    def __init__(self, name: str, options: tuple[str, ...]) -> None:
        self._name, self._macros = name, tuple(one for one in options if one.startswith(("-DOFFSETS", "-DPINE")))

    def __call__(self, grid: tuple[int], block: tuple[int], given: tuple[Any, ...], shared_mem: int = 0) -> None:
        assert all(isinstance(one, (Array, np.generic)) for one in given)
        if self._name == "advance":
            work = np.empty(int(given[-1]), np.uint8)
            tables = [ctypes.c_void_p(one.ctypes.data) for one in (*given[:3], work)]
            library(VARIANTS[self._macros]).advance(*tables, int(given[-1]))


class RawModule:
    def __init__(self, code: str, options: tuple[str, ...] = (), backend: str = "nvrtc") -> None:
        self._options = options

    def get_function(self, name: str) -> Function:
        return Function(name, self._options)


C_TYPES = {"float64": "double", "int8": "signed char"}


@cache
def compiled(declared: tuple[tuple[str, str], ...], operation: str) -> Any:
    """The operation in a loop: (n, addresses of the arrays, the one that is written last)."""
    lines = [f"{C_TYPES[kind]} &{name} = (({C_TYPES[kind]} *)at[{i}])[n];" for i, (kind, name) in enumerate(declared)]
    source = f'extern "C" void run(long n, void **at) {{ while (n--) {{ {" ".join(lines)} {operation}; }} }}'
    made = Path(mkdtemp(prefix="atc-elementwise-")) / "kernel.so"
    command = [str(compiler()), "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-x", "c++", "-", "-o", str(made)]
    subprocess.run(command, input=source, text=True, check=True)
    return ctypes.CDLL(str(made)).run


class ElementwiseKernel:
    """Its own C, compiled for the CPU; arrays must be as they were declared."""

    def __init__(self, in_params: str, out_params: str, operation: str, name: str) -> None:
        self._declared = tuple((one.split()[0], one.split()[1]) for one in (*in_params.split(","), out_params))
        self._operation = operation

    def __call__(self, *arrays: Array) -> None:
        assert all(isinstance(one, Array) for one in arrays)
        assert [one.dtype.name for one in arrays] == [kind for kind, _ in self._declared]
        out = arrays[-1]
        whole = [np.ascontiguousarray(np.broadcast_to(one, out.shape)) for one in arrays]
        at = (ctypes.c_void_p * len(whole))(*(one.ctypes.data for one in whole))
        compiled(self._declared, self._operation)(ctypes.c_long(out.size), at)
        out[...] = whole[-1]


def ndarray(shape: tuple[int, ...], dtype: Any, memptr: Any) -> Array:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return memptr.memory[:size].view(dtype).reshape(shape).view(Array)


def memcpy(dst: int, src: int, size: int, kind: int, stream: int) -> None:
    assert kind in (TO_DEVICE, TO_HOST)
    on_the_host(dst, size)[:] = on_the_host(src, size)


def memcpy_rows(dst: int, dpitch: int, src: int, spitch: int, width: int, height: int, kind: int, stream: int) -> None:
    for row in range(height):
        memcpy(dst + row * dpitch, src + row * spitch, width, kind, stream)


RUNTIME = {
    "CUDARuntimeError": CUDARuntimeError,
    "deviceSynchronize": lambda: None,
    "driverGetVersion": lambda: 13000,
    "getDeviceCount": lambda: 1,
    "getDeviceProperties": lambda device: {"name": b"NumPy"},
    "memGetInfo": lambda: (1 << 30, 1 << 30),
    "memcpy2DAsync": memcpy_rows,
    "memcpyAsync": memcpy,
    "memcpyDeviceToHost": TO_HOST,
    "memcpyHostToDevice": TO_DEVICE,
    "memoryTypeHost": 1,
    "pointerGetAttributes": lambda at: SimpleNamespace(type=1),
    "runtimeGetVersion": lambda: 13000,
}
CUDA = {
    "Device": Device,
    "Event": lambda disable_timing: object(),
    "MemoryPool": Pool,
    "Stream": Stream,
    "alloc_pinned_memory": bytearray,
    "driver": {"occupancyMaxActiveBlocksPerMultiprocessor": lambda function, threads, shared: 12},
    "memory": {"OutOfMemoryError": OutOfMemoryError},
    "runtime": RUNTIME,
}
CUPY = {
    "ElementwiseKernel": ElementwiseKernel,
    "RawModule": RawModule,
    "__version__": "of NumPy",
    "cuda": CUDA,
    "get_default_memory_pool": Pool,
    "get_default_pinned_memory_pool": Pool,
    "ndarray": ndarray,
}


class Names:
    """A module: names of ours, else NumPy's with arrays of ours, none that the real one lacks."""

    def __init__(self, ours: Mapping[str, Any], real: Any = None, numpy: bool = False) -> None:
        self._ours, self._real, self._numpy = ours, real, numpy

    def __getattr__(self, name: str) -> Any:
        real = None if self._real is None else getattr(self._real, name)
        if name in self._ours:
            found = self._ours[name]
            return Names(found, real) if isinstance(found, dict) else found
        if not self._numpy:
            raise AttributeError(name)
        found = getattr(np, name)
        return self._on_the_device(found) if inspect.isroutine(found) or isinstance(found, np.ufunc) else found

    @staticmethod
    def _on_the_device(function: Any) -> Any:
        def called(*given: Any, **named: Any) -> Any:
            found = function(*given, **named)
            return found.view(Array) if type(found) is np.ndarray else found

        return called


def numpy_cupy() -> Any:
    """The module."""
    real = None
    if importlib.util.find_spec("cupy") is not None:
        import cupy as real
    return Names(CUPY, real, numpy=True)
