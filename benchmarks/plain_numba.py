"""The yardstick: ATC as a good engineer writes it first, a Numba loop and an array per average.

Sliding sums, one pass for each average, one for its signal, one for its equity, then the layers. It
follows the specification (enhance profile, no missing bars) and is compared with the kernels before
it is timed.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from atc_backtest.config import AtcConfig
from atc_backtest.growth import growth

F64 = NDArray[np.float64]


@njit
def ema(x, length):
    out = np.full(x.size, np.nan)
    alpha = 2.0 / (length + 1)
    out[length - 1] = x[:length].mean()
    for t in range(length, x.size):
        out[t] = out[t - 1] + alpha * (x[t] - out[t - 1])
    return out


@njit
def dema(x, length):
    first = ema(x, length)
    second = np.full(x.size, np.nan)
    alpha = 2.0 / (length + 1)
    second[length - 1] = first[length - 1]
    for t in range(length, x.size):
        second[t] = second[t - 1] + alpha * (first[t] - second[t - 1])
    return 2.0 * first - second


@njit
def sma(x, length):
    out = np.full(x.size, np.nan)
    total = 0.0
    for t in range(x.size):
        total += x[t]
        if t >= length:
            total -= x[t - length]
        if t >= length - 1:
            out[t] = total / length
    return out


@njit
def wma(x, length):
    out = np.full(x.size, np.nan)
    total = 0.0
    weighted = 0.0
    for t in range(x.size):
        if t < length:
            weighted += (t + 1) * x[t]
            total += x[t]
        else:
            weighted += length * x[t] - total
            total += x[t] - x[t - length]
        if t >= length - 1:
            out[t] = weighted / (length * (length + 1) / 2)
    return out


@njit
def hma(x, length):
    y = 2.0 * wma(x, length // 2) - wma(x, length)
    out = np.full(x.size, np.nan)
    out[length - 1 :] = wma(y[length - 1 :], int(math.sqrt(length)))
    return out


@njit
def lsma(x, length):
    return 3.0 * wma(x, length) - 2.0 * sma(x, length)


@njit
def kama(x, length):
    out = np.full(x.size, x[0])
    noise = 0.0
    for t in range(1, x.size):
        noise += abs(x[t] - x[t - 1])
        if t > length:
            noise -= abs(x[t - length] - x[t - length - 1])
        if t >= length:
            ratio = abs(x[t] - x[t - length]) / noise if noise > 0 else 0.0
            s = (ratio * (0.666 - 0.064) + 0.064) ** 2
            out[t] = out[t - 1] + s * (x[t] - out[t - 1])
    return out


@njit
def crossing(average, close):
    out = np.zeros(close.size)
    for t in range(1, close.size):
        out[t] = out[t - 1]
        if np.isnan(average[t - 1]):
            continue
        low, high = 1 - 1e-12, 1 + 1e-12
        if average[t] < close[t] * low and not average[t - 1] < close[t - 1] * low:
            out[t] = 1.0
        elif average[t] > close[t] * high and not average[t - 1] > close[t - 1] * high:
            out[t] = -1.0
    return out


@njit
def equity(signal, r, d, start):
    out = np.empty(signal.size)
    out[0] = start
    for t in range(1, signal.size):
        a = r[t] if signal[t - 1] > 0 else -r[t] if signal[t - 1] < 0 else 0.0
        out[t] = min(max(out[t - 1] * (d * (1 + a)), 0.25), 1e150)
    return out


@njit
def family(averages, close, r, d):
    top = np.zeros(close.size)
    bottom = np.zeros(close.size)
    for i in range(9):
        s = crossing(averages[i], close)
        e = equity(s, r, d, 1.0)
        top += s * e
        bottom += e
    return np.rint(100 * (top / bottom)) / 100


@njit
def final(s, close, r, d, high, low):
    top = np.zeros(close.size)
    bottom = np.zeros(close.size)
    for f in range(6):
        e = equity(s[f], r, d, 1.0)
        for t in range(close.size):
            if s[f, t] > high:
                top[t] += e[t]
            elif s[f, t] < low:
                top[t] -= e[t]
        bottom += e
    return top / bottom


FAMILIES = (ema, hma, wma, dema, lsma, kama)


def atc(close: F64, config: AtcConfig) -> F64:
    """The final signal of one series; enhance profile, cutout 0, default weights."""
    g = growth(config.lambda_, config.growth_horizon, 0, close.size)
    r = np.zeros(close.size)
    r[1:] = (close[1:] - close[:-1]) / close[:-1] * g[1:]
    d = 1 - config.decay / 100
    layers = np.empty((6, close.size))
    for f, average in enumerate(FAMILIES):
        averages = np.empty((9, close.size))
        for i, length in enumerate(config.family_lengths(f)):
            averages[i] = average(close, length)
        layers[f] = family(averages, close, r, d)
    return final(layers, close, r, d, config.long_threshold, config.short_threshold)
