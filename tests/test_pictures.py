"""Pictures stay small, whatever is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from filling import fill_store
from matplotlib.figure import Figure
from PIL import Image
from prices import tick_walk

from atc_backtest.config import ExecutionConfig, RunConfig
from atc_backtest.pipelines.backtest import backtest
from atc_backtest.pipelines.pages import pictures
from atc_backtest.pipelines.pages.subject import subject_of

DAY = 24 * 3600 * 10**9
SHORTS = RunConfig(execution=ExecutionConfig(shorts=True))


@pytest.mark.parametrize(("n_bars", "bar_ns"), [(3_000, DAY), (200_000, DAY // 24)], ids=["days", "hours"])
def test_a_picture_of_a_noisy_account_is_small_and_as_it_was_drawn(tmp_path: Path, n_bars: int, bar_ns: int) -> None:
    fill_store(tmp_path / "prices.zarr", tick_walk(n_bars, 1)[None], bar_ns=bar_ns, start=5_000 - 473_352)
    run = backtest(tmp_path / "prices.zarr", tmp_path / "run", [SHORTS])
    written = pictures.write_pictures(subject_of(run), tmp_path / "pictures")
    assert [path.name for path in written] == ["equity.png", "months.png", "trades.png", "indicator.png"]
    for path in written:
        assert 5_000 < path.stat().st_size <= 100_000
        with Image.open(path) as picture:
            assert picture.size[0] == 1100
            assert picture.convert("RGB").getpixel((1, picture.size[1] - 2)) == (255, 255, 255)


def test_noise_gets_fewer_colours_and_dots_until_it_fits(tmp_path: Path) -> None:
    figure = Figure(figsize=(10, 13))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.imshow(np.random.default_rng(1).random((1430, 1100, 3)), interpolation="none", aspect="auto")
    (tmp_path / "noise.png").write_bytes(pictures._encoded(figure))
    assert (tmp_path / "noise.png").stat().st_size <= pictures.PICTURE_BYTES
    with Image.open(tmp_path / "noise.png") as picture:
        assert picture.size == (550, 715)
