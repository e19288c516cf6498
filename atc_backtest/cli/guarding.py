"""The commands that guard against fooling oneself: guard ..., and check causality."""

from __future__ import annotations

from typing import Annotated

import typer

from atc_backtest.cli.guard import REFUSED, guarded
from atc_backtest.cli.options import Config, Json, Kernel, RunFolder, StoreArgument, Threads, pairs, words

guard_app = typer.Typer(
    help="What a run's figures are worth: overfitting, luck, costs, delay, chance.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
check_app = typer.Typer(help="Check the program itself.", no_args_is_help=True, rich_markup_mode=None)

By = Annotated[str, typer.Option(help="What chooses among sets: sharpe or return.")]
Symbol = Annotated[str | None, typer.Option(help="One symbol by its bars. Default: the mean of all, by periods.")]
SetId = Annotated[int | None, typer.Option("--set-id", help="The set's param_id. Default: the best mean Sharpe ratio.")]
Embargo = Annotated[int, typer.Option(help="Periods left out between training and testing.")]
Seed = Annotated[int, typer.Option(help="What is drawn, again the same.")]


@guard_app.command("walk-forward")
@guarded
def walk_forward(
    run: RunFolder,
    train: Annotated[int, typer.Option(help="Periods to choose a set in.")] = 24,
    test: Annotated[int, typer.Option(help="Periods to look at it in, and to go on by.")] = 6,
    anchored: Annotated[bool, typer.Option("--anchored", help="Training begins at the first period always.")] = False,
    embargo: Embargo = 0,
    by: By = "sharpe",
    as_json: Json = False,
) -> None:
    """Choose the best set in the past, look at it in the time after, go on: all symbols together, and each."""
    from atc_backtest.display import guards
    from atc_backtest.pipelines.guards import assessing
    from atc_backtest.pipelines.runs import open_run

    guards.show_walk_forward(assessing.walked_forward(open_run(run), train, test, anchored, embargo, by), as_json)


@guard_app.command("cpcv")
@guarded
def cpcv(
    run: RunFolder,
    groups: Annotated[int, typer.Option(help="Groups of neighbouring periods.")] = 10,
    test_groups: Annotated[int, typer.Option("--test-groups", help="Of them tested at a time.")] = 2,
    purge: Annotated[int, typer.Option(help="Periods on either side of a tested group that do not train.")] = 1,
    embargo: Embargo = 0,
    by: By = "sharpe",
    symbol: Symbol = None,
    as_json: Json = False,
) -> None:
    """Purged combinatorial cross-validation: the spread of out-of-sample Sharpe ratios over many paths."""
    from atc_backtest.display import guards
    from atc_backtest.pipelines.guards import assessing
    from atc_backtest.pipelines.runs import open_run

    found = assessing.cross_validated(open_run(run), groups, test_groups, purge, embargo, by, symbol)
    guards.show_cross_validation(found, as_json)


@guard_app.command("pbo")
@guarded
def pbo(
    run: RunFolder,
    blocks: Annotated[int, typer.Option(help="Blocks of neighbouring periods, an even number.")] = 16,
    by: By = "sharpe",
    symbol: Symbol = None,
    as_json: Json = False,
) -> None:
    """The probability of backtest overfitting: how often the best of one half is below the middle in the other."""
    from atc_backtest.display import guards
    from atc_backtest.pipelines.guards import assessing
    from atc_backtest.pipelines.runs import open_run

    guards.show_overfitting(assessing.overfitted(open_run(run), blocks, by, symbol), by, as_json)


@guard_app.command("deflated")
@guarded
def deflated(
    run: RunFolder,
    trials: Annotated[float | None, typer.Option(help="So many trials instead of the ledger's.")] = None,
    independent: Annotated[
        bool, typer.Option("--independent", help="Count correlated trials as fewer independent ones.")
    ] = False,
    symbol: Symbol = None,
    as_json: Json = False,
) -> None:
    """The best Sharpe ratio against the best that luck brings in as many trials as the store's ledger counts."""
    from atc_backtest.display import guards
    from atc_backtest.pipelines.guards import assessing
    from atc_backtest.pipelines.runs import open_run

    guards.show_deflation(assessing.deflated(open_run(run), trials, independent, symbol), as_json)


@guard_app.command("ledger")
@guarded
def ledger(store: StoreArgument, as_json: Json = False) -> None:
    """Every run over a store, and how many distinct parameter sets they have tried."""
    from atc_backtest.display import guards
    from atc_backtest.pipelines.guards.ledger import read_ledger
    from atc_backtest.stores.opening import absolute, open_store

    guards.show_ledger(read_ledger(absolute(store), open_store(store).info.id), as_json)


@guard_app.command("costs")
@guarded
def costs(
    run: RunFolder,
    fee_bps: Annotated[str, typer.Option(help="Fees a side in basis points, separated by commas.")] = "0,2,5,10,20",
    set_id: SetId = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """One set with other fees: how its figures fall, and where they reach nothing."""
    from atc_backtest.display import guards
    from atc_backtest.pipelines.guards import rerunning
    from atc_backtest.pipelines.runs import open_run

    fees = numbers("--fee-bps", fee_bps)
    guards.show_costs(rerunning.cost_table(open_run(run), fees, set_id, threads), as_json)


@guard_app.command("delay")
@guarded
def delay(
    run: RunFolder,
    bars: Annotated[str, typer.Option(help="Bars that fills come later, separated by commas, 1 to 5.")] = "1",
    set_id: SetId = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """One set with fills one bar later against fills now: an edge that is gone by then was none to have."""
    from atc_backtest.display import guards
    from atc_backtest.pipelines.guards import rerunning
    from atc_backtest.pipelines.runs import open_run

    later = [int(value) for value in numbers("--bars", bars)]
    guards.show_delay(rerunning.delay_table(open_run(run), later, set_id, threads), as_json)


@guard_app.command("shuffle")
@guarded
def shuffle(
    run: RunFolder,
    trials: Annotated[int, typer.Option(help="Shuffles of every symbol.")] = 100,
    seed: Seed = 0,
    symbols: Annotated[int | None, typer.Option(help="So many symbols, drawn by the seed. Default: all.")] = None,
    set_id: Annotated[int | None, typer.Option("--set-id", help="This set alone. Default: the best of all.")] = None,
    as_json: Json = False,
) -> None:
    """The whole search again on shuffled returns: how often chance does as well as the real order of bars."""
    from atc_backtest.display import guards, terminal
    from atc_backtest.pipelines.guards.shuffle import shuffled
    from atc_backtest.pipelines.runs import open_run

    with terminal.counting_progress("shuffling", "symbols") as show:
        found = shuffled(open_run(run), trials, seed, symbols, set_id, show)
    guards.show_shuffle(found, as_json)


@check_app.command("causality")
@guarded
def causality(
    store: StoreArgument,
    kernel: Kernel = "all",
    symbols: Annotated[
        str | None, typer.Option(help="These, separated by commas. Default: 3 drawn by the seed.")
    ] = None,
    points: Annotated[int, typer.Option(help="Bars to poison after, of each symbol.")] = 8,
    bars: Annotated[int, typer.Option(help="Bars of each symbol, its first ones.")] = 500,
    seed: Seed = 0,
    config: Config = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any setting.", metavar="NAME=VALUE")] = None,
    as_json: Json = False,
) -> None:
    """Poison all prices after a bar: what kernels and accounts said up to it must stay, to the last bit.

    Exits with 3 where something changed.
    """
    from atc_backtest.config import resolve
    from atc_backtest.display import guards, terminal
    from atc_backtest.pipelines.guards import causal

    run_config = resolve(config, pairs("--set", settings or []))
    chosen = 3 if symbols is None else words(symbols)
    with terminal.counting_progress("poisoning", "checks") as show:
        kernels = causal.available(kernel)
        checked = causal.check_kernels(store, run_config, kernels, chosen, points, seed, bars, show)
    guards.show_causality(checked, points, as_json)
    if any(one.leaks for one in checked):
        raise typer.Exit(REFUSED)


def numbers(option: str, text: str) -> list[float]:
    """Numbers that commas separate."""
    try:
        return [float(word) for word in words(text)]
    except ValueError:
        raise typer.BadParameter(f"{option} {text!r}: write numbers, separated by commas") from None
