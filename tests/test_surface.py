"""Surfaces against pandas, from the rows of the run; and sweeps on the command line against runs of one set each."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import atc
from filling import fill_store
from prices import tick_walk

from atc_backtest.config import ExecutionConfig, RunConfig
from atc_backtest.errors import ConfigError, StoreError
from atc_backtest.metrics import METRIC_COLUMNS
from atc_backtest.pipelines import backtest as running
from atc_backtest.pipelines import set_rows, stability
from atc_backtest.pipelines.backtest import Options, backtest
from atc_backtest.pipelines.plan import Partition, Plan, make_plan
from atc_backtest.pipelines.plateau import significant
from atc_backtest.pipelines.runs import Run, open_run
from atc_backtest.pipelines.stability import HALVINGS
from atc_backtest.pipelines.surface import Surface, View, set_table, set_values, surface
from atc_backtest.pipelines.sweep import expand, read_spec

DAY = 86_400 * 10**9


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven symbols of daily bars; one ends before its averages are there."""
    path = tmp_path_factory.mktemp("surface") / "prices.zarr"
    close = np.stack([tick_walk(500, seed) for seed in range(7)])
    close[2, 100::9] = np.nan
    close[5, 20:] = np.nan
    fill_store(path, close, bar_ns=DAY)
    return path


AXES = {"lengths": "20:50:10", "long_threshold": "0.05,0.1,0.2", "profile": "enhance,pine"}


@pytest.fixture(scope="module")
def run(store: Path) -> Run:
    base = RunConfig(execution=ExecutionConfig(fee_bps=3), rf=0.0001)
    sets = expand(read_spec({}, AXES), base).sets
    options = Options(save=("equity", "periods"), period="quarter", threads=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "make_plan", finely_cut)
        run = backtest(store, store.parent / "run", sets, options)
    assert len(run.partitions) == 3 * 5
    return run


def finely_cut(*args: Any) -> Plan:
    """The plan, with partitions of at most 3 symbols and 5 sets."""
    plan = make_plan(*args)
    pieces = [
        (part.symbols[at : at + 3], (first, min(first + 5, part.sets[1])))
        for part in plan.partitions
        for at in range(0, len(part.symbols), 3)
        for first in range(*part.sets, 5)
    ]
    return replace(plan, partitions=tuple(Partition(index, *piece) for index, piece in enumerate(pieces)))


@pytest.fixture(scope="module")
def found(run: Run) -> Surface:
    return surface(run)


def wide(run: Run, by: str = "sharpe") -> pd.DataFrame:
    """Figures, a row per symbol and a column per set."""
    return run.table("metrics").to_pandas().pivot_table(index="symbol", columns="param_id", values=by, dropna=False)


def test_every_set_over_all_symbols(run: Run, found: Surface) -> None:
    table = wide(run)
    assert table.shape == (7, 24)
    assert found.n.tolist() == table.count().tolist() == [6] * 24
    for name, expected in {
        "value": table.median(),
        "median": table.median(),
        "q25": table.quantile(0.25),
        "q75": table.quantile(0.75),
        "positive": (table > 0).sum() / table.count(),
    }.items():
        np.testing.assert_allclose(getattr(found, name), expected.to_numpy(), rtol=1e-14)
    assert (found.symbols, found.missing) == (7, 0)


@pytest.mark.parametrize("by", ["total_return", "max_drawdown_bars", "ruined", "trades"])
def test_any_figure_that_is_a_number(run: Run, by: str) -> None:
    table = run.table("metrics").to_pandas().astype({by: float})
    expected = table.groupby("param_id")[by].mean().to_numpy()
    np.testing.assert_allclose(set_values(run, View(by, "mean")), expected, rtol=1e-12)


def test_some_symbols_only(run: Run) -> None:
    chosen = ("S001", "S004", "S006")
    part = surface(run, View(symbols=chosen))
    np.testing.assert_allclose(part.value, wide(run).loc[list(chosen)].median(), rtol=1e-14)
    assert part.symbols == 3


