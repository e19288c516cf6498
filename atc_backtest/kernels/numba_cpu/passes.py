"""The Numba kernel's averages: a pass is one loop over a tile's bars with its nine lengths unrolled.

Averages go straight into their signs; `protocol` fixes the order of operations. Everything here runs
while Numba compiles, once for each `Variant` in use: see `vectors`.

A tile's rows are vectors, one symbol a lane. `general` forms look after the warm-up, signals that are
still 0 and averages asked for; the others know that a family's averages are all defined and its signals
all 1 or -1, as they are for the rest of a series.
"""

from __future__ import annotations

from dataclasses import dataclass

from atc_backtest.config import OFFSETS
from atc_backtest.kernels.lowering import DEMA, EMA, HMA, KAMA, LSMA
from atc_backtest.kernels.numba_cpu.vectors import Array, Code, Fields, Integer, Region, Variable, Vector, vector_pass
from atc_backtest.kernels.protocol import N_LENGTHS

ABOVE, BELOW = 1 - 1e-12, 1 + 1e-12
KAMA_SPAN, KAMA_SLOW = 0.666 - 0.064, 0.064
ASCENDING = (8, 7, 6, 5, 0, 1, 2, 3, 4)
"""The nine lengths by size, as indices into the summing order (L0, +o ascending, -o ascending)."""


