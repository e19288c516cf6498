"""Is every byte what was committed, and does it say what the manifest says? All damage at once, by symbol and time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from atc_backtest.errors import DataError, StoreError
from atc_backtest.stores.base import F64, I64, SymbolInfo
from atc_backtest.stores.checks import check_values
from atc_backtest.stores.folder import Folder, open_folder
from atc_backtest.stores.layout import TS_BARS, chunk_key, object_name
from atc_backtest.stores.manifest import (
    MANIFEST,
    Band,
    Manifest,
    Object,
    kept_versions,
    read_manifest,
    to_bytes,
    version_name,
)
from atc_backtest.stores.reading import TIMES, Version, check_bytes
from atc_backtest.stores.zarr_view import documents

THREADS = 2


@dataclass(frozen=True)
class Damage:
    """One thing that is wrong. `symbols` and times: the bars that cannot be trusted; none for what holds no bar.

    `versions` are the kept ones that need it: others can be rolled back to.
    """

    name: str
    problem: str
    versions: tuple[int, ...]
    fields: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    first_ns: int | None = None
    last_ns: int | None = None


@dataclass(frozen=True)
class Verification:
    """What was looked at, and what is wrong with it: nothing, for a sound store."""

    place: str
    version: int | None
    """The one that counts; None when its manifest cannot be read."""
    versions: tuple[int, ...]
    """All that were looked at."""
    n_objects: int
    n_bytes: int
    damage: tuple[Damage, ...]


@dataclass
class _Found:
    damage: list[Damage] = field(default_factory=list)
    objects: dict[str, int] = field(default_factory=dict)
    """Name -> bytes, of everything looked at."""


def verify(place: str | Path, progress: Callable[[int, int], None] | None = None) -> Verification:
    """Read and check every object of every kept version. `progress` takes objects done and objects in all.

    `StoreError` when there is no store at `place`.
    """
    folder = open_folder(place)
    found = _Found()
    manifests = _manifests(folder, found)
    users: dict[str, list[int]] = {}
    for number, manifest in manifests.items():
        for name in manifest.names():
            users.setdefault(name, []).append(number)
    done = 0
    newest_first = sorted(manifests.values(), key=lambda manifest: -manifest.info.version)
    for at, manifest in enumerate(newest_first):
        check = _Check(folder, manifest, users, found)
        work = check.all() if at == 0 else check.bytes_only()
        with ThreadPoolExecutor(THREADS, thread_name_prefix="verify") as pool:
            for _ in pool.map(lambda one: one(), work):
                done += 1
                if progress is not None:
                    progress(min(done, len(users)), len(users))
        check.finish(deeply=at == 0)
    counts = next((m.info.version for m in newest_first if MANIFEST not in {d.name for d in found.damage}), None)
    damage = sorted(found.damage, key=lambda one: (one.first_ns or 0, one.name))
    return Verification(
        folder.place, counts, tuple(sorted(manifests)), len(found.objects), sum(found.objects.values()), tuple(damage)
    )


def _manifests(folder: Folder, found: _Found) -> dict[int, Manifest]:
    """All kept ones that can be read, the copy of the current one compared with it."""
    manifests: dict[int, Manifest] = {}
    current: Manifest | None = None
    try:
        current = read_manifest(folder)
        numbers = kept_versions(folder, current)
        manifests[current.info.version] = current
    except StoreError as error:
        names = [name for name, _ in folder.sizes("versions") if name.endswith(".json")]
        if not names or not folder.has(MANIFEST):
            raise
        found.damage.append(Damage(MANIFEST, str(error), ()))
        numbers = sorted(int(name[len("versions/") : -len(".json")]) for name in names)
    for number in numbers:
        name = version_name(number)
        try:
            if current is not None and number == current.info.version:
                if folder.has(name) and folder.read(name) != to_bytes(current):
                    found.damage.append(Damage(name, f"it is not the copy of {MANIFEST}", (number,)))
            else:
                manifests[number] = read_manifest(folder, name)
        except StoreError as error:
            found.damage.append(Damage(name, str(error), (number,)))
    return manifests


class _Check:
    """One version: tasks that each look at the objects of one place, and what they counted."""

    def __init__(self, folder: Folder, manifest: Manifest, users: dict[str, list[int]], found: _Found) -> None:
        self._version = Version(folder, manifest)
        self._folder = folder
        self._manifest = manifest
        self._users = users
        self._found = found
        n = len(manifest.info.symbols)
        self._bars = np.zeros(n, dtype=np.int64)
        self._first = np.full(n, np.iinfo(np.int64).max)
        self._last = np.full(n, np.iinfo(np.int64).min)
        self._axis: I64 = np.empty(0, dtype=np.int64)
        self._doubtful = np.zeros(n, dtype=bool)

    def all(self) -> list[Callable[[], None]]:
        """Everything of this version: bytes, codecs, order, padding, values."""
        self._check_documents()
        self._check_axis()
        return [
            partial(self._check_chunk, band, row, column)
            for band in self._manifest.bands
            for row in range(-(-len(self._manifest.info.symbols) // band.chunk[0]))
            for column in range(-(-(band.stop - band.start) // band.chunk[1]))
        ]

    def bytes_only(self) -> list[Callable[[], None]]:
        """What newer versions do not have: checksums."""
        return [
            partial(self._check_bytes, key, one)
            for key, one in self._manifest.objects()
            if object_name(key, one.version) not in self._found.objects
        ]

    def _report(self, name: str, problem: str, bars: tuple[int, int] = (0, 0), **where: Sequence[str]) -> None:
        first = last = None
        if bars[0] < bars[1] <= self._axis.size:
            first, last = int(self._axis[bars[0]]), int(self._axis[bars[1] - 1])
        if first == np.iinfo(np.int64).min:
            first = last = None
        given = {key: tuple(value) for key, value in where.items()}
        versions = tuple(self._users.get(name, [self._manifest.info.version]))
        self._found.damage.append(Damage(name, problem, versions, first_ns=first, last_ns=last, **given))

    def _look(self, name: str, one: Object) -> None:
        self._found.objects[name] = one.size
        data = self._folder.map(name)
        check_bytes(data, one)

    def _check_bytes(self, key: str, one: Object) -> None:
        name = object_name(key, one.version)
        try:
            self._look(name, one)
        except (OSError, ValueError) as error:
            self._report(name, str(error))

    def _check_documents(self) -> None:
        expected = documents(self._manifest)
        if expected.keys() != self._manifest.documents.keys():
            self._report(MANIFEST, "its documents are not those of its arrays")
        for key, one in self._manifest.documents.items():
            name = object_name(key, one.version)
            try:
                self._look(name, one)
                if self._folder.read(name) != expected.get(key):
                    raise ValueError("it does not describe the array as the manifest does")
            except (OSError, ValueError) as error:
                self._report(name, str(error))

    def _check_axis(self) -> None:
        info = self._manifest.info
        self._axis = np.full(info.n_bars, np.iinfo(np.int64).min)
        lost = []
        for column in range(-(-info.n_bars // TS_BARS)):
            one = self._manifest.ts.at(0, column)
            name = object_name(f"ts/c/{column}", one.version)
            bars = column * TS_BARS, min((column + 1) * TS_BARS, info.n_bars)
            try:
                self._look(name, one)
                times = TIMES.decode(self._folder.read(name))
                if times.size != TS_BARS:
                    raise ValueError(f"{times.size} times instead of {TS_BARS}")
                self._axis[slice(*bars)] = times[: bars[1] - bars[0]]
            except (OSError, ValueError) as error:
                lost.append((name, bars, str(error)))
        for name, bars, problem in lost:
            around = max(bars[0] - 1, 0), min(bars[1] + 1, info.n_bars)
            known = self._axis[slice(*around)]
            known = known[known != np.iinfo(np.int64).min]
            self._found.damage.append(
                Damage(
                    name,
                    f"{problem}: times of bars [{bars[0]}, {bars[1]})",
                    tuple(self._users.get(name, ())),
                    ("ts",),
                    tuple(symbol.name for symbol in info.symbols),
                    int(known[0]) if known.size else None,
                    int(known[-1]) if known.size else None,
                )
            )
        if not lost and (np.diff(self._axis) <= 0).any():
            at = int(np.argmax(np.diff(self._axis) <= 0))
            self._report(object_name(f"ts/c/{at // TS_BARS}", 0), "times do not go forward", (at, at + 2))
        self._doubtful |= bool(lost)

    def _check_chunk(self, band: Band, row: int, column: int) -> None:
        symbols, bars = self._version.chunk_range(band, row, column)
        names = [symbol.name for symbol in self._manifest.info.symbols[slice(*symbols)]]
        blocks: dict[str, F64] = {}
        for array in self._manifest.arrays:
            one = band.grids[array.name].at(row, column)
            name = object_name(chunk_key(band.name, array, row, column), one.version)
            try:
                if one.version >= 0:
                    self._look(name, one)
                chunk = self._version.chunk(band, array, row, column)
                inside = chunk[:, : len(names), : bars[1] - bars[0]]
                if np.isnan(chunk).sum() - np.isnan(inside).sum() != chunk.size - inside.size:
                    raise ValueError("there are prices beyond its symbols and bars")
                blocks |= dict(zip(array.fields, inside, strict=True))
            except (OSError, ValueError) as error:
                problem = str(error.__cause__ or error) if isinstance(error, StoreError) else str(error)
                self._doubtful[slice(*symbols)] = True
                lost = [field for field in array.fields if not self._reads(field, symbols, bars)] or array.fields
                self._report(name, problem, bars, fields=lost, symbols=names)
        if len(blocks) == len(self._manifest.info.fields):
            self._check_cells(blocks, symbols, bars, names)

    def _reads(self, field: str, symbols: tuple[int, int], bars: tuple[int, int]) -> bool:
        """Whether a field of a damaged chunk is among what can still be had."""
        try:
            self._version.read(field, symbols, bars)
        except StoreError:
            return False
        return True

    def _check_cells(
        self, blocks: dict[str, F64], symbols: tuple[int, int], bars: tuple[int, int], names: list[str]
    ) -> None:
        ts = self._axis[slice(*bars)]
        try:
            check_values(ts, names, blocks)
        except DataError as error:
            self._report("values", str(error), bars, symbols=names)
        present = ~np.isnan(blocks["close"])
        some, cut = present.any(axis=1), slice(*symbols)
        self._bars[cut] += present.sum(axis=1)
        first = np.where(some, ts[present.argmax(axis=1)], self._first[cut])
        last = np.where(some, ts[ts.size - 1 - present[:, ::-1].argmax(axis=1)], self._last[cut])
        self._first[cut] = np.minimum(self._first[cut], first)
        self._last[cut] = np.maximum(self._last[cut], last)

    def finish(self, deeply: bool) -> None:
        """Counts of symbols, of those whose bars could all be read."""
        if not deeply:
            return
        for row, symbol in enumerate(self._manifest.info.symbols):
            n_bars = int(self._bars[row])
            span = (int(self._first[row]), int(self._last[row])) if n_bars else (0, 0)
            counted = SymbolInfo(symbol.name, n_bars, *span)
            if not self._doubtful[row] and counted != symbol:
                self._report(MANIFEST, f"it says {symbol}, there is {counted}", symbols=[symbol.name])
