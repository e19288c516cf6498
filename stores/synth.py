"""Prices that never were, any number of them: seeded, on ticks, with gaps and listings, in bounded memory.

A symbol's bars come in tiles of `TILE_BARS`, each from random numbers of its own, seeded by (seed, symbol,
tile, stream). What a tile takes over from the one before is the walk's place and the last close alone. So
the bytes depend on the spec and on nothing else: not on blocks, threads, the other symbols, or which
fields are asked for. (exp and log are NumPy's: another machine or version may differ in the last tick.)

    close     a random walk whose volatility switches between calm, usual and wild, with jumps, reflected
              at `REACH` times above and below where it began, rounded to the symbol's tick
    open      the close before, or some ticks beside it
    high low  above and below the body
    volume    log-normal, more of it when prices move, in lots of the symbol
    missing   single bars and outages, what is before a listing or after a delisting; the first symbol
              has every bar, so that no time of the axis is empty
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atc_backtest.errors import ConfigError
from atc_backtest.stores.base import F64, FIELDS, I64
from atc_backtest.stores.zarr_store import new_store

TILE_BARS = 16_384
START_NS = 1_577_836_800 * 10**9
"""2020-01-01."""

YEAR_NS = 365.25 * 86_400e9
REACH = 10.0
REGIMES = ((0.50, 0.4), (0.88, 1.0), (1.0, 3.0))
"""Cumulative share of regimes, and what they multiply volatility by."""
REGIME_BARS = 700.0
MOST_REGIMES = 64
JUMPS_PER_BAR = 2e-4
JUMP_SIGMAS = 12.0
LISTED_LATER, DELISTED = 0.4, 0.05
"""Shares of symbols."""
OUTAGES_PER_TILE = 0.4
OUTAGE_BARS = 60.0
STEPS = ((1, 0), (1, 0), (1, 0), (5, 0), (25, 1))
"""Ticks as multiples of a power of ten: 0.01, 0.05, 0.25."""

TRAITS, CLOSES, RANGES, VOLUMES = range(4)
"""Streams of random numbers."""

Progress = Callable[[int, int], None]
"""Called with symbols done and cells written so far."""


@dataclass(frozen=True)
class SynthSpec:
    """What to make: `n_symbols` x `n_bars` of `bar_ns`. `ConfigError` for what cannot be."""

    n_symbols: int
    n_bars: int
    seed: int
    bar_ns: int = 60 * 10**9
    fields: tuple[str, ...] = FIELDS

    def __post_init__(self) -> None:
        for name in ("n_symbols", "n_bars", "bar_ns"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)} is not allowed: at least 1.")
        if self.seed < 0:
            raise ConfigError(f"seed = {self.seed} is not allowed: 0 or more.")
        if START_NS + self.n_bars * self.bar_ns >= 2**63:
            raise ConfigError(f"{self.n_bars} bars of {self.bar_ns} ns end after 2262: fewer, or of another size.")
        if not {"close"} <= set(self.fields) <= set(FIELDS):
            raise ConfigError(f"fields {', '.join(self.fields)}: close, and of {', '.join(FIELDS)} what you like.")

    @property
    def symbols(self) -> list[str]:
        width = max(5, len(str(self.n_symbols - 1)))
        return [f"SYN{i:0{width}}" for i in range(self.n_symbols)]

    @property
    def ts(self) -> I64:
        return START_NS + np.arange(self.n_bars, dtype=np.int64) * self.bar_ns


@dataclass(frozen=True)
class Traits:
    """What stays of a symbol: bars [first, end) are those of its listing."""

    first: int
    end: int
    start_ticks: float
    tick_step: int
    decimals: int
    sigma: float
    gap_share: float
    volume: float
    lot_decimals: int

    @property
    def tick(self) -> float:
        return self.tick_step / 10.0**self.decimals


def _random(seed: int, symbol: int, tile: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence((seed, symbol, tile, stream))))


def traits(spec: SynthSpec, symbol: int) -> Traits:
    """The traits of one symbol; listing and delisting are shares of `n_bars`."""
    rng = _random(spec.seed, symbol, 0, TRAITS)
    later, ends, listing, delisting = rng.random(4)
    first = int(listing * 0.8 * spec.n_bars) if symbol and later < LISTED_LATER else 0
    end = first + 1 + int(delisting * (spec.n_bars - first)) if symbol and ends < DELISTED else spec.n_bars
    price = math.exp(rng.uniform(math.log(0.01), math.log(20_000)))
    finest = math.ceil(rng.uniform(3.7, 5.0) - math.log10(price))
    step, more = STEPS[int(rng.integers(len(STEPS)))]
    decimals = max(finest, 0) + more
    thin = rng.random() < 0.1
    gap_share = 10.0 ** -(rng.uniform(1.0, 1.7) if thin else rng.uniform(1.7, 4.0))
    yearly = 0.6 * math.exp(0.4 * rng.standard_normal())
    return Traits(
        first,
        min(end, spec.n_bars),
        max(round(price * 10**decimals / step), 1.0),
        step,
        decimals,
        yearly * math.sqrt(spec.bar_ns / YEAR_NS),
        gap_share if symbol else 0.0,
        1e5 / price * math.exp(1.5 * rng.standard_normal()),
        int(rng.integers(0, 6)),
    )


class Series:
    """One symbol, tile after tile."""

    def __init__(self, spec: SynthSpec, symbol: int) -> None:
        self.traits = traits(spec, symbol)
        self._spec = spec
        self._symbol = symbol
        self._place = 0.0
        self._last_ticks = self.traits.start_ticks

    def fill(self, tile: int, out: dict[str, F64]) -> None:
        """Put the bars of `tile` into rows of `out`, field -> float64 [bars of the tile]. In order, none left out."""
        start = tile * TILE_BARS
        n = out["close"].size
        mine = self.traits
        if start >= mine.end or start + n <= mine.first:
            for row in out.values():
                row.fill(np.nan)
            return
        rng = _random(self._spec.seed, self._symbol, tile, CLOSES)
        missing = _missing(rng, mine.gap_share, n) if self._symbol else np.empty(0, dtype=np.int64)
        level = _regimes(rng, n)
        moves = rng.standard_normal(n)
        jumps = rng.integers(0, n, rng.poisson(JUMPS_PER_BAR * n))
        moves[jumps] *= JUMP_SIGMAS
        ticks = self._walk(moves * level)
        rows = {"close": ticks}
        if not {"open", "high", "low"}.isdisjoint(out):
            rows |= self._ranges(tile, ticks, level)
        for name, row in out.items():
            if name == "volume":
                row[:] = self._volumes(tile, moves, level)
            else:
                np.multiply(rows[name], mine.tick_step, out=row)
                row /= 10.0**mine.decimals
            row[missing[missing + start != mine.first]] = np.nan  # a listing begins with a bar
            row[: max(mine.first - start, 0)] = np.nan
            row[max(mine.end - start, 0) :] = np.nan
        self._last_ticks = float(ticks[-1])

    def _walk(self, moves: F64) -> F64:
        """Closes in ticks. The walk itself is unbounded; folded at its bounds it is the one that they reflect."""
        moves *= self.traits.sigma
        moves[0] += self._place
        place = np.cumsum(moves, out=moves)
        self._place = float(place[-1])
        bound = math.log(REACH)
        place += bound
        place %= 4 * bound
        place -= 2 * bound
        np.abs(place, out=place)
        np.subtract(bound, place, out=place)
        np.exp(place, out=place)
        place *= self.traits.start_ticks
        ticks: F64 = np.rint(place, out=place)
        return np.maximum(ticks, 1.0, out=ticks)

    def _ranges(self, tile: int, close: F64, level: F64) -> dict[str, F64]:
        """Open, high and low in ticks."""
        rng = _random(self._spec.seed, self._symbol, tile, RANGES)
        spread = level * (0.6 * self.traits.sigma)
        spread *= close
        before = np.empty_like(close)
        before[0], before[1:] = self._last_ticks, close[:-1]
        aside = rng.standard_normal(close.size, dtype=np.float32) * spread
        aside[rng.random(close.size, dtype=np.float32) < 0.7] = 0.0
        begin = np.maximum(before + np.rint(0.5 * aside), 1.0)
        above = np.floor(rng.standard_exponential(close.size, dtype=np.float32) * spread)
        below = np.floor(rng.standard_exponential(close.size, dtype=np.float32) * spread)
        high = np.maximum(begin, close) + above
        low = np.maximum(np.minimum(begin, close) - below, 1.0)
        return {"open": begin, "high": high, "low": low}

    def _volumes(self, tile: int, moves: F64, level: F64) -> F64:
        rng = _random(self._spec.seed, self._symbol, tile, VOLUMES)
        lots = np.exp(1.2 * rng.standard_normal(level.size))
        lots *= (0.3 + np.abs(moves)) * level
        lots *= self.traits.volume * 10.0**self.traits.lot_decimals
        return np.maximum(np.rint(lots), 1.0) / 10.0**self.traits.lot_decimals


def _regimes(rng: np.random.Generator, n: int) -> F64:
    """What volatility is multiplied by, float64 [n]: constant within a regime."""
    ends = np.cumsum(np.ceil(rng.exponential(REGIME_BARS, MOST_REGIMES))).astype(np.int64)
    ends[-1] = max(int(ends[-1]), n)
    shares, levels = np.array(REGIMES).T
    level = levels[np.searchsorted(shares, rng.random(MOST_REGIMES), side="right")]
    level = level * np.exp(0.2 * rng.standard_normal(MOST_REGIMES))
    return np.repeat(level, np.diff(np.minimum(ends, n), prepend=0))


def _missing(rng: np.random.Generator, share: float, n: int) -> I64:
    """Positions without a bar."""
    single = rng.integers(0, n, rng.binomial(n, share))
    n_outages = rng.poisson(OUTAGES_PER_TILE * n / TILE_BARS)
    begins, lengths = rng.integers(0, n, n_outages), rng.geometric(1 / OUTAGE_BARS, n_outages)
    spans = [np.arange(b, min(b + m, n)) for b, m in zip(begins.tolist(), lengths.tolist(), strict=True)]
    return np.concatenate([single, *spans]).astype(np.int64)


def blocks(
    spec: SynthSpec, symbols: tuple[int, int], tiles: int = 1
) -> Iterator[tuple[tuple[int, int], dict[str, F64]]]:
    """Bars of symbols [first, stop) in blocks of `tiles` tiles: the range of bars, field -> float64 [symbols, bars].

    The arrays are used again for the next block.
    """
    series = [Series(spec, symbol) for symbol in range(*symbols)]
    width = min(tiles * TILE_BARS, spec.n_bars)
    held = {name: np.empty((len(series), width)) for name in FIELDS if name in spec.fields}
    for start in range(0, spec.n_bars, width):
        stop = min(start + width, spec.n_bars)
        for row, one in enumerate(series):
            for at in range(start, stop, TILE_BARS):
                span = slice(at - start, min(at + TILE_BARS, stop) - start)
                one.fill(at // TILE_BARS, {name: block[row, span] for name, block in held.items()})
        yield (start, stop), {name: block[:, : stop - start] for name, block in held.items()}


@dataclass(frozen=True)
class SynthReport:
    """What was made. `n_present`: bars there are, of symbols x bars."""

    store: Path
    spec: SynthSpec
    n_present: int
    seconds: float


def synth(
    path: Path,
    spec: SynthSpec,
    *,
    calendar: str = "24/7",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> SynthReport:
    """A new store of prices by `spec`. Memory: a block of the writer's symbols x `TILE_BARS` a field.

    `StoreError` when something is at `path`, or it cannot be written.
    """
    began = time.perf_counter()
    n_present = n_cells = 0
    with new_store(
        path,
        bar_ns=spec.bar_ns,
        calendar=calendar,
        fields=spec.fields,
        symbols=spec.symbols,
        ts=spec.ts,
        overwrite=overwrite,
        what="synth",
    ) as writer:
        for first in range(0, spec.n_symbols, writer.chunk[0]):
            rows = (first, min(first + writer.chunk[0], spec.n_symbols))
            for bars, block in blocks(spec, rows):
                for name, values in block.items():
                    writer.write(name, rows, bars, values)
                n_present += int(np.count_nonzero(block["close"] == block["close"]))
                n_cells += values.size * len(block)
                if progress is not None:
                    progress(rows[0], n_cells)
    return SynthReport(path, spec, n_present, time.perf_counter() - began)


def parse_fields(text: str) -> tuple[str, ...]:
    """`close,volume`, in the order of `FIELDS`. `ConfigError` for an unknown one."""
    names: Sequence[str] = [word.strip() for word in text.split(",") if word.strip()]
    unknown = [name for name in names if name not in FIELDS]
    if unknown or not names:
        raise ConfigError(f"fields {text!r}: write some of {', '.join(FIELDS)}, separated by commas.")
    return tuple(name for name in FIELDS if name in names)
