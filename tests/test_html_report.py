"""The page: thinning against plain loops, its numbers against the run's, and that nothing in it leads out of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filling import HOUR, hours
from hypothesis import given
from hypothesis import strategies as st
from prices import tick_walk
from typer.testing import CliRunner

from atc_backtest.accounts import TRADE
from atc_backtest.cli import app
from atc_backtest.config import AtcConfig, ExecutionConfig, RunConfig
from atc_backtest.display.sparklines import BLOCKS, sparkline
from atc_backtest.errors import ConfigError
from atc_backtest.pipelines.backtest import Options, backtest
from atc_backtest.pipelines.calendar_returns import by_period
from atc_backtest.pipelines.pages import palette
from atc_backtest.pipelines.pages.curves import equity_curves
from atc_backtest.pipelines.pages.heatmaps import STEPS, axis_of, heat_maps
from atc_backtest.pipelines.pages.histogram import SHOWN, Histogram
from atc_backtest.pipelines.pages.monthly import years_of
from atc_backtest.pipelines.pages.page import page
from atc_backtest.pipelines.pages.recomputing import EXTREME_TRADES, TRADES, KeptTrades, recompute
from atc_backtest.pipelines.pages.sampling import BUCKETS, Sampler
from atc_backtest.pipelines.pages.subject import subject_of
from atc_backtest.pipelines.report import Selection, report_table, warnings
from atc_backtest.pipelines.runs import Run
from atc_backtest.stores.zarr_store import create_store

HOSTILE = "<script>alert(1)</script>&\"'$\\frac{x}{2}$"
N_BARS = 6000
SETS = [
    RunConfig(atc=AtcConfig(decay=decay, long_threshold=limit), execution=ExecutionConfig(fee_bps=5.0, shorts=True))
    for decay in (0.03, 0.05, 0.1, 0.2)
    for limit in (0.0, 0.1, 0.2)
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Hours: a name that would be a script, one with gaps, one that is too short for a bar that counts."""
    path = tmp_path_factory.mktemp("page") / "prices.zarr"
    close = np.stack([tick_walk(N_BARS, seed) for seed in range(3)])
    close[1, ::3] = close[2, 20:] = np.nan
    store = create_store(path, bar_ns=HOUR, calendar="24/7", fields=("open", "high", "low", "close"))
    fields = {"open": close, "high": close * 1.01, "low": close * 0.99, "close": close}
    store.append(hours(0, N_BARS), [HOSTILE, "GAPS", "SHORT"], fields)
    return backtest(path, path.parent / "run", SETS, Options(save=("equity", "trades", "signals", "periods")))


@pytest.fixture(scope="module")
def text(run: Run) -> str:
    """The page of the name that would be a script."""
    return page(subject_of(run, HOSTILE))


