"""The growth table g, the one place of the specification where libraries would differ.

`exp` is not the same function everywhere: libm's and NumPy's differ in the last bit of 5 % of the
entries, and NumPy's differs between processors. So g is computed here, once, on the host, in
double-double arithmetic from additions, multiplications and divisions only, and handed to every
backend: the same bits on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atc_backtest import jit

F64 = NDArray[np.float64]
Pair = tuple[Any, Any]

LN2_HIGH = float.fromhex("0x1.62e42fefa2000p-1")  # 40 bits, so that n * LN2_HIGH is exact
LN2_MID = float.fromhex("0x1.9ef35793c6000p-41")  # the next 40
LN2_LOW = float.fromhex("0x1.673007e5ed5e8p-81")
HALVINGS = 8
TERMS = 10
LARGEST = 1e300
"""g stops here: with a growth that never stops, exp would overflow after 35 million bars, and an
infinite growth times a return of 0 is not a number."""

SPAN, SPANS = 4096, 1024
"""Entries computed at a time, and how many times that many are kept: 32 MiB."""


def growth(lambda_: float, horizon: int | None, start: int, stop: int) -> F64:
    """g[k] = exp(lambda_/1000 * min(k, horizon)) for k = start .. stop-1 bars after `cutout`.

    float64 [stop - start], at most `LARGEST`. `horizon` None: growth never stops.
    """
    k = np.arange(start, stop) if horizon is None else np.minimum(np.arange(start, stop), horizon)
    if k.size == 0:
        return np.empty(0)
    first, last = int(k[0]) // SPAN, int(k[-1]) // SPAN
    spans = [_span(lambda_, number) for number in range(first, last + 1)]
    return np.concatenate(spans)[k - first * SPAN]


@lru_cache(maxsize=SPANS)
def _span(lambda_: float, number: int) -> F64:
    """exp(lambda_/1000 * k) for the `SPAN` k from number * SPAN on."""
    made = exp(lambda_ / 1000 * np.arange(number * SPAN, (number + 1) * SPAN, dtype=np.float64))
    made.flags.writeable = False
    return made


def exp(x: F64) -> F64:
    """Rounded once from a double-double result, at most `LARGEST`: x = n*ln 2 + 256*r, Taylor, 8 squarings."""
    limit = np.log(LARGEST)
    x = np.clip(x, -limit, limit)
    n = np.rint(x / LN2_HIGH)
    high, low = _two_sum(x - n * LN2_HIGH, -(n * LN2_MID))
    high, low = _two_sum(high, low - n * LN2_LOW)
    result = np.empty_like(x)
    _compiled()(high / 2**HALVINGS, low / 2**HALVINGS, np.empty_like(x), result)
    return np.minimum(np.ldexp(result, n.astype(np.int64)), LARGEST)


@cache
def _compiled() -> Callable[[F64, F64, F64, F64], None]:
    import numba
    from numba.extending import register_jitable

    for function in (_two_sum, _two_product, _multiply, _divide):
        register_jitable(function)
    return jit.compiled(raise_to, [numba.void(*(numba.float64[::1],) * 4)], allocates=False)


def raise_to(r_high: F64, r_low: F64, low: F64, high: F64) -> None:
    """`high` becomes exp(256 * (r_high + r_low)), rounded once; `low` is room. Small loops over all, for vectors."""
    high[:] = 1.0
    low[:] = 0.0
    for k in range(TERMS, 0, -1):  # Horner: 1 + r/1*(1 + r/2*(1 + ...))
        for i in range(high.size):
            product = _divide(_multiply((high[i], low[i]), (r_high[i], r_low[i])), float(k))
            head, tail = _two_sum(1.0, product[0])
            high[i], low[i] = _two_sum(head, tail + product[1])
    for _ in range(HALVINGS):
        for i in range(high.size):
            high[i], low[i] = _multiply((high[i], low[i]), (high[i], low[i]))
    for i in range(high.size):
        high[i] = high[i] + low[i]


def _two_sum(a: Any, b: Any) -> Pair:
    total = a + b
    back = total - a
    return total, (a - (total - back)) + (b - back)


def _two_product(a: Any, b: Any) -> Pair:
    a_scaled, b_scaled = a * 134217729.0, b * 134217729.0  # 2**27 + 1
    ah, bh = a_scaled - (a_scaled - a), b_scaled - (b_scaled - b)
    al, bl = a - ah, b - bh
    product = a * b
    return product, ((ah * bh - product) + ah * bl + al * bh) + al * bl


def _multiply(a: Pair, b: Pair) -> Pair:
    product, error = _two_product(a[0], b[0])
    return _two_sum(product, error + (a[0] * b[1] + a[1] * b[0]))


def _divide(a: Pair, divisor: float) -> Pair:
    quotient = a[0] / divisor
    product, error = _two_product(quotient, divisor)
    return _two_sum(quotient, ((a[0] - product) - error + a[1]) / divisor)
