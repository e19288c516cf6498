"""Sweeps: grids, lists and random samples over every setting, in; parameter sets, out. Pure, and counted first.

What an axis may be, as a flag's or a TOML file's text:

| text | is |
|---|---|
| `14:56:7` | 14, 21, ... as long as it is not past 56; decimals are exact: `0.1:0.3:0.1` ends with 0.3 |
| `0.05,0.1,0.2`, `enhance,pine` | these values |
| `14:56` | a range to draw from; of integers, in a grid, each of them |
| `0.001:1:log` | a range to draw from, evenly by its logarithm |

An axis is any setting (`config.SECTION_OF`), or `lengths` or `weights`: all six families alike.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from itertools import product
from random import Random
from typing import Any

from atc_backtest.config import FAMILIES, SECTION_OF, RunConfig, flatten, from_dict
from atc_backtest.errors import ConfigError
from atc_backtest.kernels.protocol import StreamKey

Value = bool | int | float | str

MAX_SETS = 20_000
"""A run's manifest names every set, and every worker reads it: more belong into several runs."""

DIGITS = 6
"""Significant ones of a number that is drawn, so that it can be read and typed."""

MAX_EXPONENT = 300
"""Decimals of more digits would take memory to count."""

GROUPS = tuple(dict.fromkeys(name.split(".")[0] for name in SECTION_OF if "." in name))
"""`lengths`, `weights`: names that stand for a value in each family."""

REAL = frozenset(
    part
    for section in RunConfig().to_dict().values()
    for name, value in flatten(section)
    if isinstance(value, float)
    for part in (name, name.split(".")[0])
)
"""Settings that are no integers: a range of theirs is never drawn as such."""


@dataclass(frozen=True)
class Choice:
    """The values of an axis, one by one."""

    values: tuple[Value, ...]

    @property
    def size(self) -> int:
        return len(self.values)

    def value(self, index: int) -> Value:
        return self.values[index]

    def draw(self, u: float) -> Value:
        """One of them; `u` is uniform in [0, 1)."""
        return self.values[int(u * self.size)]


@dataclass(frozen=True)
class Steps:
    """Every number from `low` to `high` in `step`s, exact as decimals; never more than one is made at a time."""

    low: Decimal
    high: Decimal
    step: Decimal
    integer: bool

    @property
    def size(self) -> int:
        return (Fraction(self.high) - Fraction(self.low)) // Fraction(self.step) + 1

    def value(self, index: int) -> Value:
        number = self.low + index * self.step
        return int(number) if self.integer else float(number)

    def draw(self, u: float) -> Value:
        """One of them; `u` is uniform in [0, 1)."""
        return self.value(int(u * self.size))


@dataclass(frozen=True)
class Span:
    """A range to draw from, ends included; evenly, or with `log` evenly by its logarithm."""

    low: float
    high: float
    integer: bool
    log: bool

    def draw(self, u: float) -> Value:
        """A number within; `u` is uniform in [0, 1). Floats have `DIGITS` significant digits."""
        low, high = self.low, self.high + (1 if self.integer else 0)
        x = low * math.exp(u * math.log(high / low)) if self.log else low + u * (high - low)
        if self.integer:
            return int(min(max(math.floor(x), self.low), self.high))
        return min(max(rounded(x), self.low), self.high)


Axis = Choice | Steps | Span


def rounded(x: float) -> float:
    """`x` in `DIGITS` significant digits: the same on every machine, whatever its last bits were."""
    return float(f"{x:.{DIGITS}g}")


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
        sizes = [_discrete(name, axis).size for name, axis in self.axes.items()]
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
    axes = [_discrete(name, axis) for name, axis in spec.axes.items()]
    for together in spec.listed or ({},):
        for values in product(*([axis.value(i) for i in range(axis.size)] for axis in axes)):
            yield {**together, **dict(zip(spec.axes, values, strict=True))}


def _drawn(spec: Spec) -> Iterator[dict[str, Value]]:
    """Only `Random.random` is used, which Python promises to keep: a seed's draws are the same everywhere."""
    rng = Random(spec.seed)
    for _ in range(spec.random or 0):
        together = spec.listed[int(rng.random() * len(spec.listed))] if spec.listed else {}
        yield {**together, **{name: axis.draw(rng.random()) for name, axis in spec.axes.items()}}


