"""A download on disk: a hidden part beside its record, until it is verified and takes its name in one step.

.NAME.part        bytes so far
.NAME.part.json   which version of the file they are of, so that another version's bytes never follow them
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from atc_backtest.errors import StoreError

READ_BYTES = 1 << 20
PARQUET_MAGIC = b"PAR1"


class DamagedError(Exception):
    """A finished download that is not what it must be."""


class Part:
    """One file on its way. What is done to it may block: give it a thread, but for `append`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.final = folder / name
        self._bytes = folder / f".{name}.part"
        self._record = folder / f".{name}.part.json"

    @property
    def n_bytes(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return self._bytes.stat().st_size
        return 0

    def validator(self, url: str) -> str | None:
        """The version that the bytes are of; None where they cannot be gone on with.

        Bytes from before the machine last started may have been lost while the file kept its length.
        """
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
            fits = record["url"] == url and record["boot"] == _boot()
            return str(record["validator"]) if fits and self.n_bytes else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def begin(self, url: str, validator: str | None) -> None:
        """Nothing so far, of a version known by `validator`; None: it cannot be gone on with."""
        self.discard()
        if validator is not None:
            record = {"url": url, "validator": validator, "boot": _boot()}
            self._record.write_text(json.dumps(record), encoding="utf-8")

    def append(self) -> BinaryIO:
        return self._bytes.open("ab")

    def discard(self) -> None:
        self._bytes.unlink(missing_ok=True)
        self._record.unlink(missing_ok=True)

    def ends_within_a_line(self) -> bool:
        """Whether it is text that stops within a line."""
        if not self.final.name.lower().endswith(".csv") or not self.n_bytes:
            return False
        with self._bytes.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"

    def settle(self, sha256: str | None) -> None:
        """Verify, bring to disk, give the name. `DamagedError`, with the part gone, where it is not whole."""
        try:
            self._bytes.touch()  # an empty file is one, too
            if sha256 is None:
                check_structure(self._bytes, self.final.name)
            else:
                check_sha256(self._bytes, sha256)
        except DamagedError:
            self.discard()
            raise
        sync(self._bytes)
        self._bytes.replace(self.final)
        self._record.unlink(missing_ok=True)


def check_sha256(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise DamagedError(f"its SHA-256 is {found}, its checksum file says {sha256}")


def check_structure(path: Path, name: str) -> None:
    """What a kind of file tells of its own wholeness: sums inside zip and gzip, the end of a Parquet file."""
    ending = name.lower().rpartition(".")[2]
    try:
        if ending == "zip":
            with zipfile.ZipFile(path) as archive:
                bad = archive.testzip()
            if bad is not None:
                raise DamagedError(f"the zip archive's {bad} is damaged")
        elif ending == "gz":
            with gzip.open(path) as file:
                while file.read(READ_BYTES):
                    pass
        elif ending == "parquet":
            with path.open("rb") as file:
                head = file.read(len(PARQUET_MAGIC))
                file.seek(-min(len(PARQUET_MAGIC), path.stat().st_size), os.SEEK_END)
                if not head == file.read() == PARQUET_MAGIC:
                    raise DamagedError("it is no whole Parquet file")
    except (zipfile.BadZipFile, zlib.error, EOFError, gzip.BadGzipFile, NotImplementedError, RuntimeError) as error:
        raise DamagedError(f"it is no whole {ending} file ({error})") from error


def verifiable(name: str) -> bool:
    """Whether the kind of file tells of its own wholeness."""
    return name.lower().endswith((".zip", ".gz", ".parquet"))


def write_whole(path: Path, content: bytes) -> None:
    """Put a small file there in one step."""
    hidden = path.with_name(f".{path.name}.tmp")
    hidden.write_bytes(content)
    sync(hidden)
    hidden.replace(path)


def sync(path: Path) -> None:
    """Bring a file or a folder's names to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """The folder, made where it is not there, for this process alone. `StoreError` while another one fetches into it.

    The lock ends with its process, however that ends.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".fetch.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreError(
                f"another fetch is writing into {folder}: wait for it, or choose another folder."
            ) from error
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Disk full, no permission: a `StoreError` that says where."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"cannot write {path}: {error}. Whole files stay; give the command again to go on.") from error


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
