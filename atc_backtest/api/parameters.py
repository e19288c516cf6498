"""Settings by their dotted names, as files and flags have them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from atc_backtest.config import SECTION_OF, AtcConfig, RunConfig, from_dict, resolve
from atc_backtest.errors import ConfigError

Setting: TypeAlias = "Mapping[str, Any] | RunConfig | AtcConfig | str | Path"
"""What can be made a `RunConfig`; text is the path of a TOML file."""

SECTIONS = ("atc", "execution", "run")


def settings(values: Mapping[str, Any] | None = None, /, **more: Any) -> RunConfig:
    """One parameter set from names and values; what is not named has its default.

    Names are those of the TOML file, dotted: "lengths.ema", "lambda", "fee_bps"; or whole sections, "atc",
    "execution", "run". `ConfigError` for an unknown name or a value that is not allowed.

    >>> import atc_backtest as atc
    >>> one = atc.settings({"lengths.ema": 40}, fee_bps=2, eval_start="2015-01-01")
    >>> one.atc.lengths.ema, one.atc.lengths.kama, one.execution.fee_bps
    (40, 28, 2.0)
    >>> atc.settings(fee=2)
    Traceback (most recent call last):
        ...
    atc_backtest.errors.ConfigError: unknown setting 'fee'; known are: lengths.ema, lengths.hma, ...
    """
    sections: dict[str, Any] = {}
    for name, value in {**(values or {}), **more}.items():
        if name in SECTIONS and isinstance(value, Mapping):
            sections.setdefault(name, {}).update(value)
        elif name in SECTION_OF:
            place = sections.setdefault(SECTION_OF[name], {})
            *parents, leaf = name.split(".")
            for parent in parents:
                place = place.setdefault(parent, {})
            place[leaf] = value
        else:
            raise ConfigError(f"unknown setting {name!r}; known are: {', '.join(SECTION_OF)}.")
    return from_dict(sections)


def config_of(given: Setting | None) -> RunConfig:
    """A parameter set of any form in `Setting`; None: all defaults."""
    if given is None:
        return RunConfig()
    if isinstance(given, RunConfig):
        return given
    if isinstance(given, AtcConfig):
        return RunConfig(atc=given)
    if isinstance(given, Mapping):
        return settings(given)
    if isinstance(given, str | Path):
        return resolve(Path(given), environment={})
    raise ConfigError(
        f"config is a {type(given).__name__}: give names and values, as {{'lengths.ema': 40}}, a RunConfig, an "
        "AtcConfig, the path of a TOML file, or a list of these."
    )
