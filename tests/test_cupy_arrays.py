"""The GPU's yardstick is the same algorithm: held, with NumPy in CuPy's place, to the reference."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from host_device import compiler
from numpy_cupy import numpy_cupy
from prices import tick_walk

from atc_backtest.config import AtcConfig, PerFamily
from atc_backtest.reference import atc as reference

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import cupy_arrays

CONFIGS = {
    "default": AtcConfig(),
    "mixed": AtcConfig(lengths=PerFamily(9, 40, 14, 21, 33, 16), robustness="wide", growth_horizon=100, lambda_=0.5),
    "weighted": AtcConfig(decay=1.0, long_threshold=0.3, weights=PerFamily(1.5, 0.3, 1.0, 7.0, 0.5, 2.0)),
}


def closes(n_bars: int) -> np.ndarray:
    return np.stack([tick_walk(n_bars, seed) for seed in range(3)])


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("block", [64, None])
def test_equals_the_reference(name: str, block: int | None) -> None:
    """Prices on ticks, of which an average is equal to within 1e-12 rarely: no side flips on these walks, so votes and
    hundredths are the same, and a signal is the sum of six products: equal to its own rounding."""
    close = closes(400)
    got = cupy_arrays.atc(close, [CONFIGS[name]], np, block=block)[0]
    for symbol, row in enumerate(close):
        expected = reference(row, CONFIGS[name])
        np.testing.assert_allclose(got[symbol], expected.signal, rtol=0, atol=1e-12)


def test_averages_are_the_reference_s() -> None:
    close, config = closes(300), CONFIGS["mixed"]
    prices = np.ascontiguousarray(close.T)
    averages = cupy_arrays.Averages(np, cupy_arrays.array_steps(np), prices, config)
    got = np.concatenate([averages.block(slice(start, start + 100)) for start in range(0, 300, 100)])
    for symbol, row in enumerate(close):
        np.testing.assert_allclose(got[:, :, symbol].T, reference(row, config).average.reshape(54, -1), rtol=1e-10)


def test_a_sweep_is_its_single_runs() -> None:
    close = closes(200)
    configs = [AtcConfig(), replace(AtcConfig(), lambda_=0.4, decay=0.5), replace(AtcConfig(), long_threshold=0.4)]
    together = cupy_arrays.atc(close, configs, np, block=50)
    for config, got in zip(configs, together, strict=True):
        np.testing.assert_allclose(got, cupy_arrays.atc(close, [config], np)[0], rtol=0, atol=1e-12)


@pytest.mark.skipif(compiler() is None, reason="no g++ to compile what CuPy's elementwise kernels do")
def test_fused_steps_do_what_array_operations_do() -> None:
    close, cupy = closes(200), numpy_cupy()
    configs = [AtcConfig(), replace(AtcConfig(), lambda_=0.4, decay=0.5)]
    fused = cupy_arrays.atc(cupy.asarray(close), configs, cupy, cupy_arrays.fused_steps(cupy), block=50)
    np.testing.assert_array_equal(fused.get(), cupy_arrays.atc(close, configs, np, block=50))
