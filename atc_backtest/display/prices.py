"""What people see of prices: downloads, what came into a store, and invented ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from atc_backtest.display.terminal import Side, count, iso, print_json, print_table

if TYPE_CHECKING:
    from atc_backtest.stores.fetch import FetchReport
    from atc_backtest.stores.ingest import AppendReport, IngestReport, SymbolReport
    from atc_backtest.stores.synth import SynthReport

MISSING_SHOWN = 8
"""Files that are not there, named in a terminal."""


def show_fetch(report: FetchReport, as_json: bool, ingested: IngestReport | None = None) -> None:
    """What came, what is not there, what failed and why."""
    if as_json:
        print_json(report.to_dict() | ({} if ingested is None else {"ingest": ingested.to_dict()}))
        return
    for file in report.failed:
        print(f"failed   {file.name}: {file.reason} (tries: {file.tries}; {file.url})")
    if report.missing:
        more = "" if len(report.missing) <= MISSING_SHOWN else ", ... (all with --json)"
        print(f"missing  {len(report.missing):,}: {', '.join(report.missing[:MISSING_SHOWN])}{more}")
    for note in report.notes:
        print(f"note     {note}")
    resumed = f" ({report.resumed:,} gone on with)" if report.resumed else ""
    print(
        f"fetched  {report.fetched:,}{resumed}, skipped {report.skipped:,}, missing {len(report.missing):,}, "
        f"failed {len(report.failed):,}: {count(report.n_bytes)}B in {report.seconds:.2f} s into {report.folder}"
    )
    if not report.ok:
        print("next     the same command again: what is there is skipped" if report.failed else "none of them is there")
    elif ingested is None:
        print(f"next     atc-backtest ingest {report.folder} --store STORE")
    else:
        show_ingest(ingested, as_json)


def show_synth(report: SynthReport, as_json: bool) -> None:
    """What was made, and how fast."""
    from atc_backtest.stores.base import format_bar

    spec = report.spec
    if as_json:
        print_json(asdict(report) | {"store": str(report.store)})
        return
    bars = spec.n_symbols * spec.n_bars
    print(
        f"store  {report.store}: {spec.n_symbols:,} symbols x {spec.n_bars:,} bars of {format_bar(spec.bar_ns)}, "
        f"{', '.join(spec.fields)}; {report.n_present / bars:.1%} of the bars are there"
    )
    print(f"made   in {report.seconds:.2f} s ({count(bars / report.seconds)} bars/s), seed {spec.seed}")
    print(f"next   atc-backtest backtest {report.store}")


def show_ingest(report: IngestReport, as_json: bool) -> None:
    """What came in, symbol by symbol: a column for every rule that any row met, what was assumed, what is next."""
    from atc_backtest.stores.base import format_bar

    if as_json:
        print_json(report.to_dict())
        return
    _show_rows(report.symbols, [()] * len(report.symbols), ())
    for note in report.notes:
        print(f"note   {note}")
    rows = sum(symbol.rows_read for symbol in report.symbols)
    n_symbols = sum(symbol.rows_kept > 0 for symbol in report.symbols)
    files, symbols = ("" if n == 1 else "s" for n in (report.files, n_symbols))
    print(f"read   {rows:,} rows of {report.files} file{files} in {report.seconds:.2f} s")
    print(
        f"store  {report.store}: {n_symbols} symbol{symbols} x {report.n_bars:,} bars of {format_bar(report.bar_ns)}, "
        f"{', '.join(report.fields)}, calendar {report.calendar}"
    )
    print(f"next   atc-backtest backtest {report.store}")


def _show_rows(symbols: Sequence[SymbolReport], more: Sequence[Sequence[int]], headings: Sequence[str]) -> None:
    """A line a symbol: rows read and kept, every rule that any row met, `more` counts under `headings`, the span."""
    from atc_backtest.stores.ingest import DONE, RULES

    met = [rule for rule in RULES if any(getattr(symbol, rule) for symbol in symbols)]
    numbers = ("rows read", "kept", *(f"{RULES[rule]}: {DONE[rule]}" for rule in met), *headings)
    columns: dict[str, Side] = {"symbol": "left"}
    for name in numbers:
        columns[name] = "right"
    rows = []
    for symbol, others in zip(symbols, more, strict=True):
        counts = (symbol.rows_read, symbol.rows_kept, *(getattr(symbol, rule) for rule in met), *others)
        span = ("-" if ns is None else iso(ns) for ns in (symbol.first_ns, symbol.last_ns))
        rows.append((symbol.name, *(f"{count:,}" for count in counts), *span))
    print_table(columns | {"first (UTC)": "left", "last (UTC)": "left"}, rows)


def show_append(report: AppendReport, as_json: bool) -> None:
    """What came in, symbol by symbol, and of it what the store had, lacked, and had otherwise."""
    from atc_backtest.stores.base import format_bar

    if as_json:
        print_json(report.to_dict())
        return
    counts = [(one.identical, one.new, one.corrected) for one in report.symbols]
    _show_rows([one.rows for one in report.symbols], counts, ("identical", "new", "corrected"))
    for note in report.notes:
        print(f"note   {note}")
    rows = sum(one.rows.rows_read for one in report.symbols)
    print(f"read   {rows:,} rows of {report.files} file{'' if report.files == 1 else 's'} in {report.seconds:.2f} s")
    written = report.version > report.version_before
    print(
        f"store  {report.store}: {'' if written else 'nothing new, still '}version {report.version}, "
        f"{report.n_bars:,} bars of {format_bar(report.bar_ns)}"
    )
