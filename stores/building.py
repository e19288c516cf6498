"""New stores: empty ones, and whole ones built block by block and given their name when they are done."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from atc_backtest.errors import DataError, StoreError
from atc_backtest.stores.base import F64, FIELDS, I64, StoreInfo, SymbolInfo
from atc_backtest.stores.checks import check_fields, check_times
from atc_backtest.stores.coding import CODECS, together
from atc_backtest.stores.disk import Disk
from atc_backtest.stores.folder import Folder, is_url, open_folder
from atc_backtest.stores.layout import CHUNK_SYMBOLS, HISTORY_BARS, arrays_of
from atc_backtest.stores.lock import locked
from atc_backtest.stores.manifest import MANIFEST, Manifest, old_version, read_manifest, uncommitted
from atc_backtest.stores.transaction import Transaction


class StoreWriter:
    """Fills a new store block by block; see `new_store`."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._waiting: dict[tuple[tuple[int, int], tuple[int, int]], dict[str, F64]] = {}

    @property
    def chunk(self) -> tuple[int, int]:
        """(symbols, bars): blocks of whole chunks are written without reading anything back."""
        return self._transaction.info.chunk

    def write(self, field: str, symbols: tuple[int, int], bars: tuple[int, int], block: F64) -> None:
        """One field of a block, float64 [symbols, bars], NaN = no bar. Bars ascending.

        A block is written when all its fields are here: give them one after the other, all with the same ranges.
        """
        if field not in self._transaction.info.fields:
            raise DataError(f"the new store has no field {field!r}: {', '.join(self._transaction.info.fields)}.")
        fields = self._waiting.setdefault((symbols, bars), {})
        fields[field] = block
        if len(fields) == len(self._transaction.info.fields):
            del self._waiting[symbols, bars]
            self._transaction.place(symbols, bars, fields)

    def check_complete(self) -> None:
        for (symbols, bars), fields in self._waiting.items():
            raise DataError(
                f"symbols {symbols}, bars {bars} lack {', '.join(set(self._transaction.info.fields) - set(fields))}: "
                "write every field of a block."
            )


def check_free(place: str | Path, overwrite: bool) -> None:
    """`StoreError` unless a new store may take `place`: nothing is there, or a store that `overwrite` replaces."""
    folder = open_folder(place)
    with writing_errors(str(place)):
        found = folder.has(MANIFEST)
        other = not found and (next(folder.sizes(), None) if is_url(place) else Path(place).exists())
    if not found:
        if other:
            raise StoreError(f"{place} exists and is not a store: choose another path; nothing was touched.")
        return
    if not overwrite:
        raise StoreError(f"{place} already holds a store: choose another path, or replace it with --overwrite.")


def create(place: str | Path, *, bar_ns: int, calendar: str, fields: Sequence[str], codec: str, kind: str) -> None:
    """An empty store, committed. `StoreError` when something is at `place`."""
    with building(place, empty_manifest(place, -1, bar_ns, calendar, fields, codec, kind), "create", False):
        pass


@contextlib.contextmanager
def new_store(
    path: str | Path,
    *,
    bar_ns: int,
    calendar: str,
    fields: Sequence[str],
    symbols: Sequence[str],
    ts: I64,
    overwrite: bool = False,
    codec: str = "blosc",
    volume_bits: int | None = None,
    what: str = "ingest",
) -> Iterator[StoreWriter]:
    """Build a whole store; it appears, or takes the place of the one at `path`, when the block ends without an error.

    A new one is built in a hidden folder beside `path` (behind a URL: in its place, its manifest last). With
    `overwrite` it becomes the next version of the store that is there, which can be rolled back to. Until then
    nothing changes, and what a killed writer leaves counts for nothing and goes with the next one. With
    `volume_bits`, 1 to 52, volume, and nothing else, is rounded to so many significant bits, now and in all later
    versions (`ticks.round_to_bits`).
    """
    check_times(ts)
    empty = empty_manifest(path, 0, bar_ns, calendar, fields, codec, "zarr", volume_bits)
    with building(path, empty, what, overwrite) as transaction:
        transaction.start([SymbolInfo(name, 0, 0, 0) for name in symbols], ts)
        writer = StoreWriter(transaction)
        yield writer
        writer.check_complete()


