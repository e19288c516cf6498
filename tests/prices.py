"""Prices for tests: random walks on a tick grid, as markets draw them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def tick_walk(n: int, seed: int, volatility: float = 0.01, decimals: int = 2) -> NDArray[np.float64]:
    """A geometric random walk from 100, rounded to ticks, always > 0: float64 [n]."""
    steps = np.random.default_rng(seed).normal(0, volatility, n)
    return np.maximum(np.round(100 * np.exp(np.cumsum(steps)), decimals), 10.0**-decimals)
