"""The commands that look at returns over time: of one symbol by calendar period, and of a portfolio of all."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from atc_backtest.cli.guard import guarded
from atc_backtest.cli.options import Json, Place, RunFolder, grouped

ParamId = Annotated[int, typer.Option(help="Which parameter set, by its param_id.")]


@guarded
def returns(
    run: RunFolder,
    symbol: Annotated[str, typer.Option(help="The symbol.")],
    param_id: ParamId = 0,
    by: Annotated[
        str | None, typer.Option(help="day, week, month, quarter or year; what the run saved, or longer.")
    ] = None,
    rolling: Annotated[int, typer.Option(help="Figures over so many periods up to each one.")] = 1,
    benchmark: Annotated[str | None, typer.Option(help="A symbol to hold instead of this one.")] = None,
    as_json: Json = False,
) -> None:
    """Print a symbol's returns by calendar period, beside buy-and-hold's. The run needs --save periods."""
    from atc_backtest.display import portfolios
    from atc_backtest.pipelines import calendar_returns
    from atc_backtest.pipelines.runs import open_run

    table = calendar_returns.by_period(open_run(run), symbol, param_id, by, rolling, benchmark)
    portfolios.show_returns(symbol, table, as_json)


@guarded
@grouped
def portfolio(
    run: RunFolder,
    weights: Annotated[str, typer.Option(help="equal, or volatility: less of what moves more.")] = "equal",
    cap: Annotated[float | None, typer.Option(help="The most that one symbol gets, a fraction such as 0.05.")] = None,
    rebalance: Annotated[int, typer.Option(help="Every so many of the run's periods; 0: never.")] = 1,
    lookback: Annotated[int, typer.Option(help="Periods that volatility is taken from.")] = 12,
    cost_bps: Annotated[
        float | None, typer.Option(help="Of what a rebalance trades. Default: the set's fee and slippage.")
    ] = None,
    benchmark: Annotated[
        str | None, typer.Option(help="A symbol. Default: buy-and-hold of all with the same weights.")
    ] = None,
    param_id: ParamId = 0,
    name: Annotated[str | None, typer.Option(help="Of its folder in RUN/portfolios.")] = None,
    *,
    place: Place,
    memory_limit: Annotated[str | None, typer.Option(help="Memory of all processes together, e.g. 1GB.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the portfolio of that name.")] = False,
    as_json: Json = False,
) -> None:
    """Add a run's accounts up to one portfolio: its equity, exposures and figures, bar by bar."""
    from atc_backtest.display import portfolios, terminal
    from atc_backtest.pipelines import portfolio as adding
    from atc_backtest.pipelines.backtest import Options
    from atc_backtest.pipelines.plan import parse_bytes
    from atc_backtest.pipelines.runs import open_run

    opened = open_run(run)
    limit = None if memory_limit is None else parse_bytes(memory_limit)
    options = Options(**asdict(place), memory_limit=limit, overwrite=overwrite)
    weighting = adding.weighting_of(opened, param_id, weights, cap, rebalance, lookback, cost_bps)
    with terminal.counting_progress("adding up", "blocks of symbols") as show:
        found = adding.portfolio(opened, weighting, param_id, benchmark, name, options, show)
    portfolios.show_portfolio(found, as_json)
