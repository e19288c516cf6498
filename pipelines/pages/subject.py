"""Which symbol and set a page is about, and what is known of them: computed again, or what the run holds itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from atc_backtest.errors import ConfigError, StoreError
from atc_backtest.pipelines.pages.recomputing import Series, recompute
from atc_backtest.pipelines.pages.saved import saved_series
from atc_backtest.pipelines.report import Selection, report_table
from atc_backtest.pipelines.runs import Run


@dataclass(frozen=True)
class Subject:
    """`table`: all metrics, by Sharpe ratio. `row`: the subject's. `gone`: why prices could not be read, or None."""

    run: Run
    table: pa.Table
    row: dict[str, Any]
    series: Series
    gone: str | None
    named: bool
    """Whether somebody named the symbol, or it is the best by Sharpe ratio."""

    @property
    def symbol(self) -> str:
        return str(self.row["symbol"])

    @property
    def param_id(self) -> int:
        return int(self.row["param_id"])


def subject_of(
    run: Run,
    symbol: str | None = None,
    param_id: int | None = None,
    show: Callable[[int, int], None] = lambda done, total: None,
) -> Subject:
    """The row of the highest Sharpe ratio among those of `symbol` and `param_id`, where given, and its series.

    `ConfigError` where the run has no such row; `StoreError` where nothing is committed yet.
    """
    table = report_table(run, Selection())
    row = _best(run, table, symbol, param_id)
    gone = None
    try:
        series = recompute(run, row["symbol"], row["param_id"], show)
    except StoreError as error:
        series, gone = saved_series(run, row), str(error)
    return Subject(run, table, row, series, gone, symbol is not None)


def _best(run: Run, table: pa.Table, symbol: str | None, param_id: int | None) -> dict[str, Any]:
    found = table
    if symbol is not None:
        found = found.filter(pc.equal(found["symbol"], symbol))
        if found.num_rows == 0:
            some = ", ".join(sorted(set(table["symbol"].to_pylist()))[:20])
            raise ConfigError(f"--symbol {symbol}: not among the committed results of {run.path}, which has {some}.")
    if param_id is not None:
        found = found.filter(pc.equal(found["param_id"], param_id))
    if found.num_rows == 0:
        raise ConfigError(f"--param-id {param_id}: the run has sets 0 to {len(run.sets) - 1}.")
    return dict(found.slice(0, 1).to_pylist()[0])
