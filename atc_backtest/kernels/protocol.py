"""What a kernel is: one state machine, advanced by any number of bars, on any backend.

    state = kernel.new_state(configs, n_symbols)
    kernel.advance(state, prices, outputs)      # as often as there are pieces of the series

Shapes and dtypes are fixed here once. Prices are symbol-major `[symbol, bar]`, NaN where a bar is
missing; outputs are `[config, symbol, (family, (length,)) bar]`, NaN where undefined or missing.
State is slot-major, `[slot, symbol]`: the values of neighbouring symbols are neighbours, so that a
kernel's lanes are symbols. Configurations that share lengths, robustness and profile share one
`StreamState` (averages and signs); each has its own `equities`. A state that one kernel advanced,
another continues.

## Order of operations, the same in every kernel
Windows never slide: each window sum is built from its own window alone, by additions of positive
terms, so it cannot drift and its bits depend on nothing but the L values in it.

- Doubling: T_1 = W_1 = x;  T_2n(t) = T_n(t) + T_n(t-n);
  W_2n(t) = (W_n(t) + n*T_n(t)) + W_n(t-n).  T_n is the plain sum of the last n values, W_n the sum
  weighted n, n-1, .. 1 from the newest back.
- A family's shortest length m: its powers of two n1 > n2 > .. (m = n1 + n2 + ..), newest first:
  S = T_n1(t), then S = S + T_n2(t-n1), ..;  W = W_n1(t) + (m-n1)*T_n1(t), then
  W = W + (W_n2(t-n1) + (m-n1-n2)*T_n2(t-n1)), ... (The last multiplier is 0 and is skipped.)
- Every longer window by one step each: S_{L+1} = S_L + x[t-L];  W_{L+1} = W_L + S_{L+1}.
- SMA = S * (1/L).  WMA = W * (1/(L(L+1)/2)).  LSMA = W*(3/(L(L+1)/2)) - S*(2/L).
- HMA (enhance): y = W_h*(2/(h(h+1)/2)) - W_L*(1/(L(L+1)/2)), h = L // 2, the W_h again from the
  shortest h by steps; then over the last w = isqrt(L) values of y, newest first:
  s = y; v = s; then s = s + y[t-k]; v = v + s for k = 1 .. w-1;  HMA = v * (1/(w(w+1)/2)).
  HMA (pine): SMA.
- EMA: E + alpha*(x - E).  DEMA: 2*E1 - E2.
- KAMA: noise = S over |x[j]-x[j-1]|, as SMA's S;  e = |x - x[t-L]| / noise, 0 if noise is 0;
  c = e*(0.666-0.064) + 0.064;  K + (c*c)*(x - K).
- Sides: m < close*(1-1e-12) above, m > close*(1+1e-12) below.
- Once a bar: R = ((close - previous) / previous) * g;  up = d*(1+R);  down = d*(1-R).
  Equity: E*up, E*down or E*d by the sign one bar before, then limited: E > 0.25 ? E : 0.25, then
  E < 1e150 ? E : 1e150.
- Layer 1: num = s0*E0 + s1*E1 + .. left to right, den = E0 + E1 + ..; q = rint(100 * (num/den)),
  S = q / 100. Layer 2: num = c0*E0 + .., den = E0 + ..; A = num / den.
- Never a fused multiply-add, never a reciprocal in place of a division beyond those written above.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from atc_backtest.config import FAMILIES, AtcConfig, PerFamily
from atc_backtest.errors import ConfigError, DataError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

N_FAMILIES = 6
N_LENGTHS = 9
N_AVERAGES = N_FAMILIES * N_LENGTHS
EQUITY_SLOTS = N_AVERAGES + 2 * N_FAMILIES
"""Per configuration and symbol: 54 layer-1 equities, 6 layer-2 equities, 6 layer-1 signals q."""


@dataclass(frozen=True)
class StreamKey:
    """What decides the averages and their signs; configurations with equal keys share them."""

    lengths: PerFamily[int]
    robustness: str
    profile: str

    @classmethod
    def of(cls, config: AtcConfig) -> StreamKey:
        return cls(config.lengths, config.robustness, config.profile)


@dataclass(frozen=True)
class StreamLayout:
    """Lengths, constants and slot offsets of one `StreamKey`, as plain arrays for compiled code.

    Slots of `StreamState.values`, in this order (each row holds all symbols):

    | slots | what |
    |---|---|
    | 1 | close of the last present bar |
    | history | the last `history` sources, oldest first; zeros before the first bar |
    | sum(smooth - 1) | enhance: per HMA length its last `smooth - 1` values y, oldest first |
    | 9, 9, 9, 9 | EMA, DEMA's E1, DEMA's E2, KAMA; before they are defined: see below |
    | 54 | side of each average at the last bar: 1 above, -1 below, 0 equal or undefined |
    | 54 | signal of each average: 1, -1 or 0 |

    An EMA not yet seeded is 0; KAMA before t = L is x[0] (enhance) or 0 (pine).
    """

    lengths: I64
    """[6, 9] window lengths, in summing order."""
    first: I64
    """[6, 9] bar number t at which each average is first defined."""
    pine: bool
    history: int
    """Sources kept: the longest length, so that x[t-L] is at hand."""
    smooth: I64
    """[9] isqrt(L) of the HMA lengths (enhance), or ones (pine: no smoothing)."""

    @classmethod
    def of(cls, key: StreamKey) -> StreamLayout:
        config = AtcConfig(lengths=key.lengths, robustness=key.robustness, profile=key.profile)
        lengths = np.array([config.family_lengths(f) for f in range(N_FAMILIES)], dtype=np.int64)
        pine = key.profile == "pine"
        smooth = [1 if pine else math.isqrt(length) for length in lengths[1].tolist()]
        first = lengths - 1
        if pine:
            first[[0, 3]] = 0
            first[5] = lengths[5]
        else:
            first[1] += np.array(smooth) - 1
            first[5] = 0
        return cls(lengths, first, pine, int(lengths.max()), np.array(smooth, dtype=np.int64))

    @property
    def y_slots(self) -> int:
        return int((self.smooth - 1).sum())

    @property
    def recursive_slot(self) -> int:
        """Where EMA's nine stand; DEMA's E1 and E2 and KAMA follow, nine each."""
        return 1 + self.history + self.y_slots

    @property
    def side_slot(self) -> int:
        return self.recursive_slot + 4 * N_LENGTHS

    @property
    def sign_slot(self) -> int:
        return self.side_slot + N_AVERAGES

    @property
    def width(self) -> int:
        return self.sign_slot + N_AVERAGES

    @property
    def warmup_bars(self) -> int:
        """Bars before every one of the 54 averages is defined."""
        return int(self.first.max())


def warmup_bars(config: AtcConfig) -> int:
    """Present bars of a symbol before all 54 averages are defined, or `cutout` if that is later."""
    return max(StreamLayout.of(StreamKey.of(config)).warmup_bars, config.cutout)


@dataclass(frozen=True)
class StreamState:
    """Averages and signs of one `StreamKey`: `values` is float64 [layout.width, n_symbols]."""

    key: StreamKey
    layout: StreamLayout
    members: tuple[int, ...]
    """Indices of the configurations that share this stream, ascending."""
    values: F64


@dataclass(frozen=True)
class State:
    """Everything a kernel must know to go on; arrays are changed in place by `advance`."""

    configs: tuple[AtcConfig, ...]
    n_symbols: int
    bars: I64
    """[n_symbols] present bars seen so far: the t of the next one."""
    streams: tuple[StreamState, ...]
    equities: F64
    """[n_configs, EQUITY_SLOTS, n_symbols]; all NaN before a symbol's bar `cutout`."""

    @classmethod
    def new(cls, configs: Sequence[AtcConfig], n_symbols: int) -> State:
        """The state before the first bar. `ConfigError` when there is nothing to compute."""
        if not configs:
            raise ConfigError("no configuration given: a kernel needs at least one AtcConfig.")
        if n_symbols < 1:
            raise ConfigError(f"n_symbols = {n_symbols} is not allowed: at least 1.")
        groups: dict[StreamKey, list[int]] = {}
        for index, config in enumerate(configs):
            groups.setdefault(StreamKey.of(config), []).append(index)
        streams = []
        for key, members in groups.items():
            layout = StreamLayout.of(key)
            values = np.zeros((layout.width, n_symbols))
            streams.append(StreamState(key, layout, tuple(members), values))
        equities = np.full((len(configs), EQUITY_SLOTS, n_symbols), np.nan)
        bars = np.zeros(n_symbols, dtype=np.int64)
        return cls(tuple(configs), n_symbols, bars, tuple(streams), equities)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.bars.nbytes + self.equities.nbytes + sum(s.values.nbytes for s in self.streams)

    def copy(self) -> State:
        """An independent state: advancing one leaves the other as it was."""
        streams = tuple(StreamState(s.key, s.layout, s.members, s.values.copy()) for s in self.streams)
        return State(self.configs, self.n_symbols, self.bars.copy(), streams, self.equities.copy())


