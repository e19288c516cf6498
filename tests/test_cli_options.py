"""Options that commands take by the group: how the command line sees them, and what becomes of those of a run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from atc_backtest.cli.guard import guarded
from atc_backtest.cli.options import Json, Place, RunFlags, grouped
from atc_backtest.pipelines.backtest import Options
from atc_backtest.symbol_costs import SymbolCosts


@dataclass(frozen=True)
class Group:
    """Of every kind of option that commands have."""

    where: Annotated[Path | None, typer.Option(help="A path.")] = None
    often: Annotated[list[str] | None, typer.Option("--word", help="A list.")] = None
    shorts: Annotated[bool | None, typer.Option("--shorts/--no-shorts", help="A flag of two.")] = None
    count: Annotated[int, typer.Option(help="A number.", envvar="ATC_COUNT")] = 7


app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
@guarded
@grouped
def command(
    name: Annotated[str, typer.Argument()], first: int = 1, *, group: Group, last: int = 2, as_json: Json = False
) -> None:
    """What it says of itself."""
    print(json.dumps({"name": name, "first": first, "last": last, "json": as_json} | asdict(group), default=str))


def said(*words: str, env: dict[str, str] | None = None) -> dict[str, object]:
    result = CliRunner().invoke(app, list(words), env=env)
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.stdout)
    return found


def test_a_group_stands_where_its_parameter_does() -> None:
    text = CliRunner().invoke(app, ["--help"]).stdout
    places = [text.index(f"--{name} ") for name in ("first", "where", "word", "shorts", "count", "last", "json")]
    assert places == sorted(places)
    assert "What it says of itself." in text
    assert "--group" not in text
    assert "default: 7" in text


def test_what_is_given_and_what_is_not() -> None:
    rest = {"name": "x", "first": 1, "last": 2, "json": False}
    assert said("x") == rest | {"where": None, "often": None, "shorts": None, "count": 7}
    found = said("x", "--word", "a", "--no-shorts", "--word", "b", "--where", "up", env={"ATC_COUNT": "3"})
    assert found == rest | {"where": "up", "often": ["a", "b"], "shorts": False, "count": 3}
    assert CliRunner().invoke(app, ["x", "--count", "many"]).exit_code == 2


def test_nothing_said_is_what_the_pipelines_take_by_default() -> None:
    assert RunFlags().options() == Options()
    assert RunFlags().settings() == {}
    assert Options(**asdict(Place())) == Options()


def test_settings_are_texts_as_those_of_set() -> None:
    flags = RunFlags(profile="pine", fee_bps=2.5, shorts=False, eval_start="2024-05-01", save="equity")
    assert flags.settings() == {
        "profile": '"pine"',
        "fee_bps": "2.5",
        "shorts": "false",
        "eval_start": '"2024-05-01"',
    }


def test_texts_and_the_file_of_costs_are_read(tmp_path: Path) -> None:
    table = tmp_path / "costs.csv"
    table.write_text("symbol,fee_bps\nBTC,4\n")
    flags = RunFlags(symbols="A, B,", save="equity,trades", memory_limit="2GB", resources=["GPU=1"], costs=table)
    assert flags.options() == Options(
        symbols=("A", "B"),
        save=("equity", "trades"),
        memory_limit=2 * 10**9,
        resources=(("GPU", 1.0),),
        costs=(SymbolCosts("BTC", 4.0, None, None),),
    )
    with pytest.raises(typer.BadParameter, match="write NAME=NUMBER"):
        RunFlags(resources=["GPU=one"]).options()
