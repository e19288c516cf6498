"""The way of a block of prices through the Numba kernel: groups of symbols, tiles of bars, passes.

A group is `LANES` symbols. Every lane's present bars are packed, so that lanes need not share t. Per
tile: what prices alone decide; family by family the averages to signs, and signs to equities of each
layer-1 setting; then each configuration's final signal. No function here makes an array.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import register_jitable

from atc_backtest.config import AtcConfig
from atc_backtest.jit import compiled
from atc_backtest.kernels.lowering import DEMA, EMA, HMA, KAMA, LSMA, WMA, MemberConstants
from atc_backtest.kernels.numba_cpu import equities, layout, passes, traffic, vectors
from atc_backtest.kernels.numba_cpu.equities import factors_pass, layer1_pass, layer2_pass
from atc_backtest.kernels.numba_cpu.layout import (
    CONFIG,
    CUTOUT,
    DOWN,
    GROWTH_LAST,
    GROWTH_ROW,
    GROWTH_START,
    KEEP,
    LAYER1,
    REMAINING,
    UP,
    WEIGHTS,
    Member,
    Of,
    members_of,
    plan_of,
    tile_of,
)
from atc_backtest.kernels.numba_cpu.passes import (
    VARIANTS,
    Variant,
    double_pass,
    noise_pass,
    prices_pass,
    signs_pass,
    window_pass,
)
from atc_backtest.kernels.numba_cpu.traffic import begin, finishes, gather, load, next_tile, save, step, write
from atc_backtest.kernels.numba_cpu.vectors import LANES
from atc_backtest.kernels.protocol import N_AVERAGES, N_FAMILIES, N_LENGTHS, OUTPUT_AXES, StreamKey


@register_jitable
def _prepare(n, constants, tile):
    """What depends on prices alone: bands, returns, changes, window sums."""
    history = constants.history
    stop = history + n
    prices_pass(0, 0, 0, (tile, history, n))
    for p in range(1, constants.reach.size):
        at, half, start = p * tile.rows, 1 << (p - 1), history - constants.reach[p]
        if p == 1:
            double_pass(1, 0, 0, (tile, at, half, start, stop))
        else:
            double_pass(0, 0, 0, (tile, at, half, start, stop))
    for window in range(constants.windows.size):
        _window(window * tile.most, constants.windows[window], history, n, tile)
    _noise(constants.shortest[KAMA], history, n, tile)


@register_jitable
def _window(at, length, history, n, tile):
    """S and W of one window from its powers of two, newest first."""
    lag = 0
    rest = length
    for p in range(tile.levels - 1, -1, -1):
        power = 1 << p
        if length & power == 0:
            continue
        rest -= power
        source = p * tile.rows + history - lag
        if lag == 0 and p == 0:
            window_pass(1, 1, 1, (tile, at, source, rest, n))
        elif lag == 0 and rest == 0:
            window_pass(1, 1, 0, (tile, at, source, rest, n))
        elif lag == 0:
            window_pass(1, 0, 0, (tile, at, source, rest, n))
        elif p == 0:
            window_pass(0, 1, 1, (tile, at, source, rest, n))
        elif rest == 0:
            window_pass(0, 1, 0, (tile, at, source, rest, n))
        else:
            window_pass(0, 0, 0, (tile, at, source, rest, n))
        lag += power


@register_jitable
def _noise(length, history, n, tile):
    """The same over changes, S alone."""
    lag = 0
    for p in range(tile.levels - 1, -1, -1):
        power = 1 << p
        if length & power == 0:
            continue
        source = p * tile.rows + history - lag
        if lag == 0:
            noise_pass(1, 0, 0, (tile, source, n))
        elif p == 0:
            noise_pass(0, 1, 0, (tile, source, n))
        else:
            noise_pass(0, 0, 0, (tile, source, n))
        lag += power


@register_jitable
def _factors(n, i, members, tile):
    """What a long and a short equity of layer-1 setting i is multiplied with."""
    m = members.leader[i]
    growth = members.growth[members.table[m, GROWTH_ROW]]
    offset = members.table[m, CUTOUT] + members.table[m, GROWTH_START]
    last = members.table[m, GROWTH_LAST]
    at = (tile.up + i * tile.most) * LANES
    lead = 0
    while tile.lanes[REMAINING, lead] == 0:
        lead += 1
    together = True
    for lane in range(lead, LANES):
        together = together and (
            tile.lanes[REMAINING, lane] == 0 or tile.work[tile.t * LANES + lane] == tile.work[tile.t * LANES + lead]
        )
    # Before the cutout any value will do; after the last, the last.
    if together:
        k = np.int64(tile.work[tile.t * LANES + lead]) - offset
        for e in range(n):
            g = growth[min(max(k + e, 0), last)]
            for lane in range(LANES):
                tile.work[at + e * LANES + lane] = g
    else:
        for lane in range(LANES):
            k = np.int64(tile.work[tile.t * LANES + lane]) - offset
            for e in range(n):
                tile.work[at + e * LANES + lane] = growth[min(max(k + e, 0), last)]
    factors_pass(0, 0, 0, (tile, i * tile.most, members.numbers[m, KEEP], n))


@register_jitable
def _settle(constants, tile):
    """Note which families have all averages defined and no signal left at 0, in every active lane."""
    for family in range(N_FAMILIES):
        if tile.settled[family]:
            continue
        done = True
        for j in range(family * N_LENGTHS, (family + 1) * N_LENGTHS):
            warm = max(constants.numbers[j], constants.numbers[N_AVERAGES + j] if family == KAMA else 0.0)
            for lane in range(LANES):
                if tile.lanes[REMAINING, lane] > 0:
                    done = (
                        done
                        and tile.work[tile.t * LANES + lane] > warm
                        and tile.work[(tile.sign + j) * LANES + lane] != 0.0
                    )
        tile.settled[family] = done


@register_jitable
def _past(cutout, tile):
    """Does the cutout lie behind, in every active lane?"""
    past = True
    for lane in range(LANES):
        past = past and (tile.lanes[REMAINING, lane] == 0 or tile.work[tile.t * LANES + lane] > cutout)
    return past


@register_jitable
def _copy(tile, source, to, rows):
    """Rows to rows before them, or apart."""
    for i in range(rows * LANES):
        tile.work[to * LANES + i] = tile.work[source * LANES + i]


@register_jitable
def _shift(n, n_layer1, constants, tile):
    """The ends of the tile's rows become what stands before the next."""
    _copy(tile, tile.close + n, tile.close, 1)
    _copy(tile, tile.x + n, tile.x, constants.history)
    _copy(tile, tile.y + n * N_LENGTHS, tile.y, tile.y_first * N_LENGTHS)
    for row in range(n_layer1 * N_FAMILIES):
        at = tile.q + row * (1 + tile.most)
        _copy(tile, at + n, at, 1)


