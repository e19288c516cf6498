"""Every kernel is held to the reference: signals, layers and equities bit for bit, averages to 2e-13."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from host_device import gpu_kernel
from hypothesis import given, settings
from hypothesis import strategies as st
from prices import tick_walk

from atc_backtest.config import AtcConfig, PerFamily
from atc_backtest.errors import ConfigError, DataError
from atc_backtest.kernels import KERNELS, get_kernel
from atc_backtest.kernels.protocol import OUTPUT_AXES, Kernel, Outputs, Prices, State
from atc_backtest.reference import atc

ROOT = Path(__file__).resolve().parent.parent

CONFIGS = {
    "default": AtcConfig(),
    "pine": AtcConfig(profile="pine"),
    "wide": AtcConfig(robustness="wide", cutout=37, lambda_=0.5, decay=1.0, growth_horizon=None),
    "pine-mixed": AtcConfig(
        lengths=PerFamily(9, 40, 14, 100, 21, 33),
        robustness="narrow",
        profile="pine",
        cutout=3,
        growth_horizon=100,
    ),
    "shortest": AtcConfig(lengths=PerFamily(8, 8, 8, 8, 8, 8), long_threshold=0.3, short_threshold=0.0),
    "weighted": AtcConfig(lengths=PerFamily(16, 17, 31, 32, 33, 64), weights=PerFamily(1.5, 0.3, 1.0, 7.0, 0.5, 2.0)),
}


@pytest.fixture(scope="module", params=["numba", "rust", "cuda"])
def kernel(request: pytest.FixtureRequest, need_kernel: Callable[[str], Kernel]) -> Kernel:
    return gpu_kernel() if request.param == "cuda" else need_kernel(request.param)


def run(
    kernel: Kernel, configs: list[AtcConfig], prices: Prices, cuts: list[int] | None = None
) -> tuple[State, Outputs]:
    """All outputs of `prices` advanced in pieces that end at `cuts`."""
    n_symbols, n_bars = prices.close.shape
    state = kernel.new_state(configs, n_symbols)
    whole = Outputs.allocate(OUTPUT_AXES, len(configs), n_symbols, n_bars)
    edges = [0, *sorted(cuts or []), n_bars]
    for start, stop in pairwise(edges):
        piece = Outputs.allocate(OUTPUT_AXES, len(configs), n_symbols, stop - start)
        source = None if prices.source is None else np.ascontiguousarray(prices.source[:, start:stop])
        kernel.advance(state, Prices(np.ascontiguousarray(prices.close[:, start:stop]), source), piece)
        for name in OUTPUT_AXES:
            getattr(whole, name)[..., start:stop] = getattr(piece, name)
    return state, whole


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal bits, any NaN equal to any NaN; 0.0 and -0.0 differ."""
    nan = np.isnan(a)
    return np.array_equal(nan, np.isnan(b)) and np.array_equal(a[~nan].view(np.int64), b[~nan].view(np.int64))


def assert_same(a: Outputs, b: Outputs) -> None:
    for name in OUTPUT_AXES:
        assert same(getattr(a, name), getattr(b, name)), name


def assert_reference(outputs: Outputs, configs: list[AtcConfig], prices: Prices) -> None:
    for c, config in enumerate(configs):
        for symbol, close in enumerate(prices.close):
            expected = atc(close, config, None if prices.source is None else prices.source[symbol])
            for name in OUTPUT_AXES:
                want, got = getattr(expected, name), getattr(outputs, name)[c, symbol]
                if name == "average":  # windows may be summed in another order: the specification's 2e-13
                    np.testing.assert_allclose(got, want, rtol=2e-13, atol=0)
                else:
                    assert same(got, want), (name, c, symbol)


