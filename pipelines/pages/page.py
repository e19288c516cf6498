"""The page: one HTML file that holds all it needs, forbids itself every request, and opens from a disk.

Text from outside (names of symbols, paths, errors) passes `escape`; the charts hold none of it.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from atc_backtest.errors import StoreError
from atc_backtest.pipelines.pages import sections, style
from atc_backtest.pipelines.pages.charts import embedded, series_charts
from atc_backtest.pipelines.pages.monthly import rolling_sharpe
from atc_backtest.pipelines.pages.subject import Subject

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)
"""What a browser may load for the page: nothing from anywhere."""


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
    parts = [
        sections.header(subject),
        sections.warnings(subject),
        sections.subject(subject, drawn, rolling),
        sections.sweep(subject),
        sections.results(subject),
        sections.manifest(subject),
    ]
    title = escape(f"{subject.run.path.name}: {subject.symbol}")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{title} – ATC backtest</title>\n<style>{style.CSS}</style>\n</head>\n"
        f'<body>\n<div class="page">\n{"".join(parts)}</div>\n'
        f"<script>{drawn.library}</script>\n<script>{style.SCRIPT}</script>\n<script>{drawn.script}</script>\n"
        "</body>\n</html>\n"
    )
