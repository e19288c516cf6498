"""The GPU kernel beyond what test_kernels asks of every kernel: how a call is cut, and that NVRTC compiles it.

Its bits are held in test_kernels: on a GPU where there is one, else with its lanes as loops on the CPU.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_device import HostDriver, compiler, gpu_kernel
from prices import tick_walk
from test_kernels import CONFIGS, assert_same, assert_same_state, market, run

from atc_backtest.config import AtcConfig, PerFamily
from atc_backtest.errors import ConfigError, UnavailableError
from atc_backtest.kernels import get_kernel
from atc_backtest.kernels.cuda import FIXED_BYTES, LEAST_BARS, SHARE, CudaKernel, device_plan
from atc_backtest.kernels.device import OPTIONS, SOURCE, DeviceMemoryError, Variant
from atc_backtest.kernels.device_tables import stream_of
from atc_backtest.kernels.protocol import Outputs, Prices, State, StreamKey

VARIANTS = [Variant(robustness, pine) for robustness in ("narrow", "medium", "wide") for pine in (False, True)]
needs_compiler = pytest.mark.skipif(compiler() is None, reason="no g++ to run the GPU's code on the CPU")


@needs_compiler
@pytest.mark.parametrize("slab_bytes", [1, 3000, 40_000])
def test_slabs_change_nothing(slab_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    configs, prices = [AtcConfig(), CONFIGS["pine-mixed"], AtcConfig(lambda_=0.5)], Prices(market(300))
    state, whole = run(CudaKernel(HostDriver()), configs, prices)
    monkeypatch.setattr("atc_backtest.kernels.cuda.SLAB_BYTES", slab_bytes)
    monkeypatch.setattr("atc_backtest.kernels.cuda.LEAST_BARS", 1)
    driver = HostDriver()
    cut_state, cut = run(CudaKernel(driver), configs, prices)
    assert len(driver.launches) > 2 * 2
    assert_same(whole, cut)
    assert_same_state(state, cut_state)


@needs_compiler
def test_symbols_that_do_not_fit_together_go_one_after_another() -> None:
    close = np.stack([tick_walk(200, seed) for seed in range(23)])
    state, whole = run(CudaKernel(HostDriver()), [AtcConfig()], Prices(close))
    free = int((FIXED_BYTES + 1_000_000) / SHARE)
    driver = HostDriver(free)
    small_state, small = run(CudaKernel(driver), [AtcConfig()], Prices(close))
    assert max(driver.launches) < 23
    assert driver.most <= SHARE * free
    assert_same(whole, small)
    assert_same_state(state, small_state)


@needs_compiler
def test_a_device_with_less_room_than_it_said_gets_half() -> None:
    close = np.stack([tick_walk(200, seed) for seed in range(16)])
    state, whole = run(CudaKernel(HostDriver()), [AtcConfig()], Prices(close))
    breaking = HostDriver(breaks_at=8 * 5 * 54 * 200)  # averages of five symbols
    broken_state, broken = run(CudaKernel(breaking), [AtcConfig()], Prices(close))
    assert max(breaking.launches) == 4
    assert_same(whole, broken)
    assert_same_state(state, broken_state)
    with pytest.raises(DeviceMemoryError):
        run(CudaKernel(HostDriver(breaks_at=1000)), [AtcConfig()], Prices(close))


def test_many_sets_get_slabs_of_many_bars_where_there_is_memory() -> None:
    state = State.new([AtcConfig(long_threshold=n / 1000) for n in range(500)], 1000)
    assert device_plan(state.streams[0], 1000, 20_000, 501, 60 << 30).bars == LEAST_BARS
    assert device_plan(state.streams[0], 1000, 100, 501, 60 << 30).bars == 100
    assert device_plan(state.streams[0], 1000, 20_000, 501, 141 << 20).bars < LEAST_BARS


@needs_compiler
def test_a_call_that_fails_half_way_leaves_the_state_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Symbols that are through when others fail are not further than they."""
    configs = [AtcConfig(), CONFIGS["pine"]]
    close = np.stack([tick_walk(90, seed) for seed in range(5)])
    driver = HostDriver(int((FIXED_BYTES + 14_000) / SHARE))
    kernel, state = CudaKernel(driver), State.new(configs, 5)
    kernel.advance(state, Prices(close), Outputs())
    assert 1 < max(driver.launches) < 5
    before, compute, n = state.copy(), driver.compute, 0

    def failing(*arguments: Any) -> None:
        nonlocal n
        n += 1
        if n == 2:
            raise RuntimeError("the device fell off the bus")
        compute(*arguments)

    monkeypatch.setattr(driver, "compute", failing)
    with pytest.raises(RuntimeError, match="fell off"):
        kernel.advance(state, Prices(close), Outputs())
    assert n == 2
    assert_same_state(before, state)


