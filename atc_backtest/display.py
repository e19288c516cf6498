"""What people see: tables, progress and notes by rich; JSON where a machine asked. Progress goes to stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import pyarrow as pa

    from atc_backtest.diagnosis import Finding
    from atc_backtest.pipelines.backtest import Progress as RunProgress
    from atc_backtest.pipelines.job import Job
    from atc_backtest.pipelines.runs import Run
    from atc_backtest.stores.ingest import AppendReport, IngestReport, SymbolReport

WIDE = 160
"""Columns assumed where the output is no terminal, so that tables in files and logs are whole."""


def _console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)


def _error_console() -> Console:
    return Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """For machines, to stdout."""
    print(json.dumps(value, indent=1, allow_nan=False, default=str))


def iso(ns: int) -> str:
    """UTC nanoseconds as people write them; midnight as a date alone."""
    seconds, _ = divmod(ns, 10**9)
    text = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))
    return text.removesuffix(" 00:00:00")


def print_table(columns: Mapping[str, Literal["left", "right"]], rows: Iterable[Sequence[str]]) -> None:
    """A table of heading -> side, without frames."""
    view = Table(box=None, pad_edge=False)
    for name, justify in columns.items():
        view.add_column(name, justify=justify)
    for row in rows:
        view.add_row(*row)
    _console().print(view)


@contextmanager
def counting_progress(what: str, things: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr while the block runs; what it yields takes things done and things in all."""
    console = _error_console()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed} " + things))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


@contextmanager
def units_progress(what: str, total: int, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar over `total` while the block runs; what it yields takes how many are done, and units so far."""
    console = _error_console()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(what, total=total, said="")

        def show(done: int, units: int) -> None:
            bars.update(task, completed=done, said=f"{done:,} of {total:,}, {count(units)} {unit}")

        yield show


# Running


class _Rate(ProgressColumn):
    """Bars a second since the start, in units people read."""

    def render(self, task: Task) -> Text:
        return Text(f"{count(task.speed or 0)} bars/s")


def count(n: float) -> str:
    """A number in units people read: 1.2M."""
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= scale:
            return f"{n / scale:.3g}{unit}"
    return f"{n:.0f}"


class ShownRun:
    """Progress of one run, and what is said about it when it is done."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task = bars.add_task("preparing", total=None)
        self._began = time.perf_counter()
        self.done = 0
        self.total = 0
        self.seconds = 0.0

    @property
    def progress(self) -> RunProgress:
        from atc_backtest.pipelines.backtest import Progress as RunProgress

        return RunProgress(started=self._started, advanced=self._advanced)

    def _started(self, job: Job, n_bars: int, dashboard: str | None) -> None:
        self.total = n_bars
        self._began = time.perf_counter()
        self._bars.update(self._task, description=f"backtest ({job.kernel})", total=max(n_bars, 1))
        if dashboard:
            self._bars.console.print(f"dashboard: {dashboard}")

    def _advanced(self, n_bars: int) -> None:
        self.done += n_bars
        self.seconds = time.perf_counter() - self._began
        self._bars.update(self._task, advance=n_bars)


def _bars() -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    console = _error_console()
    return Progress(
        *columns, _Rate(), TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    )


@contextmanager
def run_progress() -> Iterator[ShownRun]:
    """A progress bar with bars/s and the time left while the block runs; nothing but the end in a log."""
    with _bars() as bars:
        yield ShownRun(bars)


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


# Reports

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


def show_report(run: Run, table: pa.Table, sort: str) -> None:
    """The sorted table, what it rests on, the warnings, and where the report is."""
    from atc_backtest.pipelines.report import basis, warnings

    everything = run.table()
    console = _console()
    names = list(REPORT_COLUMNS) if console.width >= 130 else list(NARROW)
    extra = [sort, *run.manifest["varying"]]
    if len(run.manifest["sets"]) > 1:
        extra.insert(0, "param_id")
    shown = {name: REPORT_COLUMNS[name] for name in names}
    shown |= {name: (name, "{}") for name in extra if name not in shown}
    view = Table(title=f"{run.path.name}, by {sort}", title_justify="left", box=None, pad_edge=False)
    for name, (heading, _) in shown.items():
        view.add_column(heading, justify="left" if name == "symbol" else "right", no_wrap=True)
    for record in table.select(list(shown)).to_pylist():
        view.add_row(*(_cell(record[name], how) for name, (_, how) in shown.items()))
    console.print(view)
    if table.num_rows < everything.num_rows:
        print(f"... {everything.num_rows - table.num_rows} more rows: --limit {everything.num_rows}")
    print()
    for line in basis(run):
        print(line)
    for warning in warnings(run, everything):
        print(f"warning   {warning}")
    print(f"report    {run.path / 'metrics'}")


def _cell(value: Any, how: str) -> str:
    if value is None:
        return "-"
    return value.strftime("%Y-%m-%d") if how == "date" else how.format(value)


# Stores and installation


@contextmanager
def ingest_progress() -> Iterator[Callable[[int, int, int], None]]:
    """A progress bar over files while the block runs; what it yields takes files done, files in all, rows read."""
    console = _error_console()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rows]} rows"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("looking at files", total=None, rows=0)

        def show(done: int, total: int, rows: int) -> None:
            what = f"reading file {done + 1} of {total}" if done < total else "writing the store"
            bars.update(task, description=what, completed=done, total=total, rows=count(rows))

        yield show


