"""THE algorithm: Adaptive Trend Classification, one function per paragraph of the specification.

Plain, slow and exact: every window is summed afresh without rounding error (`math.fsum`), and the
whole series is computed at once. Every kernel is held to what this returns: signals, layers and
equities bit for bit, averages within 2e-13.

Names: `x` the averaged source, `close` the prices, both of present bars only (no NaN), float64 [n];
`length` an average's L in bars; NaN where a value is undefined.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atc_backtest.config import AtcConfig
from atc_backtest.growth import growth

F64 = NDArray[np.float64]

BAND = 1e-12
FLOOR, CEILING = 0.25, 1e150


# Averages of x, length L


def window_sums(x: F64, length: int, weight: Callable[[int], float]) -> F64:
    """sum of weight(k) * x[t-k] over k = 0 .. length-1, from t = length-1; summed exactly."""
    sums = np.full(x.size, np.nan)
    weights = [weight(k) for k in range(length)]
    values = x.tolist()
    for t in range(length - 1, x.size):
        sums[t] = math.fsum(weights[k] * values[t - k] for k in range(length))
    return sums


def sma(x: F64, length: int) -> F64:
    """Mean of the last `length` values."""
    return window_sums(x, length, lambda k: 1.0) / length


def wma(x: F64, length: int) -> F64:
    """Linearly weighted mean: the newest value weighs `length`, the oldest 1."""
    return window_sums(x, length, lambda k: float(length - k)) / (length * (length + 1) / 2)


def ema(x: F64, length: int, profile: str) -> F64:
    """E <- E + alpha*(x - E). enhance: seeded with the SMA at t = L-1; pine: with x[0]."""
    start = 0 if profile == "pine" else length - 1
    values = np.full(x.size, np.nan)
    if x.size <= start:
        return values
    values[start] = x[0] if profile == "pine" else math.fsum(x[:length]) / length
    return _follow(values, x, start, length)


def dema(x: F64, length: int, profile: str) -> F64:
    """2*E1 - E2: E1 the EMA of x, E2 the EMA of E1 seeded with E1's first defined value."""
    first = ema(x, length, profile)
    second = np.full(x.size, np.nan)
    defined = np.flatnonzero(~np.isnan(first))
    if defined.size:
        start = int(defined[0])
        second[start] = first[start]
        second = _follow(second, first, start, length)
    values: F64 = 2 * first - second
    return values


def _follow(values: F64, x: F64, start: int, length: int) -> F64:
    alpha = 2.0 / (length + 1)
    for t in range(start + 1, x.size):
        values[t] = values[t - 1] + alpha * (x[t] - values[t - 1])
    return values


