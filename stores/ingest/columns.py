"""Which column is what: recognised by name in any case and spelling, or named by the user."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from atc_backtest.errors import DataError
from atc_backtest.stores.base import FIELDS

NAMES = {
    "ts": (
        "ts time timestamp date datetime t opentime opendate opentimestamp bartime bardate starttime startdate start "
        "begin windowstart periodstart unix unixtime unixtimestamp epoch utc timeutc dateutc datetimeutc timestamputc "
        "gmttime localtime tradingday tradedate"
    ),
    "symbol": "symbol sym ticker instrument asset pair code name tradingsymbol",
    "open": "open o openprice priceopen pxopen",
    "high": "high h highprice pricehigh pxhigh max",
    "low": "low l lowprice pricelow pxlow min",
    "close": "close c closeprice priceclose pxclose last",
    "volume": "volume v vol qty quantity tickvolume basevolume",
}
"""Field -> names it goes by, without case, spaces and signs. An adjusted close is none of them: name it."""

TIME_UNITS = ("ns", "us", "ms", "s")
"""May end the name of a time: `timestamp_ms`."""

DATE_NAMES = ("date", "day", "dt", "tradingday", "tradedate")
CLOCK_NAMES = ("time", "t", "timeofday", "bartime")
"""One of each, side by side, are a date and its time of day, if their first row agrees."""


@dataclass(frozen=True)
class Layout:
    """Positions of the columns that are read; `values` in the order of `FIELDS`, `close` always among them.

    clock   the column of the time of day where `ts` holds the date alone
    named   the user named both, so that no row need agree
    """

    ts: int
    symbol: int | None
    values: Mapping[str, int]
    clock: int | None = None
    named: bool = False

    def used(self) -> set[int]:
        return {self.ts, *self.values.values()} | {i for i in (self.symbol, self.clock) if i is not None}


def recognise(columns: Sequence[str], overrides: Mapping[str, str], label: str) -> Layout:
    """The layout of a table with these `columns`; overrides: field -> name of its column.

    `DataError` without a time or a close, when two columns could be one field, or an override is not there.
    """
    at = {field: _named(columns, name, field, label) for field, name in overrides.items() if field != "ts"}
    clock = None
    if "ts" in overrides:
        name = overrides["ts"]
        parts = [name] if name in columns or name.count("+") != 1 else name.split("+")
        at["ts"], *others = (_named(columns, part, "ts", label) for part in parts)
        clock = others[0] if others else None
    taken = {*at.values(), *(() if clock is None else (clock,))}
    for field in NAMES:
        if field not in at:
            found = [i for i, name in enumerate(columns) if i not in taken and _is(field, name)]
            if field == "ts" and len(found) == 2 and (pair := _date_and_clock(columns, found)):
                at[field], clock = pair
            elif len(found) > 1:
                raise ambiguous(columns, found, field, label)
            elif found:
                at[field] = found[0]
    for field in ("ts", "close"):
        if field not in at:
            known = "ts, time, timestamp, date, datetime, open_time" if field == "ts" else "close, c, close_price"
            raise DataError(
                f"{label}: no column is recognised as {field}; the columns are {listed(columns)}. "
                f"Known names are {known} and alike; name another with --column {field}=NAME."
            )
    values = {field: at[field] for field in FIELDS if field in at}
    return Layout(at["ts"], at.get("symbol"), values, clock, "ts" in overrides)


def ambiguous(columns: Sequence[str], found: Sequence[int], field: str, label: str) -> DataError:
    """Several columns could be one field."""
    names = " and ".join(repr(columns[i]) for i in found)
    return DataError(
        f"{label}: the columns {names} could all be {field}: choose one, e.g. --column {field}={columns[found[0]]!r}."
    )


def _date_and_clock(columns: Sequence[str], found: Sequence[int]) -> tuple[int, int] | None:
    dates = [i for i in found if _plain(columns[i]) in DATE_NAMES]
    clocks = [i for i in found if _plain(columns[i]) in CLOCK_NAMES]
    return (dates[0], clocks[0]) if dates and clocks else None


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names as a sentence takes them, at most so many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())


def _is(field: str, name: str) -> bool:
    plain = _plain(name)
    known = NAMES[field].split()
    if plain in known:
        return True
    return field == "ts" and any(plain.endswith(unit) and plain.removesuffix(unit) in known for unit in TIME_UNITS)


def _named(columns: Sequence[str], name: str, field: str, label: str) -> int:
    exact = [i for i, column in enumerate(columns) if column == name]
    found = exact or [i for i, column in enumerate(columns) if column.lower() == name.lower()]
    if len(found) != 1:
        there = "is not there" if not found else f"is there {len(found)} times"
        raise DataError(f"{label}: the column {name!r} for {field} {there}; the columns are {listed(columns)}.")
    return found[0]
