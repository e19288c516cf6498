"""Guards that read what a run has saved, and the ledger of trials: what is read is what was run."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filling import fill_store
from prices import tick_walk
from simulated import SYMBOLS, fill_hundred_days, grid, run_grid

from atc_backtest.config import AtcConfig, ExecutionConfig, PerFamily, RunConfig
from atc_backtest.errors import ConfigError, DataError, StoreError
from atc_backtest.pipelines.backtest import Options, Progress, backtest
from atc_backtest.pipelines.guards import assessing
from atc_backtest.pipelines.guards.ledger import ledger_folder, read_ledger, trial_digest
from atc_backtest.pipelines.guards.reading import PeriodRows
from atc_backtest.pipelines.runs import Run
from atc_backtest.stores.verification import verify
from atc_backtest.stores.zarr_store import open_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("guards") / "prices.zarr"
    fill_hundred_days(path)
    return path


@pytest.fixture(scope="module")
def run(store: Path) -> Run:
    return run_grid(store)


def entries(store: Path) -> int:
    return len(read_ledger(str(store.resolve()), open_store(store).info.id).entries)


# Periods as trials


def test_the_whole_is_the_mean_of_the_symbols_returns(run: Run) -> None:
    rows = run.table("periods").to_pandas()
    rows["r"] = rows.end_equity / rows.start_equity - 1
    expected = rows.groupby(["param_id", "period_ts"]).r.mean().unstack().to_numpy()
    whole = PeriodRows(run).whole()
    known = ~np.isnan(expected)
    assert np.array_equal(whole.moments.n > 0, known)
    assert whole.moments.mean[known] == pytest.approx(expected[known], rel=1e-12, abs=1e-13)
    assert whole.growth[known] == pytest.approx(np.log1p(expected[known]), abs=1e-12)
    assert set(whole.per_year) == {365.25}


def test_a_symbols_trials_have_the_reports_sharpe(run: Run) -> None:
    sharpe = run.table().to_pandas().set_index(["symbol", "param_id"]).sharpe
    rows = PeriodRows(run)
    for symbol in rows.symbols:
        trials = rows.of(symbol)
        for param_id in range(6):
            found = trials.annual(param_id, trials.moments[param_id])
            assert found == pytest.approx(sharpe[symbol, param_id], rel=1e-9)
    with pytest.raises(DataError, match="no symbol 'XYZ'"):
        rows.of("XYZ")


def test_the_risk_free_rate_is_taken_off(store: Path, tmp_path: Path) -> None:
    sets = [replace(config, rf=0.0001) for config in grid()[:2]]
    again = backtest(store, tmp_path / "run", sets, Options(save=("periods",), period="day", ledger=False))
    sharpe = again.table().to_pandas().set_index(["symbol", "param_id"]).sharpe
    trials = PeriodRows(again).of("S000")
    assert trials.annual(1, trials.moments[1]) == pytest.approx(sharpe["S000", 1], rel=1e-9)


def test_figures_do_not_depend_on_the_cut(store: Path, run: Run, tmp_path: Path) -> None:
    options = Options(save=("periods",), period="day", threads=2, memory_limit=600 * 2**20, ledger=False)
    again = PeriodRows(backtest(store, tmp_path / "other", grid(), options)).whole()
    whole = PeriodRows(run).whole()
    assert again.moments.mean.tobytes() == whole.moments.mean.tobytes()
    assert again.growth.tobytes() == whole.growth.tobytes()


def test_a_run_without_periods_says_what_to_do(store: Path, tmp_path: Path) -> None:
    bare = backtest(store, tmp_path / "bare", grid()[:1], Options(ledger=False))
    with pytest.raises(StoreError, match="--save periods"):
        PeriodRows(bare)


# Walk-forward


def test_folds_are_read_from_the_whole_run_which_is_what_a_run_of_the_fold_gives(
    store: Path, run: Run, tmp_path: Path
) -> None:
    """A run that counts from the fold's first day on, having learnt from all days before.

    Signals are the same bits. Its account begins flat, so that the first two bars may differ by the position that
    the whole run holds already; without costs, every later return is the same.
    """
    rows = PeriodRows(run)
    start = pd.Timestamp(int(rows.starts[60]), unit="ns", tz="UTC")
    sets = [replace(config, eval_start=start.isoformat()) for config in grid()]
    options = Options(save=("signals", "equity", "periods"), period="day", kernel="numba", ledger=False)
    fold = backtest(store, tmp_path / "fold", sets, options)
    keys = ["symbol", "param_id", "ts"]
    whole, later = (one.table("signals").to_pandas() for one in (run, fold))
    pd.testing.assert_frame_equal(whole[[*keys, "signal"]], later[[*keys, "signal"]], check_exact=True)
    for symbol in rows.symbols:
        for param_id in range(6):
            both = [
                one.table("equity").to_pandas().query(f"symbol == '{symbol}' and param_id == {param_id}")
                for one in (run, fold)
            ]
            ours, theirs = (one.set_index("ts").equity.pct_change().loc[start:].iloc[2:] for one in both)
            assert ours.to_numpy() == pytest.approx(theirs.to_numpy(), abs=1e-12)
    ours, theirs = PeriodRows(run).whole(), PeriodRows(fold).whole()
    same = np.searchsorted(ours.starts, theirs.starts[1:])
    assert ours.moments.mean[:, same] == pytest.approx(theirs.moments.mean[:, 1:], abs=1e-12)


def test_walk_forward_over_a_run(run: Run) -> None:
    found = assessing.walked_forward(run, 30, 10, embargo=1)
    assert found.period == "day"
    assert list(found.symbols) == ["S000", "S001", "S002"]
    assert len(found.whole.steps) == len(found.symbols["S000"].steps) == 7
    late = found.symbols["S001"].steps
    assert late[0].chosen is None or late[0].in_sample is not None
    daily = PeriodRows(run).whole().moments.mean
    first = found.whole.steps[0]
    train = daily[:, 0:30]
    assert first.chosen == int(np.argmax(train.mean(1) / train.std(1, ddof=1)))
    with pytest.raises(ConfigError, match="choose from sharpe, return"):
        assessing.walked_forward(run, 30, 10, by="luck")
    assert assessing.walked_forward(run, 30, 10, by="return").whole.steps[0].chosen == int(
        np.argmax(np.log1p(train).sum(axis=1))
    )


# The ledger, and the deflated Sharpe ratio by it


def test_what_is_tried_is_what_counts() -> None:
    config = RunConfig()
    same = [
        replace(config, execution=ExecutionConfig(fee_bps=9.0, slippage_bps=3.0, start_equity=1.0)),
        replace(config, execution=ExecutionConfig(fill="next_open")),
        replace(config, eval_start="2020-01-01", calendar="XNYS", rf=0.1),
    ]
    other = [
        replace(config, atc=AtcConfig(long_threshold=0.2)),
        replace(config, execution=ExecutionConfig(shorts=True)),
        replace(config, execution=ExecutionConfig(size=0.5)),
        replace(config, source="hl2"),
    ]
    digest = trial_digest(config, "next_open")
    assert {trial_digest(one, "next_open") for one in same} == {digest}
    assert len({digest, trial_digest(config, "close"), *(trial_digest(one, "next_open") for one in other)}) == 6
    assert digest == "439dc83e68792910", "entries that were written stay what they are"


def test_every_run_leaves_an_entry_once(store: Path, tmp_path: Path) -> None:
    before = entries(store)
    out, sets = tmp_path / "run", grid()[:3]

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backtest(store, out, sets, Options(), Progress(started=stop))
    assert entries(store) == before + 1
    backtest(store, out, sets, Options(resume=True))
    assert entries(store) == before + 1
    ledger = read_ledger(str(store.resolve()), open_store(store).info.id)
    (entry,) = (one for one in ledger.entries if one.run == str(out.resolve()))  # those of one second have no order
    assert entry.symbols == SYMBOLS
    trials = ledger.trials
    backtest(store, out, [*sets, replace(sets[0], atc=AtcConfig(decay=0.5))], Options(overwrite=True, kernel="numba"))
    again = read_ledger(str(store.resolve()), open_store(store).info.id)
    assert (len(again.entries), again.trials) == (before + 2, trials + 1)
    backtest(store, tmp_path / "free", sets, Options(ledger=False))
    assert entries(store) == before + 2
    assert verify(store).damage == ()


def test_where_the_ledger_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ATC_LEDGER", raising=False)
    assert ledger_folder("/data/prices.zarr", "ab12") == Path("/data/prices.zarr.trials")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert ledger_folder("s3://bucket/prices.zarr", "ab12") == tmp_path / "atc-backtest" / "trials" / "ab12"
    monkeypatch.delenv("XDG_STATE_HOME")
    assert ledger_folder("s3://bucket/x", "ab12") == Path.home() / ".local/state/atc-backtest/trials/ab12"
    monkeypatch.setenv("ATC_LEDGER", str(tmp_path / "all"))
    assert ledger_folder("/data/prices.zarr", "ab12") == tmp_path / "all"


def test_a_ledger_that_cannot_be_written_stops_no_run(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("ATC_LEDGER", str(tmp_path / "file" / "ledger"))
    monkeypatch.setattr(logging.getLogger("atc_backtest"), "propagate", True)
    with caplog.at_level(logging.WARNING, "atc_backtest"):
        done = backtest(store, tmp_path / "run", grid()[:1], Options())
    assert done.state == "complete"
    assert "not counted in the ledger" in caplog.text


def test_entries_of_others_and_damaged_ones_do_not_count(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATC_LEDGER", str(tmp_path / "all"))
    other = tmp_path / "other.zarr"
    fill_store(other, np.stack([tick_walk(300, 9)]))
    for number, (place, sets) in enumerate([(store, grid()[:2]), (other, grid()[2:])]):
        backtest(place, tmp_path / f"run{number}", sets, Options())
    (tmp_path / "all" / "half.json").write_text('{"format": ')
    (tmp_path / "all" / "other.json").write_text('{"format": "something"}')
    found = read_ledger(str(store.resolve()), open_store(store).info.id)
    assert (len(found.entries), found.trials, found.others) == (1, 2, 1)
    assert found.damaged == ("half.json", "other.json")


def test_more_trials_make_the_same_run_less_sure(
    store: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATC_LEDGER", str(tmp_path / "ledger"))
    alone = assessing.deflated(run)
    assert (alone.trials, alone.run_trials, alone.ledger_trials) == (6, 6, 0)
    many = [RunConfig(AtcConfig(decay=k / 100), calendar="24/7") for k in range(1, 41)]
    backtest(store, tmp_path / "many", many, Options(symbols=("S000",)))
    then = assessing.deflated(run)
    assert (then.trials, then.ledger_trials) == (40, 40)
    assert then.benchmark > alone.benchmark
    assert then.deflated is not None
    assert alone.deflated is not None
    assert then.deflated < alone.deflated
    assert then.probabilistic == alone.probabilistic
    fewer = assessing.deflated(run, independent=True)
    assert fewer.correlation is not None
    assert 1 <= fewer.trials == pytest.approx(fewer.correlation + (1 - fewer.correlation) * 40)
    assert assessing.deflated(run, trials=1).benchmark == 0
    assert assessing.deflated(run, symbol="S000").observations > 2000
    with pytest.raises(ConfigError, match="--trials 0"):
        assessing.deflated(run, trials=0)


def test_pbo_and_cpcv_over_a_run(run: Run) -> None:
    found = assessing.overfitted(run, 8)
    assert (found.trials, found.splits) == (6, 70)
    assert 0 <= found.pbo <= 1
    paths = assessing.cross_validated(run, 6, 2, purge=1, symbol="S002").paths
    assert len(paths) == 5


def test_many_sets_on_walks_are_not_believed(tmp_path: Path) -> None:
    """Forty sets over walks whose prices are martingales: nothing can be earned, and the best one is not believed."""
    place = tmp_path / "walks.zarr"
    steps = np.random.default_rng(7).normal(-(0.01**2) / 2, 0.01, (4, 3000))
    fill_store(place, 100 * np.exp(np.cumsum(steps, axis=1)))
    sets = [
        RunConfig(AtcConfig(lengths=PerFamily(*[length] * 6), long_threshold=threshold), calendar="24/7")
        for length in (14, 20, 28, 40, 56)
        for threshold in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    ]
    noise = backtest(place, tmp_path / "run", sets, Options(save=("periods",), period="day"))
    found = assessing.deflated(noise)
    assert found.trials == 40
    assert found.deflated is not None
    assert found.deflated < 0.95
    assert assessing.overfitted(noise, 10).pbo > 0.1
