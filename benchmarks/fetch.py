"""Fetching, many at once against one after another: 200 files from a server on this machine with 50 ms latency.

    python benchmarks/fetch.py

The server is a process of its own. Both ways are the same code with the same checks, checksum files
included, interleaved; the ratio is what counts.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import multiprocessing
import shutil
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

from measure import machine, medians

from atc_backtest.stores.fetch import FetchOptions, Job, fetch

TARGET = 5.0


def body(name: str, n_bytes: int) -> bytes:
    """Something that differs by file, whole lines."""
    line = hashlib.sha256(name.encode()).hexdigest().encode() + b"\n"
    return line * (n_bytes // len(line))


def serve(port: Connection, latency_s: float, n_bytes: int) -> None:
    """Every path is a file, each with its checksum file, after the latency."""
    from aiohttp import web

    async def reply(request: web.Request) -> web.Response:
        await asyncio.sleep(latency_s)
        name = request.path.removeprefix("/")
        of = name.removesuffix(".CHECKSUM")
        content = body(of, n_bytes)
        if of != name:
            content = f"{hashlib.sha256(content).hexdigest()}  {of}\n".encode()
        return web.Response(body=content)

    async def run() -> None:
        app = web.Application()
        app.router.add_get("/{name}", reply)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(run())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--files", type=int, default=200)
    options.add_argument("--kib", type=int, default=64)
    options.add_argument("--latency-ms", type=float, default=50.0)
    options.add_argument("--concurrency", type=int, default=8)
    options.add_argument("--rounds", type=int, default=1)
    asked = options.parse_args()
    here, there = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(there, asked.latency_ms / 1000, asked.kib << 10), daemon=True)
    server.start()
    base = f"http://127.0.0.1:{here.recv()}"
    jobs = [Job(f"{base}/{i:04}.csv", f"{i:04}.csv") for i in range(asked.files)]
    folder = Path(tempfile.mkdtemp(prefix="fetch-"))

    def run(concurrency: int) -> None:
        report = fetch(jobs, folder / "files", FetchOptions(concurrency, checksum=".CHECKSUM"))
        assert report.fetched == len(jobs), report
        shutil.rmtree(folder / "files")

    try:
        several = asked.concurrency
        seconds = medians({"one": lambda: run(1), "several": lambda: run(several), "32": lambda: run(32)}, asked.rounds)
    finally:
        server.terminate()
        server.join()
        shutil.rmtree(folder)
    print(f"# {machine()}; {asked.files} files of {asked.kib} KiB, latency {asked.latency_ms:g} ms\n")
    print("| connections | seconds | against one |\n|---|---|---|")
    for name, shown in (("one", "1"), ("several", str(several)), ("32", "32")):
        print(f"| {shown} | {seconds[name]:.2f} | {seconds['one'] / seconds[name]:.1f}x |")
    ratio = seconds["one"] / seconds["several"]
    print(f"\ntarget {TARGET:g}x with {several} connections: {'met' if ratio >= TARGET else 'MISSED'} ({ratio:.1f}x)")


if __name__ == "__main__":
    main()
