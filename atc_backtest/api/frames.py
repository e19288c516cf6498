"""Prices in memory as people hold them, in one form: pandas, polars, Arrow, NumPy, or a mapping of them.

Nothing is dropped, sorted or filled on the way: what a store cannot hold is refused. A bar is missing where its close
is NaN; its open, high and low must be NaN there too, its volume is not looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from atc_backtest.api.times import Times, column_ns, has_dates, index_ns, is_time, stamps_ns
from atc_backtest.errors import DataError
from atc_backtest.stores.base import F64, FIELDS, I64, format_bar, parse_bar
from atc_backtest.stores.building import new_store
from atc_backtest.stores.checks import check_values
from atc_backtest.stores.ingest.columns import listed
from atc_backtest.stores.ingest.rules import show_time

SYMBOL_COLUMNS = ("symbol", "ticker", "asset", "instrument", "pair")
ONLY = "asset"
"""Name of the one symbol of a frame or array that has none."""

FORMS = (
    "a store's path, a pandas or polars frame of closes (a row a time, a column a symbol) or of open, high, low, "
    "close, volume, an Arrow table, closes in NumPy [bars] or [symbols, bars], or a mapping of symbol to such"
)


@dataclass(frozen=True)
class Panel:
    """Prices of some symbols over one axis: `ts` int64 ns UTC, each field float64 [symbols, bars], NaN = no bar."""

    symbols: tuple[str, ...]
    ts: I64
    fields: Mapping[str, F64]


def panel_of(prices: Any, times: Times) -> Panel:
    """Prices of any form in `FORMS` but a store. `DataError` for what is none, and for times that cannot be used."""
    if isinstance(prices, Mapping):
        if not prices:
            raise DataError("no prices given: the mapping is empty. Give symbol -> series, frame or array.")
        return _joined({str(name): panel_of(one, times) for name, one in prices.items()})
    library, kind = _origin(prices)
    if library == "pandas" and kind == "Series":
        name = ONLY if prices.name is None else str(prices.name)
        return _checked((name,), index_ns(prices.index, times), {"close": _floats(prices, name)[None]})
    if library == "pandas":
        return _of_pandas(prices, times)
    if library == "polars" and kind == "Series":
        return _of_array(prices.to_numpy(), times)
    if library == "polars":
        return _of_table(prices.to_arrow(), times)
    if isinstance(prices, pa.Table):
        return _of_table(prices, times)
    if isinstance(prices, np.ndarray | list | tuple):
        return _of_array(prices, times)
    raise DataError(f"prices are of type {type(prices).__module__}.{type(prices).__name__}: give {FORMS}.")


def closes_of(series: Any) -> F64:
    """One series' values, float64 [bars], copied; a pandas or polars Series or a one-dimensional array."""
    library, kind = _origin(series)
    if library == "pandas" and kind == "Series":
        return _floats(series, ONLY)
    if (library == "polars" and kind == "Series") or isinstance(series, np.ndarray | list | tuple):
        values = _as_floats(series.to_numpy() if library == "polars" else series, "the series")
        if values.ndim == 1:
            return values
        raise DataError(f"the series has shape {values.shape}: give one series, [bars]; backtest takes several.")
    raise DataError(
        f"closes are of type {type(series).__module__}.{type(series).__name__}: give a pandas or polars Series, "
        "or a one-dimensional array."
    )


def bar_ns_of(panel: Panel, bar: str | None) -> int:
    """The size of a bar; `DataError` where nothing tells it, or symbols tell different ones."""
    if bar is not None:
        return parse_bar(bar)
    sizes: dict[int, list[str]] = {}
    for name, close in zip(panel.symbols, panel.fields["close"], strict=True):
        steps = np.diff(panel.ts[~np.isnan(close)])
        if steps.size:
            found, counts = np.unique(steps, return_counts=True)
            sizes.setdefault(int(found[np.argmax(counts)]), []).append(name)
    if not sizes:
        raise DataError("no symbol has two bars, which would tell how long a bar is: give it, e.g. bar='1d'.")
    if len(sizes) > 1:
        told = "; ".join(f"{format_bar(size)}: {listed(names, 8)}" for size, names in sorted(sizes.items()))
        raise DataError(f"the symbols have bars of several sizes ({told}): backtest those of one, or give bar=.")
    return next(iter(sizes))


