"""How small prices become, and how fast they come back: the tick codec beside float64 as others compress it.

    python benchmarks/storage_size.py [FOLDER of real prices, default ../shared/data]

Sizes: one symbol a row, chunks of 16,384 bars, as Zarr stores them; ratios of 8 bytes a bar to what is stored,
over all symbols of a set together, and in brackets the mean of the symbols' own ratios. Speeds: MB of float64 a
second, medians of interleaved rounds, the whole process held to one core.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import zarr
from measure import machine, medians
from zarr.codecs import BloscCodec
from zarr.storage import MemoryStore

from atc_backtest.stores.codecs import TickCodec
from atc_backtest.stores.tick_chunk import Box, decode, encode, open_chunk

BARS = 16_384
OHLC = ("close", "open", "high", "low")
SETS = {
    "binance_1h": "binance_1h/*.parquet",
    "lean hourly": "lean/equity_hour_*.parquet",
    "lean fx hourly": "lean/fx_hour_*.parquet",
    "bitfinex_1m": "bitfinex_1m/*.parquet",
    "binance_1m": "binance_1m/*.parquet",
}
FIELDS = {"4 prices": OHLC, "close": ("close",), "volume": ("volume",), "whole OHLCV": (*OHLC, "volume")}


def blosc(shuffle: str) -> dict[str, Any]:
    return {"compressors": BloscCodec(cname="zstd", clevel=5, shuffle=shuffle)}  # type: ignore[arg-type]


def ticks(compressor: str, fields: Sequence[str] | None) -> dict[str, Any]:
    names = None if fields is None else tuple(fields)
    return {"serializer": TickCodec(compressor=compressor, fields=names), "compressors": None}


SCHEMES: dict[str, Callable[[Sequence[str] | None], dict[str, Any]]] = {
    "float64 + blosc zstd-5": lambda _: blosc("noshuffle"),
    "float64 + blosc zstd-5, shuffle": lambda _: blosc("shuffle"),
    "float64 + blosc zstd-5, bitshuffle": lambda _: blosc("bitshuffle"),
    "ticks, blosc": lambda fields: ticks("blosc", fields),
    "ticks, pcodec": lambda fields: ticks("pcodec", fields),
}


def array(block: np.ndarray, chunks: tuple[int, ...], settings: dict[str, Any]) -> zarr.Array:
    made = zarr.create_array(
        MemoryStore(), shape=block.shape, chunks=chunks, dtype="float64", fill_value=np.nan, **settings
    )
    made[...] = block
    return made


def chunk_bytes(stored: zarr.Array) -> int:
    """Without zarr.json."""
    return sum(len(value) for key, value in stored.store._store_dict.items() if key.startswith("c/"))


def sizes(data: Path) -> None:
    for title, fields in FIELDS.items():
        print(f"\n| {title} | " + " | ".join(SETS) + " |\n|---|" + "---|" * len(SETS))
        rows: dict[str, list[str]] = {scheme: [] for scheme in SCHEMES}
        for pattern in SETS.values():
            tables = [pq.read_table(path) for path in sorted(data.glob(pattern))]
            blocks = [
                np.stack([table[field].to_numpy().astype(float) for field in fields])[:, None]
                for table in tables
                if set(fields) <= set(table.column_names)
            ]
            for scheme, settings in SCHEMES.items():
                stored = [chunk_bytes(array(b, (len(fields), 1, BARS), settings(fields))) for b in blocks]
                ratios = [block.nbytes / size for block, size in zip(blocks, stored, strict=True)]
                total = sum(block.nbytes for block in blocks) / max(sum(stored), 1)
                rows[scheme].append(f"{total:.2f} ({np.mean(ratios):.2f})" if blocks else "")
        for scheme, cells in rows.items():
            print(f"| {scheme} | " + " | ".join(cells) + " |")


def daily(data: Path) -> None:
    """Prices that came through float32 and were printed: 150 symbols in chunks of 64."""
    table = pq.read_table(data / "us_daily" / "pystock_150sym.parquet").to_pandas()
    fields = {name: table.pivot(index="symbol", columns="date", values=name).to_numpy() for name in OHLC}
    block = np.stack([fields[name] for name in OHLC])
    print("\n| us_daily, 4 prices | ratio |\n|---|---|")
    for scheme, settings in SCHEMES.items():
        stored = chunk_bytes(array(block, (4, 64, block.shape[2]), settings(OHLC)))
        print(f"| {scheme} | {int((~np.isnan(block)).sum()) * 8 / stored:.2f} |")


def walks(n_symbols: int, n_bars: int) -> np.ndarray:
    """Open, high, low around closes on ticks of 0.01, float64 [field, symbol, bar]."""
    rng = np.random.default_rng(1)
    close = np.round(100 * np.exp(np.cumsum(rng.normal(0, 0.001, (n_symbols, n_bars)), axis=1)), 2)
    opened = np.concatenate([close[:, :1], close[:, :-1]], axis=1) + np.round(rng.normal(0, 0.01, close.shape), 2)
    up, down = (np.round(rng.exponential(0.05, close.shape), 2) for _ in range(2))
    return np.round(np.stack([close, opened, np.maximum(opened, close) + up, np.minimum(opened, close) - down]), 2)


def chunk_speeds(rounds: int) -> None:
    print("\n| one chunk of 64 x 16,384, MB/s of float64 | encode | decode |\n|---|---|---|")
    block = walks(64, BARS)
    gaps = block.copy()
    gaps[:, :, np.random.default_rng(2).random(BARS) < 0.03] = np.nan
    volume = np.round(np.random.default_rng(3).lognormal(5, 2, (1, 64, BARS)), 3)
    cases = {
        "close": (block[:1], (0,)),
        "4 prices": (block, (1, 2, 3, 4)),
        "4 prices, 3 % of bars missing": (gaps, (1, 2, 3, 4)),
        "volume of 3 decimals": (volume, (0,)),
        "close without ticks": (block[:1] * np.pi, (0,)),
    }
    for compressor, level in (("blosc", 5), ("pcodec", 8)):
        for title, (prices, roles) in cases.items():
            chunk = open_chunk(encode(prices, roles, compressor, level))
            box, out = Box(tuple(range(len(roles))), (0, 64), (0, BARS)), np.empty_like(prices)
            seconds = medians(
                {
                    "encode": lambda p=prices, r=roles, c=compressor, n=level: encode(p, r, c, n),
                    "decode": lambda c=chunk, b=box, o=out: decode(*c, b, o),
                },
                rounds,
            )
            speeds = [f"{prices.nbytes / seconds[job] / 1e6:,.0f}" for job in ("encode", "decode")]
            print(f"| {compressor}, {title} | {' | '.join(speeds)} |")


def zarr_speeds(rounds: int) -> None:
    """64 symbols x 100,000 closes through Zarr, and one field of four."""
    block = walks(64, 100_000)
    close = np.ascontiguousarray(block[0])
    stored = {scheme: array(close, (64, BARS), settings(None)) for scheme, settings in SCHEMES.items()}
    stored["float64, not compressed"] = array(close, (64, BARS), {"compressors": None})
    jobs = {scheme: (lambda one=one: one[...]) for scheme, one in stored.items()}
    for compressor in ("blosc", "pcodec"):
        whole = array(block, (4, 64, BARS), ticks(compressor, OHLC))
        jobs[f"ticks, {compressor}: close out of 4 prices"] = lambda one=whole: one[0]
    chunks = [open_chunk(encode(part, (0,), "blosc", 5)) for part in parts(close)]
    out = np.empty_like(close)
    jobs["ticks, blosc, decoded in place, no Zarr"] = lambda: into(chunks, out)
    seconds = medians(jobs, rounds)
    print("\n| reading 64 x 100,000 closes | MB/s of float64 | against float64 + blosc zstd-5 |\n|---|---|---|")
    base = seconds["float64 + blosc zstd-5"]
    for job, value in seconds.items():
        print(f"| {job} | {close.nbytes / value / 1e6:,.0f} | {base / value:.2f}x |")


def parts(close: np.ndarray) -> list[np.ndarray]:
    return [np.ascontiguousarray(close[None, :, at : at + BARS]) for at in range(0, close.shape[1], BARS)]


def into(chunks: Sequence[Any], out: np.ndarray) -> None:
    at = 0
    for header, sections in chunks:
        box = Box((0,), (0, header.n_symbols), (0, header.n_bars))
        decode(header, sections, box, out[None, :, at : at + header.n_bars])
        at += header.n_bars


def thread_speeds(rounds: int) -> None:
    """Two threads against one, each decoding chunks of its own into rows of its own."""
    close = walks(64, 4 * BARS)[0]
    halves = [[open_chunk(encode(part, (0,), "blosc", 5)) for part in parts(close)] for _ in range(2)]
    outs = [np.empty_like(close) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        seconds = medians(
            {
                "one": lambda: [into(half, out) for half, out in zip(halves, outs, strict=True)],
                "two": lambda: list(pool.map(into, halves, outs)),
            },
            rounds,
        )
    print(f"\nTwo threads decode {seconds['one'] / seconds['two']:.2f}x as fast as one.")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("data", nargs="?", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    options.add_argument("--rounds", type=int, default=9)
    given = options.parse_args()
    print(f"# {machine()}; medians of {given.rounds} interleaved rounds")
    cores = os.sched_getaffinity(0)
    if given.data.is_dir():
        sizes(given.data)
        daily(given.data)
    else:
        print(f"\nNo sizes: there are no real prices at {given.data}.")
    os.sched_setaffinity(0, {max(cores)})
    chunk_speeds(given.rounds)
    zarr_speeds(given.rounds)
    os.sched_setaffinity(0, cores)
    thread_speeds(given.rounds)


if __name__ == "__main__":
    main()