@needs_compiler
def test_a_call_that_fails_leaves_the_state_as_it_was() -> None:
    kernel, close = CudaKernel(HostDriver(breaks_at=30_000)), np.stack([tick_walk(90, seed) for seed in range(2)])
    state = State.new([AtcConfig()], 2)
    kernel.advance(state, Prices(close), Outputs())
    before = state.copy()
    with pytest.raises(DeviceMemoryError):
        kernel.advance(state, Prices(np.ascontiguousarray(np.tile(close, 60))), Outputs())
    assert_same_state(before, state)


def test_a_plan_stays_within_its_budget() -> None:
    n_symbols = 1000
    state = State.new([AtcConfig()], n_symbols)
    for budget in (FIXED_BYTES + 10**6, FIXED_BYTES + 10**8, 10**9, 10**11):
        plan = device_plan(state.streams[0], n_symbols, 20_000, 2, budget)
        assert plan.projected_device_bytes <= budget
        assert 1 <= plan.symbols <= n_symbols
        assert 1 <= plan.bars <= 20_000
    with pytest.raises(ConfigError, match=r"GPU has .* MiB .*fewer parameter sets"):
        device_plan(state.streams[0], n_symbols, 20_000, 2, FIXED_BYTES // 2)


def test_the_workspace_of_usual_lengths_is_shared_memory_of_several_warps() -> None:
    usual = stream_of(StreamKey.of(AtcConfig())).work_bytes
    assert 12 * (usual + 1024) <= 228 * 1024  # of a processor of an H100; the system takes 1 KiB of each
    assert 8 * (usual + 1024) <= 164 * 1024  # of an A100
    longest = stream_of(StreamKey.of(AtcConfig(lengths=PerFamily(*([4000] * 6))))).work_bytes
    assert longest > 227 * 1024  # such a one lies in the device's memory


@needs_compiler
def test_workspaces_of_any_lengths_are_as_large_as_they_are_used() -> None:
    """The CPU's device guards the end of the workspace."""
    for lengths in ((8, 9, 10, 11, 12, 13), (28, 64, 28, 28, 129, 28), (400, 300, 28, 8, 90, 500)):
        for profile in ("enhance", "pine"):
            config = AtcConfig(lengths=PerFamily(*lengths), profile=profile)
            run(CudaKernel(HostDriver()), [config, AtcConfig(lambda_=0.9)], Prices(market(120)))


def test_a_machine_without_a_gpu_says_so() -> None:
    try:
        kernel = get_kernel("cuda")
    except UnavailableError as error:
        assert "pip install 'atc-backtest[gpu]'" in str(error)  # noqa: PT017
    else:
        assert kernel.name == "cuda"


@pytest.mark.slow
def test_more_bars_than_a_tile_in_every_mixture_of_gaps() -> None:
    rng = np.random.default_rng(8)
    close = np.stack([tick_walk(5000, seed) for seed in range(12)])
    for symbol, share in enumerate(np.linspace(0, 0.99, 12)):
        close[symbol, rng.random(5000) < share] = np.nan
    configs = [AtcConfig(), CONFIGS["wide"], CONFIGS["pine"]]
    state, expected = run(get_kernel("auto"), configs, Prices(close))
    got_state, got = run(gpu_kernel(), configs, Prices(close), [1, 33, 2048])
    assert_same(expected, got)
    assert_same_state(state, got_state)


def nvrtc() -> ctypes.CDLL:
    """NVRTC of the pip wheel, which needs no GPU. Skips where it is not installed."""
    found = importlib.util.find_spec("nvidia.cuda_nvrtc") if importlib.util.find_spec("nvidia") else None
    if found is None or not found.submodule_search_locations:
        pytest.skip("no NVRTC: pip install nvidia-cuda-nvrtc-cu12")
    folder = Path(next(iter(found.submodule_search_locations))) / "lib"
    return ctypes.CDLL(str(next(folder.glob("libnvrtc.so.*"))))


@pytest.mark.parametrize("chip", ["sm_80", "sm_90"])
@pytest.mark.parametrize(
    ("variant", "far"), [*((one, False) for one in VARIANTS), (Variant("medium", False), True)], ids=str
)
def test_nvrtc_compiles_it_without_fused_multiply_adds(variant: Variant, chip: str, far: bool) -> None:
    library = nvrtc()
    program = ctypes.c_void_p()
    source = SOURCE.read_bytes()
    assert library.nvrtcCreateProgram(ctypes.byref(program), source, b"atc.cu", 0, None, None) == 0
    options = [*OPTIONS, f"--gpu-architecture={chip}", *variant.macros, f"-DFAR={int(far)}", "--ptxas-options=-v"]
    given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    status = library.nvrtcCompileProgram(program, len(options), given)
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    said = log.value.decode()
    assert status == 0, said
    registers = re.search(r"Used (\d+) registers", said)
    assert registers is not None
    assert int(registers[1]) * 32 * 12 <= 65536  # twelve warps a processor, as many as have room for workspaces
    library.nvrtcGetCUBINSize(program, ctypes.byref(size))
    assert size.value > 1000  # down to machine code, registers allotted
    library.nvrtcGetPTXSize(program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    library.nvrtcGetPTX(program, ptx)
    text = ptx.value.decode()
    assert ".entry advance" in text
    assert "fma" not in text
    assert "div.rn.f64" in text
