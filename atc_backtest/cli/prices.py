"""The commands that bring prices: fetch, ingest, append."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from atc_backtest.cli.guard import REFUSED, guarded
from atc_backtest.cli.options import Json, grouped, pairs, words

Sources = Annotated[
    list[Path],
    typer.Argument(
        help="Files or folders: CSV (.gz, .zip), Parquet, Feather, JSON; data of Binance, freqtrade, Lean.",
        metavar="SRC...",
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse instead of dropping or mending rows.")]
ReadThreads = Annotated[int | None, typer.Option(help="Files read at a time. Default: one per core, at most 8.")]


@dataclass(frozen=True)
class Reading:
    """How files are to be read that do not say themselves; fields of `IngestOptions`."""

    tz: Annotated[str | None, typer.Option(help="Zone of naive timestamps, e.g. UTC or America/New_York.")] = None
    wall_clock: Annotated[bool, typer.Option("--wall-clock", help="Epoch numbers are wall-clock times in --tz.")] = (
        False
    )
    date_format: Annotated[
        str | None, typer.Option(help="How naive times are written, by strptime's signs, e.g. '%d/%m/%Y %H:%M'.")
    ] = None
    decimal_comma: Annotated[
        bool, typer.Option("--decimal-comma", help="Commas in numbers are decimal, not thousands.")
    ] = False
    column: Annotated[
        list[str] | None,
        typer.Option(help="Override a column: field=name, e.g. close=adj_close or ts=Date+Time.", metavar="F=NAME"),
    ] = None
    symbol: Annotated[str | None, typer.Option(help="The symbol's name, for a single file without one.")] = None
    symbol_pattern: Annotated[
        str | None, typer.Option(help="Regular expression whose one group is the symbol in a file's name.")
    ] = None

    def options(self) -> dict[str, Any]:
        """By the names of `IngestOptions`."""
        given = asdict(self)
        columns = pairs("--column", given.pop("column") or [])
        return given | {"columns": columns}


@guarded
@grouped
def ingest(
    sources: Sources,
    store: Annotated[Path, typer.Option(help="The store to make.")],
    *,
    how: Reading,
    bar: Annotated[str | None, typer.Option(help="Bar size to take when sources mix several, e.g. 1m, 1h, 1d.")] = None,
    calendar: Annotated[str, typer.Option(help="24/7, 24/5, XNYS or XNAS: how a year is counted.")] = "24/7",
    strict: Strict = False,
    codec: Annotated[str, typer.Option(help="How prices are packed, losslessly: blosc, pcodec or raw.")] = "blosc",
    volume_bits: Annotated[
        int | None, typer.Option(help="Lossy, volume only: round it to so many significant bits, 1 to 52.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the store if it exists.")] = False,
    threads: ReadThreads = None,
    as_json: Json = False,
) -> None:
    """Read price files into a store. Nothing is filled or invented; what was dropped is counted."""
    from atc_backtest.display import prices, terminal
    from atc_backtest.metrics import DAY_NS, bars_per_year
    from atc_backtest.stores import ingest as ingesting
    from atc_backtest.stores.base import parse_bar

    bars_per_year(DAY_NS, calendar)  # a calendar that no run could use is refused now
    options = ingesting.IngestOptions(
        **how.options(),
        bar=None if bar is None else parse_bar(bar),
        calendar=calendar,
        strict=strict,
        codec=codec,
        volume_bits=volume_bits,
        overwrite=overwrite,
        threads=threads,
    )
    with terminal.ingest_progress() as show:
        report = ingesting.ingest(sources, store, options, show)
    prices.show_ingest(report, as_json)


@guarded
def fetch(
    archive: Annotated[
        str | None,
        typer.Argument(help="binance-spot, binance-um, or a URL with {symbol}, {bar}, {date}, {month:%Y-%m}, {year}."),
    ] = None,
    exchange: Annotated[str | None, typer.Option(help="Recent bars of an exchange that ccxt knows instead.")] = None,
    symbols: Annotated[str, typer.Option(help="Separated by commas.")] = "",
    symbols_from: Annotated[Path | None, typer.Option(help="A file of them, one a line.")] = None,
    bar: Annotated[str | None, typer.Option(help="Bar size, e.g. 1m, 1h, 1d.")] = None,
    start: Annotated[str | None, typer.Option("--start", "--since", help="First day or month, UTC.")] = None,
    end: Annotated[str | None, typer.Option(help="Last day or month, included.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the files.")] = Path("fetched"),
    every: Annotated[str, typer.Option(help="A preset's files: auto, month or day.")] = "auto",
    name: Annotated[str | None, typer.Option(help="Template of the files' names, for a URL.")] = None,
    checksum: Annotated[str | None, typer.Option(help="Ending of SHA-256 files beside a URL's files.")] = None,
    concurrency: Annotated[int, typer.Option(help="Connections at most.")] = 8,
    timeout: Annotated[float, typer.Option(help="Seconds without a byte before another try.")] = 30.0,
    retries: Annotated[int, typer.Option(help="Further tries after the first.")] = 5,
    store: Annotated[Path | None, typer.Option(help="Ingest what came into a new store.")] = None,
    calendar: Annotated[str, typer.Option(help="The store's calendar.")] = "24/7",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the store if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Download price files, many at once; each is verified before it has its name, and a rerun goes on."""
    from atc_backtest.display import prices, terminal
    from atc_backtest.stores import fetch as fetching
    from atc_backtest.stores import ingest as ingesting
    from atc_backtest.stores.base import parse_bar

    listed = [*words(symbols), *([] if symbols_from is None else fetching.read_symbols(symbols_from))]
    asked = fetching.plan(archive, exchange, listed, bar, start, end, name, every)
    options = fetching.FetchOptions(concurrency, timeout, retries=retries, checksum=checksum or asked.checksum)
    kept = ingesting.IngestOptions(
        symbol_pattern=asked.symbol_pattern,
        bar=None if bar is None else parse_bar(bar),
        calendar=calendar,
        overwrite=overwrite,
    )
    with terminal.units_progress("fetching", len(asked), "bars" if exchange else "B") as show:
        report, ingested = fetching.run(asked, out, options, show, store, kept)
    prices.show_fetch(report, as_json, ingested)
    if not report.ok:
        raise typer.Exit(REFUSED)


@guarded
@grouped
def append(
    sources: Sources,
    store: Annotated[Path, typer.Option(help="The store to add to.")],
    correct: Annotated[
        bool, typer.Option("--correct", help="Where bars disagree, write the sources' over the store's.")
    ] = False,
    *,
    how: Reading,
    strict: Strict = False,
    threads: ReadThreads = None,
    as_json: Json = False,
) -> None:
    """Add to a store what price files have and it lacks: later bars, new symbols, bars it misses.

    Bars that it has already must agree; where they do not, they are shown and nothing is written.
    """
    from atc_backtest.display import prices, terminal
    from atc_backtest.stores import ingest as ingesting

    options = ingesting.IngestOptions(**how.options(), strict=strict, threads=threads)
    with terminal.ingest_progress() as show:
        report = ingesting.append(sources, store, options, correct, show)
    prices.show_append(report, as_json)
