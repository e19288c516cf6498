"""The command line, called in this process."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from atc_backtest.cli import app


def atc(*args: object, env: dict[str, str] | None = None) -> Result:
    """`atc-backtest` with these words: exit code and output."""
    return CliRunner().invoke(app, [str(arg) for arg in args], env=env)
