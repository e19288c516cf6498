"""A run's figures for people and machines: sorted rows, JSON, CSV."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from atc_backtest.config import STOPS
from atc_backtest.errors import ConfigError
from atc_backtest.pipelines.runs import Run

MANY_SETS = 10
"""From here on the best one is expected to look good without any skill."""

SHORT_YEARS = 1.0
"""Evaluated bars that do not make so many years are a short sample."""


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
    if not run.manifest["costs"] and all(
        execution["fee_bps"] == 0 and execution["slippage_bps"] == 0 for execution in executions
    ):
        found.append("no costs: fee_bps and slippage_bps are 0, so these figures are an upper bound")
    if len(run.sets) >= MANY_SETS:
        found.append(
            f"{len(run.sets):,} sets were tried: the best of many is high by luck alone; trust medians, not it"
        )
    left = len(run.partitions) - len(run.done)
    if left:
        found.append(f"{run.state}: {left} of {len(run.partitions)} partitions are missing; continue with --resume")
    for failure in run.set_aside:
        symbols = f"{failure.symbols[0]} .. {failure.symbols[-1]}, sets {failure.sets[0]}-{failure.sets[1] - 1}"
        found.append(f"set aside: partition {failure.partition} ({symbols}): {failure.error}")
    a_year = pa.array([one["bars_per_year"] for one in run.manifest["sets"]], pa.float64()).take(table["param_id"])
    short = pc.less(table["n_bars"].cast(pa.float64()), pc.multiply(a_year, SHORT_YEARS))
    for column, what in (
        (pc.equal(table["n_bars"], 0), "no evaluated bar: shorter than the warm-up, or before eval_start"),
        (pc.and_(short, pc.greater(table["n_bars"], 0)), "less than a year of bars: figures a year are extrapolated"),
        (table["ruined"], "ruined: the account lost everything and stopped"),
        (pc.greater(table["ambiguous_bars"], 0), "stop and target within one bar: setting intrabar chose the first"),
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
    rules = list(dict.fromkeys(_execution(one) for one in sets))
    store, kernels = manifest["store"], ", ".join(run.kernels)
    lines = [
        f"store     {store['path']} (version {store['version']}), kernel {kernels}",
        "year      " + "; ".join(f"{bars:g} bars (calendar {calendar})" for calendar, bars in years),
        *(f"execution {rule}" for rule in rules[:3]),
    ]
    if len(rules) > 3:
        lines.append(f"execution {len(rules) - 3} more, in the columns of settings that vary")
    if manifest["costs"]:
        lines.append(f"costs     of {len(manifest['costs'])} symbols by --costs, the others' as above")
    return lines


def _execution(one: dict[str, Any]) -> str:
    """Fills, costs, stops and evaluated dates of a set in words; what is not used is not named."""
    rules, run = one["config"]["execution"], one["config"]["run"]
    sides = {(True, True): "long and short", (True, False): "long only", (False, True): "short only"}
    words = [
        f"fill {one['fill']}" + (f" {rules['delay_bars']} bars later" if rules["delay_bars"] else ""),
        f"fee {rules['fee_bps']:g} bps, slippage {rules['slippage_bps']:g} bps",
        f"{sides[rules['longs'], rules['shorts']]}, neutral {rules['neutral']}",
        f"size {rules['size']:g}, start {rules['start_equity']:g}",
    ]
    stops = [f"{name.replace('_', ' ')} {rules[name]}" for name in STOPS if rules[name] is not None]
    if stops:
        seen = f"within bars, {rules['intrabar']} first" if one["ranges"] else "against closes alone: no highs and lows"
        words.append(f"{', '.join(stops)} ({seen})")
        if any("atr" in stop for stop in stops):
            words.append(f"atr of {rules['atr_length']} bars")
    if rules["funding_bps"]:
        words.append(f"funding {rules['funding_bps']:g} bps every {rules['funding_interval']}")
    if run["eval_start"] or run["eval_end"]:
        words.append(f"evaluated [{run['eval_start'] or 'the first bar'}, {run['eval_end'] or 'the last bar'})")
    return ", ".join(words)


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