class Reader(HTMLParser):
    """Tags with their attributes, and the text of `td` and `th` cells by table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.tables[-1][-1][-1] += data


def plainly(values: list[float], width: int) -> list[int]:
    """Places that are kept, by the definition."""
    kept: set[int] = set()
    for start in range(0, len(values), width):
        places = [at for at in range(start, min(start + width, len(values))) if values[at] == values[at]]
        if places:
            kept |= {places[0], places[-1]}
            kept |= {min(places, key=lambda at: (values[at], at)), max(places, key=lambda at: (values[at], -at))}
    return sorted(kept)


@given(
    st.integers(1, 3 * BUCKETS + 7), st.integers(0, 2**32 - 1), st.lists(st.integers(1, 2000), min_size=1, max_size=5)
)
def test_lines_keep_first_lowest_highest_and_last(n: int, seed: int, pieces: list[int]) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 9, (2, n)).astype(float)
    values[0, rng.random(n) < 0.3] = np.nan
    ts = np.arange(n, dtype=np.int64) * 7
    sampler = Sampler(n, ["line"], ["mean"])
    at = 0
    while at < n:
        step = pieces[at % len(pieces)]
        sampler.add(ts[at : at + step], values[:, at : at + step])
        at += step
    found = sampler.finish()
    kept = plainly(values[0].tolist(), found.width)
    assert found.lines["line"].ts.tolist() == ts[kept].tolist()
    assert found.lines["line"].values.tolist() == values[0, kept].tolist()
    starts = range(0, n, found.width)
    assert found.starts.tolist() == [int(ts[start]) for start in starts]
    assert len(starts) <= BUCKETS
    means = [values[1, start : start + found.width].mean() for start in starts]
    np.testing.assert_allclose(found.means["mean"], means, rtol=1e-12)


@given(st.lists(st.floats(-0.9, 5.0), max_size=200), st.integers(1, 50))
def test_a_histogram_counts_every_return_once_in_any_pieces(values: list[float], step: int) -> None:
    whole, pieces = Histogram(), Histogram()
    whole.add(np.array(values))
    for at in range(0, len(values), step):
        pieces.add(np.array(values[at : at + step]))
    found, other = whole.finish(), pieces.finish()
    moved = [value for value in values if value != 0.0]
    if found is None or other is None:
        assert found is other is None
        assert moved == []
        return
    assert found.counts.tolist() == other.counts.tolist()
    assert found.edges.tolist() == other.edges.tolist()
    assert int(found.counts.sum()) == len(moved)
    assert found.zeros == len(values) - len(moved)
    for at in range(1, SHOWN - 1):
        assert found.counts[at] == sum(found.edges[at] <= value < found.edges[at + 1] for value in moved)


def test_many_trades_are_thinned_out_but_the_largest_stay(run: Run) -> None:
    n = 3 * TRADES
    trades = np.zeros(n, TRADE)
    trades["trade_id"] = np.arange(n)
    trades["pnl"] = np.random.default_rng(1).standard_normal(n)
    found = [KeptTrades(), KeptTrades()]
    found[0].add(trades)
    for piece in np.array_split(trades, 37):
        found[1].add(piece)
    for one in found:
        kept = one.kept()
        assert one.n == n
        assert one.step == 4
        assert set(kept["trade_id"]) >= set(range(0, n, 4))
        largest = np.argsort(-np.abs(trades["pnl"]))[:EXTREME_TRADES]
        assert set(kept["trade_id"]) >= set(largest.tolist())
        assert kept.size < TRADES + EXTREME_TRADES


@pytest.mark.parametrize(("symbol", "param_id"), [(HOSTILE, 0), ("GAPS", 7), ("SHORT", 3)])
def test_what_is_computed_again_is_what_the_run_found(run: Run, symbol: str, param_id: int) -> None:
    series = recompute(run, symbol, param_id)
    metrics = [row for row in run.table().to_pylist() if (row["symbol"], row["param_id"]) == (symbol, param_id)]
    for name, value in series.figures.items():
        stored = metrics[0][name]
        assert (int(stored.value) if hasattr(stored, "value") else stored) == value, name

    def mine(dataset: str) -> Any:
        table = run.table(dataset).to_pandas()
        return table[(table.symbol == symbol) & (table.param_id == param_id)]

    equity, signals, trades = mine("equity"), mine("signals"), mine("trades")
    kept = plainly([np.nan] * (len(signals) - len(equity)) + equity.equity.tolist(), series.sampled.width)
    whole = np.append(np.full(len(signals) - len(equity), np.nan), equity.equity.to_numpy())
    assert series.sampled.lines["equity"].values.tolist() == [whole[at] for at in kept]
    assert (
        series.sampled.lines["equity"].ts.tolist()
        == signals.ts.astype("int64").to_numpy()[np.array(kept, int)].tolist()
    )
    assert series.n_trades == len(trades)
    assert series.trades["pnl"].tolist() == trades.pnl.tolist()
    if len(equity):
        assert series.sampled.lines["drawdown"].values.min() == metrics[0]["max_drawdown"]
        weights = sum(series.sampled.means[f"weight_{name}"] for name in ("ema", "hma", "wma", "dema", "lsma", "kama"))
        np.testing.assert_allclose(weights[~np.isnan(weights)], 1.0, rtol=1e-12)
        months = by_period(run, symbol, param_id).to_pylist()
        again = [month for year in years_of(series.periods) for month in year.months if month is not None]
        np.testing.assert_allclose(again, [month["total_return"] for month in months], rtol=0, atol=1e-12)


def test_the_page_says_the_runs_numbers(run: Run) -> None:
    subject = subject_of(run)
    reader = Reader(page(subject))
    best = run.table().sort_by([("sharpe", "descending")]).to_pylist()
    assert (subject.symbol, subject.row["sharpe"]) == (best[0]["symbol"], best[0]["sharpe"])
    figures = next(table for table in reader.tables if table[0][0] == "symbol")
    at = {name: figures[0].index(name) for name in ("symbol", "param_id", "Sharpe", "return", "trades")}
    assert len(figures) - 1 == len(best)
    for line, row in zip(figures[1:], best, strict=True):
        if row["sharpe"] is not None:
            assert line[at["Sharpe"]] == f"{row['sharpe']:.2f}"
            assert line[at["return"]] == f"{row['total_return']:+.1%}"
    months = next(table for table in reader.tables if table[0][0] == "year")
    total = np.prod([1 + year.total for year in years_of(subject.series.periods)]) - 1
    assert total == pytest.approx(best[0]["total_return"], abs=1e-12)
    assert months[1][-2] == f"{years_of(subject.series.periods)[-1].total:+.1%}"


def test_every_warning_is_on_the_page(run: Run, text: str) -> None:
    found = warnings(run, run.table())
    assert any("sets were tried" in line for line in found)
    assert any("less than a year" in line for line in found)
    assert all(line in text for line in found)


def test_nothing_leads_out_of_the_page(text: str) -> None:
    reader = Reader(text)
    policy = [attrs["content"] for tag, attrs in reader.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy
    assert "default-src 'none'" in str(policy[0])
    assert "http" not in str(policy[0])
    for tag, attrs in reader.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert not any(name in attrs for name in ("src", "srcset", "action", "poster")), (tag, attrs)
        assert not (tag == "a" and not str(attrs.get("href")).startswith("#"))
        assert not re.search(r"url\(|@import", attrs.get("style") or "")


def test_hostile_names_are_text(text: str) -> None:
    reader = Reader(text)
    assert "<script>alert" not in text
    assert "$\\frac" not in "".join(re.findall(r"<script>.*?</script>", text, re.DOTALL))
    assert sum(tag == "script" for tag, _ in reader.tags) == 4
    figures = next(table for table in reader.tables if table[0][0] == "symbol")
    assert HOSTILE in {line[0] for line in figures}


def test_heat_maps_are_medians_over_everything_else(run: Run) -> None:
    table = run.table()
    maps, left_out = heat_maps(run, table)
    assert left_out == 0
    assert [(one.x.name, one.y.name if one.y else None) for one in maps] == [("decay", "long_threshold")]
    rows = table.to_pandas()
    wanted = rows.pivot_table("sharpe", "long_threshold", "decay", aggfunc="median")
    np.testing.assert_array_equal(np.array(maps[0].medians, float), wanted.to_numpy())


def test_many_values_of_a_setting_are_binned() -> None:
    values = [float(value) for value in np.random.default_rng(0).permutation(100)]
    axis = axis_of("decay", values)
    assert len(axis.labels) == STEPS
    order = np.argsort(values)
    assert np.all(np.diff(np.array(axis.steps)[order]) >= 0)
    assert axis_of("calendar", ["b", None, "a"]).labels == ("None", "a", "b")


def test_unknown_subjects_are_refused(run: Run) -> None:
    with pytest.raises(ConfigError, match=r"--symbol NONE: not among.*GAPS"):
        subject_of(run, "NONE")
    with pytest.raises(ConfigError, match=r"--param-id 99: the run has sets 0 to 11"):
        subject_of(run, None, 99)


def test_colours_are_seen_on_both_grounds() -> None:
    series = (palette.STRATEGY, palette.HOLD, palette.LOSS, palette.GAIN, palette.SIGNAL, *palette.FAMILY_COLOURS)
    for colour in series:
        assert palette.contrast(colour, palette.PAPER) >= 3, colour
        assert palette.contrast(colour, palette.NIGHT) >= 3, colour


def test_the_command_writes_page_and_pictures(run: Run, tmp_path: Path) -> None:
    target, folder = tmp_path / "page.html", tmp_path / "pictures"
    words = ["report", str(run.path), "--html", str(target), "--png", str(folder), "--symbol", "GAPS", "--json"]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.output
    said = json.loads(found.stdout)
    assert said["files"][0] == str(target)
    assert said["symbol"] == "GAPS"
    names = ["equity.png", "months.png", "trades.png", "indicator.png"]
    assert said["files"][1:] == [str(folder / name) for name in names]
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in names)
    assert target.stat().st_size < 5_000_000


def test_files_after_the_options_may_be_left_out(run: Run) -> None:
    found = CliRunner().invoke(app, ["report", str(run.path), "--html", "--symbol", "GAPS"])
    assert found.exit_code == 0, found.output
    assert (run.path / "report.html").is_file()
    assert "equity    " in found.output
    (run.path / "report.html").unlink()
    assert CliRunner().invoke(app, ["report", str(run.path), "--symbol", "GAPS"]).exit_code == 2
    assert CliRunner().invoke(app, ["report", str(run.path), "--csv", "--html"]).exit_code == 2


def test_a_symbol_without_an_evaluated_bar_has_a_page(run: Run, tmp_path: Path) -> None:
    words = [
        "report",
        str(run.path),
        "--html",
        str(tmp_path / "page.html"),
        "--png",
        str(tmp_path),
        "--symbol",
        "SHORT",
    ]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.output
    assert "no evaluated bar" in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("library", "option"), [("bokeh", "--html"), ("matplotlib", "--png")])
def test_without_the_library_the_command_says_what_brings_it(run: Run, library: str, option: str) -> None:
    program = (
        f"import sys; sys.modules[{library!r}] = None; from atc_backtest.cli import app; "
        f"app(['report', {str(run.path)!r}, {option!r}])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert found.returncode == 3
    assert "pip install 'atc-backtest[report]'" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_sparkline_is_as_high_as_its_values() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == BLOCKS
    assert sparkline([1.0, 10.0, 100.0], 3, logarithmic=True) == "▁▅█"
    assert sparkline([0, 9, 1, 9, 2, 9], 3) == "▁▁▁"
    assert sparkline([0.0, -1.0, 5.0], 9, logarithmic=True) == "▁▁▁"
    assert sparkline([], 9) == ""


def test_the_table_has_sparklines_where_periods_were_saved(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atc_backtest.display.terminal.WIDE", 300)
    table = report_table(run, Selection(limit=5))
    curves = equity_curves(run, table)
    for (symbol, param_id), curve in curves.items():
        periods = run.table("periods").to_pandas()
        mine = periods[(periods.symbol == symbol) & (periods.param_id == param_id)]
        assert curve == mine.end_equity.tolist()
    found = CliRunner().invoke(app, ["report", str(run.path), "--limit", "5"])
    best = next(iter(curves.values()))
    assert sparkline(best, 16, logarithmic=True) in found.output


@pytest.mark.slow
def test_a_browser_draws_it_without_an_error(text: str, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium here")
    target = tmp_path / "page.html"
    target.write_text(text, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=15000", "--enable-logging=stderr"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    words = [chromium, *flags, profile, "--dump-dom", target.as_uri()]
    drawn = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)
    console = [line for line in drawn.stderr.splitlines() if ":CONSOLE" in line and "setting log level" not in line]
    assert console == []
    assert drawn.stdout.count("bk-Figure") >= 10
