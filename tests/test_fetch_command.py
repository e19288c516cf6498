"""The fetch command as processes run it: killed, interrupted, into a store, and its exit codes."""

from __future__ import annotations

import io
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from archive_server import Archive, Trouble, hidden, visible
from typer.testing import CliRunner

from atc_backtest.cli import app
from atc_backtest.stores.fetch import PRESETS


def command(archive: Archive, folder: Path, *more: str) -> list[str]:
    url = f"{archive.url}/{{symbol}}-{{date}}.csv"
    days = ["--start", "2024-01-01", "--end", "2024-01-04"]
    return [sys.executable, "-m", "atc_backtest", "fetch", url, "--symbols", "A,B", *days, "--out", str(folder), *more]


@pytest.mark.slow
def test_killed_at_any_moment_a_rerun_completes(archive: Archive, tmp_path: Path) -> None:
    bodies = {f"{s}-2024-01-0{d}.csv": random.Random(d).randbytes(200_000) + b"\n" for s in "AB" for d in range(1, 5)}
    for name, body in bodies.items():
        archive.put(f"/{name}", body)
        archive.put_sum(f"/{name}", body)
    archive.chunk_s = 0.02
    args = command(archive, tmp_path, "--checksum", ".CHECKSUM", "--concurrency", "3", "--json")
    moments, resumed = random.Random(5), 0
    for _ in range(4):
        started = len(archive.asked)
        process = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(archive.asked) == started:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        for name in visible(tmp_path):
            if name in bodies:
                assert (tmp_path / name).read_bytes() == bodies[name]
    done = subprocess.run(args, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    resumed += report["resumed"]
    assert report["fetched"] + report["skipped"] == 8
    assert {name: (tmp_path / name).read_bytes() for name in bodies} == bodies
    assert hidden(tmp_path) == set()
    assert any("range" in asked for _, asked in archive.asked)


def test_interrupted_it_leaves_what_can_be_gone_on_with(archive: Archive, tmp_path: Path) -> None:
    body = random.Random(1).randbytes(2_000_000) + b"\n"
    archive.put("/A-2024-01-01.csv", body)
    archive.chunk_s = 0.05
    process = subprocess.Popen(command(archive, tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    part = tmp_path / ".A-2024-01-01.csv.part"
    while not (part.exists() and part.stat().st_size > 100_000):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert said == "interrupted.\n"
    archive.chunk_s = 0
    done = subprocess.run(command(archive, tmp_path), capture_output=True, text=True, check=True)
    assert "(1 gone on with)" in done.stdout
    assert "missing  7: A-2024-01-02.csv" in done.stdout
    assert (tmp_path / "A-2024-01-01.csv").read_bytes() == body


PEAK = """
import re, sys
from pathlib import Path
from atc_backtest.cli import app
app(sys.argv[1:], standalone_mode=False)
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1], file=sys.stderr)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(archive: Archive, tmp_path: Path) -> None:
    peaks = []
    for mib in (1, 128):
        archive.put("/A-2024-01-01.csv", b"0123456,7890123\n" * (mib << 16))
        args = [sys.executable, "-c", PEAK, *command(archive, tmp_path / str(mib), "--json")[3:]]
        done = subprocess.run(args, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["n_bytes"] == mib << 20
        peaks.append(int(done.stderr) / 1024)
    assert peaks[1] - peaks[0] < 16


def test_a_full_disk_is_said_and_gone_on_from(archive: Archive, tmp_path: Path) -> None:
    body = random.Random(1).randbytes(500_000) + b"\n"
    archive.put("/A-2024-01-01.csv", body)
    limit = f"ulimit -f 200; exec {shlex.join(command(archive, tmp_path))}"  # blocks of 512 or 1,024 bytes
    full = subprocess.run(["sh", "-c", limit], capture_output=True, text=True, check=False)
    assert full.returncode == 3
    assert full.stderr.startswith(f"error: cannot write {tmp_path}/A-2024-01-01.csv")
    assert visible(tmp_path) == set()
    done = subprocess.run(command(archive, tmp_path), capture_output=True, text=True, check=True)
    assert "(1 gone on with)" in done.stdout
    assert (tmp_path / "A-2024-01-01.csv").read_bytes() == body


def test_the_command_into_a_store_and_its_exit_codes(archive: Archive, tmp_path: Path) -> None:
    day_ms = 86_400_000
    header = b"time,open,high,low,close,volume\n"
    for symbol in "AB":
        for day in range(4):
            rows = (b"%d,1,2,0.5,1.5,7\n" % (1_704_067_200_000 + day * day_ms + i * 3_600_000) for i in range(24))
            archive.put(f"/{symbol}-2024-01-0{day + 1}.csv", header + b"".join(rows))
    store = tmp_path / "p.zarr"
    into = command(archive, tmp_path / "files", "--store", str(store), "--json")
    archive.files["/B-2024-01-02.csv"].troubles = [Trouble("status", 403)]
    failed = subprocess.run(into, capture_output=True, text=True, check=False)
    assert failed.returncode == 3
    assert [file["name"] for file in json.loads(failed.stdout)["failed"]] == ["B-2024-01-02.csv"]
    assert not store.exists()
    done = subprocess.run(into, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert (report["fetched"], report["skipped"]) == (1, 7)
    assert [(s["name"], s["rows_kept"]) for s in report["ingest"]["symbols"]] == [("A", 96), ("B", 96)]
    archive.files.clear()
    nothing = subprocess.run(command(archive, tmp_path / "none"), capture_output=True, text=True, check=False)
    assert nothing.returncode == 3
    assert "none of them is there" in nothing.stdout


def kline_zip(name: str, first_day: int, days: int) -> bytes:
    """Hourly klines as Binance's archive has them, without a header."""
    begin = 1_704_067_200_000 + first_day * 86_400_000
    times = [begin + 3_600_000 * i for i in range(24 * days)]
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as file:
        lines = "".join(f"{at},1,2,0.5,1.5,7,{at + 3_599_999},8,9,3,4,0\n" for at in times)
        file.writestr(name.replace(".zip", ".csv"), lines)
    return held.getvalue()


def test_a_preset_into_a_store(archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tuple(url.replace("https://data.binance.vision", archive.url) for url in PRESETS["binance-um"])
    monkeypatch.setitem(PRESETS, "binance-um", here)
    for name, first_day, days in (("2024-01", 0, 31), *((f"2024-02-{d:02}", 30 + d, 1) for d in range(1, 30))):
        folder = "monthly" if days > 1 else "daily"
        path = f"/data/futures/um/{folder}/klines/BTCUSDT/1h/BTCUSDT-1h-{name}.zip"
        body = kline_zip(path.rpartition("/")[2], first_day, days)
        archive.put(path, body)
        archive.put_sum(path, body)
    args = ["fetch", "binance-um", "--symbols", "BTCUSDT,NONEUSDT", "--bar", "1h", "--start", "2024-01"]
    args += ["--end", "2024-02", "--out", str(tmp_path / "files"), "--store", str(tmp_path / "p.zarr"), "--json"]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["fetched"] == 1 + 29, "February is not there as a month: its days are"
    assert len(report["missing"]) == 1 + 29
    assert [(s["name"], s["rows_kept"]) for s in report["ingest"]["symbols"]] == [("BTCUSDT", 60 * 24)]
    assert len(list((tmp_path / "files").glob("*.CHECKSUM"))) == 30


def test_without_aiohttp_the_command_that_brings_it(tmp_path: Path) -> None:
    code = "import sys; sys.modules['aiohttp'] = None; from atc_backtest.cli import main; main()"
    args = [sys.executable, "-c", code, "fetch", "http://127.0.0.1:1/a.csv", "--out", str(tmp_path / "f")]
    done = subprocess.run(args, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": "."})
    assert done.returncode == 3
    assert done.stderr == "error: fetch needs aiohttp: pip install 'atc-backtest[fetch]'\n"
    assert not (tmp_path / "f").exists()
