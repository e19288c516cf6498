"""A run's figures for people and machines: sorted rows, JSON, CSV."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from atc_backtest.errors import ConfigError
from atc_backtest.pipelines.runs import Run


@dataclass(frozen=True)
class Selection:
    """Which rows, and in which order: undefined values last, ties by symbol and set."""

    sort: str = "sharpe"
    ascending: bool = False
    limit: int | None = None


def report_table(run: Run, selection: Selection) -> pa.Table:
    """The metrics of all committed partitions, sorted, cut to `limit` rows.

    `ConfigError` for an unknown column to sort by.
    """
    table = run.table()
    if selection.sort not in table.column_names:
        raise ConfigError(f"cannot sort by {selection.sort!r}: the columns are {', '.join(table.column_names)}.")
    if selection.limit is not None and selection.limit < 1:
        raise ConfigError(f"--limit {selection.limit} is not allowed: at least 1.")
    direction = "ascending" if selection.ascending else "descending"
    ties = [(name, "ascending") for name in ("symbol", "param_id") if name != selection.sort]
    table = table.sort_by([(selection.sort, direction), *ties])
    return table if selection.limit is None else table.slice(0, selection.limit)


def warnings(run: Run, table: pa.Table) -> list[str]:
    """What a reader of these figures must know before believing them."""
    found = []
    executions = [one["config"]["execution"] for one in run.manifest["sets"]]
    if any(one["fill"] == "close" for one in run.manifest["sets"]):
        found.append("fill = close: fills at the very close that decided them are optimistic; next_open is not")
    if all(execution["fee_bps"] == 0 and execution["slippage_bps"] == 0 for execution in executions):
        found.append("no costs: fee_bps and slippage_bps are 0, so these figures are an upper bound")
    left = len(run.partitions) - len(run.done)
    if left:
        found.append(f"{run.state}: {left} of {len(run.partitions)} partitions are missing; continue with --resume")
    for failure in run.set_aside:
        symbols = f"{failure.symbols[0]} .. {failure.symbols[-1]}, sets {failure.sets[0]}-{failure.sets[1] - 1}"
        found.append(f"set aside: partition {failure.partition} ({symbols}): {failure.error}")
    for column, what in (
        (pc.equal(table["n_bars"], 0), "no evaluated bar: shorter than the warm-up, or before eval_start"),
        (table["ruined"], "ruined: the account lost everything and stopped"),
        (pc.less(pc.fill_null(table["trades"], 0), 30), "fewer than 30 closed trades: trade statistics mean little"),
    ):
        n = pc.sum(column).as_py() or 0
        if n:
            found.append(f"{n} of {table.num_rows} rows: {what}")
    return found


def basis(run: Run) -> list[str]:
    """How the figures were taken: store, kernel, annualisation, fills and costs, one line each."""
    manifest = run.manifest
    sets: Sequence[dict[str, Any]] = manifest["sets"]
    years = sorted({(one["calendar"], one["bars_per_year"]) for one in sets})
    costs = sorted({tuple((one["config"]["execution"] | {"fill": one["fill"]}).items()) for one in sets})
    lines = [
        f"store     {manifest['store']['path']} (version {manifest['store']['version']}), kernel {manifest['kernel']}",
        "year      " + "; ".join(f"{bars:g} bars (calendar {calendar})" for calendar, bars in years),
    ]
    for cost in costs[:3]:
        rules = dict(cost)
        lines.append(
            f"execution fill {rules['fill']}, fee {rules['fee_bps']:g} bps, slippage {rules['slippage_bps']:g} bps, "
            f"{'long and short' if rules['shorts'] else 'long only'}, neutral {rules['neutral']}, "
            f"size {rules['size']:g}, start {rules['start_equity']:g}"
        )
    return lines


def to_json(run: Run, table: pa.Table) -> dict[str, Any]:
    """The rows, and what a program must know of the run that they are of."""
    return {
        "run": str(run.path),
        "state": run.state,
        "hash": run.content_hash(),
        "datasets": {name: {"rows": content.rows, "hash": content.hex} for name, content in run.contents().items()},
        "set_aside": [asdict(failure) for failure in run.set_aside],
        "rows": to_records(table),
    }


def to_csv(table: pa.Table) -> str:
    """Comma-separated with a header; undefined values are empty."""
    sink = io.BytesIO()
    pacsv.write_csv(table, sink)
    return sink.getvalue().decode()


def to_records(table: pa.Table) -> list[dict[str, Any]]:
    """One plain dict a row: None where undefined, timestamps as ISO text in UTC."""
    for index, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            text = pc.strftime(table.column(index).cast(pa.timestamp("s", tz="UTC")), format="%Y-%m-%dT%H:%M:%SZ")
            table = table.set_column(index, field.name, text)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
