"""The page: one HTML file that holds all it needs, forbids itself every request, and opens from a disk.

Text from outside (names of symbols, paths, errors) passes `escape`; the charts hold none of it.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from atc_backtest.errors import StoreError
from atc_backtest.pipelines.pages import sections, style, zooming
from atc_backtest.pipelines.pages.charts import embedded, series_charts
from atc_backtest.pipelines.pages.monthly import rolling_sharpe
from atc_backtest.pipelines.pages.subject import Subject
from atc_backtest.pipelines.pages.zooming import detail

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)
"""What a browser may load for the page: nothing from anywhere."""

PAGE_BYTES = 4_900_000
"""Of a page, where it holds more than is drawn of the whole span; detail for those who zoom in takes what is left."""

SUBJECT_BYTES = 150_000
"""Of the subject's section, its charts apart, of style and scripts."""


def write_page(subject: Subject, target: Path) -> Path:
    """The page at `target`, replaced if it is there; `StoreError` where it cannot be written."""
    text = page(subject)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        hidden = target.with_name(f".{target.name}.tmp")
        hidden.write_text(text, encoding="utf-8")
        hidden.replace(target)
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error}. Name another file after --html.") from error
    return target


def page(subject: Subject) -> str:
    """The whole page as text."""
    charts = series_charts(subject.series)
    config = subject.run.sets[subject.param_id]
    bars = subject.run.manifest["sets"][subject.param_id]["bars_per_year"]
    rolling = rolling_sharpe(subject.series.periods, config.rf, bars) if subject.gone is None else None
    if rolling is not None:
        charts.rolling(rolling.line)
    drawn = embedded(charts.found)
    before = sections.header(subject) + sections.warnings(subject)
    after = sections.sweep(subject) + sections.results(subject) + sections.manifest(subject)
    near, block = None, ""
    if subject.series.near is not None:
        taken = SUBJECT_BYTES + sum(len(text.encode()) for text in (drawn.library, drawn.script, before, after))
        near = detail(subject.series.near, PAGE_BYTES - taken)
        block = f'<script type="application/json" id="detail">{near.text}</script>\n'
    about = sections.subject(subject, drawn, rolling, near)
    title = escape(f"{subject.run.path.name}: {subject.symbol}")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{title} – ATC backtest</title>\n<style>{style.CSS}</style>\n</head>\n"
        f'<body>\n<div class="page">\n{before}{about}{after}</div>\n'
        f"{block}<script>{drawn.library}</script>\n<script>{style.SCRIPT}{zooming.SCRIPT}</script>\n"
        f"<script>{drawn.script}</script>\n"
        "</body>\n</html>\n"
    )
