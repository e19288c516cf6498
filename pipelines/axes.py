"""One axis of a sweep: the values a setting takes, or the range it is drawn from, as text says it.

| text | is |
|---|---|
| `14:56:7` | 14, 21, ... as long as it is not past 56; decimals are exact: `0.1:0.3:0.1` ends with 0.3 |
| `0.05,0.1,0.2`, `enhance,pine` | these values |
| `none,1%:5%:0.5%`, `8h:24h:8h` | the same with a unit: of stops (% and atr), of intervals (m, h, d) |
| `14:56` | a range to draw from; of integers, in a grid, each of them |
| `0.001:1:log` | a range to draw from, evenly by its logarithm |
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

from atc_backtest.config import RunConfig, flatten
from atc_backtest.errors import ConfigError

Value = bool | int | float | str

MAX_SETS = 20_000
"""A run's manifest names every set, and every worker reads it: more belong into several runs."""

DIGITS = 6
"""Significant ones of a number that is drawn, so that it can be read and typed."""

MAX_EXPONENT = 300
"""Decimals of more digits would take memory to count."""

REAL = frozenset(
    part
    for section in RunConfig().to_dict().values()
    for name, value in flatten(section)
    if isinstance(value, float)
    for part in (name, name.split(".")[0])
)
"""Settings that are no integers: a range of theirs is never drawn as such."""

REAL_UNITS = ("%", "atr")

_WITH_UNIT = re.compile(r"\s*(?P<number>[-+.\d][-+.\deE]*?)\s*(?P<unit>%|atr|[mhd]|)\s*", re.IGNORECASE)


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
    unit: str = ""

    @property
    def size(self) -> int:
        return (Fraction(self.high) - Fraction(self.low)) // Fraction(self.step) + 1

    def value(self, index: int) -> Value:
        number = self.low + index * self.step
        if self.unit:
            return f"{number:f}{self.unit}"
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
    unit: str = ""

    def value(self, x: float) -> Value:
        """`x` as a value within: an integer not above it, or a float of `DIGITS` significant digits.

        So it is the same on every machine, whatever its last bits were.
        """
        number = math.floor(x) if self.integer else float(f"{x:.{DIGITS}g}")
        number = min(max(number, self.low), self.high)
        return f"{number:.{DIGITS}g}{self.unit}" if self.unit else number

    def draw(self, u: float) -> Value:
        """A number within; `u` is uniform in [0, 1)."""
        low, high = self.low, self.high + (1 if self.integer else 0)
        return self.value(low * math.exp(u * math.log(high / low)) if self.log else low + u * (high - low))


Axis = Choice | Steps | Span


def discrete(name: str, axis: Axis) -> Choice | Steps:
    """What a grid makes of an axis: a range of integers is each of them; `ConfigError` for another range."""
    if not isinstance(axis, Span):
        return axis
    if axis.integer and not axis.log:
        return Steps(Decimal(axis.low), Decimal(axis.high), Decimal(1), True, axis.unit)
    raise ConfigError(
        f"{name} is a range without a step, of which only a sample can be taken: "
        "write from:to:step, or add --random N or --search optuna."
    )


def axis_of(name: str, value: Any) -> Axis:
    """An axis as TOML has it: text as on the command line, a list, or one value."""
    if isinstance(value, str):
        return parse_axis(name, value)
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ConfigError(f"{name} = []: an axis needs a value.")
    return _choice(value_of(name, one) for one in values)


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


def value_of(name: str, value: Any) -> Value:
    """A value as TOML has it; `ConfigError` for a list or a table."""
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(f"{name} = {value!r} must be a number, true or false, or a word.")


def _choice(values: Iterable[Value]) -> Choice:
    """Each once; true and 1 are two."""
    return Choice(tuple({(type(value), value): value for value in values}.values()))


def _parsed(name: str, text: str) -> Value:
    """A value as TOML has it, else a word."""
    try:
        return value_of(name, tomllib.loads(f"value = {text}")["value"])
    except tomllib.TOMLDecodeError:
        return text


def _range(name: str, text: str) -> Steps | Span | None:
    """from:to, from:to:step or from:to:log, all of one unit; None for anything else, such as a time of day."""
    low_text, *rest = text.split(":")
    if len(rest) not in (1, 2):
        return None
    log = rest[1:] == ["log"]
    found = [_WITH_UNIT.fullmatch(part) for part in (low_text, *(rest[:1] if log else rest))]
    try:
        numbers = [Decimal(one["number"]) for one in found if one]
    except InvalidOperation:
        return None
    units = {one["unit"].lower() for one in found if one}
    if len(numbers) < len(found) or len(units) > 1:
        return None
    if not all(abs(number.adjusted()) < MAX_EXPONENT for number in numbers):
        raise ConfigError(f"{name} = {text!r}: a range needs numbers that float64 has.")
    return _checked(name, text, numbers, log, units.pop())


def _checked(name: str, text: str, numbers: list[Decimal], log: bool, unit: str) -> Steps | Span:
    low, high = numbers[:2]
    integer = all(number.as_tuple().exponent == 0 for number in numbers)
    if high < low:
        raise ConfigError(f"{name} = {text!r}: an empty range, for {high} is less than {low}.")
    if log and low <= 0:
        raise ConfigError(f"{name} = {text!r}: a range by its logarithm begins above 0.")
    if len(numbers) == 2:
        integer &= name not in REAL and unit not in REAL_UNITS
        make = int if integer else float
        return Span(make(low), make(high), integer, log, unit)
    if numbers[2] <= 0:
        raise ConfigError(f"{name} = {text!r}: the step must be above 0.")
    return Steps(low, high, numbers[2], integer, unit)
