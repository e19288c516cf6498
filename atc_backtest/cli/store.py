"""The commands of `atc-backtest store`: what a store holds, its versions, its soundness, its twins.

Exit codes as those of the other commands; `verify` also exits with 3 when it found damage.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atc_backtest.cli.guard import REFUSED, guarded
from atc_backtest.cli.options import Json, StoreArgument

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the store at DEST if there is one.")]

store_app = typer.Typer(help="Look at a price store and look after it.", no_args_is_help=True)


@store_app.command()
@guarded
def info(
    store: StoreArgument,
    version: Annotated[int | None, typer.Option(help="An earlier version that is kept.")] = None,
    as_json: Json = False,
) -> None:
    """Print what a store holds: fields, bar size, calendar, symbols with first and last bar."""
    from atc_backtest.display import stores
    from atc_backtest.stores.opening import open_store

    stores.show_info(open_store(store, version).info, as_json)


@store_app.command()
@guarded
def gaps(
    store: StoreArgument,
    symbol: Annotated[str, typer.Argument(help="The symbol.", metavar="SYMBOL")],
    calendar: Annotated[str | None, typer.Option(help="Another calendar than the store's, e.g. XLON.")] = None,
    limit: Annotated[int, typer.Option(help="Gaps to print, the longest ones.")] = 40,
    as_json: Json = False,
) -> None:
    """List the bars that the calendar expects and a symbol lacks."""
    from atc_backtest import calendars
    from atc_backtest.display import stores
    from atc_backtest.stores.opening import open_store, present_times

    opened = open_store(store)
    named = calendar or opened.info.calendar
    found = calendars.gaps(present_times(opened, symbol), opened.info.bar_ns, named)
    stores.show_gaps(symbol, named, found, limit, as_json)


@store_app.command()
@guarded
def history(store: StoreArgument, as_json: Json = False) -> None:
    """List every version: when it was committed, by what, and whether it can be gone back to."""
    from atc_backtest.display import stores
    from atc_backtest.stores import upkeep

    stores.show_history(upkeep.history(store), as_json)


@store_app.command()
@guarded
def rollback(
    store: StoreArgument,
    version: Annotated[int, typer.Argument(help="The version to go back to.", metavar="VERSION")],
    as_json: Json = False,
) -> None:
    """Make an earlier version's content the newest version. The way back is another rollback."""
    from atc_backtest.display import stores
    from atc_backtest.stores import upkeep

    stores.show_rollback(upkeep.rollback(store, version).info, version, as_json)


@store_app.command()
@guarded
def verify(store: StoreArgument, as_json: Json = False) -> None:
    """Check every byte of every kept version: checksums, codecs, order of times, counts. Exits with 3 on damage."""
    from atc_backtest.display import stores
    from atc_backtest.stores import verification

    with stores.progress("verifying", "objects") as show:
        found = verification.verify(store, show)
    stores.show_verification(found, as_json)
    if found.damage:
        raise typer.Exit(REFUSED)


@store_app.command()
@guarded
def compact(
    store: StoreArgument,
    keep: Annotated[
        int | None, typer.Option(help="Drop all but the last so many versions and free their space.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Move what was appended into the history's larger chunks; with --keep, drop old versions."""
    from atc_backtest.display import stores
    from atc_backtest.stores import upkeep

    stores.show_compaction(upkeep.compact(store, keep), as_json)


@store_app.command()
@guarded
def repair(
    store: StoreArgument,
    break_lock: Annotated[
        bool, typer.Option("--break-lock", help="Take the lock of a writer on another machine that is gone.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove what was never committed and bring back a damaged manifest. Nothing that is committed is touched."""
    from atc_backtest.display import stores
    from atc_backtest.stores import upkeep

    stores.show_repair(upkeep.repair(store, break_lock), as_json)


@store_app.command()
@guarded
def hot(
    store: StoreArgument,
    dest: Annotated[Path, typer.Argument(help="The folder to make.", metavar="DEST")],
    fields: Annotated[str | None, typer.Option(help="Only these, separated by commas; close always.")] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Decode a store into raw files that are mapped, for repeated runs: `backtest DEST`."""
    from atc_backtest.display import stores
    from atc_backtest.stores.memmap_store import heat
    from atc_backtest.stores.opening import open_store

    wanted = None if fields is None else [name.strip() for name in fields.split(",") if name.strip()]
    stores.show_made(heat(open_store(store), dest, wanted, overwrite).info, as_json)


@store_app.command()
@guarded
def copy(
    store: StoreArgument,
    dest: Annotated[str, typer.Argument(help="A folder or URL where nothing is yet.", metavar="DEST")],
    as_json: Json = False,
) -> None:
    """Copy a store's newest version, whole or not at all, to another folder or to an object store."""
    from atc_backtest.display import stores
    from atc_backtest.stores.copying import copy_store
    from atc_backtest.stores.opening import open_store

    with stores.progress("copying", "objects") as show:
        copy_store(store, dest, show)
    stores.show_made(open_store(dest).info, as_json)


@store_app.command()
@guarded
def synth(
    store: Annotated[Path, typer.Argument(help="The store to make.", metavar="STORE")],
    symbols: Annotated[int, typer.Option(help="How many.")],
    bars: Annotated[int, typer.Option(help="Bars of each.")],
    seed: Annotated[int, typer.Option(help="The same seed, the same prices.")],
    bar: Annotated[str, typer.Option(help="Bar size, e.g. 1m, 1h, 1d.")] = "1m",
    fields: Annotated[str, typer.Option(help="Separated by commas.")] = "open,high,low,close,volume",
    calendar: Annotated[str, typer.Option(help="The store's calendar.")] = "24/7",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the store if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Make a store of invented prices of any size: seeded, on ticks, with gaps, listings and delistings."""
    from atc_backtest.display import prices, terminal
    from atc_backtest.stores import synth as making
    from atc_backtest.stores.base import parse_bar

    spec = making.SynthSpec(symbols, bars, seed, parse_bar(bar), making.parse_fields(fields))
    with terminal.units_progress("making prices", symbols, "cells") as show:
        report = making.synth(store, spec, calendar=calendar, overwrite=overwrite, progress=show)
    prices.show_synth(report, as_json)
