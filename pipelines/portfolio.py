"""A portfolio over a run's symbols, by bars: weights from the run's periods, then one more pass over the prices.

The first pass is the run's own `periods` dataset: what every account was worth and held where a period began. From
it all weights are known. Between two rebalances the portfolio is then a sum over symbols of weight times growth of
the account, so the second pass is linear: every block of symbols gives its sum, and the sums add up. They are kept as
whole and fractional part in integers, which add exactly: the result does not depend on the order of work or on how
symbols are cut into tasks. Memory: some 150 bytes for each bar and task, and of symbols x periods.

The rules
- Members at a rebalance are the accounts that had bars in the interval before and are not ruined; at the first, and
  where the portfolio is never rebalanced, all that have bars in the first interval, or at any time.
- A rebalance happens at the last close before its period, on what was known there. An account that has no bars yet,
  or no more, is cash.
- What a rebalance trades (change of weight times exposure of the account) pays `cost_bps`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from atc_backtest.accounts import Rules, new_accounts
from atc_backtest.errors import ConfigError, StoreError
from atc_backtest.kernels.protocol import warmup_bars
from atc_backtest.metrics import figures, relative_figures
from atc_backtest.moments import Comoments
from atc_backtest.pipelines.accounting import compiled_sums
from atc_backtest.pipelines.backtest import Options
from atc_backtest.pipelines.benchmark import carried_closes
from atc_backtest.pipelines.commits import write_json
from atc_backtest.pipelines.job import PERIODS
from atc_backtest.pipelines.parts import TS
from atc_backtest.pipelines.runs import Run, job_of, prices_of
from atc_backtest.pipelines.scratch import PORTFOLIO, scratch
from atc_backtest.pipelines.summing import summed
from atc_backtest.pipelines.weighing import Weights, weigh
from atc_backtest.weights import Weighting

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

FOLDER = "portfolios"


@dataclass(frozen=True)
class Portfolio:
    """`series`: ts, equity, gross and net exposure (of equity), benchmark (equity of buy-and-hold), a row a bar.

    `figures`: those of metrics/ that a portfolio has, and what sets it against its benchmark.
    """

    path: Path
    weighting: Weighting
    param_id: int
    benchmark: str | None
    figures: dict[str, Any]
    series: pa.Table
    weights: Weights


def weighting_of(
    run: Run, param_id: int, rule: str, cap: float | None, rebalance: int, lookback: int, cost_bps: float | None
) -> Weighting:
    """A weighting whose costs are, unless given, fee and slippage of the run's set."""
    _check_set(run, param_id)
    execution = run.sets[param_id].execution
    own = execution.fee_bps + execution.slippage_bps
    return Weighting(rule, cap, rebalance, lookback, own if cost_bps is None else cost_bps)


def portfolio(
    run: Run,
    weighting: Weighting,
    param_id: int = 0,
    benchmark: str | None = None,
    name: str | None = None,
    options: Options | None = None,
    show: Callable[[int, int], None] = lambda done, total: None,
) -> Portfolio:
    """The portfolio of one parameter set over all symbols of a complete run, written to RUN/portfolios/NAME.

    `benchmark`: a symbol of the run; None: buy-and-hold of the same symbols with the same weights. `options` say
    where it is computed. `ConfigError` for a run without periods or a set it lacks; `StoreError` for a run that is
    not complete, for prices that are gone, and for a name that is taken (unless `options.overwrite`).
    """
    options = options or Options()
    _check(run, param_id, benchmark)
    target = run.path / FOLDER / (name or _name(weighting, param_id, benchmark))
    if target.exists() and not options.overwrite:
        raise StoreError(f"{target} is there already: name another with --name, or replace it with --overwrite.")
    weights = weigh(run, weighting, param_id)
    sums = summed(run, weights, param_id, options, show)
    found = _figured(run, weighting, param_id, benchmark, weights, sums)
    return _written(replace(found, path=target))


def _check(run: Run, param_id: int, benchmark: str | None) -> None:
    if run.state != "complete":
        raise StoreError(f"{run.path} is {run.state}: a portfolio needs every symbol; continue it with --resume.")
    if PERIODS not in run.datasets:
        raise ConfigError(f"{run.path} has no periods, from which weights are made: run again with --save periods.")
    _check_set(run, param_id)
    symbols = run.symbols
    if benchmark is not None and benchmark not in symbols:
        raise ConfigError(f"--benchmark {benchmark}: the run has {', '.join(symbols[:20])}.")


def _check_set(run: Run, param_id: int) -> None:
    if not 0 <= param_id < len(run.sets):
        raise ConfigError(f"--param-id {param_id}: the run has sets 0 to {len(run.sets) - 1}.")


def _name(weighting: Weighting, param_id: int, benchmark: str | None) -> str:
    cap = "" if weighting.cap is None else f"-cap{weighting.cap:g}"
    every = "never" if weighting.rebalance == 0 else f"every{weighting.rebalance}"
    return f"{weighting.rule}{cap}-{every}-set{param_id}" + (f"-vs-{benchmark}" if benchmark else "")


