"""Settings turned into the plain numbers that compiled kernels read, computed once, here.

Every constant that a kernel multiplies with is rounded in this file and nowhere else, so that no
two kernels can round it differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from atc_backtest.config import AtcConfig
from atc_backtest.growth import growth
from atc_backtest.kernels.protocol import F64, I64, StreamLayout, thresholds

EMA, HMA, WMA, DEMA, LSMA, KAMA = range(6)


@dataclass(frozen=True)
class StreamConstants:
    """Of one stream; [6, 9] by family and length, in summing order."""

    alpha: F64
    """2 / (L+1)."""
    sma: F64
    """1 / L."""
    wma: F64
    """1 / (L(L+1)/2)."""
    lsma_w: F64
    """3 / (L(L+1)/2)."""
    lsma_s: F64
    """2 / L."""
    half: I64
    """[9] L // 2 of the HMA lengths."""
    hma_half: F64
    """[9] 2 / (h(h+1)/2), h = half."""
    hma_smooth: F64
    """[9] 1 / (w(w+1)/2), w = layout.smooth."""

    @classmethod
    def of(cls, layout: StreamLayout) -> StreamConstants:
        lengths = layout.lengths
        half = lengths[HMA] // 2
        return cls(
            alpha=2.0 / (lengths + 1),
            sma=1.0 / lengths,
            wma=1.0 / _triangle(lengths),
            lsma_w=3.0 / _triangle(lengths),
            lsma_s=2.0 / lengths,
            half=half,
            hma_half=2.0 / _triangle(half),
            hma_smooth=1.0 / _triangle(layout.smooth),
        )


def shortest_windows(layout: StreamLayout) -> tuple[I64, I64, I64]:
    """Windows that are summed from powers of two: [7] each family's shortest length, then the half of HMA's; [7] which
    of the distinct ones that is; and these, in the order they come."""
    shortest = [int(lengths.min()) for lengths in layout.lengths]
    shortest.append(shortest[HMA] // 2)
    windows = list(dict.fromkeys(shortest))
    which = [windows.index(length) for length in shortest]
    return np.array(shortest, np.int64), np.array(which, np.int64), np.array(windows, np.int64)


def _triangle(n: I64) -> F64:
    return (n * (n + 1) // 2).astype(np.float64)


@dataclass(frozen=True)
class MemberConstants:
    """Of the configurations that share a stream; first axis: the member."""

    config: I64
    """[members] index of the configuration in the state and in the outputs."""
    layer1: I64
    """[members] which of the distinct layers 1 is this member's: members that differ in thresholds and
    weights alone share one."""
    leader: I64
    """[distinct layers 1] the first member that has it."""
    cutout: I64
    keep: F64
    """d = 1 - decay / 100."""
    weights: F64
    """[members, 6] layer-2 starting equities."""
    up: I64
    """A layer-1 signal q/100 votes +1 iff q > up, -1 iff q < down."""
    down: I64
    growth_row: I64
    """Which row of `growth` is this member's; members with equal growth share one."""
    growth_start: I64
    growth_last: I64
    """g at k bars after the cutout is growth[growth_row, min(k - growth_start, growth_last)]."""
    growth: F64
    """[rows, longest]; a row stops where growth does, or at the last bar of this call."""

    @classmethod
    def of(cls, configs: Sequence[AtcConfig], members: Sequence[int], bars: I64, n_bars: int) -> MemberConstants:
        """For a call that advances symbols which have seen `bars` bars by at most `n_bars`."""
        chosen = tuple(configs[m] for m in members)
        first, last = int(bars.min()), int(bars.max()) + n_bars
        spans = [_growth_span(c, first, last) for c in chosen]
        rows = {key: row for row, key in enumerate(dict.fromkeys(spans))}
        table = np.ones((len(rows), max(stop - start for _, _, start, stop in spans)))
        for (lambda_, horizon, start, stop), row in rows.items():
            table[row, : stop - start] = growth(lambda_, horizon, start, stop)
        cutout, keep, weights, up, down, layer1, leader = _fixed(chosen)
        return cls(
            config=np.array(members, dtype=np.int64),
            layer1=layer1,
            leader=leader,
            cutout=cutout,
            keep=keep,
            weights=weights,
            up=up,
            down=down,
            growth_row=np.array([rows[span] for span in spans], dtype=np.int64),
            growth_start=np.array([start for _, _, start, _ in spans], dtype=np.int64),
            growth_last=np.array([stop - start - 1 for _, _, start, stop in spans], dtype=np.int64),
            growth=table,
        )


@lru_cache(maxsize=64)
def _fixed(chosen: tuple[AtcConfig, ...]) -> tuple[I64, F64, F64, I64, I64, I64, I64]:
    """What no bar changes: cutouts, factors d, weights, thresholds in hundredths, and who shares layer 1."""
    keys = [(c.lambda_, c.decay, c.cutout, c.growth_horizon) for c in chosen]
    distinct = list(dict.fromkeys(keys))
    layer1 = np.array([distinct.index(key) for key in keys], dtype=np.int64)
    leader = np.array([keys.index(key) for key in distinct], dtype=np.int64)
    votes = np.array([thresholds(c) for c in chosen], dtype=np.int64)
    cutout = np.array([c.cutout for c in chosen], dtype=np.int64)
    keep = np.array([1 - c.decay / 100 for c in chosen], dtype=np.float64)
    weights = np.array([list(c.weights) for c in chosen], dtype=np.float64)
    return cutout, keep, weights, votes[:, 0].copy(), votes[:, 1].copy(), layer1, leader


def _growth_span(config: AtcConfig, first: int, last: int) -> tuple[float, int | None, int, int]:
    """The growth that bars first..last-1 need: (lambda, horizon, start, stop) after the cutout."""
    start = max(first - config.cutout, 0)
    stop = max(last - config.cutout, start + 1)
    if config.growth_horizon is not None:
        start = min(start, config.growth_horizon)
        stop = min(stop, config.growth_horizon + 1)
    return config.lambda_, config.growth_horizon, start, stop
