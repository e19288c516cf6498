"""Damaged files, seeded: an error that is ours, or every row read and accounted for. Never a hang or another error.

ATC_FUZZ_CASES    cases of each format; default 80, the same ones every time
"""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import re
import signal
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from price_files import HEADER, bars

from atc_backtest.errors import AtcError
from atc_backtest.stores.ingest import IngestOptions
from atc_backtest.stores.ingest.driver import gathered
from atc_backtest.stores.ingest.report import DROPPING
from atc_backtest.stores.ingest.spool import times

CASES = int(os.environ.get("ATC_FUZZ_CASES", "80"))
ROWS = [(row[0] * 1000, *(round(cell, 3) for cell in row[1:])) for row in bars(60)]
LIMIT_S = 20


def csv_text() -> bytes:
    lines = [",".join(HEADER), *(",".join(map(str, row)) for row in ROWS)]
    return ("\n".join(lines) + "\n").encode()


def wide_text() -> bytes:
    """With columns that nobody reads, quoted text among them."""
    lines = ["symbol;time;close;note", *(f'S{i % 3};{row[0]};{row[4]};"a b"' for i, row in enumerate(ROWS))]
    return ("\r\n".join(lines) + "\r\n").encode()


def dated_text() -> bytes:
    lines = ["date,time,close", *(f"{1 + i // 24 + 12}/01/2024,{i % 24:02d}:00,{row[4]}" for i, row in enumerate(ROWS))]
    return ("\n".join(lines) + "\n").encode()


def json_text() -> bytes:
    return json.dumps([list(row) for row in ROWS]).encode()


def table() -> pa.Table:
    columns = dict(zip(HEADER, zip(*ROWS, strict=True), strict=True))
    return pa.table(columns).append_column("symbol", pa.array([f"S{i % 3}" for i in range(len(ROWS))]))


def zip_bytes(name: str, text: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(name), text)
    return file.getvalue()


def lean_text() -> bytes:
    rows = [(34_200_000 + 60_000 * i, *(round(price * 10_000) for price in row[1:5]), 5) for i, row in enumerate(ROWS)]
    return "".join(",".join(map(str, row)) + "\n" for row in rows).encode()


def feather_bytes(compression: str) -> bytes:
    file = io.BytesIO()
    feather.write_feather(table(), file, compression=compression, chunksize=20)
    return file.getvalue()


def parquet_bytes() -> bytes:
    file = io.BytesIO()
    pq.write_table(table(), file, row_group_size=20)
    return file.getvalue()


FORMATS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "csv": ("A.csv", csv_text),
    "wide csv": ("A.csv", wide_text),
    "dated csv": ("A.csv", dated_text),
    "gzip": ("A.csv.gz", lambda: gzip.compress(csv_text(), mtime=0)),
    "zip": ("A.zip", lambda: zip_bytes("a.csv", csv_text())),
    "lean": ("equity/usa/minute/a/20240102_trade.zip", lambda: zip_bytes("20240102_a_minute_trade.csv", lean_text())),
    "json": ("BTC_USDT-1h.json", json_text),
    "json.gz": ("BTC_USDT-1h.json.gz", lambda: gzip.compress(json_text(), mtime=0)),
    "feather": ("A.feather", lambda: feather_bytes("uncompressed")),
    "feather lz4": ("A.feather", lambda: feather_bytes("lz4")),
    "parquet": ("A.parquet", parquet_bytes),
}

ODD = (
    b"\0",
    b'"',
    b"\n",
    b"\r",
    b",",
    b";",
    b"1e400",
    b"-1",
    b"9" * 40,
    b"nan",
    b"inf",
    b"\xff\xfe",
    b"[",
    b"]]",
    b" ",
    b"",
)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to three injuries."""
    for _ in range(rng.randint(1, 3)):
        at, length = rng.randrange(len(data) + 1), rng.randint(1, 40)
        lines = data.splitlines(keepends=True)
        i, j = rng.randrange(max(len(lines), 1)), rng.randrange(max(len(lines), 1))
        match rng.randrange(8):
            case 0:
                data = data[:at] + bytes(byte ^ 1 << rng.randrange(8) for byte in data[at : at + 1]) + data[at + 1 :]
            case 1:
                data = data[:at]
            case 2:
                data = data[:at] + data[at + length :]
            case 3:
                data = data[:at] + rng.randbytes(length) + data[at + length :]
            case 4:
                data = data[:at] + rng.choice(ODD) + data[at:]
            case 5:
                data = b"".join([*lines[:i], *lines[i : i + 1] * 2, *lines[i + 1 :]])
            case 6 if lines:
                lines[i], lines[j] = lines[j], lines[i]
                data = b"".join(lines)
            case _:
                data = data[:at] + data[at : at + length] * rng.randint(2, 9) + data[at + length :]
        if not data:
            break
    return data


def rows_in(name: str, data: bytes) -> int | None:
    """How many rows a plain reader finds in what was accepted; None where it cannot tell."""
    if name.endswith(".gz"):
        name, data = name.removesuffix(".gz"), gzip.decompress(data)
    if name.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            (member,) = (one for one in archive.namelist() if one.endswith(".csv"))
            name, data = member, archive.read(member)
    if name.endswith(".json"):
        return data.count(b"[") - 1  # rows with empty cells are no JSON, but rows they are
    if name.endswith(".csv"):
        lines = [line for line in re.split(rb"\r\n|\n|\r", data) if line]
        if "_trade" in name:
            return len(lines)
        return len(lines) - 1 - bool(re.match(rb'"?\s*(#|https?://)', lines[0]))
    return None


@pytest.fixture
def in_time() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"more than {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, late)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.usefixtures("in_time")
def test_damage_is_refused_or_accounted_for(kind: str) -> None:
    name, make = FORMATS[kind]
    good = make()
    accepted = 0
    for case in range(CASES):
        rng = random.Random(f"{kind} {case}")
        data = mutated(good, rng) if case else good
        options = IngestOptions(tz="UTC", threads=rng.randint(1, 3), batch_bytes=rng.choice((1, 700, 1 << 20)))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            outcome = attempt(path, options)
        if isinstance(outcome, AtcError):
            assert case, f"the undamaged file is refused: {outcome}"
            assert len(str(outcome)) < 2000
            continue
        accepted += 1
        expected = rows_in(path.name, data)
        assert expected in (None, outcome), f"case {case}: {expected} rows in the file, {outcome} accounted for"
    assert accepted


def attempt(path: Path, options: IngestOptions) -> AtcError | int:
    """The refusal, or how many rows were accounted for."""
    signal.alarm(LIMIT_S)
    try:
        with gathered([path], path.with_name("s.zarr"), options, None) as found:
            check(found.symbols, {one.name: times(one.path, found.spool.dtype) for one in found.series})
            return sum(symbol.rows_read for symbol in found.symbols)
    except AtcError as error:
        return error
    finally:
        signal.alarm(0)


def check(symbols: object, series: dict[str, np.ndarray]) -> None:
    """Kept rows are those in the files, in order; read rows are those kept and those dropped."""
    for symbol in symbols:  # type: ignore[attr-defined]
        ts = series.get(symbol.name, np.empty(0, dtype=np.int64))
        assert symbol.rows_kept == ts.size
        assert (np.diff(ts) > 0).all()
        assert symbol.rows_read == symbol.rows_kept + sum(getattr(symbol, rule) for rule in DROPPING)
