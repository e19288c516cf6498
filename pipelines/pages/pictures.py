"""The charts as PNG files, drawn by matplotlib; the one module that knows it."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from atc_backtest.config import FAMILIES
from atc_backtest.errors import StoreError, UnavailableError
from atc_backtest.pipelines.pages import palette
from atc_backtest.pipelines.pages.monthly import years_of
from atc_backtest.pipelines.pages.recomputing import Series
from atc_backtest.pipelines.pages.sampling import I64, Line, Sampled
from atc_backtest.pipelines.pages.subject import Subject
from atc_backtest.pipelines.pages.tables import MONTHS

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter
    from PIL import Image  # matplotlib's own door to PNG
except ImportError as error:
    raise UnavailableError(
        f"pictures are drawn by matplotlib, which is not installed ({error}): pip install 'atc-backtest[report]'"
    ) from error

PICTURE_BYTES = 200_000
DOTS = (110, 80, 55)
"""An inch. At the last ones even noise in 16 colours fits, where a picture is no larger than 10 x 13 inches."""
COLOURS = (256, 64, 16)

DIVERGING = LinearSegmentedColormap.from_list("atc", palette.DIVERGING)


def write_pictures(subject: Subject, folder: Path) -> list[Path]:
    """PNG files in `folder`, in the order of the page; `StoreError` where they cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return list(_write(subject, folder))
    except OSError as error:
        raise StoreError(f"cannot write pictures to {folder}: {error}. Name another folder after --png.") from error


def _write(subject: Subject, folder: Path) -> Iterator[Path]:
    series = subject.series
    title = f"{subject.symbol}, set {subject.param_id}" if len(subject.run.sets) > 1 else subject.symbol
    if series.sampled.lines["equity"].ts.size:
        yield _saved(folder / "equity.png", title, _equity(series.sampled))
    if series.periods:
        yield _saved(folder / "months.png", title, _months(series))
    if series.trades.size:
        yield _saved(folder / "trades.png", title, _trades(series))
    if "signal" in series.sampled.lines:
        drawn = _indicator if "close" in series.sampled.lines else _signal_alone
        yield _saved(folder / "indicator.png", title, drawn(series.sampled))


def _saved(path: Path, title: str, figure: Figure) -> Path:
    figure.suptitle(title.replace("$", r"\$"), x=0.01, ha="left", fontsize=12, fontweight="bold")
    path.write_bytes(_encoded(figure))
    return path


def _encoded(figure: Figure) -> bytes:
    """A PNG of at most `PICTURE_BYTES`, in as many colours and dots as fit.

    Antialiased lines have thousands of colours, which cost three to four times the bytes of the 256 nearest ones.
    """
    for dpi in DOTS:
        figure.dpi = dpi
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
        drawn = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        for colours in COLOURS:
            file = BytesIO()
            few = drawn.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
            few.save(file, format="PNG", optimize=True, dpi=(dpi, dpi))
            if file.tell() <= PICTURE_BYTES:
                return file.getvalue()
    return file.getvalue()


def _panels(n: int, height: float, ratios: list[float]) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(10, height), layout="constrained")
    axes = figure.subplots(n, 1, sharex=True, gridspec_kw={"height_ratios": ratios}, squeeze=False)[:, 0]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(axis="y", color="#d9dee4", linewidth=0.6)
    return figure, list(axes)


def _times(ts: I64) -> Any:
    return ts.astype("datetime64[ns]")


def _draw(axis: Any, line: Line, colour: str, label: str | None = None) -> None:
    axis.plot(_times(line.ts), line.values, color=colour, linewidth=0.9, label=label)


def _equity(sampled: Sampled) -> Figure:
    figure, (above, below) = _panels(2, 6.0, [2.2, 1.0])
    for name, colour, label in (("hold", palette.HOLD, "buy and hold"), ("equity", palette.STRATEGY, "account")):
        if name in sampled.lines:
            _draw(above, sampled.lines[name], colour, label)
            under = "drawdown" if name == "equity" else "hold_drawdown"
            _draw(below, sampled.lines[under], colour)
    if sampled.lines["equity"].values.min() > 0:
        above.set_yscale("log")
    above.legend(frameon=False, loc="upper left")
    below.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    above.set_ylabel("equity")
    below.set_ylabel("drawdown")
    return figure


