"""A CuPy whose devices are the CPU: what is queued on a stream is done later, and in every order that is allowed.

Only what the driver uses is here. A seed decides the order among streams. Memory that is let go of too early is
poisoned: page-locked memory at once, a device's memory where the stream that it was allocated on has come so far, as
that stream alone gets it again.
"""

from __future__ import annotations

import ctypes
import random
import threading
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from types import SimpleNamespace, TracebackType
from typing import Any

import numpy as np
from host_device import library

from atc_backtest.config import OFFSETS
from atc_backtest.kernels.device import SOURCE, Variant

POISON, GARBAGE = 0xA5, 0x5A
"""What was let go of, and what was never written."""
TO_DEVICE, TO_HOST = 1, 2
SHARED = 227 * 1024
UNASKED_SHARED = 48 * 1024
VARIANTS = {variant.macros: variant for name in OFFSETS for variant in (Variant(name, False), Variant(name, True))}


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class OutOfMemoryError(MemoryError):
    pass


class Raw:
    """Bytes that somebody allocated: of a device, or (`device` None) page-locked."""

    def __init__(self, size: int, device: int | None) -> None:
        self.bytes = np.full(max(size, 1), GARBAGE, np.uint8)
        self.base, self.size, self.device, self.free = self.bytes.ctypes.data, size, device, False
        self.asked = size


class Machine:
    """Devices, streams and memory. `limit`: bytes of a device; `page_locks`: bytes of the host that can be locked."""

    def __init__(self, seed: int = 0, devices: int = 1, limit: int = 1 << 30, page_locks: int = 1 << 30) -> None:
        self.lock, self.local, self.random = threading.RLock(), threading.local(), random.Random(seed)
        self.devices, self.limit, self.page_locks = devices, limit, page_locks
        self.streams: list[Any] = []
        self.favourite: Any = None
        self.eagerness = self.random.choice([0.0, 0.3, 0.9])
        self.raws: dict[int, Raw] = {}
        self.bases: list[int] = []
        self.held: dict[int | None, int] = defaultdict(int)
        self.most: dict[int | None, int] = defaultdict(int)
        self.arenas: dict[Any, list[Raw]] = defaultdict(list)
        self.launches: list[tuple[int, int]] = []
        self.broken: list[str] = []

    @property
    def device(self) -> int:
        """The thread's current one."""
        return self.local.stack[-1] if getattr(self.local, "stack", None) else 0

    def current_stream(self) -> Any:
        streams = [one for one in getattr(self.local, "streams", []) if one.device_id == self.device]
        assert streams, "the legacy default stream waits for all others: name a stream"
        return streams[-1]

    def take(self, size: int, device: int | None, arena: Any) -> Raw:
        limit = self.page_locks if device is None else self.limit
        if self.held[device] + size > limit:
            raise CUDARuntimeError(2) if device is None else OutOfMemoryError(f"{size} bytes of device {device}")
        self.held[device] += size
        self.most[device] = max(self.most[device], self.held[device])
        kept = self.arenas[arena, size]
        raw = kept.pop() if kept else Raw(size, device)
        raw.free = False
        if raw.base not in self.raws:
            self.raws[raw.base] = raw
            self.bases = sorted(self.raws)
        return raw

    def let_go(self, raw: Raw, arena: Any, stream: Any) -> None:
        """At once, or in the order of the stream that the memory is of."""

        def poison() -> None:
            raw.bytes.fill(POISON)

        with self.lock:
            raw.free = True
            self.held[raw.device] -= raw.size
            poison() if stream is None else stream.later(poison)
            self.arenas[arena, raw.size].append(raw)

    def find(self, address: int, size: int) -> Raw:
        raw = self.raws[self.bases[bisect_right(self.bases, address) - 1]]
        if raw.free or not raw.base <= address <= address + size <= raw.base + raw.size:
            raise ValueError(f"{size} bytes at {address:#x} are not allocated")
        return raw

    def view(self, address: int, pitch: int, width: int, height: int) -> np.ndarray:
        raw = self.find(address, pitch * (height - 1) + width)
        rows = raw.bytes[address - raw.base :]
        return np.lib.stride_tricks.as_strided(rows, (height, width), (pitch, 1))

    def copy(self, to: tuple[int, int], come: tuple[int, int], width: int, height: int, kind: int, stream: int) -> None:
        with self.lock:
            queue = next(one for one in self.streams if one.ptr == stream)
            target, source = (self.view(at, pitch, width, height) for at, pitch in (to, come))
            homes = tuple(self.find(at, 1).device for at, _ in (to, come))
            on = queue.on_its_device()
            if homes != ((on, None) if kind == TO_DEVICE else (None, on)):
                raise ValueError(
                    f"kind {kind} on device {on}: from {homes[1]} to {homes[0]}; the host's is page-locked"
                )
            queue.later(lambda: np.copyto(target, source))

    def wait(self, stream: Any) -> None:
        """Do what is queued, of all streams by chance, until this one has nothing left."""
        with self.lock:
            while stream.queue:
                assert self.step(), "streams wait for each other"
            assert not self.broken, self.broken

    def step(self) -> bool:
        """One thing of one stream: often of the one that was luckiest before, for others may come to wait for long."""
        ready = [stream for stream in self.streams if stream.queue and stream.queue[0][0]()]
        if not ready:
            return False
        if self.favourite not in ready or self.random.random() < 0.1:
            self.favourite = self.random.choice(ready)
        self.favourite.queue.popleft()[1]()
        return True

    def cupy(self) -> SimpleNamespace:
        """The module."""
        runtime = SimpleNamespace(
            CUDARuntimeError=CUDARuntimeError,
            memcpyHostToDevice=TO_DEVICE,
            memcpyDeviceToHost=TO_HOST,
            memoryTypeHost=1,
            getDeviceCount=lambda: self.devices,
            memGetInfo=lambda: (self.limit - self.held[self.device], self.limit),
            memcpyAsync=lambda dst, src, size, kind, stream: self.copy((dst, 1), (src, 1), size, 1, kind, stream),
            memcpy2DAsync=lambda dst, dpitch, src, spitch, width, height, kind, stream: self.copy(
                (dst, dpitch), (src, spitch), width, height, kind, stream
            ),
            pointerGetAttributes=self.attributes_of,
        )
        made = {one.__name__: self.bound(one) for one in (Device, Stream, Event, MemoryPool)}
        memory = SimpleNamespace(OutOfMemoryError=OutOfMemoryError)
        cuda = SimpleNamespace(runtime=runtime, memory=memory, alloc_pinned_memory=self.alloc_pinned_memory, **made)
        return SimpleNamespace(cuda=cuda, ndarray=self.bound(ndarray), RawModule=self.bound(RawModule))

    def bound(self, kind: type) -> type:
        return type(kind.__name__, (kind,), {"machine": self, "__slots__": ()})

    def attributes_of(self, ptr: int) -> SimpleNamespace:
        with self.lock:
            try:
                raw = self.find(ptr, 1)
            except (ValueError, KeyError, IndexError):
                return SimpleNamespace(type=0)
        return SimpleNamespace(type=1 if raw.device is None else 2)

    def alloc_pinned_memory(self, size: int) -> Any:
        rounded = 1 << max(size - 1, 511).bit_length()
        with self.lock:
            raw = self.take(rounded, None, "pinned")

        class Pinned(ctypes.c_byte * rounded):  # type: ignore[misc]
            def __del__(self, let_go: Callable[..., None] = self.let_go) -> None:
                let_go(raw, "pinned", None)

        return Pinned.from_buffer(raw.bytes)


