"""The GPU kernel: `atc.cu` through CuPy (extra `gpu`), a warp a series, slabs of prices overlapped with computing.

A call's symbols are cut into groups whose state, prices and outputs fit into the device's memory, and a group's bars
into slabs: while one is computed, the next goes up from pinned memory and the one before comes down. The state stays
on the device between slabs. A group that does not fit after all is halved.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from atc_backtest.config import OFFSETS, AtcConfig
from atc_backtest.errors import ConfigError, UnavailableError
from atc_backtest.kernels.device_tables import OUTPUTS, members_table, stream_of
from atc_backtest.kernels.following import BlockFollower
from atc_backtest.kernels.lowering import MemberConstants
from atc_backtest.kernels.protocol import (
    EQUITY_SLOTS,
    F64,
    OUTPUT_AXES,
    Follower,
    Outputs,
    Prices,
    State,
    StreamState,
    check_advance,
)

SOURCE = Path(__file__).with_name("atc.cu")
OPTIONS = ("--std=c++17", "--fmad=false", "--prec-div=true")
"""Of NVRTC: every operation rounds as IEEE 754 says."""
SLAB_BYTES = 256 << 20
"""Of prices and outputs that go over the bus at a time."""
SHARE = 0.8
"""Of the device's free memory that a call may use."""
FIXED_BYTES = 64 << 20
"""Of the device: the program, constants, what the pool of memory rounds up."""
WARP, WARPS = 32, 8
"""Threads that share a workspace; workspaces a processor where they lie outside of it."""
SLOTS = 2
"""Slabs on their way at a time: one is computed, another one goes up or down."""


class DeviceMemoryError(MemoryError):
    """The device has no room."""


class Slot(Protocol):
    """One slab on its way; what is asked of it is done in order, and computing in the order of slots."""

    def upload(self, array: NDArray[Any]) -> Any:
        """A copy on the device."""
        ...

    def blank(self, shape: tuple[int, ...]) -> Any:
        """Float64 NaNs on the device."""
        ...

    def launch(self, variant: Variant, tables: tuple[Any, Any, Any], symbols: int, work_bytes: int) -> None:
        """Advance every symbol of a block, after what other slots have launched before."""
        ...

    def download(self, device: Any, out: F64, key: Any) -> None:
        """Into `out[key]`, at the latest when `finish` returns."""
        ...

    def finish(self) -> None:
        """Wait until everything is done."""
        ...


class Driver(Protocol):
    """A device: CuPy's in `cuda`, the CPU in tests. `DeviceMemoryError` where something does not fit."""

    def free_bytes(self) -> int: ...

    def slots(self, n: int) -> list[Slot]:
        """Launches of slots made together are computed in the order they were asked for."""
        ...

    def address(self, device: Any) -> int: ...


@dataclass(frozen=True)
class Variant:
    """What is compiled into the code: lengths are not, so that a sweep over them compiles nothing."""

    robustness: str
    pine: bool

    @property
    def macros(self) -> tuple[str, ...]:
        offsets = ",".join(map(str, OFFSETS[self.robustness]))
        return (f"-DOFFSETS={offsets}", f"-DPINE={int(self.pine)}")


@dataclass(frozen=True)
class DevicePlan:
    """How a call is cut. `projected_device_bytes` is a promise."""

    symbols: int
    bars: int
    projected_device_bytes: int


