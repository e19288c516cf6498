"""Between symbols and lanes, compiled: which bars a tile holds, gathered and put back; state in and out.

Lanes beyond the last symbol, and lanes whose bars are used up, are idle: they repeat harmless prices and
are never saved.
"""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from atc_backtest.kernels.numba_cpu.layout import CONFIG, FINISHED, GAPLESS, LAYER1, POSITION, RECURSIVE, REMAINING
from atc_backtest.kernels.numba_cpu.vectors import LANES
from atc_backtest.kernels.protocol import N_AVERAGES, N_FAMILIES, N_LENGTHS


@register_jitable
def begin(close, seen, first, members, outputs, tile):
    """A group's symbols, before their first tile; those with missing bars are NaN in every output."""
    n_bars = close.shape[1]
    for lane in range(LANES):
        count = 0
        if first + lane < close.shape[0]:
            row = close[first + lane]
            for bar in range(n_bars):
                count += 0 if np.isnan(row[bar]) else 1
            if count < n_bars:
                for output in outputs:
                    if output.shape[0] > 0:
                        for m in range(members.table.shape[0]):
                            config = members.table[m, CONFIG]
                            output[config, first + lane] = np.nan
        tile.lanes[REMAINING, lane] = count
        tile.lanes[GAPLESS, lane] = count == n_bars
        tile.lanes[POSITION, lane] = 0
        tile.work[tile.t * LANES + lane] = seen[first + lane] if count > 0 else 0.0
    for family in range(N_FAMILIES):
        tile.settled[family] = False


@register_jitable
def next_tile(tile):
    """Bars of the next tile: no more than any lane with bars left has; 0 at the end."""
    n = 0
    for lane in range(LANES):
        left = min(tile.lanes[REMAINING, lane], tile.most)
        n = left if n == 0 or 0 < left < n else n
    return n


@register_jitable
def finishes(n, tile):
    """1 where the tile is some lane's last, else 0."""
    found = 0
    for lane in range(LANES):
        found = 1 if tile.lanes[REMAINING, lane] == n else found
    return found


@register_jitable
def step(n, tile):
    """The tile is done: which lanes it finished, and whether any."""
    ends = False
    for lane in range(LANES):
        tile.lanes[FINISHED, lane] = tile.lanes[REMAINING, lane] == n
        if tile.lanes[REMAINING, lane] > 0:
            tile.lanes[REMAINING, lane] -= n
            tile.work[tile.t * LANES + lane] += n
        ends = ends or tile.lanes[FINISHED, lane]
    return ends


@register_jitable
def _load_row(values, row, first, tile, at):
    for lane in range(LANES):
        here = first + lane < values.shape[1]
        tile.work[at * LANES + lane] = values[row, first + lane] if here else 1.0  # harmless where no symbol is


@register_jitable
def _save_row(tile, at, values, row, first):
    for lane in range(LANES):
        if tile.lanes[FINISHED, lane]:
            values[row, first + lane] = tile.work[at * LANES + lane]


@register_jitable
def load(values, equities, first, constants, members, tile):
    history = constants.history
    _load_row(values, 0, first, tile, tile.close + 0)
    for row in range(history):
        _load_row(values, 1 + row, first, tile, tile.x + row)
    slot = 1 + history
    for j in range(N_LENGTHS):
        for row in range(tile.y_first + 1 - constants.smooth[j], tile.y_first):
            _load_row(values, slot, first, tile, tile.y + row * N_LENGTHS + j)
            slot += 1
    for row in range(RECURSIVE):
        _load_row(values, slot + row, first, tile, tile.recursive + row)
    slot += RECURSIVE
    for row in range(N_AVERAGES):
        _load_row(values, slot + row, first, tile, tile.side + row)
        _load_row(values, slot + N_AVERAGES + row, first, tile, tile.sign + row)
    n_layer1 = members.leader.size
    for i in range(n_layer1):
        own = equities[members.table[members.leader[i], CONFIG]]
        for row in range(N_AVERAGES):
            _load_row(own, row, first, tile, tile.equities + i * N_AVERAGES + row)
        for family in range(N_FAMILIES):
            at = (i * N_FAMILIES + family) * (1 + tile.most)
            _load_row(own, N_AVERAGES + N_FAMILIES + family, first, tile, tile.q + at)
    for m in range(members.table.shape[0]):
        for family in range(N_FAMILIES):
            at = n_layer1 * N_AVERAGES + m * N_FAMILIES + family
            _load_row(equities[members.table[m, CONFIG]], N_AVERAGES + family, first, tile, tile.equities + at)


