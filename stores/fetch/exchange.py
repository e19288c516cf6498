"""Recent bars through ccxt's async exchanges, a CSV file a symbol: closed bars only, each once, in order.

    SYMBOL-BAR.csv      time (ms since the epoch, UTC, bar open), open, high, low, close, volume

A file that is there is gone on with from its last bar; a symbol whose bars end before or begin after what
is asked for keeps what there is.
"""

from __future__ import annotations

import asyncio
import math
import random
import shutil
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, TextIO

from atc_backtest.errors import ConfigError, DataError, UnavailableError
from atc_backtest.stores.base import format_bar, parse_bar
from atc_backtest.stores.fetch.options import Fetched, FetchOptions, FetchReport
from atc_backtest.stores.fetch.partial import only_one, sync, writing
from atc_backtest.stores.fetch.templates import plain

HEADER = "time,open,high,low,close,volume"
PAGE_BARS = 100
"""Asked for at a time where ccxt does not know how many the exchange gives: more than it gives would skip bars."""

TAIL_BYTES = 1 << 12


class Exchange(Protocol):
    """What is used of a ccxt exchange: `ccxt.async_support.binance()` and its like are some."""

    async def fetch_ohlcv(
        self, symbol: str, timeframe: str, since: int | None, limit: int | None
    ) -> list[list[float | None]]: ...

    def milliseconds(self) -> int: ...


@dataclass(frozen=True)
class Bars:
    """Which bars: open times in [since_ms, until_ms), of `bar_ms` each."""

    bar_ms: int
    since_ms: int
    until_ms: int | None = None
    page: int = PAGE_BARS

    @property
    def timeframe(self) -> str:
        return format_bar(self.bar_ms * 10**6)


def open_exchange(name: str) -> tuple[Any, tuple[type[Exception], ...]]:
    """An exchange of ccxt, rate-limited by it, and the errors after which it is asked again.

    Close it with `await exchange.close()`. `UnavailableError` without ccxt, `ConfigError` for an unknown name.
    """
    try:
        import ccxt.async_support as ccxt
    except ImportError as error:
        raise UnavailableError("bars of an exchange need ccxt: pip install 'atc-backtest[ccxt]'") from error
    if name not in ccxt.exchanges:
        near = [known for known in ccxt.exchanges if known.startswith(name[:3])]
        hint = f"; near are {', '.join(near)}" if near else ""
        raise ConfigError(f"exchange {name!r} is not one that ccxt {ccxt.__version__} knows{hint}.")
    exchange = getattr(ccxt, name)({"enableRateLimit": True})
    return exchange, (ccxt.NetworkError,)


async def pages(
    exchange: Exchange, symbol: str, bars: Bars, options: FetchOptions, transient: tuple[type[Exception], ...]
) -> AsyncIterator[list[list[float | None]]]:
    """Closed bars of a symbol from `since_ms` on, page by page: each once, ascending.

    A page without a new bar is a span without trades, or one before the listing: the next one is asked for,
    until now. A bar counts as closed when it had ended before it was asked for.
    """
    cursor = bars.since_ms
    while True:
        now = exchange.milliseconds()
        end = now if bars.until_ms is None else min(now, bars.until_ms)
        if cursor >= end or cursor + bars.bar_ms > now:
            return
        rows = await _asked(exchange, symbol, bars, cursor, options, transient)
        known = {int(row[0]): row for row in rows if row and row[0] is not None}  # the last of repeated ones
        new = [known[at] for at in sorted(known) if cursor <= at < end and at + bars.bar_ms <= now]
        if new:
            yield new
            cursor = int(new[-1][0] or 0) + bars.bar_ms
        elif any(at >= cursor for at in known):  # only bars that are not closed, or behind the end
            return
        else:
            cursor += bars.page * bars.bar_ms


