"""Which files a fetch is about: pure, from a template or a named archive, symbols and days.

{symbol} {bar}            as given
{date:%Y-%m-%d}           a file a day; the format is strftime's and may be left out
{month:%Y-%m} {year:%Y}   a file a month or a year, or a part of the path above its days
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from string import Formatter
from typing import Literal
from urllib.parse import quote, urlsplit

from atc_backtest.errors import ConfigError, DataError
from atc_backtest.stores.base import parse_bar

PERIODS = {"date": "%Y-%m-%d", "month": "%Y-%m", "year": "%Y"}
"""Placeholders of time with their formats, the finest first: the finest in a template is its step."""

BINANCE = "https://data.binance.vision/data/{market}/{step}/klines/{{symbol}}/{{bar}}/{{symbol}}-{{bar}}-{period}.zip"
PRESETS = {
    name: tuple(
        BINANCE.format(market=market, step=step, period=period)
        for step, period in (("monthly", "{month:%Y-%m}"), ("daily", "{date:%Y-%m-%d}"))
    )
    for name, market in (("binance-spot", "spot"), ("binance-um", "futures/um"))
}
"""Named archives: templates of their monthly and their daily files, each with a checksum file beside it."""

PRESET_CHECKSUM = ".CHECKSUM"

Every = Literal["auto", "month", "day"]


@dataclass(frozen=True)
class Job:
    """One file: where it is and its name in the folder. `instead`: asked for where this one is not there."""

    url: str
    name: str
    symbol: str | None = None
    instead: tuple[Job, ...] = ()


@dataclass(frozen=True)
class Template:
    """A text with placeholders, split; `ConfigError` for an unknown one."""

    text: str

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in (*PERIODS, "symbol", "bar"):
                known = ", ".join(f"{{{one}}}" for one in ("symbol", "bar", *PERIODS))
                raise ConfigError(f"{{{name}}} in {self.text!r} is no placeholder: {known} are.")

    @property
    def _pieces(self) -> list[tuple[str, str | None, str]]:
        try:
            return [(text, name, how or "") for text, name, how, _ in Formatter().parse(self.text)]
        except ValueError as error:
            raise ConfigError(f"{self.text!r} is no template ({error}): write e.g. {{symbol}}-{{date}}.csv.") from error

    @property
    def names(self) -> set[str]:
        return {name for _, name, _ in self._pieces if name is not None}

    @property
    def step(self) -> str | None:
        """The finest placeholder of time; None where there is none."""
        return next((name for name in PERIODS if name in self.names), None)

    def fill(self, values: dict[str, str], day: date | None) -> str:
        filled = ""
        for text, name, how in self._pieces:
            filled += text
            if name in PERIODS and day is not None:
                filled += day.strftime(how or PERIODS[name])
            elif name is not None:
                filled += values[name]
        return filled

    def pattern(self, values: dict[str, str]) -> str | None:
        """A regular expression whose one group is the symbol, for names without endings; None without one."""
        if "symbol" not in self.names:
            return None
        found, seen = "^", False
        for text, name, _ in self._pieces:
            found += re.escape(text)
            if name == "symbol":
                found += "(?:.+?)" if seen else "(.+?)"
                seen = True
            elif name is not None:
                found += re.escape(values[name]) if name in values else ".+?"
        stem = re.sub(r"(\\\.(csv|gz|zip|parquet|feather|arrow|json))+$", "", found, flags=re.IGNORECASE)
        return stem + "$"


@dataclass(frozen=True)
class Plan:
    """Files by symbol, then by time, made one by one; `len` counts them without those of `instead`."""

    url: Template
    name: Template
    symbols: tuple[str, ...]
    days: tuple[date, ...]
    bar: str | None
    checksum: str | None = None
    then: tuple[Plan, ...] = ()
    """Plans for the same symbols, after these files."""
    fallback: tuple[tuple[date, Plan], ...] = ()
    """Days of this plan, and the plan instead where the file of that day is not there."""

    def __len__(self) -> int:
        return self._own() + sum(len(plan) for plan in self.then)

    def _own(self) -> int:
        return max(len(self.symbols), 1) * (len(self.days) if self.url.step else 1)

    def __iter__(self) -> Iterator[Job]:
        for symbol in self.symbols or (None,):
            yield from self.of(symbol)

    def of(self, symbol: str | None) -> Iterator[Job]:
        """The files of one symbol."""
        instead = dict(self.fallback)
        for day in self.days if self.url.step else (None,):
            other = instead.get(day) if day else None
            yield Job(
                self.url.fill(self._values(symbol, in_url=True), day),
                self.name.fill(self._values(symbol, in_url=False), day),
                symbol,
                () if other is None else tuple(other.of(symbol)),
            )
        for plan in self.then:
            yield from plan.of(symbol)

    def _values(self, symbol: str | None, *, in_url: bool) -> dict[str, str]:
        values = {} if self.bar is None else {"bar": self.bar}
        return values if symbol is None else values | {"symbol": quote(symbol, safe="") if in_url else plain(symbol)}

    @property
    def symbol_pattern(self) -> str | None:
        """What ingest's `symbol_pattern` is for these names; None where names hold no symbol."""
        return self.name.pattern(self._values(None, in_url=False))