def show_ingest(report: IngestReport, as_json: bool) -> None:
    """What came in, symbol by symbol: a column for every rule that any row met, what was assumed, what is next."""
    from atc_backtest.stores.base import format_bar

    if as_json:
        print_json(report.to_dict())
        return
    _console().print(_rows_view(report.symbols, [()] * len(report.symbols), ()))
    for note in report.notes:
        print(f"note   {note}")
    rows = sum(symbol.rows_read for symbol in report.symbols)
    n_symbols = sum(symbol.rows_kept > 0 for symbol in report.symbols)
    files, symbols = ("" if n == 1 else "s" for n in (report.files, n_symbols))
    print(f"read   {rows:,} rows of {report.files} file{files} in {report.seconds:.2f} s")
    print(
        f"store  {report.store}: {n_symbols} symbol{symbols} x {report.n_bars:,} bars of {format_bar(report.bar_ns)}, "
        f"{', '.join(report.fields)}, calendar {report.calendar}"
    )
    print(f"next   atc-backtest backtest {report.store}")


def _rows_view(symbols: Sequence[SymbolReport], more: Sequence[Sequence[int]], headings: Sequence[str]) -> Table:
    """A line a symbol: rows read and kept, every rule that any row met, `more` counts under `headings`, the span."""
    from atc_backtest.stores.ingest import DONE, RULES

    met = [rule for rule in RULES if any(getattr(symbol, rule) for symbol in symbols)]
    view = Table(box=None, pad_edge=False)
    view.add_column("symbol")
    for name in ("rows read", "kept", *(f"{RULES[rule]}: {DONE[rule]}" for rule in met), *headings):
        view.add_column(name, justify="right")
    view.add_column("first (UTC)")
    view.add_column("last (UTC)")
    for symbol, others in zip(symbols, more, strict=True):
        counts = (symbol.rows_read, symbol.rows_kept, *(getattr(symbol, rule) for rule in met), *others)
        span = ("-" if ns is None else iso(ns) for ns in (symbol.first_ns, symbol.last_ns))
        view.add_row(symbol.name, *(f"{count:,}" for count in counts), *span)
    return view


def show_append(report: AppendReport, as_json: bool) -> None:
    """What came in, symbol by symbol, and of it what the store had, lacked, and had otherwise."""
    from atc_backtest.stores.base import format_bar

    if as_json:
        print_json(report.to_dict())
        return
    counts = [(one.identical, one.new, one.corrected) for one in report.symbols]
    view = _rows_view([one.rows for one in report.symbols], counts, ("identical", "new", "corrected"))
    _console().print(view)
    for note in report.notes:
        print(f"note   {note}")
    rows = sum(one.rows.rows_read for one in report.symbols)
    print(f"read   {rows:,} rows of {report.files} file{'' if report.files == 1 else 's'} in {report.seconds:.2f} s")
    written = report.version > report.version_before
    print(
        f"store  {report.store}: {'' if written else 'nothing new, still '}version {report.version}, "
        f"{report.n_bars:,} bars of {format_bar(report.bar_ns)}"
    )


def show_diagnosis(findings: Sequence[Finding], as_json: bool) -> None:
    """One line a finding, its remedy below it."""
    if as_json:
        print_json([asdict(finding) for finding in findings])
        return
    marks = {True: "ok", False: "MISSING", None: "-"}
    for finding in findings:
        print(f"{marks[finding.ok]:8}{finding.name:18}{finding.found}")
        if finding.remedy:
            print(f"{'':26}{finding.remedy}")
