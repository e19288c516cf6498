"""The interactive charts, drawn by Bokeh; the one module that knows it.

Charts hold numbers and words of ours, never a name out of the data: names stand in the page, where they are escaped.
Sources that `zooming` draws anew say by their tags what they are of: `line` and its name, or what becomes of means that
are not defined, `shade` (they are 0), `drop` or `keep`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atc_backtest.accounts import REASONS
from atc_backtest.config import FAMILIES
from atc_backtest.errors import UnavailableError
from atc_backtest.pipelines.pages import palette
from atc_backtest.pipelines.pages.histogram import Distribution
from atc_backtest.pipelines.pages.recomputing import Series
from atc_backtest.pipelines.pages.sampling import F64, I64, Line, Sampled

try:
    from bokeh.embed import components
    from bokeh.models import ColumnDataSource, HoverTool, LinearColorMapper, NumeralTickFormatter, Range1d
    from bokeh.plotting import figure
    from bokeh.resources import Resources
except ImportError as error:
    raise UnavailableError(
        f"the HTML report is drawn by Bokeh, which is not installed ({error}): pip install 'atc-backtest[report]'"
    ) from error

TOOLS = "pan,xwheel_zoom,xbox_zoom,reset,save"
PERCENT, MONEY, RATIO = "0.[0]%", "0,0.[000000]", "0.00"


@dataclass(frozen=True)
class Embedded:
    """`library`: JavaScript of Bokeh itself; `script`: that draws the charts; `places`: a chart's name -> its HTML."""

    library: str
    script: str
    places: dict[str, str]


def embedded(charts: dict[str, Any]) -> Embedded:
    """The charts as text that needs nothing else."""
    script, places = components(charts, wrap_script=False)
    resources = Resources(mode="inline", components=["bokeh"], minified=True, log_level="error")
    return Embedded("\n".join(resources.js_raw), script, dict(places))


def milliseconds(ts: I64) -> F64:
    """What Bokeh's time axes take."""
    return ts / 1e6


