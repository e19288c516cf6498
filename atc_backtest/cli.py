"""The command line: parses, builds a configuration, makes one call. Heavy imports wait in commands.

Exit codes: 0 done; 1 internal error; 2 usage; 3 data or configuration refused, or a verified run that differs;
4 partial, some partitions failed and were set aside; 130 interrupted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from atc_backtest import __version__
from atc_backtest.guard import INTERRUPTED, PARTIAL, REFUSED, guarded
from atc_backtest.store_cli import Json, StoreArgument, store_app

app = typer.Typer(
    name="atc-backtest",
    help="Backtest Adaptive Trend Classification over data larger than memory: ingest, backtest, report.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help appears in half the time
    pretty_exceptions_enable=False,
)
app.add_typer(store_app, name="store")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"atc-backtest {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Backtest Adaptive Trend Classification over data larger than memory: ingest, backtest, report."""


Sources = Annotated[
    list[Path],
    typer.Argument(
        help="Files or folders: CSV (.gz, .zip), Parquet, Feather, JSON; data of Binance, freqtrade, Lean.",
        metavar="SRC...",
    ),
]
Tz = Annotated[str | None, typer.Option(help="Zone of naive timestamps, e.g. UTC or America/New_York.")]
WallClock = Annotated[bool, typer.Option("--wall-clock", help="Epoch numbers are wall-clock times in --tz.")]
DateFormat = Annotated[
    str | None, typer.Option(help="How naive times are written, by strptime's signs, e.g. '%d/%m/%Y %H:%M'.")
]
DecimalComma = Annotated[bool, typer.Option("--decimal-comma", help="Commas in numbers are decimal, not thousands.")]
Column = Annotated[
    list[str] | None,
    typer.Option(help="Override a column: field=name, e.g. close=adj_close or ts=Date+Time.", metavar="F=NAME"),
]
Symbol = Annotated[str | None, typer.Option(help="The symbol's name, for a single file without one.")]
SymbolPattern = Annotated[
    str | None, typer.Option(help="Regular expression whose one group is the symbol in a file's name.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse instead of dropping or mending rows.")]
Kernel = Annotated[str, typer.Option(help="auto, rust, numba or reference: the same bits.", envvar="ATC_KERNEL")]
Threads = Annotated[int | None, typer.Option(help="Threads of this process. Default: one per core.")]
Workers = Annotated[int | None, typer.Option(help="Run on a local Dask cluster of N processes instead.")]
Scheduler = Annotated[str | None, typer.Option(help="Run on an existing Dask cluster: tcp://host:port.")]
RunFolder = Annotated[Path, typer.Argument(help="The run's folder.", metavar="RUN")]
ReadThreads = Annotated[int | None, typer.Option(help="Files read at a time. Default: one per core, at most 8.")]


