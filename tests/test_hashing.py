"""The content hash: its definition in plain Python, and what it does not depend on."""

from __future__ import annotations

import json
import math
import struct
from hashlib import blake2b
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atc_backtest.pipelines import hashing
from atc_backtest.pipelines.hashing import Content, Hasher, run_hash

TS = pa.timestamp("ns", tz="UTC")
SCHEMA = pa.schema(
    [
        ("symbol", pa.string()),
        ("param_id", pa.int64()),
        ("ts", TS),
        ("worth", pa.float64()),
        ("position", pa.int8()),
        ("bars", pa.int64()),
        ("still", pa.bool_()),
        ("reason", pa.string()),
    ]
)
NAN = struct.pack("<Q", 0x7FF8_0000_0000_0000)

Row = dict[str, Any]


def encoded(row: Row) -> bytes:
    """The definition in hashing's docstring, value by value."""

    def whole(value: int | None, width: int) -> bytes:
        smallest = -(2 ** (8 * width - 1))
        return (smallest if value is None else value).to_bytes(width, "little", signed=True)

    worth, still, reason = row["worth"], row["still"], row["reason"]
    return (
        whole(row["ts"], 8)
        + (NAN if worth is None or math.isnan(worth) else struct.pack("<d", worth))
        + whole(row["position"], 1)
        + whole(row["bars"], 8)
        + (b"\xff" if still is None else bytes([still]))
        + (bytes(16) if reason is None else blake2b(reason.encode(), digest_size=16).digest())
    )


def expected(rows: list[Row]) -> Content:
    """The dataset's hash from its rows, sorted within their groups."""
    total = 0
    columns = [[name, str(SCHEMA.field(name).type)] for name in SCHEMA.names[2:]]
    ordered = sorted(rows, key=lambda row: (row["symbol"], row["param_id"], row["at"]))
    for key, group in groupby(ordered, key=lambda row: (row["symbol"], row["param_id"])):
        header = json.dumps(["series", columns, *key], ensure_ascii=False, separators=(",", ":")).encode()
        data = len(header).to_bytes(8, "little") + header + b"".join(map(encoded, group))
        total += int.from_bytes(blake2b(data, digest_size=32).digest(), "little")
    return Content(len(rows), total % 2**256)


def table(rows: list[Row]) -> pa.Table:
    columns = {name: pa.array([row[name] for row in rows], SCHEMA.field(name).type) for name in SCHEMA.names}
    return pa.table(columns, schema=SCHEMA)


def hashed(*tables: pa.Table) -> Content:
    hasher = Hasher("series", SCHEMA)
    for one in tables:
        hasher.update(one)
    return hasher.content()


def made(symbol: str, param_id: int, at: int, seed: int) -> Row:
    rng = np.random.default_rng([seed, at])
    drawn = {
        "ts": int(rng.integers(0, 2**62)),
        "worth": [None, math.nan, -0.0, 0.0, float(rng.normal())][rng.integers(5)],
        "position": [None, -1, 0, 1][rng.integers(4)],
        "bars": [None, 0, -3, 2**60][rng.integers(4)],
        "still": [None, True, False][rng.integers(3)],
        "reason": [None, "", "signal", "Kurs ±"][rng.integers(4)],
    }
    return {"symbol": symbol, "param_id": param_id, "at": at} | drawn


keys = st.tuples(st.sampled_from(["A", "B", "Ä/USD"]), st.integers(0, 2))


@given(order=st.lists(keys, max_size=40), cuts=st.lists(st.integers(0, 40), max_size=4), seed=st.integers(0, 99))
def test_the_hash_is_its_definition_however_groups_interleave_and_rows_are_cut(
    order: list[tuple[str, int]], cuts: list[int], seed: int
) -> None:
    rows = [made(*key, at, seed) for at, key in enumerate(order)]
    bounds = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    pieces = [table(rows[a:b]) for a, b in pairwise(bounds)]
    assert hashed(*pieces) == expected(rows)
    by_group = sorted(rows, key=lambda row: (row["param_id"], row["symbol"], row["at"]))
    assert hashed(table(by_group)) == expected(rows)


def test_parts_add_up_and_every_value_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [made("A", at % 3, at, 7) for at in range(50)]
    whole = hashed(table(rows))
    parts = [hashed(table([row for row in rows if row["param_id"] == p])) for p in (2, 0, 1)]
    assert sum(parts, Content()) == whole
    monkeypatch.setattr(hashing, "STEP", 7)
    assert hashed(table(rows)) == whole
    for name, value in {"ts": 5, "worth": 1.5, "position": 5, "bars": 5, "reason": "x", "symbol": "C"}.items():
        changed = [dict(row) for row in rows]
        changed[20][name] = value
        assert hashed(table(changed)) != whole, name
    signs = [[rows[0] | {"worth": zero}] for zero in (0.0, -0.0, None)]
    assert len({hashed(table(one)).total for one in signs}) == 3
    assert hashed(table([rows[3], rows[0], *rows[1:3], *rows[4:]])) != whole  # both of one set: their order counts


def test_the_hash_of_a_run_is_over_the_names_rows_and_sums_of_its_datasets() -> None:
    text = f"metrics 2 {5:064x}\nsignals 9 {2**255:064x}\n"
    datasets = {"signals": Content(9, 2**255), "metrics": Content(2, 5)}
    assert run_hash(datasets) == blake2b(text.encode(), digest_size=32).hexdigest()