def hma(x: F64, length: int, profile: str) -> F64:
    """enhance: WMA_isqrt(L) of 2*WMA_{L//2} - WMA_L; pine: the SMA."""
    if profile == "pine":
        return sma(x, length)
    y = 2 * wma(x, length // 2) - wma(x, length)
    values = np.full(x.size, np.nan)
    values[length - 1 :] = wma(y[length - 1 :], math.isqrt(length))
    return values


def lsma(x: F64, length: int, profile: str) -> F64:
    """End point of the least-squares line through the last `length` values."""
    return 3 * wma(x, length) - 2 * sma(x, length)


def kama(x: F64, length: int, profile: str) -> F64:
    """Kaufman's adaptive average. enhance: x[0] before t = L; pine: undefined there, from 0."""
    values = np.full(x.size, np.nan)
    if profile == "enhance":
        values[:length] = x[:1]
    k = 0.0 if profile == "pine" else (x[0] if x.size else 0.0)
    for t in range(length, x.size):
        noise = math.fsum(abs(x[j] - x[j - 1]) for j in range(t - length + 1, t + 1))
        ratio = abs(x[t] - x[t - length]) / noise if noise > 0 else 0.0
        s = (ratio * (0.666 - 0.064) + 0.064) ** 2
        k = k + s * (x[t] - k)
        values[t] = k
    return values


AVERAGES: tuple[Callable[[F64, int, str], F64], ...] = (
    ema,
    hma,
    lambda x, length, profile: wma(x, length),
    dema,
    lsma,
    kama,
)
"""The six families in the order that sums run: ema, hma, wma, dema, lsma, kama."""


# Signal of one average


def crossing_signal(average: F64, close: F64) -> F64:
    """+1 from a bar at which the close rises above its average, -1 from one at which it falls below.

    A band of 1e-12 around the close counts as equal; an undefined average crosses nothing.
    """
    above = average < close * (1 - BAND)
    below = average > close * (1 + BAND)
    defined = ~np.isnan(average)
    signal = np.zeros(close.size)
    for t in range(1, close.size):
        signal[t] = signal[t - 1]
        if defined[t] and defined[t - 1]:
            if above[t] and not above[t - 1]:
                signal[t] = 1.0
            elif below[t] and not below[t - 1]:
                signal[t] = -1.0
    return signal


# Equity of a signal


def bar_factors(close: F64, config: AtcConfig) -> tuple[F64, F64, float]:
    """What a long, a short and a flat equity is multiplied with: d*(1+a), d*(1-a) [n], and d."""
    d = 1 - config.decay / 100
    a = np.zeros(close.size)
    g = growth(config.lambda_, config.growth_horizon, 0, max(close.size - config.cutout, 0))
    with np.errstate(over="ignore", invalid="ignore"):
        r = (close[1:] - close[:-1]) / close[:-1]
        later = slice(config.cutout + 1, None)
        a[later] = r[config.cutout :] * g[1:]
        return d * (1 + a), d * (1 - a), d


def equity(signal: F64, factors: tuple[F64, F64, float], cutout: int, start: float) -> F64:
    """`start` at bar `cutout`, then multiplied bar by bar by the sign of the signal one bar before."""
    up, down, flat = factors
    values = np.full(signal.size, np.nan)
    if cutout < signal.size:
        values[cutout] = start
    with np.errstate(over="ignore", invalid="ignore"):
        for t in range(cutout + 1, signal.size):
            factor = up[t] if signal[t - 1] > 0 else down[t] if signal[t - 1] < 0 else flat
            values[t] = limited(values[t - 1] * factor)
    return values


def limited(value: float) -> float:
    """Within [FLOOR, CEILING]; the comparisons are such that no NaN survives."""
    value = value if value > FLOOR else FLOOR
    return value if value < CEILING else CEILING


# Layers


def layer1(signals: F64, equities: F64) -> F64:
    """S of one family: [9, n] signals weighted by their equities, rounded to hundredths."""
    hundredths: F64 = np.rint(100 * (ordered_sum(signals * equities) / ordered_sum(equities)))
    return hundredths / 100


def layer2(layer1_signals: F64, equities: F64, config: AtcConfig) -> F64:
    """A: the votes of the six families [6, n], weighted by their equities."""
    pine = config.profile == "pine"
    high, low = (0.49, -0.49) if pine else (config.long_threshold, config.short_threshold)
    votes = np.where(layer1_signals > high, 1.0, np.where(layer1_signals < low, -1.0, 0.0))
    return ordered_sum(votes * equities) / ordered_sum(equities)


def ordered_sum(terms: F64) -> F64:
    """Over the first axis from first to last: the order is part of the result's bits."""
    total: F64 = terms[0].copy()
    for term in terms[1:]:
        total += term
    return total


# The whole


@dataclass(frozen=True)
class AtcResult:
    """Everything the specification computes, bar by bar; NaN where undefined or missing.

    `signal` A [n]; `layer1` S and `equity2` [6, n]; `average`, `sign` and `equity1` [6, 9, n].
    """

    signal: F64
    layer1: F64
    equity2: F64
    average: F64
    sign: F64
    equity1: F64


def atc(close: F64, config: AtcConfig, source: F64 | None = None) -> AtcResult:
    """ATC of one symbol's bars.

    `close`, `source` (what is averaged; default: close): float64 [n], NaN in `close` where the bar
    is missing; present values finite and > 0. Missing bars are no bars: they are taken out, and the
    result is spread back with NaN in their places.
    """
    present = ~np.isnan(close)
    bars = np.flatnonzero(present)
    result = _atc_of_bars(close[bars], config, (close if source is None else source)[bars])
    return AtcResult(*(_spread(values, bars, close.size) for values in vars(result).values()))


def _atc_of_bars(close: F64, config: AtcConfig, x: F64) -> AtcResult:
    n = close.size
    average, sign, equity1 = (np.full((6, 9, n), np.nan) for _ in range(3))
    s, equity2 = np.full((6, n), np.nan), np.full((6, n), np.nan)
    factors = bar_factors(close, config)
    for family, moving_average in enumerate(AVERAGES):
        for i, length in enumerate(config.family_lengths(family)):
            average[family, i] = moving_average(x, length, config.profile)
            sign[family, i] = crossing_signal(average[family, i], close)
            equity1[family, i] = equity(sign[family, i], factors, config.cutout, 1.0)
        s[family] = layer1(sign[family], equity1[family])
        weight = tuple(config.weights)[family]
        equity2[family] = equity(s[family], factors, config.cutout, weight)
    return AtcResult(layer2(s, equity2, config), s, equity2, average, sign, equity1)


def _spread(values: F64, bars: NDArray[np.intp], n: int) -> F64:
    """Bar results back to where their bars stood; the bar axis is the last."""
    out = np.full((*values.shape[:-1], n), np.nan)
    out[..., bars] = values
    return out