def write_store(panel: Panel, place: str | Path, bar_ns: int, calendar: str, overwrite: bool = False) -> None:
    """A new store of these prices, bit for bit. `DataError` for values that no store holds."""
    with new_store(
        place,
        bar_ns=bar_ns,
        calendar=calendar,
        fields=tuple(panel.fields),
        symbols=panel.symbols,
        ts=panel.ts,
        overwrite=overwrite,
        what="prices from memory",
    ) as writer:
        n_symbols, n_bars = len(panel.symbols), panel.ts.size
        chunk_symbols, chunk_bars = writer.chunk
        for first in range(0, n_symbols, chunk_symbols):
            rows = (first, min(first + chunk_symbols, n_symbols))
            for start in range(0, n_bars, chunk_bars):
                bars = (start, min(start + chunk_bars, n_bars))
                blocks = {
                    name: np.ascontiguousarray(values[slice(*rows), slice(*bars)])
                    for name, values in panel.fields.items()
                }
                check_values(panel.ts[slice(*bars)], panel.symbols[slice(*rows)], blocks)
                for name, block in blocks.items():
                    writer.write(name, rows, bars, block)


def _origin(value: Any) -> tuple[str, str]:
    """The library and type that a value is of, subclasses included, without importing any library."""
    for one in type(value).__mro__:
        library = one.__module__.partition(".")[0]
        if library in ("pandas", "polars") and one.__name__ in ("DataFrame", "Series"):
            return library, one.__name__
    return type(value).__module__.partition(".")[0], type(value).__name__


def _of_pandas(frame: Any, times: Times) -> Panel:
    names = [str(name).lower() for name in frame.columns]
    is_timed = hasattr(frame.index, "tz") or has_dates(frame.index)
    if is_timed and "close" in names and any(name in SYMBOL_COLUMNS for name in names):
        frame, is_timed = frame.reset_index(names="time"), False
    if not is_timed and times.stamps is None and _has_times(frame):
        return _of_table(pa.Table.from_pandas(frame, preserve_index=False), times)
    ts = index_ns(frame.index, times)
    if frame.columns.nlevels == 2:
        return _of_two_levels(frame, ts)
    if frame.columns.nlevels != 1:
        raise DataError(f"columns have {frame.columns.nlevels} levels: give one, or two of field and symbol.")
    return _of_columns(ts, [str(name) for name in frame.columns], partial(_floats_at, frame))


def _has_times(frame: Any) -> bool:
    columns = (frame.iloc[:, i] for i in range(frame.shape[1]))
    return any(str(one.dtype).startswith(("datetime64", "date", "timestamp")) or has_dates(one) for one in columns)


def _of_two_levels(frame: Any, ts: I64) -> Panel:
    """Columns (symbol, field) or (field, symbol), told apart by the level that names closes."""
    levels = [[str(pair[level]) for pair in frame.columns] for level in (0, 1)]
    found = [level for level in (0, 1) if any(name.lower() == "close" for name in levels[level])]
    if len(found) != 1:
        raise DataError(
            f"columns of two levels, {listed([str(pair) for pair in frame.columns], 6)}: one level, and not the other, "
            f"must name fields ({', '.join(FIELDS)}), close among them."
        )
    names, kinds = levels[1 - found[0]], [kind.lower() for kind in levels[found[0]]]
    symbols = list(dict.fromkeys(names))
    at = {(name, kind): i for i, (name, kind) in enumerate(zip(names, kinds, strict=True))}
    fields = [field for field in FIELDS if all((symbol, field) in at for symbol in symbols)]
    _check_close(fields, symbols)
    if len(at) != len(names):
        raise DataError("two columns are of the same symbol and field: keep one of them.")
    blocks = {f: np.stack([_floats_at(frame, at[symbol, f]) for symbol in symbols]) for f in fields}
    return _checked(symbols, ts, blocks)


def _of_table(table: pa.Table, times: Times) -> Panel:
    """One column of times, and closes a symbol, or fields of one symbol, or fields and a column of symbols."""
    temporal = [i for i, field in enumerate(table.schema) if is_time(field.type)]
    if not temporal:
        raise DataError(
            f"no column holds times (timestamps or dates); the columns are {listed(table.column_names)}. Convert one."
        )
    ts = column_ns(table.column(temporal[0]), times)
    rest = [i for i in range(table.num_columns) if i not in temporal]
    names = [table.column_names[i] for i in rest]
    lower = [name.lower() for name in names]
    by = next((i for i, name in zip(rest, lower, strict=True) if name in SYMBOL_COLUMNS), None)
    if by is not None and "close" in lower:
        values = {f: _numbers(table.column(rest[lower.index(f)]), f) for f in FIELDS if f in lower}
        return _pivoted(ts, table.column(by), values)
    return _of_columns(ts, names, lambda i: _numbers(table.column(rest[i]), names[i]))


def _of_columns(ts: I64, names: Sequence[str], values: Callable[[int], F64]) -> Panel:
    """Fields of one symbol where one column is its close, else closes of as many symbols. values(i) -> float64."""
    lower = [name.lower() for name in names]
    if "close" in lower:
        return _checked([ONLY], ts, {f: values(lower.index(f))[None] for f in FIELDS if f in lower})
    if not names:
        raise DataError("the frame has no column of prices: give a column of closes a symbol, or open to close.")
    return _checked(names, ts, {"close": np.stack([values(i) for i in range(len(names))])})


