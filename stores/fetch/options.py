"""What a fetch is told, and what it tells."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from atc_backtest.errors import ConfigError

Status = Literal["fetched", "skipped", "missing", "failed"]


@dataclass(frozen=True)
class FetchOptions:
    """How files are asked for. `ConfigError` for a value out of range.

    concurrency   connections at most, at any time
    timeout_s     without a byte, or until connected, before a request is given up and tried again
    request_s     a request as a whole
    retries       further tries after the first
    backoff_s     before the first of them; doubled for each next, times a random 0.5 to 1
    most_wait_s   before any; a server whose Retry-After asks for more fails the file
    checksum      ending of the file beside each that holds its SHA-256, e.g. .CHECKSUM; None: there is none
    """

    concurrency: int = 8
    timeout_s: float = 30.0
    request_s: float = 3600.0
    retries: int = 5
    backoff_s: float = 0.5
    most_wait_s: float = 120.0
    checksum: str | None = None

    def __post_init__(self) -> None:
        least: dict[str, float] = {"concurrency": 1, "retries": 0}
        for name in ("concurrency", "retries"):
            if getattr(self, name) < least[name]:
                raise ConfigError(f"{name} = {getattr(self, name)} is not allowed: at least {least[name]}.")
        for name in ("timeout_s", "request_s", "most_wait_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} = {getattr(self, name)} is not allowed: more than 0 seconds.")
        if not self.backoff_s >= 0:
            raise ConfigError(f"backoff_s = {self.backoff_s} is not allowed: 0 seconds or more.")
        if self.checksum is not None and not self.checksum.startswith("."):
            raise ConfigError(f"checksum {self.checksum!r} is not an ending: it starts with a dot, e.g. .CHECKSUM.")


@dataclass(frozen=True)
class Fetched:
    """What became of one file.

    fetched   `path` is whole and verified, downloaded now; `n_bytes` came in the try that ended it
    skipped   `path` was there already, and agrees with its checksum where it has one
    missing   the server has no such file: `path` is None
    failed    `reason` says why, after every try: `path` is None
    """

    name: str
    url: str
    status: Status
    path: Path | None = None
    n_bytes: int = 0
    tries: int = 1
    resumed: bool = False
    reason: str = ""


@dataclass(frozen=True)
class FetchReport:
    """What a fetch did. `missing` and `failed` list files, `resumed` counts downloads that went on from a part."""

    folder: Path
    fetched: int = 0
    skipped: int = 0
    resumed: int = 0
    n_bytes: int = 0
    seconds: float = 0.0
    missing: tuple[str, ...] = ()
    failed: tuple[Fetched, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Nothing failed, and not every file is missing."""
        return not self.failed and bool(self.fetched or self.skipped or not self.missing)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        failed = [{"name": f.name, "url": f.url, "tries": f.tries, "reason": f.reason} for f in self.failed]
        plain = asdict(self) | {"folder": str(self.folder), "missing": list(self.missing), "failed": failed}
        return plain | {"notes": list(self.notes), "ok": self.ok}
