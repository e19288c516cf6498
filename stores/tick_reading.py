"""Streams of small integers back into rows of prices: the reading half of the tick codec, compiled by Numba."""

from __future__ import annotations

import numpy as np

from atc_backtest.stores.ticks import (
    ALL,
    AS_CLOSE,
    AT_BITS,
    AT_MAPS,
    AT_OFF,
    AT_PLACES,
    AT_RAW,
    CLOSE,
    DELTA,
    DOUBLE,
    EMPTY,
    FLOAT32,
    LINKED,
    LOW,
    MOST_DECIMALS,
    OF_WIDTH,
    OPEN,
    OWN,
    PLAIN,
    POWERS,
    RAW,
    RAW_BITS,
    TICKS,
    TILE,
    WHOLE_POWERS,
    Symbol,
    inherited,
    merge,
    part,
    references,
    scale_of,
    value_of,
)


@part
def locate(rows, n, at, used):
    """Where each row of one field begins in the streams, `at` [row, 4]: its numbers, bitmap, positions, kept values.

    `used` [N_STREAMS] counts on from what it holds. False where the table contradicts itself.
    """
    for s in range(rows.size):
        row = rows[s]
        if (
            row.kind > RAW
            or row.predictor > LINKED
            or row.decimals > MOST_DECIMALS
            or (row.single > MOST_DECIMALS and row.single != FLOAT32)
            or row.presence > AS_CLOSE
            or row.n_present > n
            or row.n_off > row.n_present
            or (row.kind == EMPTY) != (row.n_present == 0)
            or (row.presence == ALL and 0 < row.n_present < n)
        ):
            return False
        at[s, 0], at[s, 1], at[s, 2], at[s, 3] = -1, used[AT_MAPS], used[AT_PLACES], used[AT_OFF]
        if row.presence == OWN:
            used[AT_MAPS] += (n + 7) >> 3
        if row.kind == RAW:
            at[s, 0] = used[AT_RAW]
            used[AT_RAW] += row.n_present
        if row.kind != TICKS:
            continue
        if row.width > 8 or (row.width and row.width & (row.width - 1)):
            return False
        if row.width:
            at[s, 0] = used[OF_WIDTH[row.width]]
            used[OF_WIDTH[row.width]] += row.n_present
        used[AT_PLACES] += row.places_bytes
        if row.off_decimals == RAW_BITS:
            at[s, 3] = used[AT_BITS]
            used[AT_BITS] += row.n_off
        elif row.decimals <= row.off_decimals <= row.decimals + 18 and row.off_decimals <= MOST_DECIMALS:
            used[AT_OFF] += row.n_off
        else:
            return False
    return True


@part
def decode_rows(table, roles, chosen, start, stop, n, streams, at, out, out_at, out_stride):
    """Bars [start, stop) of the chosen symbols into `out`, a flat float64 array; False where bytes contradict.

    Field f of the i-th chosen symbol begins at out[out_at[f] + i * out_stride]; out_at[f] < 0: not wanted, but
    others need it. `at` as `locate` left it, `table` ROW [field, symbol], `n` bars a row.
    """
    n_fields = roles.size
    close = opened = -1
    for f in range(n_fields):
        close = f if roles[f] == CLOSE else close
        opened = f if roles[f] == OPEN else opened
    present, n_kept = np.zeros((n_fields, n), np.uint8), np.zeros(n_fields, np.int64)
    q, residual, spread = np.empty((n_fields, stop), np.int64), np.empty(TILE + 1, np.int64), np.empty(TILE, np.int64)
    kept_at, kept = np.empty((n_fields, stop), np.int64), np.empty((n_fields, stop))
    found_at, found, off_at, off = np.empty(stop, np.int64), np.empty(stop), np.empty(stop, np.int64), np.empty(stop)
    symbol = Symbol(present, q, n_kept, kept_at, kept)
    for i in range(chosen.size):
        s = chosen[i]
        open_here = opened if opened >= 0 and table[opened, s].predictor == LINKED else -1
        for f in range(n_fields):
            row, where, n_kept[f], n_found = table[f, s], at[f, s], 0, 0
            if not _read_presence(f, row, where[1], n, close, streams.maps, present):
                return False
            wanted, begin = out_at[f] >= 0, out_at[f] + i * out_stride - start
            if row.kind != TICKS:
                if row.predictor == LINKED:
                    return False
                if wanted:
                    _read_plain(row, where[0], present[f], start, stop, streams.raw, out, begin)
                continue
            if row.predictor == LINKED and (roles[f] <= CLOSE or close < 0 or table[close, s].kind != TICKS):
                return False
            links = (roles[f], table[close, s].base, q[close], q[open_here if open_here >= 0 else close])
            _read_integers(row, where[0], links, symbol, f, start, stop, streams, residual, spread, wanted, out, begin)
            if row.predictor == LINKED:
                n_found = inherited(roles[f], f, close, open_here, row, symbol, stop, found_at, found)
            n_off = _read_off(row, where, stop, q[f], streams, off_at, off)
            if n_off < 0:
                return False
            n_kept[f] = merge(n_found, found_at, found, n_off, off_at, off, kept_at[f], kept[f])
            if wanted:
                for j in range(n_kept[f]):
                    if kept_at[f, j] >= start:
                        out[begin + kept_at[f, j]] = kept[f, j]
    return True