def _months(series: Series) -> Figure:
    years = years_of(series.periods)
    values = np.array([[np.nan if month is None else month for month in year.months] for year in years])
    full = max(float(np.nanquantile(np.abs(values), 0.95)), 1e-9)
    figure = Figure(figsize=(10, 1.2 + 0.27 * len(years)), layout="constrained")
    axis = figure.subplots()
    axis.imshow(values, cmap=DIVERGING, vmin=-full, vmax=full, aspect="auto")
    axis.set_xticks(range(12), MONTHS)
    axis.set_yticks(range(len(years)), [f"{year.year}  {year.total:+.1%}" for year in years])
    axis.tick_params(length=0)
    for at, line in enumerate(values):
        for month, value in enumerate(line):
            if not np.isnan(value):
                axis.text(month, at, f"{value:+.1%}", ha="center", va="center", fontsize=7)
    return figure


def _trades(series: Series) -> Figure:
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    won = series.trades["pnl"] > 0
    for chosen, colour, marker in ((won, palette.GAIN, "o"), (~won, palette.LOSS, "^")):
        some = series.trades[chosen]
        left.scatter(some["bars"], some["return"], s=9, c=colour, marker=marker, alpha=0.6)
        right.scatter(some["mae"], some["mfe"], s=9, c=colour, marker=marker, alpha=0.6)
    left.set(xlabel="bars held", ylabel="return")
    right.set(xlabel="worst excursion (MAE)", ylabel="best excursion (MFE)")
    for axis in (left.yaxis, right.xaxis, right.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    for one in (left, right):
        one.spines[["top", "right"]].set_visible(False)
    return figure


def _indicator(sampled: Sampled) -> Figure:
    figure, (price, signal, layer1, weights) = _panels(4, 9.0, [2.0, 1.0, 1.3, 1.3])
    starts = _times(sampled.starts)
    edges = _times(np.append(sampled.starts, sampled.end))
    _draw(price, sampled.lines["close"], palette.STRATEGY)
    _shade(price, sampled)
    _draw(signal, sampled.lines["signal"], palette.SIGNAL)
    bands = np.stack([sampled.means[f"layer1_{family}"] for family in FAMILIES])
    layer1.pcolormesh(edges, np.arange(len(FAMILIES) + 1), bands, cmap=DIVERGING, vmin=-1, vmax=1)
    layer1.set_yticks(np.arange(len(FAMILIES)) + 0.5, [family.upper() for family in FAMILIES])
    layer1.invert_yaxis()
    shares = [np.nan_to_num(sampled.means[f"weight_{family}"]) for family in FAMILIES]
    labels = [family.upper() for family in FAMILIES]
    weights.stackplot(starts, *shares, colors=list(palette.FAMILY_COLOURS), labels=labels, alpha=0.85)
    weights.legend(frameon=False, ncols=6, loc="lower left", fontsize=8)
    weights.set_ylim(0, 1)
    for axis, label in ((price, "close"), (signal, "signal"), (layer1, "layer 1"), (weights, "weights")):
        axis.set_ylabel(label)
    return figure


def _signal_alone(sampled: Sampled) -> Figure:
    """Signal and sides asked for, where there are no prices."""
    figure, (signal,) = _panels(1, 3.2, [1.0])
    _draw(signal, sampled.lines["signal"], palette.SIGNAL)
    _shade(signal, sampled)
    signal.set_ylabel("signal")
    return figure


def _shade(axis: Any, sampled: Sampled) -> None:
    """Buckets by the share of their bars in which a side is held, or asked for, behind what is drawn."""
    edges, ends = _times(np.append(sampled.starts, sampled.end)), np.array(axis.get_ylim())
    for side, colour in (("long", palette.GAIN), ("short", palette.LOSS)):
        shades = np.nan_to_num(sampled.means[side])[None, :]
        faded = LinearSegmentedColormap.from_list(side, [(*_rgb(colour), 0.0), (*_rgb(colour), 0.35)])
        axis.pcolormesh(edges, ends, shades, cmap=faded, vmin=0, vmax=1, zorder=0)
    axis.set_ylim(*ends)


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return red, green, blue
