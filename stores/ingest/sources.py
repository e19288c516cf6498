"""Which files are read: files as named, folders searched for endings that are known."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from atc_backtest.errors import DataError

CSV_ENDINGS = (".csv", ".csv.gz")
ENDINGS = (*CSV_ENDINGS, ".zip", ".parquet")
SKIPPED = ("__MACOSX", ".", "_")
"""Beginnings of names that folders and archives hold besides data: hidden files, resource forks, markers."""


@dataclass(frozen=True)
class Source:
    """One table to read: a file, or one CSV inside a zip archive. `stem` is its name without the ending.

    An archive with a single CSV gives that its own name; of several, each has the name it has inside.
    """

    path: Path
    member: str | None
    stem: str

    @property
    def label(self) -> str:
        """How messages name it."""
        return str(self.path) if self.member is None else f"{self.path}:{self.member}"

    @property
    def is_parquet(self) -> bool:
        return self.path.name.lower().endswith(".parquet")


def find_sources(paths: Sequence[Path]) -> list[Source]:
    """Every table below `paths`, in the order given, folders by name; a file named twice is read once.

    `DataError` for a path that is missing, of an unknown ending, a broken archive, or when nothing is found.
    """
    sources: dict[tuple[Path, str | None], Source] = {}
    for path in paths:
        for file in _files(path):
            for source in _members(file) if _ending(file.name) == ".zip" else [_plain(file)]:
                sources.setdefault((file.resolve(), source.member), source)
    if not sources:
        named = ", ".join(str(path) for path in paths) or "no path was given"
        raise DataError(f"nothing to read in {named}: give files or folders of {', '.join(ENDINGS)}.")
    return list(sources.values())


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            inner = file.relative_to(path).parts
            if _ending(file.name) and file.is_file() and not any(part.startswith(SKIPPED) for part in inner):
                yield file
    elif not path.exists():
        raise DataError(f"{path} does not exist: give files or folders of {', '.join(ENDINGS)}.")
    elif _ending(path.name) is None:
        raise DataError(f"{path} has an ending that is not known: {', '.join(ENDINGS)} are.")
    else:
        yield path


def _ending(name: str) -> str | None:
    return next((ending for ending in reversed(ENDINGS) if name.lower().endswith(ending)), None)


def _stem(name: str) -> str:
    return name[: -len(_ending(name) or "")]


def _plain(file: Path) -> Source:
    return Source(file, None, _stem(file.name))


def _members(file: Path) -> list[Source]:
    try:
        with zipfile.ZipFile(file) as archive:
            names = [name for name in archive.namelist() if _is_csv(name)]
    except (zipfile.BadZipFile, zlib.error, OSError) as error:
        raise DataError(
            f"{file} is no whole zip archive ({error}): fetch or make it again, or leave it out."
        ) from error
    if not names:
        raise DataError(f"{file} holds no .csv file: put CSV files into it, or leave it out.")
    if len(names) == 1:
        return [Source(file, names[0], _stem(file.name))]
    return [Source(file, name, _stem(Path(name).name)) for name in sorted(names)]


def _is_csv(name: str) -> bool:
    parts = Path(name).parts
    return name.lower().endswith(".csv") and not any(part.startswith(SKIPPED) for part in parts)