def plan_files(
    archive: str,
    symbols: Sequence[str] = (),
    days: tuple[date, date] | None = None,
    bar: str | None = None,
    name: str | None = None,
    every: Every = "auto",
) -> Plan:
    """The files of `archive`, a preset's name or a URL template, for `symbols` and the days from first to last.

    A preset's whole months are monthly files, other days daily ones, by `every` = auto; where the last
    whole month is not there yet its days are asked for. `name`: the template of files' names, by default
    the end of the URL that has every placeholder. `ConfigError` for what does not fit together.
    """
    if days is not None and days[0] > days[1]:
        raise ConfigError(f"the first day, {days[0]}, is after the last, {days[1]}: exchange them.")
    if bar is not None:
        parse_bar(bar)
    symbols = tuple(dict.fromkeys(symbols))
    if archive not in PRESETS:
        if every != "auto":
            raise ConfigError(
                "every is for presets: a template's own {date} or {month} says how often there is a file."
            )
        return _planned(archive, symbols, days, bar, name, None)
    if name is not None:
        raise ConfigError("name is for URL templates: a preset's files keep the archive's names.")
    if not symbols or days is None or bar is None:
        raise ConfigError(f"{archive} needs symbols, a bar size and the first and last day.")
    monthly, daily = (_planned(url, symbols, days, bar, None, PRESET_CHECKSUM) for url in PRESETS[archive])
    if every != "auto":
        return monthly if every == "month" else daily
    whole = tuple(month for month in monthly.days if month >= days[0] and _end(month) <= days[1])
    rest = tuple(day for day in daily.days if day.replace(day=1) not in whole)
    daily = _with(daily, rest)
    if not whole:
        return daily
    last = _with(daily, tuple(_steps("date", whole[-1], _end(whole[-1]))))
    then = (daily,) if rest else ()
    return Plan(monthly.url, monthly.name, symbols, whole, bar, PRESET_CHECKSUM, then, ((whole[-1], last),))


def _planned(
    archive: str,
    symbols: tuple[str, ...],
    days: tuple[date, date] | None,
    bar: str | None,
    name: str | None,
    checksum: str | None,
) -> Plan:
    parts = urlsplit(archive)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        presets = ", ".join(PRESETS)
        raise ConfigError(f"{archive!r} is neither a preset ({presets}) nor a URL template starting with http(s)://.")
    url = Template(archive)
    given = {"symbol": bool(symbols), "bar": bar is not None} | dict.fromkeys(PERIODS, days is not None)
    for one in sorted(url.names):
        if not given[one]:
            raise ConfigError(f"{archive!r} has {{{one}}}: {_remedy(one)}.")
    if symbols and "symbol" not in url.names:
        raise ConfigError(f"{archive!r} has no {{symbol}}, so that every symbol would be the same file.")
    names = Template(name if name is not None else _end_of_path(parts.path, url))
    steps = () if days is None or url.step is None else tuple(_steps(url.step, *days))
    _check_names(names, url, symbols, steps)
    return Plan(url, names, symbols, steps, bar, checksum)


