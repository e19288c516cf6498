"""The devices of CuPy (extra `gpu`) for the GPU kernel.

A slot is a stream with a page-locked buffer, lent to one group after another: allocations of a stream are reused by it
alone, so a device's memory is bought once. What a copy reads or writes is held until its stream was waited for: CuPy
hands a page-locked buffer on as soon as nobody names it, whatever is under way.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.array_utils import byte_bounds
from numpy.typing import NDArray

from atc_backtest.errors import UnavailableError
from atc_backtest.kernels.device import OPTIONS, SOURCE, DeviceMemoryError, Ledger, Slot, Variant

WARP, WARPS = 32, 8
"""Threads that share a workspace; workspaces a processor where they lie outside of it."""
STAGE_BYTES, PIECE_BYTES = 16 << 20, 2 << 20
"""A slot's page-locked buffer for what goes up, and what is copied into it at a time."""
WHOLE_BYTES = 256 << 20
"""What comes down into a page-locked buffer of its own while others compute; more comes in pieces, at the end."""
MAX_PITCH = 2**31 - 1
"""Bytes between rows that a copy of rows can do."""
OUT_OF_MEMORY = 2
"""cudaErrorMemoryAllocation, which CuPy does not export."""

REMEDY = "pip install 'atc-backtest[gpu]' on a machine with an NVIDIA GPU and its driver"
_MAKING = threading.Lock()


class Lane(NamedTuple):
    """A stream and its page-locked buffer."""

    stream: Any
    stage: NDArray[np.uint8]


class CupyDriver:
    """One device, whatever a thread's current device is."""

    def __init__(self, cupy: Any, number: int) -> None:
        self.cupy, self.ledger = cupy, Ledger()
        self.device = cupy.cuda.Device(number)
        self.memory = cupy.cuda.MemoryPool()
        self._functions: dict[tuple[Variant, bool], Any] = {}
        self._idle: list[Lane] = []
        self._lock = threading.Lock()

    def free_bytes(self) -> int:
        with self.device:
            free, _ = self.cupy.cuda.runtime.memGetInfo()
            there, limit = int(free) + int(self.memory.total_bytes()), int(self.memory.get_limit())
        return min(there, limit) if limit else there

    def workspaces(self, work_bytes: int) -> int:
        shared, processors = self.room()
        return 0 if work_bytes <= shared else WARPS * processors

    def address(self, device: Any) -> int:
        return int(device.data.ptr)

    def slots(self, n: int) -> list[Slot]:
        last: list[Any] = []
        return [CupySlot(self, self._lane(), last) for _ in range(n)]

    def function(self, variant: Variant, far: bool = False) -> Any:
        """Compiled by NVRTC for this device, kept by CuPy on disk too. `far`: workspaces in the device's memory.

        `UnavailableError` without what compiling takes.
        """
        with self._lock, self.device:
            if (variant, far) not in self._functions:
                options = (*OPTIONS, *variant.macros, f"-DFAR={int(far)}")
                module = self.cupy.RawModule(code=SOURCE.read_text(encoding="utf-8"), options=options, backend="nvrtc")
                try:
                    function = module.get_function("advance")
                except RuntimeError as error:
                    raise UnavailableError(f"the GPU kernel cannot be compiled ({error}): {REMEDY}.") from error
                # Once and for all: it is the function's, not the launch's, and threads launch with sizes of their own.
                function.max_dynamic_shared_size_bytes = self.room()[0]
                self._functions[variant, far] = function
            return self._functions[variant, far]

    def room(self) -> tuple[int, int]:
        """Shared memory a block may have, in bytes, and how many processors there are."""
        attributes = self.device.attributes
        return int(attributes["MaxSharedMemoryPerBlockOptin"]), int(attributes["MultiProcessorCount"])

    def pinned(self, n_bytes: int) -> NDArray[np.uint8]:
        """Page-locked memory. Who lets go of it has waited for every copy from and to it."""
        with self.device:
            try:
                memory = self.cupy.cuda.alloc_pinned_memory(n_bytes)
            except self.cupy.cuda.runtime.CUDARuntimeError as error:
                if error.status != OUT_OF_MEMORY:
                    raise
                raise DeviceMemoryError(f"no {n_bytes} bytes of page-locked memory: {error}") from error
        return np.frombuffer(memory, np.uint8, n_bytes)

    def _lane(self) -> Lane:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        with self.device:
            return Lane(self.cupy.cuda.Stream(non_blocking=True), self.pinned(STAGE_BYTES))

    def take_back(self, lane: Lane) -> None:
        """Of a slot that is done with it, its stream waited for."""
        with self._lock:
            self._idle.append(lane)