def _discrete(name: str, axis: Axis) -> Choice | Steps:
    """What a grid makes of an axis: a range of integers is each of them."""
    if not isinstance(axis, Span):
        return axis
    if axis.integer and not axis.log:
        return Steps(Decimal(axis.low), Decimal(axis.high), Decimal(1), integer=True)
    raise ConfigError(
        f"{name} is a range without a step, of which only a sample can be taken: "
        "write from:to:step, or add --random N or --search optuna."
    )


# Reading


def read_spec(
    table: Mapping[str, Any], flags: Mapping[str, str], random: int | None = None, seed: int | None = None
) -> Spec:
    """A `[sweep]` table (grid, sets, random, seed) and what flags lay over it. `ConfigError` says what is off."""
    unknown = set(table) - {"grid", "sets", "random", "seed"}
    if unknown:
        raise ConfigError(f"[sweep] has no {', '.join(sorted(unknown))}: it has grid, sets, random and seed.")
    grid, listed = table.get("grid", {}), table.get("sets", [])
    if not isinstance(grid, Mapping):
        raise ConfigError(f"sweep.grid = {grid!r} must be a table of axes, [sweep.grid].")
    if not isinstance(listed, list) or not all(isinstance(one, Mapping) for one in listed):
        raise ConfigError("sweep.sets must be a list of tables, [[sweep.sets]].")
    axes = {name: _axis_of(name, value) for name, value in flatten(grid)}
    axes |= {name: parse_axis(name, text) for name, text in flags.items()}
    together = tuple({name: _value_of(name, value) for name, value in flatten(one)} for one in listed)
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


def _axis_of(name: str, value: Any) -> Axis:
    """An axis as TOML has it: text as on the command line, a list, or one value."""
    if isinstance(value, str):
        return parse_axis(name, value)
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ConfigError(f"{name} = []: an axis needs a value.")
    return _choice(_value_of(name, one) for one in values)


def _choice(values: Iterable[Value]) -> Choice:
    """Each once; true and 1 are two."""
    return Choice(tuple({(type(value), value): value for value in values}.values()))


def _value_of(name: str, value: Any) -> Value:
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(f"{name} = {value!r} must be a number, true or false, or a word.")


def parse_axis(name: str, text: str) -> Axis:
    """The axis that `text` describes; see the top. `ConfigError` when a range is empty, endless or of no direction."""
    items = [item.strip() for item in text.split(",")]
    if not all(items):
        raise ConfigError(f"{name} = {text!r}: write values separated by commas, or from:to:step.")
    parts = [_range(name, item) for item in items]
    if len(items) == 1 and parts[0] is not None:
        return parts[0]
    values: list[Value] = []
    for item, part in zip(items, parts, strict=True):
        if isinstance(part, Span):
            raise ConfigError(f"{name} = {text!r}: a range among values needs a step, from:to:step.")
        if part is None:
            values.append(_parsed(name, item))
        elif part.size > MAX_SETS:
            raise ConfigError(f"{name} = {item!r} has {part.size:,} values, at most {MAX_SETS:,}: take larger steps.")
        else:
            values += [part.value(i) for i in range(part.size)]
    return _choice(values)


def _parsed(name: str, text: str) -> Value:
    """A value as TOML has it, else a word."""
    try:
        return _value_of(name, tomllib.loads(f"value = {text}")["value"])
    except tomllib.TOMLDecodeError:
        return text


def _range(name: str, text: str) -> Steps | Span | None:
    """from:to, from:to:step or from:to:log; None for anything else, such as a time of day."""
    low_text, *rest = text.split(":")
    if len(rest) not in (1, 2):
        return None
    log = rest[1:] == ["log"]
    try:
        numbers = [Decimal(part) for part in (low_text, *(rest[:1] if log else rest))]
    except InvalidOperation:
        return None
    if not all(number.is_finite() and abs(number.adjusted()) < MAX_EXPONENT for number in numbers):
        raise ConfigError(f"{name} = {text!r}: a range needs finite ends, and numbers that float64 has.")
    low, high = numbers[:2]
    integer = all(number.as_tuple().exponent == 0 for number in numbers)
    if high < low:
        raise ConfigError(f"{name} = {text!r}: an empty range, for {high} is less than {low}.")
    if log and low <= 0:
        raise ConfigError(f"{name} = {text!r}: a range by its logarithm begins above 0.")
    if len(numbers) == 2:
        integer &= name not in REAL
        return Span(int(low), int(high), True, log) if integer else Span(float(low), float(high), False, log)
    if numbers[2] <= 0:
        raise ConfigError(f"{name} = {text!r}: the step must be above 0.")
    return Steps(low, high, numbers[2], integer)
