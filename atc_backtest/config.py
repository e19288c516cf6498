"""Every setting of a run: frozen, validated once, TOML in and TOML out.

Three groups, one TOML section each: `[atc]` the indicator (names and limits of the specification),
`[execution]` fills and costs, `[run]` what is averaged and how figures are annualised.
A setting comes from a flag, else the environment (`ATC_*`), else the file, else its default.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Generic, TypeVar

from atc_backtest.errors import ConfigError
from atc_backtest.limits import (
    NEVER_NS,
    as_float,
    as_floats,
    boolean,
    choice,
    distance_text,
    fail,
    instant_ns,
    integer,
    interval_ns,
    number,
)

FAMILIES = ("ema", "hma", "wma", "dema", "lsma", "kama")
OFFSETS = {"narrow": (1, 2, 3, 4), "medium": (1, 2, 4, 6), "wide": (1, 3, 5, 7)}
MAX_LENGTH = 4096
MAX_DELAY = 5
STOPS = ("stop_loss", "take_profit", "trailing_stop")
INTRABAR = ("worst", "best", "open_first")
COST_LIMITS = {"fee_bps": (0.0, 10_000.0), "slippage_bps": (0.0, 9_999.0), "funding_bps": (-10_000.0, 10_000.0)}
SOURCES = ("close", "open", "high", "low", "hl2", "hlc3", "ohlc4")

T = TypeVar("T", int, float)


@dataclass(frozen=True)
class PerFamily(Generic[T]):
    """One value for each moving-average family, in the specification's order."""

    ema: T
    hma: T
    wma: T
    dema: T
    lsma: T
    kama: T

    def __iter__(self) -> Iterator[T]:
        return iter((self.ema, self.hma, self.wma, self.dema, self.lsma, self.kama))