def empty_manifest(
    place: str | Path,
    version: int,
    bar_ns: int,
    calendar: str,
    fields: Sequence[str],
    codec: str,
    kind: str,
    volume_bits: int | None = None,
) -> Manifest:
    check_fields(fields)
    if codec not in CODECS:
        raise DataError(f"codec {codec!r} is not known: one of {', '.join(CODECS)}.")
    if volume_bits is not None and not 1 <= volume_bits <= 52:
        raise DataError(f"volume_bits = {volume_bits} is not allowed: 1 to 52 significant bits.")
    info = StoreInfo(
        path=str(place),
        id=secrets.token_hex(8),
        version=version,
        kind=kind,
        codec=codec,
        volume_bits=volume_bits,
        bar_ns=bar_ns,
        calendar=calendar,
        fields=tuple(name for name in FIELDS if name in fields),
        symbols=(),
        n_bars=0,
        history_bars=0,
        chunk=(CHUNK_SYMBOLS, HISTORY_BARS),
    )
    return Manifest(info, arrays_of(info.fields, together(codec)))


@contextlib.contextmanager
def building(place: str | Path, empty: Manifest, what: str, overwrite: bool) -> Iterator[Transaction]:
    """A transaction whose version holds nothing of what was at `place` before."""
    check_free(place, overwrite)
    folder = open_folder(place)
    with writing_errors(str(place)):
        if is_url(place) or folder.has(MANIFEST):
            with the_writer(folder, what), _committed(folder, _successor(folder, empty), what) as transaction:
                yield transaction
            return
        with appearing(Path(folder.place), what) as hidden, _committed(hidden, empty, what) as transaction:
            yield transaction


@contextlib.contextmanager
def appearing(path: Path, what: str) -> Iterator[Disk]:
    """A hidden folder that gets the name `path`, where nothing is yet, when the block ends without an error."""
    hidden = Disk(path.with_name(f".{path.name}.building"))
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name(f".{path.name}.lock"), what):
        check_free(path, overwrite=False)
        hidden.remove_all()  # of a writer that was killed: the lock was free
        try:
            yield hidden
            hidden.rename(path)
        except BaseException:
            hidden.remove_all()
            raise


def _successor(folder: Folder, empty: Manifest) -> Manifest:
    """`empty` as what follows the version at its place; of a format that is no longer read only the number."""
    if not folder.has(MANIFEST):
        return empty
    number = old_version(folder)
    if number is not None:
        return replace(empty, info=replace(empty.info, version=number))
    before = read_manifest(folder)
    if before.info.kind != empty.info.kind:
        raise StoreError(
            f"{folder.place} is a {before.info.kind} store: choose another path for a {empty.info.kind} one."
        )
    return replace(empty, info=replace(empty.info, id=before.info.id, version=before.info.version), log=before.log)


@contextlib.contextmanager
def _committed(folder: Folder, base: Manifest, what: str) -> Iterator[Transaction]:
    transaction = Transaction(folder, base)
    try:
        yield transaction
        transaction.commit(what, always=True)
    except BaseException:
        transaction.abort()
        raise


@contextlib.contextmanager
def the_writer(folder: Folder, what: str) -> Iterator[None]:
    """The lock, and what a writer that was killed left out of the way; its errors as `writing_errors`."""
    with writing_errors(folder.place), folder.locked(what) as taken_over:
        if taken_over and folder.has(MANIFEST) and old_version(folder) is None:
            folder.remove(uncommitted(folder, read_manifest(folder).info.version))
        yield


@contextlib.contextmanager
def writing_errors(place: str) -> Iterator[None]:
    """Disk full, no permission: a `StoreError` that says where."""
    try:
        yield
    except StoreError:
        raise
    except FileExistsError as error:
        raise StoreError(
            f"cannot write {place}: {error.filename} is in the way, left by a writer that was killed: "
            f"`atc-backtest store repair {place}` removes it. What was committed before is unchanged."
        ) from error
    except OSError as error:
        raise StoreError(f"cannot write {place}: {error}. What was committed before is unchanged.") from error