class PriceError(DataError):
    """A value that is no price, and where it stands in its block."""

    def __init__(self, name: str, symbol: int, bar: int, value: float) -> None:
        super().__init__(
            f"{name}[symbol {symbol}, bar {bar}] = {value!r}: prices of present bars must be "
            "finite and > 0. Drop the row or set its close to NaN (a missing bar)."
        )
        self.name, self.symbol, self.bar, self.value = name, symbol, bar, value

    def __reduce__(self) -> tuple[type[PriceError], tuple[str, int, int, float]]:
        return PriceError, (self.name, self.symbol, self.bar, self.value)


@dataclass(frozen=True)
class Prices:
    """A block of bars: `close` and `source` float64 [n_symbols, n_bars]; NaN in `close` = no bar.

    `source` is what is averaged; None: the close itself. Present values are finite and > 0
    (`DataError` names the first that is not).
    """

    close: F64
    source: F64 | None = None

    def __post_init__(self) -> None:
        _check_block("close", self.close)
        if not _prices_or_nan(self.close):
            _refuse("close", self.close, ~(np.isnan(self.close) | ((self.close > 0) & (self.close < np.inf))))
        if self.source is not None:
            _check_block("source", self.source)
            if self.source.shape != self.close.shape:
                raise DataError(f"source has shape {self.source.shape}, close {self.close.shape}: give equal ones.")
            bad = ~((self.source > 0) & (self.source < np.inf)) & ~np.isnan(self.close)
            _refuse("source", self.source, bad)

    @property
    def averaged(self) -> F64:
        return self.close if self.source is None else self.source


