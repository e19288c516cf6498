"""The driver for CuPy, over a CuPy whose devices are the CPU and whose streams run in any order that is allowed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from fake_cupy import Machine
from host_device import compiler
from prices import tick_walk
from test_kernels import CONFIGS, assert_same, assert_same_state, market, run, same

from atc_backtest.config import AtcConfig, PerFamily
from atc_backtest.errors import UnavailableError
from atc_backtest.kernels import cupy_device, get_kernel
from atc_backtest.kernels.cuda import SHARE, CudaKernel
from atc_backtest.kernels.cupy_device import CupyDriver, CupySlot, pieces
from atc_backtest.kernels.device import DeviceMemoryError, Variant, least_busy
from atc_backtest.kernels.protocol import Kernel, Outputs, Prices, State

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no g++ to run the GPU's code on the CPU")
SETS = [AtcConfig(), AtcConfig(lambda_=0.5)]
SMALL = Prices(np.stack([tick_walk(150, seed) for seed in range(3)]))
NAMES = ("signal", "equity1")


def drivers(machine: Machine) -> list[CupyDriver]:
    cupy = machine.cupy()
    return [CupyDriver(cupy, number) for number in range(machine.devices)]


def over(seed: int, **machine: Any) -> CudaKernel:
    return CudaKernel(*drivers(Machine(seed, **machine)))


@pytest.fixture
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a few bars; copies in pieces, and what comes down partly in pieces too."""
    monkeypatch.setattr("atc_backtest.kernels.cuda.SLAB_BYTES", 40_000)
    monkeypatch.setattr("atc_backtest.kernels.cuda.LEAST_BARS", 1)
    monkeypatch.setattr(cupy_device, "STAGE_BYTES", 2048)
    monkeypatch.setattr(cupy_device, "PIECE_BYTES", 512)
    monkeypatch.setattr(cupy_device, "WHOLE_BYTES", 20_000)


@pytest.fixture(scope="module")
def small_expected() -> tuple[State, Outputs]:
    return advanced(get_kernel("auto"))


def advanced(kernel: Kernel) -> tuple[State, Outputs]:
    n_symbols, n_bars = SMALL.close.shape
    state, outputs = kernel.new_state(SETS, n_symbols), Outputs.allocate(NAMES, len(SETS), n_symbols, n_bars)
    kernel.advance(state, SMALL, outputs)
    return state, outputs


def agree(one: tuple[State, Outputs], other: tuple[State, Outputs]) -> bool:
    arrays = [(getattr(one[1], name), getattr(other[1], name)) for name in NAMES]
    arrays += [(one[0].equities, other[0].equities), (one[0].streams[0].values, other[0].streams[0].values)]
    return all(same(a, b) for a, b in arrays)


@needs_compiler
@pytest.mark.parametrize("seed", range(4))
def test_the_bits_of_other_kernels_in_whatever_order_streams_run(seed: int, small_slabs: None) -> None:
    configs = [AtcConfig(), CONFIGS["pine-mixed"], AtcConfig(lambda_=0.5)]
    close = market(230)
    prices = Prices(close, np.ascontiguousarray(close * 1.01))
    expected_state, expected = run(get_kernel("auto"), configs, prices, [100])
    state, outputs = run(over(seed), configs, prices, [100])
    assert_same(expected, outputs)
    assert_same_state(expected_state, state)


@needs_compiler
def test_workspaces_in_the_device_s_memory(small_slabs: None) -> None:
    long = [AtcConfig(lengths=PerFamily(*([4000] * 6)))]
    prices = Prices(np.stack([tick_walk(200, seed) for seed in range(20)]))
    expected_state, expected = run(get_kernel("auto"), long, prices)
    machine = Machine()
    state, outputs = run(CudaKernel(*drivers(machine)), long, prices)
    assert_same(expected, outputs)
    assert_same_state(expected_state, state)
    assert {blocks for _, blocks in machine.launches} == {2 * cupy_device.WARPS}