@app.command()
@guarded
def ingest(
    sources: Sources,
    store: Annotated[Path, typer.Option(help="The store to make.")],
    tz: Tz = None,
    wall_clock: WallClock = False,
    date_format: DateFormat = None,
    decimal_comma: DecimalComma = False,
    column: Column = None,
    symbol: Symbol = None,
    symbol_pattern: SymbolPattern = None,
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
    from atc_backtest import display
    from atc_backtest.metrics import DAY_NS, bars_per_year
    from atc_backtest.stores import ingest as ingesting
    from atc_backtest.stores.base import parse_bar

    bars_per_year(DAY_NS, calendar)  # a calendar that no run could use is refused now
    options = ingesting.IngestOptions(
        tz=tz,
        wall_clock=wall_clock,
        date_format=date_format,
        decimal_comma=decimal_comma,
        columns=_pairs("--column", column or []),
        symbol=symbol,
        symbol_pattern=symbol_pattern,
        bar=None if bar is None else parse_bar(bar),
        calendar=calendar,
        strict=strict,
        codec=codec,
        volume_bits=volume_bits,
        overwrite=overwrite,
        threads=threads,
    )
    with display.ingest_progress() as show:
        report = ingesting.ingest(sources, store, options, show)
    display.show_ingest(report, as_json)


@app.command()
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
    from atc_backtest import display, fetch_display
    from atc_backtest.stores import fetch as fetching
    from atc_backtest.stores import ingest as ingesting
    from atc_backtest.stores.base import parse_bar

    listed = [*_words(symbols), *([] if symbols_from is None else fetching.read_symbols(symbols_from))]
    asked = fetching.plan(archive, exchange, listed, bar, start, end, name, every)
    options = fetching.FetchOptions(concurrency, timeout, retries=retries, checksum=checksum or asked.checksum)
    kept = ingesting.IngestOptions(
        symbol_pattern=asked.symbol_pattern,
        bar=None if bar is None else parse_bar(bar),
        calendar=calendar,
        overwrite=overwrite,
    )
    with display.units_progress("fetching", len(asked), "bars" if exchange else "B") as show:
        report, ingested = fetching.run(asked, out, options, show, store, kept)
    fetch_display.show_fetch(report, as_json, ingested)
    if not report.ok:
        raise typer.Exit(REFUSED)


@app.command()
@guarded
def append(
    sources: Sources,
    store: Annotated[Path, typer.Option(help="The store to add to.")],
    correct: Annotated[
        bool, typer.Option("--correct", help="Where bars disagree, write the sources' over the store's.")
    ] = False,
    tz: Tz = None,
    wall_clock: WallClock = False,
    date_format: DateFormat = None,
    decimal_comma: DecimalComma = False,
    column: Column = None,
    symbol: Symbol = None,
    symbol_pattern: SymbolPattern = None,
    strict: Strict = False,
    threads: ReadThreads = None,
    as_json: Json = False,
) -> None:
    """Add to a store what price files have and it lacks: later bars, new symbols, bars it misses.

    Bars that it has already must agree; where they do not, they are shown and nothing is written.
    """
    from atc_backtest import display
    from atc_backtest.stores import ingest as ingesting

    options = ingesting.IngestOptions(
        tz=tz,
        wall_clock=wall_clock,
        date_format=date_format,
        decimal_comma=decimal_comma,
        columns=_pairs("--column", column or []),
        symbol=symbol,
        symbol_pattern=symbol_pattern,
        strict=strict,
        threads=threads,
    )
    with display.ingest_progress() as show:
        report = ingesting.append(sources, store, options, correct, show)
    display.show_append(report, as_json)


@app.command()
@guarded
def backtest(
    store: StoreArgument,
    out: Annotated[Path | None, typer.Option(help="The run's folder. Default: runs/<store>.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML with [atc], [execution] and [run].")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any setting, over file and environment: lengths.ema=30.", metavar="NAME=VALUE"),
    ] = None,
    profile: Annotated[str | None, typer.Option(help="enhance or pine.")] = None,
    fill: Annotated[str | None, typer.Option(help="auto, next_open, next_close or close.")] = None,
    fee_bps: Annotated[float | None, typer.Option(help="Fee per side, basis points of traded value.")] = None,
    slippage_bps: Annotated[float | None, typer.Option(help="Slippage per side, basis points.")] = None,
    shorts: Annotated[bool | None, typer.Option("--shorts/--no-shorts", help="Also hold short positions.")] = None,
    eval_start: Annotated[str | None, typer.Option(help="First bar that counts, ISO date; earlier ones teach.")] = None,
    symbols: Annotated[str | None, typer.Option(help="Only these, separated by commas.")] = None,
    save: Annotated[str | None, typer.Option(help="Series to keep: signals,equity,trades.")] = None,
    kernel: Kernel = "auto",
    threads: Threads = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    memory_limit: Annotated[
        str | None, typer.Option(help="Memory of all processes together, e.g. 1GB.", envvar="ATC_MEMORY_LIMIT")
    ] = None,
    retries: Annotated[int, typer.Option(help="Further tries at a partition whose error may pass.")] = 2,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run if it exists.")] = False,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Print the resolved configuration as TOML and leave.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print how the run would be cut and leave.")] = False,
    as_json: Json = False,
) -> None:
    """Run the indicator and its backtest over a store; figures and saved series go to Parquet."""
    from atc_backtest.config import resolve

    named = {"profile": profile, "fill": fill, "fee_bps": fee_bps, "slippage_bps": slippage_bps, "shorts": shorts}
    named |= {"eval_start": eval_start}
    flags = {name: _as_toml(value) for name, value in named.items() if value is not None}
    run_config = resolve(config, flags | _pairs("--set", settings or []))
    if show_config:
        print(run_config.to_toml(), end="")
        return

    from atc_backtest import display, run_display
    from atc_backtest.pipelines import backtest as running
    from atc_backtest.pipelines.plan import parse_bytes
    from atc_backtest.stores.opening import stem

    options = running.Options(
        kernel=kernel,
        symbols=None if symbols is None else tuple(_words(symbols)),
        save=tuple(_words(save or "")),
        workers=workers,
        scheduler=scheduler,
        threads=threads,
        memory_limit=None if memory_limit is None else parse_bytes(memory_limit),
        retries=retries,
        overwrite=overwrite,
        resume=resume,
    )
    folder = Path("runs") / stem(store) if out is None else out
    if plan:
        display.show_plan(running.prepare(store, folder, [run_config], options), as_json)
        return
    try:
        with display.run_progress() as shown:
            run = running.backtest(store, folder, [run_config], options, shown.progress)
    except KeyboardInterrupt:
        run_display.show_interrupted(folder)
        raise typer.Exit(INTERRUPTED) from None
    run_display.show_run(run, shown, as_json)
    if run.state != "complete":
        raise typer.Exit(PARTIAL)