def market(n_bars: int) -> np.ndarray:
    """Six symbols: whole, with gaps, listed late, delisted, with long flat stretches, and empty."""
    close = np.stack([tick_walk(n_bars, seed) for seed in range(6)])
    close[1, 50:80] = close[1, 200::7] = np.nan
    close[2, :150] = np.nan
    close[3, 300:] = np.nan
    close[4, 100:260] = close[4, 100]
    close[5] = np.nan
    return close


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_the_reference_on_tick_rounded_prices(kernel: Kernel, name: str) -> None:
    prices = Prices(market(460))
    _, outputs = run(kernel, [CONFIGS[name]], prices)
    assert_reference(outputs, [CONFIGS[name]], prices)


def test_equals_the_reference_on_unrounded_random_walks(kernel: Kernel) -> None:
    walks = np.exp(np.cumsum(np.random.default_rng(5).normal(0, 0.02, (5, 400)), axis=1))
    for config in (AtcConfig(), AtcConfig(profile="pine")):
        _, outputs = run(kernel, [config], Prices(walks))
        assert_reference(outputs, [config], Prices(walks))


def test_averages_another_source_than_the_close(kernel: Kernel) -> None:
    close = market(300)
    prices = Prices(close, np.where(np.isnan(close), -1.0, close * 1.01))
    _, outputs = run(kernel, [AtcConfig()], prices)
    assert_reference(outputs, [AtcConfig()], prices)


@pytest.mark.parametrize("n_bars", [0, 1, 2, 3, 21, 22, 23, 34])
@pytest.mark.parametrize("profile", ["enhance", "pine"])
def test_series_shorter_than_every_warm_up(kernel: Kernel, n_bars: int, profile: str) -> None:
    config, prices = AtcConfig(profile=profile), Prices(tick_walk(n_bars, 1)[None])
    _, outputs = run(kernel, [config], prices)
    assert_reference(outputs, [config], prices)


def test_long_lengths(kernel: Kernel) -> None:
    config, prices = (
        AtcConfig(lengths=PerFamily(300, 300, 200, 260, 300, 290)),
        Prices(tick_walk(700, 3)[None]),
    )
    _, outputs = run(kernel, [config], prices)
    assert_reference(outputs, [config], prices)


def test_many_sets_at_once_equal_each_alone(kernel: Kernel) -> None:
    prices, configs = Prices(market(400)), [*CONFIGS.values(), AtcConfig(lambda_=0.3), AtcConfig(decay=100.0)]
    _, together = run(kernel, configs, prices)
    for c, config in enumerate(configs):
        _, alone = run(kernel, [config], prices)
        for name in OUTPUT_AXES:
            assert same(getattr(together, name)[c], getattr(alone, name)[0]), (name, c)


@settings(max_examples=25)
@given(
    cuts=st.lists(st.integers(0, 300), max_size=6),
    gaps=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 299)), max_size=40),
    name=st.sampled_from(sorted(CONFIGS)),
    seed=st.integers(0, 2**32 - 1),
)
def test_cut_anywhere_equals_uncut(
    kernel: Kernel, cuts: list[int], gaps: list[tuple[int, int]], name: str, seed: int
) -> None:
    close = np.stack([tick_walk(300, seed + s) for s in range(4)])
    for symbol, bar in gaps:
        close[symbol, bar] = np.nan
    configs = [CONFIGS[name], AtcConfig(lambda_=0.7, cutout=40)]
    state, whole = run(kernel, configs, Prices(close))
    cut_state, pieces = run(kernel, configs, Prices(close), cuts)
    assert_same(whole, pieces)
    assert_same_state(state, cut_state)


def assert_same_state(a: State, b: State) -> None:
    assert np.array_equal(a.bars, b.bars)
    assert same(a.equities, b.equities)
    for one, other in zip(a.streams, b.streams, strict=True):
        assert same(one.values, other.values)


def test_one_bar_at_a_time_equals_all_at_once(kernel: Kernel) -> None:
    close = market(120)
    _, whole = run(kernel, [AtcConfig(), AtcConfig(profile="pine")], Prices(close))
    _, single = run(kernel, [AtcConfig(), AtcConfig(profile="pine")], Prices(close), list(range(1, 120)))
    assert_same(whole, single)