class Device:
    machine: Machine
    __slots__ = ("id",)

    def __init__(self, device: int) -> None:
        assert 0 <= device < self.machine.devices
        self.id = device

    def __enter__(self) -> None:
        stack = self.machine.local.__dict__.setdefault("stack", [])
        stack.append(self.id)

    def __exit__(self, *_: object) -> None:
        self.machine.local.stack.pop()

    @property
    def attributes(self) -> dict[str, int]:
        return {"MaxSharedMemoryPerBlockOptin": SHARED, "MultiProcessorCount": 2}


class Stream:
    machine: Machine
    __slots__ = ("device_id", "ptr", "queue")

    def __init__(self, non_blocking: bool = False) -> None:
        assert non_blocking, "it waits for the legacy default stream"
        self.device_id, self.queue = self.machine.device, deque[tuple[Callable[[], bool], Callable[[], None]]]()
        with self.machine.lock:
            self.ptr = 1000 + len(self.machine.streams)
            self.machine.streams.append(self)

    def __enter__(self) -> None:
        self.on_its_device()
        self.machine.local.__dict__.setdefault("streams", []).append(self)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.machine.local.streams.pop()

    def on_its_device(self) -> int:
        if self.device_id != self.machine.device:
            raise RuntimeError(f"a stream of device {self.device_id}, the current one is {self.machine.device}")
        return self.device_id

    def later(self, work: Callable[[], None], ready: Callable[[], bool] = lambda: True) -> None:
        self.queue.append((ready, work))
        if self.machine.random.random() < self.machine.eagerness:
            self.machine.step()

    def synchronize(self) -> None:
        self.machine.wait(self)

    def record(self, event: Any = None) -> Any:
        with self.machine.lock:
            self.on_its_device()
            passed: list[None] = []
            event.passed = passed
            self.later(lambda: passed.append(None))
        return event

    def wait_event(self, event: Any) -> None:
        with self.machine.lock:
            passed = event.passed
            self.later(lambda: None, lambda: bool(passed))


class Event:
    machine: Machine
    __slots__ = ("passed",)

    def __init__(self, disable_timing: bool = False) -> None:
        self.passed: list[None] = [None]


