"""How a row becomes integers: decimals, float32, steps, chosen by what they would cost; compiled by Numba."""

from __future__ import annotations

import math

import numpy as np

from atc_backtest.stores.ticks import (
    ALONE,
    CLOSE,
    DELTA,
    DOUBLE,
    EMPTY,
    FLOAT32,
    LIMIT,
    LINKED,
    MOST_DECIMALS,
    NO_INTEGER,
    POWERS,
    RAW,
    TICKS,
    decimals_of,
    part,
    printed_power,
    same_bits,
    value_of,
)

FORMS = np.array([DOUBLE, FLOAT32, 4, 5, 6, 7, 8])
SAMPLE = 256
BITS_A_DECIMAL = math.log2(10)
BITS_OFF = 40
"""About what a value kept beside the integers costs."""


@part
def _survey(x, present, n_present, single, most, sample, counts):
    """Adds to counts[k] how many of a sample need k decimals; those that no k gives back to counts[-1]."""
    every, seen = max(n_present // sample, 1), 0
    for t in range(x.size):
        if present[t]:
            if seen % every == 0:
                k = decimals_of(x[t], single, most)
                counts[min(k, counts.size - 1)] += 1
            seen += 1


@part
def _cheapest(counts):
    """(bits a value, decimals): fewer decimals leave more values to be kept beside the integers."""
    n = counts.sum()
    best, decimals, on = math.inf, 0, 0
    for k in range(counts.size - 1):
        on += counts[k]
        bits = (on * k * BITS_A_DECIMAL + (n - on) * BITS_OFF) / max(n, 1)
        if counts[k] and bits < best:
            best, decimals = bits, k
    return best, decimals


@part
def _choose(block, s, fields, present, n_present):
    """(decimals, single) for some fields of symbol s together; float32 only where decimals alone are dear."""
    best, decimals, single = math.inf, 0, DOUBLE
    for form in FORMS:
        if form != DOUBLE and best <= 15.0:
            break
        counts = np.zeros(MOST_DECIMALS + 2, np.int64)
        most, sample = (MOST_DECIMALS, SAMPLE) if form == DOUBLE else (6, SAMPLE // 4)
        for f in fields:
            _survey(block[f, s], present[f], n_present[f], form, most, sample, counts)
        bits, k = _cheapest(counts)
        if bits < 0.8 * best:
            best, decimals, single = bits, k, form
    return decimals, single


@part
def prefers_delta(q, present, n_present):
    """Whether differences of neighbours are shorter than the numbers above their smallest, by a sample."""
    lowest = np.int64(2**62)
    for t in range(q.size):
        if present[t] and q[t] != NO_INTEGER:
            lowest = min(lowest, q[t])
    every, seen, before = max(n_present // (4 * SAMPLE), 1), 0, lowest
    plain = delta = 0.0
    for t in range(q.size):
        if present[t] and q[t] != NO_INTEGER:
            if seen % every == 0:
                plain += math.log2(1.0 + (q[t] - lowest))
                delta += math.log2(1.0 + 2.0 * abs(q[t] - before))
            before = q[t]
            seen += 1
    return delta < plain


@part
def _quantise(x, present, decimals, single, q, off):
    """q[t] the nearest integer or NO_INTEGER, off[t] = 1 where it does not give x[t] back; how many of them."""
    power, printed, n_off = POWERS[decimals], printed_power(single), 0
    for t in range(x.size):
        y = np.rint(x[t] * power)
        fits = abs(y) < LIMIT
        y = y if fits else 0.0
        on = fits and same_bits(x[t], value_of(y, 1.0, power, single, printed))
        off[t] = present[t] & (not on)
        n_off += off[t]
        q[t] = np.int64(y) if fits else NO_INTEGER
    return n_off


@part
def _common_step(q, present, off, step):
    """The greatest common divisor of `step` and every integer that gives its value back; 0 divides by nothing."""
    for t in range(q.size):
        if present[t] and not off[t]:
            a, b = abs(q[t]), step
            while b:
                a, b = b, a % b
            step = a
            if step == 1:
                break
    return step


@part
def choose_forms(block, s, roles, close, raw_only, table, present, n_present, q, off):
    """Kind, form and predictor of each field of symbol s; its nearest integers, and where these are not enough.

    Prices share a form; one that is off its ticks too often tries again by itself.
    """
    fields = np.arange(roles.size)
    group, shared, shared_single = fields[roles != ALONE], -1, DOUBLE
    for f in fields:
        row, n, n_off = table[f, s], n_present[f], 0
        row.kind = RAW if n else EMPTY
        if n == 0 or raw_only:
            continue
        alone = roles[f] == ALONE
        while True:
            if not alone and shared >= 0:
                decimals, single = shared, shared_single
            else:
                decimals, single = _choose(block, s, fields[f : f + 1] if alone else group, present, n_present)
            if not alone:
                shared, shared_single = decimals, single
            row.decimals, row.single = decimals, single
            n_off = _quantise(block[f, s], present[f], decimals, single, q[f], off[f])
            if alone or n_off * 10 <= n:
                break
            alone = True
        if n_off * 4 > n:
            continue
        row.kind, row.predictor = TICKS, DELTA
        if roles[f] > CLOSE:
            by = table[close, s]
            if by.kind == TICKS and by.decimals == row.decimals and by.single == row.single:
                row.predictor = LINKED


@part
def take_steps(rows, close, present, q, off):
    """Divides integers by what divides all of them: together where rows are linked."""
    together = np.int64(0)
    for f in range(rows.size):
        if rows[f].kind == TICKS and (f == close or rows[f].predictor == LINKED):
            together = _common_step(q[f], present[f], off[f], together)
    for f in range(rows.size):
        if rows[f].kind != TICKS:
            continue
        step = together
        if f != close and rows[f].predictor != LINKED:
            step = _common_step(q[f], present[f], off[f], np.int64(0))
        rows[f].step = max(step, 1)
        if step > 1:
            for t in range(q.shape[1]):
                if q[f, t] != NO_INTEGER:
                    q[f, t] = (q[f, t] + (step >> 1)) // step
