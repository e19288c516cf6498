"""The sections of the page, each as HTML. Text from outside passes `escape`."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from atc_backtest.config import FAMILIES
from atc_backtest.pipelines import report
from atc_backtest.pipelines.pages import palette
from atc_backtest.pipelines.pages.charts import Embedded
from atc_backtest.pipelines.pages.heatmaps import heat_maps
from atc_backtest.pipelines.pages.monthly import Rolling, years_of
from atc_backtest.pipelines.pages.sampling import METHOD
from atc_backtest.pipelines.pages.saved import not_saved
from atc_backtest.pipelines.pages.subject import Subject
from atc_backtest.pipelines.pages.tables import ROWS, figures_table, heat_map, months_table, said
from atc_backtest.pipelines.pages.zooming import Detail

LISTED = 40
"""Entries of a list of the manifest that the page shows."""

VARYING_SHOWN = 8
"""Settings that vary, as columns of the results."""

CARDS = (
    ("total_return", "Return", "{:+.1%}"),
    ("cagr", "CAGR", "{:+.1%}"),
    ("sharpe", "Sharpe", "{:.2f}"),
    ("max_drawdown", "Max drawdown", "{:.1%}"),
    ("volatility", "Volatility", "{:.1%}"),
    ("exposure", "In market", "{:.0%}"),
    ("trades", "Trades", "{:,}"),
    ("win_rate", "Wins", "{:.0%}"),
    ("profit_factor", "Profit factor", "{:.2f}"),
    ("fees_paid", "Fees paid", "{:,.0f}"),
)
"""Figures of the subject, large."""


def header(subject: Subject) -> str:
    """What was run, how its figures were taken, and where things stand in the page."""
    run = subject.run
    lines = []
    for line in report.basis(run):
        name, _, text = line.partition(" ")
        lines.append(f"<dt>{escape(name)}</dt><dd>{escape(text.strip())}</dd>")
    symbols = len(set(subject.table["symbol"].to_pylist()))
    sets = f", {len(run.sets):,} parameter sets, {subject.table.num_rows:,} results" if len(run.sets) > 1 else ""
    counts = f"{symbols:,} symbol{'s' if symbols > 1 else ''}{sets}"
    links = {"subject": "Symbol", "returns": "Returns", "trades": "Trades", "indicator": "Indicator"}
    links |= ({"sweep": "Sweep"} if run.manifest["varying"] else {}) | {"results": "Results", "manifest": "Manifest"}
    nav = "".join(f'<a href="#{at}">{name}</a>' for at, name in links.items())
    return (
        f'<header><h1>{escape(run.path.name)}</h1><p class="soft">ATC backtest, {run.state}: {counts}</p>'
        f'<dl class="basis">{"".join(lines)}</dl></header>'
    ) + f'<nav aria-label="Sections">{nav}</nav>'


def warnings(subject: Subject) -> str:
    """Everything that a reader must know first."""
    found = report.warnings(subject.run, subject.table)
    if subject.gone is not None:
        found.insert(0, f"prices are gone, the page shows what the run saved, {not_saved(subject.run)}: {subject.gone}")
    if not found:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in found)
    title = '<h2 id="w">Before you believe it</h2>'
    return f'<section class="warnings" aria-labelledby="w">{title}<ul>{items}</ul></section>\n'


def subject(of: Subject, drawn: Embedded, rolling: Rolling | None, near: Detail | None) -> str:
    """One symbol and set: figures, equity, returns, trades, and what the indicator saw."""
    where = f"Set {of.param_id} of {len(of.run.sets):,}:" if len(of.run.sets) > 1 else ""
    settings = "".join(
        f" {escape(name)} = {escape(str(of.row[name]))};" for name in of.run.manifest["varying"][:VARYING_SHOWN]
    )
    chosen = "name" if of.named else "the highest Sharpe ratio"
    span = "no evaluated bar"
    if of.row["n_bars"]:
        span = f"{str(of.row['start_ts'])[:10]} to {str(of.row['end_ts'])[:10]}, {of.row['n_bars']:,} bars"
    return (
        f'<section id="subject"><h2>{escape(of.symbol)}</h2>'
        f'<p class="soft">{where}{settings} {span}. Chosen by {chosen}.</p>'
        f"{_cards(of)}{_equity(of, drawn, near)}</section>"
        f"{_returns(of, drawn, rolling)}{_trades(of, drawn)}{_indicator(of, drawn)}"
    )


def _cards(of: Subject) -> str:
    held = {"total_return": "buy_hold_return", "max_drawdown": "buy_hold_max_drawdown"}
    cells = []
    for name, title, how in CARDS:
        beside = f"<small>hold {said(of.row[held[name]], how)}</small>" if name in held else ""
        cells.append(f"<div><dt>{title}</dt><dd>{said(of.row[name], how)}{beside}</dd></div>")
    return f'<dl class="cards">{"".join(cells)}</dl>'


def _legend(entries: list[tuple[str, str]], box: bool = False) -> str:
    kind = ' class="box"' if box else ""
    items = "".join(f'<li><i{kind} style="background:{colour}"></i>{name}</li>' for name, colour in entries)
    return f'<ul class="legend">{items}</ul>'


def _figure(drawn: Embedded, name: str, caption: str, identity: str = "") -> str:
    """A chart that was drawn, with what it shows in words; nothing where it was not."""
    if name not in drawn.places:
        return ""
    mark = f' id="{identity}"' if identity else ""
    return f"<figure{mark}>{drawn.places[name]}<figcaption>{caption}</figcaption></figure>"


def _equity(of: Subject, drawn: Embedded, near: Detail | None) -> str:
    if not of.series.sampled.lines["equity"].ts.size:
        return '<p class="note">No evaluated bar, or the run did not save equity: nothing to draw.</p>'
    both = "hold" in of.series.sampled.lines
    width = of.series.sampled.width
    thinned = "Every bar is drawn"
    if near is not None:
        back = "all bars come back" if near.width == 1 else f"they come down to {near.width:,} bars"
        thinned = f"Every chart shows buckets of {width:,} bars: {METHOD}; as you zoom in, {back}"
    names = [("account", palette.STRATEGY)] + ([("buy and hold", palette.HOLD)] if both else [])
    about = "Account and buy-and-hold from the same start, after costs." if both else "Account, after costs."
    return (
        '<h3>Equity</h3><label class="switch"><input type="checkbox" id="log" checked> logarithmic scale</label>'
        + _legend(names)
        + _figure(drawn, "equity", about, "equity-linear")
        + _figure(drawn, "equity_log", about, "equity-log")
        + "<h3>Drawdown</h3>"
        + _figure(drawn, "drawdown", f"Below the highest equity so far. {thinned}.")
    )


def _returns(of: Subject, drawn: Embedded, rolling: Rolling | None) -> str:
    years = years_of(of.series.periods)
    table = '<p class="note">No evaluated bar, or the run did not save periods.</p>'
    if years:
        region = 'class="scroll whole" tabindex="0" role="region" aria-label="Returns by month"'
        table = f"<div {region}>{months_table(years)}</div>"
    found = of.series.returns
    zeros = f"{found.zeros:,} bars without a return are left out; the outermost bars hold the tails." if found else ""
    pictures = ""
    if rolling is not None:
        about = f"Sharpe ratio, a year, over the {rolling.length} {rolling.unit}s before."
        pictures += f"<div><h3>Rolling Sharpe ratio</h3>{_figure(drawn, 'rolling', about)}</div>"
    if found:
        pictures += f"<div><h3>Distribution of returns</h3>{_figure(drawn, 'returns', zeros)}</div>"
    return (
        '<section id="returns"><h2>Returns by month</h2><p class="soft">Of the account, after costs; months in '
        f'UTC, the year compounded, and buy-and-hold beside it.</p>{table}<div class="two">{pictures}</div></section>'
    )


def _trades(of: Subject, drawn: Embedded) -> str:
    series = of.series
    if not series.trades.size:
        return '<section id="trades"><h2>Trades</h2><p class="note">None, or not saved.</p></section>'
    shown = f"All {series.n_trades:,} trades"
    if series.trade_step > 1:
        shown = (
            f"{series.trades.size:,} of {series.n_trades:,} trades: every {series.trade_step}th, and the largest gains "
            "and losses"
        )
    return (
        f'<section id="trades"><h2>Trades</h2><p class="soft">{shown}; an open one is marked at the last close.</p>'
        + f'<ul class="legend"><li><b style="color:{palette.GAIN}">●</b> gain</li>'
        + f'<li><b style="color:{palette.LOSS}">▲</b> loss</li></ul>'
        + '<div class="two"><div><h3>Return and bars held</h3>'
        + _figure(drawn, "trades", "Net of fees and funding, over what was paid for the position.")
        + "</div><div><h3>Excursions</h3>"
        + _figure(drawn, "excursions", "How far each trade went against and for the position while it was held.")
        + "</div></div></section>"
    )


def _indicator(of: Subject, drawn: Embedded) -> str:
    config = of.run.sets[of.param_id].atc
    limits = f"long above {config.long_threshold:g}, short below {config.short_threshold:g}"
    sides = _legend([("held long", palette.GAIN), ("held short", palette.LOSS)], box=True)
    about = f"The final signal; {limits}, where such positions are allowed."
    if "price" not in drawn.places:
        asked = _legend([("long asked for", palette.GAIN), ("short asked for", palette.LOSS)], box=True)
        held = "Shaded where a position is asked for at a close, paler where only in part of a bucket's bars."
        shown = asked + _figure(drawn, "signal", f"{about} {held}")
        if "signal" not in drawn.places:
            shown = '<p class="note">Prices are gone, and the run did not save signals.</p>'
        return f'<section id="indicator"><h2>Signal and positions</h2>{shown}</section>'
    families = list(zip((family.upper() for family in FAMILIES), palette.FAMILY_COLOURS, strict=True))
    scale = [("-1", palette.DIVERGING[0]), ("0", palette.DIVERGING[3]), ("1", palette.DIVERGING[-1])]
    return (
        '<section id="indicator"><h2>Price, signal and positions</h2>'
        + sides
        + _figure(
            drawn, "price", "Close; shaded where a position is held, paler where only in part of a bucket's bars."
        )
        + "<h3>Signal</h3>"
        + _figure(drawn, "signal", about)
        + "<h3>Exposure</h3>"
        + _figure(drawn, "exposure", "Market value held over equity, negative when short; mean of each bucket.")
        + "<h3>Signals of the six families</h3>"
        + _legend(scale, box=True)
        + _figure(
            drawn, "layer1", "Layer 1: nine averages of each family, weighted by their equities; mean of each bucket."
        )
        + "<h3>Weights of the six families</h3>"
        + _legend(families, box=True)
        + _figure(drawn, "weights", "Layer 2: each family's share of the six equities; mean of each bucket.")
        + "</section>"
    )


def sweep(of: Subject) -> str:
    """Heat maps of the settings that vary."""
    maps, left_out = heat_maps(of.run, of.table)
    if not maps:
        return ""
    more = f" {left_out} more pairs of settings are not shown." if left_out else ""
    blocks = f'<div class="maps">{"".join(heat_map(one) for one in maps)}</div>'
    return (
        '<section id="sweep"><h2>Sweep</h2><p class="soft">Median Sharpe ratio over all symbols and all other '
        f"settings. A peak among weak neighbours is luck; look for wide plateaus. "
        f"Colours are the stronger the further from 0.{more}</p>{blocks}</section>"
    )


def results(of: Subject) -> str:
    """The run's figures, to be sorted and filtered."""
    n = of.table.num_rows
    varying = of.run.manifest["varying"]
    extra = (["param_id"] if len(of.run.sets) > 1 else []) + varying[:VARYING_SHOWN]
    capped = f"The {ROWS} of the highest Sharpe ratio of {n:,} results; metrics/ has all. " if n > ROWS else ""
    shown = min(n, ROWS)
    return (
        f'<section id="results"><h2>Results</h2><p class="soft">{capped}A heading sorts.</p><div class="filter"><label '
        f'for="filter">Symbol</label><input id="filter" type="search" autocomplete="off"><output class="soft" '
        f'id="shown" for="filter">{shown} of {shown} rows</output></div><div class="scroll" tabindex="0" role="region" '
        f'aria-label="Results">{figures_table(of.table, extra)}</div></section>'
    )


def manifest(of: Subject) -> str:
    """What the run was asked to do, as its manifest says; long lists are cut."""
    text = json.dumps(_shortened(of.run.manifest), indent=1, ensure_ascii=False)
    return (
        f'<section id="manifest"><h2>Manifest</h2><p class="soft">Content hash {of.run.content_hash()}</p><details>'
        f"<summary>manifest.json</summary><pre>{escape(text)}</pre></details></section>"
        f'<footer class="note">Made by atc-backtest. Past results say little about future ones.</footer>'
    )


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shortened(one) for key, one in value.items()}
    if isinstance(value, list):
        more = [f"... {len(value) - LISTED:,} more"] if len(value) > LISTED else []
        return [_shortened(one) for one in value[:LISTED]] + more
    return value
