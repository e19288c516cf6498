"""What many trials are worth: Sharpe ratios held against the luck of trying often.

A trial is one parameter set. Its returns are known by their moments alone, a piece of time each.

Sharpe ratios are per observation here, not annualised, as in the papers: Bailey and López de Prado, "The Sharpe
Ratio Efficient Frontier" (2012), of the probabilistic Sharpe ratio and the minimum track record, and "The Deflated
Sharpe Ratio" (2014). Kurtosis is 3 for a normal distribution. Undefined is NaN in arrays and None of one trial.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from atc_backtest.accounts import F64
from atc_backtest.errors import ConfigError
from atc_backtest.moments import Moments

EULER = 0.5772156649015329
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Track:
    """One trial's record: `n` returns, their Sharpe ratio per return, skewness and kurtosis (3: normal)."""

    n: int
    sharpe: float
    skewness: float
    kurtosis: float

    @classmethod
    def of(cls, piece: Moments) -> Track | None:
        """Of a single piece; None where its Sharpe ratio is undefined."""
        n, m2, sharpe = float(piece.n), float(piece.m2), float(piece.sharpe)
        if math.isnan(sharpe):
            return None
        return cls(int(n), sharpe, float(piece.m3) / n / (m2 / n) ** 1.5, n * float(piece.m4) / m2**2)

    @property
    def spread(self) -> float:
        """Variance of the estimated Sharpe ratio, times n - 1."""
        return 1 - self.skewness * self.sharpe + (self.kurtosis - 1) / 4 * self.sharpe**2


def probabilistic_sharpe(track: Track, benchmark: float = 0.0) -> float | None:
    """The probability that the true Sharpe ratio exceeds `benchmark` (per return); None where it has no spread."""
    if track.n < 2 or track.spread <= 0:
        return None
    return _NORMAL.cdf((track.sharpe - benchmark) * math.sqrt(track.n - 1) / math.sqrt(track.spread))


def minimum_track_record(track: Track, benchmark: float = 0.0, confidence: float = 0.95) -> float | None:
    """Returns needed before the true Sharpe ratio exceeds `benchmark` with `confidence`; None if it never will."""
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence = {confidence:g} is not allowed: between 0 and 1, such as 0.95.")
    if track.sharpe <= benchmark or track.spread <= 0:
        return None
    ratio = _NORMAL.inv_cdf(confidence) / (track.sharpe - benchmark)
    needed = 1 + track.spread * (ratio * ratio)
    return needed if math.isfinite(needed) else None


def expected_maximum(n_trials: float, variance: float) -> float:
    """The best Sharpe ratio to expect of `n_trials` independent trials without any skill.

    `variance`: of the Sharpe ratios over trials. One trial: 0, there was nothing to choose from.
    """
    if not n_trials >= 1:
        raise ConfigError(f"trials = {n_trials:g} is not allowed: at least 1.")
    if n_trials == 1 or variance <= 0:
        return 0.0
    best = (1 - EULER) * _NORMAL.inv_cdf(1 - 1 / n_trials) + EULER * _NORMAL.inv_cdf(1 - 1 / (n_trials * math.e))
    return max(0.0, math.sqrt(variance) * best)


def deflated_sharpe(track: Track, n_trials: float, variance: float) -> float | None:
    """The probabilistic Sharpe ratio of the best trial against the best that luck alone would have brought."""
    return probabilistic_sharpe(track, expected_maximum(n_trials, variance))


def mean_correlation(returns: F64) -> float | None:
    """Mean correlation over all pairs of trials, [trial, period], without a matrix of pairs.

    Trials that never move are left out; None with fewer than two others.
    """
    centred = returns - returns.mean(axis=1, keepdims=True)
    norms = np.sqrt((centred**2).sum(axis=1))
    moving = norms > 0
    n = int(moving.sum())
    if n < 2:
        return None
    together = (centred[moving] / norms[moving, None]).sum(axis=0)
    return float(((together**2).sum() - n) / (n * (n - 1)))


def independent_trials(n_trials: float, correlation: float) -> float:
    """As how many independent trials so many correlated ones count: between 1 and `n_trials` (2014, appendix 3)."""
    share = min(max(correlation, 0.0), 1.0)
    return share + (1 - share) * n_trials
