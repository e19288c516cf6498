"""The device that gpu.py measures: a GPU through CuPy, or its twin on the CPU, which the same lines run on.

Only this file knows CuPy; what rows ask of a device goes through `Device`.
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from cupy_arrays import Steps, array_steps, fused_steps

from atc_backtest.kernels.device import Driver, Slot, Variant
from atc_backtest.kernels.protocol import F64

GB = 1e9
TWIN = "the CPU twin of the GPU (atc.cu compiled by g++): a rehearsal, its figures mean nothing"

RATES = """
extern "C" __global__ void simple(double *out, double a, double b, int rounds) {
    double v[8];
    for (int k = 0; k < 8; ++k) v[k] = threadIdx.x + k;
    for (int i = 0; i < rounds; ++i)
#pragma unroll
        for (int k = 0; k < 8; ++k) {
            v[k] = v[k] * a;
            v[k] = v[k] + b;
        }
    double sum = 0.0;
    for (int k = 0; k < 8; ++k) sum = sum + v[k];
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

extern "C" __global__ void divisions(double *out, double a, double b, int rounds) {
    double v[4];
    for (int k = 0; k < 4; ++k) v[k] = b + threadIdx.x + k;
    for (int i = 0; i < rounds; ++i)
#pragma unroll
        for (int k = 0; k < 4; ++k) v[k] = a / v[k];
    out[blockIdx.x * blockDim.x + threadIdx.x] = v[0] + v[1] + v[2] + v[3];
}
"""
"""Chains of operations that wait for nothing but each other: 16 additions and multiplications a round, 4 divisions."""


@dataclass(frozen=True)
class Bus:
    """Bytes a second between pinned memory and the device; `both`: the sum, when both ways are used at once."""

    up: float
    down: float
    both: float


@dataclass(frozen=True)
class Arithmetic:
    """Operations a second, double precision, no fused multiply-add."""

    simple: float
    divisions: float


class Device(Protocol):
    """What the rows ask for."""

    xp: Any
    """The module for arrays on it: CuPy, or NumPy."""
    driver: Driver

    def facts(self) -> list[tuple[str, str]]: ...

    def synchronize(self) -> None: ...

    def release(self) -> None:
        """Give back memory that is kept for later."""
        ...

    def pinned(self, shape: tuple[int, ...]) -> F64: ...

    def bus(self, n_bytes: int) -> Bus: ...

    def arithmetic(self) -> Arithmetic: ...

    def memory_rate(self, n_bytes: int) -> float:
        """Bytes a second, read and written, of a copy within the device's memory."""
        ...

    def steps(self) -> dict[str, Steps]:
        """Ways to write the yardstick's loops."""
        ...

    def occupancy(self, variant: Variant, work_bytes: int) -> list[tuple[str, str]]: ...

    def fetch(self, slot: Slot, array: Any, pinned: F64) -> None:
        """From the device into pinned memory, in the slot's order."""
        ...


def seconds_of(device: Device, work: Callable[[], object]) -> float:
    device.synchronize()
    began = time.perf_counter()
    work()
    device.synchronize()
    return time.perf_counter() - began


def best_of(device: Device, work: Callable[[], object], times: int = 5) -> float:
    work()
    return min(seconds_of(device, work) for _ in range(times))


class Gpu:
    """The current device of CuPy. `UnavailableError` where there is none."""

    def __init__(self) -> None:
        from atc_backtest.kernels.cupy_device import WARP, cupy_drivers

        self.driver = cupy_drivers()[0]
        import cupy

        self.xp, self._warp = cupy, WARP

    def facts(self) -> list[tuple[str, str]]:
        runtime, device = self.xp.cuda.runtime, self.xp.cuda.Device()
        name = runtime.getDeviceProperties(device.id)["name"].decode()
        free, total = runtime.memGetInfo()
        attributes = device.attributes
        return [
            ("chip", f"{name}, compute capability {device.compute_capability}"),
            ("processors", str(attributes["MultiProcessorCount"])),
            ("memory", f"{total / GB:.1f} GB, {free / GB:.1f} free"),
            ("shared memory a processor", f"{attributes['MaxSharedMemoryPerMultiprocessor'] >> 10} KiB"),
            ("CUDA runtime, driver's CUDA", f"{runtime.runtimeGetVersion()}, {runtime.driverGetVersion()}"),
            ("CuPy", self.xp.__version__),
            *nvidia_smi(),
        ]

    def synchronize(self) -> None:
        self.xp.cuda.runtime.deviceSynchronize()

    def release(self) -> None:
        self.synchronize()
        self.driver.memory.free_all_blocks()
        self.xp.get_default_memory_pool().free_all_blocks()
        self.xp.get_default_pinned_memory_pool().free_all_blocks()

    def pinned(self, shape: tuple[int, ...]) -> F64:
        count = math.prod(shape)
        return np.frombuffer(self.xp.cuda.alloc_pinned_memory(8 * count), np.float64, count).reshape(shape)

    def bus(self, n_bytes: int) -> Bus:
        count, times = n_bytes // 8, 4
        source, target = self.pinned((count,)), self.pinned((count,))
        source[:], target[:] = 1.0, 0.0
        one, other = self.xp.zeros(count), self.xp.zeros(count)
        ways = self.xp.cuda.Stream(non_blocking=True), self.xp.cuda.Stream(non_blocking=True)

        def up() -> None:
            for _ in range(times):
                self._copy(one.data.ptr, source.ctypes.data, source.nbytes, ways[0], up=True)

        def down() -> None:
            for _ in range(times):
                self._copy(target.ctypes.data, other.data.ptr, target.nbytes, ways[1], up=False)

        def both() -> None:
            up()
            down()

        size = times * count * 8
        return Bus(size / best_of(self, up), size / best_of(self, down), 2 * size / best_of(self, both))

    def _copy(self, to: int, source: int, n_bytes: int, stream: Any, up: bool) -> None:
        """Queued on the stream."""
        runtime = self.xp.cuda.runtime
        kind = runtime.memcpyHostToDevice if up else runtime.memcpyDeviceToHost
        runtime.memcpyAsync(to, source, n_bytes, kind, stream.ptr)

    def arithmetic(self) -> Arithmetic:
        module = self.xp.RawModule(code=RATES, options=("--std=c++17", "--fmad=false", "--prec-div=true"))
        blocks = 8 * int(self.xp.cuda.Device().attributes["MultiProcessorCount"])
        out = self.xp.empty(blocks * 256)

        def rate(name: str, operations: int, rounds: int) -> float:
            function = module.get_function(name)
            given = (out, np.float64(0.999), np.float64(0.5), np.int32(rounds))
            return operations * rounds * blocks * 256 / best_of(self, lambda: function((blocks,), (256,), given))

        return Arithmetic(rate("simple", 16, 1 << 15), rate("divisions", 4, 1 << 13))

    def memory_rate(self, n_bytes: int) -> float:
        one, other = self.xp.ones(n_bytes // 8), self.xp.empty(n_bytes // 8)
        return 2 * n_bytes / best_of(self, lambda: self.xp.copyto(other, one))

    def steps(self) -> dict[str, Steps]:
        return {"array operations": array_steps(self.xp), "fused steps": fused_steps(self.xp)}

    def occupancy(self, variant: Variant, work_bytes: int) -> list[tuple[str, str]]:
        function = self.driver.function(variant, bool(self.driver.workspaces(work_bytes)))
        pointer, driver = function.kernel.ptr, self.xp.cuda.driver
        blocks = driver.occupancyMaxActiveBlocksPerMultiprocessor(pointer, self._warp, work_bytes)
        threads = int(self.xp.cuda.Device().attributes["MaxThreadsPerMultiProcessor"])
        return [
            ("registers a thread", str(function.num_regs)),
            ("local memory a thread (spills)", f"{function.local_size_bytes} bytes"),
            ("shared memory a block", f"{function.shared_size_bytes + work_bytes} bytes"),
            ("blocks (warps) a processor", str(blocks)),
            ("occupancy", f"{blocks * self._warp / threads:.1%}"),
        ]

    def fetch(self, slot: Slot, array: Any, pinned: F64) -> None:
        self._copy(pinned.ctypes.data, array.data.ptr, pinned.nbytes, slot._stream, up=False)


SMI = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "pcie.link.gen.current", "pcie.link.width.current")


def nvidia_smi() -> list[tuple[str, str]]:
    """What only nvidia-smi says; asked, nothing is set."""
    command = ["nvidia-smi", f"--query-gpu={','.join((*SMI, 'power.limit'))}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        return [("nvidia-smi", f"says nothing ({error})")]
    values = [value.strip() for value in done.stdout.splitlines()[0].split(",")]
    return list(zip((*SMI, "power.limit"), values, strict=False))


class Twin:
    """The GPU's code on the CPU, through the driver that tests use."""

    def __init__(self) -> None:
        sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
        from host_device import HostDriver

        self.driver = HostDriver()
        self.xp = np

    def facts(self) -> list[tuple[str, str]]:
        return [("chip", TWIN), *nvidia_smi()]

    def synchronize(self) -> None:
        """Nothing goes on behind one's back."""

    def release(self) -> None:
        """Nothing is kept."""

    def pinned(self, shape: tuple[int, ...]) -> F64:
        return np.empty(shape)

    def bus(self, n_bytes: int) -> Bus:
        rate = self.memory_rate(n_bytes) / 2
        return Bus(rate, rate, rate)

    def arithmetic(self) -> Arithmetic:
        values = np.ones(10_000)
        simple = best_of(self, lambda: values * 0.999 + 0.5)
        return Arithmetic(2 * values.size / simple, values.size / best_of(self, lambda: 0.999 / values))

    def memory_rate(self, n_bytes: int) -> float:
        one, other = np.ones(n_bytes // 8), np.zeros(n_bytes // 8)
        return 2 * n_bytes / best_of(self, lambda: np.copyto(other, one))

    def steps(self) -> dict[str, Steps]:
        return {"array operations": array_steps(np)}

    def occupancy(self, variant: Variant, work_bytes: int) -> list[tuple[str, str]]:
        return [("shared memory a block", f"{work_bytes} bytes"), ("blocks (warps) a processor", "of the twin: none")]

    def fetch(self, slot: Slot, array: Any, pinned: F64) -> None:
        np.copyto(pinned, array)
