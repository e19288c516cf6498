"""Invented prices: the same whatever the blocks, lawful, on ticks, and made in bounded memory."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from atc_backtest.errors import ConfigError, StoreError
from atc_backtest.stores.base import F64, FIELDS
from atc_backtest.stores.synth import REACH, TILE_BARS, SynthSpec, blocks, parse_fields, synth, traits
from atc_backtest.stores.zarr_store import open_store

SPEC = SynthSpec(n_symbols=12, n_bars=3 * TILE_BARS + 1234, seed=7)


def whole(spec: SynthSpec, symbols: tuple[int, int] | None = None, tiles: int = 1) -> dict[str, F64]:
    """Everything at once, field -> float64 [symbols, bars]."""
    rows = symbols or (0, spec.n_symbols)
    pieces = [{name: block.copy() for name, block in held.items()} for _, held in blocks(spec, rows, tiles)]
    return {name: np.concatenate([piece[name] for piece in pieces], axis=1) for name in pieces[0]}


@pytest.fixture(scope="module")
def prices() -> dict[str, F64]:
    return whole(SPEC)


def same(one: F64, other: F64) -> bool:
    return one.tobytes() == other.tobytes()


def test_blocks_change_nothing(prices: dict[str, F64]) -> None:
    for tiles in (2, 3, 100):
        other = whole(SPEC, tiles=tiles)
        assert all(same(other[name], prices[name]) for name in FIELDS)
    for symbol in (0, 5, 11):
        alone = whole(SPEC, (symbol, symbol + 1), 2)
        assert all(same(alone[name][0], prices[name][symbol]) for name in FIELDS)


def test_fields_and_other_symbols_change_nothing(prices: dict[str, F64]) -> None:
    for fields in (("close",), ("close", "volume"), ("low", "close")):
        some = whole(replace(SPEC, fields=fields))
        assert set(some) == set(fields)
        assert all(same(some[name], prices[name]) for name in fields)
    few = whole(replace(SPEC, n_symbols=5))
    assert same(few["close"], prices["close"][:5])


def test_seeds_differ(prices: dict[str, F64]) -> None:
    other = whole(replace(SPEC, seed=8))
    assert not any(np.array_equal(a, b, equal_nan=True) for a, b in zip(other["close"], prices["close"], strict=True))


def test_a_store_holds_what_was_made(prices: dict[str, F64], tmp_path: Path) -> None:
    report = synth(tmp_path / "s.zarr", SPEC, calendar="24/5")
    store = open_store(tmp_path / "s.zarr")
    info = store.info
    assert (info.fields, info.bar_ns, info.calendar, info.n_bars) == (FIELDS, SPEC.bar_ns, "24/5", SPEC.n_bars)
    assert np.array_equal(store.ts(0, info.n_bars), SPEC.ts)
    for name in FIELDS:
        assert same(store.read(name, (0, 12), (0, info.n_bars)), prices[name])
    assert report.n_present == sum(symbol.n_bars for symbol in info.symbols)
    with pytest.raises(StoreError, match="already holds a store"):
        synth(tmp_path / "s.zarr", SPEC)


def test_laws_of_bars(prices: dict[str, F64]) -> None:
    begin, high, low, close, volume = (prices[name] for name in FIELDS)
    there = ~np.isnan(close)
    assert all(np.array_equal(~np.isnan(prices[name]), there) for name in FIELDS)
    for above, below in ((high, begin), (high, close), (begin, low), (close, low)):
        assert (above[there] >= below[there]).all()
    assert (low[there] > 0).all()
    assert (volume[there] > 0).all()


def test_prices_are_on_their_ticks(prices: dict[str, F64]) -> None:
    for symbol in range(SPEC.n_symbols):
        mine = traits(SPEC, symbol)
        for name in FIELDS[:4]:
            values = prices[name][symbol]
            values = values[~np.isnan(values)]
            ticks = np.rint(values * 10.0**mine.decimals / mine.tick_step)
            assert same(ticks * mine.tick_step / 10.0**mine.decimals, values)
    assert len({traits(SPEC, symbol).tick for symbol in range(SPEC.n_symbols)}) >= 4


def test_the_first_symbol_has_every_bar(prices: dict[str, F64]) -> None:
    assert not np.isnan(prices["close"][0]).any()


def test_listings_delistings_and_gaps() -> None:
    spec = SynthSpec(n_symbols=400, n_bars=2_000, seed=3, fields=("close",))
    close = whole(spec)["close"]
    found = [traits(spec, symbol) for symbol in range(spec.n_symbols)]
    for mine, row in zip(found, close, strict=True):
        there = np.flatnonzero(~np.isnan(row))
        assert there[0] == mine.first
        assert mine.first < mine.end <= spec.n_bars
        assert there[-1] < mine.end
    assert 0.3 < np.mean([mine.first > 0 for mine in found]) < 0.5
    assert 0.02 < np.mean([mine.end < spec.n_bars for mine in found]) < 0.09
    gaps = [np.isnan(row[mine.first : mine.end]).mean() for mine, row in zip(found, close, strict=True)]
    assert 0.0005 < np.median(gaps) < 0.01
    assert 0.05 < np.mean(np.array(gaps) > 0.02) < 0.4


def test_volatility_switches_and_volume_has_a_heavy_tail(prices: dict[str, F64]) -> None:
    steps = np.diff(np.log(prices["close"][0]))
    of_windows = steps[: steps.size // 250 * 250].reshape(-1, 250).std(axis=1)
    low, high = np.quantile(of_windows, [0.1, 0.9])
    assert high > 3 * low
    assert np.abs(steps).max() > 8 * steps.std()
    volume = prices["volume"][0]
    assert np.quantile(volume, 0.999) > 20 * np.median(volume)


def test_prices_stay_within_reach_however_long() -> None:
    spec = SynthSpec(n_symbols=3, n_bars=20 * TILE_BARS, seed=2, bar_ns=86_400 * 10**9 // 8, fields=("close",))
    close = whole(spec)["close"]
    for symbol in range(3):
        mine = traits(spec, symbol)
        start = mine.start_ticks * mine.tick
        low, high = np.nanmin(close[symbol]), np.nanmax(close[symbol])
        assert start / REACH - mine.tick <= low < high <= start * REACH + mine.tick
        assert high > 4 * low


@pytest.mark.parametrize("n_bars", [1, 2, 100])
def test_a_few_bars(n_bars: int, tmp_path: Path) -> None:
    synth(tmp_path / "s.zarr", SynthSpec(3, n_bars, 0))
    info = open_store(tmp_path / "s.zarr").info
    assert (len(info.symbols), info.n_bars) == (3, n_bars)
    assert all(symbol.n_bars >= 1 for symbol in info.symbols)


@pytest.mark.parametrize(
    "values",
    [{"n_symbols": 0}, {"n_bars": 0}, {"seed": -1}, {"bar_ns": 10**18, "n_bars": 10}, {"fields": ("open",)}],
)
def test_specs_that_cannot_be(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        replace(SPEC, **values)


def test_fields_as_words() -> None:
    assert parse_fields("volume, close") == ("close", "volume")
    for text in ("", "close,price"):
        with pytest.raises(ConfigError, match="write some of"):
            parse_fields(text)


CHILD = """
import re, sys
from pathlib import Path
from atc_backtest.cli import app
app(sys.argv[1:], standalone_mode=False)
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1], file=sys.stderr)
"""


def peak_mib(path: Path, n_bars: int) -> float:
    args = ["store", "synth", str(path), "--symbols", "64", "--bars", str(n_bars), "--seed", "1", "--json"]
    done = subprocess.run([sys.executable, "-c", CHILD, *args], capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert (report["spec"]["n_bars"], report["spec"]["n_symbols"]) == (n_bars, 64)
    return int(done.stderr.split()[-1]) / 1024


@pytest.mark.slow
def test_memory_does_not_grow_with_bars(tmp_path: Path) -> None:
    short = peak_mib(tmp_path / "short.zarr", TILE_BARS)
    long = peak_mib(tmp_path / "long.zarr", 5 * TILE_BARS)  # 210 MB of prices
    assert long < 400  # some 150 of it Numba and the compiled codec
    assert long - short < 32, "Zarr and the allocator keep a little; a block more would be 42 MB"
