"""The Python API: any form of prices is one run, the run is the command's, and what it returns is what it saved."""

from __future__ import annotations

import doctest
import gc
import importlib
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from frames import CLOSES, COSTS, INDEX, SERIES, WIDE
from prices import NAN, same

import atc_backtest as atc
from atc_backtest.pipelines.backtest import Progress
from atc_backtest.reference import atc as reference

# What comes back


def test_what_was_not_saved_is_what_would_have_been() -> None:
    sets = [COSTS, {**COSTS, "lengths.ema": 40}, {**COSTS, "shorts": True}]
    saved = atc.backtest(WIDE, sets, save=SERIES)
    plain = atc.backtest(WIDE, sets)
    for name in ("trades", "signals", "equity"):
        assert plain.table(name).equals(saved.table(name)), name
        for symbol, param_id in (("BBB", 2), ("CCC", 0)):
            one = plain.table(name, symbols=symbol, param_id=param_id)
            assert one.equals(saved.table(name, symbols=symbol, param_id=param_id)), name
            assert set(one["param_id"].to_pylist()) <= {param_id}
            assert one.num_rows > 0
    assert plain.table("trades", symbols=["AAA", "CCC"], param_id=1).equals(
        saved.table("trades", symbols=["AAA", "CCC"], param_id=1)
    )
    with pytest.raises(atc.StoreError, match="no trades"):
        plain.dataset("trades")
    assert saved.dataset("trades").count_rows() == len(plain.trades)


def test_pandas_holds_what_arrow_does() -> None:
    run = atc.backtest(WIDE, [COSTS, {"fee_bps": 9}], save="equity")
    table = run.table("metrics")
    assert run.metrics.columns.tolist() == table.column_names
    assert run.metrics["sharpe"].tolist() == table["sharpe"].to_pylist()
    equity = run.equity("BBB", 1)
    expected = run.table("equity", symbols="BBB", param_id=1)
    assert equity.name == "BBB"
    assert equity.tolist() == expected["equity"].to_pylist()
    assert equity.index.equals(pd.DatetimeIndex(expected["ts"].to_pandas(), name="ts"))
    assert equity.iloc[-1] == run.metrics.query("symbol == 'BBB' and param_id == 1")["final_equity"].item()
    signals = run.signals("BBB", 1)
    assert signals.index[-1] == INDEX[-1]
    assert same(signals["signal"].to_numpy(), reference(CLOSES[1][~np.isnan(CLOSES[1])], atc.AtcConfig()).signal)
    assert set(signals["position"]) == {0, 1}
    assert run.trades.groupby(["symbol", "param_id"]).size().loc["BBB", 1] >= run.metrics["trades"][3]


def test_progress_is_shown_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    todo: list[int] = []
    shown = SimpleNamespace(progress=Progress(started=lambda job, bars, dashboard: todo.append(bars)))
    monkeypatch.setattr("atc_backtest.api.run_progress", lambda: nullcontext(shown))
    silent = atc.backtest(WIDE, COSTS)
    assert todo == []
    assert atc.backtest(WIDE, COSTS, progress=True).hash == silent.hash
    assert todo == [np.count_nonzero(~np.isnan(CLOSES))]


def test_costs_of_single_symbols_count_in_what_is_computed_again(tmp_path: Path) -> None:
    (tmp_path / "costs.csv").write_text("symbol,fee_bps\nBBB,50\n")
    saved = atc.backtest(WIDE, COSTS, costs=tmp_path / "costs.csv", save=SERIES)
    plain = atc.backtest(WIDE, COSTS, costs=tmp_path / "costs.csv")
    for name in SERIES:
        assert plain.table(name).equals(saved.table(name)), name
    assert plain.equity("AAA").equals(atc.backtest(WIDE, COSTS).equity("AAA"))
    assert plain.equity("BBB").iloc[-1] < atc.backtest(WIDE, COSTS).equity("BBB").iloc[-1]


def test_only_some_symbols() -> None:
    run = atc.backtest(WIDE, COSTS, symbols=["CCC", "AAA"])
    assert run.symbols == ("AAA", "CCC")
    assert run.metrics["symbol"].tolist() == ["AAA", "CCC"]
    assert set(run.trades["symbol"]) == {"AAA", "CCC"}