@settings(max_examples=15)
@given(bar=st.integers(1, 299), name=st.sampled_from(sorted(CONFIGS)))
def test_the_future_never_changes_the_past(kernel: Kernel, bar: int, name: str) -> None:
    close = np.stack([tick_walk(300, s) for s in range(3)])
    poisoned = close.copy()
    poisoned[:, bar:] = np.nan
    poisoned[0, bar:] = 1e9
    poisoned[1, bar::2] = 1e-9
    _, before = run(kernel, [CONFIGS[name]], Prices(close))
    _, after = run(kernel, [CONFIGS[name]], Prices(poisoned))
    for output in OUTPUT_AXES:
        assert same(getattr(before, output)[..., :bar], getattr(after, output)[..., :bar]), output


@settings(max_examples=15)
@given(order=st.permutations(list(range(11))), seed=st.integers(0, 1000))
def test_neighbours_and_places_change_nothing(kernel: Kernel, order: list[int], seed: int) -> None:
    close = np.stack([tick_walk(200, seed + s) for s in range(11)])
    close[3, 40:90] = close[7, :60] = np.nan
    _, straight = run(kernel, [AtcConfig()], Prices(close))
    _, permuted = run(kernel, [AtcConfig()], Prices(np.ascontiguousarray(close[order])))
    _, alone = run(kernel, [AtcConfig()], Prices(close[3:4].copy()))
    for name in OUTPUT_AXES:
        assert same(getattr(straight, name)[:, order], getattr(permuted, name)), name
        assert same(getattr(straight, name)[:, 3:4], getattr(alone, name)), name


@settings(max_examples=10)
@given(power=st.integers(-40, 40))
def test_scaling_prices_by_a_power_of_two_changes_nothing(kernel: Kernel, power: int) -> None:
    close = market(250)
    _, plain = run(kernel, [AtcConfig()], Prices(close))
    _, scaled = run(kernel, [AtcConfig()], Prices(close * 2.0**power))
    for name in ("signal", "layer1", "equity2", "sign", "equity1"):
        assert same(getattr(plain, name), getattr(scaled, name)), name