class MemoryPool:
    machine: Machine
    __slots__ = ("total",)

    def __init__(self) -> None:
        self.total: dict[int, int] = defaultdict(int)

    def malloc(self, size: int) -> Any:
        machine = self.machine
        with machine.lock:
            stream = machine.current_stream()
            raw = machine.take(-(-size // 512) * 512, machine.device, stream.ptr)
            raw.asked = size
            stream.later(lambda: raw.bytes.fill(GARBAGE))
            pool, total = self, machine.device
            pool.total[total] += raw.size
        return Pointer(pool, raw, stream)

    def total_bytes(self) -> int:
        return self.total[self.machine.device]

    def get_limit(self) -> int:
        return 0


class Pointer:
    """A MemoryPointer."""

    __slots__ = ("pool", "ptr", "raw", "stream")

    def __init__(self, pool: MemoryPool, raw: Raw, stream: Stream) -> None:
        self.pool, self.raw, self.stream, self.ptr = pool, raw, stream, raw.base if raw.size else 0

    def __del__(self) -> None:
        with self.pool.machine.lock:
            assert self.raw.device is not None
            self.pool.total[self.raw.device] -= self.raw.size
            self.pool.machine.let_go(self.raw, self.stream.ptr, self.stream)


class ndarray:  # noqa: N801
    machine: Machine
    __slots__ = ("data", "dtype", "nbytes", "shape")

    def __init__(self, shape: Sequence[int], dtype: Any = float, memptr: Any = None) -> None:
        self.shape, self.dtype, self.data = tuple(shape), np.dtype(dtype), memptr
        self.nbytes = int(np.prod(self.shape)) * self.dtype.itemsize
        assert self.nbytes <= memptr.raw.size

    def fill(self, value: float) -> None:
        machine, raw = self.machine, self.data.raw
        with machine.lock:
            here(machine, self)
            cells = raw.bytes[: self.nbytes].view(self.dtype)
            machine.current_stream().later(lambda: cells.fill(value))


def here(machine: Machine, array: ndarray) -> None:
    if array.data.raw.device != machine.device:
        raise RuntimeError(f"an array of device {array.data.raw.device}, the current one is {machine.device}")


class RawModule:
    machine: Machine
    __slots__ = ("variant",)

    def __init__(self, code: str, options: tuple[str, ...] = (), backend: str = "nvrtc") -> None:
        assert code == SOURCE.read_text(encoding="utf-8")
        assert (backend, options[:3]) == ("nvrtc", ("--std=c++17", "--fmad=false", "--prec-div=true"))
        self.variant = VARIANTS[options[3:]]

    def get_function(self, name: str) -> Any:
        assert name == "advance"
        return RawKernel(self.machine, self.variant)


class RawKernel:
    __slots__ = ("_shared", "machine", "variant")

    def __init__(self, machine: Machine, variant: Variant) -> None:
        self.machine, self.variant, self._shared = machine, variant, {machine.device: UNASKED_SHARED}

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        return self._shared[self.machine.device]

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, n_bytes: int) -> None:
        assert n_bytes <= SHARED
        self._shared[self.machine.device] = n_bytes

    def __call__(self, grid: tuple[int], block: tuple[int], args: tuple[Any, ...], *, shared_mem: int = 0) -> None:
        machine, (*tables, scratch, work_bytes) = self.machine, args
        assert block == (32,)
        assert isinstance(work_bytes, np.int64)
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise ValueError(f"{shared_mem} bytes of shared memory were not asked for")
        with machine.lock:
            arrays = tables if isinstance(scratch, np.uint64) else [*tables, scratch]
            for array in arrays:
                here(machine, array)
            assert shared_mem == work_bytes if len(arrays) == 3 else scratch.nbytes == grid[0] * work_bytes
            places = [array.data.ptr for array in arrays]
            machine.launches.append((machine.device, grid[0]))
            machine.current_stream().later(lambda: run_on_host(machine, self.variant, places, int(work_bytes)))


def run_on_host(machine: Machine, variant: Variant, places: list[int], work_bytes: int) -> None:
    """Refuses tables, and arrays that they name, that nobody wrote: addresses and indices are in them."""
    tables = [words(machine, at) for at in places[:3]]
    named = [words(machine, at) for table in tables for at in table.tolist() if at in machine.raws]
    for array in (*tables, *named):
        if any((array == np.full(1, np.uint8(byte)).repeat(8).view(np.int64)).any() for byte in (POISON, GARBAGE)):
            machine.broken.append("a launch reads what was let go of, or was never written")
            return
    shared = np.full(work_bytes, GARBAGE, np.uint8)
    work = places[3] if len(places) == 4 else shared.ctypes.data
    library(variant).advance(*map(ctypes.c_void_p, (*places[:3], work)), ctypes.c_longlong(work_bytes))


def words(machine: Machine, address: int) -> np.ndarray:
    raw = machine.raws[address]
    return raw.bytes[: raw.asked].view(np.int64)
