"""Cleaned series to blocks of a store, over the union of their open times."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atc_backtest.stores.base import F64, I64
from atc_backtest.stores.ingest.cleaning import Series
from atc_backtest.stores.ingest.spool import times
from atc_backtest.stores.zarr_store import StoreWriter


def shared_axis(series: Sequence[Series], dtype: np.dtype[np.void]) -> I64:
    """Every open time of any symbol, ascending: int64 [bars]."""
    axis = np.empty(0, dtype=np.int64)
    for one in series:
        ts = times(one.path, dtype)
        if axis.size == 0:
            axis = ts
            continue
        start = int(np.searchsorted(axis, ts[0]))
        if np.array_equal(axis[start : start + ts.size], ts):
            continue
        at = np.minimum(np.searchsorted(axis, ts), axis.size - 1)
        new = ts[axis[at] != ts]
        if new.size:
            axis = np.union1d(axis, new)
    return axis


def write_blocks(
    writer: StoreWriter, series: Sequence[Series], axis: I64, fields: Sequence[str], dtype: np.dtype[np.void]
) -> None:
    """Write every symbol's rows at its times, NaN elsewhere, a chunk of symbols x a chunk of bars at a time."""
    n_symbols, n_bars = writer.chunk
    for s0 in range(0, len(series), n_symbols):
        group = series[s0 : s0 + n_symbols]
        read = [0] * len(group)
        for t0 in range(0, axis.size, n_bars):
            block = block_of(group, read, axis[t0 : t0 + n_bars], len(fields), dtype)
            for name, values in zip(fields, block, strict=True):
                writer.write(name, (s0, s0 + len(group)), (t0, t0 + values.shape[1]), values)
            del block, values  # or the next block would be made beside this one


def block_of(group: Sequence[Series], read: list[int], ts: I64, n_fields: int, dtype: np.dtype[np.void]) -> F64:
    """The rows of `group` at times `ts`: float64 [fields, symbols, bars]. `read` counts each symbol's rows taken."""
    block = np.full((n_fields, len(group), ts.size), np.nan)
    for i, one in enumerate(group):
        read[i] += _place(one, read[i], ts, block[:, i], dtype)
    return block


def _place(series: Series, read: int, ts: I64, block: F64, dtype: np.dtype[np.void]) -> int:
    """Put a symbol's rows from row `read` on into `block` [fields, bars] of times `ts`; how many lay within."""
    if read == series.n or series.last_ns < ts[0] or series.first_ns > ts[-1]:
        return 0
    records = np.fromfile(series.path, dtype, min(ts.size, series.n - read), offset=read * dtype.itemsize)
    records = records[: np.searchsorted(records["ts"], ts[-1], side="right")]
    block[:, np.searchsorted(ts, records["ts"])] = records["values"].T
    return int(records.size)
