"""Another symbol as the benchmark: its closes, and an account's periods set against it instead of buy-and-hold."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from atc_backtest.errors import ConfigError
from atc_backtest.moments import Comoments
from atc_backtest.pipelines.recomputing import recomputed
from atc_backtest.pipelines.runs import Run
from atc_backtest.stores.base import Store

F64 = NDArray[np.float64]

EQUITY = "equity"


def carried_closes(store: Store, symbol: str) -> F64:
    """A symbol's closes on the whole axis, carried over missing bars; its first one before that.

    `ConfigError` for a symbol that the store lacks or that has no bar.
    """
    row = next((at for at, one in enumerate(store.info.symbols) if one.name == symbol and one.n_bars), None)
    if row is None:
        raise ConfigError(f"--benchmark {symbol}: {store.info.path} has no bars of that symbol.")
    step, n = store.info.chunk[1], store.info.n_bars
    pieces = [store.read("close", (row, row + 1), (at, min(at + step, n)))[0] for at in range(0, n, step)]
    close = np.concatenate(pieces)
    place = np.maximum.accumulate(np.where(np.isnan(close), -1, np.arange(n)))
    return close[np.maximum(place, int(np.argmax(~np.isnan(close))))]


def against(run: Run, symbol: str, param_id: int, benchmark: str, rows: Sequence[dict[str, Any]]) -> None:
    """Put the benchmark's moments into `rows`, periods of one account, where those of buy-and-hold are.

    Its return at a bar is that of its close since the account's bar before; 0 at the first. The account's equity is
    read where the run saved it, and computed again else. Memory: the bars of two series.
    """
    store = run.prices()
    close = carried_closes(store, benchmark)
    mine = (pc.field("symbol") == symbol) & (pc.field("param_id") == param_id)
    if EQUITY in run.datasets:
        table = run.table(EQUITY, mine)
    else:
        table = recomputed(run, EQUITY, [symbol], (param_id, param_id + 1))
    ts, equity = table["ts"].cast(pa.int64()).to_numpy(), table["equity"].to_numpy()
    held = close[np.searchsorted(store.ts(0, store.info.n_bars), ts)]
    hold = held / np.concatenate([held[:1], held[:-1]]) - 1
    edges = [*np.searchsorted(ts, [row["period_ts"] for row in rows]).tolist(), ts.size]
    for row, (start, stop) in zip(rows, pairwise(edges), strict=True):
        before = row["start_equity"]
        r = equity[start:stop] / np.concatenate([[before], equity[start : stop - 1]]) - 1
        b = hold[start:stop]
        row["hold_return"] = float(np.prod(1 + b) - 1)
        found = Comoments.of(r, b).row()
        row.update((name, found[name]) for name in ("hold_mean", "hold_m2", "hold_cov"))
