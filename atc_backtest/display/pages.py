"""What people see when a report was drawn: what it is about, and where it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from atc_backtest.display.sparklines import sparkline
from atc_backtest.display.terminal import count, print_json, width

if TYPE_CHECKING:
    from atc_backtest.pipelines.pages.subject import Subject


def show_pages(subject: Subject, written: Sequence[Path], as_json: bool) -> None:
    """The subject, its equity and drawdown in a line each, and the files."""
    from atc_backtest.pipelines.pages.saved import not_saved

    if as_json:
        facts = {"symbol": subject.symbol, "param_id": subject.param_id, "gone": subject.gone}
        print_json(facts | {"files": [str(path) for path in written]})
        return
    row = subject.row
    figures = [f"{row['trades']:,} trades" if row["trades"] is not None else "no trades"]
    for name, said in (("total_return", "return {:+.1%}"), ("sharpe", "Sharpe {:.2f}"), ("max_drawdown", "DD {:.1%}")):
        if row[name] is not None:
            figures.append(said.format(row[name]))
    print(f"{subject.symbol}, set {subject.param_id}: {', '.join(figures)}")
    lines = subject.series.sampled.lines
    for name in ("equity", "drawdown"):
        line = sparkline(lines[name].values.tolist(), min(72, width() - 10), logarithmic=name == "equity")
        if line:
            print(f"{name:9} {line}")
    if subject.gone is not None:
        print(f"warning   prices are gone, drawn is what the run saved, {not_saved(subject.run)}: {subject.gone}")
    for path in written:
        print(f"written   {path} ({count(path.stat().st_size)}B)")
