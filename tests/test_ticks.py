"""Chunks of ticks: every bit comes back whole and in part, damage is refused, real prices become small."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from prices import NAN, ohlcv, same

from atc_backtest.errors import DataError
from atc_backtest.stores import tick_chunk
from atc_backtest.stores.tick_chunk import Box, decode, encode, open_chunk, read_header, verify
from atc_backtest.stores.ticks import round_to_bits

ROLES = {"close": 1, "open": 2, "high": 3, "low": 4, "volume": 0}
PRICES = ("close", "open", "high", "low")


def decoded(data: bytes, box: Box | None = None) -> NDArray[np.float64]:
    header, sections = open_chunk(data)
    box = box or Box(tuple(range(len(header.roles))), (0, header.n_symbols), (0, header.n_bars))
    out = np.empty((len(box.fields), box.symbols[1] - box.symbols[0], box.bars[1] - box.bars[0]))
    decode(header, {at: sections[at] for at in header.needed(box.fields)}, box, out)
    return out


# Round trips

ODD = (
    0.0,
    -0.0,
    5e-324,
    1e-310,
    np.inf,
    -np.inf,
    1 / 3,
    2.0**53 + 2,
    1.7976931348623157e308,
    0.1 + 0.2,
    1e22,
    16.540001,
)
ANY = st.floats(width=64) | st.sampled_from(ODD)
PAYLOADS = st.integers(0, 2**64 - 1).map(lambda word: np.array([word], np.uint64).view(np.float64)[0])
TICKS = st.tuples(st.integers(-(10**6), 10**9), st.integers(0, 9)).map(lambda t: t[0] / 10 ** t[1])


@st.composite
def rows(draw: st.DrawFn, n: int) -> NDArray[np.float64]:
    """One row of a kind: arbitrary numbers or bits, ticks, ticks with a few odd values, float32, constant."""
    seed = draw(st.integers(0, 2**32))
    rng = np.random.default_rng(seed)
    decimals = draw(st.integers(0, 8))
    walk = np.round(100 + np.cumsum(rng.normal(0, 0.1, n)), decimals)
    kind = draw(st.sampled_from(["any", "bits", "ticks", "walk", "odd", "float32", "printed", "quarter", "constant"]))
    if kind in ("any", "bits", "ticks"):
        values = {"any": ANY, "bits": PAYLOADS, "ticks": TICKS}[kind]
        few = np.array(draw(st.lists(values, min_size=1, max_size=12)))
        return few[rng.integers(0, few.size, n)]
    if kind == "odd":
        at = rng.random(n) < draw(st.sampled_from([0.01, 0.1, 0.5]))
        walk[at] = np.round(100 + rng.normal(0, 1, n), 9)[at] if draw(st.booleans()) else draw(ANY)
    if kind in ("float32", "printed"):
        walk = np.round(walk, 2).astype(np.float32).astype(np.float64)
        walk = np.rint(walk * 1e6) / 1e6 if kind == "printed" else walk
    if kind == "quarter":
        walk = np.rint(walk * 4) / 4
    return np.full(n, draw(ANY)) if kind == "constant" else walk


@st.composite
def blocks(draw: st.DrawFn) -> tuple[NDArray[np.float64], list[int]]:
    """[field, symbol, bar] and roles: prices near each other or not, missing bars, NaN of other bits."""
    roles = draw(
        st.sampled_from([[0], [0, 0], [1], [1, 2], [1, 3], [1, 2, 3, 4], [1, 2, 3, 4, 0], [0, 1, 4], [1, 0, 3, 4]])
    )
    n_symbols, n = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 7, 8, 9, 60, 1025]))
    block = np.empty((len(roles), n_symbols, n))
    for s in range(n_symbols):
        close = draw(rows(n))
        near = draw(st.booleans())
        rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        for f, role in enumerate(roles):
            before = np.concatenate([close[:1], close[:-1]])
            row = {1: close, 2: before, 3: np.maximum(before, close), 4: np.minimum(before, close)}.get(role)
            block[f, s] = draw(rows(n)) if row is None or not near else row
            if near and role > 1:
                some = rng.random(n) < 0.3
                block[f, s, some] = draw(rows(n))[some]
        for f in draw(st.lists(st.integers(0, len(roles) - 1), max_size=2)):
            block[f, s, rng.random(n) < draw(st.sampled_from([0.02, 0.5, 1.0]))] = NAN
        if draw(st.booleans()):
            block[:, s, rng.random(n) < 0.3] = NAN
        if draw(st.booleans()):
            block[:, s, rng.integers(n)] = draw(PAYLOADS)
    return block, roles


@pytest.mark.parametrize("compressor", ["blosc", "pcodec"])
@settings(max_examples=150)
@given(data=st.data())
def test_every_bit_comes_back_whole_and_in_part(compressor: str, data: st.DataObject) -> None:
    block, roles = data.draw(blocks())
    chunk = encode(block, roles, compressor, 3)
    assert same(decoded(chunk), block)
    n_fields, n_symbols, n_bars = block.shape
    fields = tuple(data.draw(st.permutations(range(n_fields)))[: data.draw(st.integers(1, n_fields))])
    symbols, bars = (tuple(sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2)))) for n in (n_symbols, n_bars))
    part = decoded(chunk, Box(fields, symbols, bars))
    assert same(part, block[list(fields), slice(*symbols), slice(*bars)])


def test_prices_need_no_second_try(monkeypatch: pytest.MonkeyPatch) -> None:
    def once(*given: Any) -> bytes:
        assert not given[-1], "raw rows only, for integers did not give the block back"
        return kept(*given)

    kept = tick_chunk._encode
    monkeypatch.setattr(tick_chunk, "_encode", once)
    for seed in range(3):
        encode(ohlcv(3, 700, seed), [1, 2, 3, 4, 0], "blosc", 5)


def test_what_integers_would_lose_stays_raw(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = tick_chunk.encode_rows

    def lossy(block: Any, roles: Any, narrowest: int, raw_only: bool, *rest: Any) -> None:
        wrong(block if raw_only else np.round(block, 1), roles, narrowest, raw_only, *rest)

    monkeypatch.setattr(tick_chunk, "encode_rows", lossy)
    block = np.round(ohlcv(2, 300), 2)
    assert same(decoded(encode(block, [1, 2, 3, 4, 0], "blosc", 5)), block)
    monkeypatch.setattr(tick_chunk, "encode_rows", lambda block, *rest: wrong(block * 2, *rest))
    with pytest.raises(DataError, match="does not come back from blosc as it was: nothing was written"):
        encode(block, [1, 2, 3, 4, 0], "blosc", 5)


def test_rows_that_say_nothing_cost_next_to_nothing() -> None:
    n = 16_384
    for value in (NAN, 101.25, 1 / 3, -0.0, 5e-324):
        assert len(encode(np.full((1, 64, n), value), [0], "blosc", 5)) < 400
    late = np.full((1, 64, n), NAN)
    late[:, :, n // 2 :] = 7.5
    assert len(encode(late, [0], "blosc", 5)) < 600


def test_numbers_are_decoded_into_rows_of_a_larger_array() -> None:
    block = ohlcv(3, 500)
    header, sections = open_chunk(encode(block, [1, 2, 3, 4, 0], "blosc", 5))
    out = np.full((2, 5, 900), 1.0)
    decode(header, sections, Box((3, 0), (1, 3), (100, 500)), out[:, 2:4, 50:450])
    assert same(out[:, 2:4, 50:450], block[[3, 0], 1:3, 100:500])
    out[:, 2:4, 50:450] = 1.0
    assert (out == 1.0).all()
    with pytest.raises(DataError, match="its bars must lie side by side"):
        decode(header, sections, Box((0,), (0, 3), (0, 250)), np.empty((1, 3, 500))[:, :, ::2])
    with pytest.raises(DataError, match="give float64 of the box asked for"):
        decode(header, sections, Box((0,), (0, 3), (0, 250)), np.empty((1, 3, 500)))
    with pytest.raises(DataError, match="lies outside the chunk's 3 symbols and 500 bars"):
        decode(header, sections, Box((0,), (0, 4), (0, 250)), np.empty((1, 4, 250)))


# Damage


@pytest.mark.parametrize("compressor", ["blosc", "pcodec"])
def test_any_changed_byte_is_found(compressor: str) -> None:
    chunk = encode(ohlcv(2, 60), [1, 2, 3, 4, 0], compressor, 5)
    verify(chunk)
    rng = np.random.default_rng(0)
    for at in range(len(chunk)):
        broken = bytearray(chunk)
        broken[at] ^= int(rng.integers(1, 256))
        for read in (verify, decoded):
            with pytest.raises(DataError, match="chunk"):
                read(bytes(broken))


def test_missing_and_surplus_bytes_are_found() -> None:
    chunk = encode(ohlcv(2, 60), [1, 2, 3, 4, 0], "blosc", 5)
    for length in range(len(chunk)):
        with pytest.raises(DataError, match=r"damaged chunk: .* Restore it from a copy or write it again\."):
            decoded(chunk[:length])
    with pytest.raises(DataError, match="bytes where"):
        decoded(chunk + b"\0")


def test_damage_of_one_field_leaves_the_others_readable() -> None:
    block = ohlcv(2, 60)
    chunk = bytearray(encode(block, [1, 2, 3, 4, 0], "blosc", 5))
    chunk[read_header(bytes(chunk)).spans[2][0] + 9] ^= 1
    for field in (0, 1, 3, 4):
        assert same(decoded(bytes(chunk), Box((field,), (0, 2), (0, 60)))[0], block[field])
    with pytest.raises(DataError, match="field 2 does not match its checksum"):
        decoded(bytes(chunk), Box((2,), (0, 2), (0, 60)))


def test_another_version_and_another_kind_say_so() -> None:
    chunk = bytearray(encode(np.ones((1, 1, 5)), [0], "blosc", 5))
    chunk[4] = 2
    with pytest.raises(DataError, match="version 2: this program reads version 1"):
        decoded(bytes(chunk))
    with pytest.raises(DataError, match=r"does not begin as one of atc\.ticks"):
        decoded(b"PK\3\4" + bytes(100))
    chunk[4], chunk[5] = 1, 9
    chunk[28:32] = google_crc32c.value(bytes(chunk[:28])).to_bytes(4, "little")
    with pytest.raises(DataError, match="compressor 9 or a field's role is unknown"):
        decoded(bytes(chunk))


# Threads, sizes, rounding


@pytest.mark.parametrize("compressor", ["blosc", "pcodec"])
def test_threads_do_not_disturb_each_other(compressor: str) -> None:
    made = [ohlcv(3, 900, seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        chunks = list(pool.map(lambda block: encode(block, [1, 2, 3, 4, 0], compressor, 5), made))
        assert chunks == [encode(block, [1, 2, 3, 4, 0], compressor, 5) for block in made]
        found = list(pool.map(decoded, chunks * 4))
    assert all(same(one, made[at % 8]) for at, one in enumerate(found))


def test_threads_run_at_the_same_time() -> None:
    """Blosc lets go of the interpreter only where it is told to."""
    import blosc2

    assert blosc2.set_releasegil(True) is True  # what it was before


SMALL = {
    ("binance_1h", "*"): {"prices": (9.4, 9.8), "close": (6.7, 6.9), "all": (5.8, 5.95)},
    ("lean", "equity_hour_*"): {"prices": (9.5, 10.0), "close": (7.4, 7.7), "all": (6.3, 6.7)},
    ("lean", "fx_hour_*"): {"prices": (10.2, 10.7), "close": (6.7, 6.9)},
    ("bitfinex_1m", "*"): {"prices": (9.0, 10.3), "close": (6.8, 7.25), "all": (4.85, 5.15)},
}
"""At least so many times smaller than float64: by blosc, by pcodec. One symbol a row, chunks of 16,384 bars."""


@pytest.mark.slow
@pytest.mark.parametrize(("compressor", "at"), [("blosc", 0), ("pcodec", 1)])
@pytest.mark.parametrize("which", SMALL)
def test_real_prices_become_small(which: tuple[str, str], compressor: str, at: int, shared_data: Path) -> None:
    fields = {"prices": PRICES, "close": ("close",), "all": tuple(ROLES)}
    tables = [pq.read_table(path) for path in sorted(shared_data.joinpath(which[0]).glob(which[1] + ".parquet"))]
    assert tables
    for title, least in SMALL[which].items():
        names, before, after = fields[title], 0, 0
        for table in tables:
            block = np.stack([table[name].to_numpy().astype(np.float64) for name in names])[:, None]
            before += block.nbytes
            for start in range(0, block.shape[2], 16_384):
                part = np.full((len(names), 1, 16_384), NAN)
                here = block[:, :, start : start + 16_384]
                part[:, :, : here.shape[2]] = here
                after += len(encode(part, [ROLES[name] for name in names], compressor, (5, 8)[at]))
        assert before / after > least[at], title


def test_prices_that_came_through_float32_become_small(shared_data: Path) -> None:
    table = pq.read_table(shared_data / "us_daily" / "pystock_150sym.parquet").to_pandas()
    close = table.pivot(index="symbol", columns="date", values="close").to_numpy()
    block = np.ascontiguousarray(close[None])
    assert np.count_nonzero(~np.isnan(close)) * 8 / len(encode(block, [0], "blosc", 5)) > 6
    pure = np.round(close, 2).astype(np.float32).astype(np.float64)[None]
    assert np.count_nonzero(~np.isnan(close)) * 8 / len(encode(pure, [0], "blosc", 5)) > 6


@given(st.lists(ANY | PAYLOADS, min_size=1), st.integers(1, 52))
def test_rounding_to_bits(values: list[float], kept: int) -> None:
    before = np.array(values)
    after = round_to_bits(before, kept)
    odd = ~np.isfinite(before) | (before == 0)
    assert same(after[odd], before[odd])
    assert same(round_to_bits(after, kept), after)
    normal = ~odd & (np.abs(before) > 1e-300)
    with np.errstate(over="ignore"):
        assert (np.abs(after[normal] / before[normal] - 1) <= 2.0**-kept).all()


def test_rounding_makes_volume_small() -> None:
    volume = np.random.default_rng(0).lognormal(5, 2, (1, 4, 4096))
    sizes = [len(encode(round_to_bits(volume, kept), [0], "blosc", 5)) for kept in (8, 12, 52)]
    assert sizes[0] < sizes[1] < sizes[2] / 2
    for bad in (0, 53):
        with pytest.raises(DataError, match="1 to 52 significant bits"):
            round_to_bits(volume, bad)
