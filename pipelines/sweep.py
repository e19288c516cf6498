"""Sweeps: grids, lists and random samples over every setting, in; parameter sets, out. Pure, and counted first.

An axis is any setting (`config.SECTION_OF`), or `lengths` or `weights`: all six families alike. What it takes is
said as in `axes`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from random import Random
from typing import Any

from atc_backtest.config import FAMILIES, SECTION_OF, RunConfig, flatten, from_dict
from atc_backtest.errors import ConfigError
from atc_backtest.kernels.protocol import StreamKey
from atc_backtest.pipelines.axes import MAX_SETS, Axis, Value, axis_of, discrete, parse_axis, value_of

GROUPS = tuple(dict.fromkeys(name.split(".")[0] for name in SECTION_OF if "." in name))
"""`lengths`, `weights`: names that stand for a value in each family."""


@dataclass(frozen=True)
class Spec:
    """What a sweep was asked to be.

    `axes`: name -> what it takes. `listed`: settings that belong together, one of them in every set; the axes
    vary over each. `random`: so many draws of `seed` instead of every combination.
    """

    axes: Mapping[str, Axis]
    listed: tuple[Mapping[str, Value], ...] = ()
    random: int | None = None
    seed: int = 0

    def combinations(self) -> int:
        """How many are asked for, counted without making any."""
        if self.random is not None:
            return self.random
        sizes = [discrete(name, axis).size for name, axis in self.axes.items()]
        return math.prod(sizes) * max(1, len(self.listed))


@dataclass(frozen=True)
class Sweep:
    """The parameter sets of a sweep; sets that share their averages stand together.

    `combinations` asked for; of them `duplicates` were equal to an earlier one and `invalid` were refused by the
    configuration, and both were dropped. `streams`: averages that must be computed apart.
    """

    sets: tuple[RunConfig, ...]
    combinations: int
    duplicates: int = 0
    invalid: int = 0
    streams: int = 1


def expand(spec: Spec, base: RunConfig, skip_invalid: bool = False) -> Sweep:
    """Every set of `spec`, laid over `base`.

    `ConfigError` for a sweep of nothing or of more than `MAX_SETS` combinations, before any is made, and for the
    first combination that the configuration refuses, unless `skip_invalid`.
    """
    asked = spec.combinations()
    if not spec.axes and not spec.listed:
        raise ConfigError("a sweep of nothing: name an axis, as --set lengths.ema=14:56:7.")
    if not 1 <= asked <= MAX_SETS:
        raise ConfigError(
            f"{asked:,} combinations are not allowed: from 1 to {MAX_SETS:,} in one run. "
            "Take larger steps, fewer axes, or a sample with --random N."
        )
    found, invalid = _accepted(spec, base, skip_invalid)
    if not found:
        raise ConfigError(f"all {asked:,} combinations are refused: run without --skip-invalid to see why.")
    sets = _together(dict.fromkeys(found))
    streams = len({_stream(config) for config in sets})
    return Sweep(sets, asked, len(found) - len(sets), invalid, streams)


def _accepted(spec: Spec, base: RunConfig, skip_invalid: bool) -> tuple[list[RunConfig], int]:
    """What the configuration accepts, in order, and how many it refused."""
    sections = base.to_dict()
    found: list[RunConfig] = []
    invalid = 0
    for number, settings in enumerate(_drawn(spec) if spec.random is not None else _grid(spec), start=1):
        try:
            found.append(laid_over(sections, settings))
        except ConfigError as error:
            if not skip_invalid:
                named = ", ".join(f"{name}={value}" for name, value in settings.items())
                raise ConfigError(
                    f"combination {number} ({named}): {error} --skip-invalid leaves such combinations out."
                ) from error
            invalid += 1
    return found, invalid


def laid_over(sections: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Value]) -> RunConfig:
    """The configuration that `sections` are with `settings` in their place; what names a family alone counts more."""
    values: dict[str, dict[str, Any]] = {
        section: {key: dict(value) if isinstance(value, Mapping) else value for key, value in content.items()}
        for section, content in sections.items()
    }
    for name in sorted(settings, key=lambda name: name not in GROUPS):
        for setting in settings_named(name):
            *parents, leaf = setting.split(".")
            place = values[SECTION_OF[setting]]
            for parent in parents:
                place = place[parent]
            place[leaf] = settings[name]
    return from_dict(values)


def settings_named(axis: str) -> tuple[str, ...]:
    """The settings that an axis of this name sets: itself, or one in each family; `ConfigError` for an unknown one."""
    if axis in SECTION_OF:
        return (axis,)
    if axis in GROUPS:
        return tuple(f"{axis}.{family}" for family in FAMILIES)
    raise ConfigError(f"unknown setting {axis!r}: a sweep may vary {', '.join((*GROUPS, *SECTION_OF))}.")


def _stream(config: RunConfig) -> tuple[str, StreamKey]:
    return config.source, StreamKey.of(config.atc)


def _together(sets: Iterable[RunConfig]) -> tuple[RunConfig, ...]:
    """In their order, but for those that share averages with an earlier one: they follow it, into the same task."""
    rank: dict[tuple[str, StreamKey], int] = {}
    return tuple(sorted(sets, key=lambda config: rank.setdefault(_stream(config), len(rank))))


def _grid(spec: Spec) -> Iterator[dict[str, Value]]:
    axes = [discrete(name, axis) for name, axis in spec.axes.items()]
    for together in spec.listed or ({},):
        for values in product(*([axis.value(i) for i in range(axis.size)] for axis in axes)):
            yield {**together, **dict(zip(spec.axes, values, strict=True))}


def _drawn(spec: Spec) -> Iterator[dict[str, Value]]:
    """Only `Random.random` is used, which Python promises to keep: a seed's draws are the same everywhere."""
    rng = Random(spec.seed)
    for _ in range(spec.random or 0):
        together = spec.listed[int(rng.random() * len(spec.listed))] if spec.listed else {}
        yield {**together, **{name: axis.draw(rng.random()) for name, axis in spec.axes.items()}}


