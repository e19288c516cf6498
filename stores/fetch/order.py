"""What a user asks for in words, as a plan; and the plan carried out, into a folder and on into a store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from atc_backtest.errors import ConfigError
from atc_backtest.stores.fetch.driver import Progress, fetch, fetch_into
from atc_backtest.stores.fetch.exchange import BarsPlan, fetch_from, plan_bars
from atc_backtest.stores.fetch.options import FetchOptions, FetchReport
from atc_backtest.stores.fetch.templates import Every, Plan, parse_day, plan_files
from atc_backtest.stores.ingest import IngestOptions, IngestReport, ingest
from atc_backtest.stores.zarr_store import check_free


def plan(
    archive: str | None,
    exchange: str | None,
    symbols: Sequence[str],
    bar: str | None,
    start: str | None,
    end: str | None,
    name: str | None = None,
    every: str = "auto",
) -> Plan | BarsPlan:
    """Files of `archive`, or bars of `exchange`. `ConfigError` for what does not fit together."""
    first = None if start is None else parse_day(start)
    last = None if end is None else parse_day(end, last=True)
    if (archive is None) == (exchange is None):
        raise ConfigError("give an archive (a preset or a URL template) or an exchange (--exchange NAME): one of them.")
    if every not in ("auto", "month", "day"):
        raise ConfigError(f"every = {every!r} is not known: auto, month or day.")
    if exchange is not None:
        return plan_bars(exchange, symbols, bar, first, last)
    if (first is None) != (last is None):
        raise ConfigError("the first day and the last go together: give --start and --end.")
    days = None if first is None or last is None else (first, last)
    return plan_files(archive or "", symbols, days, bar, name, cast(Every, every))


def run(
    asked: Plan | BarsPlan,
    folder: Path,
    options: FetchOptions,
    progress: Progress | None = None,
    store: Path | None = None,
    ingest_options: IngestOptions | None = None,
) -> tuple[FetchReport, IngestReport | None]:
    """Carry out a plan; with `store`, what came goes into a new one, and nothing where something failed."""
    if store is not None:
        check_free(store, ingest_options is not None and ingest_options.overwrite)  # before the work, not after it

    def take(paths: Iterator[Path]) -> IngestReport:
        assert store is not None  # or nothing is taken
        return ingest(paths, store, ingest_options)

    if isinstance(asked, BarsPlan):
        report = fetch_from(asked, folder, options, progress)
        if store is None or not report.ok:
            return report, None
        return report, take(folder / name for name in asked.names if name not in report.missing)
    if store is None:
        return fetch(asked, folder, options, progress), None
    return fetch_into(asked, folder, take, options, progress)