@register_jitable
def _of(family, constants, tile):
    recursive = 0 if family == EMA else N_LENGTHS if family == DEMA else 3 * N_LENGTHS
    own = family * N_LENGTHS
    return Of(
        constants.numbers,
        constants.smooth,
        own,
        recursive,
        constants.window[family] * tile.most,
        constants.window[N_FAMILIES] * tile.most,
        constants.history,
        constants.shortest[family],
        constants.shortest[N_FAMILIES],
        tile.y_first,
        own,
        own + N_AVERAGES,
        own + 2 * N_AVERAGES,
        own + 3 * N_AVERAGES,
        own + 4 * N_AVERAGES,
        own + 5 * N_AVERAGES,
        own + 6 * N_AVERAGES,
        7 * N_AVERAGES,
        7 * N_AVERAGES + N_LENGTHS,
    )


@register_jitable
def _member(m, i, family, members, tile):
    """Places of configuration m, whose layer 1 is number i, and of one family in it."""
    return Member(
        members.numbers,
        i * N_AVERAGES + family * N_LENGTHS,
        members.leader.size * N_AVERAGES + m * N_FAMILIES,
        i * tile.most,
        (i * N_FAMILIES + family) * (1 + tile.most),
        1 + tile.most,
        m * members.numbers.shape[1] + WEIGHTS,
        np.float64(members.table[m, CUTOUT]),
        members.numbers[m, KEEP],
        members.numbers[m, UP],
        members.numbers[m, DOWN],
    )


@register_jitable
def _write_signs(family, first, n, members, tile, outputs):
    average_out, sign_out = outputs[3], outputs[4]
    for m in range(members.table.shape[0]):
        config = members.table[m, CONFIG]
        for j in range(N_LENGTHS):
            value = family * N_LENGTHS + j
            if average_out.shape[0] > 0:
                write(average_out, config, value, tile.averages + j, N_LENGTHS, first, n, tile)
            if sign_out.shape[0] > 0:
                write(sign_out, config, value, tile.signs + N_LENGTHS + j, N_LENGTHS, first, n, tile)


@register_jitable
def _layer1(i, family, first, n, members, tile, outputs):
    """One family of layer-1 setting i, and its outputs for every configuration that shares it."""
    layer1_out, equity1_out = outputs[1], outputs[5]
    leader = members.leader[i]
    member = _member(leader, i, family, members, tile)
    if tile.settled[family] and equity1_out.shape[0] == 0 and _past(members.table[leader, CUTOUT], tile):
        layer1_pass(0, 0, 0, (tile, member, n))
    else:
        layer1_pass(1, 0, 0, (tile, member, n))
    for m in range(members.table.shape[0]):
        if members.table[m, LAYER1] != i:
            continue
        config = members.table[m, CONFIG]
        if equity1_out.shape[0] > 0:
            for j in range(N_LENGTHS):
                write(equity1_out, config, family * N_LENGTHS + j, tile.kept + j, N_LENGTHS, first, n, tile)
        if layer1_out.shape[0] > 0:
            for at in range(n * LANES):
                tile.work[tile.signal * LANES + at] = tile.work[(tile.q + member.q + 1) * LANES + at] / 100
            write(layer1_out, config, family, tile.signal, 1, first, n, tile)