async def _asked(
    exchange: Exchange,
    symbol: str,
    bars: Bars,
    cursor: int,
    options: FetchOptions,
    transient: tuple[type[Exception], ...],
) -> list[list[float | None]]:
    again: tuple[type[Exception], ...] = (TimeoutError, *transient)
    for turn in range(options.retries + 1):
        try:
            async with asyncio.timeout(options.timeout_s):
                return await exchange.fetch_ohlcv(symbol, bars.timeframe, cursor, bars.page) or []
        except again as error:
            if turn == options.retries:
                said = str(error) or type(error).__name__
                raise DataError(f"{symbol}: the exchange failed {turn + 1} times, last: {said}") from error
            longest = min(options.backoff_s * 2.0**turn, options.most_wait_s)
            await asyncio.sleep(longest * random.uniform(0.5, 1))
    return []


async def fetch_bars(
    exchange: Exchange,
    symbols: Sequence[str],
    bars: Bars,
    folder: Path,
    options: FetchOptions | None = None,
    transient: tuple[type[Exception], ...] = (),
    progress: Callable[[int, int], None] | None = None,
) -> FetchReport:
    """Bars of every symbol into `folder`; a symbol that fails leaves the others alone.

    Memory: a page a symbol that is being asked for. `progress` is called with symbols done and bars so far.
    """
    options = options or FetchOptions()
    began = time.perf_counter()
    places = asyncio.Semaphore(options.concurrency)
    done = {"symbols": 0, "bars": 0}

    def count(n_bars: int, n_symbols: int) -> None:
        done["symbols"] += n_symbols
        done["bars"] += n_bars
        if progress is not None:
            progress(done["symbols"], done["bars"])

    async def one(symbol: str) -> Fetched:
        async with places:
            result = await _one(exchange, symbol, bars, folder, options, transient, lambda n: count(n, 0))
        count(0, 1)
        return result

    with only_one(folder):
        tasks = [asyncio.create_task(one(symbol)) for symbol in dict.fromkeys(symbols)]
        try:
            results = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        sync(folder)
    report = FetchReport(
        folder,
        fetched=sum(file.status == "fetched" for file in results),
        skipped=sum(file.status == "skipped" for file in results),
        resumed=sum(file.resumed for file in results),
        n_bytes=sum(file.n_bytes for file in results),
        seconds=time.perf_counter() - began,
    )
    return replace(
        report,
        missing=tuple(file.name for file in results if file.status == "missing"),
        failed=tuple(file for file in results if file.status == "failed"),
        notes=tuple(f"{file.url}: {file.reason}" for file in results if file.status == "fetched" and file.reason),
    )


async def _one(
    exchange: Exchange,
    symbol: str,
    bars: Bars,
    folder: Path,
    options: FetchOptions,
    transient: tuple[type[Exception], ...],
    count: Callable[[int], None],
) -> Fetched:
    final = folder / file_name(symbol, bars)
    part = folder / f".{final.name}.part"
    result = Fetched(final.name, symbol, "missing")
    with writing(final):
        try:
            last = _last_bar(final, bars.since_ms)
        except DataError as error:
            return replace(result, status="failed", reason=str(error))
        if last is None:
            part.write_text(HEADER + "\n", encoding="ascii")
        else:
            shutil.copyfile(final, part)
            bars = replace(bars, since_ms=max(bars.since_ms, last + bars.bar_ms))
        before, n_bars, first = part.stat().st_size, 0, 0
        try:
            with part.open("a", encoding="ascii") as file:
                async for rows in pages(exchange, symbol, bars, options, transient):
                    first = first or int(rows[0][0] or 0)
                    _write(file, rows)
                    n_bars += len(rows)
                    count(len(rows))
        except OSError:
            raise
        except Exception as error:  # whatever an exchange raises is about this symbol alone
            part.unlink()
            return replace(result, status="failed", reason=str(error) or type(error).__name__)
        if not n_bars:
            part.unlink()
            return result if last is None else replace(result, status="skipped", path=final)
        sync(part)
        n_bytes = part.stat().st_size - before
        part.replace(final)
    late = first - bars.since_ms >= bars.page * bars.bar_ms
    note = (
        f"the exchange's bars begin at {datetime.fromtimestamp(first / 1000, UTC):%Y-%m-%d %H:%M} UTC" if late else ""
    )
    return replace(result, status="fetched", path=final, n_bytes=n_bytes, resumed=last is not None, reason=note)


