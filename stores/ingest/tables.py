"""Every source looked at before any row is taken: its columns, its symbol, the kind of its times."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atc_backtest.errors import DataError
from atc_backtest.stores.base import FIELDS
from atc_backtest.stores.ingest.columns import Layout, listed, recognise
from atc_backtest.stores.ingest.csv_file import CsvTable, open_csv
from atc_backtest.stores.ingest.options import IngestOptions
from atc_backtest.stores.ingest.parquet_file import ParquetTable, open_parquet
from atc_backtest.stores.ingest.rules import Mask, Rows
from atc_backtest.stores.ingest.sources import Source
from atc_backtest.stores.ingest.times import TimeColumn, time_column
from atc_backtest.stores.ingest.zones import Zone

GLANCE_BYTES = 1 << 13
"""Read of each source before the first one is read whole, so that refusals come early."""


@dataclass(frozen=True)
class Table:
    """A source that is understood. `symbol` is None where a column tells it."""

    file: CsvTable | ParquetTable
    layout: Layout
    symbol: str | None
    time: TimeColumn

    @property
    def label(self) -> str:
        return self.file.source.label

    def rows(self, fields: Sequence[str], batch_bytes: int) -> Iterator[tuple[Rows, Mask, pa.Array]]:
        """Batches: rows with `fields`, which of their times exist, and the times as the file has them."""
        texts = [self.layout.ts] + ([] if self.layout.symbol is None else [self.layout.symbol])
        numbers = [self.layout.values[field] for field in fields]
        for arrays in self.file.batches(texts, numbers, batch_bytes):
            ts, exists = self.time.to_ns(arrays[0])
            columns = [array.to_numpy(zero_copy_only=False) for array in arrays[len(texts) :]]
            values = np.stack([column.astype(np.float64, copy=False) for column in columns], axis=1)
            if self.symbol is not None:
                yield Rows((self.symbol,), np.zeros(ts.size, dtype=np.int64), ts, values), exists, arrays[0]
            else:
                yield self._by_symbol(arrays[1], ts, values), exists, arrays[0]

    def _by_symbol(self, column: pa.Array, ts: np.ndarray, values: np.ndarray) -> Rows:
        names = pc.utf8_trim_whitespace(column.cast(pa.string()))
        if names.null_count or pc.any(pc.equal(names, "")).as_py():
            name = self.file.columns[self.layout.symbol or 0]
            raise DataError(f"{self.label}: column {name!r} has a row without a symbol: mend or remove that row.")
        coded = names.dictionary_encode()
        codes = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        return Rows(coded.dictionary.to_pylist(), codes, ts, values)


def open_table(source: Source, options: IngestOptions, zone: Zone | None) -> Table:
    """Open a source and look at its first rows. `DataError` for what it cannot be read as."""
    file = open_parquet(source) if source.is_parquet else open_csv(source)
    layout = recognise(file.columns, options.columns, source.label)
    times = next((batch[0] for batch in file.batches([layout.ts], [], GLANCE_BYTES) if len(batch[0])), None)
    if times is None:
        raise DataError(f"{source.label} has no rows: fetch or make it again, or leave it out.")
    time = time_column(times, file.columns[layout.ts], source.label, zone, options.wall_clock)
    table = Table(file, layout, _symbol(source, file, layout, options), time)
    next(table.rows(list(layout.values), GLANCE_BYTES), None)
    return table


def _symbol(source: Source, file: CsvTable | ParquetTable, layout: Layout, options: IngestOptions) -> str | None:
    if layout.symbol is not None:
        if options.symbol is not None or options.symbol_pattern is not None:
            raise DataError(
                f"{source.label} names its symbols in the column {file.columns[layout.symbol]!r}: "
                "leave out --symbol and --symbol-pattern."
            )
        return None
    if options.symbol is not None:
        return options.symbol.strip()
    if options.symbol_pattern is None:
        return source.stem
    found = re.search(options.symbol_pattern, source.stem)
    if found is None or not found[1]:
        raise DataError(
            f"{source.label}: --symbol-pattern {options.symbol_pattern!r} is not found in its name {source.stem!r}: "
            "change the pattern, or give only files that it fits."
        )
    return found[1]


def check_one_symbol(tables: Sequence[Table], options: IngestOptions) -> None:
    """`DataError` when `symbol` would pour several files into one."""
    if options.symbol is not None and len(tables) > 1:
        raise DataError(
            f"--symbol {options.symbol} is for a single file, {len(tables)} were found, {tables[0].label} first: "
            "give one, or take the symbol from the names of files with --symbol-pattern."
        )


def common_fields(tables: Sequence[Table]) -> tuple[str, ...]:
    """The fields that every source has, in the order of `FIELDS`."""
    return tuple(field for field in FIELDS if all(field in table.layout.values for table in tables))


def notes_on(tables: Sequence[Table], fields: Sequence[str]) -> list[str]:
    """What was recognised and what is left out, each once with the files it is about."""
    said: dict[str, list[str]] = {}
    for table in tables:
        said.setdefault(table.time.said(), []).append(table.label)
    for table in tables:
        if table.file.is_kline:
            said.setdefault("no header: read as Binance klines", []).append(table.label)
        else:
            unused = [name for i, name in enumerate(table.file.columns) if i not in table.layout.used()]
            if unused:
                said.setdefault(f"columns not used: {listed(unused)}", []).append(table.label)
    for field in FIELDS:
        if field not in fields:
            lacking = [table.label for table in tables if field not in table.layout.values]
            if len(lacking) < len(tables):
                said.setdefault(f"{field} is left out of the store, for it is missing", []).extend(lacking)
    return [f"{text} ({_files(labels, len(tables))})" for text, labels in said.items()]


def _files(labels: Sequence[str], total: int) -> str:
    if len(labels) == total and total > 1:
        return f"all {total} files"
    return labels[0] + (f" and {len(labels) - 1} more" if len(labels) > 1 else "")
