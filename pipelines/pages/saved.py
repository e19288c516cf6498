"""What a run holds of one symbol and set where its prices are gone: figures, and what was named by --save."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from atc_backtest.accounts import REASONS, TRADE
from atc_backtest.pipelines.calendar_returns import saved_rows
from atc_backtest.pipelines.job import PERIODS, SERIES
from atc_backtest.pipelines.pages.histogram import Distribution, Histogram
from atc_backtest.pipelines.pages.recomputing import KeptTrades, Series, returns_of, under_water
from atc_backtest.pipelines.pages.sampling import NearAndFar, Sampled
from atc_backtest.pipelines.runs import Run


def not_saved(run: Run) -> str:
    """What a page without prices does not show, in words: what is of the prices, and what was not saved."""
    unsaved = [name for name in SERIES if name not in run.datasets]
    more = f", nor {', '.join(unsaved)}, which the run did not save" if unsaved else ""
    return f"without closes, buy-and-hold's curve, exposure and what is of the six families{more}"


def saved_series(run: Run, row: dict[str, Any]) -> Series:
    """Equity, drawdown and returns, signal and targets, trades, periods: each where it was saved, else empty.

    `row`: of metrics/.
    """
    mine = (pc.field("symbol") == row["symbol"]) & (pc.field("param_id") == row["param_id"])
    n_bars = row["n_bars"]
    if "signals" in run.datasets:
        n_bars = run.dataset("signals").count_rows(filter=mine)
    sampled, near, returns = _equity(run, mine, n_bars, run.sets[row["param_id"]].execution.start_equity)
    if "signals" in run.datasets:
        far, close = _signals(run, mine, n_bars)
        sampled = replace(far, lines=sampled.lines | far.lines)
        near = replace(close, lines=near.lines | close.lines) if near is not None and close is not None else None
    trades = KeptTrades()
    if "trades" in run.datasets:
        for batch in run.dataset("trades").to_batches(filter=mine):
            trades.add(_records(batch))
    periods = saved_rows(run, row["symbol"], row["param_id"]) if PERIODS in run.datasets else []
    return Series(sampled, near, periods, trades.kept(), trades.n, trades.step, returns, row)


def _equity(
    run: Run, mine: pc.Expression, n_bars: int, start: float
) -> tuple[Sampled, Sampled | None, Distribution | None]:
    """Lines of equity and drawdown, far and near, empty where not saved, and how returns are distributed."""
    sampler, histogram, last, peak = NearAndFar(n_bars, ("equity", "drawdown"), ()), Histogram(), start, start
    if "equity" in run.datasets:
        for batch in run.dataset("equity").to_batches(filter=mine, columns=["ts", "equity"]):
            equity = batch["equity"].to_numpy()
            drawdown, peak = under_water(equity, peak)
            sampler.add(batch["ts"].cast(pa.int64()).to_numpy(), np.stack([equity, drawdown]))
            returns, last = returns_of(equity, last)
            histogram.add(returns)
    return *sampler.finish(), histogram.finish()


def _signals(run: Run, mine: pc.Expression, n_bars: int) -> tuple[Sampled, Sampled | None]:
    """The signal as a line; the shares of bars at whose close the target is long, and short, as means."""
    sampler = NearAndFar(n_bars, ("signal",), ("long", "short"))
    for batch in run.dataset("signals").to_batches(filter=mine, columns=["ts", "signal", "position"]):
        signal, position = (batch[name].to_numpy(zero_copy_only=False) for name in ("signal", "position"))
        sampler.add(batch["ts"].cast(pa.int64()).to_numpy(), np.stack([signal, position > 0, position < 0]))
    return sampler.finish()


def _records(batch: pa.RecordBatch) -> NDArray[np.void]:
    """Rows of trades/ as `TRADE`; an open trade ends where it began, its exit is not saved."""
    records = np.zeros(batch.num_rows, TRADE)
    for name in set(TRADE.names or ()) & set(batch.schema.names):
        column = batch[name]
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.int64())
        if name == "side":
            records[name] = np.where(np.array(column.to_pylist()) == "long", 1, -1)
        else:
            records[name] = column.fill_null(0).to_numpy(zero_copy_only=False)
    records["exit_ts"] = np.maximum(records["exit_ts"], records["entry_ts"])
    reasons = {reason: code for code, reason in enumerate(REASONS)}
    records["reason"] = [reasons.get(reason, 0) for reason in batch["exit_reason"].to_pylist()]
    return records
