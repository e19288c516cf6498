"""Which files are read: files as named, folders searched for endings that are known."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from atc_backtest.errors import DataError
from atc_backtest.stores.ingest.names import Known, LeanName, beside_trades, known, lean

CSV_ENDINGS = (".csv", ".csv.gz")
JSON_ENDINGS = (".json", ".json.gz")
ARROW_ENDINGS = (".feather", ".arrow")
ENDINGS = (*CSV_ENDINGS, ".zip", ".parquet", *ARROW_ENDINGS, *JSON_ENDINGS)
SKIPPED = ("__MACOSX", ".", "_")
"""Beginnings of names that folders and archives hold besides data: hidden files, resource forks, markers."""

BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, struct.error, OSError, RuntimeError, ValueError, OverflowError)
"""What a damaged archive raises; RuntimeError: a member that needs a password or a method that is not known."""


@dataclass(frozen=True)
class Source:
    """One table to read: a file, or one CSV inside a zip archive. `stem` is its name without the ending.

    An archive with a single CSV gives that its own name; of several, each has the name it has inside. `known`
    and `lean` are what the names of well-known archives tell.
    """

    path: Path
    member: str | None
    stem: str
    known: Known | None = None
    lean: LeanName | None = None

    @property
    def label(self) -> str:
        """How messages name it."""
        return str(self.path) if self.member is None else f"{self.path}:{self.member}"

    @property
    def ending(self) -> str:
        return _ending(self.path.name) or ""


@dataclass(frozen=True)
class Wanted:
    """What is read of a table, columns by their places.

    texts        columns that come as they are; of text, as strings
    numbers      columns that come as float64, after those
    batch_bytes  about how much at a time
    typed        columns of `texts` that come in this type instead, in those batches where all of it is of it
    ahead        threads that parse the batches to come
    """

    texts: Sequence[int]
    numbers: Sequence[int]
    batch_bytes: int
    typed: Mapping[int, pa.DataType] = field(default_factory=dict)
    ahead: int = 0


@contextmanager
def unless_damaged(source: Source, errors: tuple[type[Exception], ...], kind: str = "") -> Iterator[None]:
    """What a damaged file raises becomes a `DataError` that names it; a `DataError` stays as it is."""
    try:
        yield
    except DataError:
        raise
    except errors as error:
        raise DataError(
            f"{source.label} cannot be read{kind} ({str(error)[:300]}): mend it, make it again, or leave it out."
        ) from error


@dataclass
class Found:
    """Sources in the order they are read, and what was passed over, by the reason."""

    sources: list[Source] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=dict)


def find_sources(paths: Iterable[Path]) -> Found:
    """Every table below `paths`, in the order given, folders by name; a file named twice is read once.

    `DataError` for a path that is missing, of an unknown ending, a broken archive, or when nothing is found.
    """
    found = Found()
    for _ in each_source(paths, found):
        pass
    return found


def each_source(paths: Iterable[Path], found: Found) -> Iterator[Source]:
    """`find_sources` one by one, as `paths` yields them; `found` grows with it."""
    seen: set[tuple[Path, str | None]] = set()
    named: list[Path] = []
    for path in paths:
        named.append(path)
        for file in _files(path, found.skipped):
            for source in _members(file) if _ending(file.name) == ".zip" else [_plain(file)]:
                if source.known is not None and source.known.skip is not None:
                    found.skipped.setdefault(source.known.skip, []).append(source.label)
                elif (place := (file.resolve(), source.member)) not in seen:
                    seen.add(place)
                    found.sources.append(source)
                    yield source
    if not found.sources:
        told = ", ".join(str(path) for path in named) or "no path was given"
        skipped = "".join(f" {len(labels)} files were passed over: {why}." for why, labels in found.skipped.items())
        raise DataError(f"nothing to read in {told}: give files or folders of {', '.join(ENDINGS)}.{skipped}")


def _files(path: Path, skipped: dict[str, list[str]]) -> Iterator[Path]:
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if _is_data(file, path)]
        quotes = beside_trades(files)
        for file in files:
            if file in quotes:
                skipped.setdefault("quotes of symbols whose trades are beside them", []).append(str(file))
            else:
                yield file
    elif not path.exists():
        raise DataError(f"{path} does not exist: give files or folders of {', '.join(ENDINGS)}.")
    elif _ending(path.name) is None:
        raise DataError(f"{path} has an ending that is not known: {', '.join(ENDINGS)} are.")
    else:
        yield path


def _is_data(file: Path, folder: Path) -> bool:
    """Of a folder's JSON files, those that freqtrade names: others are settings and notes."""
    ending = _ending(file.name)
    if ending is None or any(part.startswith(SKIPPED) for part in file.relative_to(folder).parts):
        return False
    return file.is_file() and (ending not in JSON_ENDINGS or known(_stem(file.name), ending) is not None)


def _ending(name: str) -> str | None:
    return next((ending for ending in reversed(ENDINGS) if name.lower().endswith(ending)), None)


def _stem(name: str) -> str:
    return name[: -len(_ending(name) or "")]


def _plain(file: Path) -> Source:
    stem = _stem(file.name)
    return Source(file, None, stem, known(stem, _ending(file.name) or ""))


def _members(file: Path) -> list[Source]:
    try:
        with zipfile.ZipFile(file) as archive:
            names = [name for name in archive.namelist() if _is_csv(name)]
    except BROKEN_ZIP as error:
        raise DataError(
            f"{file} is no whole zip archive ({str(error)[:200]}): fetch or make it again, or leave it out."
        ) from error
    if not names:
        raise DataError(f"{file} holds no .csv file: put CSV files into it, or leave it out.")
    doubled = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if doubled is not None:
        raise DataError(f"{file} holds {doubled!r} twice: make the archive again, or leave it out.")
    if len(names) == 1:
        stem = _stem(file.name)
        return [Source(file, names[0], stem, known(stem, ".zip"), lean(file, names[0]))]
    return [
        Source(file, name, _stem(Path(name).name), known(_stem(Path(name).name), ".csv"), lean(file, name))
        for name in sorted(names)
    ]


def _is_csv(name: str) -> bool:
    parts = Path(name).parts
    return name.lower().endswith(".csv") and not any(part.startswith(SKIPPED) for part in parts)
