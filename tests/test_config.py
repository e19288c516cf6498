"""Settings: every refusal names the field, its value and what is allowed; flag > environment > file > default."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atc_backtest.config import AtcConfig, ExecutionConfig, PerFamily, RunConfig, from_dict, parse_toml, resolve
from atc_backtest.errors import ConfigError


def refused(name: str, value: str) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(flags={name: value}, environment={})
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "shown", "allowed"),
    [
        ("lengths.ema", "7", "7", "8 to 4090"),
        ("lengths.kama", "4091", "4091", "8 to 4090"),
        ("lengths.hma", "28.5", "28.5", "integer"),
        ("lengths.wma", "true", "True", "integer"),
        ("weights.lsma", "0", "0.0", "> 0"),
        ("weights.lsma", "nan", "nan", "finite"),
        ("robustness", "huge", "'huge'", "narrow, medium, wide"),
        ("lambda", "inf", "inf", "finite"),
        ("lambda", "fast", "'fast'", "finite number"),
        ("decay", "100.5", "100.5", "<= 100"),
        ("decay", "-1", "-1.0", ">= 0"),
        ("cutout", "-1", "-1", ">= 0"),
        ("short_threshold", "0.2", "0.2", "at most long_threshold (0.1)"),
        ("growth_horizon", "-5", "-5", ">= 0"),
        ("growth_horizon", "never", "'never'", "integer"),
        ("profile", "classic", "'classic'", "enhance, pine"),
        ("fill", "open", "'open'", "auto, next_open, next_close, close"),
        ("fee_bps", "-2", "-2.0", ">= 0"),
        ("slippage_bps", "10000", "10000.0", "<= 9999"),
        ("shorts", "1", "1", "true or false"),
        ("neutral", "wait", "'wait'", "flat, hold"),
        ("size", "0", "0.0", "> 0"),
        ("start_equity", "-1", "-1.0", "> 0"),
        ("source", "typical", "'typical'", "close, open"),
        ("eval_start", "soon", "'soon'", "ISO date"),
        ("bars_per_year", "0", "0.0", "> 0"),
        ("rf", "nan", "nan", "finite"),
    ],
)
def test_refusals_name_field_value_and_what_is_allowed(name: str, value: str, shown: str, allowed: str) -> None:
    message = refused(name, value)
    assert name in message
    assert shown in message
    assert allowed in message


@pytest.mark.parametrize(("robustness", "least"), [("narrow", 6), ("medium", 8), ("wide", 9)])
def test_the_shortest_of_nine_lengths_is_two(robustness: str, least: int) -> None:
    lengths = PerFamily(least, 28, 28, 28, 28, 28)
    assert min(AtcConfig(lengths=lengths, robustness=robustness).family_lengths(0)) == 2
    assert f"{least} to" in refused("lengths.ema", "1") or robustness != "medium"


def test_nine_lengths_in_the_order_that_sums_run() -> None:
    assert AtcConfig().family_lengths(0) == (28, 29, 30, 32, 34, 27, 26, 24, 22)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    assert "unknown setting 'speed'" in refused("speed", "1")
    with pytest.raises(ConfigError, match=r"\[atc\] has no setting 'lamda'.*lambda"):
        from_dict(parse_toml("[atc]\nlamda = 1"))
    with pytest.raises(ConfigError, match=r"\[atc.lengths\] has no setting 'sma' \(value 3\).*ema, hma"):
        from_dict(parse_toml("[atc]\nlengths.sma = 3"))
    with pytest.raises(ConfigError, match=r"unknown section \[costs\].*\[execution\]"):
        from_dict(parse_toml("[costs]\nfee = 1"))
    with pytest.raises(ConfigError, match=r"lengths.*= 28 is not allowed.*lengths\.ema"):
        from_dict(parse_toml("[atc]\nlengths = 28"))
    with pytest.raises(ConfigError, match="must be a section"):
        from_dict(parse_toml("atc = 28"))


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*absent\.toml"):
        resolve(tmp_path / "absent.toml", environment={})
    broken = tmp_path / "broken.toml"
    broken.write_text("[atc\n")
    with pytest.raises(ConfigError, match=r"broken\.toml is not valid TOML"):
        resolve(broken, environment={})


def test_flag_over_environment_over_file_over_default(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[atc]\nlengths.ema = 30\nlambda = 0.03\ndecay = 0.5\n[execution]\nfee_bps = 1\n")
    environment = {"ATC_LENGTHS_EMA": "31", "ATC_LAMBDA": "0.04", "ATC_PROFILE": "pine"}
    config = resolve(file, {"lengths.ema": "32"}, environment)
    assert config.atc.lengths.ema == 32
    assert config.atc.lambda_ == 0.04
    assert config.atc.decay == 0.5
    assert config.atc.profile == "pine"
    assert config.execution.fee_bps == 1.0
    assert config.atc.lengths.hma == 28


def test_equal_settings_print_and_hash_alike() -> None:
    whole = AtcConfig(weights=PerFamily(1, 1, 1, 1, 1, 1), decay=1)
    assert RunConfig(whole).digest() == RunConfig(AtcConfig(decay=1.0)).digest()
    assert RunConfig(whole).to_toml() == RunConfig(AtcConfig(decay=1.0)).to_toml()


def test_growth_that_never_stops_is_written_as_a_word() -> None:
    config = RunConfig(AtcConfig(growth_horizon=None))
    assert 'growth_horizon = "none"' in config.to_toml()
    assert from_dict(parse_toml(config.to_toml())) == config
    assert resolve(flags={"growth_horizon": "none"}, environment={}) == config


@given(
    length=st.integers(9, 4089),
    weight=st.floats(1e-300, 1e300),
    lambda_=st.floats(-1e6, 1e6),
    profile=st.sampled_from(["enhance", "pine"]),
    horizon=st.none() | st.integers(0, 2**40),
    fee=st.floats(0, 100),
    shorts=st.booleans(),
    start=st.none() | st.dates().map(lambda day: day.isoformat()),
)
def test_toml_round_trip(
    length: int,
    weight: float,
    lambda_: float,
    profile: str,
    horizon: int | None,
    fee: float,
    shorts: bool,
    start: str | None,
) -> None:
    atc = AtcConfig(
        lengths=PerFamily(length, 28, 28, 28, 28, 28),
        weights=PerFamily(1.0, weight, 1.0, 1.0, 1.0, 1.0),
        lambda_=lambda_,
        profile=profile,
        growth_horizon=horizon,
    )
    config = RunConfig(atc, ExecutionConfig(fee_bps=fee, shorts=shorts), eval_start=start)
    assert from_dict(parse_toml(config.to_toml())) == config


def test_eval_start_is_utc_unless_it_names_an_offset() -> None:
    assert RunConfig(eval_start="1970-01-02").eval_start_ns() == 86_400 * 10**9
    assert RunConfig(eval_start="1970-01-01T01:00:00+01:00").eval_start_ns() == 0
    assert RunConfig().eval_start_ns() == -(2**63)


def test_dates_need_no_quotes() -> None:
    quoted = from_dict(parse_toml('[run]\neval_start = "2024-01-31"'))
    assert from_dict(parse_toml("[run]\neval_start = 2024-01-31")) == quoted
    assert resolve(flags={"eval_start": "2024-01-31"}, environment={}) == quoted
