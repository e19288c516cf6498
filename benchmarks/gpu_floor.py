"""What the algorithm must at least do of a bar: double-precision operations and bytes, counted from protocol.py.

The order of operations there fixes each value's bits, and with them what is computed at all; what is counted is each
distinct value once, whatever a kernel does. Families with equal lengths, as by default, share window sums (WMA, LSMA,
HMA) and the first EMA (EMA, DEMA), which the kernels do not. Not counted: seeds (once a series), absolute values,
selections by sign, indices.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass

from atc_backtest.config import FAMILIES, AtcConfig

EMA, HMA, WMA, DEMA, LSMA, KAMA = range(len(FAMILIES))
NINE, FIFTY_FOUR = 9, 54
DIVISION_OPERATIONS = 10
"""What an IEEE division costs in other operations where no chip has said so: a reciprocal's Newton steps."""


@dataclass(frozen=True)
class Operations:
    """Of double precision; `round` to whole numbers. Parts of one where sets share it."""

    add: float = 0
    multiply: float = 0
    compare: float = 0
    divide: float = 0
    round: float = 0

    def __add__(self, other: Operations) -> Operations:
        return Operations(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def times(self, n: float) -> Operations:
        return Operations(*(n * value for value in astuple(self)))

    @property
    def simple(self) -> float:
        """All but divisions; each is one instruction of the double-precision units."""
        return self.add + self.multiply + self.compare + self.round

    def seconds(self, simple_rate: float, division_rate: float) -> float:
        """On a chip that does so many of them a second, and nothing else."""
        return self.simple / simple_rate + self.divide / division_rate


def total(parts: Iterable[Operations]) -> Operations:
    return sum(parts, Operations())


def of_stream(config: AtcConfig) -> dict[str, Operations]:
    """A bar's averages and sides, which sets with equal lengths share (enhance)."""
    lengths = [config.family_lengths(family) for family in range(len(FAMILIES))]
    halves = tuple(length // 2 for length in lengths[HMA])
    weighted = dict.fromkeys(tuple(sorted(lengths[family])) for family in (HMA, WMA, LSMA))
    smooth = [math.isqrt(length) for length in lengths[HMA]]
    return {
        "sums of 2, 4, ..": _doubling([*(min(one) for one in weighted), min(halves)], min(lengths[KAMA])),
        "window sums": total(_plain_and_weighted(one) for one in weighted),
        "ema": Operations(add=2, multiply=1).times(NINE),
        "hma": _plain_and_weighted(halves)
        + Operations(add=1, multiply=2).times(NINE)
        + total(Operations(add=2 * (w - 1), multiply=1) for w in smooth),
        "wma": Operations(multiply=1).times(NINE),
        "dema": _dema(shares_first=lengths[EMA] == lengths[DEMA]).times(NINE),
        "lsma": Operations(add=1, multiply=2).times(NINE),
        "kama": _plain(lengths[KAMA]) + Operations(add=4, multiply=3, compare=1, divide=1).times(NINE),
        "sides": Operations(multiply=2, compare=2 * FIFTY_FOUR),
        "returns": Operations(add=1, divide=1),
    }


def of_layer1() -> dict[str, Operations]:
    """A bar's equities and signals of the six families, for each distinct lambda, decay and cutout."""
    sums = Operations(add=2 * (NINE - 1), multiply=NINE + 1, divide=1, round=1)
    return {
        "factors": Operations(add=2, multiply=3),
        "equities of averages": Operations(multiply=1, compare=2).times(FIFTY_FOUR),
        "sums of averages": sums.times(len(FAMILIES)),
    }


def of_layer2() -> dict[str, Operations]:
    """A bar's equities of families and the final signal, for each set."""
    n = len(FAMILIES)
    return {
        "equities of families": Operations(multiply=1, compare=2).times(n),
        "sums of families": Operations(add=2 * (n - 1), multiply=n, divide=1),
    }


def of_a_set(config: AtcConfig, sets: int = 1, layers: int = 1) -> Operations:
    """A bar and set on average, where `sets` share lengths and have `layers` distinct layers 1."""
    shared = total(of_stream(config).values()) + total(of_layer1().values()).times(layers)
    return shared.times(1 / sets) + total(of_layer2().values())


def bytes_over_the_bus(sets: int = 1) -> Mapping[str, int]:
    """Of a bar: its close up, its signals down."""
    return {"up": 8, "down": 8 * sets}


def _dema(shares_first: bool) -> Operations:
    own = Operations(add=3, multiply=2)
    return own if shares_first else own + Operations(add=2, multiply=1)


def _doubling(weighted: Iterable[int], plain: int) -> Operations:
    """Powers of two up to the largest in a shortest window: T and W of prices, T of changes (KAMA's)."""
    sums, noise = max(weighted).bit_length() - 1, plain.bit_length() - 1
    return Operations(add=3, multiply=1).times(sums) + Operations(add=1).times(1 + noise)


def _plain(lengths: Iterable[int]) -> Operations:
    """S of each: the shortest from powers of two, the longer ones by a step each."""
    shortest, longest = min(lengths), max(lengths)
    return Operations(add=shortest.bit_count() - 1 + longest - shortest)


def _plain_and_weighted(lengths: Iterable[int]) -> Operations:
    """S and W of each."""
    shortest, longest = min(lengths), max(lengths)
    parts, steps = shortest.bit_count(), longest - shortest
    return _plain(lengths) + Operations(add=2 * (parts - 1) + steps, multiply=parts - 1)
