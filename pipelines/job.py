"""What a run is, as one small frozen value that travels to every worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from atc_backtest.config import RunConfig, flatten
from atc_backtest.errors import ConfigError
from atc_backtest.pipelines.plan import Plan
from atc_backtest.symbol_costs import SymbolCosts

METRICS = "metrics"
PERIODS = "periods"
SERIES = ("signals", "equity", "trades", PERIODS)
"""What `--save` may name: one Parquet dataset each, beside `metrics`."""


@dataclass(frozen=True)
class Job:
    """A run, resolved: workers read nothing else but the store.

    `store`: an absolute path or a URL; its id and version name the prices that the run began with.
    `symbols`: every symbol of the store by position. `sets`: the parameter sets; a set's position
    is its `param_id`. `bars_per_year`: one per set. `period`: what the rows of periods/ are of, where they are saved.
    `costs`: of symbols that are not charged what the sets say.
    """

    store: str
    run: Path
    store_id: str
    store_version: int
    symbols: tuple[str, ...]
    sets: tuple[RunConfig, ...]
    bars_per_year: tuple[float, ...]
    kernel: str
    save: tuple[str, ...]
    period: str
    plan: Plan
    costs: tuple[SymbolCosts, ...] = ()

    @cached_property
    def varying_values(self) -> dict[str, list[Any]]:
        """Settings that differ between sets, in the configuration's order -> their values, one per set."""
        return varying_values(self.sets)

    @property
    def varying(self) -> tuple[str, ...]:
        """Names of the settings that differ between sets, in the configuration's order."""
        return tuple(self.varying_values)

    def part(self, dataset: str, index: int) -> Path:
        """Where partition `index` of a dataset is committed."""
        return self.run / dataset / f"part-{index:05d}.parquet"


def settings_of(config: RunConfig) -> dict[str, Any]:
    """Dotted name -> value, over all sections."""
    return {name: value for section in config.to_dict().values() for name, value in flatten(section)}


def varying_values(sets: Sequence[RunConfig]) -> dict[str, list[Any]]:
    """Settings that are not the same in all of `sets` -> their values, one per set."""
    first = settings_of(sets[0])
    found: dict[str, list[Any]] = {}
    for at, config in enumerate(sets):
        for name, value in settings_of(config).items():
            if name in found:
                found[name].append(value)
            elif value != first[name]:
                found[name] = [first[name]] * at + [value]
    return {name: found[name] for name in first if name in found}


def check_saves(save: Sequence[str]) -> tuple[str, ...]:
    """The datasets asked for, in their fixed order; `ConfigError` for an unknown one."""
    for name in save:
        if name not in SERIES:
            raise ConfigError(f"cannot save {name!r}: choose from {', '.join(SERIES)}.")
    return tuple(name for name in SERIES if name in save)
