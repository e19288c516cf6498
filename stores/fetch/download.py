"""One file over HTTP: tried again where that may help, gone on with where that is safe, verified before it counts."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atc_backtest.errors import UnavailableError
from atc_backtest.stores.fetch.options import Fetched, FetchOptions
from atc_backtest.stores.fetch.partial import (
    DamagedError,
    Part,
    check_sha256,
    verifiable,
    write_whole,
    writing,
)
from atc_backtest.stores.fetch.templates import PRESET_CHECKSUM, Job

if TYPE_CHECKING:
    import aiohttp

ABSENT = (404, 410)
AGAIN = (408, 425, 429)
NEVER = (501, 505)
"""Of the server's own errors, 500 and above, those that stay."""
CHECKSUM_BYTES = 1 << 16
STRONG_AFTER_S = 60
"""A date of change tells versions apart once it is so old: an earlier one may be of the same second as the next."""


class _AgainError(Exception):
    """This try failed in a way that another may not."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class _AbsentError(Exception):
    """The server has no such file."""


class _RefusedError(Exception):
    """This file cannot be had, however often it is tried."""


def load_aiohttp() -> Any:
    """The library, or `UnavailableError` with the command that brings it."""
    try:
        import aiohttp
    except ImportError as error:
        raise UnavailableError("fetch needs aiohttp: pip install 'atc-backtest[fetch]'") from error
    return aiohttp


@asynccontextmanager
async def open_session(options: FetchOptions) -> AsyncIterator[aiohttp.ClientSession]:
    """Connections, never more than `concurrency`; bodies as they were sent."""
    web = load_aiohttp()
    timeout = web.ClientTimeout(
        total=options.request_s, sock_connect=options.timeout_s, sock_read=options.timeout_s, connect=None
    )
    connector = web.TCPConnector(limit=options.concurrency)
    headers = {"Accept-Encoding": "identity", "User-Agent": "atc-backtest"}
    async with web.ClientSession(
        connector=connector, timeout=timeout, headers=headers, auto_decompress=False, trust_env=True
    ) as session:
        yield session


@dataclass
class Pause:
    """When a server says how long to wait, all wait."""

    until: float = 0.0

    def hold(self, seconds: float) -> None:
        self.until = max(self.until, asyncio.get_running_loop().time() + seconds)

    async def over(self) -> None:
        while (left := self.until - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(left)


@dataclass
class Downloader:
    """Downloads into one folder; `received` is told of bytes as they come."""

    session: aiohttp.ClientSession
    folder: Path
    options: FetchOptions
    received: Callable[[int], None]
    pause: Pause = field(default_factory=Pause)

    async def get(self, job: Job) -> Fetched:
        """One file, every try of it. `StoreError` where the disk refuses it."""
        with writing(self.folder / job.name):
            return await self._get(job)

    async def _get(self, job: Job) -> Fetched:
        part = Part(self.folder, job.name)
        done = Fetched(job.name, job.url, "failed")
        try:
            if await self._is_there(job, part):
                return replace(done, status="skipped", path=part.final, tries=0)
            for turn in range(self.options.retries + 1):
                done = replace(done, tries=turn + 1)
                await self.pause.over()
                try:
                    return await self._try(job, part, done)
                except _AgainError as again:
                    done = replace(done, reason=str(again))
                    if again.wait_s > self.options.most_wait_s:
                        raise _RefusedError(f"{again}; the server asks to wait {again.wait_s:.0f} s") from again
                    if again.wait_s:
                        self.pause.hold(again.wait_s)
                    if turn < self.options.retries:
                        await asyncio.sleep(self._backoff(turn))
        except _AbsentError:
            return replace(done, status="missing", reason="")
        except _RefusedError as refused:
            return replace(done, reason=str(refused))
        return done

    def _backoff(self, turn: int) -> float:
        longest: float = min(self.options.backoff_s * 2.0**turn, self.options.most_wait_s)
        return longest * random.uniform(0.5, 1)

    async def _is_there(self, job: Job, part: Part) -> bool:
        """Whether the file is there already. One that disagrees with its checksum file is not."""
        if not part.final.is_file():
            return False
        beside = self._beside(job)
        for turn in range(self.options.retries + 1):
            try:
                if beside.is_file():
                    sha256: str | None = _sha256_in(await asyncio.to_thread(beside.read_bytes), job)
                else:
                    sha256 = await self._checksum(job)
                if sha256 is not None:
                    await asyncio.to_thread(check_sha256, part.final, sha256)
                return True
            except DamagedError:
                return False
            except _AgainError as again:
                if beside.is_file():  # it is no checksum file: the file and this are fetched again
                    return False
                if turn == self.options.retries:
                    raise _RefusedError(f"it is there, but not verified: {again}") from again
                await asyncio.sleep(max(self._backoff(turn), min(again.wait_s, self.options.most_wait_s)))
        return False

    async def _try(self, job: Job, part: Part, done: Fetched) -> Fetched:
        resumed, n_bytes = await self._body(job, part)
        sha256 = await self._checksum(job)
        if sha256 is None and await asyncio.to_thread(part.ends_within_a_line):
            await self._nothing_follows(job, part)
        try:
            await asyncio.to_thread(part.settle, sha256)
        except DamagedError as damaged:
            raise _AgainError(str(damaged)) from damaged
        return replace(done, status="fetched", path=part.final, n_bytes=n_bytes, resumed=resumed, reason="")

    async def _body(self, job: Job, part: Part) -> tuple[bool, int]:
        """Fill the part to its end: whether that went on from bytes already here, and how many came now."""
        validator = part.validator(job.url)
        start = 0 if validator is None else part.n_bytes
        headers = {} if validator is None else {"Range": f"bytes={start}-", "If-Range": validator}
        async with self._asked(job.url, headers) as reply:
            if validator is not None and reply.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                if reply.headers.get("Content-Range", "").strip() == f"bytes */{start}":
                    return True, 0  # all of it was here, but for its name
                part.discard()
                raise _AgainError("the part here is longer than the file: from the start")
            goes_on = validator is not None and reply.status == HTTPStatus.PARTIAL_CONTENT
            if not goes_on:
                _check_status(reply)
            total = _length(reply, start if goes_on else 0, job)
            if goes_on and not _same_version(validator or "", reply):
                part.discard()
                raise _AgainError("the file changed while it was downloaded: from the start")
            if not goes_on:
                part.begin(job.url, _validator(reply))
            n_bytes = await self._stream(reply, part)
            found = part.n_bytes
        if total is not None and found != total:
            if found > total:
                part.discard()
            raise _AgainError(f"{found} bytes came of {total}")
        return goes_on, n_bytes

    async def _stream(self, reply: aiohttp.ClientResponse, part: Part) -> int:
        n_bytes = 0
        with part.append() as file:
            chunks = reply.content.iter_any()
            while True:
                try:
                    chunk = await anext(chunks, None)
                except (load_aiohttp().ClientError, ConnectionError, TimeoutError) as error:
                    raise _AgainError(f"the connection broke after {n_bytes} bytes: {_said(error)}") from error
                if chunk is None:
                    return n_bytes
                file.write(chunk)
                n_bytes += len(chunk)
                self.received(len(chunk))

    async def _checksum(self, job: Job) -> str | None:
        """The SHA-256 that the server says the file has, its file kept beside; None where none is asked for."""
        beside = self._beside(job)
        if self.options.checksum is None and not beside.is_file():
            return None
        url = job.url + beside.name.removeprefix(job.name)
        try:
            async with self._asked(url, {}) as reply:
                _check_status(reply)
                content = await self._small(reply)
        except _AbsentError as absent:
            raise _RefusedError(f"there is no checksum file {url}: without one it is not verified") from absent
        sha256 = _sha256_in(content, job)
        await asyncio.to_thread(write_whole, beside, content)
        return sha256

    def _beside(self, job: Job) -> Path:
        """Where the file's checksum file is kept: what is there once is asked for again."""
        return self.folder / (job.name + (self.options.checksum or PRESET_CHECKSUM))

    async def _small(self, reply: aiohttp.ClientResponse) -> bytes:
        try:
            content = await reply.content.read(CHECKSUM_BYTES)
            while not reply.content.at_eof() and len(content) < CHECKSUM_BYTES:
                content += await reply.content.read(CHECKSUM_BYTES)
        except (load_aiohttp().ClientError, ConnectionError, TimeoutError) as error:
            raise _AgainError(f"its checksum file broke off: {_said(error)}") from error
        return content

    async def _nothing_follows(self, job: Job, part: Part) -> None:
        """Ask for bytes behind the end of text that stops within a line: too small a length cuts it silently."""
        async with self._asked(job.url, {"Range": f"bytes={part.n_bytes}-"}) as reply:
            more = reply.status == HTTPStatus.PARTIAL_CONTENT
        if more:
            n_bytes = part.n_bytes
            part.discard()
            raise _AgainError(f"the server says it has {n_bytes} bytes, but more follow")

    @asynccontextmanager
    async def _asked(self, url: str, headers: dict[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        web = load_aiohttp()
        from yarl import URL  # aiohttp's own

        try:
            reply = await self.session.get(URL(url, encoded=True), headers=headers)
        except (web.InvalidURL, web.TooManyRedirects, web.ClientSSLError) as error:
            raise _RefusedError(_said(error)) from error
        except (web.ClientError, ConnectionError, TimeoutError) as error:
            raise _AgainError(_said(error)) from error
        async with reply:
            yield reply


def _check_status(reply: aiohttp.ClientResponse) -> None:
    if reply.status == HTTPStatus.OK:
        return
    if reply.status in ABSENT:
        raise _AbsentError
    said = f"HTTP {reply.status} {reply.reason or ''}".rstrip()
    if reply.status in AGAIN or (reply.status >= 500 and reply.status not in NEVER):
        raise _AgainError(said, _retry_after(reply))
    raise _RefusedError(said)


def _retry_after(reply: aiohttp.ClientResponse) -> float:
    """Seconds that the server asks to wait, 0 where it says nothing that is understood."""
    text = reply.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}", text):
        return float(text)
    when, now = _date(text), _date(reply.headers.get("Date", ""))
    return 0.0 if when is None else max(when - (time.time() if now is None else now), 0.0)


def _length(reply: aiohttp.ClientResponse, start: int, job: Job) -> int | None:
    """Bytes of the whole file, as the server says; None where chunks or the file itself tell its end."""
    encoding = reply.headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity" and not job.name.lower().endswith(".gz"):
        raise _RefusedError(f"the server sends it encoded as {encoding}, though asked not to")
    if reply.status == HTTPStatus.PARTIAL_CONTENT:
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", reply.headers.get("Content-Range", "").strip())
        if found is None or int(found[1]) != start or int(found[2]) + 1 != int(found[3]):
            raise _AgainError(f"the server sends another range than asked for: {reply.headers.get('Content-Range')}")
        return int(found[3])
    text = reply.headers.get("Content-Length", "")
    if text.isdigit():
        return int(text)
    if "chunked" not in reply.headers.get("Transfer-Encoding", "").lower() and not verifiable(job.name):
        raise _RefusedError("the server says no length: whether all of it came could not be told")
    return None


def _validator(reply: aiohttp.ClientResponse) -> str | None:
    """What tells this version of the file from others, fit for If-Range."""
    tag = reply.headers.get("ETag", "")
    if tag.startswith('"'):
        return tag
    changed = reply.headers.get("Last-Modified", "")
    when, now = _date(changed), _date(reply.headers.get("Date", ""))
    return changed if when is not None and now is not None and now - when >= STRONG_AFTER_S else None


def _same_version(validator: str, reply: aiohttp.ClientResponse) -> bool:
    """A reply with a range repeats the file's tag, its date it may leave out."""
    found = _validator(reply)
    return found == validator or (found is None and not validator.startswith('"'))


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError, IndexError):
        return None


def _sha256_in(content: bytes, job: Job) -> str:
    """The sum in a file as sha256sum writes it: of the line that names the file, or of a line alone."""
    wanted = {job.name, job.url.rpartition("/")[2]}
    lines = [line.split() for line in content.decode("utf-8", "replace").splitlines() if line.strip()]
    for line in lines:
        named = line[1].lstrip("*").rpartition("/")[2] in wanted if len(line) > 1 else len(lines) == 1
        if named and re.fullmatch(r"[0-9a-fA-F]{64}", line[0]):
            return line[0].lower()
    raise _AgainError(f"its checksum file has no SHA-256 for {job.name}")


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
