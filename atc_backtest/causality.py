"""Does anything know the future? Poison what comes after a bar, and see whether what came before it changes.

    def overlay(bars):                        # arrays by name, time along the last axis
        average = moving_average(bars["close"], 20)
        signal = np.sign(bars["close"] - average)
        return {"signal": signal, "held": np.concatenate([[0], signal[:-1]])}

    assert check_causality(overlay, {"close": close}) == ()

An output may use a bar's prices from that bar on. What is `held` during a bar must be known before: when its close
is another one, a quarter higher or a fifth lower, with its open as it was, it must not change. That finds fills in
the same bar, which poisoning later bars cannot see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atc_backtest.errors import ConfigError, DataError

F64 = NDArray[np.float64]
Arrays = dict[str, F64]
Function = Callable[[Arrays], Mapping[str, NDArray[Any]] | NDArray[Any]]

POISONS = ("nan", "huge", "random", "higher", "lower")
"""What stands after a bar: nothing, prices a million times as high, other prices; and another close in the next bar."""

CLOSES = {"higher": 1.25, "lower": 0.8}
"""Poisons of the next close alone, for what must be known before it; the bar's high and low make room for it."""

HELD = "held"


@dataclass(frozen=True)
class Leak:
    """An output changed at `bar`, though prices did only after bar `known` (or from the close of the next)."""

    output: str
    poison: str
    known: int
    bar: int

    def __str__(self) -> str:
        return f"{self.output}[{self.bar}] changed with prices after bar {self.known} (poison {self.poison!r})"


def check_causality(
    function: Function,
    bars: Mapping[str, F64],
    points: int | Sequence[int] = 8,
    seed: int = 0,
    early: Iterable[str] = (HELD,),
    poisons: Sequence[str] = POISONS,
) -> tuple[Leak, ...]:
    """Every leak found: none for a function that knows no future, as far as these points tell.

    `function`: from arrays by name to arrays by name, or to one; all float64 or integers, time along the last axis,
    as long as the bars. It is given copies. `points`: how many bars to poison after, drawn by `seed`, or which ones.
    `early`: outputs that must be known before their bar's close. Outputs are compared byte for byte; NaN equals NaN.
    Raises `DataError` for outputs of another length, and for a function that gives other outputs to the same bars.
    """
    clean = {name: np.asarray(values, dtype=np.float64) for name, values in bars.items()}
    n = _length(clean)
    unknown = set(poisons) - set(POISONS)
    if unknown or not poisons:
        raise ConfigError(f"poisons = {tuple(poisons)!r} is not allowed: some of {', '.join(POISONS)}.")
    expected = _outputs(function, clean, n)
    again = _outputs(function, clean, n)
    for name, values in expected.items():
        if name not in again or _first_difference(values, again[name], n) is not None:
            raise DataError(f"output {name!r} differs between two calls with the same bars: seed what it draws.")
    rng, soon = np.random.default_rng(seed), frozenset(early)
    leaks = []
    for known in _points(points, n, rng):
        for poison in poisons:
            names = [name for name in expected if poison not in CLOSES or name in soon]
            found = _outputs(function, _poisoned(clean, known, poison, rng), n) if names else {}
            for name in names:
                bar = _first_difference(expected[name], found.get(name), known + (2 if poison in CLOSES else 1))
                if bar is not None:
                    leaks.append(Leak(name, poison, known, bar))
    return tuple(leaks)


def _length(bars: Arrays) -> int:
    lengths = {values.shape[-1] if values.ndim else 0 for values in bars.values()}
    if len(lengths) != 1 or min(lengths) < 3:
        raise DataError(f"bars have the lengths {sorted(lengths)}: give arrays of one length, three bars or more.")
    return lengths.pop()


def _points(points: int | Sequence[int], n: int, rng: np.random.Generator) -> list[int]:
    if isinstance(points, int):
        if points < 1:
            raise ConfigError(f"points = {points} is not allowed: at least 1.")
        return sorted(rng.choice(n - 2, size=min(points, n - 2), replace=False).tolist())
    outside = [point for point in points if not 0 <= point < n - 1]
    if outside:
        raise ConfigError(f"points = {outside} are not allowed: bars 0 to {n - 2}, after which one comes.")
    return list(points)


def _outputs(function: Function, bars: Arrays, n: int) -> dict[str, NDArray[Any]]:
    found = function({name: values.copy() for name, values in bars.items()})
    named = found if isinstance(found, Mapping) else {"output": found}
    arrays = {name: np.asarray(values) for name, values in named.items()}
    for name, values in arrays.items():
        if values.ndim == 0 or values.shape[-1] != n:
            raise DataError(
                f"output {name!r} has the shape {values.shape}: give one value a bar, {n} along the last axis."
            )
    return arrays


def _poisoned(bars: Arrays, known: int, poison: str, rng: np.random.Generator) -> Arrays:
    """The bars, with those after `known` replaced; prices of a bar keep their proportions unless its close moves."""
    found = {name: values.copy() for name, values in bars.items()}
    n_after = next(iter(bars.values())).shape[-1] - known - 1
    factors = np.exp(rng.normal(0.0, 0.5, n_after))
    if poison in CLOSES:
        factors[0] = 1.0
    elif poison != "random":
        factors[:] = np.nan if poison == "nan" else 1e6
    for values in found.values():
        values[..., known + 1 :] *= factors
    if poison in CLOSES and "close" in found:
        at = (..., known + 1)
        found["close"][at] *= CLOSES[poison]
        for name, reach in (("high", np.maximum), ("low", np.minimum)):
            if name in found:
                found[name][at] = reach(found[name][at], found["close"][at])
    return found


def _first_difference(one: NDArray[Any], other: NDArray[Any] | None, n: int) -> int | None:
    """The first of the first `n` bars at which bytes differ; None where none does."""
    if other is None or one.dtype != other.dtype or one.shape != other.shape:
        return 0
    left, right = (np.ascontiguousarray(values[..., :n]) for values in (one, other))
    same = (left.view(np.uint8) == right.view(np.uint8)).reshape(*left.shape, left.itemsize).all(axis=-1)
    if left.dtype.kind == "f":
        same |= np.isnan(left) & np.isnan(right)
    differs = ~same.reshape(-1, n).all(axis=0)
    return int(np.argmax(differs)) if differs.any() else None
