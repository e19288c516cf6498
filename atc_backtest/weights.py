"""How much of a portfolio each symbol gets: pure rules on what was known before.

A portfolio holds an account a symbol, each traded as in the backtest. At a rebalance its value is divided anew; in
between the accounts run on, so the portfolio is a sum of equities and not a mean of ratios.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atc_backtest.errors import ConfigError

F64 = NDArray[np.float64]
Flags = NDArray[np.bool_]

RULES = ("equal", "volatility")


@dataclass(frozen=True)
class Weighting:
    """`rule`: equal, or volatility (proportional to 1 / volatility of the account over `lookback` periods).

    `cap`: the most that one symbol gets, a fraction; what is cut goes to the others, and stays cash where all are
    at the cap. `rebalance`: every so many periods; 0 is never. `cost_bps`: of the value that a rebalance trades.
    """

    rule: str = "equal"
    cap: float | None = None
    rebalance: int = 1
    lookback: int = 12
    cost_bps: float = 0.0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ConfigError(f"weights = {self.rule!r} is not known: choose from {', '.join(RULES)}.")
        if self.cap is not None and not 0 < self.cap <= 1:
            raise ConfigError(f"cap = {self.cap:g} is not allowed: more than 0, at most 1.")
        if self.rebalance < 0:
            raise ConfigError(f"rebalance = {self.rebalance} is not allowed: periods between, or 0 for never.")
        if self.lookback < 1:
            raise ConfigError(f"lookback = {self.lookback} is not allowed: at least 1 period.")
        if not 0 <= self.cost_bps < 10_000:
            raise ConfigError(f"cost = {self.cost_bps:g} bps is not allowed: at least 0, less than 10000.")
        if self.rule == "volatility" and self.rebalance == 0:
            raise ConfigError("weights by volatility need a past: rebalance at least once, or weight equally.")


def shares(weighting: Weighting, members: Flags, volatility: F64) -> F64:
    """Weights, [symbols], at least 0 and in sum at most 1; 0 for those that are no members.

    `volatility`: as known when the weights are set; NaN or 0 where an account has none (it was never in the market),
    which then counts as the median of the others'. Where no member has any, weights are equal.
    """
    weights = members.astype(np.float64)
    known = members & (volatility > 0)
    if weighting.rule == "volatility" and known.any():
        usual = float(np.median(volatility[known]))
        weights[members] = 1 / np.where(known, volatility, usual)[members]
    if weights.any():
        weights /= weights.sum()
    return weights if weighting.cap is None else capped(weights, weighting.cap)


def capped(weights: F64, cap: float) -> F64:
    """`weights` with none above `cap`: the excess goes to the others in proportion, until all are at the cap."""
    weights = weights.copy()
    total = weights.sum()
    at_cap = np.zeros(weights.size, bool)
    while (over := (weights > cap) & ~at_cap).any():
        at_cap |= over
        weights[at_cap] = cap
        free = ~at_cap & (weights > 0)
        if free.any():
            weights[free] = weights[free] / weights[free].sum() * (total - cap * at_cap.sum())
    return weights


def turnover(drifted: F64, weights: F64, exposure: F64) -> float:
    """What is traded to go from one set of weights to another, as a fraction of the portfolio's value.

    `exposure`: market value held by each account over its equity: a flat account moves at no cost.
    """
    return float((np.abs(weights - drifted) * np.abs(exposure)).sum())