@register_jitable
def save(values, equities, first, constants, members, tile):
    """The state of finished lanes."""
    history = constants.history
    _save_row(tile, tile.close + 0, values, 0, first)
    for row in range(history):
        _save_row(tile, tile.x + row, values, 1 + row, first)
    slot = 1 + history
    for j in range(N_LENGTHS):
        for row in range(tile.y_first + 1 - constants.smooth[j], tile.y_first):
            _save_row(tile, tile.y + row * N_LENGTHS + j, values, slot, first)
            slot += 1
    for row in range(RECURSIVE):
        _save_row(tile, tile.recursive + row, values, slot + row, first)
    slot += RECURSIVE
    for row in range(N_AVERAGES):
        _save_row(tile, tile.side + row, values, slot + row, first)
        _save_row(tile, tile.sign + row, values, slot + N_AVERAGES + row, first)
    n_layer1 = members.leader.size
    for m in range(members.table.shape[0]):
        own, i = equities[members.table[m, CONFIG]], members.table[m, LAYER1]
        for row in range(N_AVERAGES):
            _save_row(tile, tile.equities + i * N_AVERAGES + row, own, row, first)
        for family in range(N_FAMILIES):
            at = n_layer1 * N_AVERAGES + m * N_FAMILIES + family
            _save_row(tile, tile.equities + at, own, N_AVERAGES + family, first)
            at = (i * N_FAMILIES + family) * (1 + tile.most)
            _save_row(tile, tile.q + at, own, N_AVERAGES + N_FAMILIES + family, first)


@register_jitable
def gather(close, source, first, n, constants, tile):
    """The next n present bars of every lane that has some left; other lanes repeat harmless prices."""
    work = tile.work
    close_at, x_at = (tile.close + 1) * LANES, (tile.x + constants.history) * LANES
    for lane in range(LANES):
        if tile.lanes[REMAINING, lane] == 0:
            for e in range(n):
                work[close_at + e * LANES + lane] = work[close_at - LANES + lane]
                work[x_at + e * LANES + lane] = work[x_at - LANES + lane]
            continue
        row, averaged = close[first + lane], source[first + lane]
        at = tile.lanes[POSITION, lane]
        if tile.lanes[GAPLESS, lane]:
            for e in range(n):
                work[close_at + e * LANES + lane] = row[at + e]
                work[x_at + e * LANES + lane] = averaged[at + e]
            tile.lanes[POSITION, lane] = at + n
            continue
        for e in range(n):
            while np.isnan(row[at]):
                at += 1
            tile.at[lane, e] = at
            work[close_at + e * LANES + lane] = row[at]
            work[x_at + e * LANES + lane] = averaged[at]
            at += 1
        tile.lanes[POSITION, lane] = at


@register_jitable
def write(output, config, value, start, stride, first, n, tile):
    """One value of a configuration, from every `stride`-th row from `start` on, to where its bars stand."""
    for lane in range(LANES):
        if tile.lanes[REMAINING, lane] > 0:
            row = output[config, first + lane, value]
            if tile.lanes[GAPLESS, lane]:
                begin = tile.lanes[POSITION, lane] - n
                for e in range(n):
                    row[begin + e] = tile.work[(start + e * stride) * LANES + lane]
            else:
                for e in range(n):
                    row[tile.at[lane, e]] = tile.work[(start + e * stride) * LANES + lane]
