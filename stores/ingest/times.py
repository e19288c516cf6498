"""Time columns of every kind to int64 nanoseconds UTC; the kind is decided once a file and said aloud."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from atc_backtest.errors import DataError
from atc_backtest.stores.base import I64
from atc_backtest.stores.ingest.dates import DateForm, forms_of
from atc_backtest.stores.ingest.zones import NEVER_NS, Zone

UNITS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
FROM = {"s": 10**8, "ms": 10**11, "us": 10**14, "ns": 10**17}
"""Smallest epoch number taken for each unit: each begins in March 1973, and ends where the next one does."""

NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")
ISO = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d(:?\d\d(:?\d\d([.,]\d+)?)?)?)?(?P<offset> ?(Z|UTC|GMT|[+-]\d\d(:?\d\d)?))?")
COMPACT = re.compile(r"(19[789]|20\d)\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])([01]\d|2[0-3])[0-5]\d")
"""yyyymmddHHMM, which is also a number of milliseconds."""
ALLOWED = (
    "allowed are epoch numbers in s, ms, us or ns from 1973 on, ISO 8601 text such as 2024-01-31 or "
    "2024-01-31T09:30:00+01:00, Arrow timestamps and dates, and what --date-format tells"
)


@dataclass(frozen=True)
class TimeColumn:
    """How the times of one file are read.

    kind   epoch (numbers of `unit`), instant (text or timestamps with an offset) or local (without)
    zone   the clock that local times show; None where they are instants
    form   how local times are written where that is not ISO 8601
    """

    label: str
    name: str
    kind: str
    unit: str | None
    zone: Zone | None
    form: DateForm | None = None

    @property
    def csv_type(self) -> pa.DataType | None:
        """The type that a CSV reader may parse them to at once, where it can; text otherwise."""
        if self.form is not None:
            return None
        if self.kind == "epoch":
            return pa.int64()
        return pa.timestamp("ns", None if self.kind == "local" else "UTC")

    def to_ns(self, column: pa.Array) -> tuple[I64, NDArray[np.bool_] | None]:
        """Open times, and which of them exist (None: all); the others are local times that the clocks skipped.

        A local time that comes twice is taken for the earlier instant. `DataError` for an empty time, one of
        another kind than the file's first, or one beyond the years 1677 to 2262.
        """
        column = trimmed(column)
        if column.null_count:
            raise DataError(f"{self.label}: column {self.name!r} has a row without a time: mend or remove that row.")
        try:
            ns = self._epoch(column) if self.kind == "epoch" else self._timestamps(column)
        except pa.ArrowException as error:
            raise DataError(
                f"{self.label}: column {self.name!r} mixes kinds of times or holds one that is none ({error}); "
                f"{ALLOWED}: one kind a file."
            ) from error
        if self.zone is None or ns.size == 0:
            return ns, None
        utc, exists = self.zone.clock(ns).to_utc(ns)
        return utc, None if exists.all() else exists

    def said(self) -> str:
        """The note for the report, the same for all files that are read the same way."""
        clock = None if self.zone is None else f"on the clock of {self.zone.name}"
        if self.unit is not None:
            return f"column {self.name!r}: epoch numbers in {UNIT_NAMES[self.unit]}, {clock or 'UTC'}"
        form = "" if self.form is None else f", read as {self.form.text}"
        return f"column {self.name!r}: times {f'without an offset, {clock}' if clock else 'with their offset'}{form}"

    def _epoch(self, column: pa.Array) -> I64:
        if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type) or _has_fractions(column):
            values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
            self._check_magnitude(values)
            return _from_floats(values, UNITS[self.unit or "ns"])
        numbers = column.cast(pa.int64()).to_numpy(zero_copy_only=False)
        self._check_magnitude(numbers)
        return np.asarray(numbers * UNITS[self.unit or "ns"], dtype=np.int64)

    def _check_magnitude(self, values: NDArray[np.generic]) -> None:
        low, high = _range(self.unit or "ns")
        other = ~((values >= low) & (values < high))  # type: ignore[operator]
        if other.any():
            raise DataError(
                f"{self.label}: column {self.name!r} counts {UNIT_NAMES[self.unit or 'ns']} in its first row and has "
                f"{values[int(np.argmax(other))]} later, which are not: one unit a file; {ALLOWED}."
            )

    def _timestamps(self, column: pa.Array) -> I64:
        if self.form is not None:
            text = column if _is_text(column.type) else column.cast(pa.string())
            return self.form.to_ns(text, self.label, self.name)
        target = pa.timestamp("ns", None if self.kind == "local" else "UTC")
        if _is_text(column.type) and self.kind == "instant":
            column = pc.replace_substring_regex(column, " ?(Z|UTC|GMT)$", "Z")
        if pa.types.is_date(column.type):
            column = column.cast(pa.timestamp("s"))
        return np.asarray(column.cast(target).cast(pa.int64()).to_numpy(zero_copy_only=False), dtype=np.int64)


def time_column(
    column: pa.Array, name: str, label: str, zone: Zone | None, wall_clock: bool, form: DateForm | None
) -> TimeColumn | list[DateForm]:
    """Decides by the type, or by the first value, of a file's time column; `form` is the user's.

    Two forms where day and month may stand either way round. `DataError` for what is no time, and for times
    without an offset where no zone is given.
    """
    column = trimmed(column)
    first = column[0].as_py() if len(column) and column[0].is_valid else None
    if first is None:
        raise DataError(f"{label}: column {name!r} has no time in its first row: mend the file, or leave it out.")
    if form is not None and (_is_text(column.type) or pa.types.is_integer(column.type)):
        return local_column(label, name, zone, form, str(first))
    kind = _kind(column.type, first)
    if kind is None and (forms := forms_of(str(first)) if _is_text(column.type) else []):
        return forms if len(forms) > 1 else local_column(label, name, zone, forms[0], str(first))
    if kind is None:
        raise DataError(
            f"{label}: column {name!r} holds {first!r} ({column.type}), not a time; {ALLOWED}. "
            "Name another column with --column ts=NAME."
        )
    if kind == "epoch":
        unit = _unit(float(first))
        if unit is None:
            hint = " Dates without separators: --date-format %Y%m%d." if re.fullmatch(r"\d{8}", str(first)) else ""
            raise DataError(f"{label}: column {name!r} holds {first}, which is no epoch number; {ALLOWED}.{hint}")
        if COMPACT.fullmatch(str(first)):
            raise DataError(
                f"{label}: column {name!r} holds {first}, a date and time without separators (as milliseconds it would "
                f"lie in 1976); {ALLOWED}. Name its form, --date-format %Y%m%d%H%M, or write it as ISO 8601."
            )
        return TimeColumn(label, name, kind, unit, zone if wall_clock else None)
    if kind == "local":
        return local_column(label, name, zone, None, str(first))
    return TimeColumn(label, name, kind, None, None)


def local_column(label: str, name: str, zone: Zone | None, form: DateForm | None, example: str) -> TimeColumn:
    """Times without an offset; `DataError` where no zone is given."""
    if zone is None:
        raise DataError(
            f"{label}: column {name!r} has times without a zone, e.g. {example}: name it, "
            "e.g. --tz UTC or --tz America/New_York."
        )
    return TimeColumn(label, name, "local", None, zone, form)


def _kind(of: pa.DataType, first: object) -> str | None:
    if pa.types.is_timestamp(of):
        return "local" if of.tz is None else "instant"
    if pa.types.is_date(of):
        return "local"
    if pa.types.is_integer(of) or pa.types.is_floating(of) or pa.types.is_decimal(of):
        return "epoch"
    if not _is_text(of):
        return None
    if NUMBER.fullmatch(str(first)):
        return "epoch"
    iso = ISO.fullmatch(str(first))
    return None if iso is None else "local" if iso["offset"] is None else "instant"


def _unit(first: float) -> str | None:
    return next((unit for unit in FROM if _range(unit)[0] <= first < _range(unit)[1]), None)


def _range(unit: str) -> tuple[int, int]:
    """Epoch numbers [low, high) of a unit; int64 nanoseconds end in 2262."""
    return FROM[unit], min(FROM[unit] * 1000, NEVER_NS // UNITS[unit])


def _is_text(of: pa.DataType) -> bool:
    return bool(pa.types.is_string(of) or pa.types.is_large_string(of))


def joined(date: pa.Array, clock: pa.Array) -> pa.Array:
    """A date and a time of day from two columns as one text."""
    parts = [trimmed(part if _is_text(part.type) else part.cast(pa.string())) for part in (date, clock)]
    return pc.binary_join_element_wise(*(part.cast(pa.string()) for part in parts), " ")


def trimmed(column: pa.Array) -> pa.Array:
    """Text without blanks around it, nothing where nothing is left; other types as they are."""
    if not _is_text(column.type):
        return column
    text = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, text.type), text)


def _has_fractions(column: pa.Array) -> bool:
    return _is_text(column.type) and bool(pc.any(pc.match_substring_regex(column, "[.eE]")).as_py())


def _from_floats(values: NDArray[np.float64], unit_ns: int) -> I64:
    """Whole units exactly, the rest to a microsecond: a float64 of today's seconds knows no more."""
    whole = np.floor(values)
    step = min(unit_ns, 1000)
    rest = np.rint((values - whole) * (unit_ns // step)).astype(np.int64) * step
    return np.asarray(whole.astype(np.int64) * unit_ns + rest, dtype=np.int64)
