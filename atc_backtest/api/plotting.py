"""Pictures of a run by matplotlib, which is asked for only here."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from atc_backtest.errors import DataError, UnavailableError
from atc_backtest.stores.base import F64

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise UnavailableError(
        f"pictures need matplotlib ({error}): pip install 'atc-backtest[report]', or take run.equity(...)."
    ) from error

if TYPE_CHECKING:
    from atc_backtest.api.results import Run

LONG, SHORT, LINE = "#2f9e6e", "#d1495b", "#3b5b92"


class Picture(Figure):
    """A figure that notebooks show by themselves: it needs no pyplot, no window and no global state."""

    def _repr_png_(self) -> bytes:
        sink = io.BytesIO()
        self.savefig(sink, format="png", dpi=self.dpi)
        return sink.getvalue()


def figure_of(run: Run, symbol: str, param_id: int) -> Figure:
    """Close with the positions shaded and equity beside buy-and-hold, on logarithmic scales; drawdown.

    `DataError` for a symbol without an evaluated bar.
    """
    equity = run.table("equity", symbols=symbol, param_id=param_id)
    signals = run.table("signals", symbols=symbol, param_id=param_id)
    if not equity.num_rows:
        raise DataError(f"{symbol} has no evaluated bar to draw: its series is shorter than the warm-up.")
    ts, worth = equity["ts"].to_numpy(), equity["equity"].to_numpy()
    bars, position = signals["ts"].to_numpy(), signals["position"].to_numpy()
    close = _closes(run, symbol)
    figure = Picture(figsize=(9, 6.5), layout="constrained")
    price, money, loss = figure.subplots(3, 1, sharex=True, height_ratios=[3, 2, 1])

    price.plot(bars, close, color=LINE, linewidth=0.9)
    for side, colour, name in ((1, LONG, "long"), (-1, SHORT, "short")):
        if (position == side).any():
            where = price.get_xaxis_transform()
            price.fill_between(
                bars, 0, 1, where=position == side, step="post", transform=where, color=colour, alpha=0.15, lw=0
            )
            price.plot([], [], color=colour, alpha=0.3, linewidth=6, label=name)
            price.legend(loc="upper left", frameon=False)
    price.set_yscale("log")
    price.set_ylabel("close")
    price.set_title(f"{symbol}, set {param_id}" if len(run.sets) > 1 else symbol, loc="left")

    held = close[bars >= ts[0]][: worth.size]
    start = run.sets[param_id].execution.start_equity
    money.plot(ts, worth, color=LINE, linewidth=1.1, label="equity")
    money.plot(ts[: held.size], start * held / held[0], color="0.6", linewidth=0.9, label="buy and hold")
    if worth.min() > 0:
        money.set_yscale("log")
    money.set_ylabel("money")
    money.legend(loc="upper left", frameon=False)

    peak = np.maximum.accumulate(np.maximum(worth, start))
    loss.fill_between(ts, 100 * (worth / peak - 1), 0, color=SHORT, alpha=0.5, linewidth=0)
    loss.set_ylabel("drawdown, %")
    for axes in (price, money, loss):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    return figure


def _closes(run: Run, symbol: str) -> F64:
    """Closes of the symbol's present bars, which are the rows of its signals."""
    info = run.store.info
    row = [one.name for one in info.symbols].index(symbol)
    closes = run.store.read("close", (row, row + 1), (0, info.n_bars))[0]
    present: F64 = closes[~np.isnan(closes)]
    return present
