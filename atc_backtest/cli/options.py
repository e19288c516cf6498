"""Options and arguments that several commands share, and how their texts are taken apart."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from atc_backtest.pipelines.backtest import Options

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of text.")]
StoreArgument = Annotated[str, typer.Argument(help="The price store: a folder, or a URL as s3://...", metavar="STORE")]
RunFolder = Annotated[Path, typer.Argument(help="The run's folder.", metavar="RUN")]
Kernel = Annotated[str, typer.Option(help="auto, rust, numba, cuda or reference: the same bits.", envvar="ATC_KERNEL")]
Threads = Annotated[int | None, typer.Option(help="Threads of this process. Default: one per core.")]
Workers = Annotated[int | None, typer.Option(help="Run on a local Dask cluster of N processes instead.")]
Scheduler = Annotated[str | None, typer.Option(help="Run on an existing Dask cluster: tcp://host:port.")]
Config = Annotated[Path | None, typer.Option(help="TOML with [atc], [execution] and [run].")]
Symbols = Annotated[str | None, typer.Option(help="Only these, separated by commas.")]
ShowPlan = Annotated[bool, typer.Option("--plan", help="Print how the run would be cut and leave.")]


@dataclass(frozen=True)
class Place:
    """Where a command computes; fields of the pipelines' `Options`."""

    kernel: Kernel = "auto"
    threads: Threads = None
    workers: Workers = None
    scheduler: Scheduler = None


@dataclass(frozen=True)
class RunFlags:
    """What every command says that runs parameter sets over a store."""

    profile: Annotated[str | None, typer.Option(help="enhance or pine.")] = None
    fill: Annotated[str | None, typer.Option(help="auto, next_open, next_close or close.")] = None
    fee_bps: Annotated[float | None, typer.Option(help="Fee per side, basis points of traded value.")] = None
    slippage_bps: Annotated[float | None, typer.Option(help="Slippage per side, basis points.")] = None
    shorts: Annotated[bool | None, typer.Option("--shorts/--no-shorts", help="Also hold short positions.")] = None
    longs: Annotated[bool | None, typer.Option("--longs/--no-longs", help="Hold long positions (default).")] = None
    costs: Annotated[
        Path | None, typer.Option(help="CSV of single symbols' costs: symbol,fee_bps,slippage_bps,funding_bps.")
    ] = None
    eval_start: Annotated[str | None, typer.Option(help="First bar that counts, ISO date; earlier ones teach.")] = None
    eval_end: Annotated[str | None, typer.Option(help="First bar that counts no more, ISO date.")] = None
    symbols: Symbols = None
    save: Annotated[str | None, typer.Option(help="What to keep: signals,equity,trades,periods.")] = None
    period: Annotated[str, typer.Option(help="Of the rows of periods: day, week, month, quarter or year.")] = "month"
    kernel: Kernel = "auto"
    threads: Threads = None
    workers: Workers = None
    scheduler: Scheduler = None
    resources: Annotated[
        list[str] | None,
        typer.Option(
            help="Dask resources that a partition takes, e.g. GPU=1: it runs where they are.", metavar="NAME=N"
        ),
    ] = None
    dashboard_address: Annotated[
        str | None,
        typer.Option(help="Where the dashboard of --workers is. Default: 127.0.0.1, any port.", metavar="HOST:PORT"),
    ] = None
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave cluster and dashboard up after the run, until Ctrl-C.")
    ] = False
    dask_report: Annotated[
        bool, typer.Option("--dask-report", help="Save Dask's performance report in the run's folder.")
    ] = False
    memory_limit: Annotated[
        str | None, typer.Option(help="Memory of all processes together, e.g. 1GB.", envvar="ATC_MEMORY_LIMIT")
    ] = None
    retries: Annotated[int, typer.Option(help="Further tries at a partition whose error may pass.")] = 2
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that stopped.")] = False
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run if it exists.")] = False

    def settings(self) -> dict[str, str]:
        """Those that are settings of every set, as text like that of --set; those not given are left out."""
        names = ("profile", "fill", "fee_bps", "slippage_bps", "shorts", "longs", "eval_start", "eval_end")
        given = {name: getattr(self, name) for name in names}
        return {name: json.dumps(value) for name, value in given.items() if value is not None}

    def options(self) -> Options:
        """The others: four texts and a file are read, the rest is taken as it is."""
        from atc_backtest.pipelines.backtest import Options
        from atc_backtest.pipelines.plan import parse_bytes
        from atc_backtest.symbol_costs import read_costs

        return Options(
            kernel=self.kernel,
            symbols=None if self.symbols is None else tuple(words(self.symbols)),
            save=tuple(words(self.save or "")),
            period=self.period,
            workers=self.workers,
            scheduler=self.scheduler,
            threads=self.threads,
            memory_limit=None if self.memory_limit is None else parse_bytes(self.memory_limit),
            retries=self.retries,
            overwrite=self.overwrite,
            resume=self.resume,
            costs=() if self.costs is None else read_costs(self.costs),
            resources=amounts("--resources", self.resources or []),
            dashboard_address=self.dashboard_address,
            keep=self.keep,
            dask_report=self.dask_report,
        )


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Let `command` take options by the group: where a parameter's type is a dataclass, the command line sees that
    dataclass's fields, an option each, and `command` is called with an instance of them."""
    hints: dict[str, Any] = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    options: list[Parameter] = []
    for option in signature(command).parameters.values():
        kind = groups.get(option.name)
        kinds = hints if kind is None else get_type_hints(kind, include_extras=True)
        members = [option] if kind is None else signature(kind).parameters.values()
        options += [one.replace(annotation=kinds[one.name], kind=Parameter.KEYWORD_ONLY) for one in members]

    @functools.wraps(command)
    def taking_each(**given: Any) -> None:
        for name, kind in groups.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        command(**given)

    taking_each.__signature__ = Signature(options)  # type: ignore[attr-defined]
    taking_each.__annotations__ = {option.name: option.annotation for option in options}
    return taking_each


MAY_STAND_ALONE = ("--html", "--png")
"""Options whose value may be left out: it is empty then, and the command takes its default."""


class ValuesLeftOut(TyperCommand):
    """A command with options that `MAY_STAND_ALONE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Where such an option is the last word, or another option follows, give it an empty value."""
        whole: list[str] = []
        for word, after in zip(args, [*args[1:], "-"], strict=True):
            whole.append(f"{word}=" if word in MAY_STAND_ALONE and after.startswith("-") else word)
        return super().parse_args(ctx, whole)


def pairs(option: str, texts: list[str]) -> dict[str, str]:
    """NAME=VALUE, as often as given."""
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise typer.BadParameter(f"{option} {text!r}: write NAME=VALUE")
        pairs[name.strip()] = value.strip()
    return pairs


def words(text: str) -> list[str]:
    """What commas separate."""
    return [word.strip() for word in text.split(",") if word.strip()]


def amounts(option: str, texts: list[str]) -> tuple[tuple[str, float], ...]:
    """NAME=NUMBER, as often as given."""
    found = []
    for name, text in pairs(option, texts).items():
        try:
            found.append((name, float(text)))
        except ValueError:
            raise typer.BadParameter(f"{option} {name}={text}: write NAME=NUMBER") from None
    return tuple(found)