class CupySlot:
    """`Slot` on a stream; `last`: the event of the latest launch, shared by slots whose launches are in order."""

    def __init__(self, driver: CupyDriver, lane: Lane, last: list[Any]) -> None:
        self._driver, self._cupy, self._last = driver, driver.cupy, last
        self._lane, self._stream = lane, lane.stream
        self._staged = 0
        self._held: list[Any] = []
        self._coming: list[tuple[Any, NDArray[Any] | None, NDArray[Any], Any]] = []

    def upload(self, array: NDArray[Any]) -> Any:
        device = self._empty(array.shape, array.dtype)
        with self._driver.device:
            if array.nbytes and not self._upload_directly(array, device.data.ptr):
                self._upload_staged(array, device.data.ptr)
        return device

    def _upload_directly(self, array: NDArray[Any], to: int) -> bool:
        """Whether the array is page-locked, and rows that a copy can do; it is held then."""
        runtime, width = self._cupy.cuda.runtime, array.nbytes // len(array) if array.ndim else array.nbytes
        if not self._is_page_locked(array):
            return False
        if array.flags.c_contiguous:
            runtime.memcpyAsync(to, array.ctypes.data, array.nbytes, runtime.memcpyHostToDevice, self._stream.ptr)
        elif array.ndim == 2 and array.strides[1] == array.itemsize and width <= array.strides[0] <= MAX_PITCH:
            runtime.memcpy2DAsync(
                to,
                width,
                array.ctypes.data,
                array.strides[0],
                width,
                len(array),
                runtime.memcpyHostToDevice,
                self._stream.ptr,
            )
        else:
            return False
        self._held.append(array)
        return True

    def _is_page_locked(self, array: NDArray[Any]) -> bool:
        """Its first and its last byte: what lies between was locked with them."""
        runtime = self._cupy.cuda.runtime
        start, stop = byte_bounds(array)
        return all(runtime.pointerGetAttributes(at).type == runtime.memoryTypeHost for at in (start, stop - 1))

    def _upload_staged(self, array: NDArray[Any], to: int) -> None:
        runtime = self._cupy.cuda.runtime
        for piece in pieces(array, PIECE_BYTES):
            if self._staged + piece.nbytes > STAGE_BYTES:
                self._stream.synchronize()
                self._staged = 0
            stage = self._lane.stage[self._staged : self._staged + piece.nbytes]
            stage.view(array.dtype).reshape(piece.shape)[...] = piece
            runtime.memcpyAsync(to, stage.ctypes.data, piece.nbytes, runtime.memcpyHostToDevice, self._stream.ptr)
            to += piece.nbytes
            self._staged += -(-piece.nbytes // 64) * 64

    def blank(self, shape: tuple[int, ...]) -> Any:
        device = self._empty(shape, np.dtype(np.float64))
        with self._driver.device, self._stream:
            device.fill(np.nan)
        return device

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Of the stream's own memory, held until the slot is done."""
        with self._driver.device, self._stream:
            try:
                memory = self._driver.memory.malloc(math.prod(shape) * dtype.itemsize)
            except self._cupy.cuda.memory.OutOfMemoryError as error:
                raise DeviceMemoryError(str(error)) from error
            self._held.append(self._cupy.ndarray(shape, dtype, memptr=memory))
        return self._held[-1]

    def launch(self, variant: Variant, tables: tuple[Any, Any, Any], symbols: int, work_bytes: int) -> None:
        blocks, shared, scratch = symbols, work_bytes, np.uint64(0)
        workspaces = self._driver.workspaces(work_bytes)
        function = self._driver.function(variant, far=workspaces > 0)
        if workspaces:  # averages so long that their sums lie in the device's memory, kept near by its cache
            blocks, shared = min(symbols, workspaces), 0
            scratch = self._empty((blocks * work_bytes,), np.dtype(np.uint8))
        with self._driver.device, self._stream:
            if self._last:
                self._stream.wait_event(self._last[0])
            function((blocks,), (WARP,), (*tables, scratch, np.int64(work_bytes)), shared_mem=shared)
            self._last[:] = [self._stream.record(self._cupy.cuda.Event(disable_timing=True))]

    def download(self, device: Any, out: NDArray[Any], key: Any) -> None:
        pinned = None
        if device.nbytes <= WHOLE_BYTES:
            pinned = self._driver.pinned(max(device.nbytes, 1))[: device.nbytes]
            self._fetch(device.data.ptr, pinned)
        self._held.append(device)
        self._coming.append((device, pinned, out, key))

    def _fetch(self, address: int, pinned: NDArray[np.uint8]) -> None:
        runtime = self._cupy.cuda.runtime
        with self._driver.device:
            runtime.memcpyAsync(
                pinned.ctypes.data, address, pinned.nbytes, runtime.memcpyDeviceToHost, self._stream.ptr
            )

    def _fetch_pieces(self, device: Any) -> NDArray[np.uint8]:
        stage, whole = self._lane.stage, np.empty(device.nbytes, np.uint8)
        for start in range(0, whole.size, STAGE_BYTES):
            piece = whole[start : start + STAGE_BYTES]
            self._fetch(device.data.ptr + start, stage[: piece.size])
            self._stream.synchronize()
            piece[...] = stage[: piece.size]
        return whole

    def finish(self) -> None:
        self._stream.synchronize()
        self._staged = 0
        arrived = [
            ((self._fetch_pieces(device) if pinned is None else pinned).view(device.dtype).reshape(device.shape), *to)
            for device, pinned, *to in self._coming
        ]
        for array, out, key in arrived:
            out[key] = array
        self._held, self._coming = [], []

    def close(self) -> None:
        self._stream.synchronize()
        self._held, self._coming = [], []
        self._driver.take_back(self._lane)


def pieces(array: NDArray[Any], n_bytes: int) -> Iterator[NDArray[Any]]:
    """The array in C order, in parts of at most so many bytes."""
    if array.nbytes <= n_bytes:
        yield array
        return
    row = array.nbytes // len(array)
    if row > n_bytes:
        for part in array:
            yield from pieces(part, n_bytes)
    else:
        for start in range(0, len(array), n_bytes // row):
            yield array[start : start + n_bytes // row]


def cupy_drivers() -> tuple[CupyDriver, ...]:
    """A driver a visible device, the same ones for everybody in this process. `UnavailableError` without any."""
    with _MAKING:
        return _drivers()


@cache
def _drivers() -> tuple[CupyDriver, ...]:
    try:
        import cupy
    except ImportError as error:
        raise UnavailableError(f"the GPU kernel needs CuPy ({error}): {REMEDY}.") from error
    try:
        devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise UnavailableError(f"the GPU kernel finds no device ({error}): {REMEDY}.") from error
    if devices == 0:
        raise UnavailableError(f"the GPU kernel finds no device: {REMEDY}.")
    return tuple(CupyDriver(cupy, number) for number in range(devices))