class Charts:
    """Charts on one time axis, by name in `found`: what is zoomed in one is zoomed in all."""

    def __init__(self, start: int, end: int) -> None:
        first, last = start / 1e6, max(end, start + 1) / 1e6
        self._span = Range1d(start=first, end=last, bounds=(first, last), name="time")
        self._sources: dict[tuple[str, bool], Any] = {}
        self.found: dict[str, Any] = {}

    def _timed(self, name: str, height: int, form: str, **options: Any) -> Any:
        self.found[name] = plot = _plot(height, x_axis_type="datetime", x_range=self._span, **options)
        plot.yaxis.formatter = _numbers(form)
        return plot

    def equity(self, lines: dict[str, Line]) -> None:
        """Of the account and of buy-and-hold, by the size and by its logarithm; their drawdowns."""
        for name, scale in (("equity", "linear"), ("equity_log", "log")):
            plot = self._timed(name, 320, MONEY, y_axis_type=scale)
            self._pair(plot, lines, ("hold", "equity"), MONEY, positive=scale == "log")
        plot = self._timed("drawdown", 190, PERCENT)
        plot.varea(
            x="x", y1=0, y2="y", source=self._source(lines, "drawdown"), fill_color=palette.STRATEGY, fill_alpha=0.18
        )
        self._pair(plot, lines, ("hold_drawdown", "drawdown"), PERCENT)

    def _pair(
        self, plot: Any, lines: dict[str, Line], names: tuple[str, str], form: str, positive: bool = False
    ) -> None:
        for name, colour, width in zip(names, (palette.HOLD, palette.STRATEGY), (1.2, 1.6), strict=True):
            if name not in lines:
                continue
            drawn = _line(plot, self._source(lines, name, positive), colour, width)
            if name == names[1]:
                _hover(plot, drawn, [("time", "@x{%F %H:%M}"), ("value", f"@y{{{form}}}")], line=True)

    def _source(self, lines: dict[str, Line], name: str, positive: bool = False) -> Any:
        """The points of a line, all or those above 0, once for all charts that show them."""
        line = lines[name]
        positive = positive and bool((line.values <= 0).any())
        if (name, positive) not in self._sources:
            kept = line.values > 0 if positive else slice(None)
            some = Line(line.ts[kept], line.values[kept])
            self._sources[name, positive] = _source(some, name, "positive" if positive else "all")
        return self._sources[name, positive]

    def price(self, sampled: Sampled) -> None:
        """The close, by its logarithm where it grew tenfold, over the sides that were held."""
        close = sampled.lines["close"].values
        scale = "log" if close.size and close.max() > 10 * close.min() else "linear"
        plot = self._timed("price", 300, "0,0.[0000]", y_axis_type=scale)
        _sides(plot, sampled)
        drawn = _line(plot, self._source(sampled.lines, "close"), palette.STRATEGY, 1.3)
        _hover(plot, drawn, [("time", "@x{%F %H:%M}"), ("close", "@y{0,0.[0000]}")], line=True)

    def signal(self, sampled: Sampled) -> None:
        """The final signal; without a close, over the sides that were asked for."""
        plot = self._timed("signal", 170, RATIO)
        if "close" not in sampled.lines:
            _sides(plot, sampled)
        _line(plot, self._source(sampled.lines, "signal"), palette.SIGNAL, 1.1)
        _zero(plot)

    def exposure(self, sampled: Sampled) -> None:
        """Market value held over equity, the mean of each bucket."""
        plot = self._timed("exposure", 170, PERCENT)
        source = _defined(sampled, ["exposure"])
        plot.varea_step(
            x="x", y1=0, y2="exposure", source=source, fill_color=palette.STRATEGY, fill_alpha=0.55, step_mode="after"
        )
        _zero(plot)

    def layers(self, sampled: Sampled) -> None:
        """The six families' layer-1 signals as bands of colour, and their shares of the layer-2 equities."""
        plot = self._timed("layer1", 220, RATIO, y_range=Range1d(start=0, end=len(FAMILIES)))
        names = tuple(f"layer1_{family}" for family in FAMILIES)
        source = _buckets(sampled, names, shade=1.0)
        mapper = LinearColorMapper(palette=list(palette.DIVERGING), low=-1, high=1, nan_color="rgba(0,0,0,0)")
        for at, name in enumerate(reversed(names)):
            fill = {"field": name, "transform": mapper}
            plot.quad(
                left="left",
                right="right",
                bottom=at + 0.06,
                top=at + 0.94,
                source=source,
                fill_color=fill,
                line_width=0,
            )
        plot.yaxis.ticker = [at + 0.5 for at in range(len(FAMILIES))]
        plot.yaxis.major_label_overrides = {at + 0.5: name.upper() for at, name in enumerate(reversed(FAMILIES))}
        plot.ygrid.visible = False
        plot = self._timed("weights", 220, "0%", y_range=Range1d(start=0, end=1))
        weights = [f"weight_{family}" for family in FAMILIES]
        stacked = _defined(sampled, weights)
        plot.varea_stack(weights, x="x", source=stacked, color=list(palette.FAMILY_COLOURS), fill_alpha=0.85)

    def rolling(self, line: Line) -> None:
        """The rolling Sharpe ratio."""
        plot = self._timed("rolling", 260, RATIO)
        drawn = _line(plot, _source(line), palette.STRATEGY, 1.6)
        _hover(plot, drawn, [("until", "@x{%F}"), ("Sharpe", "@y{0.00}")], line=True)
        _zero(plot)


def series_charts(series: Series) -> Charts:
    """All charts of a symbol and set that stand on bars and trades."""
    sampled = series.sampled
    start = int(sampled.starts[0]) if sampled.starts.size else sampled.end
    charts = Charts(start, sampled.end)
    charts.equity(sampled.lines)
    if "close" in sampled.lines:
        charts.price(sampled)
        charts.exposure(sampled)
        charts.layers(sampled)
    if "signal" in sampled.lines:
        charts.signal(sampled)
    if series.trades.size:
        charts.found |= trade_charts(series.trades)
    if series.returns:
        charts.found["returns"] = _returns(series.returns)
    return charts


def trade_charts(trades: NDArray[np.void]) -> dict[str, Any]:
    """Return against bars held, and excursions: a point a trade, wins and losses apart by colour and shape."""
    columns = {name: trades[name].copy() for name in ("return", "bars", "mae", "mfe", "pnl", "trade_id")}
    columns["entry"], columns["exit"] = milliseconds(trades["entry_ts"]), milliseconds(trades["exit_ts"])
    columns["side"] = np.where(trades["side"] > 0, "long", "short")
    columns["reason"] = np.array(REASONS)[trades["reason"]]
    won = trades["pnl"] > 0
    held = _plot(300)
    excursions = _plot(300)
    held.xaxis.axis_label, held.yaxis.axis_label = "bars held", "return"
    excursions.xaxis.axis_label, excursions.yaxis.axis_label = "worst excursion (MAE)", "best excursion (MFE)"
    excursions.xaxis.formatter = _numbers(PERCENT)
    for chosen, colour, marker in ((won, palette.GAIN, "circle"), (~won, palette.LOSS, "triangle")):
        source = ColumnDataSource({name: values[chosen] for name, values in columns.items()})
        for plot, x, y in ((held, "bars", "return"), (excursions, "mae", "mfe")):
            drawn = plot.scatter(
                x=x, y=y, source=source, marker=marker, size=6, fill_color=colour, fill_alpha=0.6, line_color=colour
            )
            plot.yaxis.formatter = _numbers(PERCENT)
            _hover(plot, drawn, TRADE_TIPS)
    _zero(held)
    return {"trades": held, "excursions": excursions}


