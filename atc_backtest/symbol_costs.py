"""Costs of single symbols, from a CSV: what a run charges all of them holds where the file says nothing.

    symbol,fee_bps,slippage_bps,funding_bps
    BTCUSDT,4,1,1
    PEPEUSDT,10,25,

An empty cell, a column that is not there and a symbol without a row take the run's setting.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from atc_backtest.accounts import Charges
from atc_backtest.config import COST_LIMITS, ExecutionConfig
from atc_backtest.errors import ConfigError
from atc_backtest.limits import number


class SymbolCosts(NamedTuple):
    """One row; None takes the run's setting. Basis points as in `ExecutionConfig`."""

    symbol: str
    fee_bps: float | None
    slippage_bps: float | None
    funding_bps: float | None


def read_costs(path: Path) -> tuple[SymbolCosts, ...]:
    """The rows of a file, by symbol. `ConfigError` names the file and the line where it cannot be taken."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _rows(path, list(csv.reader(file, strict=True)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"cannot read the costs {path}: {error}. Check --costs.") from error


def _rows(path: Path, lines: Sequence[list[str]]) -> tuple[SymbolCosts, ...]:
    columns = [name.strip() for name in lines[0]] if lines else []
    wanted = ",".join(SymbolCosts._fields)
    known = len(set(columns)) == len(columns) and set(columns) <= set(SymbolCosts._fields)
    if not known or "symbol" not in columns or len(columns) < 2:
        raise ConfigError(
            f"{path} begins with {','.join(columns)!r}: its first line must be {wanted} (or some of them)."
        )
    found: dict[str, SymbolCosts] = {}
    for at, line in enumerate(lines[1:], start=2):
        cells = [cell.strip() for cell in line]
        if not any(cells):
            continue
        if len(cells) != len(columns):
            raise ConfigError(
                f"{path}, line {at} has {len(cells)} values: the first line names {len(columns)} columns."
            )
        row = dict(zip(columns, cells, strict=True))
        symbol = row.pop("symbol")
        if not symbol or symbol in found:
            raise ConfigError(f"{path}, line {at}: symbol {symbol!r} {'is there twice' if symbol else 'is missing'}.")
        rates = {name: _rate(f"{path}, line {at}: {name}", name, text) for name, text in row.items()}
        found[symbol] = SymbolCosts(symbol, *(rates.get(name) for name in COST_LIMITS))
    return tuple(found[symbol] for symbol in sorted(found))


def _rate(place: str, name: str, text: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(f"{place} = {text!r} is not allowed: a number of basis points, or nothing.") from None
    number(place, value, *COST_LIMITS[name])
    return value


def check_symbols(costs: Sequence[SymbolCosts], symbols: Collection[str], store: str) -> tuple[SymbolCosts, ...]:
    """`costs`, if `store` has all of their symbols; `ConfigError` names those it lacks."""
    unknown = [row.symbol for row in costs if row.symbol not in symbols]
    if unknown:
        some = ", ".join(unknown[:10]) + (", ..." if len(unknown) > 10 else "")
        raise ConfigError(f"--costs names {some}, which {store} does not hold: remove these lines, or mend the names.")
    return tuple(costs)


def charges_of(costs: Sequence[SymbolCosts], symbols: Sequence[str], execution: ExecutionConfig) -> list[Charges]:
    """What each of `symbols` is charged in a run."""
    rows = {row.symbol: row for row in costs}
    nothing = SymbolCosts("", None, None, None)
    return [
        Charges.of(
            *(
                getattr(execution, name)
                if getattr(rows.get(symbol, nothing), name) is None
                else getattr(rows[symbol], name)
                for name in COST_LIMITS
            )
        )
        for symbol in symbols
    ]
