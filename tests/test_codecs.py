"""`atc.ticks` in Zarr: arrays, selections, byte ranges, shards, zarr.json, and what is refused."""

from __future__ import annotations

import builtins
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from prices import NAN, ohlcv, same
from zarr.storage import LocalStore, MemoryStore

from atc_backtest.errors import DataError, UnavailableError
from atc_backtest.stores.codecs import NAME, TickCodec
from atc_backtest.stores.layout import PRICES
from atc_backtest.stores.tick_chunk import encode, read_header, verify

ROOT = Path(__file__).resolve().parent.parent
OHLCV = (*PRICES, "volume")


def make(store: Any, block: NDArray[np.float64], chunks: tuple[int, ...], **settings: Any) -> zarr.Array[Any]:
    array = zarr.create_array(
        store, shape=block.shape, chunks=chunks, dtype="float64", fill_value=NAN, compressors=None,
        serializer=TickCodec(**settings),
    )  # fmt: skip
    array[...] = block
    return array


@pytest.mark.parametrize("compressor", ["blosc", "pcodec"])
@pytest.mark.parametrize("kind", ["memory", "local"])
def test_zarr_reads_what_it_wrote(kind: str, compressor: str, tmp_path: Path) -> None:
    store = MemoryStore() if kind == "memory" else LocalStore(tmp_path / "a.zarr")
    block = ohlcv(5, 700)
    make(store, block, (5, 2, 256), compressor=compressor, fields=OHLCV)
    array = zarr.open_array(store, mode="r")
    assert array.metadata.codecs == (TickCodec(compressor=compressor, fields=OHLCV),)
    assert same(array[...], block)


@pytest.mark.parametrize("shape", [(700,), (5, 700), (5, 5, 700)])
def test_any_selection_equals_numpys(shape: tuple[int, ...]) -> None:
    block = ohlcv(5, 700)[(0,) * (3 - len(shape))]
    array = make(MemoryStore(), block, (5, 2, 256)[-len(shape) :], fields=OHLCV if len(shape) == 3 else None)
    lead = [slice(None), slice(1, 4), 3, slice(None, None, 2)]
    for one in lead:
        picked = (one,) * (len(shape) - 1)
        for bars in (slice(None), slice(300, 301), slice(100, 600, 7), 699, slice(5, 5)):
            assert same(np.asarray(array[(*picked, bars)]), block[(*picked, bars)])
    rng = np.random.default_rng(0)
    points = tuple(rng.integers(0, n, 20) for n in shape)
    assert same(array.vindex[points], block[points])
    some = tuple(np.sort(rng.choice(n, 3, replace=False)) for n in shape)
    assert same(array.oindex[some], block[np.ix_(*some)])
    mask = rng.random(shape) < 0.01
    assert same(array.vindex[mask], block[mask])
    array[..., 250:300] = 1.25
    block[..., 250:300] = 1.25
    assert same(array[...], block)


class Counting(MemoryStore):
    """Counts the bytes of chunks that are read."""

    read = 0

    async def get(self, key: str, *given: Any, **named: Any) -> Any:
        found = await super().get(key, *given, **named)
        if found is not None and "c/" in key:
            self.read += len(found)
        return found


def test_a_field_is_read_by_its_own_bytes() -> None:
    block = ohlcv(4, 4096)
    store = Counting()
    array = make(store, block, (5, 4, 4096), fields=OHLCV)
    chunk = next(value.to_bytes() for key, value in store._store_dict.items() if "c/" in key)
    header = read_header(chunk)
    length = [stop - start for start, stop in header.spans]
    wanted = {0: [0], 1: [0, 1], 2: [0, 1, 2], 3: [0, 1, 3], 4: [4]}
    for field, sections in wanted.items():
        store.read = 0
        assert same(array[field], block[field])
        assert store.read == header.spans[0][0] + sum(length[at] for at in sections)
    alone = encode(np.ascontiguousarray(block[:1]), [0], "blosc", 5)
    assert header.spans[0][0] + length[0] < len(alone) + 80