def _write(file: TextIO, rows: list[list[float | None]]) -> None:
    for row in rows:
        values = (math.nan if value is None else float(value) for value in row[1:6])
        file.write(f"{int(row[0] or 0)}," + ",".join("" if math.isnan(v) else repr(v) for v in values) + "\n")


def _last_bar(path: Path, since_ms: int) -> int | None:
    """The open time of a file's last bar; None where there is no file, or it begins after `since_ms` was asked for."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.readline().strip()
        first = file.readline().partition(b",")[0]
        file.seek(max(path.stat().st_size - TAIL_BYTES, 0))
        last = file.read().rstrip().rpartition(b"\n")[2].partition(b",")[0]
    if head != HEADER.encode() or not (first.isdigit() and last.isdigit()):
        raise DataError(f"{path} is not a file of bars that fetch wrote: move it away, or fetch into another folder.")
    return int(last) if int(first) <= since_ms else None


@dataclass(frozen=True)
class BarsPlan:
    """Bars of an exchange: what `plan_files` is for archives."""

    exchange: str
    symbols: tuple[str, ...]
    bars: Bars

    checksum = None

    def __len__(self) -> int:
        return len(self.symbols)

    @property
    def symbol_pattern(self) -> str:
        """What ingest's `symbol_pattern` is for these names."""
        return f"^(.+)-{self.bars.timeframe}$"

    @property
    def names(self) -> list[str]:
        return [file_name(symbol, self.bars) for symbol in self.symbols]


def file_name(symbol: str, bars: Bars) -> str:
    return f"{plain(symbol)}-{bars.timeframe}.csv"


def plan_bars(
    exchange: str, symbols: Sequence[str], bar: str | None, first: date | None, last: date | None
) -> BarsPlan:
    """Bars from the start of day `first` (UTC) to the end of `last`, or until now. `ConfigError` where one lacks."""
    if not symbols or bar is None or first is None:
        raise ConfigError(f"bars of {exchange} need symbols, a bar size and the first day: --symbols, --bar, --since.")
    bar_ns = parse_bar(bar)
    if bar_ns % 10**6:
        raise ConfigError(f"bar size {bar} is finer than an exchange's milliseconds.")
    if last is not None and last < first:
        raise ConfigError(f"the first day, {first}, is after the last, {last}: exchange them.")
    symbols = tuple(dict.fromkeys(symbols))
    if len({plain(symbol) for symbol in symbols}) < len(symbols):
        raise ConfigError("two of the symbols would share a file: fetch them into different folders.")
    until = None if last is None else _day_ms(last + timedelta(1))
    return BarsPlan(exchange, symbols, Bars(bar_ns // 10**6, _day_ms(first), until))


def _day_ms(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000


def fetch_from(
    plan: BarsPlan,
    folder: Path,
    options: FetchOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FetchReport:
    """`fetch_bars` from ccxt's exchange of that name. `ConfigError` for a bar size that it has not."""

    async def run() -> FetchReport:
        exchange, transient = open_exchange(plan.exchange)
        bars = plan.bars
        try:
            sizes = exchange.timeframes or {}
            if bars.timeframe not in sizes:
                known = ", ".join(sizes) or "none"
                raise ConfigError(f"{plan.exchange} has no bars of {bars.timeframe}: it has {known}.")
            await exchange.load_markets()
            page = exchange.feature_value(plan.symbols[0], "fetchOHLCV", "limit")
            paged = replace(bars, page=int(page or bars.page))
            return await fetch_bars(exchange, plan.symbols, paged, folder, options, transient, progress)
        except transient as error:
            raise DataError(f"{plan.exchange} cannot be reached: {error}") from error
        finally:
            await exchange.close()

    return asyncio.run(run())
