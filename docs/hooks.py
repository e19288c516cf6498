"""What MkDocs does with these pages beside rendering them: the page of all commands, and links out of docs/.

`commands.md` is made of the command line's own help whenever the site is built. A link to a file of the repository
leads to it where `repo_url` is set in mkdocs.yml, and shows the file's path otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from mkdocs.structure.files import File, Files

from atc_backtest.cli import app

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = "atc-backtest"
OUT_OF_DOCS = re.compile(r"\[([^\]]*)\]\(\.\./([^)#\s]+)(#[^)]*)?\)")

INTRODUCTION = """# Commands

Every command and option, as `--help` has them. Exit codes: 0 done; 1 internal error; 2 usage; 3 data or configuration
refused, or a verified run that differs; 4 partial, some partitions failed and were set aside; 130 interrupted.
Options whose variable is named take their value from the environment, too, and so does every setting
([settings](settings.md)).
"""


def commands() -> str:
    """The page of all commands, in Markdown."""
    return "\n".join([INTRODUCTION, *_described(typer.main.get_command(app), PROGRAM)])


def _described(command: Any, name: str) -> Iterator[str]:
    """One command and those below it; hidden ones are left out."""
    if hasattr(command, "commands"):
        for word, one in sorted(command.commands.items()):
            if not one.hidden:
                yield from _described(one, f"{name} {word}")
        return
    arguments = [one for one in command.params if one.param_type_name == "argument" and not one.hidden]
    options = [one for one in command.params if one.param_type_name == "option" and not one.hidden]
    yield f"## {name}\n\n{command.help}\n"
    yield f"    {' '.join([name, *(_metavar(one) for one in arguments), '[OPTIONS]' if options else ''])}\n"
    if arguments:
        yield "| argument | |\n|---|---|"
        yield from (f"| `{_metavar(one)}` | {_cell(one.help)} |" for one in arguments)
        yield ""
    if options:
        yield "| option | | default |\n|---|---|---|"
        yield from (f"| {_names(one)} | {_cell(one.help)}{_variable(one)} | {_default(one)} |" for one in options)
        yield ""


def _metavar(one: Any) -> str:
    """What stands for a value: of an argument, or after an option."""
    return str(one.metavar or ("VALUE" if one.param_type_name == "option" else one.name.upper()))


def _names(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    return names if option.is_flag else f"{names} `{_metavar(option)}`"


def _variable(option: Any) -> str:
    return f" Variable: `{option.envvar}`." if option.envvar else ""


def _default(option: Any) -> str:
    value = option.default
    return "" if value in (None, False, ()) or callable(value) else f"`{value}`"


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|").replace("\n", " ")


def links_inside(markdown: str, repo_url: str | None) -> str:
    """Links to files of the repository outside docs/, made ones that the site can keep."""

    def found(match: re.Match[str]) -> str:
        text, path, anchor = match.groups()
        if not (ROOT / path).exists():
            raise FileNotFoundError(f"a page of docs/ links to {path}, which is not there")
        if repo_url:
            return f"[{text}]({repo_url.rstrip('/')}/blob/main/{path}{anchor or ''})"
        return f"`{path}`" if text.strip("`") in path else f"{text} (`{path}`)"

    return OUT_OF_DOCS.sub(found, markdown)


def on_files(files: Files, *, config: Any) -> Files:
    files.append(File.generated(config, "commands.md", content=commands()))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    return links_inside(markdown, config.repo_url)
