"""Stores for tests, filled with closes and what else follows from them, and plans that keep their chunks apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from prices import tick_walk

from atc_backtest.pipelines import costs
from atc_backtest.stores.zarr_store import create_store, open_store

HOUR = 3600 * 10**9
FIELDS = ("open", "high", "low", "close", "volume")
Blocks = dict[str, NDArray[np.float64]]


def blocks(n_symbols: int, n_bars: int, seed: int = 0) -> Blocks:
    """All fields of walks with gaps."""
    close = np.stack([tick_walk(n_bars, seed + s) for s in range(n_symbols)])
    close[:, 3::7] = np.nan
    rng = np.random.default_rng(seed)
    found = {name: close * factor for name, factor in zip(FIELDS, (1.0, 1.1, 0.9, 1.0, 1.0), strict=True)}
    found["volume"] = np.where(np.isnan(close), np.nan, rng.integers(0, 10**6, close.shape) / 7)
    return found


def cut(found: Blocks, symbols: slice | list[int], bars: slice) -> Blocks:
    """A part of some blocks."""
    return {name: np.ascontiguousarray(block[symbols, bars]) for name, block in found.items()}


def hours(start: int, n: int) -> NDArray[np.int64]:
    """Open times of n hourly bars from a fixed day on."""
    return (np.arange(start, start + n) + 400_000) * HOUR


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


def three_chunks(path: Path) -> Path:
    """A store there of three chunks of symbols x 300 hourly bars."""
    fill_store(path, np.stack([tick_walk(300, seed) for seed in range(130)]))
    return path


@contextmanager
def apart() -> Iterator[None]:
    """Plans have a partition a chunk, however soon they are done."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs, "SHORTEST_NS", 1.0)
        patch.setattr(costs, "PART_BYTES", 1.0)
        yield
