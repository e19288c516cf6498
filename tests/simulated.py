"""What guards are tested on: trials of which every period holds one return, and a run of six sets over three walks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from filling import fill_store
from numpy.typing import NDArray
from prices import tick_walk

from atc_backtest.config import AtcConfig, PerFamily, RunConfig
from atc_backtest.moments import Moments
from atc_backtest.pipelines.backtest import Options, backtest
from atc_backtest.pipelines.runs import Run
from atc_backtest.resampling import Trials


def trials_of(returns: NDArray[np.float64], per_year: float = 1.0) -> Trials:
    """Trials of `returns` [trial, period]; ids count from 0."""
    zero = np.zeros(returns.shape)
    moments = Moments(np.ones(returns.shape), returns, zero, zero, zero)
    n_trials, n_periods = returns.shape
    return Trials(np.arange(n_trials), np.arange(n_periods), moments, np.log1p(returns), np.full(n_trials, per_year))


SYMBOLS, BARS = 3, 2400


def grid() -> list[RunConfig]:
    """Six sets without costs: two lengths, three thresholds."""
    return [
        RunConfig(AtcConfig(lengths=PerFamily(*[length] * 6), long_threshold=threshold), calendar="24/7")
        for length in (20, 28)
        for threshold in (0.1, 0.3, 0.6)
    ]


def fill_hundred_days(path: Path) -> None:
    """A store of a hundred days of hours; one symbol is listed late, another has gaps."""
    close = np.stack([tick_walk(BARS, seed) for seed in range(SYMBOLS)])
    close[1, : BARS // 3] = np.nan
    close[2, 100::13] = np.nan
    fill_store(path, close)


def run_grid(store: Path) -> Run:
    """The grid over it, with series and days kept."""
    saves = ("signals", "equity", "periods")
    return backtest(store, store.parent / "run", grid(), Options(save=saves, period="day", kernel="numba"))