TRADE_TIPS = [
    ("trade", "@trade_id, @side"),
    ("in", "@entry{%F %H:%M}"),
    ("out", "@exit{%F %H:%M}, @reason"),
    ("return", "@return{0.00%}"),
    ("pnl", "@pnl{0,0.00}"),
    ("bars", "@bars"),
]


def _returns(found: Distribution) -> Any:
    plot = _plot(260)
    side = np.sign(np.arange(found.counts.size) - found.counts.size // 2)
    source = ColumnDataSource(
        {
            "left": found.edges[:-1],
            "right": found.edges[1:],
            "count": found.counts,
            "colour": np.select([side < 0, side > 0], [palette.LOSS, palette.GAIN], palette.HOLD),
        }
    )
    drawn = plot.quad(
        left="left", right="right", bottom=0, top="count", source=source, fill_color="colour", fill_alpha=0.8
    )
    drawn.glyph.line_width = 0
    plot.xaxis.formatter = _numbers("0.[000]%")
    plot.yaxis.formatter = _numbers("0,0")
    plot.xaxis.axis_label, plot.yaxis.axis_label = "return of a bar", "bars"
    plot.y_range.start = 0
    _hover(plot, drawn, [("return", "@left{0.000%} to @right{0.000%}"), ("bars", "@count{0,0}")])
    return plot


def _plot(height: int, **options: Any) -> Any:
    """An empty chart that takes the width it is given and leaves its colours to the page."""
    plot = figure(
        height=height, sizing_mode="stretch_width", tools=TOOLS, active_drag=None, active_scroll=None, **options
    )
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    plot.background_fill_alpha = plot.border_fill_alpha = 0.0
    plot.outline_line_color = None
    plot.min_border_left, plot.min_border_right = 58, 12
    plot.xgrid.visible = False
    for axis in (plot.xaxis, plot.yaxis):
        axis.minor_tick_line_color = None
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font = axis.major_label_text_font = "system-ui, sans-serif"
    return plot


def _source(line: Line, *tags: str) -> Any:
    """A line's points; `tags`: its name and which of its points, where zooming brings more of them."""
    columns = {"x": milliseconds(line.ts), "y": line.values}
    return ColumnDataSource(columns, tags=["line", *tags] if tags else [])


def _line(plot: Any, source: Any, colour: str, width: float) -> Any:
    return plot.line("x", "y", source=source, line_color=colour, line_width=width)


def _buckets(sampled: Sampled, names: tuple[str, ...], shade: float = 0.3) -> Any:
    """Means as columns of one source with the times at which their buckets begin and end."""
    edges = milliseconds(np.append(sampled.starts, sampled.end))
    columns = {name: sampled.means[name] * shade for name in names}
    if shade < 1:
        columns = {name: np.nan_to_num(values) for name, values in columns.items()}
    tags = ["shade", shade] if shade < 1 else ["keep"]
    return ColumnDataSource({"left": edges[:-1], "right": edges[1:]} | columns, tags=tags)


def _defined(sampled: Sampled, names: list[str]) -> Any:
    """Means as columns of one source with the times at which their buckets begin, where they are defined."""
    defined = ~np.isnan(sampled.means[names[0]])
    columns = {name: sampled.means[name][defined] for name in names}
    return ColumnDataSource({"x": milliseconds(sampled.starts[defined])} | columns, tags=["drop"])


def _sides(plot: Any, sampled: Sampled) -> None:
    """Buckets shaded by the share of their bars in which a side is held, or asked for."""
    source = _buckets(sampled, ("long", "short"))
    for side, colour in (("long", palette.GAIN), ("short", palette.LOSS)):
        plot.vstrip(x0="left", x1="right", source=source, fill_color=colour, fill_alpha=side, line_width=0)


def _zero(plot: Any) -> None:
    plot.hspan(y=0, line_width=1, line_color="#8a8f98")


def _hover(plot: Any, drawn: Any, tips: list[tuple[str, str]], line: bool = False) -> None:
    times: dict[str, Any] = dict.fromkeys(("@x", "@entry", "@exit"), "datetime")
    plot.add_tools(
        HoverTool(renderers=[drawn], tooltips=tips, formatters=times, mode="vline" if line else "mouse", visible=False)
    )


def _numbers(form: str) -> Any:
    return NumeralTickFormatter(format=form)