@register_jitable
def _layer2(m, first, n, members, tile, outputs):
    signal_out, equity2_out = outputs[0], outputs[2]
    member = _member(m, members.table[m, LAYER1], 0, members, tile)
    if equity2_out.shape[0] == 0 and _past(members.table[m, CUTOUT], tile):
        layer2_pass(0, 0, 0, (tile, member, n))
    else:
        layer2_pass(1, 0, 0, (tile, member, n))
    config = members.table[m, CONFIG]
    if signal_out.shape[0] > 0:
        write(signal_out, config, 0, tile.signal, 1, first, n, tile)
    if equity2_out.shape[0] > 0:
        for family in range(N_FAMILIES):
            write(equity2_out, config, family, tile.kept + family, N_FAMILIES, first, n, tile)


@cache
def block_function(variant: Variant) -> Callable[..., None]:
    """All bars of a block through one stream and its members, compiled for one variant."""
    code = VARIANTS.index(variant)

    def advance_block(close, source, seen, values, equities, constants, members, tile, outputs):
        for first in range(0, close.shape[0], LANES):
            begin(close, seen, first, members, outputs, tile)
            n = next_tile(tile)
            if n == 0:
                continue
            load(values, equities, first, constants, members, tile)
            while n > 0:
                gather(close, source, first, n, constants, tile)
                _prepare(n, constants, tile)
                _settle(constants, tile)
                for i in range(members.leader.size):
                    _factors(n, i, members, tile)
                # The last bar before a lane is saved must leave true sides, as the general form does.
                quick = n - finishes(n, tile)
                for family in range(N_FAMILIES):
                    row = tile.sign + family * N_LENGTHS
                    _copy(tile, row, tile.signs, N_LENGTHS)
                    of = _of(family, constants, tile)
                    fast = quick if tile.settled[family] and outputs[3].shape[0] == 0 else 0
                    if fast > 0:
                        if family == EMA:
                            signs_pass(code, EMA, 0, (tile, of, 0, fast))
                        elif family == HMA:
                            signs_pass(code, HMA, 0, (tile, of, 0, fast))
                        elif family == WMA:
                            signs_pass(code, WMA, 0, (tile, of, 0, fast))
                        elif family == DEMA:
                            signs_pass(code, DEMA, 0, (tile, of, 0, fast))
                        elif family == LSMA:
                            signs_pass(code, LSMA, 0, (tile, of, 0, fast))
                        else:
                            signs_pass(code, KAMA, 0, (tile, of, 0, fast))
                    if fast < n:
                        if family == EMA:
                            signs_pass(code, EMA, 1, (tile, of, fast, n))
                        elif family == HMA:
                            signs_pass(code, HMA, 1, (tile, of, fast, n))
                        elif family == WMA:
                            signs_pass(code, WMA, 1, (tile, of, fast, n))
                        elif family == DEMA:
                            signs_pass(code, DEMA, 1, (tile, of, fast, n))
                        elif family == LSMA:
                            signs_pass(code, LSMA, 1, (tile, of, fast, n))
                        else:
                            signs_pass(code, KAMA, 1, (tile, of, fast, n))
                    _copy(tile, tile.signs + n * N_LENGTHS, row, N_LENGTHS)
                    _write_signs(family, first, n, members, tile, outputs)
                    for i in range(members.leader.size):
                        _layer1(i, family, first, n, members, tile, outputs)
                for m in range(members.table.shape[0]):
                    _layer2(m, first, n, members, tile, outputs)
                _shift(n, members.leader.size, constants, tile)
                if step(n, tile):
                    save(values, equities, first, constants, members, tile)
                n = next_tile(tile)

    name = f"{variant.robustness}_{'pine' if variant.pine else 'enhance'}_{variant.odd}"
    advance_block.__qualname__ = f"advance_block_{name}_{LANES}_lanes"
    sources = (equities, layout, passes, traffic, vectors)
    return compiled(advance_block, [_signature()], sources=sources, allocates=False)


@cache
def _signature() -> Any:
    plan = plan_of(StreamKey.of(AtcConfig()))
    members = MemberConstants.of([AtcConfig()], [0], np.zeros(1, dtype=np.int64), 1)
    block = types.Array(types.float64, 2, "C", readonly=True)
    return types.void(
        block,
        block,
        numba.int64[::1],
        numba.float64[:, ::1],
        numba.float64[:, :, ::1],
        numba.typeof(plan.constants),
        numba.typeof(members_of(members)),
        numba.typeof(tile_of(plan, members, 1)),
        types.UniTuple(numba.float64[:, :, :, ::1], len(OUTPUT_AXES)),
    )
