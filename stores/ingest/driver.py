"""The ingest from end to end: look at all sources, spool rows by symbol, clean each symbol, write blocks."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from atc_backtest.errors import DataError
from atc_backtest.stores.base import format_bar
from atc_backtest.stores.ingest.cleaning import Series, clean, off_grid
from atc_backtest.stores.ingest.columns import listed
from atc_backtest.stores.ingest.options import IngestOptions
from atc_backtest.stores.ingest.report import DROPPING, IngestReport, SymbolReport
from atc_backtest.stores.ingest.rules import Tally, apply_rules
from atc_backtest.stores.ingest.sources import find_sources
from atc_backtest.stores.ingest.spool import Spool
from atc_backtest.stores.ingest.tables import Table, check_one_symbol, common_fields, notes_on, open_table
from atc_backtest.stores.ingest.writing import shared_axis, write_blocks
from atc_backtest.stores.ingest.zones import Zone
from atc_backtest.stores.zarr_store import check_free, new_store

Progress = Callable[[int, int, int], None]
"""Called with files done, files in all, and rows read so far."""


def ingest(
    sources: Sequence[Path], store: Path, options: IngestOptions | None = None, progress: Progress | None = None
) -> IngestReport:
    """Read `sources` into a new store at `store`, by the rules of the package's docstring.

    Memory: one batch, or one symbol's times and their order, or one block of bars, beside the shared time
    axis. Rows wait in a temporary folder beside the store, which is gone when this returns or raises.

    Raises `DataError` for sources that cannot be read or are refused, `StoreError` when `store` is in the
    way or cannot be written. Nothing is at `store` before all of it is.
    """
    began = time.perf_counter()
    options = options or IngestOptions()
    check_free(store, options.overwrite)  # before the work, not after it
    zone = None if options.tz is None else Zone(options.tz)
    tables = [open_table(source, options, zone) for source in find_sources(sources)]
    check_one_symbol(tables, options)
    fields = common_fields(tables)
    notes = notes_on(tables, fields)
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix=f".{store.name}.rows-", dir=_nearest_folder(store)) as folder:
        spool = Spool(Path(folder), len(fields))
        _spool_rows(tables, fields, spool, tally, options, progress)
        everything = _clean_all(tables, spool, tally, zone, options)
        bar_ns = _bar_size(everything, options)
        series = _of_size(everything, bar_ns, tally, notes)
        for one in series:
            tally[one.name]["off_grid"] = off_grid(one, spool.dtype, bar_ns, zone)
        axis = shared_axis(series, spool.dtype)
        with new_store(
            store,
            bar_ns=bar_ns,
            calendar=options.calendar,
            fields=fields,
            symbols=[one.name for one in series],
            ts=axis,
            overwrite=options.overwrite,
        ) as writer:
            write_blocks(writer, series, axis, fields, spool.dtype)
    symbols = _reports(tally, series)
    empty = [symbol.name for symbol in symbols if not symbol.rows_kept and not symbol.other_bar]
    if empty:
        notes.append(f"left out, for none of their rows could be kept: {listed(empty)}")
    seconds = time.perf_counter() - began
    return IngestReport(
        store, bar_ns, options.calendar, fields, int(axis.size), symbols, tuple(notes), len(tables), seconds
    )


def _nearest_folder(store: Path) -> Path:
    """The folder the store goes into, or the nearest above that exists: the same disk, nothing made yet."""
    return next(folder for folder in store.absolute().parents if folder.is_dir())


def _spool_rows(
    tables: Sequence[Table],
    fields: Sequence[str],
    spool: Spool,
    tally: Tally,
    options: IngestOptions,
    progress: Progress | None,
) -> None:
    n_rows = 0
    for done, table in enumerate(tables):
        where = table.label if options.strict else None
        for rows, exists, shown in table.rows(fields, options.batch_bytes):
            n_rows += rows.ts.size
            spool.add(apply_rules(rows, exists, shown, fields, tally, where))
            if progress is not None:
                progress(done, len(tables), n_rows)
    spool.flush()
    if progress is not None:
        progress(len(tables), len(tables), n_rows)
    if not spool.files:
        raise DataError(
            f"none of the {n_rows} rows of {listed([table.label for table in tables], 3)} could be kept: "
            "run with --strict to see why the first one is dropped."
        )


def _clean_all(
    tables: Sequence[Table], spool: Spool, tally: Tally, zone: Zone | None, options: IngestOptions
) -> list[Series]:
    """Every symbol's series, by name."""
    clock = zone if any(table.time.zone is not None for table in tables) else None
    everything = []
    for name in sorted(spool.files):
        series, counts = clean(name, spool.files[name], spool.dtype, clock, options.strict)
        tally[name].update(counts)
        everything.append(series)
    return everything


def _bar_size(series: Sequence[Series], options: IngestOptions) -> int:
    """The bar size of the store. A symbol with a single row has none and goes with the others."""
    by_size: dict[int, list[str]] = {}
    for one in series:
        if one.bar_ns is not None:
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


def _of_size(series: Sequence[Series], bar_ns: int, tally: Tally, notes: list[str]) -> list[Series]:
    left_out = [one for one in series if one.bar_ns not in (None, bar_ns)]
    for one in left_out:
        tally[one.name]["other_bar"] = one.n
    if left_out:
        named = listed([f"{one.name} ({format_bar(one.bar_ns or bar_ns)})" for one in left_out])
        notes.append(f"left out, for their bars are not of {format_bar(bar_ns)}: {named}")
    return [one for one in series if one.bar_ns in (None, bar_ns)]


def _reports(tally: Tally, series: Sequence[Series]) -> tuple[SymbolReport, ...]:
    span = {one.name: (one.first_ns, one.last_ns) for one in series}
    reports = []
    for name in sorted(tally):
        counts = dict(tally[name])
        read = counts.pop("rows_read")
        kept = read - sum(counts.get(rule, 0) for rule in DROPPING)
        first, last = span.get(name, (None, None))
        reports.append(SymbolReport(name, read, kept, first, last, **counts))
    return tuple(reports)