def _figured(
    run: Run, weighting: Weighting, param_id: int, benchmark: str | None, weights: Weights, sums: F64
) -> Portfolio:
    job = job_of(run, run.manifest["kernel"])
    store = prices_of(job)
    info = store.info
    rules = Rules.of(job.sets[param_id], warmup_bars(job.sets[param_id].atc), "open" in info.fields, info.bar_ns)
    spans = run.dataset().to_table(columns=["start_ts", "end_ts"], filter=pc.field("param_id") == param_id)
    first, last = (pc.min_max(spans[name].cast(pa.int64())) for name in ("start_ts", "end_ts"))
    ts = store.ts(0, store.info.n_bars)
    bars = slice(int(np.searchsorted(ts, first["min"].as_py())), int(np.searchsorted(ts, last["max"].as_py())) + 1)
    ts, sums = ts[bars], sums[:, bars]
    interval = np.searchsorted(weights.starts, ts, side="right") - 1
    cash = 1 - weights.weights.sum(axis=0)[interval]
    relative = sums + np.array([1, 0, 0, 1])[:, None] * cash
    free = np.zeros_like(weights.costs)
    equity = _chained(relative[0], interval, weights.costs) * rules.start_equity
    if benchmark is None:
        market = _chained(relative[3], interval, free) * rules.start_equity
    else:
        close = carried_closes(store, benchmark)[bars]
        market = close / close[0] * rules.start_equity
    worth = np.where(relative[0] > 0, relative[0], np.nan)
    series = pa.table(
        {
            "ts": pa.array(ts).cast(TS),
            "equity": equity,
            "gross": np.nan_to_num(relative[1] / worth),
            "net": np.nan_to_num(relative[2] / worth),
            "benchmark": market,
        }
    )
    found = _figures(series, rules, job.bars_per_year[param_id], weights)
    return Portfolio(run.path, weighting, param_id, benchmark, found, series, weights)


def _chained(relative: F64, interval: I64, costs: F64) -> F64:
    """Values relative to the start of each interval, one after another, less what rebalances cost."""
    edges = [0, *(np.flatnonzero(np.diff(interval)) + 1), interval.size]
    values = np.empty(interval.size)
    worth = 1.0
    for start, stop in pairwise(edges):
        worth *= 1 - costs[interval[start]]
        values[start:stop] = worth * relative[start:stop]
        worth = float(values[stop - 1])
    return values


PORTFOLIO_FIGURES = (
    *("n_bars", "start_ts", "end_ts", "total_return", "cagr", "volatility", "sharpe", "sortino", "max_drawdown"),
    *("max_drawdown_bars", "max_drawdown_recovered", "calmar", "exposure", "buy_hold_return", "buy_hold_max_drawdown"),
    "final_equity",
)
"""Columns of metrics/ that a portfolio has; buy_hold is its benchmark, exposure the share of bars with a position."""


def _figures(series: pa.Table, rules: Rules, bars_per_year: float, weights: Weights) -> dict[str, Any]:
    ts, equity, gross, net = (series[name].to_numpy() for name in ("ts", "equity", "gross", "net"))
    market = series["benchmark"].to_numpy()
    account = new_accounts(rules, 1)
    compiled_sums()(account[0], rules, ts.astype(np.int64), market, equity, 0, ts.size)
    account["held"] = np.count_nonzero(gross)
    found = figures(account[0], rules, bars_per_year)
    r = np.diff(equity, prepend=rules.start_equity) / np.concatenate([[rules.start_equity], equity[:-1]])
    b = market / np.concatenate([market[:1], market[:-1]]) - 1
    return {
        **{name: found[name] for name in PORTFOLIO_FIGURES},
        **relative_figures(Comoments.of(r, b).row(), rules.rf, bars_per_year),
        "mean_gross": float(gross.mean()),
        "max_gross": float(gross.max()),
        "mean_net": float(net.mean()),
        "rebalances": int(weights.starts.size - 1),
        "rebalance_turnover": float(weights.turnover.sum()),
        "rebalance_costs": float(1 - np.prod(1 - weights.costs)),
    }


def _written(found: Portfolio) -> Portfolio:
    """series.parquet, weights.parquet and portfolio.json under the portfolio's name, all at once."""
    parent = found.path.parent
    parent.mkdir(exist_ok=True)
    weights = found.weights
    intervals, rows = np.nonzero(weights.weights.T)
    table = pa.table(
        {
            "ts": pa.array(weights.starts[intervals]).cast(TS),
            "symbol": pa.array(weights.symbols).take(pa.array(rows)),
            "weight": weights.weights[rows, intervals],
        }
    )
    with scratch(parent, PORTFOLIO) as folder:
        made = folder / "made"
        made.mkdir()
        pq.write_table(found.series, made / "series.parquet", compression="zstd")
        pq.write_table(table, made / "weights.parquet", compression="zstd")
        about = {"weighting": asdict(found.weighting), "param_id": found.param_id, "benchmark": found.benchmark}
        write_json(made / "portfolio.json", about | {"figures": found.figures})
        if found.path.exists():
            shutil.rmtree(found.path)
        made.rename(found.path)
    return found
