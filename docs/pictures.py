"""Draws the pictures of concepts.md from the bundled S&P 500, by the reference: python docs/pictures.py

They are SVG without a background and in colours that show on light and dark pages; a run that changes nothing changes
no byte of them.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from atc_backtest.config import FAMILIES, AtcConfig
from atc_backtest.reference import AtcResult, atc

HERE = Path(__file__).resolve().parent
PRICES = HERE.parent / "examples" / "data" / "us_indices" / "SP500.parquet"
FIRST, LAST = 4100, 4400
"""Bars that are shown; the state begins `BEFORE` bars earlier, so that the equities are still near their start."""

BEFORE = 60
GREY, BLUE, GREEN, RED = "#888888", "#4c8bd0", "#2f9e6e", "#d1495b"
COLOURS = ("#4c8bd0", "#e08a3c", "#2f9e6e", "#d1495b", "#9270c4", "#b0903a")

STYLE = {
    "svg.hashsalt": "atc-backtest",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": GREY,
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def shade(axes: Axes, x: NDArray[np.generic], side: NDArray[np.float64]) -> None:
    """Green where `side` is above 0, red where below."""
    for found, colour in ((side > 0, GREEN), (side < 0, RED)):
        where = axes.get_xaxis_transform()
        axes.fill_between(x, 0, 1, where=found, step="post", transform=where, color=colour, alpha=0.18, lw=0)


def save(figure: Figure, name: str) -> None:
    target = HERE / "pictures" / name
    figure.savefig(target, transparent=True, metadata={"Date": None, "Creator": None})
    print(f"{target.relative_to(HERE.parent)}: {target.stat().st_size / 1000:.0f} kB")


def draw_signal(days: NDArray[np.generic], close: NDArray[np.float64], found: AtcResult, shown: slice) -> None:
    """One average, its crossings and the equity of its signal."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    price, worth = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    price.plot(days, close[shown], color=GREY, lw=1, label="close")
    price.plot(days, found.average[0, 0, shown], color=BLUE, lw=1.3, label="EMA 28")
    shade(price, days, found.sign[0, 0, shown])
    price.legend(loc="upper left", ncols=2)
    worth.plot(days, found.equity1[0, 0, shown], color=BLUE, lw=1.3)
    shade(worth, days, found.sign[0, 0, shown])
    worth.set_ylabel("equity of the signal")
    save(figure, "signal.svg")


def draw_family(days: NDArray[np.generic], found: AtcResult, shown: slice) -> None:
    """Nine equities of one family, and the signal of its layer."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    worth, layer = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    lengths = AtcConfig().family_lengths(0)
    for i in np.argsort(lengths):
        worth.plot(days, found.equity1[0, i, shown], lw=1, alpha=0.8, label=str(lengths[i]))
    worth.set_ylabel("equities of nine EMAs")
    worth.legend(ncols=9, fontsize=8, loc="upper center", handlelength=1, columnspacing=0.8)
    layer.step(days, found.layer1[0, shown], where="post", color=BLUE, lw=1.2)
    layer.axhline(0, color=GREY, lw=0.5)
    layer.set_ylabel("signal of the family")
    save(figure, "family.svg")


def draw_final(days: NDArray[np.generic], close: NDArray[np.float64], found: AtcResult, shown: slice) -> None:
    """Equities of the six families, the final signal, and the price where it is above its threshold."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    weight, signal, price = figure.subplots(3, 1, sharex=True, height_ratios=[1.3, 1, 1.6])
    for name, colour, equity in zip(FAMILIES, COLOURS, found.equity2[:, shown], strict=True):
        weight.plot(days, equity, color=colour, lw=1.2, label=name.upper())
    weight.set_ylabel("equities of the families")
    weight.legend(ncols=6, fontsize=8, loc="upper center", handlelength=1)
    final = found.signal[shown]
    signal.step(days, final, where="post", color=BLUE, lw=1.2)
    for level in (0.1, -0.1):
        signal.axhline(level, color=GREY, lw=0.7, ls="--")
    signal.set_ylabel("final signal")
    price.plot(days, close[shown], color=GREY, lw=1)
    shade(price, days, np.where(final > 0.1, 1.0, 0.0))
    price.set_ylabel("close, long shaded")
    save(figure, "final.svg")


def main() -> None:
    table = pq.read_table(PRICES).slice(FIRST - BEFORE, LAST - FIRST + BEFORE)
    close = table["close"].to_numpy()
    days = np.array(table["date"].to_pylist(), dtype="datetime64[D]")[BEFORE:]
    found, shown = atc(close, AtcConfig()), slice(BEFORE, None)
    with matplotlib.rc_context(STYLE):
        draw_signal(days, close, found, shown)
        draw_family(days, found, shown)
        draw_final(days, close, found, shown)


if __name__ == "__main__":
    main()