@needs_compiler
@pytest.mark.parametrize("scarce", ["limit", "page_locks"])
def test_memory_that_others_took_halves_the_group(
    scarce: str, small_expected: tuple[State, Outputs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device says that there is plenty, but the outputs of three symbols do not fit, or not those of two."""
    monkeypatch.setattr(CupyDriver, "free_bytes", lambda self: 1 << 30)
    monkeypatch.setattr(cupy_device, "STAGE_BYTES", 1 << 15)
    for room in (230_000, 360_000):
        machine = Machine(3, **{scarce: room})
        assert agree(small_expected, advanced(CudaKernel(*drivers(machine))))
        assert machine.launches[-1][1] < len(SMALL.close)
        assert machine.held[0] == 0


@needs_compiler
def test_a_device_too_small_for_a_symbol_says_so_and_has_lost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CupyDriver, "free_bytes", lambda self: 1 << 30)
    machine = Machine(limit=30_000)
    driver = drivers(machine)[0]
    with pytest.raises(DeviceMemoryError):
        advanced(CudaKernel(driver))
    assert driver.ledger.load == (0, 0)
    assert machine.held[0] == 0
    machine.limit = 1 << 30
    advanced(CudaKernel(driver))


@needs_compiler
def test_many_threads_hold_together_what_one_may_hold(
    small_slabs: None, small_expected: tuple[State, Outputs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kernel's group needs more than half of the share, so they go one after another, none starves another."""
    monkeypatch.setattr("atc_backtest.kernels.cuda.FIXED_BYTES", 100_000)
    machine = Machine(5, limit=400_000)
    shared = drivers(machine)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: advanced(CudaKernel(*shared)), range(16)))
    assert all(agree(small_expected, result) for result in results)
    assert machine.most[0] <= SHARE * machine.limit
    assert shared[0].ledger.load == (0, 0)


@needs_compiler
def test_groups_that_do_not_fit_together_after_all_are_not_halved(
    small_expected: tuple[State, Outputs], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CupyDriver, "free_bytes", lambda self: 1 << 30)
    machine = Machine(9, limit=600_000)  # a group takes 500,000
    driver = drivers(machine)[0]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: advanced(CudaKernel(driver)), range(8)))
    assert all(agree(small_expected, result) for result in results)
    assert machine.most[0] > machine.limit / 2
    assert {blocks for _, blocks in machine.launches} == {3}


@needs_compiler
def test_a_call_goes_to_the_device_that_is_free(small_slabs: None, small_expected: tuple[State, Outputs]) -> None:
    machine = Machine(6, devices=3)
    shared = drivers(machine)
    for target in range(3):
        machine.launches.clear()
        with ExitStack() as stack, machine.cupy().cuda.Device(2):
            for number, driver in enumerate(shared):
                if number != target:
                    stack.enter_context(least_busy([driver]))
            assert agree(small_expected, advanced(CudaKernel(*shared)))
            assert machine.device == 2
        assert {device for device, _ in machine.launches} == {target}


@needs_compiler
def test_many_threads_on_several_devices(small_slabs: None, small_expected: tuple[State, Outputs]) -> None:
    machine = Machine(8, devices=2)
    shared = drivers(machine)
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda _: advanced(CudaKernel(*shared)), range(12)))
    assert all(agree(small_expected, result) for result in results)
    assert [driver.ledger.load for driver in shared] == [(0, 0)] * 2


