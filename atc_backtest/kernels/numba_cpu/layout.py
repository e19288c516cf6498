"""What the Numba kernel's compiled code is given: a stream's and its members' numbers, and its workspace.

Few arrays with named places in them, for every array of a call costs compile time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from atc_backtest.kernels.lowering import HMA, MemberConstants, StreamConstants, shortest_windows
from atc_backtest.kernels.numba_cpu.passes import Variant
from atc_backtest.kernels.numba_cpu.vectors import LANES
from atc_backtest.kernels.protocol import F64, I64, N_AVERAGES, N_FAMILIES, N_LENGTHS, StreamKey, StreamLayout

RECURSIVE = 4 * N_LENGTHS
Row = int


class Constants(NamedTuple):
    """Of a stream, for every family."""

    numbers: F64
    """`NUMBERS`, each [6 x 9] by family and length in summing order (HMA's own: [9])."""
    smooth: I64
    """[9] smoothing lengths of HMA."""
    shortest: I64
    """[7] shortest length of each family, then the shortest half of HMA's."""
    window: I64
    """[7] which of `windows` each has."""
    windows: I64
    """Distinct shortest lengths."""
    reach: I64
    """[levels] rows before a tile's first bar at which sums of 2^p values are read."""
    history: int


NUMBERS = ("first", "lengths", "alpha", "sma", "wma", "lsma_w", "lsma_s", "hma_half", "hma_smooth")


class Members(NamedTuple):
    """`MemberConstants` in few arrays: every array of a call costs compile time."""

    table: I64
    """[members, 6]: CONFIG, LAYER1, CUTOUT, GROWTH_ROW, GROWTH_START, GROWTH_LAST."""
    leader: I64
    numbers: F64
    """[members, 9]: KEEP, UP, DOWN, then the six weights."""
    growth: F64


CONFIG, LAYER1, CUTOUT, GROWTH_ROW, GROWTH_START, GROWTH_LAST = range(6)
KEEP, UP, DOWN, WEIGHTS = range(4)


class Tile(NamedTuple):
    """Workspace for `most` bars at a time. A `Row` is a first row in `work`, whose rows are LANES numbers
    wide; a comment gives the rows that follow."""

    work: F64
    at: I64
    """[LANES][most] positions in the block of the tile's bars."""
    lanes: I64
    """[4][LANES]: REMAINING bars still to do (0: the lane is idle); POSITION in the block where its next
    bar is looked for; GAPLESS: has it a bar at every position; FINISHED: is the tile its last."""
    settled: I64
    """[6] has a family all averages defined and all signals nonzero, in every lane?"""
    most: int
    rows: int
    levels: int
    y_first: int
    close: Row  # [1 + bar], the close before the tile first
    x: Row  # [history + bar]
    change: Row  # [history + bar] |x[t] - x[t-1]|
    plain: Row  # [level][history + bar] sums of 2^level values
    weighted: Row  # [level][history + bar] weighted ones
    noises: Row  # [level][history + bar] sums of 2^level changes
    s: Row  # [window][bar]
    w: Row  # [window][bar]
    noise: Row  # [bar]
    y: Row  # [longest smoothing - 1 + bar][9]
    low: Row  # [bar]
    high: Row  # [bar]
    returns: Row  # [bar]
    signs: Row  # [1 + bar][9] of the family at hand, row 0 before the tile
    averages: Row  # [bar][9]
    kept: Row  # [bar][9] equities asked for
    recursive: Row  # [36] EMA, DEMA's E1 and E2, KAMA
    side: Row  # [54]
    sign: Row  # [54]
    up: Row  # [layer1][bar] factors
    down: Row  # [layer1][bar]
    q: Row  # [layer1][family][1 + bar], row 0 before the tile
    equities: Row  # [layer1][54], then [member][6]
    signal: Row  # [bar]
    t: Row  # [1] bar number of the tile's first bar


REMAINING, POSITION, GAPLESS, FINISHED = range(4)


class Of(NamedTuple):
    """One family's places in a tile and in `Constants.numbers`, as passes read them."""

    numbers: F64
    integers: I64
    average: int
    recursive: int
    window: int
    half_window: int
    history: int
    shortest: int
    half: int
    y_first: int
    first: int
    lengths: int
    alpha: int
    sma: int
    wma: int
    lsma_w: int
    lsma_s: int
    hma_half: int
    hma_smooth: int


class Member(NamedTuple):
    """One layer-1 setting, or one configuration, as passes read it."""

    numbers: F64
    equity1: int
    equity2: int
    factors: int
    q: int
    rows_q: int
    weight: int
    cutout: float
    keep: float
    up: float
    down: float


class Plan(NamedTuple):
    """What a `StreamKey` comes to."""

    variant: Variant
    constants: Constants
    layout: StreamLayout


@lru_cache(maxsize=256)
def plan_of(key: StreamKey) -> Plan:
    layout = StreamLayout.of(key)
    constants = StreamConstants.of(layout)
    shortest, which, windows = shortest_windows(layout)
    variant = Variant(key.robustness, layout.pine, 0 if layout.pine else int(shortest[HMA]) % 2)
    found = {"first": layout.first, "lengths": layout.lengths} | vars(constants)
    return Plan(
        variant,
        Constants(
            numbers=np.concatenate([found[name].astype(np.float64).ravel() for name in NUMBERS]),
            smooth=layout.smooth,
            shortest=shortest,
            window=which,
            windows=windows,
            reach=_reach(windows.tolist()),
            history=layout.history,
        ),
        layout,
    )


def _reach(windows: Sequence[int]) -> I64:
    """Rows before the tile at which each level of doublings is read, by windows and by the next level."""
    reach = [0] * max(windows).bit_length()
    for length in windows:
        lag = 0
        for power in reversed(range(length.bit_length())):
            if length >> power & 1:
                reach[power] = max(reach[power], lag)
                lag += 1 << power
    for power in reversed(range(1, len(reach))):
        reach[power - 1] = max(reach[power - 1], reach[power] + (1 << (power - 1)))
    return np.array(reach, dtype=np.int64)


def members_of(of: MemberConstants) -> Members:
    columns = (of.config, of.layer1, of.cutout, of.growth_row, of.growth_start, of.growth_last)
    numbers = np.column_stack([of.keep, of.up, of.down, of.weights])
    return Members(np.column_stack(columns), of.leader, numbers, of.growth)


def tile_of(plan: Plan, members: MemberConstants, n_bars: int) -> Tile:
    """Room for tiles of bars: few enough that a family's signs stay in the first-level cache, and more
    where windows are so long that going back to their beginnings would cost more than the tile."""
    history, levels = plan.layout.history, plan.constants.reach.size
    most = min(max(min(history, 1024), 64), n_bars)
    rows = history + most
    y_first = int(plan.layout.smooth.max()) - 1
    n_layer1, n_windows = members.leader.size, plan.constants.windows.size
    sizes = {
        "close": 1 + most,
        "x": rows,
        "change": rows,
        "plain": levels * rows,
        "weighted": levels * rows,
        "noises": levels * rows,
        "s": n_windows * most,
        "w": n_windows * most,
        "noise": most,
        "y": (y_first + most) * N_LENGTHS,
        "low": most,
        "high": most,
        "returns": most,
        "signs": (1 + most) * N_LENGTHS,
        "averages": most * N_LENGTHS,
        "kept": most * N_LENGTHS,
        "recursive": RECURSIVE,
        "side": N_AVERAGES,
        "sign": N_AVERAGES,
        "up": n_layer1 * most,
        "down": n_layer1 * most,
        "q": n_layer1 * N_FAMILIES * (1 + most),
        "equities": n_layer1 * N_AVERAGES + members.config.size * N_FAMILIES,
        "signal": most,
        "t": 1,
    }
    starts = dict(zip(sizes, accumulate(sizes.values(), initial=0), strict=False))
    return Tile(
        work=np.zeros(sum(sizes.values()) * LANES),
        at=np.zeros((LANES, most), dtype=np.int64),
        lanes=np.zeros((4, LANES), dtype=np.int64),
        settled=np.zeros(N_FAMILIES, dtype=np.int64),
        most=most,
        rows=rows,
        levels=levels,
        y_first=y_first,
        **starts,
    )