@part
def _read_presence(f, row, at, n, close, maps, present):
    """Fills present[f]; False where its count is not the row's."""
    if row.presence == ALL or row.kind == EMPTY:
        present[f] = row.kind != EMPTY
        return True
    if row.presence == AS_CLOSE and close < 0:
        return False
    here, count = present[f], 0
    if row.presence == AS_CLOSE:
        here[:] = present[close]
    else:
        bytes_ = maps[at : at + ((n + 7) >> 3)]
        for i in range(n >> 3):
            eight = here[8 * i : 8 * i + 8]
            for bit in range(8):
                eight[bit] = (bytes_[i] >> bit) & 1
        for t in range(n & ~7, n):
            here[t] = (bytes_[t >> 3] >> (t & 7)) & 1
    for t in range(n):
        count += here[t]
    return count == row.n_present


@part
def _read_plain(row, at, present, start, stop, raw, out, begin):
    """A row without integers."""
    value = np.full(1, row.base, np.int64).view(np.float64)[0]
    for t in range(stop):
        if present[t] and row.kind == RAW:
            value = raw[at]
            at += 1
        if t >= start:
            out[begin + t] = value if present[t] else np.nan


@part
def _signed(unsigned, zigzag, residual):
    for i in range(unsigned.size):
        u = np.int64(unsigned[i])
        residual[i] = (u >> zigzag) ^ -(u & zigzag)


@part
def _read_integers(row, at, links, symbol, f, start, stop, streams, residual, spread, wanted, out, begin):
    """A row of integers, a tile at a time while it is in the cache: residuals, q, and where wanted the values.

    Indices run from 0 over slices: where one might be negative, Numba's loops do not vectorise.
    """
    role, close_base, close, opened = links
    present, q = symbol.present[f], symbol.q[f]
    left, last, zigzag = np.int64(row.n_present), row.base, np.int64(row.zigzag)
    everywhere = row.n_present == present.size
    step, power, single, printed = scale_of(row)
    for first in range(0, stop, TILE):
        m = min(TILE, stop - first)
        count = min(m, left)
        if row.width == 0:
            residual[:m] = 0
        elif row.width == 1:
            _signed(streams.w1[at : at + count], zigzag, residual)
        elif row.width == 2:
            _signed(streams.w2[at : at + count], zigzag, residual)
        elif row.width == 4:
            _signed(streams.w4[at : at + count], zigzag, residual)
        else:
            _signed(streams.w8[at : at + count], zigzag, residual)
        taken, delta, here = m, residual, present[first : first + m]
        if not everywhere:
            taken, delta = 0, spread
            for i in range(m):
                spread[i] = residual[taken] * here[i]
                taken += here[i]
        at += taken
        left -= taken
        tile = q[first : first + m]
        if row.predictor == DELTA:
            for i in range(m):
                last += delta[i]
                tile[i] = last
        elif row.predictor == PLAIN:
            for i in range(m):
                tile[i] = row.base + delta[i]
        else:
            before = close[first - 1] if first else close_base
            closes = close[first : first + m]
            references(role, before, closes, opened[first : first + m], tile)
            sign = -1 if role == LOW else 1
            for i in range(m):
                tile[i] += sign * delta[i]
            if not everywhere:
                for i in range(m):
                    tile[i] = tile[i] if here[i] else closes[i]
        skip = max(start - first, 0)
        if not wanted or skip >= m:
            continue
        tile, here = tile[skip:], here[skip:]
        target = out[begin + first + skip : begin + first + m]
        if single == DOUBLE:  # told apart out here, or the loop does not vectorise
            for i in range(tile.size):
                target[i] = value_of(tile[i], step, power, DOUBLE, 1.0)
        else:
            for i in range(tile.size):
                target[i] = value_of(tile[i], step, power, single, printed)
        if not everywhere:
            for i in range(tile.size):
                target[i] = target[i] if here[i] else np.nan


@part
def _read_off(row, where, stop, q, streams, off_at, values):
    """Values kept beside the integers, before bar `stop`: how many, -1 where their positions run out."""
    place, end, t, n = where[2], where[2] + row.places_bytes, -1, 0
    unit = row.step * WHOLE_POWERS[row.off_decimals - row.decimals] if row.off_decimals != RAW_BITS else 0
    for i in range(row.n_off):
        gap, shift = np.int64(0), 0
        while True:
            if place >= end or shift > 28:
                return -1
            byte = np.int64(streams.places[place])
            place += 1
            gap |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        t += gap + 1
        if t >= stop:
            return n
        off_at[n] = t
        if row.off_decimals == RAW_BITS:
            values[n] = streams.bits[where[3] + i]
        else:
            above = np.int64(streams.off[where[3] + i])
            above = (above >> 1) ^ -(above & 1)
            values[n] = np.float64(q[t] * unit + above) / POWERS[row.off_decimals]
        n += 1
    return n