def _check_block(name: str, block: F64) -> None:
    if block.dtype != np.float64 or block.ndim != 2 or not block.flags.c_contiguous:
        raise DataError(
            f"{name} is {block.dtype} with shape {block.shape}: give C-contiguous float64 [n_symbols, n_bars]."
        )


def _prices_or_nan(block: F64) -> bool:
    """Whether every value is NaN or finite and > 0; without arrays in between, which would cost more than reading."""
    if block.size == 0:
        return True
    low, high = np.fmin.reduce(block, axis=None), np.fmax.reduce(block, axis=None)
    return bool(np.isnan(low) or (low > 0 and high < np.inf))


def _refuse(name: str, block: F64, bad: NDArray[np.bool_]) -> None:
    if bad.any():
        symbol, bar = (int(i) for i in np.argwhere(bad)[0])
        raise PriceError(name, symbol, bar, float(block[symbol, bar]))


@dataclass(frozen=True)
class Outputs:
    """Arrays a kernel fills, each float64 and C-contiguous, or None where not asked for.

    NaN where the bar is missing or the value undefined (before `cutout`, before an average's first
    bar). `signal`: A, [n_configs, n_symbols, n_bars]. `layer1` (S) and `equity2` (layer-2
    equities): [n_configs, n_symbols, 6, n_bars]. `average`, `sign`, `equity1`: [n_configs,
    n_symbols, 6, 9, n_bars]; `sign` is 1, -1 or 0.
    """

    signal: F64 | None = None
    layer1: F64 | None = None
    equity2: F64 | None = None
    average: F64 | None = None
    sign: F64 | None = None
    equity1: F64 | None = None

    @classmethod
    def allocate(cls, names: Iterable[str], n_configs: int, n_symbols: int, n_bars: int) -> Outputs:
        """Fresh arrays for the named outputs."""
        arrays = {}
        for name in names:
            if name not in OUTPUT_AXES:
                raise ConfigError(f"unknown output {name!r}; known are: {', '.join(OUTPUT_AXES)}.")
            arrays[name] = np.full((n_configs, n_symbols, *OUTPUT_AXES[name], n_bars), np.nan)
        return cls(**arrays)

    def check(self, n_configs: int, n_symbols: int, n_bars: int) -> None:
        """Raise `DataError` unless every array has the shape and layout stated above."""
        for output in fields(self):
            array = getattr(self, output.name)
            expected = (n_configs, n_symbols, *OUTPUT_AXES[output.name], n_bars)
            if array is not None and (
                array.shape != expected or array.dtype != np.float64 or not array.flags.c_contiguous
            ):
                raise DataError(
                    f"output {output.name} is {array.dtype} {array.shape}: give C-contiguous float64 {expected}."
                )


