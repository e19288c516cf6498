"""Options and arguments that several commands share, and how their texts are taken apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
Resources = Annotated[
    list[str] | None,
    typer.Option(help="Dask resources that a partition takes, e.g. GPU=1: it runs where they are.", metavar="NAME=N"),
]
DashboardAddress = Annotated[
    str | None,
    typer.Option(help="Where the dashboard of --workers is. Default: 127.0.0.1, any port.", metavar="HOST:PORT"),
]
Keep = Annotated[bool, typer.Option("--keep", help="Leave cluster and dashboard up after the run, until Ctrl-C.")]
DaskReport = Annotated[bool, typer.Option("--dask-report", help="Save Dask's performance report in the run's folder.")]

Out = Annotated[Path | None, typer.Option(help="The run's folder. Default: runs/<store>.")]
Config = Annotated[Path | None, typer.Option(help="TOML with [atc], [execution] and [run].")]
Profile = Annotated[str | None, typer.Option(help="enhance or pine.")]
Fill = Annotated[str | None, typer.Option(help="auto, next_open, next_close or close.")]
FeeBps = Annotated[float | None, typer.Option(help="Fee per side, basis points of traded value.")]
SlippageBps = Annotated[float | None, typer.Option(help="Slippage per side, basis points.")]
Shorts = Annotated[bool | None, typer.Option("--shorts/--no-shorts", help="Also hold short positions.")]
Longs = Annotated[bool | None, typer.Option("--longs/--no-longs", help="Hold long positions (default).")]
Costs = Annotated[
    Path | None, typer.Option(help="CSV of single symbols' costs: symbol,fee_bps,slippage_bps,funding_bps.")
]
EvalStart = Annotated[str | None, typer.Option(help="First bar that counts, ISO date; earlier ones teach.")]
EvalEnd = Annotated[str | None, typer.Option(help="First bar that counts no more, ISO date.")]
Symbols = Annotated[str | None, typer.Option(help="Only these, separated by commas.")]
Save = Annotated[str | None, typer.Option(help="What to keep: signals,equity,trades,periods.")]
Period = Annotated[str, typer.Option(help="Of the rows of periods: day, week, month, quarter or year.")]
MemoryLimit = Annotated[
    str | None, typer.Option(help="Memory of all processes together, e.g. 1GB.", envvar="ATC_MEMORY_LIMIT")
]
Retries = Annotated[int, typer.Option(help="Further tries at a partition whose error may pass.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run that stopped.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run if it exists.")]
ShowPlan = Annotated[bool, typer.Option("--plan", help="Print how the run would be cut and leave.")]


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


def setting_flags(**named: Any) -> dict[str, str]:
    """The settings that have flags of their own, as text like that of --set; those not given are left out."""
    return {name: json.dumps(value) for name, value in named.items() if value is not None}


def run_options(
    symbols: str | None,
    save: str | None,
    memory_limit: str | None,
    costs: Path | None,
    resources: list[str] | None,
    **others: Any,
) -> Options:
    """`Options` of what the command line says: four texts and a file are read, `others` are taken as they are."""
    from atc_backtest.pipelines.backtest import Options
    from atc_backtest.pipelines.plan import parse_bytes
    from atc_backtest.symbol_costs import read_costs

    return Options(
        symbols=None if symbols is None else tuple(words(symbols)),
        save=tuple(words(save or "")),
        memory_limit=None if memory_limit is None else parse_bytes(memory_limit),
        costs=() if costs is None else read_costs(costs),
        resources=amounts("--resources", resources or []),
        **others,
    )
