"""The ingest from end to end: look at all sources, spool rows by symbol, clean each symbol, write blocks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from atc_backtest.errors import DataError
from atc_backtest.stores.base import format_bar
from atc_backtest.stores.ingest.cleaning import Series, clean, off_grid
from atc_backtest.stores.ingest.columns import listed
from atc_backtest.stores.ingest.options import IngestOptions
from atc_backtest.stores.ingest.reading import Progress, Reading
from atc_backtest.stores.ingest.report import DROPPING, IngestReport, SymbolReport
from atc_backtest.stores.ingest.sources import Found, Source, each_source
from atc_backtest.stores.ingest.spool import Spool, rows_folder
from atc_backtest.stores.ingest.tables import Table, check_one_symbol, common_fields, notes_on, open_table
from atc_backtest.stores.ingest.writing import shared_axis, write_blocks
from atc_backtest.stores.ingest.zones import Zone
from atc_backtest.stores.zarr_store import check_free, new_store


def ingest(
    sources: Iterable[Path], store: Path, options: IngestOptions | None = None, progress: Progress | None = None
) -> IngestReport:
    """Read `sources` into a new store at `store`, by the rules of the package's docstring.

    Memory: a batch a thread, or one symbol's times and their order, or one block of bars, beside the shared
    time axis. Rows wait in a temporary folder beside the store, which is gone when this returns or raises.

    Raises `DataError` for sources that cannot be read or are refused, `StoreError` when `store` is in the
    way or cannot be written. Nothing is at `store` before all of it is.
    """
    began = time.perf_counter()
    options = options or IngestOptions()
    check_free(store, options.overwrite)  # before the work, not after it
    with gathered(sources, store, options, progress) as found:
        axis = shared_axis(found.series, found.spool.dtype)
        with new_store(
            store,
            bar_ns=found.bar_ns,
            calendar=options.calendar,
            fields=found.fields,
            symbols=[one.name for one in found.series],
            ts=axis,
            overwrite=options.overwrite,
            codec=options.codec,
            volume_bits=options.volume_bits,
        ) as writer:
            write_blocks(writer, found.series, axis, found.fields, found.spool.dtype)
    seconds = time.perf_counter() - began
    symbols, notes = found.symbols, tuple(found.notes)
    return IngestReport(
        store, found.bar_ns, options.calendar, found.fields, int(axis.size), symbols, notes, found.files, seconds
    )


@dataclass(frozen=True)
class Gathered:
    """Sources as cleaned series of one bar size, their rows in files of `spool`; `symbols`: what became of all."""

    fields: tuple[str, ...]
    bar_ns: int
    series: Sequence[Series]
    spool: Spool
    symbols: tuple[SymbolReport, ...]
    notes: list[str]
    files: int


@contextmanager
def gathered(
    sources: Iterable[Path],
    store: Path,
    options: IngestOptions,
    progress: Progress | None,
    fields: Sequence[str] | None = None,
    few_rows: int = 0,
) -> Iterator[Gathered]:
    """Read and clean `sources` in a folder beside `store`, which is gone afterwards.

    fields      to read, where all sources must have them; None: those that all have
    few_rows    a symbol of so many rows, or fewer, goes with `options.bar` where its steps are whole bars
    """
    zone = None if options.tz is None else Zone(options.tz)
    found = Found()
    tables: list[Table] = []
    arriving = _opened(each_source(sources, found), tables, options, zone, fields or ())
    if isinstance(sources, Sequence):  # all are here: looked at before the first is read, so that refusals come early
        arriving = iter(list(arriving))
    with rows_folder(store) as folder:
        first = next(arriving)
        shared = common_fields(tables)
        later = (_checked(table, shared) for table in arriving)
        coming: Iterable[Table] = tables if isinstance(sources, Sequence) else chain([first], later)
        one = _Pass(coming, fields or shared, folder / "1", options, zone, few_rows, progress)
        reports, sizes = {symbol.name: symbol for symbol in one.symbols}, one.sizes
        kept = one.tables_of_series()
        if (
            fields is None and common_fields(kept) != one.fields
        ):  # a symbol that is left out may not cost others a field
            one.spool.clear()
            one = _Pass(kept, common_fields(kept), folder / "2", options, zone, few_rows, progress)
            reports |= {symbol.name: symbol for symbol in one.symbols}
            sizes = {**sizes, **one.sizes}
        symbols = tuple(reports[name] for name in sorted(reports))
        notes = notes_on(one.tables, one.fields, found.skipped) + _left_out(symbols, sizes, one.bar_ns)
        yield Gathered(one.fields, one.bar_ns, one.series, one.spool, symbols, notes, len(tables))


def _opened(
    sources: Iterable[Source], tables: list[Table], options: IngestOptions, zone: Zone | None, fields: Sequence[str]
) -> Iterator[Table]:
    for source in sources:
        tables.append(open_table(source, options, zone))
        check_one_symbol(tables, options)
        yield _checked(tables[-1], fields)


def _checked(table: Table, fields: Sequence[str]) -> Table:
    _check_fields(table, fields)
    return table


def _check_fields(table: Table, fields: Sequence[str]) -> None:
    lacking = [name for name in fields if name not in table.layout.values]
    if lacking:
        raise DataError(
            f"{table.label} has no {listed(lacking)}, which the store has for every symbol: name the column with "
            f"--column {lacking[0]}=NAME, or leave the file out."
        )


class _Pass:
    """Tables read with some fields, and cleaned."""

    def __init__(
        self,
        tables: Iterable[Table],
        fields: Sequence[str],
        folder: Path,
        options: IngestOptions,
        zone: Zone | None,
        few_rows: int,
        progress: Progress | None,
    ) -> None:
        folder.mkdir()
        self.tables: list[Table] = []
        self.fields = tuple(fields)
        self.spool = Spool(folder, len(fields))
        if isinstance(tables, Sequence):
            self.tables.extend(tables)
        coming = self.tables if isinstance(tables, Sequence) else self._kept(tables)
        self._reading = Reading(coming, fields, self.spool, options)
        n_rows = self._reading.run(progress)
        if not self.spool.codes:
            raise DataError(
                f"none of the {n_rows} rows of {listed([table.label for table in self.tables], 3)} could be kept: "
                "run with --strict to see why the first one is dropped."
            )
        self.sizes: Mapping[str, int | None] = {}
        everything = self._clean(zone, options)
        self.bar_ns = _bar_size(everything, options, zone, few_rows, self.spool.dtype)
        self.series = [one for one in everything if _fits(one, self.bar_ns, zone, few_rows, self.spool.dtype)]
        self._count(everything, zone)
        self.symbols = self._reports()

    def _kept(self, tables: Iterable[Table]) -> Iterator[Table]:
        """The same, kept as they come."""
        for table in tables:
            self.tables.append(table)
            yield table

    def _clean(self, zone: Zone | None, options: IngestOptions) -> list[Series]:
        """Every symbol's series, by name."""
        clock = zone if any(table.time.zone is not None for table in self.tables) else None
        names, tally = self._reading.names, self._reading.tally
        everything = []
        for code in sorted(self.spool.codes, key=names.__getitem__):
            series, counts = clean(names[code], self.spool.path(code), self.spool.dtype, clock, options.strict)
            for rule, n in counts.items():
                tally.count(rule, code, n)
            everything.append(series)
        return everything

    def _count(self, everything: Sequence[Series], zone: Zone | None) -> None:
        tally, kept = self._reading.tally, {one.name for one in self.series}
        self.sizes = {one.name: one.bar_ns for one in everything if one.name not in kept}
        for one in everything:
            code = self._reading.names.code(one.name)
            if one.name in kept:
                tally.count("off_grid", code, off_grid(one, self.spool.dtype, self.bar_ns, zone))
            else:
                tally.count("other_bar", code, one.n)

    def tables_of_series(self) -> list[Table]:
        """Those that had rows of a symbol that is kept."""
        kept = np.array([self._reading.names.code(one.name) for one in self.series], dtype=np.int64)
        return [
            table
            for table, codes in zip(self.tables, self._reading.symbols_of, strict=True)
            if np.isin(codes, kept).any()
        ]

    def _reports(self) -> tuple[SymbolReport, ...]:
        span = {one.name: (one.first_ns, one.last_ns) for one in self.series}
        names, tally = self._reading.names, self._reading.tally
        reports = []
        for code in tally.seen().tolist():
            counts = tally.rules_of(code)
            read = counts.pop("rows_read")
            kept = read - sum(counts.get(rule, 0) for rule in DROPPING)
            first, last = span.get(names[code], (None, None))
            reports.append(SymbolReport(names[code], read, kept, first, last, **counts))
        return tuple(sorted(reports, key=lambda symbol: symbol.name))