@needs_compiler
@pytest.mark.parametrize("strided", [False, True])
def test_page_locked_prices_are_not_copied_on_the_host(
    strided: bool, small_expected: tuple[State, Outputs], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(7)
    driver = drivers(machine)[0]
    close = driver.pinned(SMALL.close.nbytes).view(np.float64).reshape(SMALL.close.shape)
    close[...] = SMALL.close
    if strided:
        monkeypatch.setattr("atc_backtest.kernels.cuda.SLAB_BYTES", 40_000)
        monkeypatch.setattr("atc_backtest.kernels.cuda.LEAST_BARS", 1)
    staged: list[tuple[int, ...]] = []
    real = CupySlot._upload_staged

    def watched(self: CupySlot, array: np.ndarray, to: int) -> None:
        staged.append(array.shape if np.shares_memory(array, close) else ())
        real(self, array, to)

    monkeypatch.setattr(CupySlot, "_upload_staged", watched)
    state = State.new(SETS, len(close))
    outputs = Outputs.allocate(NAMES, len(SETS), *close.shape)
    CudaKernel(driver).advance(state, Prices(close), outputs)
    assert set(staged) == {()}
    assert agree(small_expected, (state, outputs))


def waits_for_no_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fake_cupy.Stream.wait_event", lambda self, event: None)


def with_prices(monkeypatch: pytest.MonkeyPatch, mistake: Callable[[CupySlot, np.ndarray, int], None]) -> None:
    """Wrong prices are wrong results; wrong tables, which have addresses in them, would end the process."""
    real = CupySlot._upload_staged

    def upload(self: CupySlot, array: np.ndarray, to: int) -> None:
        (mistake if array.dtype == np.float64 and array.shape[:1] == (3,) else real)(self, array, to)

    monkeypatch.setattr(CupySlot, "_upload_staged", upload)


def holds_no_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    def upload(self: CupySlot, array: np.ndarray, to: int) -> None:
        runtime, pinned = self._cupy.cuda.runtime, self._driver.pinned(array.nbytes)
        pinned[...] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        runtime.memcpyAsync(to, pinned.ctypes.data, array.nbytes, runtime.memcpyHostToDevice, self._stream.ptr)

    with_prices(monkeypatch, upload)


def writes_where_a_copy_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    real = CupySlot._upload_staged

    def upload(self: CupySlot, array: np.ndarray, to: int) -> None:
        for start in range(0, array.shape[1], 16):
            for row in range(len(array)):
                staged, self._staged = self._staged, 0
                real(self, array[row, start : start + 16], to + 8 * (row * array.shape[1] + start))
                self._staged = staged

    with_prices(monkeypatch, upload)


def hands_out_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    def finish(self: CupySlot) -> None:
        for device, pinned, out, key in self._coming:
            if pinned is not None:
                out[key] = pinned.view(device.dtype).reshape(device.shape)
        self._coming = []

    monkeypatch.setattr(CupySlot, "finish", finish)


MISTAKES = [waits_for_no_launch, holds_no_buffer, writes_where_a_copy_reads, hands_out_too_early]


@needs_compiler
@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_fake_finds_mistakes_of_order_and_of_lifetime(
    mistake: Callable[[pytest.MonkeyPatch], None],
    small_slabs: None,
    small_expected: tuple[State, Outputs],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mistake(monkeypatch)

    def goes_wrong(seed: int) -> bool:
        try:
            return not agree(small_expected, advanced(over(seed)))
        except (ValueError, AssertionError):
            return True

    assert any(goes_wrong(seed) for seed in range(8))


def test_memory_of_a_device_is_its_stream_s_again_when_that_stream_has_come_so_far() -> None:
    seen: dict[bool, set[float]] = {True: set(), False: set()}
    for seed in range(40):
        for same_stream in seen:
            cupy = Machine(seed).cupy()
            runtime, pool = cupy.cuda.runtime, cupy.cuda.MemoryPool()
            one, other = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
            with one:
                array = cupy.ndarray((4,), np.float64, memptr=pool.malloc(32))
                array.fill(1.0)
            one.synchronize()
            pinned = np.frombuffer(cupy.cuda.alloc_pinned_memory(32), np.float64, 4)
            reader = one if same_stream else other
            runtime.memcpyAsync(pinned.ctypes.data, array.data.ptr, 32, runtime.memcpyDeviceToHost, reader.ptr)
            del array
            one.synchronize()
            other.synchronize()
            seen[same_stream].add(float(pinned[0]))
    assert seen[True] == {1.0}
    assert len(seen[False]) == 2


def test_the_fake_refuses_what_is_of_another_device() -> None:
    machine = Machine(devices=2)
    cupy = machine.cupy()
    with cupy.cuda.Device(1):
        stream, pool = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool()
        with stream:
            array = cupy.ndarray((4,), np.float64, memptr=pool.malloc(32))
    with pytest.raises(RuntimeError, match="stream of device 1"), stream:
        pass
    with cupy.cuda.Stream(non_blocking=True), pytest.raises(RuntimeError, match="array of device 1"):
        array.fill(1.0)
    with pytest.raises(TypeError):
        cupy.cuda.Stream(blocking=False)
    with pytest.raises(AttributeError):
        _ = cupy.cuda.Stream.ptds


@pytest.mark.parametrize("n_bytes", [8, 24, 100, 10_000])
@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4), (1, 30), (30, 1)])
def test_pieces_are_the_array_in_its_order(shape: tuple[int, ...], n_bytes: int) -> None:
    array = np.arange(2 * np.prod(shape), dtype=np.float64).reshape(*shape[:-1], 2 * shape[-1])[..., ::2]
    parts = list(pieces(array, n_bytes))
    assert max(part.nbytes for part in parts) <= n_bytes
    assert np.concatenate([part.ravel() for part in parts]).tolist() == array.ravel().tolist()


@needs_compiler
def test_a_variant_is_compiled_once_a_device() -> None:
    machine = Machine(devices=2)
    one, other = drivers(machine)
    variant = Variant("narrow", False)
    with ThreadPoolExecutor(4) as pool:
        assert len({id(function) for function in pool.map(one.function, [variant] * 8)}) == 1
    assert one.function(variant) is not other.function(variant)


def test_what_code_cannot_be_compiled_for_lack_of_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, name: str) -> None:
        raise RuntimeError("Failed to find CUDA headers")

    monkeypatch.setattr("fake_cupy.RawModule.get_function", fail)
    with pytest.raises(UnavailableError, match=r"CUDA headers.*pip install 'atc-backtest\[gpu\]'"):
        drivers(Machine())[0].function(Variant("wide", True))
