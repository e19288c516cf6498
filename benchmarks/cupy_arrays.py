"""The yardstick on a GPU: ATC as it is written with arrays, cumulative sums and a loop over bars for what recurs.

`xp` is CuPy or NumPy: the same code. All symbols go side by side, [bars, .., symbols], so that a row is whole and
neighbouring threads read neighbouring prices; bars go in blocks, whose averages, sides, factors and sums are array
operations over all of them at once. What depends on the bar before (EMA, DEMA, KAMA, signals, equities) is a loop over
bars with operations over [averages, symbols]: a few launches a bar. `array_steps` does those with array operations
alone, `fused_steps` each with one elementwise kernel, as somebody would who looks for speed without writing the whole
as a kernel.

Enhance profile, no missing bars, cutout 0, several configurations that share lengths (a sweep). Window sums are
differences of cumulative sums (of prices from which the first is taken away, against cancellation): averages agree with
the specification to some 1e-11, not to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from atc_backtest.config import FAMILIES, AtcConfig
from atc_backtest.growth import growth

Array = Any
"""Of NumPy or CuPy."""
EMA, HMA, WMA, DEMA, LSMA, KAMA = range(len(FAMILIES))
NINE = 9
LOW, HIGH = 1 - 1e-12, 1 + 1e-12
FLOOR, CEILING = 0.25, 1e150
BLOCK_BYTES = 2 << 30
"""Of the largest array of a block."""


@dataclass(frozen=True)
class Steps:
    """What is done once a bar; `out` is a row that may be one of the others only where that is said."""

    follow: Callable[[Array, Array, Array, Array], object]
    """(out, before, x, alpha): out = before + alpha * (x - before)."""
    hold: Callable[[Array, Array], object]
    """(out, before): where `out` is 0, what was before."""
    grow: Callable[[Array, Array], object]
    """(out, before): out = before * out, limited."""


def array_steps(xp: Any) -> Steps:
    """With array operations alone: three launches, two, two."""

    def follow(out: Array, before: Array, x: Array, alpha: Array) -> None:
        xp.subtract(x, before, out=out)
        xp.multiply(alpha, out, out=out)
        xp.add(before, out, out=out)

    def hold(out: Array, before: Array) -> None:
        xp.copyto(out, before, where=out == 0)

    def grow(out: Array, before: Array) -> None:
        xp.multiply(before, out, out=out)
        xp.clip(out, FLOOR, CEILING, out=out)

    return Steps(follow, hold, grow)


def fused_steps(cupy: Any) -> Steps:
    """CuPy's alone: one launch each."""
    stepped = "out = before + alpha * (x - before)"
    follow = cupy.ElementwiseKernel("float64 before, float64 x, float64 alpha", "float64 out", stepped, "atc_follow")
    hold = cupy.ElementwiseKernel("int8 before", "int8 out", "if (out == 0) out = before", "atc_hold")
    limited = f"double v = before * out; v = v > {FLOOR} ? v : {FLOOR}; out = v < {CEILING} ? v : {CEILING}"
    grow = cupy.ElementwiseKernel("float64 before", "float64 out", limited, "atc_grow")
    return Steps(
        lambda out, before, x, alpha: follow(before, x, alpha, out),
        lambda out, before: hold(before, out),
        lambda out, before: grow(before, out),
    )


class Windows:
    """Sums over the last L of [n, symbols] for any L, from cumulative sums made once."""

    def __init__(self, xp: Any, x: Array) -> None:
        n = x.shape[0]
        self._xp, self._t = xp, xp.arange(1, n + 1, dtype=x.dtype)[:, None]
        self._plain, self._timed = self._summed(x), self._summed(self._t * x)
        self._noise = self._summed(xp.abs(xp.diff(x, axis=0, prepend=x[:1])))

    def _summed(self, values: Array) -> Array:
        xp = self._xp
        return xp.concatenate([xp.zeros_like(values[:1]), xp.cumsum(values, axis=0)])

    def _over(self, sums: Array, length: int, rows: slice) -> Array:
        """Rows whose window is not whole: NaN."""
        whole = max(rows.start, length - 1)
        out = self._xp.full((rows.stop - rows.start, sums.shape[1]), math.nan)
        if whole < rows.stop:
            out[whole - rows.start :] = (
                sums[whole + 1 : rows.stop + 1] - sums[whole + 1 - length : rows.stop + 1 - length]
            )
        return out

    def mean(self, length: int, rows: slice) -> Array:
        return self._over(self._plain, length, rows) / length

    def weighted(self, length: int, rows: slice) -> Array:
        """WMA: the newest weighs `length`, the oldest 1; bar j of a window that ends at t weighs j - (t - length)."""
        older = self._t[rows] - length
        sums = self._over(self._timed, length, rows) - older * self._over(self._plain, length, rows)
        return sums / (length * (length + 1) / 2)

    def noise(self, length: int, rows: slice) -> Array:
        return self._over(self._noise, length, rows)


