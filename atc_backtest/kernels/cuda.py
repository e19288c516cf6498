"""The GPU kernel: `atc.cu` through CuPy (extra `gpu`), a warp a series, slabs of prices overlapped with computing.

A call's symbols are cut into groups whose state, prices and outputs fit into the device's memory, and a group's bars
into slabs: while one is computed, the next goes up from pinned memory and the one before comes down. The state stays
on the device between slabs. A group that does not fit after all is tried again with the device to itself, then halved.

Threads and devices: a group goes to the device with the fewest on their way, planned against all that this process may
use of it, and waits there while others hold what it needs.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from atc_backtest.config import AtcConfig
from atc_backtest.errors import ConfigError
from atc_backtest.kernels.device import DeviceMemoryError, Driver, Slot, Variant, least_busy
from atc_backtest.kernels.device_tables import OUTPUTS, members_table, stream_of
from atc_backtest.kernels.following import BlockFollower
from atc_backtest.kernels.lowering import MemberConstants
from atc_backtest.kernels.protocol import (
    EQUITY_SLOTS,
    F64,
    I64,
    OUTPUT_AXES,
    Follower,
    Outputs,
    Prices,
    State,
    StreamState,
    check_advance,
)

SLAB_BYTES = 256 << 20
"""Of prices and outputs that go over the bus at a time."""
LEAST_BARS = 256
"""Of a slab where there is memory: for fewer, a launch loads and stores its state too often."""
SHARE = 0.8
"""Of what a process may use of a device, what its groups may hold at a time."""
FIXED_BYTES = 64 << 20
"""Of the device: the program, constants, what the pool of memory rounds up."""
SLOTS = 2
"""Slabs on their way at a time: one is computed, another one goes up or down."""


@dataclass(frozen=True)
class DevicePlan:
    """How a call is cut. `projected_device_bytes` is a promise."""

    symbols: int
    bars: int
    projected_device_bytes: int


def device_plan(
    stream: StreamState, n_symbols: int, n_bars: int, n_values: int, budget: int, workspaces: int = 0
) -> DevicePlan:
    """Groups of symbols and slabs of bars that fit into `budget` bytes; `n_values` of a bar and symbol: prices and
    outputs; `workspaces` of a launch at most that lie in the device's memory. `ConfigError` where not even one bar of
    one symbol fits.
    """
    members = len(stream.members)
    of_symbol = 8 * (1 + stream.layout.width + members * EQUITY_SLOTS)
    fixed = FIXED_BYTES + 8 * members * n_bars  # growth tables
    work_bytes = stream_of(stream.key).work_bytes

    def needed(symbols: int, bars: int) -> int:
        slab = symbols * 8 * n_values * bars + min(symbols, workspaces) * work_bytes
        return fixed + symbols * of_symbol + SLOTS * slab

    def most_symbols(bars: int) -> int:
        return bisect_right(range(1, n_symbols + 1), budget, key=lambda symbols: needed(symbols, bars))

    least = min(n_bars, LEAST_BARS)
    bars = max(least, min(n_bars, SLAB_BYTES // (8 * n_values)))
    while bars > 1 and needed(1, bars) > budget:
        bars //= 2
    if needed(1, bars) > budget:
        raise ConfigError(
            f"the GPU has {budget >> 20} MiB to spare, one symbol of this call needs {needed(1, bars) >> 20} MiB: "
            "run fewer parameter sets at a time, or use another kernel."
        )
    bars = min(bars, max(least, SLAB_BYTES // (8 * n_values * most_symbols(bars))))
    symbols = most_symbols(bars)
    return DevicePlan(symbols, bars, needed(symbols, bars))


class CudaKernel:
    """`Kernel` on the GPUs that are visible. `UnavailableError` without CuPy or a device; `drivers` stand in for
    devices in tests.
    """

    name = "cuda"

    def __init__(self, *drivers: Driver) -> None:
        self._drivers: Sequence[Driver] = drivers or _visible_devices()

    def new_state(self, configs: Sequence[AtcConfig], n_symbols: int) -> State:
        return State.new(configs, n_symbols)

    def follow(self, state: State) -> Follower:
        return BlockFollower(self, state)

    def advance(self, state: State, prices: Prices, outputs: Outputs) -> None:
        check_advance(state, prices, outputs)
        if prices.close.shape[1] == 0:
            return
        arrived = [one for stream in state.streams for one in self._advance_stream(state, stream, prices, outputs)]
        for one in arrived:  # all or nothing: a state is never of two bars at once
            one.stream.values[:, one.group] = one.values.T
            state.equities[list(one.stream.members), :, one.group] = one.equities.transpose(1, 2, 0)
            state.bars[one.group] = one.bars

    def _advance_stream(self, state: State, stream: StreamState, prices: Prices, outputs: Outputs) -> list[_Arrived]:
        n_bars = prices.close.shape[1]
        asked = [name for name in OUTPUTS if getattr(outputs, name) is not None]
        values = 1 + (prices.source is not None)
        values += len(stream.members) * sum(math.prod(OUTPUT_AXES[name]) for name in asked)
        arrived: list[_Arrived] = []
        first, most, most_bars, alone = 0, state.n_symbols, n_bars, False
        while first < state.n_symbols:
            with least_busy(self._drivers) as driver:
                share = int(SHARE * driver.free_bytes())
                workspaces = driver.workspaces(stream_of(stream.key).work_bytes)
                plan = device_plan(stream, min(most, state.n_symbols - first), n_bars, values, share, workspaces)
                group, slab_bars = slice(first, first + plan.symbols), min(plan.bars, most_bars)
                try:
                    with (
                        driver.ledger.reserve(share if alone else plan.projected_device_bytes, share),
                        _Group(driver, state, stream, group) as one,
                    ):
                        arrived.append(one.advance(prices, outputs, slab_bars))
                except DeviceMemoryError:
                    if not alone:  # what others hold in pieces of larger blocks nobody else can have
                        alone = True
                    elif plan.symbols == 1:
                        raise
                    else:
                        most, most_bars = (plan.symbols + 1) // 2, slab_bars
                else:
                    first, alone = group.stop, False
        return arrived


@dataclass(frozen=True)
class _Arrived:
    """What the state of some symbols of a stream becomes."""

    stream: StreamState
    group: slice
    bars: I64
    """[symbols]"""
    values: F64
    """[symbols, width]"""
    equities: F64
    """[symbols, members, EQUITY_SLOTS]"""


class _Group:
    """Symbols of one stream, whose state lies on the device while their bars go through.

    A context: at its end nothing is under way any more, also after an error. What slots share is held until then.
    """

    def __init__(self, driver: Driver, state: State, stream: StreamState, group: slice) -> None:
        self._driver, self._state, self._stream, self._group = driver, state, stream, group
        self._slots = driver.slots(SLOTS)
        self._members = list(stream.members)
        self._held: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as stack:  # every slot, also where one fails
            for slot in self._slots:
                stack.callback(slot.close)

    def advance(self, prices: Prices, outputs: Outputs, slab_bars: int) -> _Arrived:
        """Take all bars; the state itself stays as it is."""
        state, stream, group, n_bars = self._state, self._stream, self._group, prices.close.shape[1]
        shape = stream_of(stream.key)
        constants = MemberConstants.of(state.configs, self._members, state.bars[group], n_bars)
        before: tuple[NDArray[Any], ...] = (
            state.bars[group],
            np.ascontiguousarray(stream.values[:, group].T),
            np.ascontiguousarray(state.equities[self._members, :, group].transpose(2, 0, 1)),
        )
        head = self._slots[0]
        kept = [head.upload(array) for array in before]
        tables = head.upload(shape.table(self._place)), head.upload(members_table(constants, self._place))
        self._held += [*kept, *tables]
        head.finish()
        variant = Variant(stream.key.robustness, stream.key.profile == "pine")
        launch = partial(self._launch, variant, tables, shape.work_bytes, kept)
        for number, start in enumerate(range(0, n_bars, slab_bars)):
            slot = self._slots[number % SLOTS]
            slot.finish()
            launch(slot, prices, outputs, slice(start, min(start + slab_bars, n_bars)))
        for slot in self._slots:
            slot.finish()
        after = [np.empty_like(array) for array in before]
        for device, array in zip(kept, after, strict=True):
            head.download(device, array, ...)
        head.finish()
        return _Arrived(stream, group, *after)

    def _place(self, array: NDArray[Any]) -> int:
        self._held.append(self._slots[0].upload(array))
        return self._driver.address(self._held[-1])

    def _launch(
        self,
        variant: Variant,
        tables: tuple[Any, Any],
        work_bytes: int,
        kept: list[Any],
        slot: Slot,
        prices: Prices,
        outputs: Outputs,
        slab: slice,
    ) -> None:
        address, closes = self._driver.address, prices.close[self._group, slab]
        symbols, n_bars = closes.shape
        close = slot.upload(closes)
        source = close if prices.source is None else slot.upload(prices.source[self._group, slab])
        made = {
            name: slot.blank((len(self._members), symbols, *OUTPUT_AXES[name], n_bars))
            for name in OUTPUTS
            if getattr(outputs, name) is not None
        }
        places = [address(array) for array in (close, source, *kept)]
        places += [symbols, n_bars, *(address(made[name]) if name in made else 0 for name in OUTPUTS)]
        slot.launch(variant, (*tables, slot.upload(np.array(places, dtype=np.int64))), symbols, work_bytes)
        for name, device in made.items():
            slot.download(device, getattr(outputs, name), (self._members, self._group, ..., slab))


def _visible_devices() -> Sequence[Driver]:
    from atc_backtest.kernels.cupy_device import cupy_drivers

    return cupy_drivers()
