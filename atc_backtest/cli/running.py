"""The commands that run and look at what came of it: backtest, report, verify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atc_backtest.cli.guard import INTERRUPTED, PARTIAL, REFUSED, guarded
from atc_backtest.cli.options import (
    Config,
    Json,
    Place,
    RunFlags,
    RunFolder,
    ShowPlan,
    StoreArgument,
    grouped,
    pairs,
)

if TYPE_CHECKING:
    from atc_backtest.config import RunConfig
    from atc_backtest.pipelines.backtest import Options
    from atc_backtest.pipelines.runs import Run


@guarded
@grouped
def backtest(
    store: StoreArgument,
    out: Annotated[Path | None, typer.Option(help="The run's folder. Default: runs/<store>.")] = None,
    config: Config = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any setting, over file and environment: lengths.ema=30.", metavar="NAME=VALUE"),
    ] = None,
    *,
    flags: RunFlags,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Print the resolved configuration as TOML and leave.")
    ] = False,
    plan: ShowPlan = False,
    as_json: Json = False,
) -> None:
    """Run the indicator and its backtest over a store; figures and saved series go to Parquet."""
    from atc_backtest.config import resolve

    run_config = resolve(config, flags.settings() | pairs("--set", settings or []))
    if show_config:
        print(run_config.to_toml(), end="")
        return

    from atc_backtest.display import runs
    from atc_backtest.pipelines import backtest as running
    from atc_backtest.stores.opening import stem

    options = flags.options()
    folder = Path("runs") / stem(store) if out is None else out
    if plan:
        runs.show_plan(running.prepare(store, folder, [run_config], options), as_json)
        return
    run_and_show(store, folder, [run_config], options, as_json)


def run_and_show(store: str, folder: Path, sets: Sequence[RunConfig], options: Options, as_json: bool) -> None:
    """A run with its progress, what came of it, and the exit code that says whether it is whole."""
    from atc_backtest.display import runs, terminal
    from atc_backtest.pipelines import backtest as running

    try:
        with terminal.run_progress(partial(runs.keep_until_interrupted, as_json)) as shown:
            run = running.backtest(store, folder, sets, options, shown.progress)
    except KeyboardInterrupt:
        runs.show_interrupted(folder)
        raise typer.Exit(INTERRUPTED) from None
    if not shown.kept:
        runs.show_run(run, shown, as_json)
    if run.state != "complete":
        raise typer.Exit(PARTIAL)


@guarded
def report(
    run: RunFolder,
    sort: Annotated[str, typer.Option(help="Column to sort by.")] = "sharpe",
    ascending: Annotated[bool, typer.Option("--ascending", help="Smallest first.")] = False,
    limit: Annotated[int | None, typer.Option(help="Rows to print. Default: 40 in a table, else all.")] = None,
    as_json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print all columns as CSV.")] = False,
    html: Annotated[
        str | None, typer.Option(help="Write one page that opens offline. Default: RUN/report.html.", metavar="[FILE]")
    ] = None,
    png: Annotated[
        str | None, typer.Option(help="Write its charts as pictures. Default: RUN/pictures.", metavar="[FOLDER]")
    ] = None,
    symbol: Annotated[str | None, typer.Option(help="Of page and pictures. Default: the best by Sharpe.")] = None,
    param_id: Annotated[int | None, typer.Option(help="Set of page and pictures. Default: the best by Sharpe.")] = None,
) -> None:
    """Print a run's figures: a sorted table, or every column as JSON or CSV; or draw them, as a page or pictures."""
    drawn = html is not None or png is not None
    if as_json + csv > 1 or (csv and drawn):
        raise typer.BadParameter("give one of --json, --csv, and --html or --png")
    if not drawn and (symbol is not None or param_id is not None):
        raise typer.BadParameter("--symbol and --param-id say what --html and --png draw: give one of these")
    from atc_backtest.display import runs, terminal
    from atc_backtest.pipelines import report as reporting
    from atc_backtest.pipelines.runs import open_run

    opened = open_run(run)
    if drawn:
        _draw(opened, html, png, symbol, param_id, as_json)
        return
    if limit is None and not (as_json or csv):
        limit = 40
    table = reporting.report_table(opened, reporting.Selection(sort, ascending, limit))
    if as_json:
        terminal.print_json(reporting.to_json(opened, table))
    elif csv:
        print(reporting.to_csv(table), end="")
    else:
        runs.show_report(opened, table, sort)


def _draw(run: Run, html: str | None, png: str | None, symbol: str | None, param_id: int | None, as_json: bool) -> None:
    """The page and the pictures that were asked for; empty names take the defaults."""
    from atc_backtest.display import pages, terminal
    from atc_backtest.pipelines.pages.subject import subject_of

    written: list[Path] = []
    if html is not None:
        from atc_backtest.pipelines.pages import page
    if png is not None:
        from atc_backtest.pipelines.pages import pictures
    with terminal.counting_progress("reading", "bars") as show:
        subject = subject_of(run, symbol, param_id, show)
    if html is not None:
        written.append(page.write_page(subject, Path(html or run.path / "report.html")))
    if png is not None:
        written += pictures.write_pictures(subject, Path(png or run.path / "pictures"))
    pages.show_pages(subject, written, as_json)


@guarded
@grouped
def verify(
    run: RunFolder,
    sample: Annotated[float, typer.Option(help="Share of the pairs of symbol and set to recompute, above 0.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Which pairs a sample takes.")] = 0,
    *,
    place: Place,
    as_json: Json = False,
) -> None:
    """Check a run: every part as it was committed, its rows bit for bit as they are computed again.

    Prints what differs and exits with 3.
    """
    from atc_backtest.display import runs, terminal
    from atc_backtest.pipelines import verify as verifying
    from atc_backtest.pipelines.backtest import Options
    from atc_backtest.pipelines.runs import open_run

    opened = open_run(run)
    options = Options(**asdict(place))
    with terminal.counting_progress("verifying", "partitions") as show:
        found = verifying.verify(opened, sample, seed, options, show)
    runs.show_verification(opened, found, as_json)
    if not found.ok:
        raise typer.Exit(REFUSED)