def test_the_best_its_plateau_and_the_table(run: Run, found: Surface) -> None:
    assert [axis.name for axis in found.grid.axes] == ["lengths", "long_threshold", "profile"]
    sets = {
        (config.atc.lengths.ema, config.atc.long_threshold, config.atc.profile): at
        for at, config in enumerate(run.sets)
    }
    median = wide(run).median().to_numpy()
    flat = np.empty(24)
    for (length, threshold, profile), at in sets.items():
        place = (0.05, 0.1, 0.2).index(threshold)
        beside = [(length + step, threshold, profile) for step in (-10, 10)]
        beside += [(length, (0.05, 0.1, 0.2)[place + s], profile) for s in (-1, 1) if 0 <= place + s < 3]
        flat[at] = np.median([median[at], *(median[sets[key]] for key in beside if key in sets)])
    np.testing.assert_allclose(found.flat, flat, rtol=1e-14)
    assert found.peak is not None
    assert (found.peak.best, found.peak.plateau) == (np.argmax(median), np.argmax(flat))
    rows = set_table(run, found).to_pylist()
    assert [row["param_id"] for row in rows] == np.argsort(-median, kind="stable").tolist()
    for row in rows:
        assert sets[row["lengths.kama"], row["long_threshold"], row["profile"]] == row["param_id"]
        assert row["value"] == found.value[row["param_id"]]
    least = surface(run, View(ascending=True))
    assert least.peak is not None
    assert least.peak.best == np.argmin(median) == set_table(run, least)["param_id"][0].as_py()


def test_halves_of_the_symbols(run: Run, found: Surface) -> None:
    table = wide(run)
    expected = []
    for mask in stability.halves(7, seed=0):
        assert mask.sum() == 3
        expected.append(table[mask].median().rank().corr(table[~mask].median().rank()))
    assert len(expected) == HALVINGS
    stable = found.by_symbols
    assert (stable.mean, stable.low, stable.high) == pytest.approx((np.mean(expected), min(expected), max(expected)))
    assert surface(run, View(seed=1)).by_symbols != stable
    assert surface(run, View(symbols=("S001",))).by_symbols.mean is None


def returns(run: Run) -> pd.DataFrame:
    """Per-bar returns of equity from the saved series: symbol, param_id, ts, r."""
    equity = run.table("equity").to_pandas()
    before = equity.groupby(["symbol", "param_id"])["equity"].shift(1).fillna(10_000.0)
    return equity.assign(r=equity["equity"] / before - 1, quarter=equity["ts"].dt.tz_localize(None).dt.to_period("Q"))


def medians(frame: pd.DataFrame, by: pd.Series[Any]) -> pd.DataFrame:
    """Median Sharpe ratio over the symbols: a row per value of `by`, a column per set."""

    def sharpe(r: pd.Series[float]) -> float:
        return float((r.mean() - 0.0001) / r.std() * np.sqrt(365.25)) if r.nunique() > 1 else np.nan

    each = frame.groupby(["symbol", "param_id", by.rename("span")])["r"].apply(sharpe)
    return tied(each.groupby(["span", "param_id"]).median().unstack("param_id"))


def following(spans: pd.DataFrame) -> float:
    """Mean rank correlation of one row and the next, over the sets that both have."""
    pairs = [spans.iloc[at : at + 2].T.dropna().rank() for at in range(len(spans) - 1)]
    return float(np.mean([pair.iloc[:, 0].corr(pair.iloc[:, 1]) for pair in pairs if len(pair) > 2]))


