"""Stores for tests, filled with closes and what else follows from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atc_backtest.stores.zarr_store import create_store, open_store


def fill_store(
    path: Path,
    close: NDArray[np.float64],
    fields: tuple[str, ...] = ("open", "high", "low", "close"),
    start: int = 0,
    bar_ns: int = 3600 * 10**9,
) -> None:
    """A store of symbols S000, S001, .. with these closes (appended when it exists), from bar `start` on."""
    n_symbols, n_bars = close.shape
    store = open_store(path) if path.exists() else create_store(path, bar_ns=bar_ns, calendar="24/7", fields=fields)
    opened = np.concatenate([close[:, :1], close[:, :-1]], axis=1)
    opened = np.where(np.isnan(opened), close, opened)
    everything = {
        "open": np.where(np.isnan(close), np.nan, opened),
        "high": np.maximum(opened, close) + 0.01,
        "low": np.minimum(opened, close) * 0.999,
        "close": close,
    }
    ts = (np.arange(start, start + n_bars) + 473_352) * bar_ns
    store.append(ts, [f"S{i:03d}" for i in range(n_symbols)], {name: everything[name] for name in fields})
