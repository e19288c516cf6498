"""Prices as whole ticks: the arithmetic of the tick codec, compiled by Numba, knowing nothing of files.

A row is one field of one symbol over a block's bars. Nearly all of its numbers come back, bit for bit, from
integers q in one of three forms:

    x = q·step / 10^decimals                      by division: multiplying by 10^-decimals is wrong for a fifth
    x = float64(float32(q·step / 10^decimals))    prices that came through float32
    the latter rounded to some decimals           and were printed from it

Those that do not are kept beside them, with their positions: as integers of more decimals where these give
them back, else bit for bit. A row that is better off without integers stays raw. Missing bars (NaN as NumPy
writes it) are a bitmap; NaN of other bits is a value as any other.

Open, high and low are written as differences to what they are near to, in the close's own ticks:

    close   to the close before           high   to max(open, close), upwards
    open    to the close before           low    to min(open, close), downwards

A missing close stands for the one before it there, a missing open for its bar's close. Where a value off the
ticks equals, in ticks, the one it is compared with, it is taken to equal it altogether, unless told otherwise.

`tick_forms`, `tick_writing` and `tick_reading` build on this.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from atc_backtest.errors import DataError

F64 = NDArray[np.float64]

ROW = np.dtype(
    [
        ("base", "<i8"),  # what a chain of integers begins at; the bits of a constant row
        ("step", "<i8"),
        ("n_present", "<u4"),
        ("n_off", "<u4"),  # values kept beside the integers
        ("places_bytes", "<u4"),  # of their positions
        ("spare", "<u4"),  # 0
        ("kind", "u1"),
        ("predictor", "u1"),
        ("width", "u1"),  # bytes an integer, 0 = all are zero
        ("zigzag", "u1"),
        ("decimals", "u1"),
        ("single", "u1"),
        ("presence", "u1"),
        ("off_decimals", "u1"),  # of values kept beside the integers, RAW_BITS = float64 as they are
    ]
)
"""What is said about a row: 40 bytes, little-endian."""

EMPTY, CONSTANT, TICKS, RAW = range(4)
PLAIN, DELTA, LINKED = range(3)
ALL, OWN, AS_CLOSE = range(3)
ALONE, CLOSE, OPEN, HIGH, LOW = range(5)
"""Kinds, predictors, presence of a row; roles of a field."""

DOUBLE, FLOAT32 = 0, 255
"""`single` of rows that did not come through float32, and that did; between them, decimals it was printed to."""

RAW_BITS = 255
MISSING = np.int64(0x7FF8_0000_0000_0000)
NO_INTEGER = np.int64(-(2**63))
LIMIT = 2.0**53
MOST_DECIMALS = 22
"""10^22 is the last power of ten that float64 holds exactly."""
POWERS = np.array([float(10**k) for k in range(MOST_DECIMALS + 1)])
WHOLE_POWERS = np.array([10**k for k in range(19)], dtype=np.int64)
NONE = 99

TILE = 1024


class Streams(NamedTuple):
    """What rows are made of: [field, capacity] while writing, one dimension while reading."""

    w1: Any
    """Integers of 1, 2, 4 and 8 bytes, unsigned."""
    w2: Any
    w4: Any
    w8: Any
    raw: Any
    """float64 of raw rows, present bars only."""
    maps: Any
    """Bitmaps of present bars, a byte for eight bars, the first in the lowest bit."""
    places: Any
    """Positions of values kept beside the integers: bytes."""
    off: Any
    """Those values: int64, what they are above their integer, in units of 10^-off_decimals."""
    bits: Any
    """Or float64 as they are."""


class Symbol(NamedTuple):
    """One symbol's rows while they are written or read: [field, bar]."""

    present: Any
    q: Any
    """Integers, at missing bars what stands for them."""
    n_kept: Any
    """[field] how many values are kept beside the integers; their positions, and they themselves."""
    kept_at: Any
    kept: Any


N_STREAMS = len(Streams._fields)
OF_WIDTH = np.array([0, 0, 1, 0, 2, 0, 0, 0, 3])
AT_RAW, AT_MAPS, AT_PLACES, AT_OFF, AT_BITS = range(4, 9)

part: Any = register_jitable(nogil=True, error_model="numpy")
"""Of what is compiled, into it. A division by zero is the caller's, so that loops vectorise."""