def test_the_order_over_time(run: Run, found: Surface) -> None:
    frame = returns(run)
    quarters = medians(frame, frame["quarter"])
    names = sorted(frame["quarter"].unique())
    late = frame["quarter"] >= names[len(names) // 2]
    halves = medians(frame, late)
    time, peak = found.by_time, found.peak
    assert time is not None
    assert peak is not None
    assert (time.figure, time.period, time.periods) == ("sharpe", "quarter", len(names))
    assert time.halves == pytest.approx(halves.loc[False].rank().corr(halves.loc[True].rank()), abs=1e-9)
    assert time.consecutive == pytest.approx(following(quarters), abs=1e-9)
    beaten = (quarters.gt(quarters[peak.best], axis=0)).sum(axis=1) / quarters.count(axis=1)
    assert time.best_in_top_decile == pytest.approx((beaten < 0.1).mean())


def test_the_order_over_time_of_returns(run: Run) -> None:
    view = surface(run, View("total_return"))
    assert view.by_time is not None
    assert view.by_time.figure == "total_return"
    frame = returns(run)
    names = sorted(frame["quarter"].unique())
    quarters = grown(frame, frame["quarter"])
    assert view.by_time.consecutive == pytest.approx(following(quarters), abs=1e-12)
    halves = grown(frame, frame["quarter"] >= names[len(names) // 2])
    assert view.by_time.halves == pytest.approx(halves.iloc[0].rank().corr(halves.iloc[1].rank()), abs=1e-12)


def grown(frame: pd.DataFrame, by: pd.Series[Any]) -> pd.DataFrame:
    """Median return over the symbols: a row per value of `by`, a column per set."""
    ends = frame.groupby(["symbol", "param_id", by.rename("span")])["equity"].last()
    starts = ends.groupby(["symbol", "param_id"]).shift(1).fillna(10_000.0)
    return tied((ends / starts - 1).groupby(["span", "param_id"]).median().unstack("param_id"))


def tied(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(significant(frame.to_numpy()), frame.index, frame.columns)


def same(one: Surface, other: Surface) -> bool:
    names = ("value", "n", "q25", "median", "q75", "positive", "flat", "near")
    equal = all(np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True) for name in names)
    return equal and (one.peak, one.by_symbols, one.by_time) == (other.peak, other.by_symbols, other.by_time)


def test_nothing_depends_on_how_the_run_was_cut_or_is_read(
    store: Path, run: Run, found: Surface, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options(save=("equity", "periods"), period="quarter", threads=1, kernel="numba")
    other = backtest(store, tmp_path / "other", tuple(reversed(run.sets)), options)
    assert len(other.partitions) == 1
    again = surface(other)
    assert np.array_equal(again.value[::-1], found.value)
    assert again.by_symbols == found.by_symbols
    for module in (set_rows, stability):
        monkeypatch.setattr(module, "CELLS", 50)
    assert same(surface(run), found)


def test_runs_without_periods_without_parts_and_of_one_set(store: Path, run: Run, tmp_path: Path) -> None:
    single = backtest(store, tmp_path / "single", [RunConfig()])
    alone = surface(single)
    assert alone.grid.axes == ()
    assert alone.by_time is None
    assert alone.peak is not None
    assert (alone.peak.best, alone.peak.plateau, alone.peak.excess) == (0, 0, 0.0)
    for record in (single.path / "commits").iterdir():
        record.unlink()
    with pytest.raises(StoreError, match="nothing committed yet"):
        surface(open_run(single.path))
    for view, message in (
        (View("luck"), "--by 'luck' is not a figure: choose from n_bars"),
        (View("start_ts"), "is not a figure"),
        (View(how="mode"), "--aggregate 'mode' is not known"),
        (View(symbols=("NOPE",)), "--symbols NOPE: not in this run, which has S000"),
    ):
        with pytest.raises(ConfigError, match=message):
            surface(run, view)


def test_a_run_that_goes_on_shows_what_is_there(run: Run, found: Surface, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "part")
    part = open_run(tmp_path / "part")
    gone = part.partitions[-1]
    (part.path / "commits" / f"part-{gone.index:05d}.json").unlink()
    looked = surface(part)
    assert looked.missing == 1
    np.testing.assert_allclose(looked.value, wide(part).median(), rtol=1e-14)
    assert (found.n - looked.n).sum() == np.sum(
        ~np.isnan(wide(run).iloc[list(gone.symbols), slice(*gone.sets)].to_numpy())
    )
    text = atc("surface", part.path).stdout
    assert "partial   1 of 15 partitions are missing" in text


# The command line


def test_a_sweep_has_the_figures_of_single_runs(store: Path, tmp_path: Path) -> None:
    flags = ("--fee-bps", 3, "--symbols", "S000,S003")
    result = atc(
        "sweep", store, "--out", tmp_path / "sweep", *flags, "--set", "lengths=20,30", "--set", "decay=0.02,0.05"
    )
    assert result.exit_code == 0, result.stderr
    assert "4 sets, 2 streams of averages" in result.stderr
    assert f"next: atc-backtest surface {tmp_path / 'sweep'}" in result.stdout
    rows = open_run(tmp_path / "sweep").table("metrics").to_pylist()
    for param_id, (length, decay) in enumerate([(20, 0.02), (20, 0.05), (30, 0.02), (30, 0.05)]):
        lengths = [
            word
            for family in ("ema", "hma", "wma", "dema", "lsma", "kama")
            for word in ("--set", f"lengths.{family}={length}")
        ]
        out = tmp_path / f"single-{param_id}"
        assert atc("backtest", store, "--out", out, *flags, *lengths, "--set", f"decay={decay}").exit_code == 0
        single = open_run(out).table("metrics").to_pylist()
        mine = [row for row in rows if row["param_id"] == param_id]
        assert [(row["lengths.ema"], row["decay"]) for row in mine] == [(length, decay)] * 2
        assert [{name: row[name] for name in METRIC_COLUMNS if name != "param_id"} for row in mine] == [
            {name: row[name] for name in METRIC_COLUMNS if name != "param_id"} for row in single
        ]


def test_a_sweep_of_a_file_is_planned_run_and_resumed(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text("[execution]\nfee_bps = 4\n[sweep.grid]\nlengths = '20:40:10'\nlong_threshold = [-0.2, 0.1, 0.2]\n")
    command = ("sweep", store, "--config", file, "--out", tmp_path / "run")
    refused = atc(*command)
    assert refused.exit_code == 3
    assert "combination 1 (lengths=20, long_threshold=-0.2): short_threshold = -0.1" in refused.stderr
    plan = atc(*command, "--skip-invalid", "--plan")
    assert "6 sets of 9 combinations (left out: 3 invalid), 3 streams of averages" in plan.stdout
    assert "memory: at most" in plan.stdout
    facts = json.loads(atc(*command, "--skip-invalid", "--plan", "--json").stdout)
    assert (facts["sets"], facts["combinations"], facts["invalid"], facts["streams"]) == (6, 9, 3, 3)
    assert not (tmp_path / "run").exists()
    machine = atc(*command, "--skip-invalid", "--json", "--threads", 3, "--save", "periods")
    whole = json.loads(machine.stdout)
    assert whole["sets"] == 6
    assert {config.execution.fee_bps for config in open_run(tmp_path / "run").sets} == {4.0}
    next((tmp_path / "run" / "commits").iterdir()).unlink()
    resumed = atc(*command, "--skip-invalid", "--resume", "--json", "--save", "periods")
    assert resumed.exit_code == 0, resumed.stderr
    assert json.loads(resumed.stdout)["hash"] == whole["hash"]
    other = atc(*command, "--skip-invalid", "--resume", "--save", "periods", "--set", "lengths=20")
    assert other.exit_code == 3
    assert "was begun with other settings" in other.stderr


def test_the_surface_in_a_terminal_as_json_and_as_csv(run: Run, found: Surface) -> None:
    text = atc("surface", run.path).stdout
    for line in (
        "median of sharpe over 7 symbols, 24 sets",
        "best      set",
        "plateau   set",
        "fragile   the best stands",
    ):
        assert line in text
    assert "long_threshold (3 values)" in text
    assert "median of sharpe: lengths across, long_threshold down, median over profile" in text
    assert text.count("\n") < 40
    machine = json.loads(atc("surface", run.path, "--json", "--y", "profile").stdout)
    assert machine["sets"][0]["value"] == found.value[machine["sets"][0]["param_id"]]
    assert (machine["map"]["x"], machine["map"]["y"]) == ("lengths", "profile")
    assert np.shape(machine["map"]["values"]) == (2, 4)
    lines = list(csv.DictReader(atc("surface", run.path, "--csv", "--by", "cagr").stdout.splitlines()))
    assert len(lines) == 24
    assert list(lines[0])[-8:] == ["value", "n", "q25", "median", "q75", "positive", "plateau", "neighbours"]
    assert atc("surface", run.path, "--csv", "--json").exit_code == 2
    wrong = atc("surface", run.path, "--x", "decay")
    assert wrong.exit_code == 3
    assert "'decay' does not vary in this run" in wrong.stderr


def test_a_map_has_colours_in_a_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = atc("surface", run.path).stdout
    assert "\x1b" not in plain
    monkeypatch.setattr("atc_backtest.display.terminal.WIDE", 60)
    narrow = atc("surface", run.path, "--x", "lengths").stdout
    assert max(len(line) for line in narrow.split("down, median over")[1].splitlines()) <= 60
    from rich.console import Console

    monkeypatch.setattr(
        "atc_backtest.display.terminal._console",
        lambda: Console(force_terminal=True, color_system="truecolor", width=100, highlight=False),
    )
    assert "48;2;253;231;37m" in atc("surface", run.path).stdout  # the highest value