def _fits(one: Series, bar_ns: int, zone: Zone | None, few_rows: int, dtype: np.dtype[np.void]) -> bool:
    if one.bar_ns in (None, bar_ns):
        return True
    return one.n <= few_rows and off_grid(one, dtype, bar_ns, zone) == 0


def _bar_size(
    series: Sequence[Series], options: IngestOptions, zone: Zone | None, few_rows: int, dtype: np.dtype[np.void]
) -> int:
    """The bar size of the store. A symbol with a single row has none and goes with the others."""
    by_size: dict[int, list[str]] = {}
    for one in series:
        if options.bar is not None and one.bar_ns is not None and _fits(one, options.bar, zone, few_rows, dtype):
            by_size.setdefault(options.bar, []).append(one.name)
        elif one.bar_ns is not None:
            by_size.setdefault(one.bar_ns, []).append(one.name)
    found = "; ".join(f"{format_bar(size)}: {listed(names, 8)}" for size, names in sorted(by_size.items()))
    if options.bar is None:
        if not by_size:
            names = listed([one.name for one in series], 8)
            raise DataError(f"{names}: one row each tells no bar size: give it, e.g. --bar 1d.")
        if len(by_size) > 1:
            largest = max(by_size, key=lambda size: (len(by_size[size]), -size))
            raise DataError(
                f"a store has one bar size, the symbols have several: {found}. Take those of one with e.g. "
                f"--bar {format_bar(largest)}; the others are left out then and can go into a store of their own."
            )
        return next(iter(by_size))
    if by_size and options.bar not in by_size:
        raise DataError(f"no symbol has bars of {format_bar(options.bar)}: {found}. Give --bar one of these.")
    if options.strict and len(by_size) > 1:
        raise DataError(
            f"the symbols have several bar sizes: {found}. Give only sources of one, or run without --strict to have "
            f"all but those of {format_bar(options.bar)} left out."
        )
    return options.bar


def _left_out(symbols: Sequence[SymbolReport], sizes: Mapping[str, int | None], bar_ns: int) -> list[str]:
    """What is said about symbols that are not in the store."""
    notes = []
    other = [f"{symbol.name} ({format_bar(sizes[symbol.name] or bar_ns)})" for symbol in symbols if symbol.other_bar]
    if other:
        notes.append(f"left out, for their bars are not of {format_bar(bar_ns)}: {listed(other)}")
    empty = [symbol.name for symbol in symbols if not symbol.rows_kept and not symbol.other_bar]
    if empty:
        notes.append(f"left out, for none of their rows could be kept: {listed(empty)}")
    return notes
