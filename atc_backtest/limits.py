"""What a setting may be: each check raises `ConfigError` naming the setting, its value and what is allowed."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any

from atc_backtest.errors import ConfigError

NEVER_NS = 2**63 - 1
"""Beyond every instant: the end of what has none."""

_INTERVALS = {"m": 60 * 10**9, "h": 3_600 * 10**9, "d": 86_400 * 10**9}
_DISTANCE = re.compile(r"([0-9.eE+-]+)\s*(%|atr)", re.IGNORECASE)


def fail(name: str, value: object, allowed: str) -> ConfigError:
    return ConfigError(f"{name} = {value!r} is not allowed: {allowed}.")


def integer(name: str, value: object, low: int, high: int | None = None) -> None:
    allowed = f"an integer >= {low}" if high is None else f"an integer from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise fail(name, value, allowed)
    if value < low or (high is not None and value > high):
        raise fail(name, value, allowed)


def number(
    name: str,
    value: object,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: bool = False,
) -> None:
    """`low <= value <= high`, or `low < value` when `above`; always finite."""
    bounds = f"a finite number {'>' if above else '>='} {low:g}" if low > -math.inf else "a finite number"
    allowed = bounds if high == math.inf else f"{bounds} and <= {high:g}"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise fail(name, value, allowed)
    if value < low or (above and value == low) or value > high:
        raise fail(name, value, allowed)


def choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise fail(name, value, "one of " + ", ".join(allowed))


def boolean(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise fail(name, value, "true or false")


def as_float(value: Any) -> Any:
    return float(value) if type(value) is int else value


def as_floats(config: Any, *names: str) -> None:
    """2 and 2.0 are one setting, so that equal settings print and hash alike."""
    for name in names:
        object.__setattr__(config, name, as_float(getattr(config, name)))


def distance(name: str, value: object) -> tuple[float, float]:
    """How far a stop is: `5%` to (0.05, 0.0), a fraction of a price, and `2atr` to (0.0, 2.0); None to (0.0, 0.0)."""
    if value is None:
        return 0.0, 0.0
    found = _DISTANCE.fullmatch(value.strip()) if isinstance(value, str) else None
    try:
        amount = float(found[1]) if found else math.nan
    except ValueError:
        amount = math.nan
    if found is None or not 0.0 < amount < math.inf:
        raise fail(
            name, value, "a percentage such as '5%', multiples of the average true range such as '2atr', or none"
        )
    return (amount / 100.0, 0.0) if found[2] == "%" else (0.0, amount)


def distance_text(name: str, value: object) -> str | None:
    """A distance as it is printed and hashed: `5.0 %` and `5%` are one setting."""
    if value is None or value == "none":
        return None
    distance(name, value)
    found = _DISTANCE.fullmatch(str(value).strip())
    assert found is not None  # `distance` has taken it
    return f"{float(found[1]):g}{found[2].lower()}"


def interval_ns(name: str, value: object) -> int:
    """`8h`, `30m` or `1d` in nanoseconds."""
    text = value.strip() if isinstance(value, str) else ""
    count, unit = text[:-1], text[-1:]
    if not (count.isdecimal() and int(count) > 0 and unit in _INTERVALS and int(count) * _INTERVALS[unit] <= NEVER_NS):
        raise fail(name, value, "a number of minutes, hours or days such as '30m', '8h' or '1d'")
    return int(count) * _INTERVALS[unit]


def instant_ns(name: str, value: object) -> int:
    """An ISO date (its midnight) or time, UTC unless it names an offset, in nanoseconds since the epoch.

    What int64 does not hold (before 1677, after 2262) is its nearest end: no bar lies there.
    """
    try:
        when = datetime.fromisoformat(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        allowed = "an ISO date or time such as 2024-01-31 or 2024-01-31T09:30:00+00:00"
        raise fail(name, value, allowed) from None
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when
    since_epoch = when - datetime(1970, 1, 1, tzinfo=UTC)
    ns = (since_epoch.days * 86_400 + since_epoch.seconds) * 10**9 + since_epoch.microseconds * 1000
    return min(max(ns, -NEVER_NS), NEVER_NS)