class Averages:
    """The 54, block by block; the recursions' state lies here in between."""

    def __init__(self, xp: Any, steps: Steps, close: Array, config: AtcConfig) -> None:
        self._xp, self._steps = xp, steps
        self._lengths = [config.family_lengths(family) for family in range(len(FAMILIES))]
        self._x, self._first = close, close[0]
        self._windows = Windows(xp, close - close[0])
        symbols = close.shape[1]
        followed = [*self._lengths[EMA], *self._lengths[DEMA]]
        self._alpha = xp.asarray([[2.0 / (length + 1)] for length in followed])
        self._e = xp.full((2 * NINE, symbols), math.nan)  # EMA's and DEMA's first
        self._e2 = xp.full((NINE, symbols), math.nan)
        self._kama = xp.tile(close[0], (NINE, 1))

    def first_bars(self) -> Array:
        """[54, 1] the bar at which each average is first defined."""
        first = np.array(self._lengths) - 1
        first[HMA] += np.sqrt(np.array(self._lengths[HMA])).astype(int) - 1
        first[KAMA] = 0
        return self._xp.asarray(first.reshape(-1, 1))

    def block(self, rows: slice) -> Array:
        """[bars, 54, symbols], NaN where undefined."""
        n = rows.stop - rows.start
        out = self._xp.empty((n, len(FAMILIES) * NINE, self._x.shape[1]))
        for j in range(NINE):
            hma, wma, lsma = (self._lengths[family][j] for family in (HMA, WMA, LSMA))
            out[:, HMA * NINE + j] = self._first + self._hull(hma, rows)
            out[:, WMA * NINE + j] = self._first + self._windows.weighted(wma, rows)
            line = 3 * self._windows.weighted(lsma, rows) - 2 * self._windows.mean(lsma, rows)
            out[:, LSMA * NINE + j] = self._first + line
        self._recursions(rows, out)
        return out

    def _hull(self, length: int, rows: slice) -> Array:
        width = math.isqrt(length)
        early = slice(max(rows.start - width + 1, 0), rows.stop)
        y = 2 * self._windows.weighted(length // 2, early) - self._windows.weighted(length, early)
        missing = width - 1 - (rows.start - early.start)
        if missing:
            y = self._xp.concatenate([self._xp.full((missing, y.shape[1]), math.nan), y])
        n = rows.stop - rows.start
        total = sum((width - lag) * y[width - 1 - lag : width - 1 - lag + n] for lag in range(width))
        return total / (width * (width + 1) / 2)

    def _smoothing(self, rows: slice) -> Array:
        """[bars, 9, symbols] squares of KAMA's constants; 0 where it stays what it is."""
        xp, n = self._xp, rows.stop - rows.start
        out = xp.zeros((n, NINE, self._x.shape[1]))
        for j, length in enumerate(self._lengths[KAMA]):
            start = max(rows.start, length)
            if start >= rows.stop:
                continue
            noise = self._windows.noise(length, slice(start, rows.stop))
            move = xp.abs(self._x[start : rows.stop] - self._x[start - length : rows.stop - length])
            ratio = xp.where(noise > 0, move / xp.where(noise > 0, noise, 1.0), 0.0)
            out[start - rows.start :, j] = (ratio * (0.666 - 0.064) + 0.064) ** 2
        return out

    def _recursions(self, rows: slice, out: Array) -> None:
        xp, n, follow = self._xp, rows.stop - rows.start, self._steps.follow
        smoothing, seeds = self._smoothing(rows), self._seeds(rows)
        e, e2, kama = (xp.empty((n, count * NINE, out.shape[2])) for count in (2, 1, 1))
        before, before2, before_kama, second = self._e, self._e2, self._kama, self._alpha[NINE:]
        for i in range(n):
            x = self._x[rows.start + i]
            follow(e[i], before, x, self._alpha)
            follow(e2[i], before2, e[i, NINE:], second)
            follow(kama[i], before_kama, x, smoothing[i])
            for j, value in seeds.get(rows.start + i, ()):
                e[i, j] = value
                if j >= NINE:
                    e2[i, j - NINE] = value
            before, before2, before_kama = e[i], e2[i], kama[i]
        self._e, self._e2, self._kama = before.copy(), before2.copy(), before_kama.copy()
        out[:, EMA * NINE : (EMA + 1) * NINE] = e[:, :NINE]
        out[:, DEMA * NINE : (DEMA + 1) * NINE] = 2 * e[:, NINE:] - e2
        out[:, KAMA * NINE : (KAMA + 1) * NINE] = kama

    def _seeds(self, rows: slice) -> dict[int, list[tuple[int, Array]]]:
        """By bar: which of `_e` begin there, and as what."""
        found: dict[int, list[tuple[int, Array]]] = {}
        for j, length in enumerate([*self._lengths[EMA], *self._lengths[DEMA]]):
            if rows.start <= length - 1 < rows.stop:
                mean = self._windows.mean(length, slice(length - 1, length))[0]
                found.setdefault(length - 1, []).append((j, self._first + mean))
        return found


class Layers:
    """Both layers of several configurations, block by block: [bars, sets, .., symbols]."""

    def __init__(self, xp: Any, steps: Steps, close: Array, configs: Sequence[AtcConfig]) -> None:
        self._xp, self._steps = xp, steps
        n, symbols = close.shape
        sets = len(configs)
        self._returns = xp.zeros_like(close)
        self._returns[1:] = (close[1:] - close[:-1]) / close[:-1]
        self._growth = xp.asarray(np.stack([growth(c.lambda_, c.growth_horizon, 0, n) for c in configs], axis=1))
        self._keep = xp.asarray([[1 - c.decay / 100] for c in configs])
        self._bounds = (
            xp.asarray([[[c.long_threshold]] for c in configs]),
            xp.asarray([[[c.short_threshold]] for c in configs]),
        )
        self._weights = xp.asarray([[[w] for w in c.weights] for c in configs]) * xp.ones(symbols)
        self._equity1 = xp.ones((sets, len(FAMILIES) * NINE, symbols))
        self._equity2 = self._weights.copy()
        self._last = xp.zeros((1, sets, len(FAMILIES), symbols))

    def block(self, rows: slice, signs: Array) -> Array:
        """Final signals, [bars, sets, symbols]; `signs`: int8 [1 + bars, 54, symbols], the bar before first."""
        xp = self._xp
        gain = self._returns[rows, None] * self._growth[rows, :, None]
        factors = tuple((self._keep * (1 + side * gain))[:, :, None] for side in (1, -1, 0))
        equity = self._grown(rows, self._equity1, signs[:-1, None], factors)
        self._equity1 = equity[-1].copy()
        shape = (*equity.shape[:2], len(FAMILIES), NINE, equity.shape[3])
        total = equity.reshape(shape).sum(axis=3)
        equity *= signs[1:, None]
        layer1 = xp.rint(100 * (equity.reshape(shape).sum(axis=3) / total)) / 100
        del equity
        before = xp.concatenate([self._last, layer1[:-1]])
        self._last = layer1[-1:]
        equity2 = self._grown(rows, self._equity2, before, factors)
        self._equity2 = equity2[-1].copy()
        high, low = self._bounds
        votes = xp.where(layer1 > high, 1.0, xp.where(layer1 < low, -1.0, 0.0))
        return (votes * equity2).sum(axis=2) / equity2.sum(axis=2)

    def _grown(self, rows: slice, equity: Array, signs: Array, factors: tuple[Array, ...]) -> Array:
        """Equities of a block of bars; `signs`: those one bar before."""
        xp = self._xp
        up, down, flat = factors
        factor = xp.where(signs > 0, up, xp.where(signs < 0, down, flat))
        for i in range(rows.stop - rows.start):
            if rows.start + i == 0:
                factor[0] = equity
            else:
                self._steps.grow(factor[i], equity)
            equity = factor[i]
        return factor


def atc(
    close: Any, configs: Sequence[AtcConfig], xp: Any, steps: Steps | None = None, block: int | None = None
) -> Array:
    """Final signals, [sets, symbols, bars]; `close`: [symbols, bars] of `xp`, no NaN. `block`: bars at a time."""
    steps = array_steps(xp) if steps is None else steps
    prices = xp.ascontiguousarray(close.T)
    n, symbols = prices.shape
    averages, layers = Averages(xp, steps, prices, configs[0]), Layers(xp, steps, prices, configs)
    rows_of = block or max(1, min(n, BLOCK_BYTES // (8 * len(FAMILIES) * NINE * symbols * len(configs))))
    first = averages.first_bars()
    out = xp.empty((n, len(configs), symbols))
    side_before = xp.zeros((1, first.shape[0], symbols), dtype=np.int8)
    sign_before = side_before
    for start in range(0, n, rows_of):
        rows = slice(start, min(start + rows_of, n))
        average, now = averages.block(rows), prices[rows, None]
        side = (average < now * LOW).astype(np.int8) - (average > now * HIGH).astype(np.int8)
        del average
        before = xp.concatenate([side_before, side[:-1]])
        crosses = (side != before) & (xp.arange(rows.start, rows.stop)[:, None, None] > first)
        side_before = side[-1:].copy()
        signs = xp.concatenate([sign_before, side * crosses])
        for i in range(1, signs.shape[0]):
            steps.hold(signs[i], signs[i - 1])
        sign_before = signs[-1:].copy()
        out[rows] = layers.block(rows, signs)
    return xp.ascontiguousarray(out.transpose(1, 2, 0))
