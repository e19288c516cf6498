"""Kernels on real prices: ticks, off-tick values and absent bars as markets have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from atc_backtest.config import AtcConfig, RunConfig
from atc_backtest.kernels.protocol import OUTPUT_AXES, Kernel, Outputs, Prices
from atc_backtest.pipelines.backtest import Options, backtest
from atc_backtest.reference import atc
from atc_backtest.stores.ingest import IngestOptions, ingest

SAMPLES = {
    "binance_1h/1000SHIBUSDT.parquet": slice(20_000, 22_500),
    "binance_1h/BTCUSDT.parquet": slice(0, 2_500),
    "bitfinex_1m/XRPUSD_2018_01-02.parquet": slice(30_000, 32_500),
    "lean/fx_hour_bid_eurusd.parquet": slice(10_000, 12_500),
}


@pytest.mark.parametrize("name", ["numba", "rust"])
@pytest.mark.parametrize("sample", SAMPLES)
def test_real_prices_equal_the_reference_bit_for_bit(
    sample: str, name: str, shared_data: Path, need_kernel: Callable[[str], Kernel]
) -> None:
    kernel = need_kernel(name)
    close = pq.read_table(shared_data / sample, columns=["close"])["close"].to_numpy()[SAMPLES[sample]]
    configs = [AtcConfig(), AtcConfig(profile="pine")]
    outputs = Outputs.allocate(OUTPUT_AXES, 2, 1, close.size)
    kernel.advance(kernel.new_state(configs, 1), Prices(np.ascontiguousarray(close)[None]), outputs)
    for c, config in enumerate(configs):
        expected = atc(close, config)
        for output in OUTPUT_AXES:
            got, want = getattr(outputs, output)[c, 0], getattr(expected, output)
            if output == "average":
                np.testing.assert_allclose(got, want, rtol=2e-13, atol=0)
            else:
                assert np.array_equal(got, want, equal_nan=True), output


def test_real_markets_give_the_same_rows_by_rust_and_numba(
    shared_data: Path, tmp_path: Path, need_kernel: Callable[[str], Kernel]
) -> None:
    need_kernel("rust")
    ingest([shared_data / "binance_1h"], tmp_path / "prices.zarr", IngestOptions())
    tables = {}
    for name in ("rust", "numba"):
        run = backtest(
            tmp_path / "prices.zarr", tmp_path / name, [RunConfig()], Options(kernel=name, save=("signals", "trades"))
        )
        tables[name] = [run.table(dataset) for dataset in ("metrics", "signals", "trades")]
    for one, other in zip(*tables.values(), strict=True):
        assert one.num_rows > 0
        assert one.equals(other)