@dataclass(frozen=True)
class AtcConfig:
    """The indicator's parameters; names, defaults and limits are the specification's.

    `lambda_` is the specification's `lambda` (a Python keyword): growth rate, per bar
    lambda_ / 1000. `decay` is percent a bar. `growth_horizon` None means growth never stops.
    Raises `ConfigError` naming the field, its value and what is allowed.
    """

    lengths: PerFamily[int] = PerFamily(28, 28, 28, 28, 28, 28)
    weights: PerFamily[float] = PerFamily(1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    robustness: str = "medium"
    lambda_: float = field(default=0.02, metadata={"key": "lambda"})
    decay: float = 0.03
    cutout: int = 0
    long_threshold: float = 0.1
    short_threshold: float = -0.1
    growth_horizon: int | None = 50_000
    profile: str = "enhance"

    def __post_init__(self) -> None:
        as_floats(self, "lambda_", "decay", "long_threshold", "short_threshold")
        object.__setattr__(self, "weights", PerFamily(*(as_float(w) for w in self.weights)))
        choice("robustness", self.robustness, tuple(OFFSETS))
        widest = OFFSETS[self.robustness][-1]
        for family, length in zip(FAMILIES, self.lengths, strict=True):
            # All nine lengths, L0 - widest .. L0 + widest, lie within 2 .. MAX_LENGTH.
            integer(f"lengths.{family}", length, 2 + widest, MAX_LENGTH - widest)
        for family, weight in zip(FAMILIES, self.weights, strict=True):
            number(f"weights.{family}", weight, 0.0, above=True)
        number("lambda", self.lambda_)
        number("decay", self.decay, 0.0, 100.0)
        integer("cutout", self.cutout, 0)
        number("long_threshold", self.long_threshold)
        number("short_threshold", self.short_threshold)
        if self.short_threshold > self.long_threshold:
            raise fail(
                "short_threshold",
                self.short_threshold,
                f"at most long_threshold ({self.long_threshold!r})",
            )
        if self.growth_horizon is not None:
            integer("growth_horizon", self.growth_horizon, 0)
        choice("profile", self.profile, ("enhance", "pine"))

    def family_lengths(self, family: int) -> tuple[int, ...]:
        """The nine lengths of family 0..5 in the order sums run: L0, L0+o, L0-o (o ascending)."""
        base = tuple(self.lengths)[family]
        offsets = OFFSETS[self.robustness]
        return (base, *(base + o for o in offsets), *(base - o for o in offsets))


@dataclass(frozen=True)
class ExecutionConfig:
    """Fills, stops and costs; docs/execution.md has an example of each.

    `fill`: next_open, next_close, close, or auto (next_open when the store has opens, else next_close).
    `delay_bars`: bars by which every fill comes later than that, 0 to 5. `fee_bps`, `slippage_bps`: basis
    points of traded value, per side. `longs`, `shorts`: the sides that are held, one at least. `neutral`: flat
    or hold. `size`: fraction of current equity put into a new position. `start_equity`: money.
    `stop_loss`, `take_profit`, `trailing_stop`: None, `5%` (of the entry price; trailing: of the best price
    since) or `2atr` (multiples of Wilder's average true range over `atr_length` bars, at the entry).
    `intrabar`: which of two stops in one bar comes first: worst, best or open_first. `funding_bps`: of market
    value, paid by longs to shorts every `funding_interval` (30m, 8h, 1d: whole ones since 1970, UTC).
    """

    fill: str = "auto"
    delay_bars: int = 0
    fee_bps: float = 0.0
    slippage_bps: float = 0.0
    longs: bool = True
    shorts: bool = False
    neutral: str = "flat"
    size: float = 1.0
    start_equity: float = 10_000.0
    stop_loss: str | None = None
    take_profit: str | None = None
    trailing_stop: str | None = None
    atr_length: int = 14
    intrabar: str = "worst"
    funding_bps: float = 0.0
    funding_interval: str = "8h"

    def __post_init__(self) -> None:
        as_floats(self, "fee_bps", "slippage_bps", "size", "start_equity", "funding_bps")
        for name in STOPS:
            object.__setattr__(self, name, distance_text(name, getattr(self, name)))
        choice("fill", self.fill, ("auto", "next_open", "next_close", "close"))
        integer("delay_bars", self.delay_bars, 0, MAX_DELAY)
        number("fee_bps", self.fee_bps, *COST_LIMITS["fee_bps"])
        number("slippage_bps", self.slippage_bps, *COST_LIMITS["slippage_bps"])
        boolean("longs", self.longs)
        boolean("shorts", self.shorts)
        if not (self.longs or self.shorts):
            raise fail("shorts", self.shorts, "true where longs is false, or nothing would ever be held")
        choice("neutral", self.neutral, ("flat", "hold"))
        number("size", self.size, 0.0, above=True)
        number("start_equity", self.start_equity, 0.0, above=True)
        integer("atr_length", self.atr_length, 1, MAX_LENGTH)
        choice("intrabar", self.intrabar, INTRABAR)
        number("funding_bps", self.funding_bps, *COST_LIMITS["funding_bps"])
        interval_ns("funding_interval", self.funding_interval)


@dataclass(frozen=True)
class RunConfig:
    """One parameter set of a run: the indicator, the execution, and how figures are taken.

    `source`: what is averaged. `eval_start`, `eval_end`: ISO dates (their midnight) or times, UTC unless they
    name an offset; bars in [start, end) count, earlier ones teach, later ones change nothing. `calendar`: None
    takes the store's; see `metrics.CALENDARS`. `bars_per_year`: overrides the calendar. `rf`, `mar`: risk-free
    and minimum acceptable return, per bar.
    """

    atc: AtcConfig = AtcConfig()
    execution: ExecutionConfig = ExecutionConfig()
    source: str = "close"
    eval_start: str | None = None
    eval_end: str | None = None
    calendar: str | None = None
    bars_per_year: float | None = None
    rf: float = 0.0
    mar: float = 0.0

    def __post_init__(self) -> None:
        as_floats(self, "bars_per_year", "rf", "mar")
        choice("source", self.source, SOURCES)
        if self.eval_start_ns() >= self.eval_end_ns() and self.eval_end is not None:
            raise fail("eval_end", self.eval_end, f"later than eval_start ({self.eval_start})")
        if self.calendar is not None and not isinstance(self.calendar, str):
            raise fail("calendar", self.calendar, "a calendar's name, e.g. 24/7 or XNYS")
        if self.bars_per_year is not None:
            number("bars_per_year", self.bars_per_year, 0.0, above=True)
        number("rf", self.rf)
        number("mar", self.mar)

    def eval_start_ns(self) -> int:
        """First evaluated instant, ns since the epoch, UTC; the smallest int64 when unset."""
        return -(2**63) if self.eval_start is None else instant_ns("eval_start", self.eval_start)

    def eval_end_ns(self) -> int:
        """First instant that is evaluated no more, ns since the epoch, UTC; the largest int64 when unset."""
        return NEVER_NS if self.eval_end is None else instant_ns("eval_end", self.eval_end)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Sections of plain values, as in the TOML file; None where a setting is unset."""
        run = _plain(self)
        return {"atc": run.pop("atc"), "execution": run.pop("execution"), "run": run}

    def to_toml(self) -> str:
        """The whole configuration as TOML; `parse_toml` reads it back to an equal object."""
        lines: list[str] = []
        for section, values in self.to_dict().items():
            lines.append(f"[{section}]")
            for key, value in flatten(values):
                if value is None and key != "growth_horizon":
                    continue
                lines.append(f"{key} = {_toml_value(value)}")
            lines.append("")
        return "\n".join(lines)

    def digest(self) -> str:
        """SHA-256 of the resolved settings: equal configurations, equal digests."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.metadata.get("key", f.name): _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return value


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and plain values of nested settings, in order."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _toml_value(value: Any) -> str:
    if value is None:
        return '"none"'
    return json.dumps(value, ensure_ascii=False)


SECTION_OF: dict[str, str] = {
    key: section for section, values in RunConfig().to_dict().items() for key, _ in flatten(values)
}
"""Every setting's dotted name (`lengths.ema`, `fee_bps`, ...) and the TOML section it stands in."""


def _check_names(section: str, values: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if key not in known:
            names = ", ".join(known)
            raise ConfigError(f"[{section}] has no setting {key!r} (value {value!r}); it has: {names}.")
        if isinstance(known[key], Mapping):
            if not isinstance(value, Mapping):
                example = f"{key}.{next(iter(known[key]))} = ..."
                raise fail(f"[{section}] {key}", value, f"one value per family, as in {example}")
            _check_names(f"{section}.{key}", value, known[key])


def _atc_from(values: Mapping[str, Any]) -> AtcConfig:
    default = AtcConfig()
    given = dict(values)
    if "lengths" in given:
        given["lengths"] = dataclasses.replace(default.lengths, **given["lengths"])
    if "weights" in given:
        given["weights"] = dataclasses.replace(default.weights, **given["weights"])
    if "lambda" in given:
        given["lambda_"] = given.pop("lambda")
    if given.get("growth_horizon") == "none":
        given["growth_horizon"] = None
    return AtcConfig(**given)


def from_dict(values: Mapping[str, Any]) -> RunConfig:
    """Sections `atc`, `execution`, `run` of plain values to a validated `RunConfig`.

    Missing settings take their defaults; unknown sections or names raise `ConfigError`.
    """
    known = RunConfig().to_dict()
    for section, content in values.items():
        if section not in known:
            names = ", ".join(f"[{s}]" for s in known)
            raise ConfigError(f"unknown section [{section}]; the sections are {names}.")
        if not isinstance(content, Mapping):
            raise ConfigError(f"{section} = {content!r} must be a section of settings, [{section}].")
        _check_names(section, content, known[section])
    run = {key: _as_text(value) for key, value in values.get("run", {}).items()}
    return RunConfig(
        atc=_atc_from(values.get("atc", {})), execution=ExecutionConfig(**values.get("execution", {})), **run
    )


def _as_text(value: Any) -> Any:
    """TOML has dates of its own: eval_start = 2024-01-31 needs no quotes."""
    return value.isoformat() if isinstance(value, date) else value


def parse_toml(text: str, origin: str = "configuration") -> dict[str, Any]:
    """TOML text to nested plain values; `ConfigError` names `origin` when it does not parse."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin} is not valid TOML: {error}.") from error


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file's nested values; `ConfigError` names the file when it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}. Check --config.") from error
    return parse_toml(text, str(path))


def _set(values: dict[str, Any], name: str, text: str, origin: str) -> None:
    """Put one `name` = `text` into nested `values`; the text is TOML, or else a bare string."""
    if name not in SECTION_OF:
        raise ConfigError(f"{origin}: unknown setting {name!r}; known are: {', '.join(SECTION_OF)}.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    if isinstance(value, date | bool | int | float | str):
        place = values.setdefault(SECTION_OF[name], {})
        *parents, leaf = name.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = value
        return
    raise ConfigError(f"{origin}: {name} = {text!r} must be a number, true or false, or a word.")


def resolve(
    given: Path | Mapping[str, Any] | None = None,
    flags: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> RunConfig:
    """Flag over environment over file over default.

    `given`: a file, or the sections of one. `flags`: dotted names to text, e.g. {"lengths.ema": "30"}.
    `environment` defaults to `os.environ`; a setting's variable is ATC_ and its name in capitals, dots
    as underscores (ATC_LENGTHS_EMA, ATC_FEE_BPS).
    """
    values = read_toml(given) if isinstance(given, Path) else copy.deepcopy(dict(given or {}))
    from_dict(values)  # names in the file are checked before anything is laid over them
    variables = os.environ if environment is None else environment
    for name in SECTION_OF:
        variable = "ATC_" + name.upper().replace(".", "_")
        if variable in variables:
            _set(values, name, variables[variable], f"environment {variable}")
    for name, text in (flags or {}).items():
        _set(values, name, text, "flag")
    return from_dict(values)
