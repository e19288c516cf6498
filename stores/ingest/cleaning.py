"""Rules that look at all rows of one symbol: order, duplicates, hours that come twice, steps and grid."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atc_backtest.errors import DataError
from atc_backtest.stores.base import I64
from atc_backtest.stores.ingest.rules import REMEDY, show_time
from atc_backtest.stores.ingest.spool import PIECE_ROWS, Records, pieces, times, write_records
from atc_backtest.stores.ingest.zones import NEVER_NS, Zone

WEEK_NS = 7 * 86_400 * 10**9


@dataclass(frozen=True)
class Series:
    """One symbol's file after cleaning: n rows, ts strictly increasing. bar_ns: None for a single row.

    step_ns is what divides all steps between rows; 0 for a single row.
    """

    name: str
    path: Path
    n: int
    first_ns: int
    last_ns: int
    bar_ns: int | None
    step_ns: int


def clean(
    name: str, path: Path, dtype: np.dtype[np.void], zone: Zone | None, strict: bool
) -> tuple[Series, Counter[str]]:
    """Sort and de-duplicate a symbol's file where it needs that, and find its bar size.

    zone    the clock of local times, where the sources have them: gives its repeated hours their order back
    strict  `DataError` for the first row out of order or doubled
    """
    counts: Counter[str] = Counter()
    found = _scan(name, path, dtype)
    if found is None:
        counts = _mend(name, path, dtype, zone, strict)
        found = _scan(name, path, dtype)
        assert found is not None  # it was put in order
    return found, counts


def _scan(name: str, path: Path, dtype: np.dtype[np.void]) -> Series | None:
    """The series in a file, or None where its times do not increase."""
    steps: Counter[int] = Counter()
    n, first, last = 0, 0, 0
    for piece in pieces(path, dtype):
        ts = np.ascontiguousarray(piece["ts"])
        first = first if n else int(ts[0])
        between = np.diff(ts, prepend=last) if n else np.diff(ts)
        if between.size and between.min() <= 0:
            return None
        _count(between, steps)
        n, last = n + ts.size, int(ts[-1])
    bar = min(steps, key=lambda step: (-steps[step], step)) if steps else None
    return Series(name, path, n, first, last, bar, math.gcd(*steps))


def off_grid(series: Series, dtype: np.dtype[np.void], bar_ns: int, zone: Zone | None) -> int:
    """Rows whose open time is not a whole number of bars from the symbol's commonest ones.

    Counted on the wall clock of `zone`, else UTC, so that daily bars of a place stay on their grid the
    year round. None beyond a week: months differ in length.
    """
    if bar_ns > WEEK_NS or (zone is None and series.step_ns % bar_ns == 0):
        return 0
    phases: Counter[int] = Counter()
    for piece in pieces(series.path, dtype):
        shown = piece["ts"] if zone is None else zone.clock(piece["ts"]).to_local(piece["ts"])
        _count(shown % bar_ns, phases)
    return series.n - max(phases.values())


def _count(values: I64, counts: Counter[int]) -> None:
    """Most often they are all the same: no need to sort them."""
    if values.size and (values == values[0]).all():
        counts[int(values[0])] += values.size
        return
    found, repeats = np.unique(values, return_counts=True)
    counts.update(dict(zip(found.tolist(), repeats.tolist(), strict=True)))


def _mend(name: str, path: Path, dtype: np.dtype[np.void], zone: Zone | None, strict: bool) -> Counter[str]:
    """Rewrite a file sorted, one row a time. Holds the symbol's times and order; values pass in pieces."""
    ts = times(path, dtype)
    rows: Records = np.memmap(path, dtype, mode="r")
    counts: Counter[str] = Counter()
    if zone is not None:
        counts["repeated_hour"] = _tell_apart(ts, rows, zone)
    early = ts < np.maximum.accumulate(ts)
    counts["unsorted"] = int(early.sum())
    if strict and counts["unsorted"]:
        row = int(np.argmax(early))
        raise DataError(
            f"{name}: the row at {show_time(int(ts[row]))} comes after a later one, rows must be sorted: "
            f"{REMEDY} sorted."
        )
    order = np.argsort(ts, kind="stable")
    ordered = ts[order]
    last = np.append(ordered[1:] != ordered[:-1], True)
    same = _same_as_kept(rows, order, last)
    if strict and same.size:
        found = "is there twice" if same[0] else "is there twice with other values"
        raise DataError(
            f"{name}: the row at {show_time(int(ordered[np.argmin(last)]))} {found}: {REMEDY} dropped but for the "
            "last one read."
        )
    counts["exact_duplicate"] = int(same.sum())
    counts["conflicting_duplicate"] = same.size - counts["exact_duplicate"]
    _rewrite(path, rows, order[last], ts)
    return counts


def _rewrite(path: Path, rows: Records, kept: I64, ts: I64) -> None:
    """Put the rows `kept`, in that order and at their `ts`, into the place of `path`."""
    mended = path.with_suffix(".mended")
    for start in range(0, kept.size, PIECE_ROWS):
        at = kept[start : start + PIECE_ROWS]
        piece = np.array(rows[at])
        piece["ts"] = ts[at]
        write_records(mended, [piece], append=True)
    mended.replace(path)


def _same_as_kept(rows: Records, order: I64, last: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """For every row that shares its time with a later read one, in order of time: do both hold the same?"""
    doubled = np.flatnonzero(~last)
    stays = np.flatnonzero(last)
    stays = stays[np.searchsorted(stays, doubled)]
    same = np.empty(doubled.size, dtype=np.bool_)
    for start in range(0, doubled.size, PIECE_ROWS):
        part = slice(start, start + PIECE_ROWS)
        same[part] = _same(rows, order[doubled[part]], order[stays[part]])
    return same


def _same(rows: Records, one: I64, other: I64) -> NDArray[np.bool_]:
    a, b = rows["values"][one], rows["values"][other]
    return np.asarray(((a == b) | (np.isnan(a) & np.isnan(b))).all(axis=1), dtype=np.bool_)


def _tell_apart(ts: I64, rows: Records, zone: Zone) -> int:
    """Move rows of a repeated hour's second pass to the later instant, in place; how many.

    All rows of such an hour came as its first pass. Where they step back exactly once, in rows that run
    forward before and within, the step is the clock's. A row that only repeats the one before it is no step.
    """
    starts, stops = zone.clock(ts).repeats()
    hour = np.searchsorted(stops, ts, side="right")
    inside = np.flatnonzero(np.append(starts, NEVER_NS)[hour] <= ts)
    moved = 0
    cuts = np.flatnonzero((np.diff(inside) > 1) | (np.diff(hour[inside]) != 0)) + 1
    for run in np.split(inside, cuts):
        if run.size < 2 or (run[0] > 0 and ts[run[0] - 1] >= starts[hour[run[0]]]):
            continue
        back = ts[run[1:]] < ts[run[:-1]]
        again = (ts[run[1:]] == ts[run[:-1]]) & ~_same(rows, run[1:], run[:-1])
        steps = run[1:][back | again]
        if len(steps) == 1:
            later = run[run >= steps[0]]
            ts[later] += stops[hour[run[0]]] - starts[hour[run[0]]]
            moved += later.size
    return moved