@dataclass(frozen=True)
class Variant:
    """What is compiled into the code; lengths are not, so that a sweep over them compiles nothing."""

    robustness: str
    pine: bool
    odd: int
    """1 where the shortest HMA length is odd, which decides how its halves step (enhance only)."""

    def beyond(self) -> tuple[int, ...]:
        """How much longer than the shortest each length is, by size."""
        offsets = OFFSETS[self.robustness]
        signed = [0, *offsets, *(-o for o in offsets)]
        return tuple(signed[j] + offsets[-1] for j in ASCENDING)

    def halves_beyond(self) -> tuple[int, ...]:
        """The same for the halves of the HMA lengths."""
        return tuple((step + self.odd) // 2 for step in self.beyond())


class Signs:
    """Signals of a family's nine averages, from their sides of the close (the specification's band)."""

    def __init__(self, code: Code, tile: Fields, of: Fields, start: Integer, general: bool) -> None:
        self._code, self._tile, self._of, self.general = code, tile, of, general
        self._sign = [code.variable(tile.signs[start * N_LENGTHS + j]) for j in range(N_LENGTHS)]
        self._side = [code.variable(tile.side[of.average + j]) for j in range(N_LENGTHS)] if general else []

    def begin(self, bar: Integer) -> None:
        self._bar = bar
        self._low, self._high = self._tile.low[bar], self._tile.high[bar]
        if self.general:
            self.t = self._tile.t[0] + bar.as_vector()

    def first(self, j: int) -> Vector:
        """The t of average j's first defined bar."""
        first: Vector = self._of.numbers.number(self._of.first + j)
        return first

    def cross(self, j: int, average: Vector) -> None:
        one, minus = self._code.splat(1.0), self._code.splat(-1.0)
        above, below = average < self._low, average > self._high
        sign = self._sign[j]
        if not self.general:
            sign.value = above.select(one, below.select(minus, sign.value))
            return
        zero, first, last = self._code.splat(0.0), self.first(j), self._side[j]
        defined = self.t >= first
        side = defined.select(above.select(one, below.select(minus, zero)), zero)
        crossed = (self.t > first) & ~side.equals(last.value) & ~side.equals(zero)
        sign.value = crossed.select(side, sign.value)
        last.value = side
        self._tile.averages[self._bar * N_LENGTHS + j] = defined.select(average, self._code.splat(float("nan")))

    def end(self) -> None:
        """Of a bar: its signals are kept for layer 1."""
        for j, sign in enumerate(self._sign):
            self._tile.signs[(self._bar + 1) * N_LENGTHS + j] = sign.value

    def leave(self) -> None:
        """Of the pass. The fast form does not follow sides: 0 takes the next bar's side anew, as a
        signal that is not 0 asks for."""
        for j in range(N_LENGTHS):
            side = self._side[j].value if self.general else self._code.splat(0.0)
            self._tile.side[self._of.average + j] = side


VARIANTS = tuple(
    Variant(robustness, pine, odd) for robustness in OFFSETS for pine, odd in ((False, 0), (False, 1), (True, 0))
)


@vector_pass
def prices_pass(code: Code, _1: int, _2: int, _3: int, tile: Fields, history: Integer, n: Integer) -> None:
    """`(0, 0, 0, (tile, history, n))`: bands, returns and changes of n bars."""
    above, below = code.splat(ABOVE), code.splat(BELOW)
    with code.loop(0, n) as bar:
        before, now = tile.close[bar], tile.close[bar + 1]
        tile.low[bar], tile.high[bar] = now * above, now * below
        tile.returns[bar] = (now - before) / before
    with code.loop(1, history + n) as row:  # the first row has no x before it and is never read
        tile.change[row] = (tile.x[row] - tile.x[row - 1]).abs()


@vector_pass
def double_pass(
    code: Code, first: int, _2: int, _3: int, tile: Fields, at: Integer, half: Integer, start: Integer, stop: Integer
) -> None:
    """`(first, 0, 0, (tile, at, half, start, stop))`: sums of 2*half values from those of half, rows
    start..stop; T, W of x and T of its changes. `at` is where the level's rows begin; the level below the
    `first` are the values themselves."""
    rows = tile.rows
    below = at - rows
    plain, weighted, noises = (tile.x, tile.x, tile.change) if first else (tile.plain, tile.weighted, tile.noises)
    by = half.as_vector()
    with code.loop(start, stop) as row:
        source = row if first else below + row
        now, before = plain[source], plain[source - half]
        tile.plain[at + row] = now + before
        tile.weighted[at + row] = (weighted[source] + by * now) + weighted[source - half]
        tile.noises[at + row] = noises[source] + noises[source - half]


@vector_pass
def window_pass(
    code: Code,
    newest: int,
    last: int,
    values: int,
    tile: Fields,
    at: Integer,
    source: Integer,
    rest: Integer,
    n: Integer,
) -> None:
    """`(newest, last, values, (tile, at, source, rest, n))`: one power of two into a window's sums, whose rows
    begin at `at`; the `newest` power sets them, the `last` has no `rest` behind it; of `values`, they are
    the values themselves."""
    plain, weighted = (tile.x, tile.x) if values else (tile.plain, tile.weighted)
    by = rest.as_vector()
    with code.loop(0, n) as bar:
        s, w = plain[source + bar], weighted[source + bar]
        w = w if last else w + by * s
        tile.s[at + bar] = s if newest else tile.s[at + bar] + s
        tile.w[at + bar] = w if newest else tile.w[at + bar] + w


@vector_pass
def noise_pass(code: Code, newest: int, values: int, _3: int, tile: Fields, source: Integer, n: Integer) -> None:
    """`(newest, values, 0, (tile, source, n))`: the same over changes, S alone."""
    noises = tile.change if values else tile.noises
    with code.loop(0, n) as bar:
        s = noises[source + bar]
        tile.noise[bar] = s if newest else tile.noise[bar] + s


@vector_pass
def signs_pass(
    code: Code,
    variant_index: int,
    family: int,
    general: int,
    tile: Fields,
    of: Fields,
    start: Integer,
    stop: Integer,
) -> None:
    """`(variant, family, general, (tile, of, start, stop))`: bars of one family, averages to signs."""
    variant = VARIANTS[variant_index]
    body = {EMA: _ema, HMA: _hma, DEMA: _dema, KAMA: _kama}.get(family, _windowed)
    if variant.pine and family == HMA:
        body = _windowed
    signs = Signs(code, tile, of, start, bool(general))
    body(code, variant, family, tile, of, signs, start, stop)
    signs.leave()


def kept(code: Code, rows: Region, first: Integer) -> list[Variable]:
    return [code.variable(rows[first + j]) for j in range(N_LENGTHS)]


def keep(rows: Region, first: Integer, variables: list[Variable]) -> None:
    for j, variable in enumerate(variables):
        rows[first + j] = variable.value


def _seeds(code: Code, variant: Variant, tile: Fields, of: Fields, bar: Integer) -> list[Vector]:
    """What EMAs start from: x[0] (pine), or the SMA of each length."""
    now = of.history + bar
    seeds = [tile.x[now]] * N_LENGTHS
    if variant.pine:
        return seeds
    s = tile.s[of.window + bar]
    oldest = now - of.shortest
    done = 0
    for k, j in enumerate(ASCENDING):
        s, done = _longer(tile.x, s, oldest, done, variant.beyond()[k])
        seeds[j] = s * of.numbers.number(of.sma + j)
    return seeds


def _longer(x: Region, s: Vector, oldest: Integer, done: int, beyond: int) -> tuple[Vector, int]:
    """S from `done` to `beyond` values more than the shortest window, whose next older is at `oldest`."""
    for step in range(done, beyond):
        s = s + x[oldest - step]
    return s, beyond


def _longer_weighted(
    x: Region, sums: tuple[Vector, Vector], oldest: Integer, done: int, beyond: int
) -> tuple[Vector, Vector]:
    """S and W, the same."""
    s, w = sums
    for step in range(done, beyond):
        s = s + x[oldest - step]
        w = w + s
    return s, w


def _ema(code: Code, variant: Variant, family: int, tile: Fields, of: Fields, signs: Signs, *bars: Integer) -> None:
    alpha = [of.numbers.number(of.alpha + j) for j in range(N_LENGTHS)]
    e = kept(code, tile.recursive, of.recursive)
    with code.loop(*bars) as bar:
        signs.begin(bar)
        x = tile.x[of.history + bar]
        seeds = _seeds(code, variant, tile, of, bar) if signs.general else []
        for j in range(N_LENGTHS):
            value = e[j].value + alpha[j] * (x - e[j].value)
            if signs.general:
                first = signs.first(j)
                value = (signs.t > first).select(value, signs.t.equals(first).select(seeds[j], e[j].value))
            e[j].value = value
            signs.cross(j, value)
        signs.end()
    keep(tile.recursive, of.recursive, e)


def _dema(code: Code, variant: Variant, family: int, tile: Fields, of: Fields, signs: Signs, *bars: Integer) -> None:
    alpha = [of.numbers.number(of.alpha + j) for j in range(N_LENGTHS)]
    two = code.splat(2.0)
    e1, e2 = (kept(code, tile.recursive, of.recursive + N_LENGTHS * i) for i in range(2))
    with code.loop(*bars) as bar:
        signs.begin(bar)
        x = tile.x[of.history + bar]
        seeds = _seeds(code, variant, tile, of, bar) if signs.general else []
        for j in range(N_LENGTHS):
            first = e1[j].value + alpha[j] * (x - e1[j].value)
            second = e2[j].value + alpha[j] * (first - e2[j].value)
            if signs.general:
                at = signs.first(j)
                starts, goes_on = signs.t.equals(at), signs.t > at
                first = goes_on.select(first, starts.select(seeds[j], e1[j].value))
                second = goes_on.select(second, starts.select(seeds[j], e2[j].value))
            e1[j].value, e2[j].value = first, second
            signs.cross(j, two * first - second)
        signs.end()
    keep(tile.recursive, of.recursive, e1)
    keep(tile.recursive, of.recursive + N_LENGTHS, e2)


def _windowed(
    code: Code, variant: Variant, family: int, tile: Fields, of: Fields, signs: Signs, *bars: Integer
) -> None:
    """SMA = S * (1/L) (HMA of pine); WMA = W * ..; LSMA = W * .. - S * .."""
    with code.loop(*bars) as bar:
        signs.begin(bar)
        oldest = of.history + bar - of.shortest
        sums = tile.s[of.window + bar], tile.w[of.window + bar]
        done = 0
        for k, j in enumerate(ASCENDING):
            s, w = sums = _longer_weighted(tile.x, sums, oldest, done, variant.beyond()[k])
            done = variant.beyond()[k]
            if family == LSMA:
                average = w * of.numbers.number(of.lsma_w + j) - s * of.numbers.number(of.lsma_s + j)
            else:
                average = s * of.numbers.number(of.sma + j) if family == HMA else w * of.numbers.number(of.wma + j)
            signs.cross(j, average)
        signs.end()


def _hma(code: Code, variant: Variant, family: int, tile: Fields, of: Fields, signs: Signs, *bars: Integer) -> None:
    """y = 2*WMA_h - WMA_L, then the WMA of the last w values of y."""
    with code.loop(*bars) as bar:
        signs.begin(bar)
        now = of.history + bar
        oldest, half_oldest = now - of.shortest, now - of.half
        sums = tile.s[of.window + bar], tile.w[of.window + bar]
        halves = tile.s[of.half_window + bar], tile.w[of.half_window + bar]
        done = half_done = 0
        row = of.y_first + bar
        for k, j in enumerate(ASCENDING):
            sums = _longer_weighted(tile.x, sums, oldest, done, variant.beyond()[k])
            halves = _longer_weighted(tile.x, halves, half_oldest, half_done, variant.halves_beyond()[k])
            done, half_done = variant.beyond()[k], variant.halves_beyond()[k]
            y = halves[1] * of.numbers.number(of.hma_half + j) - sums[1] * of.numbers.number(of.wma + j)
            tile.y[row * N_LENGTHS + j] = y
        for three in (ASCENDING[0:3], ASCENDING[3:6], ASCENDING[6:9]):
            for j, smoothed in zip(three, _smooth(code, tile.y, row, three, of.integers), strict=True):
                signs.cross(j, smoothed * of.numbers.number(of.hma_smooth + j))
        signs.end()


def _smooth(code: Code, y: Region, row: Integer, three: tuple[int, ...], integers: Array) -> list[Vector]:
    """W of the last values of y, for three lengths of ascending size: side by side as far as the shortest
    smoothing goes, then each on its own."""
    sums = [code.variable(y[row * N_LENGTHS + j]) for j in three]
    weighted = [code.variable(total.value) for total in sums]

    def step(i: int, lag: Integer) -> None:
        sums[i].value = sums[i].value + y[(row - lag) * N_LENGTHS + three[i]]
        weighted[i].value = weighted[i].value + sums[i].value

    common = integers.integer(three[0])
    with code.loop(1, common) as lag:
        for i in range(3):
            step(i, lag)
    for i in (1, 2):
        with code.loop(common, integers.integer(three[i])) as lag:
            step(i, lag)
    return [total.value for total in weighted]


def _kama(code: Code, variant: Variant, family: int, tile: Fields, of: Fields, signs: Signs, *bars: Integer) -> None:
    zero, span, slow = code.splat(0.0), code.splat(KAMA_SPAN), code.splat(KAMA_SLOW)
    k = kept(code, tile.recursive, of.recursive)
    with code.loop(*bars) as bar:
        signs.begin(bar)
        now = of.history + bar
        x, oldest = tile.x[now], now - of.shortest
        noise, done = tile.noise[bar], 0
        for i, j in enumerate(ASCENDING):
            noise, done = _longer(tile.change, noise, oldest, done, variant.beyond()[i])
            move = (x - tile.x[oldest - variant.beyond()[i]]).abs()
            ratio = (noise > zero).select(move / noise, zero)
            c = ratio * span + slow
            value = k[j].value + (c * c) * (x - k[j].value)
            if signs.general:
                held = k[j].value if variant.pine else signs.t.equals(zero).select(x, k[j].value)
                value = (signs.t >= of.numbers.number(of.lengths + j)).select(value, held)
            k[j].value = value
            signs.cross(j, value)
        signs.end()
    keep(tile.recursive, of.recursive, k)