@pytest.mark.parametrize("length", [8, 28, 512])
def test_no_drift_even_through_a_crash(kernel: Kernel, length: int) -> None:
    """From 1e5 to 1e-3 with a thousandfold fall in one bar: averages stay exact, windows forget."""
    n = 6000
    close = np.maximum(np.round(1e5 * np.exp(np.linspace(0, -11.5, n)), 5), 1e-3)
    close[n // 2 :] = np.maximum(np.round(close[n // 2 :] / 1000, 5), 1e-3)
    config = AtcConfig(lengths=PerFamily(*([length] * 6)))
    _, outputs = run(kernel, [config], Prices(close[None]))
    for family in (1, 2):  # HMA and WMA: exact windows of the last bars, nothing of the crash in them
        got = outputs.average[0, 0, family, :, -50:]
        tail = close[-(50 + 2 * length + 40) :]
        want = atc(tail, config).average[family, :, -50:]
        np.testing.assert_allclose(got, want, rtol=2e-13, atol=0)


@pytest.mark.slow
def test_no_drift_over_ten_million_bars(kernel: Kernel) -> None:
    """From 1e5 down to 1e-3 in ten million bars: the last averages are those of their windows alone."""
    n, piece, last = 10**7, 10**6, 100
    state = kernel.new_state([AtcConfig()], 1)
    noise = np.random.default_rng(0)
    outputs = Outputs.allocate(["average"], 1, 1, last)
    for start in range(0, n, piece):
        trend = np.linspace(np.log(1e5), np.log(1e-3), n // piece + 1)[start // piece : start // piece + 2]
        close = np.exp(np.linspace(*trend, piece) + noise.normal(0, 0.001, piece))
        close = np.maximum(np.round(close, 5), 1e-5)[None]
        if start + piece < n:
            kernel.advance(state, Prices(close), Outputs())
        else:
            kernel.advance(state, Prices(np.ascontiguousarray(close[:, :-last])), Outputs())
            kernel.advance(state, Prices(np.ascontiguousarray(close[:, -last:])), outputs)
    assert state.bars[0] == n
    assert outputs.average is not None
    want = atc(close[0, -last - 60 :], AtcConfig()).average[..., -last:]
    for family in (1, 2, 4):  # HMA, WMA, LSMA: windows; the others remember further back than this reference saw
        np.testing.assert_allclose(outputs.average[0, 0, family], want[family], rtol=2e-13, atol=0)


@settings(max_examples=25)
@given(
    turns=st.lists(st.tuples(st.integers(0, 60), st.sampled_from(["numba", "rust", "cuda", "follow"])), max_size=9),
    names=st.lists(st.sampled_from(sorted(CONFIGS)), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
)
def test_kernels_take_turns_on_one_state(
    need_kernel: Callable[[str], Kernel], turns: list[tuple[int, str]], names: list[str], seed: int
) -> None:
    """Blocks of Rust, of Numba and of the GPU, bars followed by Rust, in any order and length: as one block."""
    kernels: dict[str, Kernel] = {name: need_kernel(name) for name in ("numba", "rust")} | {"cuda": gpu_kernel()}
    configs, n = [CONFIGS[name] for name in names], 330
    close = np.stack([tick_walk(n, seed + s) for s in range(9)])
    close[1, 50:80] = close[1, 200::7] = close[2, :150] = close[3, 300:] = close[5] = np.nan
    whole_state, whole = run(kernels["rust"], configs, Prices(close))
    state, start = kernels["numba"].new_state(configs, close.shape[0]), 0
    for length, who in [*turns, (n, "follow" if turns else "numba")]:
        block = np.ascontiguousarray(close[:, start : start + length])
        signal = np.full((len(configs), *block.shape), np.nan)
        if who == "follow":
            follower = kernels["rust"].follow(state)
            for bar in range(block.shape[1]):
                signal[..., bar] = follower.update(np.ascontiguousarray(block[:, bar]))
            state = follower.state()
        else:
            kernels[who].advance(state, Prices(block), Outputs(signal=signal))
        assert same(signal, np.ascontiguousarray(whole.signal[..., start : start + length])), (who, start)
        start = min(start + length, n)
    assert_same_state(state, whole_state)


@settings(max_examples=20)
@given(data=st.data())
def test_any_grouping_of_configurations_is_each_alone(kernel: Kernel, data: st.DataObject) -> None:
    """Sets that share everything, layer 1, the stream or nothing, in any order and company."""
    pool = [
        AtcConfig(),
        AtcConfig(long_threshold=0.3),
        AtcConfig(short_threshold=-0.5, weights=PerFamily(1.5, 0.3, 1.0, 7.0, 0.5, 2.0)),
        AtcConfig(lambda_=0.3),
        AtcConfig(lambda_=0.3, long_threshold=0.6),
        AtcConfig(decay=1.0, cutout=30),
        AtcConfig(profile="pine"),
        AtcConfig(profile="pine", weights=PerFamily(3.0, 1.0, 1.0, 1.0, 1.0, 1.0)),
        CONFIGS["shortest"],
    ]
    configs = data.draw(st.lists(st.sampled_from(pool), min_size=1, max_size=6))
    prices = Prices(market(260))
    state, together = run(kernel, configs, prices, [data.draw(st.integers(0, 260))])
    for c, config in enumerate(configs):
        alone_state, alone = run(kernel, [config], prices)
        for name in OUTPUT_AXES:
            assert same(getattr(together, name)[c], getattr(alone, name)[0]), (name, c)
        assert same(state.equities[c], alone_state.equities[0])


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [2, 4, 8])
def test_numba_gives_the_same_bits_with_vectors_of_any_width(
    need_kernel: Callable[[str], Kernel], lanes: int, tmp_path: Path
) -> None:
    """As on processors without AVX-512, or without AVX: LLVM splits and joins vectors as it must."""
    close = market(300)
    np.save(tmp_path / "close.npy", close)
    program = f"""
import sys, numpy as np
from llvmlite import binding
real, features = binding.get_host_cpu_features, {{"avx512f": {lanes} == 8, "avx": {lanes} > 2}}
binding.get_host_cpu_features = lambda: features
from atc_backtest.kernels.numba_cpu.vectors import LANES
binding.get_host_cpu_features = real
assert LANES == {lanes}
from atc_backtest.config import AtcConfig
from atc_backtest.kernels import get_kernel
from atc_backtest.kernels.protocol import Outputs, Prices
close = np.load("close.npy")
kernel, outputs = get_kernel("numba"), Outputs.allocate(["signal", "equity2"], 1, *close.shape)
kernel.advance(kernel.new_state([AtcConfig()], close.shape[0]), Prices(close), outputs)
np.savez("found.npz", signal=outputs.signal, equity2=outputs.equity2)
"""
    subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True
    )
    _, expected = run(need_kernel("numba"), [AtcConfig()], Prices(close))
    with np.load(tmp_path / "found.npz") as found:
        for name in ("signal", "equity2"):
            assert same(found[name], getattr(expected, name)), name


def test_outputs_not_asked_for_change_nothing(kernel: Kernel) -> None:
    prices = Prices(market(200))
    _, everything = run(kernel, [AtcConfig()], prices)
    for name in OUTPUT_AXES:
        alone = Outputs.allocate([name], 1, 6, 200)
        kernel.advance(kernel.new_state([AtcConfig()], 6), prices, alone)
        assert same(getattr(alone, name), getattr(everything, name))


def test_overwrites_whatever_an_output_array_held(kernel: Kernel) -> None:
    prices = Prices(market(160))
    _, fresh = run(kernel, [CONFIGS["wide"]], prices)
    used = Outputs(**{name: np.full_like(getattr(fresh, name), 7.0) for name in OUTPUT_AXES})
    kernel.advance(kernel.new_state([CONFIGS["wide"]], 6), prices, used)
    assert_same(fresh, used)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, 0.0, -1.0])
