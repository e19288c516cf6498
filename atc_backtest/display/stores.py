"""What people see of stores: tables, sentences and what to do next; JSON where a machine asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

from atc_backtest.display.terminal import counting_progress, iso, print_json, print_table

if TYPE_CHECKING:
    from atc_backtest.calendars import Gap
    from atc_backtest.stores.base import StoreInfo
    from atc_backtest.stores.upkeep import Compaction, Entry, Repair
    from atc_backtest.stores.verification import Verification

Columns = dict[str, Literal["left", "right"]]

MOST_NAMED = 6
"""Symbols named of one damage; --json names all."""


def progress(what: str, things: str) -> AbstractContextManager[Callable[[int, int], None]]:
    """A bar while the block runs; what it yields takes things done and things in all."""
    return counting_progress(what, things)


def show_info(info: StoreInfo, as_json: bool) -> None:
    """A store's header and its symbols."""
    from atc_backtest.stores.base import format_bar

    if as_json:
        print_json(asdict(info))
        return
    rounded = "" if info.volume_bits is None else f"volume rounded to {info.volume_bits} bits, "
    print(f"{info.path}: version {info.version}, bars of {format_bar(info.bar_ns)}, calendar {info.calendar}")
    print(
        f"{len(info.symbols)} symbols x {info.n_bars:,} bars; fields {', '.join(info.fields)}; {info.kind}, "
        f"codec {info.codec}, {rounded}chunks {info.chunk}, {info.n_bars - info.history_bars:,} bars in the tail"
    )
    rows = [(s.name, f"{s.n_bars:,}", *_span(s.n_bars, s.first_ns, s.last_ns)) for s in info.symbols]
    print_table({"symbol": "left", "bars": "right", "first": "left", "last": "left"}, rows)


def _span(n_bars: int, *times: int) -> tuple[str, ...]:
    return tuple(iso(ns) if n_bars else "-" for ns in times)


def show_gaps(symbol: str, calendar: str, gaps: Sequence[Gap], limit: int, as_json: bool) -> None:
    """The longest gaps, in order of time, and how many bars lack in all."""
    if as_json:
        print_json([asdict(one) for one in gaps])
        return
    n_bars = sum(one.n_bars for one in gaps)
    print(f"{symbol}: {n_bars:,} bars lack in {len(gaps):,} gaps (calendar {calendar})")
    longest = sorted(sorted(gaps, key=lambda one: -one.n_bars)[:limit], key=lambda one: one.first_ns)
    columns: Columns = {"from (UTC)": "left", "to": "left", "bars": "right"}
    if longest:
        print_table(columns, [(iso(one.first_ns), iso(one.last_ns), f"{one.n_bars:,}") for one in longest])
    if len(longest) < len(gaps):
        print(f"... {len(gaps) - len(longest)} shorter ones: --limit {len(gaps)}")


def show_history(entries: Sequence[Entry], as_json: bool) -> None:
    """One line a version, the newest last."""
    if as_json:
        print_json([asdict(one.commit) | {"kept": one.kept, "current": one.current} for one in entries])
        return
    columns: Columns = {
        "version": "right",
        "committed (UTC)": "left",
        "by": "left",
        "symbols": "right",
        "bars": "right",
    }
    columns |= {"written": "right", "state": "left"}
    rows = []
    for one in entries:
        commit = one.commit
        state = "current" if one.current else "kept" if one.kept else "dropped"
        when = commit.when.replace("T", " ").removesuffix("Z")
        counts = f"{commit.n_symbols:,}", f"{commit.n_bars:,}", size(commit.bytes_written)
        rows.append((str(commit.version), when, commit.what, *counts, state))
    print_table(columns, rows)


def size(n_bytes: int) -> str:
    """Bytes in the unit people read."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.3g} {unit}"
    return f"{n_bytes} B"


def show_rollback(info: StoreInfo, version: int, as_json: bool) -> None:
    """What counts now."""
    if as_json:
        print_json({"path": info.path, "version": info.version, "content_of": version})
        return
    print(f"{info.path}: version {info.version} is what version {version} was: {_extent(info)}")


def _extent(info: StoreInfo) -> str:
    return f"{len(info.symbols)} symbols x {info.n_bars:,} bars"


def show_verification(found: Verification, as_json: bool) -> None:
    """Sound, or every damage with the bars it costs and the way out."""
    if as_json:
        print_json(asdict(found))
        return
    versions = f"{len(found.versions)} version{'s' if len(found.versions) != 1 else ''}"
    looked = f"{found.n_objects:,} objects, {size(found.n_bytes)}, {versions}"
    if not found.damage:
        print(f"{found.place}: sound ({looked})")
        return
    print(f"{found.place}: {len(found.damage)} damaged ({looked})")
    for one in found.damage:
        print(f"{one.name}: {one.problem}")
        if one.symbols:
            named = ", ".join(one.symbols[:MOST_NAMED])
            more = f" and {len(one.symbols) - MOST_NAMED} more" if len(one.symbols) > MOST_NAMED else ""
            print(f"    {', '.join(one.fields)} of {named}{more}")
        if one.first_ns is not None and one.last_ns is not None:
            print(f"    {iso(one.first_ns)} to {iso(one.last_ns)} UTC")
        if one.versions:
            print(f"    needed by version {', '.join(map(str, one.versions))}")
    print("Everything else can be read.")
    sound = set(found.versions) - {version for one in found.damage for version in one.versions}
    if found.version is None:
        print(f"next  atc-backtest store repair {found.place}")
    elif found.version not in sound and sound:
        print(f"next  atc-backtest store rollback {found.place} {max(sound)}, or ingest these bars again")
    elif found.version not in sound:
        print("next  ingest these bars again, or copy the store back from where it is kept twice")


def show_compaction(done: Compaction, as_json: bool) -> None:
    """What was moved and dropped."""
    if as_json:
        print_json(asdict(done))
        return
    print(f"version {done.version}: {done.moved_bars:,} bars moved into the history")
    if done.dropped:
        print(f"dropped {len(done.dropped)} versions, {size(done.freed_bytes)} freed")


def show_repair(done: Repair, as_json: bool) -> None:
    """What was removed, brought back, left alone."""
    if as_json:
        print_json(asdict(done))
        return
    if done.broken_lock:
        print(f"lock taken from {done.broken_lock}")
    for name in done.restored:
        print(f"restored {name}")
    if done.removed:
        print(f"removed {len(done.removed)} never committed or no longer kept, {size(done.freed_bytes)} freed")
    if done.unknown:
        print(f"not of this store, left alone: {', '.join(done.unknown)}")
    if not (done.broken_lock or done.restored or done.removed):
        print("nothing to repair")


def show_made(info: StoreInfo, as_json: bool) -> None:
    """A store that was made of another one."""
    if as_json:
        print_json(asdict(info))
        return
    print(f"{info.path}: {_extent(info)}, {', '.join(info.fields)} ({info.kind}, version {info.version})")
    print(f"next  atc-backtest backtest {info.path}")
