"""What people see of a run: its plan, how it went, what is missing, its figures, and whether it is what it says."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atc_backtest.display.sparklines import sparkline
from atc_backtest.display.terminal import ShownRun, Side, count, print_json, print_table, width

if TYPE_CHECKING:
    import pyarrow as pa

    from atc_backtest.pipelines.commits import SetAside
    from atc_backtest.pipelines.job import Job
    from atc_backtest.pipelines.runs import Run
    from atc_backtest.pipelines.verify import Finding, Verification

NAMED = 5
"""Set-aside partitions and symbols of each that are named on the terminal; --json names all."""


def show_run(run: Run, shown: ShownRun, as_json: bool) -> None:
    """How a run went, and where it is; what is missing goes to stderr."""
    from atc_backtest.pipelines.backtest import DASK_REPORT

    manifest = run.manifest
    facts = {
        "run": str(run.path),
        "state": run.state,
        "kernel": ", ".join(run.kernels),
        "symbols": sum(len(p.symbols) for p in run.partitions if p.sets[0] == 0),
        "sets": len(manifest["sets"]),
        "bars": shown.done,
        "seconds": round(shown.seconds, 3),
        "partitions": len(run.partitions),
        "done": len(run.done),
        "hash": run.content_hash(),
        "dashboard": shown.dashboard,
        "set_aside": [asdict(failure) for failure in run.set_aside],
    }
    if as_json:
        print_json(facts)
    else:
        rate = count(shown.done / shown.seconds) if shown.seconds else "-"
        print(
            f"{facts['symbols']} symbols, {shown.done:,} bars in {shown.seconds:.2f} s "
            f"({rate} bars/s, kernel {facts['kernel']})"
        )
        print(f"run: {run.path}")
        print(f"hash: {facts['hash']}")
        print(f"next: atc-backtest {'report' if facts['sets'] == 1 else 'surface'} {run.path}")
        if (run.path / DASK_REPORT).is_file():
            print(f"Dask's report: {run.path / DASK_REPORT}")
    if run.state != "complete":
        show_missing(run)


def keep_until_interrupted(as_json: bool, run: Run, shown: ShownRun) -> None:
    """How a run went, while its cluster stays up: until Ctrl-C."""
    show_run(run, shown, as_json)
    sys.stdout.flush()
    print(f"kept: the cluster and its dashboard {shown.dashboard or '(none)'} stay until Ctrl-C.", file=sys.stderr)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


def show_missing(run: Run) -> None:
    """To stderr: what was set aside and why, and how to go on."""
    failures = run.set_aside
    missing = len(run.partitions) - len(run.done)
    print(
        f"partial: {missing} of {len(run.partitions)} partitions are missing, the others are committed.",
        file=sys.stderr,
    )
    for failure in failures[:NAMED]:
        print(f"  {described(failure)}: {failure.error}", file=sys.stderr)
    if len(failures) > NAMED:
        print(f"  and {len(failures) - NAMED} more: see {run.path / 'failed'}", file=sys.stderr)
    tracebacks = f"Tracebacks are in {run.path / 'failed'}. " if failures else ""
    print(f"{tracebacks}The same command with --resume tries what is missing again.", file=sys.stderr)


def described(failure: SetAside) -> str:
    """A set-aside partition by its symbols and sets, in few words."""
    names = ", ".join(failure.symbols[:NAMED]) + (", ..." if len(failure.symbols) > NAMED else "")
    first, last = failure.sets[0], failure.sets[1] - 1
    sets = f"set {first}" if first == last else f"sets {first}-{last}"
    tries = "1 attempt" if failure.attempts == 1 else f"{failure.attempts} attempts"
    return f"partition {failure.partition} ({len(failure.symbols)} symbols: {names}; {sets}), after {tries}"


def show_interrupted(folder: Path) -> None:
    """How to go on after Ctrl-C."""
    if not folder.is_dir() or not any(folder.iterdir()):
        print("interrupted before the run had begun: it has left nothing behind.", file=sys.stderr)
        return
    print(
        f"interrupted: what was committed stays in {folder}. Give the same command with --resume to go on, "
        "or with --overwrite to start again.",
        file=sys.stderr,
    )


def show_verification(run: Run, found: Verification, as_json: bool) -> None:
    """What was checked and what differs."""
    if as_json:
        print_json(asdict(found) | {"run": str(run.path), "ok": found.ok, "hash": run.content_hash()})
        return
    for finding in found.findings:
        print(_said(finding))
    share = f"{found.pairs:,} of {found.all_pairs:,} pairs of symbol and set recomputed, kernel {found.kernel}"
    if found.unfinished:
        print(f"unfinished: {found.unfinished} partitions are not committed and were not verified")
    print(f"{'verified' if found.ok else 'DIFFERS'}: {found.parts:,} parts read, {share}")
    if found.ok:
        print(f"hash: {run.content_hash()}")


def _said(finding: Finding) -> str:
    if finding.symbol is None:
        return f"partition {finding.partition}, {finding.dataset}: {finding.what}"
    return (
        f"{finding.symbol}, set {finding.param_id}, {finding.dataset}, row {finding.row}: "
        f"stored {_row(finding.stored)}, recomputed {_row(finding.recomputed)}"
    )


def _row(row: dict[str, Any] | None) -> str:
    return "no such row" if row is None else json.dumps(row, default=str)


def show_plan(job: Job, as_json: bool) -> None:
    """How a run would be cut, and the memory it promises to stay under."""
    from atc_backtest.pipelines.plan import format_bytes

    plan = job.plan
    if as_json:
        print_json(asdict(plan))
        return
    where = "processes" if plan.processes else "threads"
    print(f"{len(plan.partitions)} partitions on {plan.n_workers} {where}, kernel {job.kernel}")
    print(f"slabs of {plan.slab_bars:,} bars, computed {plan.block_bars:,} at a time")
    most, task = format_bytes(plan.projected_bytes), format_bytes(plan.task_bytes)
    print(f"memory: at most {most}, of which {task} for each worker's task")
    ahead = "read while the one before is computed" if plan.prefetch else "read one after another, for want of memory"
    print(f"slabs are {ahead}; estimated time {plan.seconds:,.1f} s")


REPORT_COLUMNS = {
    "symbol": ("symbol", "{}"),
    "n_bars": ("bars", "{:,}"),
    "start_ts": ("from", "date"),
    "end_ts": ("to", "date"),
    "total_return": ("return", "{:+.1%}"),
    "cagr": ("CAGR", "{:+.1%}"),
    "volatility": ("volat.", "{:.1%}"),
    "sharpe": ("Sharpe", "{:.2f}"),
    "sortino": ("Sortino", "{:.2f}"),
    "max_drawdown": ("max DD", "{:.1%}"),
    "exposure": ("in mkt", "{:.0%}"),
    "trades": ("trades", "{:,}"),
    "win_rate": ("wins", "{:.0%}"),
    "profit_factor": ("PF", "{:.2f}"),
    "fees_paid": ("fees", "{:,.0f}"),
    "buy_hold_return": ("hold", "{:+.1%}"),
}
"""What the terminal shows of the figures: heading and format; --json and --csv give all of them."""

NARROW = ("symbol", "total_return", "cagr", "sharpe", "max_drawdown", "trades", "profit_factor", "buy_hold_return")
"""Of those, what fits into 80 columns."""

SPARK = 16
"""Characters of a sparkline in the table."""

SPARKED = 100
"""Rows of a table that may have one."""


def show_report(run: Run, table: pa.Table, sort: str) -> None:
    """The sorted table, what it rests on, the warnings, and where the report is."""
    from atc_backtest.pipelines.report import basis, warnings

    everything = run.table()
    names = list(REPORT_COLUMNS) if width() >= 130 else list(NARROW)
    extra = [sort, *run.manifest["varying"]]
    if len(run.manifest["sets"]) > 1:
        extra.insert(0, "param_id")
    shown = {name: REPORT_COLUMNS[name] for name in names}
    shown |= {name: (name, "{}") for name in extra if name not in shown}
    columns: dict[str, Side] = {
        heading: "left" if name == "symbol" else "right" for name, (heading, _) in shown.items()
    }
    rows = [
        [cell(record[name], how) for name, (_, how) in shown.items()]
        for record in table.select(list(shown)).to_pylist()
    ]
    lines = _sparklines(run, table)
    if lines:
        columns["equity"] = "left"
        rows = [[*row, line] for row, line in zip(rows, lines, strict=True)]
    print_table(columns, rows, f"{run.path.name}, by {sort}", wrap=False)
    if table.num_rows < everything.num_rows:
        print(f"... {everything.num_rows - table.num_rows} more rows: --limit {everything.num_rows}")
    print()
    for line in basis(run):
        print(line)
    for warning in warnings(run, everything):
        print(f"warning   {warning}")
    print(f"report    {run.path / 'metrics'}")


def _sparklines(run: Run, table: pa.Table) -> list[str]:
    """Equity of each row by the run's periods, by its logarithm; none where they were not saved or do not fit."""
    from atc_backtest.pipelines.pages.curves import equity_curves

    if not SPARKED >= table.num_rows > 0 or width() < 100:
        return []
    curves = equity_curves(run, table)
    return [sparkline(curve, SPARK, logarithmic=True) for curve in curves.values()]


def cell(value: Any, how: str) -> str:
    """A figure in a table, by a format or `date`; undefined is a dash."""
    if value is None:
        return "-"
    return value.strftime("%Y-%m-%d") if how == "date" else how.format(value)
