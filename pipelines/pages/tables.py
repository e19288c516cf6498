"""Tables of the page: the run's figures, returns by month, heat maps of a sweep. All text is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import pyarrow as pa

from atc_backtest.pipelines.pages.heatmaps import HeatMap
from atc_backtest.pipelines.pages.monthly import Year
from atc_backtest.pipelines.report import to_records

ROWS = 500
"""Rows of the figures in a page; `metrics/` has all."""

COLUMNS = {
    "n_bars": ("bars", "{:,}"),
    "start_ts": ("from", "date"),
    "end_ts": ("to", "date"),
    "total_return": ("return", "{:+.1%}"),
    "cagr": ("CAGR", "{:+.1%}"),
    "volatility": ("volatility", "{:.1%}"),
    "sharpe": ("Sharpe", "{:.2f}"),
    "sortino": ("Sortino", "{:.2f}"),
    "max_drawdown": ("max drawdown", "{:.1%}"),
    "calmar": ("Calmar", "{:.2f}"),
    "exposure": ("in market", "{:.0%}"),
    "trades": ("trades", "{:,}"),
    "win_rate": ("wins", "{:.0%}"),
    "profit_factor": ("profit factor", "{:.2f}"),
    "sqn": ("SQN", "{:.2f}"),
    "fees_paid": ("fees", "{:,.0f}"),
    "buy_hold_return": ("hold", "{:+.1%}"),
}
"""Of the figures, what the page shows: heading and format."""

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def said(value: Any, how: str) -> str:
    """A value as text, escaped; undefined is a dash."""
    if value is None:
        return "–"
    return escape(str(value)[:10] if how == "date" else how.format(value))


def figures_table(table: pa.Table, extra: Sequence[str]) -> str:
    """The first `ROWS` of the sorted metrics; `extra`: columns beside them, such as settings that vary."""
    columns = {name: (name, "{}") for name in extra} | COLUMNS
    heads = [_head("symbol", "text")] + [
        _head(heading, "text" if how == "date" else "number") for heading, how in columns.values()
    ]
    lines = []
    for row in to_records(table.slice(0, ROWS).select(["symbol", *columns])):
        cells = [f'<th scope="row">{escape(row["symbol"])}</th>']
        for name, (_, how) in columns.items():
            value = row[name]
            key = "" if value is None else escape(str(value), quote=True)
            cells.append(f'<td data-v="{key}">{said(value, how)}</td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<table class="figures" id="figures"><thead><tr>{"".join(heads)}</tr></thead>'
        f"<tbody>{chr(10).join(lines)}</tbody></table>"
    )


def _head(name: str, kind: str) -> str:
    return f'<th scope="col" data-kind="{kind}"><button type="button">{escape(name)}</button></th>'


def months_table(years: Sequence[Year]) -> str:
    """A line a year, newest first; colour by size of the return, relative to the largest 5 % of the months."""
    sizes = sorted(abs(month) for year in years for month in year.months if month is not None)
    full = max(sizes[int(len(sizes) * 0.95)] if sizes else 0.0, 1e-9)
    heads = "".join(f'<th scope="col">{name}</th>' for name in (*MONTHS, "year", "hold"))
    lines = []
    for year in reversed(years):
        cells = "".join(_heat(month, full, "{:+.1%}") for month in year.months)
        total = f'<td class="total">{said(year.total, "{:+.1%}")}</td><td>{said(year.hold, "{:+.1%}")}</td>'
        lines.append(f'<tr><th scope="row">{year.year}</th>{cells}{total}</tr>')
    return (
        f'<table class="months"><thead><tr><th scope="col">year</th>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table>"
    )


def _heat(value: float | None, full: float, how: str, title: str = "", least: float = 0.0) -> str:
    """A cell whose colour is laid over the ground: green above 0, red below; none at a size of `least`, all `full`
    beyond it."""
    if value is None:
        return '<td class="none"></td>'
    side = "gain" if value > 0 else "loss" if value < 0 else "none"
    strength = round(min(1.0, (abs(value) - least) / full), 3)
    about = f' title="{escape(title, quote=True)}"' if title else ""
    return f'<td class="heat {side}" style="--s:{strength}"{about}>{said(value, how)}</td>'


def heat_map(found: HeatMap) -> str:
    """Medians of the Sharpe ratio, a table with one setting across and one down."""
    x, y = found.x, found.y
    values = [value for line in found.medians for value in line if value is not None]
    sizes = [abs(value) for value in values] or [0.0]
    least = min(sizes) if min(values, default=0.0) * max(values, default=0.0) > 0 else 0.0
    full = max(max(sizes) - least, 1e-9)
    heads = "".join(f'<th scope="col">{escape(label)}</th>' for label in x.labels)
    corner = escape(x.name) if y is None else f"{escape(y.name)} ↓ {escape(x.name)} →"
    lines = []
    for at, label in enumerate(y.labels if y else ("median",)):
        cells = "".join(
            _heat(value, full, "{:.2f}", f"{count} results", 0.9 * least)
            for value, count in zip(found.medians[at], found.counts[at], strict=True)
        )
        lines.append(f'<tr><th scope="row">{escape(label)}</th>{cells}</tr>')
    return (
        f'<div class="scroll"><table class="map"><thead><tr><th scope="col">{corner}</th>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )
