"""Rules that look at one row: what is dropped, mended or only counted, while batches pass."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from atc_backtest.errors import DataError
from atc_backtest.stores.base import F64, I64

Mask = NDArray[np.bool_]
REMEDY = "mend the source, or run without --strict to have such rows counted and"


@dataclass(frozen=True)
class Rows:
    """Rows of one batch in the order read: codes[i] is the place in `names` of the symbol of row i.

    ts int64 [n] ns UTC; values float64 [n, fields], NaN = empty.
    """

    names: Sequence[str]
    codes: I64
    ts: I64
    values: F64

    def kept(self, keep: Mask) -> Rows:
        return self if keep.all() else replace(self, codes=self.codes[keep], ts=self.ts[keep], values=self.values[keep])


class Tally:
    """Counts per symbol and rule."""

    def __init__(self) -> None:
        self._counts: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def __getitem__(self, symbol: str) -> Counter[str]:
        return self._counts[symbol]

    def __iter__(self) -> Iterator[str]:
        return iter(self._counts)

    def add(self, rows: Rows, rule: str, hit: Mask) -> None:
        if hit.any():
            for code, n in enumerate(np.bincount(rows.codes[hit], minlength=len(rows.names)).tolist()):
                if n:
                    self._counts[rows.names[code]][rule] += n


def show_time(ns: int) -> str:
    """A time as errors show it."""
    return str(np.datetime64(ns, "ns")).removesuffix(".000000000").replace("T", " ") + " UTC"


def apply_rules(
    rows: Rows, exists: Mask, shown: Sequence[object], fields: Sequence[str], tally: Tally, where: str | None
) -> Rows:
    """The rows that stay, bad volumes made NaN; every rule counted in `tally`.

    exists  False where a local time was skipped by the clocks; `shown` holds the times as the file has them.
    where   the file's name when strict: `DataError` for the first row that would be dropped or mended.
    """
    everything = np.ones(rows.ts.size, dtype=np.bool_)
    tally.add(rows, "rows_read", everything)
    at = {name: i for i, name in enumerate(fields)}
    prices = [at[name] for name in fields if name != "volume"]
    good = np.isfinite(rows.values[:, prices]) & (rows.values[:, prices] > 0)
    drops = {"nonexistent_time": ~exists, "bad_price": ~good.all(axis=1)}
    if "high" in at and "low" in at:
        drops["high_below_low"] = rows.values[:, at["high"]] < rows.values[:, at["low"]]
    keep = everything
    for rule, hit in drops.items():
        hit = hit & keep
        if where is not None and hit.any():
            row = int(np.argmax(hit))
            when = f"{shown[row]} local time" if rule == "nonexistent_time" else show_time(int(rows.ts[row]))
            raise DataError(_refusal(rule, where, rows, row, when, fields))
        tally.add(rows, rule, hit)
        keep = keep & ~hit
    rows = rows.kept(keep)
    if "volume" in at:
        _mend_volume(rows, at["volume"], tally, where)
    tally.add(rows, "outside_range", _outside(rows.values, at))
    return rows


def _mend_volume(rows: Rows, column: int, tally: Tally, where: str | None) -> None:
    volume = rows.values[:, column]
    bad = (volume < 0) | np.isinf(volume)
    if where is not None and bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            f"{where}: {rows.names[rows.codes[row]]} at {show_time(int(rows.ts[row]))} has volume {volume[row]}, "
            f"which is negative or not finite: {REMEDY} their volume made missing."
        )
    tally.add(rows, "bad_volume", bad)
    volume[bad] = np.nan


def _outside(values: F64, at: dict[str, int]) -> Mask:
    outside = np.zeros(len(values), dtype=np.bool_)
    for name in ("open", "close"):
        if name in at and "high" in at:
            outside |= values[:, at[name]] > values[:, at["high"]]
        if name in at and "low" in at:
            outside |= values[:, at[name]] < values[:, at["low"]]
    return outside


def _refusal(rule: str, where: str, rows: Rows, row: int, when: str, fields: Sequence[str]) -> str:
    values = dict(zip(fields, rows.values[row].tolist(), strict=True))
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
