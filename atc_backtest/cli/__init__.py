"""The command line: parses, builds a configuration, makes one call. Heavy imports wait in commands.

Exit codes: 0 done; 1 internal error; 2 usage; 3 data or configuration refused, or a verified run that differs;
4 partial, some partitions failed and were set aside; 130 interrupted.
"""

from __future__ import annotations

import gc
import os
from typing import Annotated

import typer

from atc_backtest import __version__
from atc_backtest.cli import portfolio, prices, running, sweeping
from atc_backtest.cli.guard import guarded
from atc_backtest.cli.guarding import check_app, guard_app
from atc_backtest.cli.options import Json, ValuesLeftOut
from atc_backtest.cli.store import store_app

COLLECT_AFTER = 50_000
"""Objects made until those in cycles are looked for: imports make hundreds of thousands, and all of them stay."""

app = typer.Typer(
    name="atc-backtest",
    help="Backtest Adaptive Trend Classification over data larger than memory: ingest, backtest, report.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help appears in half the time
    pretty_exceptions_enable=False,
)
for commands in (
    (prices.fetch, prices.ingest, prices.append),
    (running.backtest, sweeping.sweep, running.report, sweeping.surface, running.verify),
    (portfolio.returns, portfolio.portfolio),
):
    for command in commands:
        app.command(cls=ValuesLeftOut if command is running.report else None)(command)
app.add_typer(store_app, name="store")
app.add_typer(guard_app, name="guard")
app.add_typer(check_app, name="check")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"atc-backtest {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Backtest Adaptive Trend Classification over data larger than memory: ingest, backtest, report."""


@app.command()
@guarded
def doctor(as_json: Json = False) -> None:
    """Tell what this installation has, what is missing, and the command that brings it."""
    from atc_backtest.diagnosis import diagnose
    from atc_backtest.display import terminal

    terminal.show_diagnosis(diagnose(), as_json)


def main() -> None:
    """The entry point of `atc-backtest`: settings of the process that shorten its start, then the command."""
    gc.set_threshold(COLLECT_AFTER)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # nothing multiplies matrices, and idle threads of it spin
    app()
