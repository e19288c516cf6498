"""Rules that look at one row: what is dropped, mended or only counted, while batches pass."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from atc_backtest.errors import DataError
from atc_backtest.stores.base import F64, I64

Mask = NDArray[np.bool_]
REMEDY = "mend the source, or run without --strict to have such rows counted and"


class Names:
    """Every symbol met, by number. Any thread may ask; numbers depend on who came first, nothing else does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._codes: dict[str, int] = {}
        self._names: list[str] = []

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, code: int) -> str:
        return self._names[code]

    def code(self, name: str) -> int:
        """The number of a symbol, a new one for a new symbol."""
        with self._lock:
            code = self._codes.setdefault(name, len(self._names))
            if code == len(self._names):
                self._names.append(name)
            return code


@dataclass(frozen=True)
class Rows:
    """Rows of one batch in the order read: codes[i] is the number in `names` of the symbol of row i.

    ts int64 [n] ns UTC; values: a float64 [n] for each field, NaN = empty.
    """

    names: Names
    codes: I64
    ts: I64
    values: Sequence[F64]

    def kept(self, keep: Mask) -> Rows:
        values = [column[keep] for column in self.values]
        return replace(self, codes=self.codes[keep], ts=self.ts[keep], values=values)


class Tally:
    """Counts per rule and symbol."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self._counts: dict[str, I64] = {}

    def add(self, rule: str, codes: I64) -> None:
        """One more for the symbol of each of `codes`."""
        if codes.size:
            self._plus(rule, np.bincount(codes))

    def count(self, rule: str, code: int, n: int) -> None:
        if n:
            counts = np.zeros(code + 1, dtype=np.int64)
            counts[code] = n
            self._plus(rule, counts)

    def take(self, other: Tally) -> None:
        """Add what another one counted."""
        for rule, counts in other._counts.items():
            self._plus(rule, counts)

    def rules_of(self, code: int) -> dict[str, int]:
        """The counters of one symbol that are not zero."""
        held = {rule: int(counts[code]) for rule, counts in self._counts.items() if code < counts.size}
        return {rule: n for rule, n in held.items() if n}

    def seen(self) -> I64:
        """Numbers of the symbols that had a row."""
        return np.flatnonzero(self._counts.get("rows_read", np.empty(0, dtype=np.int64)))

    def _plus(self, rule: str, counts: NDArray[np.integer]) -> None:
        held = self._counts.get(rule)
        if held is None or held.size < counts.size:
            grown = np.zeros(max(counts.size, len(self.names)), dtype=np.int64)
            grown[: 0 if held is None else held.size] = 0 if held is None else held
            held = self._counts[rule] = grown
        held[: counts.size] += counts


def show_time(ns: int) -> str:
    """A time as errors show it."""
    return str(np.datetime64(ns, "ns")).removesuffix(".000000000").replace("T", " ") + " UTC"


def apply_rules(
    rows: Rows, exists: Mask | None, shown: Sequence[object], fields: Sequence[str], tally: Tally, where: str | None
) -> Rows:
    """The rows that stay, bad volumes made NaN; every rule counted in `tally`.

    exists  False where a local time was skipped by the clocks, None where all exist; `shown` holds the times as
            the file has them.
    where   the file's name when strict: `DataError` for the first row that would be dropped or mended.
    """
    tally.add("rows_read", rows.codes)
    at = dict(zip(fields, rows.values, strict=True))
    bad = np.zeros(rows.ts.size, dtype=np.bool_)
    for name, column in at.items():
        if name != "volume":
            bad |= ~((column > 0) & (column < np.inf))
    drops = {} if exists is None else {"nonexistent_time": ~exists}
    drops["bad_price"] = bad
    if "high" in at and "low" in at:
        drops["high_below_low"] = at["high"] < at["low"]
    keep = None
    for rule, hit in drops.items():
        if not hit.any():
            continue
        hit = hit if keep is None else hit & keep
        if where is not None and hit.any():
            row = int(np.argmax(hit))
            when = f"{shown[row]} local time" if rule == "nonexistent_time" else show_time(int(rows.ts[row]))
            raise DataError(_refusal(rule, where, rows, row, when, fields))
        tally.add(rule, rows.codes[hit])
        keep = ~hit if keep is None else keep & ~hit
    rows = rows if keep is None else rows.kept(keep)
    at = dict(zip(fields, rows.values, strict=True))
    if "volume" in at:
        rows = _mend_volume(rows, list(fields).index("volume"), tally, where)
    outside = _outside(at)
    if outside is not None:
        tally.add("outside_range", rows.codes[outside])
    return rows


def _mend_volume(rows: Rows, place: int, tally: Tally, where: str | None) -> Rows:
    volume = rows.values[place]
    bad = (volume < 0) | np.isinf(volume)
    if not bad.any():
        return rows
    if where is not None:
        row = int(np.argmax(bad))
        raise DataError(
            f"{where}: {rows.names[rows.codes[row]]} at {show_time(int(rows.ts[row]))} has volume {volume[row]}, "
            f"which is negative or not finite: {REMEDY} their volume made missing."
        )
    tally.add("bad_volume", rows.codes[bad])
    mended = np.where(bad, np.nan, volume)
    return replace(rows, values=[mended if i == place else column for i, column in enumerate(rows.values)])


def _outside(at: dict[str, F64]) -> Mask | None:
    """Rows whose open or close lies outside [low, high]; None where no two fields can say."""
    found: Mask | None = None
    for name in ("open", "close"):
        for edge, beyond in (("high", np.greater), ("low", np.less)):
            if name in at and edge in at:
                hit = beyond(at[name], at[edge])
                found = hit if found is None else found | hit
    return found


def _refusal(rule: str, where: str, rows: Rows, row: int, when: str, fields: Sequence[str]) -> str:
    values = {name: float(column[row]) for name, column in zip(fields, rows.values, strict=True)}
    what = {
        "nonexistent_time": "does not exist, for the clocks skipped it",
        "bad_price": "has "
        + ", ".join(
            f"{name} {'empty or NaN' if value != value else value}"
            for name, value in values.items()
            if name != "volume" and not 0 < value < float("inf")
        )
        + "; prices must be finite and above 0",
        "high_below_low": f"has high {values.get('high')} below low {values.get('low')}",
    }
    return f"{where}: {rows.names[rows.codes[row]]} at {when} {what[rule]}: {REMEDY} dropped."
