"""Sweeps: what text and tables mean, every combination exactly once, draws that stay, and nothing built in vain."""

from __future__ import annotations

import itertools
import math
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atc_backtest.config import FAMILIES, AtcConfig, ExecutionConfig, RunConfig, from_dict, parse_toml, read_toml
from atc_backtest.errors import ConfigError
from atc_backtest.kernels.protocol import StreamKey
from atc_backtest.pipelines.axes import MAX_SETS, REAL, Choice, Span, Steps, parse_axis
from atc_backtest.pipelines.job import settings_of
from atc_backtest.pipelines.sweep import Spec, Sweep, expand, laid_over, read_spec

BASE = RunConfig(execution=ExecutionConfig(fee_bps=3))


def sweep(flags: dict[str, str], toml: str = "", **options: object) -> Sweep:
    table = parse_toml(toml).get("sweep", {})
    drawn = {name: options.pop(name) for name in ("random", "seed") if name in options}
    return expand(read_spec(table, flags, **drawn), BASE, **options)  # type: ignore[arg-type]


def taken(found: Sweep, *names: str) -> list[tuple[object, ...]]:
    return [tuple(settings_of(config)[name] for name in names) for config in found.sets]


def values_of(text: str, name: str = "lambda") -> list[object]:
    axis = parse_axis(name, text)
    assert isinstance(axis, Choice | Steps)
    return [axis.value(i) for i in range(axis.size)]


def test_a_grid_is_every_combination_and_nothing_else_changes() -> None:
    flags = {"lengths.ema": "14:56:7", "long_threshold": "0.05,0.1,0.2", "fill": "next_open,close"}
    found = sweep(flags)
    expected = itertools.product(range(14, 57, 7), (0.05, 0.1, 0.2), ("next_open", "close"))
    assert set(taken(found, *flags)) == set(expected)
    assert len(found.sets) == found.combinations == 7 * 3 * 2
    for config in found.sets:
        rest = {name: value for name, value in settings_of(config).items() if name not in flags}
        assert rest == {name: value for name, value in settings_of(BASE).items() if name not in flags}


def test_sets_that_share_averages_stand_together_else_in_order() -> None:
    found = sweep({"fee_bps": "1,2", "lengths.ema": "20,30", "decay": "0.01,0.02"})
    streams = [StreamKey.of(config.atc) for config in found.sets]
    assert len(list(itertools.groupby(streams))) == len(set(streams)) == found.streams == 2
    each = [(1.0, 0.01), (1.0, 0.02), (2.0, 0.01), (2.0, 0.02)]
    assert taken(found, "lengths.ema", "fee_bps", "decay") == [(length, *rest) for length in (20, 30) for rest in each]


def test_all_families_together_and_one_apart() -> None:
    found = sweep({"lengths": "20,30", "lengths.kama": "10", "weights": "0.5,2"})
    assert len(found.sets) == 4
    for config in found.sets:
        assert len({getattr(config.atc.lengths, family) for family in FAMILIES if family != "kama"}) == 1
        assert config.atc.lengths.kama == 10
        assert len(set(config.atc.weights)) == 1


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("14:56:7", [14, 21, 28, 35, 42, 49, 56]),
        ("14:55:7", [14, 21, 28, 35, 42, 49]),
        ("0.1:0.5:0.1", [0.1, 0.2, 0.3, 0.4, 0.5]),
        ("-0.3:0.3:0.3", [-0.3, 0.0, 0.3]),
        ("1:2:0.5", [1.0, 1.5, 2.0]),
        ("5:5:1", [5]),
        ("1e-3:3e-3:1e-3", [0.001, 0.002, 0.003]),
        ("3, 10:30:10 ,3", [3, 10, 20, 30]),
        ("enhance,pine", ["enhance", "pine"]),
        ("true,false", [True, False]),
        ("none,100", ["none", 100]),
        ("1,true", [1, True]),
        ("none, 1%:2%:0.5%", ["none", "1.0%", "1.5%", "2.0%"]),
        ("1ATR:3atr:1atr", ["1atr", "2atr", "3atr"]),
        ("8h:24h:8h", ["8h", "16h", "24h"]),
        ("1%:2atr:1", ["1%:2atr:1"]),
        ("0:inf:1", ["0:inf:1"]),
        ("2024-01-31", ["2024-01-31"]),
        ("2024-01-31T09:30:00+00:00", ["2024-01-31T09:30:00+00:00"]),
    ],
)
def test_what_text_means(text: str, values: list[object]) -> None:
    found = values_of(text)
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]


