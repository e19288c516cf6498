"""The commands of many parameter sets: sweep runs them, surface reads what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atc_backtest.cli.guard import guarded
from atc_backtest.cli.options import (
    Config,
    EvalStart,
    FeeBps,
    Fill,
    Json,
    Kernel,
    MemoryLimit,
    Out,
    Overwrite,
    Period,
    Profile,
    Resume,
    Retries,
    Save,
    Scheduler,
    Shorts,
    ShowPlan,
    SlippageBps,
    StoreArgument,
    Symbols,
    Threads,
    Workers,
    pairs,
    run_options,
    setting_flags,
)
from atc_backtest.cli.running import run_and_show


@guarded
def sweep(
    store: StoreArgument,
    out: Out = None,
    config: Config = None,
    axes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="An axis: lengths.ema=14:56:7, lengths=14:56:7 (all six), profile=enhance,pine, lambda=0.001:1:log.",
            metavar="NAME=VALUES",
        ),
    ] = None,
    spec: Annotated[
        Path | None, typer.Option(help="TOML with [sweep], where it is not in --config; --set lies over it.")
    ] = None,
    random: Annotated[int | None, typer.Option(help="So many draws instead of every combination.")] = None,
    seed: Annotated[int | None, typer.Option(help="Which draws. Default: 0.")] = None,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Leave out combinations that the settings' rules refuse.")
    ] = False,
    profile: Profile = None,
    fill: Fill = None,
    fee_bps: FeeBps = None,
    slippage_bps: SlippageBps = None,
    shorts: Shorts = None,
    eval_start: EvalStart = None,
    symbols: Symbols = None,
    save: Save = None,
    period: Period = "month",
    kernel: Kernel = "auto",
    threads: Threads = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    memory_limit: MemoryLimit = None,
    retries: Retries = 2,
    resume: Resume = False,
    overwrite: Overwrite = False,
    plan: ShowPlan = False,
    as_json: Json = False,
) -> None:
    """Run many parameter sets over a store: every combination of the axes, or a random sample of them.

    Axes are given as --set NAME=VALUES or in a TOML file's [sweep]; --plan counts and prices them first.
    """
    from atc_backtest.config import read_toml, resolve
    from atc_backtest.pipelines.sweep import expand, read_spec

    base = {} if config is None else read_toml(config)
    table = base.pop("sweep", {})
    if spec is not None:
        table = read_toml(spec).get("sweep", {})
    flags = setting_flags(
        profile=profile, fill=fill, fee_bps=fee_bps, slippage_bps=slippage_bps, shorts=shorts, eval_start=eval_start
    )
    asked = read_spec(table, pairs("--set", axes or []), random, seed)
    found = expand(asked, resolve(base, flags), skip_invalid)

    from atc_backtest.display import sweeps
    from atc_backtest.pipelines import backtest as running
    from atc_backtest.stores.opening import stem

    options = run_options(
        symbols,
        save,
        memory_limit,
        period=period,
        kernel=kernel,
        workers=workers,
        scheduler=scheduler,
        threads=threads,
        retries=retries,
        overwrite=overwrite,
        resume=resume,
    )
    folder = Path("runs") / f"{stem(store)}-sweep" if out is None else out
    if plan:
        sweeps.show_plan(found, running.prepare(store, folder, found.sets, options), as_json)
        return
    sweeps.show_count(found)
    run_and_show(store, folder, found.sets, options, as_json)
