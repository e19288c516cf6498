"""An archive on 127.0.0.1 that is as bad as asked: slow, cut, busy, lying, changing its mind."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from atc_backtest.stores.fetch import FetchOptions

QUICK = FetchOptions(backoff_s=0.001, timeout_s=5)
"""How it is asked where nothing is tried again for long."""

BODY = b"".join(b"%d,1,2,0.5,1.5,%d\n" % (60_000 * i, i) for i in range(20_000))


@dataclass(frozen=True)
class Trouble:
    """What happens to one request.

    status    reply with status `n` and `headers`
    hang_up   close without a reply
    drop      send `n` bytes of the body, then reset the connection
    cut       send `n` bytes of the body, then close as if that were all
    stall     send `n` bytes of the body, then nothing
    longer    say that the body is `n` bytes longer than it is, then close
    shorter   say that the body is `n` bytes shorter than it is
    whole     send all of it, whatever range is asked for
    splice    send the range asked for, whichever version If-Range names
    shifted   send a range that begins `n` bytes after the one asked for
    no_length neither length nor chunks: the end of the connection is the end of the body
    gzip      say that the body is encoded
    """

    kind: str
    n: int = 0
    headers: tuple[tuple[str, str], ...] = ()


@dataclass
class File:
    """A body; `troubles` befall its requests in turn, `then` is the body after the first of them."""

    body: bytes
    troubles: list[Trouble] = field(default_factory=list)
    then: bytes | None = None
    tagged: bool = True

    @property
    def tag(self) -> str:
        return '"' + hashlib.md5(self.body).hexdigest() + '"'


class Archive:
    """Files by path, what was asked for, and how many connections there were at most."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.latency_s = 0.0
        self.chunk_s = 0.0
        self.peak = 0
        self.url = ""
        self._open = 0

    def put(self, path: str, body: bytes, *troubles: Trouble, then: bytes | None = None, tagged: bool = True) -> None:
        self.files[path] = File(body, list(troubles), then, tagged)

    def put_sum(self, path: str, body: bytes, *troubles: Trouble) -> None:
        """A checksum file of `body` beside `path`."""
        line = f"{hashlib.sha256(body).hexdigest()}  {path.rpartition('/')[2]}\n"
        self.put(f"{path}.CHECKSUM", line.encode(), *troubles)

    def times_asked(self, path: str) -> int:
        return sum(asked == path for asked, _ in self.asked)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        self.peak = max(self.peak, self._open)
        try:
            while await self._reply(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._open -= 1
            writer.close()
            with suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _reply(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection is kept."""
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        path = lines[0].split(" ")[1]
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:] if line)}
        self.asked.append((path, headers))
        await asyncio.sleep(self.latency_s)
        file = self.files.get(path)
        if file is None:
            return await self._send(writer, "404 Not Found", {"Content-Length": "0"}, b"")
        body, tag = file.body, file.tag
        trouble = file.troubles.pop(0) if file.troubles else Trouble("none")
        if file.then is not None:
            file.body, file.then = file.then, None
        if trouble.kind == "hang_up":
            return False
        if trouble.kind == "status":
            return await self._send(
                writer, f"{trouble.n} Trouble", dict(trouble.headers) | {"Content-Length": "0"}, b""
            )
        status, said = "200 OK", {"ETag": tag} if file.tagged else {}
        asked = headers.get("range")
        if asked and trouble.kind != "whole" and (trouble.kind == "splice" or headers.get("if-range", tag) == tag):
            start = int(asked.removeprefix("bytes=").rstrip("-")) + (trouble.n if trouble.kind == "shifted" else 0)
            if start >= len(body):
                said |= {"Content-Range": f"bytes */{len(body)}", "Content-Length": "0"}
                return await self._send(writer, "416 Range Not Satisfiable", said, b"")
            said["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            status, body = "206 Partial Content", body[start:]
        length = len(body) + (trouble.n if trouble.kind == "longer" else -trouble.n if trouble.kind == "shorter" else 0)
        if trouble.kind != "no_length":
            said["Content-Length"] = str(length)
        if trouble.kind == "gzip":
            said["Content-Encoding"] = "gzip"
        if trouble.kind not in ("drop", "cut", "stall"):
            await self._send(writer, status, said, body)
            return trouble.kind not in ("longer", "no_length")
        await self._send(writer, status, said, body[: trouble.n])
        if trouble.kind == "stall":
            await asyncio.sleep(30)
        if trouble.kind == "drop":
            await asyncio.sleep(0.02)  # or the reset would overtake the bytes
            writer.transport.abort()
        return False

    async def _send(self, writer: asyncio.StreamWriter, status: str, headers: dict[str, str], body: bytes) -> bool:
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"HTTP/1.1 {status}\r\n{head}\r\n".encode())
        step = 1 << 14 if self.chunk_s else max(len(body), 1)
        for at in range(0, len(body), step):
            writer.write(body[at : at + step])
            await writer.drain()
            await asyncio.sleep(self.chunk_s)
        await writer.drain()
        return True


@contextmanager
def archive_server() -> Iterator[Archive]:
    """An archive that is served by a thread while the block runs."""
    archive = Archive()
    ready, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def run() -> None:
        server = await asyncio.start_server(archive.serve, "127.0.0.1", 0)
        archive.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        await stop.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def work() -> None:
        loop.run_until_complete(run())
        loop.close()

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait()
    try:
        yield archive
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def visible(folder: Path) -> set[str]:
    """Names that users see."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def hidden(folder: Path) -> set[str]:
    """Other names, but for the lock."""
    return {path.name for path in folder.iterdir() if path.name.startswith(".")} - {".fetch.lock"}
