"""The stores' speed and size, as ratios measured side by side: run it on a machine that does nothing else.

python benchmarks/stores.py [--rounds 5] [--codec blosc]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measure import machine, medians

from atc_backtest.config import RunConfig
from atc_backtest.pipelines.backtest import Options, backtest
from atc_backtest.stores.base import F64, I64, StoreInfo, WritableStore
from atc_backtest.stores.memmap_store import heat
from atc_backtest.stores.opening import open_store
from atc_backtest.stores.zarr_store import new_store

MINUTE = 60 * 10**9
FIELDS = ("open", "high", "low", "close", "volume")
DAY = 1440


def prices(n_symbols: int, n_bars: int, seed: int = 0) -> dict[str, F64]:
    """Tick-rounded walks with wicks, and volumes of thousandths."""
    rng = np.random.default_rng(seed)
    close = np.round(100 * np.exp(np.cumsum(rng.normal(0, 6e-4, (n_symbols, n_bars)), axis=1)), 2)
    opened = np.concatenate([close[:, :1], close[:, :-1]], axis=1)
    wick = np.round(np.abs(rng.normal(0, 0.02, (2, n_symbols, n_bars))), 2)
    high = np.round(np.maximum(opened, close) + wick[0], 2)
    low = np.round(np.maximum(np.minimum(opened, close) - wick[1], 0.01), 2)
    volume = np.round(rng.lognormal(3, 1, (n_symbols, n_bars)), 3)
    return {"open": opened, "high": high, "low": low, "close": close, "volume": volume}


def axis(start: int, n: int) -> I64:
    return (np.arange(start, start + n) + 28_000_000) * MINUTE


def build(path: Path, n_symbols: int, n_bars: int, codec: str) -> WritableStore:
    """A store of minute bars, made a block of symbols at a time."""
    names = [f"S{i:04d}" for i in range(n_symbols)]
    ts = axis(0, n_bars)
    about = {"bar_ns": MINUTE, "calendar": "24/7", "fields": FIELDS, "symbols": names, "ts": ts, "codec": codec}
    with new_store(path, **about) as writer:  # type: ignore[arg-type]
        for s0 in range(0, n_symbols, 64):
            s1 = min(s0 + 64, n_symbols)
            block = prices(s1 - s0, n_bars, s0)
            for t0 in range(0, n_bars, writer.chunk[1]):
                t1 = min(t0 + writer.chunk[1], n_bars)
                for field in FIELDS:
                    writer.write(field, (s0, s1), (t0, t1), np.ascontiguousarray(block[field][:, t0:t1]))
    return open_store(path)


@dataclass(frozen=True)
class Ram:
    """A store's prices in memory, read as a store."""

    info: StoreInfo
    times: I64
    blocks: dict[str, F64]

    def ts(self, start: int, stop: int) -> I64:
        return self.times[start:stop]

    def read(self, field: str, symbols: tuple[int, int], bars: tuple[int, int]) -> F64:
        return self.blocks[field][slice(*symbols), slice(*bars)]


def in_ram(store: WritableStore) -> Ram:
    info = store.info
    whole = (0, len(info.symbols)), (0, info.n_bars)
    return Ram(info, store.ts(*whole[1]), {field: store.read(field, *whole) for field in info.fields})


def run(store: Path, folder: Path, opened: object | None) -> None:
    """A default backtest in one thread; from what is opened already, where that is given."""
    from atc_backtest.pipelines import partition

    genuine = partition.open_store
    if opened is not None:
        partition.open_store = lambda place, version=None: opened  # type: ignore[assignment,misc]
    try:
        backtest(store, folder / "run", [RunConfig()], Options(threads=1, overwrite=True))
    finally:
        partition.open_store = genuine


def append_day(path: Path, codec: str, n_bars: int, rounds: int) -> tuple[float, int]:
    """Seconds of an append of 1,440 bars x 500 symbols, all fields, and the bytes it wrote: medians."""
    store = build(path, 500, n_bars, codec)
    day = prices(500, DAY, 99)
    names = [symbol.name for symbol in store.info.symbols]
    written = []

    def work() -> None:
        store.append(axis(store.info.n_bars, DAY), names, day)
        written.append(sum(one.stat().st_size for one in path.rglob(f"*.v{store.info.version}")))

    return medians({"append": work}, rounds)["append"], int(np.median(written))


def touch(block: F64) -> float:
    """Read every number of a block, so that mapping alone is not counted as reading."""
    return float(np.maximum.reduce(block, axis=None))


def compared(blocks: Sequence[Callable[[], F64]], rounds: int) -> list[float]:
    jobs = {str(i): (lambda read=read: read()) for i, read in enumerate(blocks)}  # type: ignore[misc]
    return list(medians(jobs, rounds).values())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--codec", default="blosc")
    asked = options.parse_args()
    print(f"# {machine()}; codec {asked.codec}; medians of {asked.rounds} interleaved rounds\n")
    print("| what | measured | against |\n|---|---|---|")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store = build(folder / "wide.zarr", 64, 100_000, asked.codec)
        hot = heat(store, folder / "hot")
        whole = (0, 64), (0, 100_000)
        ram = in_ram(store)
        size = 8 * 64 * 100_000
        cold_s, mapped_s, touched_s, copied_s = compared(
            [
                lambda: store.read("close", *whole),
                lambda: hot.read("close", *whole),
                lambda: np.asarray(touch(hot.read("close", *whole))),
                lambda: hot.read("close", *whole).copy(),
            ],
            asked.rounds,
        )
        stored = sum(one.stat().st_size for one in (folder / "wide.zarr").rglob("*.v1"))
        print(f"| whole store, 5 fields | {stored / 1e6:.1f} MB | 1/{5 * size / stored:.1f} of float64 |")
        print(f"| decode, 64 symbols x 100k closes | {size / cold_s / 1e9:.2f} GB/s of float64 | |")
        print(f"| memmap, the same block, mapped | {1e3 * mapped_s:.2f} ms | 1/{cold_s / mapped_s:.0f} of Zarr |")
        print(f"| memmap, every number read | {1e3 * touched_s:.1f} ms | 1/{cold_s / touched_s:.1f} of Zarr |")
        print(f"| memmap, copied to fresh memory | {1e3 * copied_s:.1f} ms | 1/{cold_s / copied_s:.1f} of Zarr |")
        seconds = medians(
            {
                "ram": lambda: run(folder / "wide.zarr", folder, ram),
                "zarr": lambda: run(folder / "wide.zarr", folder, None),
                "hot": lambda: run(folder / "hot", folder, None),
            },
            asked.rounds,
        )
        print(f"| backtest from RAM | {seconds['ram']:.3f} s | 1 |")
        for name, shown in (("zarr", "the Zarr store"), ("hot", "the memmap store")):
            print(f"| backtest from {shown} | {seconds[name]:.3f} s | {seconds[name] / seconds['ram']:.2f}x of RAM |")
        for n_bars in (30_000, 130_000):
            took, written = append_day(folder / f"{n_bars}.zarr", asked.codec, n_bars, asked.rounds)
            print(f"| append 1,440 bars x 500 symbols to {n_bars:,} | {took:.2f} s | {written / 1e6:.1f} MB written |")


if __name__ == "__main__":
    main()