@app.command()
@guarded
def report(
    run: RunFolder,
    sort: Annotated[str, typer.Option(help="Column to sort by.")] = "sharpe",
    ascending: Annotated[bool, typer.Option("--ascending", help="Smallest first.")] = False,
    limit: Annotated[int | None, typer.Option(help="Rows to print. Default: 40 in a table, else all.")] = None,
    as_json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print all columns as CSV.")] = False,
) -> None:
    """Print a run's figures: a sorted table, or every column as JSON or CSV."""
    if as_json and csv:
        raise typer.BadParameter("give one of --json and --csv")
    from atc_backtest import display
    from atc_backtest.pipelines import report as reporting
    from atc_backtest.pipelines.runs import open_run

    opened = open_run(run)
    if limit is None and not (as_json or csv):
        limit = 40
    table = reporting.report_table(opened, reporting.Selection(sort, ascending, limit))
    if as_json:
        display.print_json(reporting.to_json(opened, table))
    elif csv:
        print(reporting.to_csv(table), end="")
    else:
        display.show_report(opened, table, sort)


@app.command()
@guarded
def verify(
    run: RunFolder,
    sample: Annotated[float, typer.Option(help="Share of the pairs of symbol and set to recompute, above 0.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Which pairs a sample takes.")] = 0,
    kernel: Kernel = "auto",
    threads: Threads = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Check a run: every part as it was committed, its rows bit for bit as they are computed again.

    Prints what differs and exits with 3.
    """
    from atc_backtest import display, run_display
    from atc_backtest.pipelines import verify as verifying
    from atc_backtest.pipelines.backtest import Options
    from atc_backtest.pipelines.runs import open_run

    opened = open_run(run)
    options = Options(kernel=kernel, threads=threads, workers=workers, scheduler=scheduler)
    with display.counting_progress("verifying", "partitions") as show:
        found = verifying.verify(opened, sample, seed, options, show)
    run_display.show_verification(opened, found, as_json)
    if not found.ok:
        raise typer.Exit(REFUSED)


@app.command()
@guarded
def doctor(as_json: Json = False) -> None:
    """Tell what this installation has, what is missing, and the command that brings it."""
    from atc_backtest import display
    from atc_backtest.diagnosis import diagnose

    display.show_diagnosis(diagnose(), as_json)


def _pairs(option: str, texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise typer.BadParameter(f"{option} {text!r}: write NAME=VALUE")
        pairs[name.strip()] = value.strip()
    return pairs


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _as_toml(value: Any) -> str:
    return json.dumps(value)


def main() -> None:
    """The entry point of `atc-backtest`."""
    app()