def test_temporary_folders_go_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run = atc.backtest(WIDE, COSTS)
    assert run.path.is_dir()
    assert repr(run) == "Run(3 symbols, 1 set, complete, temporary)"
    assert not run.trades.empty
    del run
    gc.collect()
    with pytest.raises(atc.ConfigError, match="at least one"):
        atc.backtest(WIDE, [])
    assert list(tmp_path.iterdir()) == []


def test_a_run_with_a_place_stays_and_its_prices_beside_it(tmp_path: Path) -> None:
    out = tmp_path / "first"
    hash_ = atc.backtest(WIDE, COSTS, out=out).hash
    gc.collect()
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == [
        "first",
        "first.zarr",
        "first.zarr.trials",
    ]
    assert atc.open_run(out).hash == hash_
    with pytest.raises(atc.StoreError, match="--overwrite"):
        atc.backtest(WIDE, COSTS, out=out)
    assert atc.backtest(WIDE, COSTS, out=out, overwrite=True).hash == hash_
    assert atc.backtest(tmp_path / "first.zarr", COSTS, out=out, resume=True).hash == hash_


def test_what_was_not_saved_is_of_the_prices_that_the_run_began_with(tmp_path: Path) -> None:
    out, store = tmp_path / "first", tmp_path / "first.zarr"
    run = atc.backtest(WIDE, COSTS, out=out)
    before = run.equity("AAA")
    assert len(before) == 263
    later = run.store.ts(299, 300) + 3600 * 10**9
    atc.open_store(store).append(later, run.symbols, {"close": np.full((3, 1), 9.0)})
    assert atc.open_store(store).info.n_bars == 301
    assert run.equity("AAA").equals(before)
    assert run.store.info.n_bars == 300
    shutil.rmtree(store)
    atc.backtest(WIDE + 1, COSTS, out=out.with_name("other"))
    out.with_name("other.zarr").rename(store)
    assert len(run.metrics) == 3
    for call in (lambda: run.equity("AAA"), lambda: run.store):
        with pytest.raises(atc.StoreError, match="another store than the one"):
            call()


def test_warnings_of_a_report() -> None:
    assert any("no costs" in one for one in atc.backtest(WIDE).warnings)
    assert not any("no costs" in one for one in atc.backtest(WIDE, COSTS).warnings)


def test_a_picture_shows_itself() -> None:
    run = atc.backtest(WIDE, {**COSTS, "shorts": True})
    figure = run.plot("BBB")
    assert figure._repr_png_()[:8] == b"\x89PNG\r\n\x1a\n"
    price, money, loss = figure.axes
    np.testing.assert_array_equal(price.lines[0].get_ydata(), CLOSES[1][40:])
    assert money.lines[0].get_ydata()[-1] == run.equity("BBB").iloc[-1]
    lowest = min(path.vertices[:, 1].min() for path in loss.collections[0].get_paths())
    assert lowest == pytest.approx(100 * run.metrics["max_drawdown"][1], rel=1e-12)


# One series


@pytest.mark.parametrize("config", [{}, {"lengths.kama": 17, "cutout": 50}, {"profile": "pine"}])
def test_signals_are_the_references_to_the_last_bit_in_every_form(config: dict[str, Any]) -> None:
    close = CLOSES[2]
    expected = np.full(close.size, NAN)
    expected[~np.isnan(close)] = reference(close[~np.isnan(close)], atc.settings(config).atc).signal
    assert np.isfinite(expected).any()
    assert same(atc.signals(close, config), expected)
    series = atc.signals(WIDE["CCC"], config)
    assert series.name == "CCC"
    assert series.index.equals(INDEX)
    assert same(series.to_numpy(), expected)
    found = atc.signals(pl.Series("CCC", [None if np.isnan(x) else x for x in close.tolist()]), config)
    assert found.name == "CCC"
    assert same(found.to_numpy(), expected)


def test_a_series_that_cannot_be() -> None:
    for bad, message in (
        (np.array([1.0, 0.0, 2.0]), "finite and > 0"),
        (CLOSES, "one series"),
        ("prices.zarr", "give a pandas or polars Series"),
        (np.array(["a", "b"]), "no numbers"),
    ):
        with pytest.raises(atc.DataError, match=message):
            atc.signals(bad)
    with pytest.raises(atc.ConfigError, match="source = 'hl2'"):
        atc.signals(CLOSES[0], {"source": "hl2"})