def _pivoted(ts: I64, column: pa.ChunkedArray, values: Mapping[str, F64]) -> Panel:
    """Rows of many symbols, in any order, to a block a field."""
    if column.null_count:
        raise DataError("a row has no symbol: drop it, or name its symbol.")
    coded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    symbols, codes = coded.dictionary.to_pylist(), coded.indices.to_numpy(zero_copy_only=False)
    axis, at = np.unique(ts, return_inverse=True)
    counts = np.bincount(codes * axis.size + at, minlength=len(symbols) * axis.size)
    if counts.size and counts.max() > 1:
        twice = int(np.argmax(counts > 1))
        raise DataError(
            f"{symbols[twice // axis.size]} has two rows at {show_time(int(axis[twice % axis.size]))}: keep one."
        )
    blocks = {}
    for name, found in values.items():
        blocks[name] = np.full((len(symbols), axis.size), np.nan)
        blocks[name][codes, at] = found
    return _checked(symbols, axis, blocks)


def _of_array(values: Any, times: Times) -> Panel:
    closes = _as_floats(values, "the array")
    if closes.ndim not in (1, 2):
        raise DataError(f"the array has {closes.ndim} dimensions: give closes [bars] or [symbols, bars].")
    names = [ONLY] if closes.ndim == 1 else [str(i) for i in range(closes.shape[0])]
    ts = stamps_ns(closes.shape[-1], times)
    return _checked(names, ts, {"close": closes.reshape(len(names), -1)})


def _joined(panels: Mapping[str, Panel]) -> Panel:
    """Panels of one symbol each over the union of their times, with the fields that all have."""
    several = [name for name, panel in panels.items() if len(panel.symbols) != 1]
    if several:
        raise DataError(f"{several[0]} holds {len(panels[several[0]].symbols)} series: a mapping gives one a symbol.")
    ts = np.unique(np.concatenate([panel.ts for panel in panels.values()]))
    fields = [field for field in FIELDS if all(field in panel.fields for panel in panels.values())]
    blocks = {field: np.full((len(panels), ts.size), np.nan) for field in fields}
    for row, panel in enumerate(panels.values()):
        at = np.searchsorted(ts, panel.ts)
        for field in fields:
            blocks[field][row, at] = panel.fields[field][0]
    return _checked(list(panels), ts, blocks)


def _checked(symbols: Sequence[str], ts: I64, blocks: Mapping[str, F64]) -> Panel:
    """A panel in the order of `FIELDS`, its volume NaN where there is no bar. `DataError` for names and times."""
    twice = [name for name, count in Counter(symbols).items() if count > 1]
    if twice:
        raise DataError(f"symbols named more than once: {listed(twice)}. Name each once.")
    for name, block in blocks.items():
        if block.shape[1] != ts.size:
            raise DataError(f"{ts.size} times for {block.shape[1]} values of {name}: give one a bar.")
    steps = np.diff(ts)
    if steps.size and steps.min() <= 0:
        at = int(np.argmax(steps <= 0))
        what = "is there twice" if steps[at] == 0 else f"is followed by {show_time(int(ts[at + 1]))}"
        raise DataError(f"{show_time(int(ts[at]))} {what}: sort by time, and keep one row a time.")
    missing = np.isnan(blocks["close"])
    fields = {
        name: np.where(missing, np.nan, blocks[name]) if name == "volume" and missing.any() else blocks[name]
        for name in FIELDS
        if name in blocks
    }
    return Panel(tuple(symbols), ts, fields)


def _check_close(fields: Sequence[str], symbols: Sequence[str]) -> None:
    if "close" not in fields:
        raise DataError(f"not every one of {listed(symbols, 8)} has a column close: add it, or leave the symbol out.")


def _floats_at(frame: Any, i: int) -> F64:
    return _floats(frame.iloc[:, i], str(frame.columns[i]))


def _floats(series: Any, name: str) -> F64:
    """A pandas series; what is missing is NaN."""
    if series.dtype.kind in "bMm":
        raise DataError(f"{name} holds no numbers ({series.dtype}): convert or leave it out.")
    try:
        return np.array(series.to_numpy(dtype=np.float64, na_value=np.nan))
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} holds no numbers ({error}): convert or leave it out.") from error


def _numbers(column: pa.ChunkedArray, name: str) -> F64:
    try:
        return _as_floats(column.cast(pa.float64()).to_numpy(), name)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{name} holds no numbers ({column.type}): convert or leave out the column.") from error


def _as_floats(values: Any, name: str) -> F64:
    try:
        found = np.asarray(values)
        if found.dtype.kind in "bMmUS":
            raise TypeError(str(found.dtype))
        return np.array(found, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} holds no numbers ({error}): convert or leave it out.") from error