def test_inside_shards(tmp_path: Path) -> None:
    block = ohlcv(4, 1000)
    array = zarr.create_array(
        tmp_path / "s", shape=block.shape, chunks=(5, 2, 128), shards=(5, 4, 512), dtype="float64", fill_value=NAN,
        serializer=TickCodec(fields=OHLCV), compressors=None,
    )  # fmt: skip
    array[...] = block
    for field in range(5):
        assert same(array[field, 1:3, 100:900], block[field, 1:3, 100:900])


def test_a_damaged_chunk_is_named(tmp_path: Path) -> None:
    array = make(tmp_path / "s", ohlcv(4, 512), (5, 4, 256), fields=OHLCV)
    path = tmp_path / "s" / "c" / "0" / "0" / "1"
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)
    assert same(array[0], ohlcv(4, 512)[0])
    for selection in (..., 4):
        with pytest.raises(DataError, match=r"s/c/0/0/1: damaged chunk: field 4 does not match its checksum"):
            array[selection]
    path.write_bytes(encode(ohlcv(4, 200), [1, 2, 3, 4, 0], "blosc", 5))
    with pytest.raises(DataError, match=r"a chunk of \(5, 4, 200\) .* where the array's have \(5, 4, 256\)"):
        array[...]


def test_the_configuration_survives_json(tmp_path: Path) -> None:
    codec = TickCodec(level=7, fields=("close", "volume"))
    make(tmp_path / "s", ohlcv(2, 50)[[0, 4]], (2, 2, 50), level=7, fields=("close", "volume"))
    written = json.loads((tmp_path / "s" / "zarr.json").read_text())["codecs"]
    found = {"version": 1, "compressor": "blosc", "level": 7, "fields": ["close", "volume"]}
    assert written == [{"name": "atc.ticks", "configuration": found}]
    assert TickCodec.from_dict(written[0]) == codec
    assert TickCodec.from_dict({"name": NAME}) == TickCodec() == TickCodec(level=5)
    assert TickCodec(compressor="pcodec").level == 8


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        ({"compressor": "lz4"}, "compressor 'lz4' is not known: blosc or pcodec"),
        ({"level": 10}, "level 10 of blosc is not allowed: 1 to 9"),
        ({"level": "5"}, "level '5' of atc.ticks is not allowed: a whole number"),
        ({"version": 2}, "atc.ticks of another version than 1"),
        ({"shuffle": 1}, "atc.ticks does not know shuffle"),
        ({"fields": ["close", "close"]}, "name each once"),
        ({"fields": ["close", "high", "open"]}, "put prices in the order close, open, high, low"),
    ],
)
def test_settings_that_are_none_are_refused(configuration: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        TickCodec.from_dict({"name": NAME, "configuration": configuration})


def test_arrays_that_are_no_prices_are_refused() -> None:
    for shape, dtype, fields, message in (
        ((9,), "int64", None, "codes float64, not int64"),
        ((2, 2, 2, 2), "float64", None, "not 4 axes"),
        ((4, 9), "float64", PRICES, "hold not all of the fields close, open, high, low"),
    ):
        with pytest.raises(DataError, match=message):
            zarr.create_array(
                MemoryStore(),
                shape=shape,
                dtype=dtype,
                chunks=shape,
                serializer=TickCodec(fields=fields),
                compressors=None,
            )


def test_the_entry_point_names_the_codec() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["zarr.codecs"] == {NAME: "atc_backtest.stores.codecs:TickCodec"}


def test_without_pcodec_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = builtins.__import__
    chunk = encode(np.ones((1, 1, 9)), [0], "blosc", 5)

    def absent(name: str, *given: Any) -> Any:
        if name == "pcodec":
            raise ImportError("No module named 'pcodec'")
        return real(name, *given)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UnavailableError, match=r"pip install 'atc-backtest\[pcodec\]', or choose the codec blosc"):
        encode(np.round(ohlcv(1, 50)[:1], 2), [0], "pcodec", 8)
    verify(chunk)
