"""Rows of prices into streams of small integers: the writing half of the tick codec, compiled by Numba."""

from __future__ import annotations

import numpy as np

from atc_backtest.stores.tick_forms import choose_forms, prefers_delta, take_steps
from atc_backtest.stores.ticks import (
    ALONE,
    AS_CLOSE,
    AT_BITS,
    AT_MAPS,
    AT_OFF,
    AT_PLACES,
    AT_RAW,
    CLOSE,
    CONSTANT,
    DOUBLE,
    LIMIT,
    LINKED,
    LOW,
    MISSING,
    NO_INTEGER,
    NONE,
    OF_WIDTH,
    OPEN,
    OWN,
    PLAIN,
    POWERS,
    RAW,
    RAW_BITS,
    TICKS,
    WHOLE_POWERS,
    Symbol,
    decimals_of,
    inherited,
    merge,
    part,
    references,
    same_bits,
)


@part
def encode_rows(block, roles, narrowest, raw_only, table, streams, used):
    """Rows of `block`, float64 [field, symbol, bar], into `table`, ROW [field, symbol], and `streams`.

    `roles` says what each field is, `narrowest` the least width of integers that are not all zero; `raw_only`
    makes no integers at all. `used` [field, N_STREAMS], zero at first, counts what each stream holds.
    """
    n_fields, n_rows, n = block.shape
    close = opened = -1
    for f in range(n_fields):
        close = f if roles[f] == CLOSE else close
        opened = f if roles[f] == OPEN else opened
    present, off = np.empty((n_fields, n), np.uint8), np.empty((n_fields, n), np.uint8)
    q, residual, n_present = np.empty((n_fields, n), np.int64), np.empty(n, np.int64), np.empty(n_fields, np.int64)
    kept_at, kept, n_kept = np.empty((n_fields, n), np.int64), np.empty((n_fields, n)), np.empty(n_fields, np.int64)
    found_at, found, off_at, kept_off = np.empty(n, np.int64), np.empty(n), np.empty(n, np.int64), np.empty(n)
    symbol = Symbol(present, q, n_kept, kept_at, kept)
    for s in range(n_rows):
        for f in range(n_fields):
            n_present[f] = _find_present(block[f, s], present[f])
            table[f, s].n_present = n_present[f]
        choose_forms(block, s, roles, close, raw_only, table, present, n_present, q, off)
        take_steps(table[:, s], close, present, q, off)
        open_here = opened if opened >= 0 and table[opened, s].predictor == LINKED else -1
        for f in range(n_fields):
            row, n_kept[f], n_found = table[f, s], 0, 0
            if 0 < row.n_present < n:
                _write_presence(f, row, roles[f], close, present, streams.maps[f], used[f])
            if row.kind == RAW:
                _write_raw(block[f, s], present[f], row, streams.raw[f], used[f])
            if row.kind != TICKS:
                continue
            if roles[f] == ALONE and not prefers_delta(q[f], present[f], row.n_present):
                row.predictor = PLAIN
            second = q[open_here if open_here >= 0 else close]
            n_written = _residuals(row, roles[f], table[close, s].base, q[close], second, present[f], q[f], residual)
            _write_integers(residual, n_written, row, narrowest, streams, f, used[f])
            if row.predictor == LINKED:
                n_found = inherited(roles[f], f, close, open_here, row, symbol, n, found_at, found)
            n_off = _find_off(block[f, s], off[f], n_found, found_at, found, off_at, kept_off)
            _write_off(row, n_off, off_at, kept_off, q[f], streams, f, used[f])
            n_kept[f] = merge(n_found, found_at, found, n_off, off_at, kept_off, kept_at[f], kept[f])


@part
def _find_present(x, present):
    bits, n = x.view(np.int64), 0
    for t in range(x.size):
        present[t] = bits[t] != MISSING
        n += present[t]
    return n


@part
def _write_presence(f, row, role, close, present, maps, used):
    at, n, same = used[AT_MAPS], present.shape[1], role > CLOSE
    for t in range(n):
        same &= present[f, t] == present[close, t]
    row.presence = AS_CLOSE if same else OWN
    if same:
        return
    for t in range(0, n, 8):
        byte = 0
        for i in range(min(8, n - t)):
            byte |= present[f, t + i] << i
        maps[at + (t >> 3)] = byte
    used[AT_MAPS] = at + ((n + 7) >> 3)


@part
def _write_raw(x, present, row, raw, used):
    at = n = used[AT_RAW]
    bits, same, first = x.view(np.int64), True, np.int64(0)
    for t in range(x.size):
        if present[t]:
            first = bits[t] if n == at else first
            same &= bits[t] == first
            raw[n] = x[t]
            n += 1
    if same:
        row.kind, row.base = CONSTANT, first
    else:
        used[AT_RAW] = n


