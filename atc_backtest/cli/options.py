"""Options and arguments that several commands share, and how their texts are taken apart."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of text.")]
StoreArgument = Annotated[str, typer.Argument(help="The price store: a folder, or a URL as s3://...", metavar="STORE")]
RunFolder = Annotated[Path, typer.Argument(help="The run's folder.", metavar="RUN")]
Kernel = Annotated[str, typer.Option(help="auto, rust, numba, cuda or reference: the same bits.", envvar="ATC_KERNEL")]
Threads = Annotated[int | None, typer.Option(help="Threads of this process. Default: one per core.")]
Workers = Annotated[int | None, typer.Option(help="Run on a local Dask cluster of N processes instead.")]
Scheduler = Annotated[str | None, typer.Option(help="Run on an existing Dask cluster: tcp://host:port.")]


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
