"""A store's versions: what there was, going back, moving the tail into the history, dropping, repairing."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from atc_backtest.errors import ConfigError, StoreError
from atc_backtest.stores.building import the_writer, writing_errors
from atc_backtest.stores.disk import LOCK, Disk
from atc_backtest.stores.folder import Folder, is_url, open_folder
from atc_backtest.stores.layout import HISTORY, HISTORY_BARS, TAIL, TAIL_BARS, chunk_symbols, object_name, written_by
from atc_backtest.stores.lock import is_free, locked, parse_owner
from atc_backtest.stores.manifest import (
    MANIFEST,
    Band,
    Commit,
    Manifest,
    commit,
    committed,
    kept_versions,
    read_manifest,
    to_bytes,
    uncommitted,
    version_name,
)
from atc_backtest.stores.transaction import Piece, Transaction

EARLIER_FORMAT = re.compile(r"(?:(?:open|high|low|close|volume|ts)/)?(?:zarr\.json|c(?:/[0-9]+)+)")
"""What a store of format 1 consisted of, beside its manifest."""


@dataclass(frozen=True)
class Entry:
    """A version: what made it, and whether it can be gone back to."""

    commit: Commit
    kept: bool
    current: bool


def history(place: str | Path) -> tuple[Entry, ...]:
    """Every version that was ever committed, the first one first."""
    folder = open_folder(place)
    manifest = read_manifest(folder)
    kept = set(kept_versions(folder, manifest))
    return tuple(Entry(one, one.version in kept, one.version == manifest.info.version) for one in manifest.log)


def _store_at(place: str | Path) -> Folder:
    folder = open_folder(place)
    if not folder.has(MANIFEST):
        read_manifest(folder)  # says what is there instead
    return folder


def rollback(place: str | Path, version: int) -> Manifest:
    """A new version whose content is that of an earlier one. `StoreError` when that is no longer kept whole."""
    folder = _store_at(place)
    what = f"rollback to version {version}"
    with the_writer(folder, what):
        current = read_manifest(folder)
        old = committed(folder, version)
        found = dict(folder.sizes())
        names = {object_name(key, one.version): one.size for key, one in old.objects()}
        lost = [name for name, size in names.items() if found.get(name) != size]
        if lost:
            raise StoreError(f"version {version} of {folder.place} is not whole any more: {lost[0]} is missing.")
        info = replace(old.info, id=current.info.id, version=current.info.version + 1)
        return commit(folder, current, replace(old, info=info), what, 0)


@dataclass(frozen=True)
class Compaction:
    """What `compact` did."""

    version: int
    moved_bars: int
    dropped: tuple[int, ...]
    """Versions that cannot be gone back to any more."""
    freed_bytes: int


def compact(place: str | Path, keep: int | None = None) -> Compaction:
    """Move the tail's full 16,384s of bars into the history; with `keep`, drop all but the last so many versions.

    A reader that is still on a dropped version loses its objects.
    """
    if keep is not None and keep < 1:
        raise ConfigError(f"--keep {keep} is not allowed: at least 1, the version that counts.")
    folder = _store_at(place)
    with the_writer(folder, "compact"):
        before = read_manifest(folder)
        transaction = Transaction(folder, before)
        try:
            _move_tail(transaction)
            manifest = transaction.commit("compact")
        except BaseException:
            transaction.abort()
            raise
        dropped = () if keep is None else tuple(kept_versions(folder, manifest)[:-keep])
        folder.remove(version_name(version) for version in dropped)
        garbage = _garbage(folder, manifest) if dropped else {}
        folder.remove(garbage)
    moved = manifest.info.history_bars - before.info.history_bars
    return Compaction(manifest.info.version, moved, dropped, sum(garbage.values()))


def _move_tail(transaction: Transaction) -> None:
    """Cut the store as a new one of its size would be; chunks of the history that fit stay as they are."""
    source = transaction.version
    info, bands = source.info, source.manifest.bands
    if info.kind != "zarr" or not bands:
        return
    full = info.n_bars // HISTORY_BARS * HISTORY_BARS
    rows = max(chunk_symbols(len(info.symbols), info.kind), bands[0].chunk[0])
    same = rows == bands[0].chunk[0]
    if same and full == info.history_bars:
        return
    history = Band(HISTORY, 0, full, (rows, HISTORY_BARS), bands[0].grids if same else {})
    tail = Band(TAIL, full, info.n_bars, (rows, TAIL_BARS), {})
    transaction.use((history, tail))
    done = info.history_bars // HISTORY_BARS if same else 0
    for band, first in ((history, done), (tail, 0)):
        for column in range(first, -(-(band.stop - band.start) // band.chunk[1])):
            start = band.start + column * band.chunk[1]
            stop = min(start + band.chunk[1], band.stop)
            transaction.put_column(source, band, column, [Piece((start, stop), slice(stop - start))])


@dataclass(frozen=True)
class Repair:
    """What `repair` found and mended; all empty where there was nothing to do."""

    removed: tuple[str, ...]
    freed_bytes: int
    restored: tuple[str, ...]
    broken_lock: str | None
    unknown: tuple[str, ...]
    """Files that are none of the store's: left alone."""


