"""Every source looked at before any row is taken: its columns, its symbol, the kind of its times."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from atc_backtest.errors import DataError
from atc_backtest.stores.base import F64, FIELDS, I64
from atc_backtest.stores.ingest.arrow_file import open_arrow
from atc_backtest.stores.ingest.columns import Layout, ambiguous, listed, recognise
from atc_backtest.stores.ingest.csv_file import open_csv
from atc_backtest.stores.ingest.dates import DateForm, decide
from atc_backtest.stores.ingest.json_file import open_json
from atc_backtest.stores.ingest.lean_file import open_lean
from atc_backtest.stores.ingest.options import IngestOptions
from atc_backtest.stores.ingest.parquet_file import open_parquet
from atc_backtest.stores.ingest.rules import Mask, Names, Rows
from atc_backtest.stores.ingest.sources import ARROW_ENDINGS, JSON_ENDINGS, Source, Wanted
from atc_backtest.stores.ingest.times import TimeColumn, joined, local_column, time_column, trimmed
from atc_backtest.stores.ingest.zones import Zone

GLANCE_BYTES = 1 << 13
"""Read of each source before the first one is read whole, so that refusals come early."""

SYMBOLS = pa.dictionary(pa.int32(), pa.string())
DATE = re.compile(r"\d{1,4}[/.-]\d{1,2}[/.-]\d{1,4}|\d{8}")
CLOCK = re.compile(r"\d{1,2}:\d\d(:\d\d(\.\d+)?)?( ?[AaPp][Mm])?|\d{4}|\d{6}")


class TableFile(Protocol):
    """A file of one format with its head read. `said`: notes; `lists_unused`: whether its other columns are named."""

    @property
    def source(self) -> Source: ...
    @property
    def columns(self) -> tuple[str, ...]: ...
    @property
    def said(self) -> tuple[str, ...]: ...
    @property
    def lists_unused(self) -> bool: ...

    def batches(self, wanted: Wanted) -> Iterator[list[pa.Array]]:
        """The columns that are wanted, a batch at a time. `DataError` for what is no number, and a damaged file."""
        ...


@dataclass(frozen=True)
class Table:
    """A source that is understood. `symbol` is None where a column tells it."""

    file: TableFile
    layout: Layout
    symbol: str | None
    time: TimeColumn

    @property
    def label(self) -> str:
        return self.file.source.label

    def rows(
        self, fields: Sequence[str], names: Names, batch_bytes: int, ahead: int = 0, as_written: bool = False
    ) -> Iterator[tuple[Rows, Mask | None, pa.Array]]:
        """Batches: rows with `fields`, which of their times exist (None: all), and the times, text if `as_written`."""
        texts = _time_places(self.layout)
        n_times = len(texts)
        typed = {}
        if n_times == 1 and self.time.csv_type is not None and not as_written:
            typed[self.layout.ts] = self.time.csv_type
        if self.layout.symbol is not None:
            texts, typed[self.layout.symbol] = [*texts, self.layout.symbol], SYMBOLS
        numbers = [self.layout.values[field] for field in fields]
        code = None if self.symbol is None else names.code(self.symbol)
        for arrays in self.file.batches(Wanted(texts, numbers, batch_bytes, typed, ahead)):
            time = arrays[0] if n_times == 1 else joined(*arrays[:2])
            ts, exists = self.time.to_ns(time)
            values = [_floats(array) for array in arrays[len(texts) :]]
            codes = np.full(ts.size, code) if code is not None else self._codes(arrays[n_times], names)
            yield Rows(names, codes, ts, values), exists, time

    def _codes(self, column: pa.Array, names: Names) -> I64:
        coded = column if pa.types.is_dictionary(column.type) else column.cast(pa.string()).dictionary_encode()
        found = [str(name or "").strip() for name in coded.dictionary.to_pylist()]
        if coded.null_count or not all(found):
            places = coded.indices.fill_null(0).to_numpy(zero_copy_only=False)
            if coded.null_count or not all(found[i] for i in np.unique(places).tolist()):
                name = self.file.columns[self.layout.symbol or 0]
                raise DataError(f"{self.label}: column {name!r} has a row without a symbol: mend or remove that row.")
        if odd := next((name for name in found if not name.isprintable()), None):
            raise DataError(f"{self.label}: {odd!r} is no symbol: mend the file, or leave it out.")
        numbers = np.array([names.code(name) if name else -1 for name in found], dtype=np.int64)
        codes: I64 = numbers[coded.indices.to_numpy(zero_copy_only=False)]
        return codes


def _floats(array: pa.Array) -> F64:
    return np.asarray(array.to_numpy(zero_copy_only=False), dtype=np.float64)


def _time_places(layout: Layout) -> list[int]:
    return [layout.ts] if layout.clock is None else [layout.ts, layout.clock]


def open_table(source: Source, options: IngestOptions, zone: Zone | None) -> Table:
    """Open a source and look at its first rows. `DataError` for what it cannot be read as."""
    file = _open_file(source, options)
    layout = recognise(file.columns, options.columns, source.label)
    places = _time_places(layout)
    glance = next((batch for batch in file.batches(Wanted(places, [], GLANCE_BYTES)) if len(batch[0])), None)
    if glance is None:
        raise DataError(f"{source.label} has no rows: fetch or make it again, or leave it out.")
    if layout.clock is not None and not layout.named and not _are_date_and_clock(glance):
        raise ambiguous(file.columns, sorted(places), "ts", source.label)
    table = Table(file, layout, _symbol(source, file, layout, options), _time(file, layout, glance, options, zone))
    next(table.rows(list(layout.values), Names(), GLANCE_BYTES), None)
    return table


def _open_file(source: Source, options: IngestOptions) -> TableFile:
    if source.ending == ".parquet":
        return open_parquet(source)
    if source.ending in ARROW_ENDINGS:
        return open_arrow(source)
    if source.ending in JSON_ENDINGS:
        return open_json(source)
    if source.lean is not None:
        return open_lean(source, source.lean)
    return open_csv(source, options.decimal_comma)


def _are_date_and_clock(glance: Sequence[pa.Array]) -> bool:
    date, clock = (array[0].as_py() for array in glance)
    return bool(DATE.fullmatch(str(date).strip()) and CLOCK.fullmatch(str(clock).strip()[:15]))


def _time(
    file: TableFile, layout: Layout, glance: Sequence[pa.Array], options: IngestOptions, zone: Zone | None
) -> TimeColumn:
    label, name = file.source.label, " ".join(file.columns[i] for i in _time_places(layout))
    form = None if options.date_format is None else DateForm(options.date_format)
    first = glance[0] if layout.clock is None else joined(*glance)
    found = time_column(first, name, label, zone, options.wall_clock, form)
    if isinstance(found, TimeColumn):
        return found
    batches = file.batches(Wanted(_time_places(layout), [], options.batch_bytes))
    columns = (trimmed(batch[0]) if layout.clock is None else joined(*batch) for batch in batches)
    return local_column(label, name, zone, decide(found, columns, label, name), str(first[0]))


def _symbol(source: Source, file: TableFile, layout: Layout, options: IngestOptions) -> str | None:
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
        known = source.lean or source.known
        return source.stem if known is None or not known.symbol else known.symbol
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


def notes_on(tables: Sequence[Table], fields: Sequence[str], skipped: Mapping[str, Sequence[str]]) -> list[str]:
    """What was recognised and what is left out, each once with the files it is about."""
    said: dict[str, list[str]] = {}
    for table in tables:
        said.setdefault(table.time.said(), []).append(table.label)
    for table in tables:
        for note in table.file.said:
            said.setdefault(note, []).append(table.label)
        known = table.file.source.known
        if known is not None and known.symbol is not None and table.symbol == known.symbol:
            said.setdefault(f"symbols from file names, as {known.habit}", []).append(table.label)
        unused = [name for i, name in enumerate(table.file.columns) if i not in table.layout.used()]
        if unused and table.file.lists_unused:
            said.setdefault(f"columns not used: {listed(unused)}", []).append(table.label)
    for field in FIELDS:
        if field not in fields:
            lacking = [table.label for table in tables if field not in table.layout.values]
            having = [table.label for table in tables if field in table.layout.values]
            if lacking and having:
                said.setdefault(f"{field} is left out of the store, for it is missing", []).extend(lacking)
            elif having:
                said.setdefault(f"{field} is not taken, for the store has none", []).extend(having)
    notes = [f"{text} ({_files(labels, len(tables))})" for text, labels in said.items()]
    return notes + [f"passed over, {why} ({_files(labels, 0)})" for why, labels in skipped.items()]


def _files(labels: Sequence[str], total: int) -> str:
    if len(labels) == total and total > 1:
        return f"all {total} files"
    return labels[0] + (f" and {len(labels) - 1} more" if len(labels) > 1 else "")
