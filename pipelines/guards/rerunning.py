"""The guards that run a set again under other conditions: costs, and fills that come later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa

from atc_backtest.config import RunConfig
from atc_backtest.errors import ConfigError, StoreError
from atc_backtest.pipelines.backtest import Options, Progress, backtest
from atc_backtest.pipelines.runs import Run, job_of
from atc_backtest.stores.opening import open_store
from atc_backtest.symbol_costs import SymbolCosts


@dataclass(frozen=True)
class Case:
    """One condition over all symbols, of the figures that are defined: mean `sharpe`, median `total_return`.

    `value`: the fee in basis points a side, or the bars of delay. `profitable`: share of the symbols with a gain.
    `trades`: mean number of closed ones.
    """

    value: float
    sharpe: float | None
    total_return: float | None
    profitable: float
    trades: float


@dataclass(frozen=True)
class CostTable:
    """`break_even`: the fee at which the mean Sharpe ratio is 0, between two that were run; None outside of them."""

    param_id: int
    symbols: int
    slippage_bps: float
    cases: tuple[Case, ...]
    break_even: float | None


@dataclass(frozen=True)
class DelayTable:
    """`kept`: the Sharpe ratio with the longest delay over that without one; None unless that is above 0."""

    param_id: int
    symbols: int
    cases: tuple[Case, ...]
    kept: float | None


def best_set(run: Run, param_id: int | None = None) -> int:
    """`param_id`, or that of the set with the best mean Sharpe ratio over symbols (undefined ones count as 0).

    `ConfigError` for a set that the run does not have.
    """
    n_sets = len(run.manifest["sets"])
    if param_id is not None:
        if not 0 <= param_id < n_sets:
            raise ConfigError(f"--set-id {param_id} is not in {run.path}: it has sets 0 to {n_sets - 1}.")
        return param_id
    table = run.dataset().to_table(columns=["param_id", "sharpe"])
    ids, sharpe = table["param_id"].to_numpy(), np.nan_to_num(table["sharpe"].to_numpy())
    n = np.maximum(np.bincount(ids, minlength=n_sets), 1)
    return int(np.argmax(np.bincount(ids, sharpe, minlength=n_sets) / n))


def cost_table(
    run: Run, fees_bps: Sequence[float], param_id: int | None = None, threads: int | None = None
) -> CostTable:
    """One set of the run with other fees, for all symbols alike, all else equal. `ConfigError` without a fee."""
    fees = sorted(set(fees_bps))
    if not fees:
        raise ConfigError("--fee-bps names no fee: write some, such as 0,2,5,10,20.")
    chosen = best_set(run, param_id)
    config = run.sets[chosen]
    sets = [replace(config, execution=replace(config.execution, fee_bps=fee)) for fee in fees]
    costs = [row._replace(fee_bps=None) for row in costs_of(run)]
    cases = _cases(run, sets, fees, costs, threads)
    symbols = run.symbols
    return CostTable(chosen, len(symbols), config.execution.slippage_bps, cases, _crossing(cases))


def delay_table(run: Run, bars: Sequence[int], param_id: int | None = None, threads: int | None = None) -> DelayTable:
    """One set of the run with fills `bars` later than decided; 0, now, is always there."""
    delays = sorted({0, *bars})
    chosen = best_set(run, param_id)
    config = run.sets[chosen]
    sets = [replace(config, execution=replace(config.execution, delay_bars=n)) for n in delays]
    cases = _cases(run, sets, delays, costs_of(run), threads)
    now, then = cases[0].sharpe, cases[-1].sharpe
    kept = then / now if now is not None and then is not None and now > 0 else None
    return DelayTable(chosen, len(run.symbols), cases, kept)


def check_prices(run: Run) -> None:
    """`StoreError` unless the store is as it was when the run began: other prices give other figures."""
    begun = run.manifest["store"]
    info = open_store(begun["path"]).info
    if (info.id, info.version) != (begun["id"], begun["version"]):
        raise StoreError(
            f"{run.path} began with version {begun['version']} of {begun['path']}, which now is "
            f"{'version ' + str(info.version) if info.id == begun['id'] else 'another store'}: run it again first."
        )


def costs_of(run: Run) -> tuple[SymbolCosts, ...]:
    """Of single symbols, as the run was charged."""
    return job_of(run, run.manifest["kernel"]).costs


def _cases(
    run: Run, sets: Sequence[RunConfig], values: Sequence[float], costs: Sequence[SymbolCosts], threads: int | None
) -> tuple[Case, ...]:
    """The sets over the run's symbols, in a folder that is thrown away; they count as no trials."""
    check_prices(run)
    options = Options(
        kernel=run.manifest["kernel"], symbols=run.symbols, threads=threads, ledger=False, costs=tuple(costs)
    )
    with TemporaryDirectory(prefix="atc-guard-") as folder:
        again = backtest(run.manifest["store"]["path"], Path(folder) / "run", sets, options, Progress())
        if again.state != "complete":
            raise StoreError(f"{run.path}: not all symbols could be run again: {again.set_aside[0].error}")
        table = again.table()
    return tuple(_case(table, param_id, value) for param_id, value in enumerate(values))


def _case(table: pa.Table, param_id: int, value: float) -> Case:
    rows = table.select(["param_id", "sharpe", "total_return", "trades"]).to_pylist()
    mine = [row for row in rows if row["param_id"] == param_id]
    returns = [row["total_return"] for row in mine if row["total_return"] is not None]
    return Case(
        value,
        _mean([row["sharpe"] for row in mine if row["sharpe"] is not None]),
        float(np.median(returns)) if returns else None,
        sum(one > 0 for one in returns) / len(returns) if returns else 0.0,
        _mean([row["trades"] or 0 for row in mine]) or 0.0,
    )


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _crossing(cases: Sequence[Case]) -> float | None:
    """Where the mean Sharpe ratio goes through 0 for the first time, on straight lines between the cases."""
    known = [(case.value, case.sharpe) for case in cases if case.sharpe is not None]
    for (fee, now), (next_fee, then) in pairwise(known):
        if now > 0 >= then:
            return fee + (next_fee - fee) * now / (now - then)
    return None
