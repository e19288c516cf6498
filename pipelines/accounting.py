"""The accounts of a block of symbols, advanced in one compiled call.

`execution` takes the present bars of one symbol; a block has a row per symbol and NaN where a bar is
missing. Here the present bars of each row are found and its account moved, without Python in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atc_backtest import execution, jit
from atc_backtest.accounts import ACCOUNT, F64, I8, I64, TRADE, Rules, Saved
from atc_backtest.config import RunConfig
from atc_backtest.execution import advance_bars

PICKED = 5
"""Rows of `Room.picked`: close, signal, open, high, low."""


@dataclass(frozen=True)
class Room:
    """Arrays filled anew by each row of a block: what was picked, and what the account made of it.

    After a call they hold the last row: `ts` its present bars, `picked` their closes and signals, `saved` its series.
    `views` are the first two once more, read-only, as prices are.
    """

    ts: I64
    picked: F64
    saved: Saved
    views: tuple[I64, F64]

    @property
    def signal(self) -> F64:
        """Of the present bars, in its beginning."""
        row: F64 = self.picked[1]
        return row

    @classmethod
    def of(cls, n_bars: int, trades: bool, exposure: bool = False) -> Room:
        """Room for blocks of up to `n_bars`; `trades` and `exposure` as in `Saved.room`."""
        ts, picked = np.zeros(n_bars, np.int64), np.zeros((PICKED, n_bars))
        return cls(ts, picked, Saved.room(n_bars, trades, exposure), (_read_only(ts), _read_only(picked)))


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


def advance_block(
    accounts: NDArray[np.void], rules: Rules, ts: I64, fields: dict[str, F64], signal: F64, room: Room
) -> tuple[int, int]:
    """Take a block into `accounts`, `ACCOUNT` [symbols], changed in place: present bars, trades closed.

    `fields`: close and, where the store has them, open, high and low; like `signal` float64 [symbols,
    bars], C-contiguous. Bits are those of `execution.advance` over each symbol's present bars.
    """
    close = fields["close"]
    saved = room.saved
    return compiled()(
        accounts,
        rules,
        ts,
        (close, signal, fields.get("open", close), fields.get("high", close), fields.get("low", close)),
        len(fields) > 1,
        (room.ts, room.picked, *room.views),
        saved.trades,
        saved.position,
        saved.equity,
        saved.exposure,
    )


def advance_rows(
    accounts: Any,
    rules: Rules,
    ts: I64,
    columns: tuple[F64, F64, F64, F64, F64],
    ranges: bool,
    room: tuple[I64, F64, I64, F64],
    trades: NDArray[np.void],
    position: I8,
    equity: F64,
    exposure: F64,
) -> tuple[int, int]:
    """The loop behind `advance_block`; `ranges`: open, high and low are other arrays than the close."""
    n_present = closed = 0
    for row in range(columns[0].shape[0]):
        n, times, close, signal, open_, high, low = _present(ts, columns, ranges, row, room)
        if n == 0:
            continue
        closed += advance_bars(
            accounts[row], rules, times, open_, high, low, close, signal, trades, position, equity, exposure
        )
        n_present += n
        if row == columns[0].shape[0] - 1 and n == ts.shape[0]:
            _keep(ts, close, signal, room)
    return n_present, closed


def _present(
    ts: I64, columns: tuple[F64, F64, F64, F64, F64], ranges: bool, row: int, room: tuple[I64, F64, I64, F64]
) -> tuple[int, I64, F64, F64, F64, F64, F64]:
    """The present bars of a row: how many, their times, closes, signals, opens, highs and lows.

    Where none is missing they are read where they lie; else they are picked, and read in `room`.
    """
    close, signal, open_, high, low = columns
    n_bars = ts.shape[0]
    n = 0
    for bar in range(n_bars):
        n += close[row, bar] == close[row, bar]
    if n == n_bars:
        return n, ts, close[row], signal[row], open_[row], high[row], low[row]
    times, picked, times_read, read = room
    n = 0
    for bar in range(n_bars):
        times[n] = ts[bar]
        picked[0, n] = close[row, bar]
        picked[1, n] = signal[row, bar]
        if ranges:
            picked[2, n] = open_[row, bar]
            picked[3, n] = high[row, bar]
            picked[4, n] = low[row, bar]
        n += close[row, bar] == close[row, bar]  # a bar that is missing is overwritten by the next
    at = (2, 3, 4) if ranges else (0, 0, 0)
    return n, times_read[:n], read[0, :n], read[1, :n], read[at[0], :n], read[at[1], :n], read[at[2], :n]


def _keep(ts: I64, close: F64, signal: F64, room: tuple[I64, F64, I64, F64]) -> None:
    """What was read where it lies, for those who look into the room afterwards."""
    for bar in range(ts.shape[0]):
        room[0][bar] = ts[bar]
        room[1][0, bar] = close[bar]
        room[1][1, bar] = signal[bar]


@cache
def compiled() -> Callable[..., tuple[int, int]]:
    """`advance_rows` as machine code that releases the GIL: compiled, or read from Numba's cache, once."""
    import numba
    from numba.extending import register_jitable

    typeof: Any = numba.typeof
    types: Any = numba.types
    block, times = types.Array(numba.float64, 2, "C", readonly=True), types.Array(numba.int64, 1, "C", readonly=True)
    signature = types.UniTuple(numba.int64, 2)(
        typeof(np.zeros(1, ACCOUNT)),
        typeof(Rules.of(RunConfig(), 0, has_open=True)),
        times,
        types.UniTuple(block, 5),
        numba.boolean,
        types.Tuple((numba.int64[::1], numba.float64[:, ::1], times, block)),
        typeof(np.zeros(0, TRADE)),
        numba.int8[::1],
        numba.float64[::1],
        numba.float64[::1],
    )
    execution.jitable()
    for part in (_present, _keep):
        register_jitable(part)
    return jit.compiled(advance_rows, [signature], sources=[execution, *execution.SOURCES], allocates=False)
