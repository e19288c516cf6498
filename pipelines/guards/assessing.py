"""The guards that read what a run has saved: walk-forward, combinatorial cross-validation, PBO, deflated Sharpe."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from atc_backtest.errors import ConfigError, DataError
from atc_backtest.pipelines.guards.ledger import read_ledger
from atc_backtest.pipelines.guards.reading import PeriodRows
from atc_backtest.pipelines.runs import Run
from atc_backtest.resampling import (
    CrossValidation,
    Overfitting,
    Trials,
    WalkForward,
    cross_validate,
    overfitting,
    walk_forward,
    walk_forward_folds,
)
from atc_backtest.trials import (
    Track,
    deflated_sharpe,
    expected_maximum,
    independent_trials,
    mean_correlation,
    minimum_track_record,
    probabilistic_sharpe,
)


@dataclass(frozen=True)
class WalkedForward:
    """`starts`: of the periods that the folds count, ns UTC. `symbols`: each by itself, in order of their names."""

    period: str
    starts: tuple[int, ...]
    whole: WalkForward
    symbols: dict[str, WalkForward]


def walked_forward(
    run: Run, train: int, test: int, anchored: bool = False, embargo: int = 0, by: str = "sharpe"
) -> WalkedForward:
    """Walk-forward over the periods of a run: all symbols together, then each.

    Folds inherit state: a fold's values are those of the whole run, in which every bar was computed with what came
    before it and nothing else. Choosing is all that a fold does by itself.
    """
    rows = PeriodRows(run)
    folds = walk_forward_folds(len(rows.starts), train, test, anchored, embargo)
    return WalkedForward(
        rows.period,
        tuple(rows.starts.tolist()),
        walk_forward(rows.whole(), folds, by),
        {symbol: walk_forward(rows.of(symbol), folds, by) for symbol in rows.symbols},
    )


def _trials(run: Run, symbol: str | None) -> Trials:
    rows = PeriodRows(run)
    return rows.whole() if symbol is None else rows.of(symbol)


def cross_validated(
    run: Run,
    groups: int,
    test_groups: int,
    purge: int = 0,
    embargo: int = 0,
    by: str = "sharpe",
    symbol: str | None = None,
) -> CrossValidation:
    """Purged combinatorial cross-validation of all symbols together, or of one."""
    return cross_validate(_trials(run, symbol), groups, test_groups, purge, embargo, by)


def overfitted(run: Run, blocks: int = 16, by: str = "sharpe", symbol: str | None = None) -> Overfitting:
    """The probability of backtest overfitting, of all symbols together, or of one."""
    return overfitting(_trials(run, symbol), blocks, by)


@dataclass(frozen=True)
class Deflation:
    """The best trial of a run against luck. Sharpe ratios and their deviation are yearly.

    `trials`: that luck had, N; `run_trials`: sets of this run, whose Sharpe ratios have the deviation `spread`.
    `correlation`: mean over pairs of sets; `independent`: N was made smaller by it. `benchmark`: the best Sharpe
    ratio to expect of N trials without skill. `observations`: returns of the best trial; `needed`: how many it takes
    before it beats the benchmark with 95 % (None: it never does).
    """

    best: int
    sharpe: float
    observations: int
    years: float
    skewness: float
    kurtosis: float
    trials: float
    run_trials: int
    ledger_trials: int
    correlation: float | None
    independent: bool
    spread: float
    benchmark: float
    probabilistic: float | None
    deflated: float | None
    needed: float | None


def deflated(run: Run, trials: float | None = None, independent: bool = False, symbol: str | None = None) -> Deflation:
    """The deflated Sharpe ratio of a run's best set, by the trials that the store's ledger counts.

    `trials`: another number of them. Never fewer than the run itself has. `independent`: count correlated trials
    as fewer ones. `ConfigError` for a number below 1; `DataError` where no set has a Sharpe ratio.
    """
    if trials is not None and not trials >= 1:
        raise ConfigError(f"--trials {trials:g} is not allowed: at least 1.")
    found = _trials(run, symbol)
    pooled = found.moments.pooled()
    sharpe = pooled.sharpe
    if np.isnan(sharpe).all():
        raise DataError(f"{run.path}: no set has a Sharpe ratio here; two returns that differ are the least.")
    best = int(np.nanargmax(sharpe))
    track = Track.of(pooled[best])
    assert track is not None  # its Sharpe ratio is a number
    store = run.manifest["store"]
    counted = read_ledger(store["path"], store["id"]).trials
    n = max(counted, len(found.ids)) if trials is None else trials
    correlation = mean_correlation(np.expm1(found.growth)) if independent else None
    if correlation is not None:
        n = independent_trials(n, correlation)
    known = sharpe[~np.isnan(sharpe)]
    variance = float(known.var(ddof=1)) if len(known) > 1 else 1 / (track.n - 1)
    benchmark = expected_maximum(n, variance)
    year = math.sqrt(found.per_year[best])
    return Deflation(
        best=int(found.ids[best]),
        sharpe=track.sharpe * year,
        observations=track.n,
        years=track.n / float(found.per_year[best]),
        skewness=track.skewness,
        kurtosis=track.kurtosis,
        trials=n,
        run_trials=len(found.ids),
        ledger_trials=counted,
        correlation=correlation,
        independent=independent,
        spread=math.sqrt(variance) * year,
        benchmark=benchmark * year,
        probabilistic=probabilistic_sharpe(track),
        deflated=deflated_sharpe(track, n, variance),
        needed=minimum_track_record(track, benchmark),
    )