@given(st.integers(-50_000, 50_000), st.integers(1, 999), st.integers(0, 60), st.integers(0, 6))
def test_steps_are_the_decimals_that_people_would_write(low: int, step: int, more: int, digits: int) -> None:
    scale = Decimal(1).scaleb(-digits)
    texts = [f"{(low + k * step) * scale:f}" for k in range(more + 1)]
    found = values_of(f"{texts[0]}:{texts[-1]}:{step * scale:f}")
    assert found == ([float(text) for text in texts] if digits else [int(text) for text in texts])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("lambda", "3:1:1", "an empty range"),
        ("lambda", "1:3:0", "the step must be above 0"),
        ("lambda", "1:3:-1", "the step must be above 0"),
        ("lambda", "0:1:log", "begins above 0"),
        ("lambda", "0:1e999999999:1", "numbers that float64 has"),
        ("lambda", "0:1:1e-999999999", "numbers that float64 has"),
        ("lambda", "1,,2", "separated by commas"),
        ("lambda", "0.1,1:2", "needs a step"),
        ("lambda", "0,1:900000:1", "900,000 values, at most"),
        ("lambda", "[1]", "must be a number, true or false, or a word"),
    ],
)
def test_text_that_means_nothing(name: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_axis(name, text)


def test_absurd_grids_are_refused_before_they_are_built() -> None:
    huge = dict.fromkeys(("cutout", "lambda", "rf"), "0:999999999:1")
    with pytest.raises(ConfigError, match=r"1,000,000,000,000,000,000,000,000,000 combinations are not allowed"):
        sweep(huge)
    assert len(sweep(huge, random=5).sets) == 5
    with pytest.raises(ConfigError, match=r"sample with --random N"):
        sweep({"cutout": f"1:{MAX_SETS + 1}:1"})
    with pytest.raises(ConfigError, match="20,001 combinations"):
        sweep({"cutout": "1:9"}, random=MAX_SETS + 1)


def test_equal_sets_are_run_once_and_that_is_said() -> None:
    found = sweep({"lambda": "1:3:1,1.0,2.0"})
    assert (len(found.sets), found.combinations, found.duplicates) == (3, 5, 2)
    assert len(set(sweep({"growth_horizon": "none,100,none"}).sets)) == 2


def test_what_the_settings_refuse_is_named_or_left_out_and_counted() -> None:
    flags = {"long_threshold": "-0.2:0.2:0.2", "decay": "0.01,0.02"}
    with pytest.raises(ConfigError, match=r"combination 1 \(long_threshold=-0.2, decay=0.01\): short_threshold = -0.1"):
        sweep(flags)
    found = sweep(flags, skip_invalid=True)
    assert (len(found.sets), found.invalid, found.combinations) == (4, 2, 6)
    with pytest.raises(ConfigError, match="all 2 combinations are refused"):
        sweep({"lengths.ema": "1,2"}, skip_invalid=True)


def test_settings_that_are_not_there() -> None:
    with pytest.raises(ConfigError, match=r"unknown setting 'length': a sweep may vary lengths, weights, lengths\.ema"):
        sweep({"length": "1,2"})
    with pytest.raises(ConfigError, match="a sweep of nothing"):
        sweep({})


TOML = """
[sweep.grid]
lengths = "20:40:10"
profile = ["enhance", "pine"]
execution_note = 1

[[sweep.sets]]
long_threshold = 0.05
short_threshold = -0.05

[[sweep.sets]]
long_threshold = 0.3
short_threshold = -0.1
"""


def test_a_file_has_a_grid_and_settings_that_belong_together_and_flags_lie_over_it() -> None:
    toml = TOML.replace("execution_note = 1\n", "")
    found = sweep({"profile": "pine"}, toml)
    expected = itertools.product((20, 30, 40), ((0.05, -0.05), (0.3, -0.1)))
    assert sorted(taken(found, "lengths.hma", "long_threshold", "short_threshold")) == sorted(
        (length, *pair) for length, pair in expected
    )
    assert {config.atc.profile for config in found.sets} == {"pine"}
    with pytest.raises(ConfigError, match="unknown setting 'execution_note'"):
        sweep({}, TOML)
    nested = sweep({}, "[sweep.grid]\nlengths.ema = '20,30'\nlengths.hma = 40\neval_start = 2024-01-31")
    assert taken(nested, "lengths.ema", "lengths.hma", "eval_start") == [(20, 40, "2024-01-31"), (30, 40, "2024-01-31")]


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("sweep = 3", r"sweep = 3 must be a table"),
        ("[sweep]\ngrids = 1", r"\[sweep\] has no grids"),
        ("[sweep]\ngrid = 1", "must be a table of axes"),
        ("[sweep]\nsets = 1", "must be a list of tables"),
        ("[sweep]\nrandom = 0", "random = 0 is not allowed: an integer >= 1"),
        ("[sweep]\nseed = 1.5", "seed = 1.5 is not allowed"),
        ("[sweep.grid]\ndecay = []", "needs a value"),
        ("[sweep.grid]\ndecay = [[1]]", "must be a number"),
        ("[[sweep.sets]]\ndecay = 1\n[[sweep.sets]]\nlambda = 1", "must name the same settings"),
        ("[sweep.grid]\ndecay = 1\n[[sweep.sets]]\ndecay = 1", "an axis of the grid and in"),
    ],
)
def test_tables_that_mean_nothing(toml: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sweep({}, toml)


DRAWN = {"lengths": "14:56", "lambda": "0.001:1:log", "long_threshold": "0:0.5", "decay": "0.01:0.05:0.01"}
DRAWN |= {"profile": "enhance,pine", "cutout": "1:1000:log", "fee_bps": "1:5"}


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_draws_depend_on_their_seed_alone_and_lie_within(seed: int, n: int) -> None:
    found = sweep(DRAWN, random=n, seed=seed)
    assert found.sets == sweep(DRAWN, random=n, seed=seed).sets
    assert set(found.sets) <= set(sweep(DRAWN, random=n + 5, seed=seed).sets)
    assert found.combinations == n
    for config in found.sets:
        atc = config.atc
        assert atc.lengths.ema in range(14, 57)
        assert 0.001 <= atc.lambda_ <= 1
        assert 0 <= atc.long_threshold <= 0.5
        assert atc.decay in (0.01, 0.02, 0.03, 0.04, 0.05)
        assert atc.cutout in range(1, 1001)
        assert 1.0 <= config.execution.fee_bps <= 5.0


def test_draws_of_listed_sets_and_another_seed() -> None:
    toml = TOML.replace("execution_note = 1\n", "").replace(
        "[sweep.grid]", "[sweep]\nrandom = 30\nseed = 4\n[sweep.grid]"
    )
    found = sweep({}, toml)
    assert {(0.05, -0.05), (0.3, -0.1)} == set(taken(found, "long_threshold", "short_threshold"))
    assert found.sets != sweep({}, toml, seed=5).sets
    assert found.combinations == 30
    assert found.duplicates == 30 - len(found.sets) > 0


@pytest.mark.parametrize("u", [0.0, 0.25, 0.5, math.nextafter(1, 0)])
def test_where_a_draw_falls(u: float) -> None:
    assert Span(10, 19, integer=True, log=False).draw(u) == 10 + int(10 * u)
    assert Span(0.0, 0.2, integer=False, log=False).draw(u) == pytest.approx(0.2 * u, rel=1e-5)
    assert Span(0.01, 100.0, integer=False, log=True).draw(u) == pytest.approx(10 ** (4 * u - 2), rel=1e-5)
    assert Span(1, 99, integer=True, log=True).draw(u) == min(99, math.floor(100**u + 1e-9))
    drawn = Span(1 / 3, 2 / 3, integer=False, log=False).draw(u)
    assert 1 / 3 <= float(drawn) <= 2 / 3
    assert drawn in (1 / 3, 2 / 3) or len(str(drawn)) <= len("0.123456")


def test_a_range_of_a_real_setting_is_not_of_integers() -> None:
    assert parse_axis("fee_bps", "1:5") == Span(1.0, 5.0, integer=False, log=False)
    assert parse_axis("weights", "1:5:log") == Span(1.0, 5.0, integer=False, log=True)
    assert parse_axis("lengths.ema", "14:56") == Span(14, 56, integer=True, log=False)
    assert "lambda" in REAL
    assert "cutout" not in REAL


def test_a_range_without_steps_needs_a_sample_unless_it_is_of_integers() -> None:
    assert taken(sweep({"cutout": "3:6"}), "cutout") == [(3,), (4,), (5,), (6,)]
    with pytest.raises(ConfigError, match=r"lambda is a range without a step.*from:to:step, or add --random N"):
        sweep({"lambda": "0.1:0.5"})


def test_stops_are_axes_like_any_other() -> None:
    found = sweep({"stop_loss": "none,2%:4%:1%", "trailing_stop": "1.5atr,3atr"})
    expected = itertools.product((None, "2%", "3%", "4%"), ("1.5atr", "3atr"))
    assert taken(found, "stop_loss", "trailing_stop") == list(expected)
    drawn = sweep({"stop_loss": "1%:10%", "take_profit": "0.1atr:9atr:log"}, random=20)
    for stop, profit in taken(drawn, "stop_loss", "take_profit"):
        assert 1 <= float(str(stop).removesuffix("%")) <= 10
        assert 0.1 <= float(str(profit).removesuffix("atr")) <= 9


def test_the_example() -> None:
    table = read_toml(Path(__file__).parent.parent / "examples" / "sweep.toml")
    found = expand(read_spec(table.pop("sweep"), {}), from_dict(table))
    assert (len(found.sets), found.streams) == (80, 16)
    assert all(config.execution.fee_bps > 0 for config in found.sets)


def test_counting_makes_nothing() -> None:
    spec = Spec({"cutout": parse_axis("cutout", "0:1e12:1"), "rf": parse_axis("rf", "0:1:1e-9")})
    assert spec.combinations() == (10**12 + 1) * (10**9 + 1)


def test_what_a_family_is_given_alone_counts_more() -> None:
    config = laid_over(BASE.to_dict(), {"lengths.ema": 10, "lengths": 20})
    assert config.atc.lengths.ema == 10
    assert config.atc.lengths.hma == 20
    assert laid_over(BASE.to_dict(), {}) == BASE
    assert laid_over(RunConfig().to_dict(), {"growth_horizon": "none"}).atc == AtcConfig(growth_horizon=None)