OUTPUT_AXES: dict[str, tuple[int, ...]] = {
    "signal": (),
    "layer1": (N_FAMILIES,),
    "equity2": (N_FAMILIES,),
    "average": (N_FAMILIES, N_LENGTHS),
    "sign": (N_FAMILIES, N_LENGTHS),
    "equity1": (N_FAMILIES, N_LENGTHS),
}


def thresholds(config: AtcConfig) -> tuple[int, int]:
    """(up, down): a layer-1 signal S = q/100 votes +1 iff q > up and -1 iff q < down.

    Found by comparing the hundredths themselves, so that kernels compare integers and no division
    can round a vote away.
    """
    high, low = (0.49, -0.49) if config.profile == "pine" else (config.long_threshold, config.short_threshold)
    hundredths = range(-100, 101)
    up = max((q for q in hundredths if not q / 100 > high), default=-101)
    down = min((q for q in hundredths if not q / 100 < low), default=101)
    return up, down


def check_advance(state: State, prices: Prices, outputs: Outputs) -> None:
    """The door every kernel's `advance` goes through: shapes fit each other, or `DataError`."""
    n_symbols, n_bars = prices.close.shape
    if n_symbols != state.n_symbols:
        raise DataError(f"prices hold {n_symbols} symbols, the state {state.n_symbols}: give the same symbols.")
    outputs.check(len(state.configs), n_symbols, n_bars)


class Kernel(Protocol):
    """A backend. It holds no state of its own; several threads may use it at once."""

    @property
    def name(self) -> str: ...

    def new_state(self, configs: Sequence[AtcConfig], n_symbols: int) -> State:
        """The state before any bar, for these configurations and as many symbols."""
        ...

    def advance(self, state: State, prices: Prices, outputs: Outputs) -> None:
        """Take the next bars of every symbol into `state` and fill the outputs asked for."""
        ...

    def follow(self, state: State) -> Follower:
        """The quickest way to go on from `state` one bar at a time; the state is taken over."""
        ...


class Follower(Protocol):
    """A state that is advanced one bar at a time. Not for several threads at once."""

    def update(self, close: F64) -> F64:
        """One bar, float64 [symbols] contiguous, NaN = no bar: signals, float64 [configs, symbols].

        NaN where there is no bar or no signal yet. `DataError`, and nothing done, for a price that is
        not finite and > 0.
        """
        ...

    def update_one(self, symbol: int, close: float) -> list[float]:
        """One bar of one symbol: its signals by configuration. Errors as `update`."""
        ...

    def bars(self) -> I64:
        """[symbols] bars seen so far: a copy."""
        ...

    def state(self) -> State:
        """The state now; going on with this follower may change it."""
        ...


__all__ = [
    "EQUITY_SLOTS",
    "FAMILIES",
    "N_AVERAGES",
    "N_FAMILIES",
    "N_LENGTHS",
    "OUTPUT_AXES",
    "Follower",
    "Kernel",
    "Outputs",
    "Prices",
    "State",
    "StreamKey",
    "StreamLayout",
    "StreamState",
    "check_advance",
    "thresholds",
    "warmup_bars",
]