@part
def _residuals(row, role, close_base, close, opened, present, q, residual):
    """What is written of a row's integers: `residual` of present bars, how many; q gets an integer at every bar."""
    n, count = q.size, 0
    if row.predictor == LINKED:
        reference = np.empty(n, np.int64)
        references(role, close_base, close, opened, reference)
        for t in range(n):
            if not present[t]:
                q[t] = close[t]
                continue
            if q[t] == NO_INTEGER:
                q[t] = reference[t]
            residual[count] = reference[t] - q[t] if role == LOW else q[t] - reference[t]
            count += 1
        return count
    first, lowest = np.int64(0), np.int64(2**62)
    for t in range(n - 1, -1, -1):
        if present[t] and q[t] != NO_INTEGER:
            first, lowest = q[t], min(lowest, q[t])
    row.base = min(first, lowest) if row.predictor == PLAIN else first
    before = first
    for t in range(n):
        if not present[t] or q[t] == NO_INTEGER:
            q[t] = before
        if present[t]:
            residual[count] = q[t] - (row.base if row.predictor == PLAIN else before)
            count += 1
        before = q[t]
    return count


@part
def _write_integers(residual, count, row, narrowest, streams, f, used):
    """Residuals as unsigned numbers of the narrowest width that holds all of them."""
    low = high = np.int64(0)
    for i in range(count):
        low, high = min(low, residual[i]), max(high, residual[i])
    row.zigzag = low < 0
    if low < 0:
        high = max(2 * high, -2 * low - 1)
        for i in range(count):
            residual[i] = (residual[i] << 1) ^ (residual[i] >> 63)
    width = 0 if high == 0 else 1 if high < 2**8 else 2 if high < 2**16 else 4 if high < 2**32 else 8
    row.width = max(width, narrowest) if width else 0
    at = used[OF_WIDTH[row.width]]
    if row.width == 1:
        for i in range(count):
            streams.w1[f, at + i] = residual[i]
    elif row.width == 2:
        for i in range(count):
            streams.w2[f, at + i] = residual[i]
    elif row.width == 4:
        for i in range(count):
            streams.w4[f, at + i] = residual[i]
    elif row.width == 8:
        for i in range(count):
            streams.w8[f, at + i] = residual[i]
    if row.width:
        used[OF_WIDTH[row.width]] = at + count


@part
def _find_off(x, off, n_inherited, in_at, inherited, off_at, values):
    """Values that neither integers nor inheritance give back, and their positions; how many."""
    bits, found = x.view(np.int64), inherited.view(np.int64)
    i = n = 0
    for t in range(x.size):
        if i < n_inherited and in_at[i] == t:
            keep = found[i] != bits[t]
            i += 1
        else:
            keep = off[t] != 0
        if keep:
            off_at[n], values[n] = t, x[t]
            n += 1
    return n


@part
def _off_decimals(values, n, decimals):
    """Decimals that give back all of the first n values, RAW_BITS where none do."""
    most = decimals
    for i in range(n):
        k = decimals_of(values[i], DOUBLE, WHOLE_POWERS.size - 1)
        if k == NONE:
            return RAW_BITS
        most = max(most, k)
    for i in range(n):
        y = np.rint(values[i] * POWERS[most])
        if not (abs(y) < LIMIT and same_bits(values[i], y / POWERS[most])):
            return RAW_BITS
    return most


@part
def _write_off(row, n, off_at, values, q, streams, f, used):
    """Values beside the integers: gaps between their positions as LEB128, then what they are."""
    row.n_off = n
    before, begin = -1, used[AT_PLACES]
    at = begin
    for i in range(n):
        gap = off_at[i] - before - 1
        before = off_at[i]
        while gap >= 128:
            streams.places[f, at] = (gap & 127) | 128
            gap >>= 7
            at += 1
        streams.places[f, at] = gap
        at += 1
    used[AT_PLACES], row.places_bytes = at, at - begin
    row.off_decimals = _off_decimals(values, n, row.decimals)
    if row.off_decimals == RAW_BITS:
        for i in range(n):
            streams.bits[f, used[AT_BITS] + i] = values[i]
        used[AT_BITS] += n
        return
    unit = row.step * WHOLE_POWERS[row.off_decimals - row.decimals]
    for i in range(n):
        whole = np.int64(np.rint(values[i] * POWERS[row.off_decimals]))
        above = whole - q[off_at[i]] * unit
        streams.off[f, used[AT_OFF] + i] = (above << 1) ^ (above >> 63)
    used[AT_OFF] += n