def device_plan(stream: StreamState, n_symbols: int, n_bars: int, n_values: int, budget: int) -> DevicePlan:
    """Groups of symbols and slabs of bars that fit into `budget` bytes; `n_values` of a bar and symbol: prices and
    outputs. `ConfigError` where not even one bar of one symbol fits.
    """
    members = len(stream.members)
    of_symbol = 8 * (stream.layout.width + members * EQUITY_SLOTS)
    fixed = FIXED_BYTES + 8 * members * n_bars  # growth tables

    def needed(symbols: int, bars: int) -> int:
        return fixed + symbols * (of_symbol + SLOTS * 8 * (1 + n_values * bars))

    bars = max(1, min(n_bars, SLAB_BYTES // (8 * n_values)))
    while bars > 1 and needed(1, bars) > budget:
        bars //= 2
    if needed(1, bars) > budget:
        raise ConfigError(
            f"the GPU has {budget >> 20} MiB to spare, one symbol of this call needs {needed(1, bars) >> 20} MiB: "
            "run fewer parameter sets at a time, or use another kernel."
        )
    symbols = min(n_symbols, (budget - fixed) // (needed(1, bars) - fixed))
    bars = max(1, min(bars, SLAB_BYTES // (8 * n_values * symbols)))
    symbols = min(n_symbols, (budget - fixed) // (needed(1, bars) - fixed))
    return DevicePlan(symbols, bars, needed(symbols, bars))


class CudaKernel:
    """`Kernel` on a GPU. `UnavailableError` without CuPy or a device; `driver` stands in for the device in tests."""

    name = "cuda"

    def __init__(self, driver: Driver | None = None) -> None:
        self._driver = _cupy_driver() if driver is None else driver

    def new_state(self, configs: Sequence[AtcConfig], n_symbols: int) -> State:
        return State.new(configs, n_symbols)

    def follow(self, state: State) -> Follower:
        return BlockFollower(self, state)

    def advance(self, state: State, prices: Prices, outputs: Outputs) -> None:
        check_advance(state, prices, outputs)
        if prices.close.shape[1] == 0:
            return
        for stream in state.streams:
            self._advance_stream(state, stream, prices, outputs)
        state.bars[:] += np.count_nonzero(~np.isnan(prices.close), axis=1)

    def _advance_stream(self, state: State, stream: StreamState, prices: Prices, outputs: Outputs) -> None:
        n_bars = prices.close.shape[1]
        asked = [name for name in OUTPUTS if getattr(outputs, name) is not None]
        values = 1 + (prices.source is not None)
        values += len(stream.members) * sum(math.prod(OUTPUT_AXES[name]) for name in asked)
        plan = device_plan(stream, state.n_symbols, n_bars, values, int(SHARE * self._driver.free_bytes()))
        first, step = 0, plan.symbols
        while first < state.n_symbols:
            group = slice(first, min(first + step, state.n_symbols))
            try:
                _Group(self._driver, state, stream, group).advance(prices, outputs, plan.bars)
            except DeviceMemoryError:
                if step == 1:
                    raise
                step = (step + 1) // 2
            else:
                first = group.stop


class _Group:
    """Symbols of one stream, whose state lies on the device while their bars go through."""

    def __init__(self, driver: Driver, state: State, stream: StreamState, group: slice) -> None:
        self._driver, self._state, self._stream, self._group = driver, state, stream, group
        self._slots = driver.slots(SLOTS)
        self._members = list(stream.members)
        self._held: list[Any] = []

    def advance(self, prices: Prices, outputs: Outputs, slab_bars: int) -> None:
        """Take all bars; the state comes back at the end, and is what it was where that is not reached."""
        state, group, n_bars = self._state, self._group, prices.close.shape[1]
        shape = stream_of(self._stream.key)
        constants = MemberConstants.of(state.configs, self._members, state.bars[group], n_bars)
        head = self._slots[0]
        values = head.upload(np.ascontiguousarray(self._stream.values[:, group].T))
        equities = head.upload(np.ascontiguousarray(state.equities[self._members, :, group].transpose(2, 0, 1)))
        tables = head.upload(shape.table(self._place)), head.upload(members_table(constants, self._place))
        head.finish()
        variant = Variant(self._stream.key.robustness, self._stream.key.profile == "pine")
        launch = partial(self._launch, variant, tables, shape.work_bytes, (values, equities))
        bars = state.bars[group].copy()
        for number, start in enumerate(range(0, n_bars, slab_bars)):
            slot = self._slots[number % SLOTS]
            slot.finish()
            slab = slice(start, min(start + slab_bars, n_bars))
            close = np.ascontiguousarray(prices.close[group, slab])
            source = None if prices.source is None else np.ascontiguousarray(prices.source[group, slab])
            launch(slot, bars, Prices(close, source), outputs, slab)
            bars = bars + np.count_nonzero(~np.isnan(close), axis=1)
        for slot in self._slots:
            slot.finish()
        head.download(values, self._stream.values.T, group)
        head.download(equities, state.equities.transpose(2, 0, 1), (group, self._members))
        head.finish()

    def _place(self, array: NDArray[Any]) -> int:
        self._held.append(self._slots[0].upload(array))
        return self._driver.address(self._held[-1])

    def _launch(
        self,
        variant: Variant,
        tables: tuple[Any, Any],
        work_bytes: int,
        state: tuple[Any, Any],
        slot: Slot,
        bars: NDArray[np.int64],
        prices: Prices,
        outputs: Outputs,
        slab: slice,
    ) -> None:
        address = self._driver.address
        symbols, n_bars = prices.close.shape
        close, seen = slot.upload(prices.close), slot.upload(bars)
        source = close if prices.source is None else slot.upload(prices.source)
        made = {
            name: slot.blank((len(self._members), symbols, *OUTPUT_AXES[name], n_bars))
            for name in OUTPUTS
            if getattr(outputs, name) is not None
        }
        places = [address(array) for array in (close, source, seen, *state)]
        places += [symbols, n_bars, *(address(made[name]) if name in made else 0 for name in OUTPUTS)]
        slot.launch(variant, (*tables, slot.upload(np.array(places, dtype=np.int64))), symbols, work_bytes)
        for name, device in made.items():
            slot.download(device, getattr(outputs, name), (self._members, self._group, ..., slab))


class _CupyDriver:
    """CuPy's current device."""

    def __init__(self, cupy: Any) -> None:
        self.cupy = cupy
        self._modules: dict[tuple[Variant, bool], Any] = {}
        self._lock = threading.Lock()

    def free_bytes(self) -> int:
        free, _ = self.cupy.cuda.runtime.memGetInfo()
        return int(free) + int(self.cupy.get_default_memory_pool().free_bytes())

    def address(self, device: Any) -> int:
        return int(device.data.ptr)

    def slots(self, n: int) -> list[Slot]:
        last: list[Any] = []
        return [_CupySlot(self, last) for _ in range(n)]

    def function(self, variant: Variant, far: bool) -> Any:
        """Compiled by NVRTC for this device, kept by CuPy on disk too. `far`: workspaces in the device's memory."""
        with self._lock:
            if (variant, far) not in self._modules:
                options = (*OPTIONS, *variant.macros, f"-DFAR={int(far)}")
                module = self.cupy.RawModule(code=SOURCE.read_text(encoding="utf-8"), options=options, backend="nvrtc")
                self._modules[variant, far] = module.get_function("advance")
            return self._modules[variant, far]

    def room(self) -> tuple[int, int]:
        """Shared memory a block may have, in bytes, and how many processors there are."""
        attributes = self.cupy.cuda.Device().attributes
        return int(attributes["MaxSharedMemoryPerBlockOptin"]), int(attributes["MultiProcessorCount"])


class _CupySlot:
    """A stream of the device; `last`: the event of the latest launch, shared by slots whose launches are in order."""

    def __init__(self, driver: _CupyDriver, last: list[Any]) -> None:
        self._driver, self._cupy, self._last = driver, driver.cupy, last
        self._stream = driver.cupy.cuda.Stream(non_blocking=True)
        self._held: list[Any] = []
        self._coming: list[tuple[F64, F64, Any]] = []

    def upload(self, array: NDArray[Any]) -> Any:
        pinned = self._pinned(array.shape, array.dtype)
        pinned[...] = array
        device = self._empty(array.shape, array.dtype)
        device.set(pinned, stream=self._stream)
        self._held += [pinned, device]
        return device

    def blank(self, shape: tuple[int, ...]) -> Any:
        device = self._empty(shape, np.dtype(np.float64))
        with self._stream:
            device.fill(np.nan)
        return device

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        try:
            with self._stream:
                return self._cupy.empty(shape, dtype)
        except self._cupy.cuda.memory.OutOfMemoryError as error:
            raise DeviceMemoryError(str(error)) from error

    def _pinned(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        size = math.prod(shape)
        memory = self._cupy.cuda.alloc_pinned_memory(max(size * dtype.itemsize, 1))
        return np.frombuffer(memory, dtype, size).reshape(shape)

    def launch(self, variant: Variant, tables: tuple[Any, Any, Any], symbols: int, work_bytes: int) -> None:
        shared, processors = self._driver.room()
        function = self._driver.function(variant, work_bytes > shared)
        blocks, scratch, address = symbols, 0, np.uint64(0)
        if work_bytes <= shared:
            function.max_dynamic_shared_size_bytes = scratch = work_bytes
        else:  # averages so long that their sums lie in the device's memory, kept near by its cache
            blocks = min(symbols, WARPS * processors)
            self._held.append(self._empty((blocks * work_bytes,), np.dtype(np.uint8)))
            address = self._held[-1]
        with self._stream:
            if self._last:
                self._stream.wait_event(self._last[0])
            function((blocks,), (WARP,), (*tables, address, np.int64(work_bytes)), shared_mem=scratch)
            self._last[:] = [self._stream.record()]

    def download(self, device: Any, out: F64, key: Any) -> None:
        pinned = self._pinned(device.shape, device.dtype)
        device.get(stream=self._stream, out=pinned, blocking=False)
        self._held.append(device)
        self._coming.append((pinned, out, key))

    def finish(self) -> None:
        self._stream.synchronize()
        for pinned, out, key in self._coming:
            out[key] = pinned
        self._held, self._coming = [], []


def _cupy_driver() -> Driver:
    """CuPy's, where there is CuPy and a device that it can use."""
    remedy = "pip install 'atc-backtest[gpu]' on a machine with an NVIDIA GPU and its driver"
    try:
        import cupy
    except ImportError as error:
        raise UnavailableError(f"the GPU kernel needs CuPy ({error}): {remedy}.") from error
    try:
        devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise UnavailableError(f"the GPU kernel finds no device ({error}): {remedy}.") from error
    if devices == 0:
        raise UnavailableError(f"the GPU kernel finds no device: {remedy}.")
    return _CupyDriver(cupy)