def repair(place: str | Path, break_another_lock: bool = False) -> Repair:
    """Remove what no kept version names: objects never committed, abandoned builds, locks of the dead.

    A damaged manifest is brought back from its copy. Nothing that is committed is touched.
    """
    folder = open_folder(place)
    broken = _break_lock(folder) if break_another_lock else None
    with writing_errors(folder.place):
        removed = [] if is_url(place) else _remove_abandoned(Path(folder.place))
        if not next(folder.sizes(), None):
            if not removed:
                read_manifest(folder)
            return Repair(tuple(removed), 0, (), broken, ())
        with folder.locked("repair"):
            restored = _restore(folder)
            manifest = read_manifest(folder)
            garbage = _garbage(folder, manifest)
            folder.remove(garbage)
            known = manifest.names() | {LOCK, MANIFEST}
            unknown = [name for name, _ in folder.sizes() if not (name in known or _is_ours(name))]
    return Repair((*removed, *sorted(garbage)), sum(garbage.values()), restored, broken, tuple(sorted(unknown)))


def _break_lock(folder: Folder) -> str | None:
    if folder.has(LOCK):
        owner = parse_owner(folder.read(LOCK))
        if owner is not None and owner.here and owner.alive:
            raise StoreError(f"{folder.place} is being written by {owner}, which lives: end that process first.")
    return folder.break_lock()


def _remove_abandoned(path: Path) -> list[str]:
    """The hidden folder of a new store whose writer died."""
    hidden, lock = path.with_name(f".{path.name}.building"), path.with_name(f".{path.name}.lock")
    if not (hidden.exists() or lock.exists()) or not is_free(lock):
        return []
    with locked(lock, "repair"):
        Disk(hidden).remove_all()
    return [hidden.name]


def _restore(folder: Folder) -> tuple[str, ...]:
    """Manifests that are damaged, from their copies; the newest that is whole counts."""
    try:
        manifest = read_manifest(folder)
    except StoreError:
        for name in sorted((name for name, _ in folder.sizes("versions")), reverse=True):
            try:
                manifest = read_manifest(folder, name)
            except StoreError:
                continue
            folder.replace(MANIFEST, to_bytes(manifest))
            return (MANIFEST,)
        raise
    name = version_name(manifest.info.version)
    data = to_bytes(manifest)
    if folder.has(name) and folder.read(name) != data:
        folder.replace(name, data)
        return (name,)
    return ()


def _garbage(folder: Folder, current: Manifest) -> dict[str, int]:
    """Name -> bytes of what no kept version needs. What an unreadable one may need stays."""
    named: set[str] = set()
    sure = True
    for number in kept_versions(folder, current):
        try:
            manifest = current if number == current.info.version else read_manifest(folder, version_name(number))
        except StoreError:
            sure = False
            continue
        named |= manifest.names()
    garbage = uncommitted(folder, current.info.version)
    for name, size in folder.sizes():
        forgotten = written_by(name) is not None and sure
        if name not in named and (forgotten or EARLIER_FORMAT.fullmatch(name)):
            garbage[name] = size
    return garbage


def _is_ours(name: str) -> bool:
    return written_by(name) is not None or name.startswith("versions/")
