"""A report of a run whose prices are gone: what the run saved is drawn, and what it lacks is said."""

from __future__ import annotations

import shutil
from html import escape
from pathlib import Path

import numpy as np
import pytest
from filling import fill_store
from prices import tick_walk
from typer.testing import CliRunner

from atc_backtest.cli import app
from atc_backtest.config import AtcConfig, ExecutionConfig, RunConfig
from atc_backtest.pipelines.backtest import Options, backtest
from atc_backtest.pipelines.pages.monthly import years_of
from atc_backtest.pipelines.pages.page import page
from atc_backtest.pipelines.pages.subject import subject_of
from atc_backtest.pipelines.runs import Run

SETS = [
    RunConfig(atc=AtcConfig(long_threshold=limit), execution=ExecutionConfig(fee_bps=5.0, shorts=True))
    for limit in (0.0, 0.1, 0.2)
]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """6,000 hours of two names, one with gaps; all is saved."""
    close = np.stack([tick_walk(6000, seed) for seed in range(2)])
    close[1, ::3] = np.nan
    fill_store(tmp_path / "prices.zarr", close)
    return backtest(
        tmp_path / "prices.zarr", tmp_path / "run", SETS, Options(save=("equity", "trades", "signals", "periods"))
    )


def test_without_prices_the_page_shows_what_was_saved(run: Run, tmp_path: Path) -> None:
    there = Path(run.manifest["store"]["path"])
    full = subject_of(run, "S001", 2)
    hidden = shutil.move(there, tmp_path / "elsewhere")
    try:
        subject = subject_of(run, "S001", 2)
        text = page(subject)
    finally:
        shutil.move(hidden, there)
    assert subject.gone is not None
    assert "prices are gone" in text
    assert "prices are gone" not in page(full)
    assert subject.series.n_trades == full.series.n_trades
    for name in ("trade_id", "side", "pnl", "return", "bars", "mae", "mfe", "reason", "entry_ts"):
        assert subject.series.trades[name].tolist() == full.series.trades[name].tolist(), name
    line = subject.series.sampled.lines["drawdown"]
    assert line.values.min() == full.series.sampled.lines["drawdown"].values.min()
    saved, again = years_of(subject.series.periods), years_of(full.series.periods)
    np.testing.assert_allclose([year.total for year in saved], [year.total for year in again], rtol=1e-12)
    mine, theirs = subject.series.sampled, full.series.sampled
    assert mine.starts.tolist() == theirs.starts.tolist()
    assert mine.lines["signal"].ts.tolist() == theirs.lines["signal"].ts.tolist()
    assert mine.lines["signal"].values.tolist() == theirs.lines["signal"].values.tolist()
    rows = run.table("signals").to_pandas()
    position = rows[(rows.symbol == "S001") & (rows.param_id == 2)].position.to_numpy()
    for side, asked in (("long", position > 0), ("short", position < 0)):
        plain = [asked[at : at + mine.width].mean() for at in range(0, asked.size, mine.width)]
        assert mine.means[side].tolist() == plain
        assert max(plain) == 1.0


@pytest.mark.parametrize("save", [("signals",), ("equity",), ()])
def test_without_prices_the_page_says_what_it_lacks(tmp_path: Path, save: tuple[str, ...]) -> None:
    fill_store(tmp_path / "prices.zarr", np.stack([tick_walk(3_000, 1)]))
    run = backtest(tmp_path / "prices.zarr", tmp_path / "run", [RunConfig()], Options(save=save))
    shutil.rmtree(tmp_path / "prices.zarr")
    found = CliRunner().invoke(app, ["report", str(run.path), "--html", "--png"])
    assert found.exit_code == 0, found.output
    text = (run.path / "report.html").read_text(encoding="utf-8")
    unsaved = ", ".join(name for name in ("signals", "equity", "trades", "periods") if name not in save)
    lacking = "without closes, buy-and-hold's curve, exposure and what is of the six families, nor "
    assert f"{lacking}{unsaved}, which the run did not save" in found.output
    assert f"{escape(lacking)}{unsaved}, which the run did not save" in text
    assert ("Shaded where a position is asked for" in text) == ("signals" in save)
    assert ("the run did not save signals" in text) == ("signals" not in save)
    pictures = {path.name for path in (run.path / "pictures").iterdir()}
    assert pictures == {{"signals": "indicator.png", "equity": "equity.png"}[name] for name in save}