def _remedy(name: str) -> str:
    return {"symbol": "give symbols", "bar": "give a bar size, e.g. 1m"}.get(name, "give the first and last day")


def _end_of_path(path: str, url: Template) -> str:
    """The shortest end of the path that tells files apart: {symbol}/{date}.csv becomes {symbol}_{date}.csv."""
    wanted = url.names & {"symbol", url.step}
    parts = [part for part in path.split("/") if part]
    for n in range(1, len(parts) + 1):
        end = "_".join(parts[-n:])
        if wanted <= Template(end).names:
            return end
    raise ConfigError(f"{url.text!r} has no path that names its files: give a name, e.g. {{symbol}}-{{date}}.csv.")


def _check_names(names: Template, url: Template, symbols: tuple[str, ...], days: tuple[date, ...]) -> None:
    """`ConfigError` where two files would have one name, or a name is none."""
    if not names.names <= url.names:
        raise ConfigError(f"the name {names.text!r} has placeholders that {url.text!r} has not.")
    if not (url.names & {"symbol", url.step}) <= names.names:
        raise ConfigError(f"the name {names.text!r} lacks placeholders of {url.text!r}: files would share a name.")
    sample = names.fill({"symbol": "S", "bar": "1m"}, days[0] if days else None)
    if "/" in sample or sample.startswith(".") or not sample:
        raise ConfigError(f"{sample!r} is no file name: it has no slash and does not begin with a dot.")
    alike: dict[str, str] = {}
    for symbol in symbols:
        other = alike.setdefault(plain(symbol), symbol)
        if other != symbol:
            raise ConfigError(f"symbols {other} and {symbol} would share a file: fetch them into different folders.")
    values = {"symbol": "S", "bar": "1m"}
    for template in (url, names):
        if len({template.fill(values, day) for day in days}) < len(days):
            raise ConfigError(f"{template.text!r} is the same for several days: its time's format is too coarse.")


def plain(symbol: str) -> str:
    """A symbol as files' names have it: BTC/USDT:USDT to BTC-USDT-USDT."""
    return re.sub(r"[^\w.+=@^&$-]", "-", symbol).lstrip(".") or "-"


def _with(plan: Plan, days: tuple[date, ...]) -> Plan:
    return Plan(plan.url, plan.name, plan.symbols, days, plan.bar, plan.checksum)


def _steps(step: str, first: date, last: date) -> Iterator[date]:
    """The first day of every period that has a day of the range."""
    day = first if step == "date" else first.replace(day=1) if step == "month" else first.replace(month=1, day=1)
    while day <= last:
        yield day
        day = day + timedelta(1) if step == "date" else _end(day) + timedelta(1) if step == "month" else _next_year(day)


def _next_year(day: date) -> date:
    return day.replace(year=day.year + 1)


def _end(month: date) -> date:
    return month.replace(day=calendar.monthrange(month.year, month.month)[1])


def parse_day(text: str, *, last: bool = False) -> date:
    """`2024-03-31`, or `2024-03` for its first day, or its last. `ConfigError` otherwise."""
    try:
        if re.fullmatch(r"\d{4}-\d{2}", text):
            day = date.fromisoformat(f"{text}-01")
            return _end(day) if last else day
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise ConfigError(f"{text!r} is no day: write 2024-03-31, or 2024-03 for a month.")


def read_symbols(path: Path) -> list[str]:
    """Symbols from a file, one a line; `#` begins a comment. `DataError` when there is none."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a list of symbols ({error}): write one a line.") from error
    symbols = [symbol for symbol in (line.partition("#")[0].strip() for line in lines) if symbol]
    if not symbols:
        raise DataError(f"{path} names no symbol: write one a line.")
    return symbols
