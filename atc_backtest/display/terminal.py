"""The terminal, and the one module that draws with rich: tables and JSON to stdout, progress to stderr."""

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
    from atc_backtest.diagnosis import Finding
    from atc_backtest.pipelines.backtest import Progress as RunProgress
    from atc_backtest.pipelines.job import Job
    from atc_backtest.pipelines.runs import Run

Side = Literal["left", "right"]

WIDE = 1000
"""Columns assumed where the output is no terminal, so that tables in files and logs are whole."""


def _console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)


def width() -> int:
    """Columns of the output."""
    return _console().width


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


def print_table(
    columns: Mapping[str, Side],
    rows: Iterable[Sequence[str]],
    title: str | None = None,
    wrap: bool = True,
) -> None:
    """A table of heading -> side, without frames; with `wrap`, cells may take several lines in a narrow terminal."""
    view = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name, justify in columns.items():
        view.add_column(name, justify=justify, no_wrap=not wrap)
    for row in rows:
        view.add_row(*row)
    _console().print(view)


HEAT = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
"""From the lowest value to the highest: dark to bright, also for eyes that see few colours (viridis)."""


def print_heat(
    corner: str, columns: Sequence[str], rows: Sequence[str], cells: Sequence[Sequence[float | None]], form: str
) -> None:
    """A map of numbers, coloured in a terminal from the lowest to the highest; None is a dot.

    Columns that do not fit beside each other follow below. `corner`: heads the names of the rows.
    """
    console = _console()
    texts = [["." if value is None else form.format(value) for value in line] for line in cells]
    known = [value for line in cells for value in line if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    wide = 2 + max(map(len, (*columns, *(text for line in texts for text in line))))
    room = max(1, (console.width - 2 - max(map(len, (corner, *rows)))) // wide)
    for start in range(0, len(columns), room):
        view = Table(box=None, pad_edge=False, padding=(0, 0, 0, 0), collapse_padding=True)
        view.add_column(f"{corner}  ", justify="right", no_wrap=True)
        for name in columns[start : start + room]:
            view.add_column(f" {name} ", justify="right", no_wrap=True)
        for name, line, said in zip(rows, cells, texts, strict=True):
            shown = zip(line[start : start + room], said[start : start + room], strict=True)
            view.add_row(f"{name}  ", *(Text(f" {text} ", style=_heat(value, low, high)) for value, text in shown))
        console.print(view)


def _heat(value: float | None, low: float, high: float) -> str:
    if value is None:
        return ""
    place = (value - low) / (high - low) * (len(HEAT) - 1) if high > low else 0.0
    at = min(int(place), len(HEAT) - 2)
    red, green, blue = (
        round(one + (place - at) * (other - one)) for one, other in zip(HEAT[at], HEAT[at + 1], strict=True)
    )
    front = "black" if 299 * red + 587 * green + 114 * blue > 128_000 else "white"
    return f"{front} on rgb({red},{green},{blue})"


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
    """Progress of one run, and what is said about it when it is done.

    `keeping(run, self)` is called when the run is over and its cluster is to stay until that returns.
    """

    def __init__(self, bars: Progress, keeping: Callable[[Run, ShownRun], None]) -> None:
        self._bars = bars
        self._keeping = keeping
        self._task = bars.add_task("preparing", total=None)
        self._began = time.perf_counter()
        self.done = 0
        self.total = 0
        self.seconds = 0.0
        self.dashboard: str | None = None
        self.kept = False

    @property
    def progress(self) -> RunProgress:
        from atc_backtest.pipelines.backtest import Progress as RunProgress

        return RunProgress(started=self._started, advanced=self._advanced, kept=self._kept)

    def _started(self, job: Job, n_bars: int, dashboard: str | None) -> None:
        self.total = n_bars
        self._began = time.perf_counter()
        self._bars.update(self._task, description=f"backtest ({job.kernel})", total=max(n_bars, 1))
        self.dashboard = dashboard
        if dashboard:
            self._bars.console.print(f"dashboard: {dashboard}", soft_wrap=True)

    def _advanced(self, n_bars: int) -> None:
        self.done += n_bars
        self.seconds = time.perf_counter() - self._began
        self._bars.update(self._task, advance=n_bars)

    def _kept(self, run: Run) -> None:
        self._bars.stop()
        self.kept = True
        self._keeping(run, self)


def _bars() -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    console = _error_console()
    return Progress(
        *columns, _Rate(), TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    )


@contextmanager
def run_progress(keeping: Callable[[Run, ShownRun], None] = lambda run, shown: None) -> Iterator[ShownRun]:
    """A progress bar with bars/s and the time left while the block runs; nothing but the end in a log."""
    with _bars() as bars:
        yield ShownRun(bars, keeping)


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
