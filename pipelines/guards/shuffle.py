"""The same market without its memory: returns shuffled in time, and the whole search repeated on them.

Each symbol's bar-to-bar logarithmic returns of the close are put in another order; a bar takes its open, high and
low along, relative to its close. What the market earned, how volatile it was and how its bars look is kept: the
first close and the last, mean, deviation and tails. Trends, reversals and clusters of volatility are gone, and so
is all that a rule that looks at past prices can live of. Symbols are shuffled apart: what they had in common in
time goes as well.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from atc_backtest.errors import ConfigError
from atc_backtest.metrics import figures
from atc_backtest.pipelines.accounting import Advanced
from atc_backtest.pipelines.guards.causal import sampled
from atc_backtest.pipelines.guards.playing import Player
from atc_backtest.pipelines.guards.rerunning import best_set, check_prices, costs_of
from atc_backtest.pipelines.runs import Run
from atc_backtest.pipelines.slabs import F64, Slab

MEMORY = 128 * 2**20
"""Bytes of shuffled prices at once, and at least one shuffle of one symbol."""

MOST_LANES = 64


@dataclass(frozen=True)
class Against:
    """A real Sharpe ratio against those of shuffled prices: `p_value` is (1 + as good or better) / (1 + trials).

    `mean`, `high`: of the shuffled ones, the mean and the 95th percentile. All are yearly, the best of the sets.
    """

    real: float
    mean: float
    high: float
    p_value: float


@dataclass(frozen=True)
class Shuffled:
    """`sets`: how many were tried, on real prices and on every shuffle. `whole`: of mean Sharpe ratios over symbols."""

    trials: int
    seed: int
    sets: int
    whole: Against
    symbols: dict[str, Against]


def shuffled(
    run: Run,
    trials: int = 100,
    seed: int = 0,
    sample: int | None = None,
    param_id: int | None = None,
    show: Callable[[int, int], None] = lambda done, total: None,
) -> Shuffled:
    """Repeat the run's search on shuffled prices `trials` times.

    On each, every set is tried and the best one taken, as it was on the real prices, so that choosing is paid for;
    `param_id` tries that set alone. `sample`: so many symbols, drawn by `seed`. An undefined Sharpe ratio counts as
    0. Memory: one symbol's bars, a few times. A shuffle depends on seed, symbol and its number alone.
    """
    if trials < 1:
        raise ConfigError(f"--trials {trials} is not allowed: at least 1; 99 or more for a p-value of a hundredth.")
    check_prices(run)
    names = run.symbols if sample is None else sampled(run.symbols, sample, seed)
    sets = run.sets if param_id is None else (run.sets[best_set(run, param_id)],)
    player = Player.of(run.manifest["store"]["path"], sets, names, run.manifest["kernel"], costs_of(run))
    real, chance = np.zeros(len(sets)), np.zeros((trials, len(sets)))
    symbols = {}
    for done, name in enumerate(names, start=1):
        ours, theirs = _symbol(player, name, trials, seed)
        real, chance = real + ours, chance + theirs
        symbols[name] = _against(float(ours.max()), theirs.max(axis=1))
        show(done, len(names))
    whole = _against(float(real.max()) / len(names), chance.max(axis=1) / len(names))
    return Shuffled(trials, seed, len(sets), whole, symbols)


def _against(real: float, chance: F64) -> Against:
    as_good = int((chance >= real).sum())
    return Against(real, float(chance.mean()), float(np.quantile(chance, 0.95)), (1 + as_good) / (1 + chance.size))


def _symbol(player: Player, name: str, trials: int, seed: int) -> tuple[F64, F64]:
    """Sharpe ratios of one symbol: real [sets], shuffled [trials, sets]."""
    position = player.job.symbols.index(name)
    bars = player.bars(position)
    size = sum(values.nbytes for values in bars.fields.values())
    lanes = max(1, min(MOST_LANES, trials, MEMORY // max(size, 1)))
    real = _sharpes(player, position, bars)[0]
    chance = []
    for first in range(0, trials, lanes):
        numbers = range(first, min(first + lanes, trials))
        chance.append(_sharpes(player, position, shuffle(bars, name, seed, numbers)))
    return real, np.concatenate(chance)


def _sharpes(player: Player, position: int, slab: Slab) -> F64:
    """[lanes, sets], 0 where undefined."""
    lanes = slab.fields["close"].shape[0]
    stream = player.stream(position, lanes)
    player.play(stream, slab, _nothing)
    found = [
        [figures(account, rules, per_year)["sharpe"] or 0.0 for account in accounts]
        for accounts, rules, per_year in zip(stream.accounts, stream.rules, player.job.bars_per_year, strict=True)
    ]
    return np.array(found, dtype=np.float64).T


def _nothing(rows: slice, at: int, advanced: Advanced) -> None:
    """Figures come from the accounts at the end."""


def shuffle(bars: Slab, name: str, seed: int, numbers: range) -> Slab:
    """One row for each of the shuffles with these numbers: fields are [numbers, bars], times as they were."""
    close = bars.fields["close"][0]
    steps = np.diff(np.log(close))
    orders = [np.random.default_rng([seed, zlib.crc32(name.encode()), k]).permutation(steps.size) for k in numbers]
    shape = (len(orders), close.size)
    fields = {field: np.empty(shape) for field in bars.fields}
    for row, order in enumerate(orders):
        path = np.concatenate([[0.0], np.cumsum(steps[order])])
        fields["close"][row] = close[:1] * np.exp(path) if close.size else close
        which = np.concatenate([np.zeros(min(1, close.size), np.int64), order + 1])
        for field, values in bars.fields.items():
            if field != "close":
                fields[field][row] = fields["close"][row] * (values[0] / close)[which]
    return Slab(bars.ts, fields)
