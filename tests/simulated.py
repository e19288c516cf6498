"""Trials for tests: every period holds one return."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from atc_backtest.resampling import Trials
from atc_backtest.trials import Moments


def trials_of(returns: NDArray[np.float64], per_year: float = 1.0) -> Trials:
    """Trials of `returns` [trial, period]; ids count from 0."""
    zero = np.zeros(returns.shape)
    moments = Moments(np.ones(returns.shape), returns, zero, zero, zero)
    n_trials, n_periods = returns.shape
    return Trials(np.arange(n_trials), np.arange(n_periods), moments, np.log1p(returns), np.full(n_trials, per_year))
