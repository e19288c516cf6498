"""Equity at the end of each saved period, for sparklines."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from atc_backtest.pipelines.job import PERIODS
from atc_backtest.pipelines.runs import Run


def equity_curves(run: Run, rows: pa.Table) -> dict[tuple[str, int], list[float]]:
    """By symbol and set of `rows`, of metrics/: equities in order of time. Empty where the run saved no periods."""
    if PERIODS not in run.datasets:
        return {}
    wanted = pc.field("symbol").isin(rows["symbol"].unique()) & pc.field("param_id").isin(rows["param_id"].unique())
    columns = ["symbol", "param_id", "period_ts", "end_equity"]
    table = run.dataset(PERIODS).to_table(columns=columns, filter=wanted).sort_by("period_ts")
    keys = zip(rows["symbol"].to_pylist(), rows["param_id"].to_pylist(), strict=True)
    curves: dict[tuple[str, int], list[float]] = {key: [] for key in keys}
    for symbol, param_id, _, equity in zip(*(table[name].to_pylist() for name in columns), strict=True):
        if (symbol, param_id) in curves:
            curves[symbol, param_id].append(equity)
    return curves
