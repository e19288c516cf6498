"""Returns by calendar period of one symbol and set, from the run's periods: any longer period, and rolling ones."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atc_backtest.errors import ConfigError
from atc_backtest.metrics import relative_figures
from atc_backtest.moments import Comoments
from atc_backtest.periods import PERIODS as UNITS
from atc_backtest.periods import check_period, period_starts
from atc_backtest.pipelines.benchmark import against
from atc_backtest.pipelines.job import PERIODS
from atc_backtest.pipelines.parts import TS
from atc_backtest.pipelines.runs import Run

Row = dict[str, Any]


def by_period(
    run: Run, symbol: str, param_id: int = 0, by: str | None = None, rolling: int = 1, benchmark: str | None = None
) -> pa.Table:
    """A row a period that holds evaluated bars, in order of time.

    period_ts; n_bars; total_return and hold_return of the account and of buy-and-hold; volatility and sharpe, a year;
    exposure, trades, fees_paid; beta, alpha, correlation, tracking_error, information_ratio against buy-and-hold.
    `by`: a period as long as the one that the run saved, or longer. `rolling`: figures over so many periods up to
    each one, null for the first ones. `benchmark`: a symbol that is held instead of this one, see `benchmark.against`.
    Undefined is null. `ConfigError` for what the run does not have.
    """
    saved = run.manifest["period"]
    by = check_period(by or saved)
    if PERIODS not in run.datasets:
        raise ConfigError(f"{run.path} has no periods: run again with --save periods.")
    if UNITS.index(by) < UNITS.index(saved) or (saved == "week" and by != "week"):
        raise ConfigError(f"--by {by}: the run saved periods of a {saved}, which do not add up to that.")
    if rolling < 1:
        raise ConfigError(f"--rolling {rolling} is not allowed: at least 1 period.")
    rows = saved_rows(run, symbol, param_id)
    if not rows:
        raise ConfigError(f"{symbol}, set {param_id}: no evaluated bar in {run.path}. Is it a symbol of the run?")
    if benchmark is not None:
        against(run, symbol, param_id, benchmark, rows)
    config = run.sets[param_id]
    bars = run.manifest["sets"][param_id]["bars_per_year"]
    periods = by_unit(rows, by)
    found = []
    for at, one in enumerate(periods):
        window = periods[at + 1 - rolling : at + 1] if at + 1 >= rolling else []
        row = _figures(merged(window), config.rf, bars) if window else {}
        found.append({"period_ts": one["period_ts"]} | row)
    return pa.Table.from_pylist(found, schema=_SCHEMA)


_SCHEMA = pa.schema(
    [
        ("period_ts", TS),
        ("n_bars", pa.int64()),
        ("total_return", pa.float64()),
        ("hold_return", pa.float64()),
        ("volatility", pa.float64()),
        ("sharpe", pa.float64()),
        ("exposure", pa.float64()),
        ("trades", pa.int64()),
        ("fees_paid", pa.float64()),
        ("beta", pa.float64()),
        ("alpha", pa.float64()),
        ("correlation", pa.float64()),
        ("tracking_error", pa.float64()),
        ("information_ratio", pa.float64()),
    ]
)


def saved_rows(run: Run, symbol: str, param_id: int) -> list[Row]:
    """What periods/ has of one account, in order of time; times as ns."""
    mine = (pc.field("symbol") == symbol) & (pc.field("param_id") == param_id)
    table = run.dataset(PERIODS).to_table(filter=mine).sort_by("period_ts")
    at = table.column_names.index("period_ts")
    rows: list[Row] = table.set_column(at, "period_ts", table["period_ts"].cast(pa.int64())).to_pylist()
    return rows


def by_unit(rows: list[Row], unit: str) -> list[Row]:
    """Periods, in order, as longer ones: each has `period_ts`, its beginning."""
    if not rows:
        return []
    ts = np.array([row["period_ts"] for row in rows], np.int64)
    starts = period_starts(ts, unit)
    edges = np.searchsorted(ts, starts).tolist()
    groups = [merged(rows[start:stop]) for start, stop in pairwise(edges)]
    return [row | {"period_ts": int(start)} for row, start in zip(groups, starts, strict=False)]


def merged(rows: list[Row]) -> Row:
    """Neighbouring periods as one: columns of `PERIOD_COLUMNS` but m3 and m4."""
    first, last = rows[0], rows[-1]
    return {
        "period_ts": first["period_ts"],
        "start_equity": first["start_equity"],
        "end_equity": last["end_equity"],
        **{name: sum(row[name] for row in rows) for name in ("held", "trades", "traded", "fees_paid")},
        "end_exposure": last["end_exposure"],
        "hold_return": math.prod(1 + row["hold_return"] for row in rows) - 1,
        **Comoments.of_rows(rows).pooled().row(),
    }


def _figures(period: Row, rf: float, bars_per_year: float) -> Row:
    n = period["n_bars"]
    deviation = math.sqrt(period["m2"] / (n - 1)) if n > 1 else None
    return {
        "n_bars": n,
        "total_return": period["end_equity"] / period["start_equity"] - 1,
        "hold_return": period["hold_return"],
        "volatility": None if deviation is None else deviation * math.sqrt(bars_per_year),
        "sharpe": sharpe(period, rf, bars_per_year),
        "exposure": period["held"] / n,
        "trades": period["trades"],
        "fees_paid": period["fees_paid"],
        **relative_figures(period, rf, bars_per_year),
    }


def sharpe(row: Row, rf: float, bars_per_year: float) -> float | None:
    """Of a period, a year; None where it has no spread."""
    if row["n_bars"] < 2 or row["m2"] <= 0:
        return None
    deviation = math.sqrt(row["m2"] / (row["n_bars"] - 1))
    return float((row["mean"] - rf) / deviation * math.sqrt(bars_per_year))
