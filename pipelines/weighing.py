"""A portfolio's weights at every rebalance, each from what the run's periods say of its past."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atc_backtest.accounts import F64, I64
from atc_backtest.errors import ConfigError
from atc_backtest.moments import Spread
from atc_backtest.pipelines.job import PERIODS
from atc_backtest.pipelines.runs import Run
from atc_backtest.weights import Flags, Weighting, shares, turnover


@dataclass(frozen=True)
class Weights:
    """`weights` [symbols, intervals], of the intervals between rebalances, which begin at `starts` (ns).

    `costs`: fraction of the portfolio that each rebalance pays, [intervals].
    """

    symbols: tuple[str, ...]
    starts: I64
    weights: F64
    costs: F64
    turnover: F64


class _Periods:
    """The run's periods of one set as arrays [symbols, periods]; 0 bars where an account has no row."""

    def __init__(self, run: Run, param_id: int, symbols: tuple[str, ...]) -> None:
        columns = ["symbol", "period_ts", "n_bars", "mean", "m2", "start_equity", "end_equity", "end_exposure"]
        rows = run.dataset(PERIODS).to_table(columns=columns, filter=pc.field("param_id") == param_id)
        if rows.num_rows == 0:
            raise ConfigError(f"set {param_id} of {run.path} has no evaluated bar: there is nothing to weigh.")
        self.starts, at = np.unique(rows["period_ts"].cast(pa.int64()).to_numpy(), return_inverse=True)
        place = {symbol: row for row, symbol in enumerate(symbols)}
        where = np.array([place[symbol] for symbol in rows["symbol"].to_pylist()]), at
        shape = len(symbols), self.starts.size
        self.returns = Spread.zeros(*shape)
        self.start, self.end, self.exposure = (np.zeros(shape) for _ in range(3))
        targets = (self.returns.n, self.returns.mean, self.returns.m2, self.start, self.end, self.exposure)
        for name, array in zip(columns[2:], targets, strict=True):
            array[where] = rows[name].to_numpy()

    def volatility(self, stop: int, lookback: int) -> F64:
        """Per bar, of the accounts' returns over the `lookback` periods before period `stop`; NaN: fewer than 2."""
        return self.returns[:, max(0, stop - lookback) : stop].pooled().deviation

    def over(self, start: int, stop: int) -> tuple[F64, F64, F64]:
        """From period `start` to `stop`: growth of every account (1 without bars), its exposure and equity at the end
        (0 without bars)."""
        present = self.returns.n[:, start:stop] > 0
        some = present.any(axis=1)
        rows = np.arange(present.shape[0])
        first = start + present.argmax(axis=1)
        last = stop - 1 - present[:, ::-1].argmax(axis=1)
        began = np.where(some, self.start[rows, first], 1.0)
        ended = np.where(some, self.end[rows, last], 0.0)
        growth = np.where(some & (began > 0), ended / np.where(began > 0, began, 1.0), 1.0)
        return growth, np.where(some, self.exposure[rows, last], 0.0), ended


def weigh(run: Run, weighting: Weighting, param_id: int) -> Weights:
    """The weights of every rebalance, each from what its past says."""
    symbols = run.symbols
    periods = _Periods(run, param_id, symbols)
    n = periods.starts.size
    edges = [*(range(0, n, weighting.rebalance) if weighting.rebalance else [0]), n]
    weights = np.zeros((len(symbols), len(edges) - 1))
    traded = np.zeros(len(edges) - 1)
    for at, (start, stop) in enumerate(pairwise(edges)):
        if at == 0:
            members: Flags = np.any(periods.returns.n[:, : stop if weighting.rebalance else n] > 0, axis=1)
            weights[:, 0] = shares(weighting, members, np.full(len(symbols), np.nan))
            continue
        growth, exposure, worth = periods.over(edges[at - 1], start)
        weights[:, at] = shares(weighting, worth > 0, periods.volatility(start, weighting.lookback))
        drifted = weights[:, at - 1] * growth
        total = drifted.sum() + 1 - weights[:, at - 1].sum()
        if total > 0:
            traded[at] = turnover(drifted / total, weights[:, at], exposure)
    starts = periods.starts[edges[:-1]]
    return Weights(symbols, starts, weights, traded * weighting.cost_bps / 10_000, traded)
