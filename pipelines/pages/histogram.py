"""How returns are distributed, counted as they stream by, whatever their scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

BINS = 1 << 16
SHOWN = 61
"""Bars of the picture; odd, so that zero is the middle of one."""
TAIL = 0.002
"""Share of the returns beyond each end of the picture: they are added to its outermost bars."""
SMALLEST = -40
"""Exponent of the first width of a bin, 2^-40."""


@dataclass(frozen=True)
class Distribution:
    """`counts` between `edges`; returns beyond them are counted in the outermost bars. `zeros` were exactly 0."""

    edges: F64
    counts: I64
    zeros: int


class Histogram:
    """Counts in equal bins around zero, whose width is a power of two that doubles when a value does not fit.

    The same counts come out in whatever pieces values come in: bins nest, so that counts of narrow ones add up.
    """

    def __init__(self) -> None:
        self._exponent = SMALLEST
        self._counts = np.zeros(BINS, np.int64)
        self._zeros = 0

    def add(self, values: F64) -> None:
        """Finite returns, in any order; NaN do not count."""
        values = values[~np.isnan(values)]
        self._zeros += int(np.count_nonzero(values == 0.0))
        values = values[values != 0.0]
        if values.size == 0:
            return
        self._widen(float(np.abs(values).max()))
        bins = np.floor(np.ldexp(values, -self._exponent)).astype(np.int64) + BINS // 2
        self._counts += np.bincount(bins, minlength=BINS)

    def _widen(self, largest: float) -> None:
        while math.ldexp(largest, -self._exponent) >= BINS // 2:
            pairs = self._counts.reshape(-1, 2).sum(axis=1)
            self._counts = np.zeros(BINS, np.int64)
            self._counts[BINS // 4 : BINS // 4 + BINS // 2] = pairs
            self._exponent += 1

    def finish(self) -> Distribution | None:
        """`SHOWN` bars that hold all but the tails between them; None where no return differs from 0."""
        total = int(self._counts.sum())
        if total == 0:
            return None
        running = np.cumsum(self._counts)
        low = int(np.searchsorted(running, total * TAIL))
        high = int(np.searchsorted(running, total * (1 - TAIL)))
        reach = max(abs(low - BINS // 2), abs(high + 1 - BINS // 2))
        per_bar = max(1, -(-2 * reach // SHOWN))
        bins = np.arange(BINS) - BINS // 2
        bars = np.clip((bins + per_bar // 2) // per_bar + SHOWN // 2, 0, SHOWN - 1)
        counts = np.bincount(bars, weights=self._counts, minlength=SHOWN).astype(np.int64)
        edges = (np.arange(SHOWN + 1) - SHOWN // 2) * per_bar - per_bar // 2
        return Distribution(np.ldexp(edges.astype(np.float64), self._exponent), counts, self._zeros)
