"""Prices for tests: random walks on a tick grid, as markets draw them, and their comparison bit for bit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NAN = float("nan")


def tick_walk(n: int, seed: int, volatility: float = 0.01, decimals: int = 2) -> NDArray[np.float64]:
    """A geometric random walk from 100, rounded to ticks, always > 0: float64 [n]."""
    steps = np.random.default_rng(seed).normal(0, volatility, n)
    return np.maximum(np.round(100 * np.exp(np.cumsum(steps)), decimals), 10.0**-decimals)


def ohlcv(n_symbols: int, n_bars: int, seed: int = 0) -> NDArray[np.float64]:
    """Close, open, high, low, volume, [field, symbol, bar]: bars missing, values off the ticks, a late listing."""
    rng = np.random.default_rng(seed)
    close = np.stack([tick_walk(n_bars, seed + s) for s in range(n_symbols)])
    opened = np.concatenate([close[:, :1], close[:, :-1]], axis=1)
    opened[rng.random(close.shape) < 0.2] += 0.01
    high, low = np.maximum(opened, close) + 0.03, np.minimum(opened, close) - 0.02
    found = np.round(np.stack([close, opened, high, low, rng.lognormal(5, 2, close.shape)]), 2)
    found[:, :, rng.random(n_bars) < 0.05] = NAN
    found[:, n_symbols // 2, : n_bars // 3] = NAN
    found[rng.random(found.shape) < 0.01] += 1e-7
    found[1, 0, rng.random(n_bars) < 0.1] = NAN
    return found


def bits(values: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.ascontiguousarray(values).view(np.int64)


def same(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    return one.shape == other.shape and np.array_equal(bits(one), bits(other))