# Reading


def read_spec(
    table: Mapping[str, Any], flags: Mapping[str, str], random: int | None = None, seed: int | None = None
) -> Spec:
    """A `[sweep]` table (grid, sets, random, seed) and what flags lay over it. `ConfigError` says what is off."""
    if not isinstance(table, Mapping):
        raise ConfigError(f"sweep = {table!r} must be a table, [sweep].")
    unknown = set(table) - {"grid", "sets", "random", "seed"}
    if unknown:
        raise ConfigError(f"[sweep] has no {', '.join(sorted(unknown))}: it has grid, sets, random and seed.")
    grid, listed = table.get("grid", {}), table.get("sets", [])
    if not isinstance(grid, Mapping):
        raise ConfigError(f"sweep.grid = {grid!r} must be a table of axes, [sweep.grid].")
    if not isinstance(listed, list) or not all(isinstance(one, Mapping) for one in listed):
        raise ConfigError("sweep.sets must be a list of tables, [[sweep.sets]].")
    axes = {name: axis_of(name, value) for name, value in flatten(grid)}
    axes |= {name: parse_axis(name, text) for name, text in flags.items()}
    together = tuple({name: value_of(name, value) for name, value in flatten(one)} for one in listed)
    _check_names(axes, together)
    return Spec(
        axes,
        together,
        _whole("random", table.get("random") if random is None else random, 1),
        _whole("seed", table.get("seed", 0) if seed is None else seed, 0) or 0,
    )


def _check_names(axes: Mapping[str, Axis], listed: Sequence[Mapping[str, Value]]) -> None:
    for name in (*axes, *(name for one in listed for name in one)):
        settings_named(name)
    for one in listed:
        if set(one) != set(listed[0]):
            raise ConfigError(
                f"[[sweep.sets]] must name the same settings each: {sorted(listed[0])}, and {sorted(one)}."
            )
        if set(one) & set(axes):
            both = ", ".join(sorted(set(one) & set(axes)))
            raise ConfigError(f"{both}: an axis of the grid and in [[sweep.sets]]; it can be one of them.")


def _whole(name: str, value: Any, low: int) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= low):
        return value
    raise ConfigError(f"{name} = {value!r} is not allowed: an integer >= {low}.")
