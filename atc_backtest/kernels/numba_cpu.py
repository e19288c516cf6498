"""The Numba kernel: one symbol at a time, a tile of bars at a time, in two passes.

Pass 1, once per stream: averages (loops over bars, which vectorise) and their signs. Pass 2, once
per configuration that shares the stream: equities, layers, votes. The order of operations is
`protocol`'s. Compiled at the first call, without the GIL, cached on disk by Numba.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numba import njit

from atc_backtest.config import AtcConfig
from atc_backtest.kernels.lowering import DEMA, EMA, HMA, KAMA, LSMA, WMA, MemberConstants, StreamConstants
from atc_backtest.kernels.protocol import (
    F64,
    I64,
    N_AVERAGES,
    N_FAMILIES,
    N_LENGTHS,
    OUTPUT_AXES,
    Outputs,
    Prices,
    State,
    StreamState,
    check_advance,
)

TILE = 256
ABOVE, BELOW = 1 - 1e-12, 1 + 1e-12
FLOOR, CEILING = 0.25, 1e150
KAMA_SPAN, KAMA_SLOW = 0.666 - 0.064, 0.064


class NumbaKernel:
    """`Kernel` on Numba; needs no Rust toolchain."""

    name = "numba"

    def new_state(self, configs: Sequence[AtcConfig], n_symbols: int) -> State:
        return State.new(configs, n_symbols)

    def advance(self, state: State, prices: Prices, outputs: Outputs) -> None:
        check_advance(state, prices, outputs)
        if prices.close.shape[1] == 0:
            return
        seen = state.bars.copy()
        for stream in state.streams:
            _advance_stream(state, stream, seen, prices, outputs)
        state.bars[:] = seen + np.count_nonzero(~np.isnan(prices.close), axis=1)


def _advance_stream(state: State, stream: StreamState, seen: I64, prices: Prices, outputs: Outputs) -> None:
    layout = stream.layout
    constants = StreamConstants.of(layout)
    members = MemberConstants.of(state.configs, stream.members, seen, prices.close.shape[1])
    _advance_symbols(
        prices.close,
        prices.averaged,
        seen,
        stream.values,
        state.equities,
        tuple(vars(constants).values()),
        (layout.lengths, layout.first, layout.smooth),
        (layout.pine, layout.history, layout.recursive_slot, layout.side_slot, layout.sign_slot),
        tuple(vars(members).values()),
        tuple(_bar_last(getattr(outputs, name), axes) for name, axes in OUTPUT_AXES.items()),
    )


def _bar_last(output: F64 | None, axes: tuple[int, ...]) -> F64:
    """[configs, symbols, values, bars]; no configurations where the output is not asked for."""
    if output is None:
        return np.empty((0, 0, 0, 0))
    return output.reshape(output.shape[0], output.shape[1], math.prod(axes), output.shape[-1])


@njit(nogil=True, cache=True)
def _advance_symbols(close, source, seen, values, equities, constants, lengths, slots, members, outputs):
    for symbol in range(close.shape[0]):
        _advance_symbol(
            close[symbol],
            source[symbol],
            seen[symbol],
            symbol,
            values,
            equities,
            constants,
            lengths,
            slots,
            members,
            outputs,
        )


@njit(nogil=True, cache=True)
def _advance_symbol(close, source, t, symbol, values, equities, constants, lengths, slots, members, outputs):
    """All bars of one symbol; its state is copied out of `values` and `equities` and back."""
    history, recursive_slot = slots[1], slots[2]
    state = values[:, symbol].copy()
    own = np.empty((members[0].size, equities.shape[1]))
    for m in range(members[0].size):
        own[m] = equities[members[0][m], :, symbol]
    x = np.empty(history + TILE)  # the last `history` sources, then the tile's
    x[:history] = state[1 : 1 + history]
    price = np.empty(1 + TILE)  # the previous close, then the tile's
    price[0] = state[0]
    y = np.empty((N_LENGTHS, history + TILE))
    smooth = lengths[2]
    slot = 1 + history
    for i in range(N_LENGTHS):
        for k in range(smooth[i] - 1):
            y[i, history - smooth[i] + 1 + k] = state[slot + k]
        slot += smooth[i] - 1
    where = np.empty(TILE, np.int64)
    average = np.empty((N_AVERAGES, TILE))
    sign = np.empty((N_AVERAGES, 1 + TILE))
    sign[:, 0] = state[slots[4] :]
    position = 0
    while position < close.size:
        n = 0
        while position < close.size and n < TILE:
            if np.isnan(close[position]):
                _write_missing(outputs, members[0], symbol, position)
            else:
                where[n] = position
                price[1 + n] = close[position]
                x[history + n] = source[position]
                n += 1
            position += 1
        _averages(x, y, n, t, state[recursive_slot:], constants, lengths, slots, average)
        _signs(average, price, n, t, lengths[1], state[slots[3] :], sign)
        _write_streams(outputs, members[0], symbol, where, n, t, average, sign, lengths[1])
        for m in range(members[0].size):
            _equities(m, price, sign, n, t, own[m], members, outputs, symbol, where)
        if n > 0:
            price[0] = price[n]
            sign[:, 0] = sign[:, n]
            x[:history] = x[n : n + history].copy()
            y[:, :history] = y[:, n : n + history].copy()
        t += n
    state[0] = price[0]
    state[1 : 1 + history] = x[:history]
    slot = 1 + history
    for i in range(N_LENGTHS):
        for k in range(smooth[i] - 1):
            state[slot + k] = y[i, history - smooth[i] + 1 + k]
        slot += smooth[i] - 1
    state[slots[4] :] = sign[:, 0]
    values[:, symbol] = state
    for m in range(members[0].size):
        equities[members[0][m], :, symbol] = own[m]


@njit(nogil=True, cache=True)
def _doublings(x, plain, weighted):
    """plain[p] = T_2^p and weighted[p] = W_2^p over x, from index 2^p - 1 on."""
    plain[0] = x
    weighted[0] = x
    for p in range(1, plain.shape[0]):
        n = 1 << (p - 1)
        for e in range(2 * n - 1, x.size):
            plain[p, e] = plain[p - 1, e] + plain[p - 1, e - n]
            weighted[p, e] = (weighted[p - 1, e] + n * plain[p - 1, e]) + weighted[p - 1, e - n]


@njit(nogil=True, cache=True)
def _shortest_window(plain, weighted, length, start, n, s, w):
    """Window sums of `length` for indices start..start+n-1, from its powers of two, newest first."""
    lag = 0
    rest = length
    for p in range(plain.shape[0] - 1, -1, -1):
        power = 1 << p
        if length & power == 0:
            continue
        rest -= power
        for e in range(n):
            at = start + e - lag
            term = weighted[p, at]
            if rest > 0:
                term = term + rest * plain[p, at]
            if lag == 0:
                s[e] = plain[p, at]
                w[e] = term
            else:
                s[e] = s[e] + plain[p, at]
                w[e] = w[e] + term
        lag += power


@njit(nogil=True, cache=True)
def _step(x, length, start, n, s, w):
    """From the window sums of `length` to those of length + 1."""
    for e in range(n):
        s[e] = s[e] + x[start + e - length]
        w[e] = w[e] + s[e]


@njit(nogil=True, cache=True)
def _averages(x, y, n, t, recursive, constants, lengths, slots, average):
    """Pass 1a: the 54 averages of the tile's n bars; meaningless before an average's first bar."""
    alpha, sma, wma, lsma_w, lsma_s, half, hma_half, hma_smooth = constants
    length, first, smooth = lengths
    pine, history = slots[0], slots[1]
    x = x[: history + n]
    levels = 1
    while 1 << levels <= history:
        levels += 1
    plain = np.empty((levels, x.size))
    weighted = np.empty((levels, x.size))
    _doublings(x, plain, weighted)
    s = np.empty(n)
    w = np.empty(n)

    for i in range(N_LENGTHS):
        for family, e1 in ((EMA, i), (DEMA, N_LENGTHS + i)):
            value = recursive[e1]
            second = recursive[e1 + N_LENGTHS]
            size = length[family, i]
            for e in range(n):
                if t + e < first[family, i]:
                    continue
                now = x[history + e]
                if t + e == first[family, i]:
                    value = now
                    if not pine:
                        _shortest_window(plain, weighted, _least(length[family]), history + e, 1, s, w)
                        for shorter in range(_least(length[family]), size):
                            _step(x, shorter, history + e, 1, s, w)
                        value = s[0] * sma[family, i]
                    second = value
                else:
                    value = value + alpha[family, i] * (now - value)
                    second = second + alpha[family, i] * (value - second)
                average[family * N_LENGTHS + i, e] = value if family == EMA else 2 * value - second
            recursive[e1] = value
            if family == DEMA:
                recursive[e1 + N_LENGTHS] = second

    for family in (HMA, WMA, LSMA):
        shortest, longest = _least(length[family]), length[family].max()
        _shortest_window(plain, weighted, shortest, history, n, s, w)
        for size in range(shortest, longest + 1):
            for i in range(N_LENGTHS):
                if length[family, i] != size:
                    continue
                out = average[family * N_LENGTHS + i]
                for e in range(n):
                    if family == WMA:
                        out[e] = w[e] * wma[family, i]
                    elif family == LSMA:
                        out[e] = w[e] * lsma_w[family, i] - s[e] * lsma_s[family, i]
                    elif pine:
                        out[e] = s[e] * sma[family, i]
                    else:
                        out[e] = w[e] * wma[family, i]
            if size < longest:
                _step(x, size, history, n, s, w)

    if not pine:
        shortest, longest = _least(half), half.max()
        _shortest_window(plain, weighted, shortest, history, n, s, w)
        for size in range(shortest, longest + 1):
            for i in range(N_LENGTHS):
                if half[i] == size:
                    for e in range(n):
                        y[i, history + e] = w[e] * hma_half[i] - average[HMA * N_LENGTHS + i, e]
            if size < longest:
                _step(x, size, history, n, s, w)
        for i in range(N_LENGTHS):
            out = average[HMA * N_LENGTHS + i]
            for e in range(n):
                total = y[i, history + e]
                value = total
                for k in range(1, smooth[i]):
                    total = total + y[i, history + e - k]
                    value = value + total
                out[e] = value * hma_smooth[i]

    change = np.zeros(x.size)
    for e in range(1, x.size):
        change[e] = abs(x[e] - x[e - 1])
    _doublings(change, plain, weighted)
    shortest, longest = _least(length[KAMA]), length[KAMA].max()
    _shortest_window(plain, weighted, shortest, history, n, s, w)
    for size in range(shortest, longest + 1):
        for i in range(N_LENGTHS):
            if length[KAMA, i] != size:
                continue
            k = recursive[3 * N_LENGTHS + i]
            for e in range(n):
                now = x[history + e]
                if t + e >= size:
                    noise = s[e]
                    ratio = abs(now - x[history + e - size]) / noise if noise > 0 else 0.0
                    c = ratio * KAMA_SPAN + KAMA_SLOW
                    k = k + (c * c) * (now - k)
                elif t + e == 0:
                    k = 0.0 if pine else now
                average[KAMA * N_LENGTHS + i, e] = k
            recursive[3 * N_LENGTHS + i] = k
        if size < longest:
            _step(change, size, history, n, s, w)


@njit(nogil=True, cache=True)
def _least(values):
    return values.min()


@njit(nogil=True, cache=True)
def _signs(average, price, n, t, first, side, sign):
    """Pass 1b: sign[a, 1 + e] after bar e; `side` carries each average's side at the last bar."""
    for a in range(N_AVERAGES):
        last = side[a]
        s = sign[a, 0]
        defined = first[a // N_LENGTHS, a % N_LENGTHS]
        for e in range(n):
            m = average[a, e]
            p = price[1 + e]
            now = 1.0 if m < p * ABOVE else -1.0 if m > p * BELOW else 0.0
            if t + e < defined:
                now = 0.0
            elif t + e > defined and now != last and now != 0.0:
                s = now
            last = now
            sign[a, 1 + e] = s
        side[a] = last


@njit(nogil=True, cache=True)
def _limited(value):
    value = value if value > FLOOR else FLOOR
    return value if value < CEILING else CEILING


@njit(nogil=True, cache=True)
def _equities(m, price, sign, n, t, own, members, outputs, symbol, where):
    """Pass 2: one configuration's equities, layers and final signal for the tile's n bars."""
    config, cutout, keep, weights, up, down, growth_row, growth_start, growth_last, growth = members
    signal_out, layer1_out, equity2_out, _, _, equity1_out = outputs
    c = config[m]
    d = keep[m]
    g = growth[growth_row[m]]
    for e in range(n):
        bar = t + e
        at = where[e]
        if bar < cutout[m]:
            _write_undefined(outputs, c, symbol, at)
            continue
        if bar == cutout[m]:
            own[:N_AVERAGES] = 1.0
            own[N_AVERAGES : N_AVERAGES + N_FAMILIES] = weights[m]
        else:
            r = (price[1 + e] - price[e]) / price[e]
            a = r * g[min(bar - cutout[m] - growth_start[m], growth_last[m])]
            rise = d * (1 + a)
            fall = d * (1 - a)
            for i in range(N_AVERAGES):
                s = sign[i, e]
                own[i] = _limited(own[i] * (rise if s > 0 else fall if s < 0 else d))
            for i in range(N_AVERAGES, N_AVERAGES + N_FAMILIES):
                s = own[i + N_FAMILIES]
                own[i] = _limited(own[i] * (rise if s > 0 else fall if s < 0 else d))
        top = 0.0
        bottom = 0.0
        for family in range(N_FAMILIES):
            base = family * N_LENGTHS
            num = sign[base, 1 + e] * own[base]
            den = own[base]
            for i in range(base + 1, base + N_LENGTHS):
                num = num + sign[i, 1 + e] * own[i]
                den = den + own[i]
            q = np.rint(100 * (num / den))
            own[N_AVERAGES + N_FAMILIES + family] = q
            vote = 1.0 if q > up[m] else -1.0 if q < down[m] else 0.0
            weight = own[N_AVERAGES + family]
            top = top + vote * weight if family > 0 else vote * weight
            bottom = bottom + weight if family > 0 else weight
            if layer1_out.shape[0] > 0:
                layer1_out[c, symbol, family, at] = q / 100
        if signal_out.shape[0] > 0:
            signal_out[c, symbol, 0, at] = top / bottom
        if equity2_out.shape[0] > 0:
            equity2_out[c, symbol, :, at] = own[N_AVERAGES : N_AVERAGES + N_FAMILIES]
        if equity1_out.shape[0] > 0:
            equity1_out[c, symbol, :, at] = own[:N_AVERAGES]


@njit(nogil=True, cache=True)
def _write_streams(outputs, configs, symbol, where, n, t, average, sign, first):
    _, _, _, average_out, sign_out, _ = outputs
    for m in range(configs.size):
        for a in range(N_AVERAGES):
            for e in range(n):
                if average_out.shape[0] > 0:
                    defined = t + e >= first[a // N_LENGTHS, a % N_LENGTHS]
                    average_out[configs[m], symbol, a, where[e]] = average[a, e] if defined else np.nan
                if sign_out.shape[0] > 0:
                    sign_out[configs[m], symbol, a, where[e]] = sign[a, 1 + e]


@njit(nogil=True, cache=True)
def _write_missing(outputs, configs, symbol, at):
    for m in range(configs.size):
        _write_undefined(outputs, configs[m], symbol, at)
        for output in outputs[3:5]:
            if output.shape[0] > 0:
                output[configs[m], symbol, :, at] = np.nan


@njit(nogil=True, cache=True)
def _write_undefined(outputs, config, symbol, at):
    for output in (outputs[0], outputs[1], outputs[2], outputs[5]):
        if output.shape[0] > 0:
            output[config, symbol, :, at] = np.nan
