"""Guards that run again: other costs, later fills, shuffled prices. And the commands of all guards."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import atc
from filling import fill_store
from prices import tick_walk
from simulated import fill_hundred_days, grid, run_grid

from atc_backtest.config import AtcConfig, ExecutionConfig, RunConfig
from atc_backtest.errors import ConfigError, StoreError
from atc_backtest.pipelines.backtest import Options, backtest
from atc_backtest.pipelines.guards import rerunning
from atc_backtest.pipelines.guards.playing import Player
from atc_backtest.pipelines.guards.shuffle import shuffle, shuffled
from atc_backtest.pipelines.runs import Run, open_run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("guards") / "prices.zarr"
    fill_hundred_days(path)
    return path


@pytest.fixture(scope="module")
def run(store: Path) -> Run:
    return run_grid(store)


# Run again


def test_costs_are_what_runs_with_these_costs_say(store: Path, run: Run, tmp_path: Path) -> None:
    ledger = store.with_name("prices.zarr.trials")
    before = set(ledger.iterdir())
    found = rerunning.cost_table(run, [10, 0, 50], threads=1)
    assert set(ledger.iterdir()) == before
    assert [case.value for case in found.cases] == [0, 10, 50]
    best = grid()[found.param_id]
    means = run.table().to_pandas().groupby("param_id").sharpe.mean()
    assert found.param_id == means.idxmax()
    for case in found.cases:
        config = replace(best, execution=ExecutionConfig(fee_bps=case.value))
        table = backtest(store, tmp_path / f"{case.value}", [config], Options(ledger=False)).table().to_pandas()
        assert case.sharpe == pytest.approx(table.sharpe.mean())
        assert case.total_return == pytest.approx(table.total_return.median())
        assert case.profitable == pytest.approx((table.total_return > 0).mean())
    sharpes = [case.sharpe for case in found.cases]
    assert sharpes == sorted(sharpes, reverse=True)
    if sharpes[0] > 0 > sharpes[-1]:
        assert found.break_even == pytest.approx(np.interp(0, sharpes[::-1], [50, 10, 0]))
    with pytest.raises(ConfigError, match="sets 0 to 5"):
        rerunning.cost_table(run, [0], 6)
    with pytest.raises(ConfigError, match="names no fee"):
        rerunning.cost_table(run, [])


def test_break_even_is_where_the_line_crosses() -> None:
    cases = [rerunning.Case(fee, sharpe, 0.0, 0.5, 9.0) for fee, sharpe in ((0, 0.4), (5, 0.1), (10, -0.1), (20, -1.0))]
    assert rerunning._crossing(cases) == pytest.approx(7.5)
    assert rerunning._crossing(cases[:2]) is None
    assert rerunning._crossing(cases[2:]) is None


def test_delay_zero_is_the_run_itself(run: Run) -> None:
    found = rerunning.delay_table(run, [1, 2], 3, threads=1)
    assert [case.value for case in found.cases] == [0, 1, 2]
    mine = run.table().to_pandas().query("param_id == 3")
    assert found.cases[0].sharpe == pytest.approx(mine.sharpe.mean())
    assert found.cases[1].sharpe != found.cases[0].sharpe


def test_prices_that_went_on_are_refused(tmp_path: Path) -> None:
    place = tmp_path / "prices.zarr"
    fill_store(place, np.stack([tick_walk(300, 1)]))
    early = backtest(place, tmp_path / "run", grid()[:1], Options(ledger=False))
    fill_store(place, np.stack([tick_walk(10, 2)]), start=300)
    with pytest.raises(StoreError, match="run it again first"):
        rerunning.cost_table(early, [0, 5])


# Shuffled


def test_a_shuffle_keeps_what_it_says(store: Path) -> None:
    player = Player.of(store, [RunConfig(source="ohlc4")], ("S002",), "numba")
    bars = player.bars(2)
    made = shuffle(bars, "S002", 0, range(5))
    close, order = bars.fields["close"][0], made.fields["close"]
    assert made.ts is bars.ts
    assert order[:, 0] == pytest.approx(close[0])
    assert order[:, -1] == pytest.approx(close[-1])
    shapes = {name: np.sort((values[0] / close)[1:]) for name, values in bars.fields.items()}
    for row in range(5):
        assert np.sort(np.diff(np.log(order[row]))) == pytest.approx(np.sort(np.diff(np.log(close))), abs=1e-12)
        for name, values in made.fields.items():
            assert np.sort((values[row] / order[row])[1:]) == pytest.approx(shapes[name], rel=1e-12)
        assert (made.fields["high"][row] >= made.fields["low"][row]).all()
    assert len({values.tobytes() for values in order}) == 5
    alone = shuffle(bars, "S002", 0, range(3, 4))
    assert alone.fields["close"][0].tobytes() == order[3].tobytes()


def test_the_real_sharpe_against_chance(run: Run) -> None:
    found = shuffled(run, trials=19, seed=3)
    table = run.table().to_pandas()
    assert found.whole.real == pytest.approx(table.groupby("param_id").sharpe.mean().max(), rel=1e-12)
    for symbol, one in found.symbols.items():
        assert one.real == pytest.approx(table[table.symbol == symbol].sharpe.max(), rel=1e-12)
        assert one.p_value in [pytest.approx(k / 20) for k in range(1, 21)]
    assert shuffled(run, trials=19, seed=3) == found
    one = shuffled(run, trials=19, seed=3, sample=1, param_id=4)
    (symbol,) = one.symbols
    assert one.whole.real == pytest.approx(table[(table.symbol == symbol) & (table.param_id == 4)].sharpe.item())
    with pytest.raises(ConfigError, match="--trials 0"):
        shuffled(run, trials=0)


def test_a_planted_trend_is_no_chance_and_a_walk_is(tmp_path: Path) -> None:
    """Long slow waves, which only their order makes: all 39 shuffles do worse. Walks: not all of them do."""
    place = tmp_path / "waves.zarr"
    noise = np.random.default_rng(0).normal(0, 0.005, (2, 2000))
    waves = 0.004 * np.sign(np.sin(np.arange(2000) / 40))
    fill_store(place, 100 * np.exp(np.cumsum(noise + waves, axis=1)))
    options = Options(ledger=False)
    config = [RunConfig(AtcConfig(), ExecutionConfig(shorts=True), calendar="24/7")]
    found = shuffled(backtest(place, tmp_path / "waves", config, options), trials=39)
    assert found.whole.p_value == 1 / 40
    walk = tmp_path / "walk.zarr"
    fill_store(walk, 100 * np.exp(np.cumsum(noise, axis=1)))
    chance = shuffled(backtest(walk, tmp_path / "walk", config, options), trials=39)
    assert chance.whole.p_value > 0.05


# Commands


COMMANDS = [
    ("walk-forward", "--train", 30, "--test", 10, "--anchored"),
    ("cpcv", "--groups", 6),
    ("pbo", "--blocks", 8),
    ("deflated", "--independent"),
    ("costs", "--fee-bps", "0,5"),
    ("shuffle", "--trials", 5, "--symbols", 1),
]


@pytest.mark.parametrize("command", COMMANDS, ids=[str(one[0]) for one in COMMANDS])
def test_commands_say_a_verdict_and_print_json(run: Run, command: tuple[object, ...]) -> None:
    name, *options = command
    said = atc("guard", name, run.path, *options)
    assert said.exit_code == 0, said.output
    assert "verdict   " in said.stdout
    machine = atc("guard", name, run.path, *options, "--json")
    facts = json.loads(machine.stdout)
    assert facts["verdict"] in said.stdout.replace("\n", " ")
    assert len(facts) > 1


def test_the_ledger_and_causality_have_commands(store: Path, run: Run, tmp_path: Path) -> None:
    said = atc("guard", "ledger", store)
    assert str(run.path) in said.stdout.replace("\n", "")
    facts = json.loads(atc("guard", "ledger", store, "--json").stdout)
    assert facts["trials"] >= 6
    causal = atc("check", "causality", store, "--kernel", "numba", "--points", 2, "--json")
    assert causal.exit_code == 0, causal.output
    assert [one["leaks"] for one in json.loads(causal.stdout)["checked"]] == [[], [], []]
    assert atc("guard", "costs", run.path, "--fee-bps", "much").exit_code == 2
    refused = atc("guard", "pbo", run.path, "--blocks", 7)
    assert refused.exit_code == 3
    assert "even number" in refused.stderr
    assert open_run(run.path).state == "complete"
