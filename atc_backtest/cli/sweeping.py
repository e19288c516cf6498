"""The commands of many parameter sets: sweep runs them, surface reads what came of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atc_backtest.cli.guard import INTERRUPTED, PARTIAL, guarded
from atc_backtest.cli.options import (
    Json,
    RunFlags,
    RunFolder,
    ShowPlan,
    StoreArgument,
    Symbols,
    grouped,
    pairs,
    words,
)
from atc_backtest.cli.running import run_and_show

if TYPE_CHECKING:
    from atc_backtest.config import RunConfig
    from atc_backtest.pipelines.backtest import Options
    from atc_backtest.pipelines.search import Goal
    from atc_backtest.pipelines.sweep import Spec

SweepConfig = Annotated[
    Path | None, typer.Option("--config", help="TOML with [sweep], and with [atc], [execution], [run] as of backtest.")
]
SweepOut = Annotated[
    Path | None, typer.Option("--out", help="The run's folder. Default: runs/<store>-sweep, of a search -search.")
]
By = Annotated[str, typer.Option(help="The figure by which sets are judged.")]
Aggregate = Annotated[
    str, typer.Option(help="What a set's symbols become: median, mean, q25, q75 or positive (the share above 0).")
]
Ascending = Annotated[bool, typer.Option("--ascending", help="The smallest is the best.")]


@guarded
@grouped
def sweep(
    store: StoreArgument,
    out: SweepOut = None,
    config: SweepConfig = None,
    axes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="An axis: lengths.ema=14:56:7, lengths=14:56:7 (all six), profile=enhance,pine, lambda=0.001:1:log.",
            metavar="NAME=VALUES",
        ),
    ] = None,
    search: Annotated[
        str | None, typer.Option(help="optuna: let it choose the sets, block by block, by what came of earlier ones.")
    ] = None,
    trials: Annotated[int, typer.Option(help="Of a search: sets to try.")] = 100,
    block: Annotated[int, typer.Option(help="Of a search: sets that are tried at a time.")] = 16,
    by: By = "sharpe",
    aggregate: Aggregate = "median",
    ascending: Ascending = False,
    random: Annotated[int | None, typer.Option(help="So many draws instead of every combination.")] = None,
    seed: Annotated[int | None, typer.Option(help="Which draws. Default: 0.")] = None,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Leave out combinations that the settings' rules refuse.")
    ] = False,
    *,
    flags: RunFlags,
    plan: ShowPlan = False,
    as_json: Json = False,
) -> None:
    """Run many parameter sets over a store: every combination of the axes, or a random sample of them.

    Axes are given as --set NAME=VALUES or in a TOML file's [sweep]; --plan counts and prices them first.
    """
    if search not in (None, "optuna"):
        raise typer.BadParameter(f"--search {search!r}: optuna is the one there is")
    if search and flags.keep:
        raise typer.BadParameter("--keep is of one run: a search makes one after another")
    asked, around = _asked(config, flags.settings(), pairs("--set", axes or []), random, seed)
    work = _Work(store, out, asked, around, flags.options(), skip_invalid, plan, as_json)
    if search is None:
        _sweep(work)
        return
    from atc_backtest.pipelines.search import Goal
    from atc_backtest.pipelines.surface import View

    _search(work, Goal(trials, block, View(by, aggregate, ascending), skip_invalid))


@dataclass(frozen=True)
class _Work:
    """What is to be done, and where and how: a sweep's arguments, read."""

    store: str
    out: Path | None
    asked: Spec
    around: RunConfig
    options: Options
    skip_invalid: bool
    plan: bool
    as_json: bool

    def folder(self, what: str) -> Path:
        from atc_backtest.stores.opening import stem

        return Path("runs") / f"{stem(self.store)}-{what}" if self.out is None else self.out


def _asked(
    config: Path | None, flags: dict[str, str], axes: dict[str, str], random: int | None, seed: int | None
) -> tuple[Spec, RunConfig]:
    """What is varied, by the file's [sweep] and the axes of --set over it, and the settings that all else keeps."""
    from atc_backtest.config import read_toml, resolve
    from atc_backtest.pipelines.sweep import read_spec

    sections = {} if config is None else read_toml(config)
    table = sections.pop("sweep", {})
    return read_spec(table, axes, random, seed), resolve(sections, flags)


def _sweep(work: _Work) -> None:
    from atc_backtest.display import sweeps
    from atc_backtest.pipelines.backtest import prepare
    from atc_backtest.pipelines.sweep import expand

    folder = work.folder("sweep")
    found = expand(work.asked, work.around, work.skip_invalid)
    if work.plan:
        sweeps.show_plan(found, prepare(work.store, folder, found.sets, work.options), work.as_json)
        return
    sweeps.show_count(found)
    run_and_show(work.store, folder, found.sets, work.options, work.as_json)


def _search(work: _Work, goal: Goal) -> None:
    """Its plan is that of one block, with draws in the place of proposals."""
    from atc_backtest.display import runs, sweeps, terminal
    from atc_backtest.pipelines.backtest import prepare
    from atc_backtest.pipelines.search import search
    from atc_backtest.pipelines.sweep import expand

    folder = work.folder("search")
    if work.plan:
        one = expand(replace(work.asked, random=goal.block), work.around, skip_invalid=True)
        sweeps.show_search_plan(goal, one, prepare(work.store, folder, one.sets, work.options), work.as_json)
        return
    try:
        with terminal.counting_progress("searching", "trials") as show:
            found = search(work.store, folder, work.around, work.asked, goal, work.options, show)
    except KeyboardInterrupt:
        runs.show_interrupted(folder)
        raise typer.Exit(INTERRUPTED) from None
    sweeps.show_search(found, work.as_json)
    if found.run is None:
        raise typer.Exit(PARTIAL)


@guarded
def surface(
    run: RunFolder,
    by: By = "sharpe",
    aggregate: Aggregate = "median",
    ascending: Ascending = False,
    symbols: Symbols = None,
    x: Annotated[str | None, typer.Option("--x", help="The map's axis across, e.g. lengths.ema.")] = None,
    y: Annotated[str | None, typer.Option("--y", help="The map's axis down.")] = None,
    seed: Annotated[int, typer.Option(help="Of the random halves of the symbols.")] = 0,
    limit: Annotated[int, typer.Option(help="Sets to list.")] = 10,
    as_json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print every set as CSV.")] = False,
) -> None:
    """Read a sweep at a glance: the best set, its plateau, the order's stability, a map over two axes."""
    if as_json and csv:
        raise typer.BadParameter("give one of --json and --csv")
    from atc_backtest.display import sweeps, terminal
    from atc_backtest.pipelines import surface as reading
    from atc_backtest.pipelines.report import to_csv
    from atc_backtest.pipelines.runs import open_run

    opened = open_run(run)
    chosen = None if symbols is None else tuple(words(symbols))
    found = reading.surface(opened, reading.View(by, aggregate, ascending, chosen, seed))
    if as_json:
        terminal.print_json(sweeps.surface_json(opened, found, x, y))
    elif csv:
        print(to_csv(reading.set_table(opened, found)), end="")
    else:
        sweeps.show_surface(opened, found, x, y, limit)