def test_bad_prices_never_reach_the_arithmetic(bad: float) -> None:
    close = tick_walk(10, 0)[None].copy()
    close[0, 7] = bad
    with pytest.raises(DataError, match=r"close\[symbol 0, bar 7\].*finite and > 0.*missing bar"):
        Prices(close)
    with pytest.raises(DataError, match=r"source\[symbol 0, bar 7\]"):
        Prices(tick_walk(10, 0)[None], close)


def test_wrong_shapes_are_refused(kernel: Kernel) -> None:
    state = kernel.new_state([AtcConfig()], 2)
    with pytest.raises(DataError, match="prices hold 1 symbols, the state 2"):
        kernel.advance(state, Prices(tick_walk(10, 0)[None]), Outputs())
    with pytest.raises(DataError, match=r"output signal is float64 \(1, 2, 9\)"):
        kernel.advance(state, Prices(np.ones((2, 10))), Outputs.allocate(["signal"], 1, 2, 9))
    with pytest.raises(DataError, match="C-contiguous float64"):
        Prices(np.ones((10, 2)).T)
    with pytest.raises(ConfigError, match="at least one AtcConfig"):
        kernel.new_state([], 1)


def test_the_reference_as_a_kernel_and_the_table() -> None:
    reference, prices = get_kernel("reference"), Prices(market(130))
    _, outputs = run(reference, [AtcConfig()], prices, [13, 40])
    assert_reference(outputs, [AtcConfig()], prices)
    with pytest.raises(DataError, match="cannot continue another kernel's state"):
        reference.advance(State.new([AtcConfig()], 6), prices, Outputs())
    with pytest.raises(ConfigError, match=r"unknown kernel 'fortran'.*rust, numba"):
        get_kernel("fortran")
    assert get_kernel("auto").name in KERNELS