def round_to_bits(values: F64, bits: int) -> F64:
    """`values` rounded to `bits` significant bits, 1 to 52, half to even: a relative error of at most 2^-bits.

    Lossy on purpose, for volume: what is left compresses far better. NaN of any bits, infinities and both zeros stay
    as they are; what would round beyond the largest float64 stays too. Rounding twice is rounding once.
    """
    if not 1 <= bits <= 52:
        raise DataError(f"bits = {bits} is not allowed: 1 to 52 significant bits.")
    mantissa, exponent = np.frexp(values)
    scale = 2.0**bits
    with np.errstate(over="ignore"):
        rounded = np.ldexp(np.rint(mantissa * scale), exponent - bits)
    return np.where(np.isfinite(rounded) & (values != 0), rounded, values)


# One value


@part
def value_of(q, step, power, single, printed):
    """The number that integer q stands for; step, power and printed are float64."""
    x = np.float64(q) * step / power
    if single != DOUBLE:
        x = np.float64(np.float32(x))
        if single != FLOAT32:
            x = np.rint(x * printed) / printed
    return x


@part
def printed_power(single):
    return POWERS[single] if single <= MOST_DECIMALS else 1.0


@part
def same_bits(x, y):
    """Equal bits, where y is no NaN and no -0.0."""
    return x == y and (x != 0.0 or math.copysign(1.0, x) > 0.0)


@part
def decimals_of(x, single, most):
    """The fewest decimals that give x back, NONE if `most` do not."""
    for k in range(most + 1):
        y = np.rint(x * POWERS[k])
        if not abs(y) < LIMIT:
            return NONE
        if same_bits(x, value_of(y, 1.0, POWERS[k], single, printed_power(single))):
            return k
    return NONE


@part
def scale_of(row):
    """Step, power, form and printed power of a row, as `value_of` takes them."""
    return np.float64(row.step), POWERS[row.decimals], row.single, printed_power(row.single)


# What a row is compared with: the same when written and when read


@part
def references(role, before, close, opened, reference):
    """What a row's bars are compared with. `before`: the close of the bar before the first, or what stands for it.

    `opened` is the close's row where no open is linked.
    """
    if role == OPEN:
        for i in range(reference.size):
            reference[i] = before
            before = close[i]
    elif role == HIGH:
        for i in range(reference.size):
            reference[i] = max(close[i], opened[i])
    else:
        for i in range(reference.size):
            reference[i] = min(close[i], opened[i])


@part
def inherited(role, f, close, opened, row, symbol, stop, places, values):
    """What row f takes over from values off the ticks of close and open (their fields, -1 = none); how many."""
    q, present, n_kept, kept_at, kept = symbol.q, symbol.present, symbol.n_kept, symbol.kept_at, symbol.kept
    n = 0
    if role == OPEN:
        for i in range(n_kept[close]):
            t = kept_at[close, i]
            if t + 1 < stop and present[f, t + 1] and q[f, t + 1] == q[close, t]:
                places[n], values[n] = t + 1, kept[close, i]
                n += 1
        return n
    step, power, single, printed = scale_of(row)
    i = j = 0
    n_opened = n_kept[opened] if opened >= 0 else 0
    while i < n_kept[close] or j < n_opened:
        t = stop
        if i < n_kept[close]:
            t = kept_at[close, i]
        if j < n_opened:
            t = min(t, kept_at[opened, j])
        here = value_of(q[f, t], step, power, single, printed)
        found, best = False, here
        if present[close, t] and q[close, t] == q[f, t]:
            found = True
            if i < n_kept[close] and kept_at[close, i] == t:
                best = kept[close, i]
        if opened >= 0 and present[opened, t] and q[opened, t] == q[f, t]:
            other = here
            if j < n_opened and kept_at[opened, j] == t:
                other = kept[opened, j]
            if not found or (other > best if role == HIGH else other < best):
                best = other
            found = True
        if found and present[f, t] and not same_bits(best, here):
            places[n], values[n] = t, best
            n += 1
        if i < n_kept[close] and kept_at[close, i] == t:
            i += 1
        if j < n_opened and kept_at[opened, j] == t:
            j += 1
    return n


@part
def merge(n_inherited, in_at, inherited, n_off, off_at, off, kept_at, kept):
    """Values kept for a row: its own, and inherited ones where it has none of its own. How many."""
    i = j = n = 0
    while i < n_inherited or j < n_off:
        if j == n_off or (i < n_inherited and in_at[i] < off_at[j]):
            kept_at[n], kept[n] = in_at[i], inherited[i]
            i += 1
        else:
            i += i < n_inherited and in_at[i] == off_at[j]
            kept_at[n], kept[n] = off_at[j], off[j]
            j += 1
        n += 1
    return n