# Settings


def test_settings_of_any_form_are_one(tmp_path: Path) -> None:
    toml = tmp_path / "one.toml"
    toml.write_text("[atc]\nlengths.ema = 40\nlambda = 0.03\n[execution]\nfee_bps = 2\n")
    expected = atc.settings({"lengths.ema": 40, "lambda": 0.03}, fee_bps=2)
    assert expected.atc == atc.AtcConfig(lengths=expected.atc.lengths, lambda_=0.03)
    assert atc.settings({"atc": {"lengths": {"ema": 40}, "lambda": 0.03}, "execution": {"fee_bps": 2}}) == expected
    sets = [str(toml), toml, expected, {"atc": {"lengths": {"ema": 40}}, "lambda": 0.03, "fee_bps": 2}]
    run = atc.backtest(WIDE[["AAA"]], [*sets, expected.atc, None])
    assert run.sets == (expected,) * 4 + (atc.RunConfig(atc=expected.atc), atc.RunConfig())


def test_the_environment_does_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ATC_FEE_BPS", "77")
    (tmp_path / "empty.toml").write_text("")
    run = atc.backtest(WIDE[["AAA"]], [None, tmp_path / "empty.toml"])
    assert run.sets == (atc.RunConfig(),) * 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: atc.settings(fee=2), "unknown setting 'fee'; known are: lengths.ema"),
        (lambda: atc.settings(fee_bps=-2), "fee_bps = -2.0 is not allowed"),
        (lambda: atc.backtest(WIDE, 3.5), "config is a float"),
        (lambda: atc.backtest("no.toml.zarr", tz="UTC"), "tz = 'UTC' is not allowed with a store"),
        (lambda: atc.backtest(WIDE, resume=True), "resume"),
        (lambda: atc.backtest(WIDE, save="sinals"), "cannot save 'sinals'"),
        (lambda: atc.backtest(WIDE, symbols="DDD"), "DDD"),
        (lambda: atc.backtest(WIDE, memory_limit="1 potato"), "memory limit"),
        (lambda: atc.backtest(WIDE).equity(), "3 symbols: name one of AAA, BBB, CCC"),
        (lambda: atc.backtest(WIDE).equity("DDD"), "no symbol 'DDD'"),
        (lambda: atc.backtest(WIDE, [None, {"fee_bps": 1}]).equity("AAA"), "param_id=, 0 to 1"),
        (lambda: atc.backtest(WIDE).equity("AAA", 1), "no param_id 1"),
    ],
)
def test_refusals_say_what_to_do(call: Any, message: str) -> None:
    with pytest.raises(atc.ConfigError, match=message):
        call()


# The names


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, atc_backtest; print([m for m in sys.modules if m.partition('.')[0] in %r])"
    heavy = ("numpy", "pyarrow", "pandas", "numba", "zarr", "dask", "matplotlib", "typer")
    found = subprocess.run([sys.executable, "-c", code % (heavy,)], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_public_names_are_there_and_no_others() -> None:
    for name in atc.__all__:
        assert getattr(atc, name) is not None
        assert name in dir(atc)
    with pytest.raises(AttributeError, match="no attribute 'backtst'"):
        _ = atc.backtst  # type: ignore[attr-defined]
    assert atc.Live([atc.AtcConfig()], ["AAA"]).update({"AAA": 9.5}).shape == (1, 1)


def test_without_pandas_and_matplotlib_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    run = atc.backtest(CLOSES[0], COSTS, bar="1h")
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "atc_backtest.api.plotting", raising=False)
    for call in (lambda: run.metrics, lambda: run.trades, lambda: run.equity(), lambda: run.signals()):
        with pytest.raises(atc.UnavailableError, match=r"pip install 'atc-backtest\[pandas\]'.*which is Arrow"):
            call()
    with pytest.raises(atc.UnavailableError, match=r"pip install 'atc-backtest\[report\]'"):
        run.plot()
    assert run.table("equity").num_rows == 263


@pytest.mark.parametrize("module", ["api", "api.parameters", "api.series", "api.results"])
def test_examples_in_docstrings(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"atc_backtest.{module}"), optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0
