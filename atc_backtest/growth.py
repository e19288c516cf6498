"""The growth table g, the one place of the specification where libraries would differ.

`exp` is not the same function everywhere: libm's and NumPy's differ in the last bit of 5 % of the
entries, and NumPy's differs between processors. So g is computed here, once, on the host, in
double-double arithmetic from additions, multiplications and divisions only, and handed to every
backend: the same bits on every machine.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

LN2_HIGH = float.fromhex("0x1.62e42fefa2000p-1")  # 40 bits, so that n * LN2_HIGH is exact
LN2_MID = float.fromhex("0x1.9ef35793c6000p-41")  # the next 40
LN2_LOW = float.fromhex("0x1.673007e5ed5e8p-81")
HALVINGS = 8
TERMS = 10
LARGEST = 1e300
"""g stops here: with a growth that never stops, exp would overflow after 35 million bars, and an
infinite growth times a return of 0 is not a number."""


def growth(lambda_: float, horizon: int | None, start: int, stop: int) -> F64:
    """g[k] = exp(lambda_/1000 * min(k, horizon)) for k = start .. stop-1 bars after `cutout`.

    float64 [stop - start], at most `LARGEST`. `horizon` None: growth never stops.
    """
    if horizon is not None and horizon <= 10**6:
        k = np.minimum(np.arange(start, stop), horizon)
        return _table(lambda_, horizon)[k] if k.size else np.empty(0)
    k = np.arange(start, stop) if horizon is None else np.minimum(np.arange(start, stop), horizon)
    return _exp(lambda_ / 1000 * k.astype(np.float64))


@lru_cache(maxsize=64)
def _table(lambda_: float, horizon: int) -> F64:
    table = _exp(lambda_ / 1000 * np.arange(horizon + 1, dtype=np.float64))
    table.flags.writeable = False
    return table


def _exp(x: F64) -> F64:
    """exp, rounded once from a double-double result: x = n*ln 2 + 256*r, Taylor, 8 squarings."""
    limit = np.log(LARGEST)
    x = np.clip(x, -limit, limit)
    n = np.rint(x / LN2_HIGH)
    high, low = _two_sum(x - n * LN2_HIGH, -(n * LN2_MID))
    high, low = _two_sum(high, low - n * LN2_LOW)
    r = (high / 2**HALVINGS, low / 2**HALVINGS)
    total = (np.ones_like(x), np.zeros_like(x))
    for k in range(TERMS, 0, -1):  # Horner: 1 + r/1*(1 + r/2*(1 + ...))
        product = _divide(_multiply(total, r), float(k))
        head, tail = _two_sum(np.ones_like(x), product[0])
        total = _two_sum(head, tail + product[1])
    for _ in range(HALVINGS):
        total = _multiply(total, total)
    return np.minimum(np.ldexp(total[0] + total[1], n.astype(np.int64)), LARGEST)


Pair = tuple[F64, F64]


def _two_sum(a: F64, b: F64) -> Pair:
    total = a + b
    back = total - a
    return total, (a - (total - back)) + (b - back)


def _two_product(a: F64, b: F64) -> Pair:
    (ah, al), (bh, bl) = _split(a), _split(b)
    product = a * b
    return product, ((ah * bh - product) + ah * bl + al * bh) + al * bl


def _split(a: F64) -> Pair:
    scaled = a * 134217729.0  # 2**27 + 1
    high = scaled - (scaled - a)
    return high, a - high


def _multiply(a: Pair, b: Pair) -> Pair:
    product, error = _two_product(a[0], b[0])
    return _two_sum(product, error + (a[0] * b[1] + a[1] * b[0]))


def _divide(a: Pair, divisor: float) -> Pair:
    quotient = a[0] / divisor
    product, error = _two_product(quotient, np.full_like(quotient, divisor))
    return _two_sum(quotient, ((a[0] - product) - error + a[1]) / divisor)
