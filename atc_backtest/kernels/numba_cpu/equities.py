"""The Numba kernel's equities: signals to equities, families to layer-1 signals, votes to the final one.

`general` forms look after cutouts, signals that are still 0 and equities asked for. As `passes`, this runs
while Numba compiles.
"""

from __future__ import annotations

from atc_backtest.kernels.numba_cpu.passes import keep, kept
from atc_backtest.kernels.numba_cpu.vectors import Code, Fields, Integer, Vector, vector_pass
from atc_backtest.kernels.protocol import N_FAMILIES, N_LENGTHS

FLOOR, CEILING = 0.25, 1e150


@vector_pass
def factors_pass(code: Code, _1: int, _2: int, _3: int, tile: Fields, at: Integer, keep: Vector, n: Integer) -> None:
    """`(0, 0, 0, (tile, at, keep, n))`: what a long and a short equity is multiplied with; growth waits in `up`."""
    one = code.splat(1.0)
    with code.loop(0, n) as bar:
        gain = tile.returns[bar] * tile.up[at + bar]
        tile.up[at + bar], tile.down[at + bar] = keep * (one + gain), keep * (one - gain)


def _limited(value: Vector, code: Code) -> Vector:
    return value.larger(code.splat(FLOOR)).smaller(code.splat(CEILING))


def _after_cutout(t: Vector, cutout: Vector, stepped: Vector, start: Vector, code: Code) -> Vector:
    """`stepped` after the cutout, `start` at it, NaN before it."""
    return (t > cutout).select(stepped, t.equals(cutout).select(start, code.splat(float("nan"))))


def _by_sign(sign: Vector, up: Vector, down: Vector, flat: Vector, code: Code) -> Vector:
    zero = code.splat(0.0)
    return (sign > zero).select(up, (sign < zero).select(down, flat))


@vector_pass
def layer1_pass(code: Code, general: int, _two: int, _three: int, tile: Fields, member: Fields, n: Integer) -> None:
    """`(general, 0, 0, (tile, member, n))`: one family's nine equities over n bars, and q, its signal in
    hundredths."""
    zero, hundred, one = code.splat(0.0), code.splat(100.0), code.splat(1.0)
    e = kept(code, tile.equities, member.equity1)
    before = kept(code, tile.signs, code.integer(0))
    with code.loop(0, n) as bar:
        up, down = tile.up[member.factors + bar], tile.down[member.factors + bar]
        num, den = zero, zero
        for j in range(N_LENGTHS):
            now = tile.signs[(bar + 1) * N_LENGTHS + j]
            if general:
                value = _limited(e[j].value * _by_sign(before[j].value, up, down, member.keep, code), code)
                value = _after_cutout(tile.t[0] + bar.as_vector(), member.cutout, value, one, code)
                tile.kept[bar * N_LENGTHS + j] = value
            else:
                value = _limited(e[j].value * (before[j].value > zero).select(up, down), code)
            e[j].value, before[j].value = value, now
            term = now * value
            num, den = (term, value) if j == 0 else (num + term, den + value)
        tile.q[member.q + bar + 1] = (hundred * (num / den)).rint()
    keep(tile.equities, member.equity1, e)


@vector_pass
def layer2_pass(code: Code, general: int, _two: int, _three: int, tile: Fields, member: Fields, n: Integer) -> None:
    """`(general, 0, 0, (tile, member, n))`: six equities of the layer-1 signals over n bars, and the final
    signal."""
    zero, one, minus = code.splat(0.0), code.splat(1.0), code.splat(-1.0)
    e = [code.variable(tile.equities[member.equity2 + f]) for f in range(N_FAMILIES)]
    with code.loop(0, n) as bar:
        up, down = tile.up[member.factors + bar], tile.down[member.factors + bar]
        num, den = zero, zero
        for f in range(N_FAMILIES):
            row = member.q + bar
            for _ in range(f):
                row = row + member.rows_q
            before, now = tile.q[row], tile.q[row + 1]
            value = _limited(e[f].value * _by_sign(before, up, down, member.keep, code), code)
            if general:
                start = member.numbers.number(member.weight + f)
                value = _after_cutout(tile.t[0] + bar.as_vector(), member.cutout, value, start, code)
                tile.kept[bar * N_FAMILIES + f] = value
            e[f].value = value
            vote = (now > member.up).select(one, (now < member.down).select(minus, zero))
            term = vote * value
            num, den = (term, value) if f == 0 else (num + term, den + value)
        tile.signal[bar] = num / den
    for f in range(N_FAMILIES):
        tile.equities[member.equity2 + f] = e[f].value
