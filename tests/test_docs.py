"""The documentation: its tables name what there is, its Python runs, its site builds strictly and asks nobody."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer

import atc_backtest as atc
from atc_backtest.cli import app
from atc_backtest.config import RunConfig, flatten, from_dict, parse_toml
from atc_backtest.metrics import METRIC_COLUMNS, TRADE_COLUMNS

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
ROW = re.compile(r"^\| `([^`]+)` \| (.*?) \|", re.MULTILINE)


def section(page: str, heading: str) -> str:
    text = (DOCS / page).read_text(encoding="utf-8")
    return text.split(f"\n## {heading}", 1)[1].split("\n## ", 1)[0]


def test_every_setting_is_told_with_its_default() -> None:
    for name, values in RunConfig().to_dict().items():
        told = dict(ROW.findall(section("settings.md", f"[{name}]")))
        assert list(told) == [setting for setting, _ in flatten(values)]
        for setting, value in flatten(values):
            text = told[setting].strip("`")
            assert value is None if text == "unset" else parse_toml(f"x = {text}")["x"] == value, setting


def test_the_example_of_settings_is_allowed() -> None:
    text = (DOCS / "settings.md").read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    assert from_dict(parse_toml(text)).eval_start == "2015-01-01"


def test_every_figure_is_defined() -> None:
    assert [name for name, _ in ROW.findall(section("figures.md", "Columns of metrics"))] == list(METRIC_COLUMNS)
    assert [name for name, _ in ROW.findall(section("figures.md", "Columns of trades"))] == list(TRADE_COLUMNS)


def test_every_command_and_option_is_on_its_page() -> None:
    page = runpy.run_path(str(DOCS / "hooks.py"))["commands"]()

    def commands(command: Any, name: str) -> dict[str, Any]:
        if not hasattr(command, "commands"):
            return {name: command}
        found: dict[str, Any] = {}
        for word, one in command.commands.items():
            found |= commands(one, f"{name} {word}")
        return found

    found = commands(typer.main.get_command(app), "atc-backtest")
    assert {"atc-backtest backtest", "atc-backtest store gaps"} <= set(found)
    assert sorted(re.findall(r"^## (.*)$", page, re.MULTILINE)) == sorted(found)
    for name, command in found.items():
        part = page.split(f"## {name}\n")[1].split("\n## ")[0]
        for parameter in command.params:
            assert all(
                f"`{option}`" in part for option in (*parameter.opts, *parameter.secondary_opts) if "-" in option
            )


def test_links_out_of_the_docs_lead_to_files_that_are_there() -> None:
    inside = runpy.run_path(str(DOCS / "hooks.py"))["links_inside"]
    link = "see [the figures](../atc_backtest/metrics.py#L3), [jit.py](../atc_backtest/jit.py)"
    assert inside(link, None) == "see the figures (`atc_backtest/metrics.py`), `atc_backtest/jit.py`"
    assert "(https://x.org/r/blob/main/atc_backtest/metrics.py#L3)" in inside(link, "https://x.org/r/")
    with pytest.raises(FileNotFoundError, match="no/such"):
        inside("[a](../no/such.py)", None)


@pytest.mark.parametrize("page", ["index.md", "python.md"])
def test_python_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    rows, demo = pd.read_parquet("examples/data/us_stocks.parquet"), "examples/demo.toml"
    assert names["run"].hash == atc.backtest(rows, demo, tz="UTC", calendar="XNYS").hash  # that of `make demo`


@pytest.mark.slow
def test_every_picture_is_drawn_by_the_script_and_light(tmp_path: Path) -> None:
    (tmp_path / "docs" / "pictures").mkdir(parents=True)
    shutil.copy(DOCS / "pictures.py", tmp_path / "docs")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    subprocess.run([sys.executable, tmp_path / "docs" / "pictures.py"], check=True, capture_output=True)
    drawn = {path.name for path in (tmp_path / "docs" / "pictures").iterdir()}
    assert drawn == {path.name for path in (DOCS / "pictures").iterdir()}
    assert drawn == set(re.findall(r"\(pictures/(.*?)\)", (DOCS / "concepts.md").read_text(encoding="utf-8")))
    assert all((DOCS / "pictures" / name).stat().st_size < 150_000 for name in drawn)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.mark.slow
def test_the_site_builds_strictly_with_every_page(site: Path) -> None:
    pages = {path.stem for path in DOCS.glob("*.md")} | {"commands"}
    assert {path.stem for path in site.glob("*.html")} == pages | {"404"}
    home = (site / "index.html").read_text(encoding="utf-8")
    assert [page for page in sorted(pages) if f'href="{page}.html"' not in home] == []
    assert not list(site.rglob("*.py"))


@pytest.mark.slow
def test_pages_ask_no_other_host(site: Path) -> None:
    loads = re.compile(r"""<(?:script|img|iframe|source)[^>]*\ssrc=["']?(?:https?:)?//|<link[^>]*href=["']?https?://""")
    for page in site.glob("*.html"):
        assert not loads.search(page.read_text(encoding="utf-8")), page.name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)[\"' ]*(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet.name
