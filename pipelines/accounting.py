"""The accounts of a block of symbols, advanced in one compiled call.

`execution` takes the present bars of one symbol; a block has a row per symbol and NaN where a bar is
missing. Here the present bars of each row are picked and its account moved, without Python in between.
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

    After a call they hold the last row: `ts` and `picked` its present bars, `saved` its series.
    """

    ts: I64
    picked: F64
    saved: Saved

    @property
    def signal(self) -> F64:
        """Of the present bars, in its beginning."""
        row: F64 = self.picked[1]
        return row

    @classmethod
    def of(cls, n_bars: int, trades: bool, exposure: bool = False) -> Room:
        """Room for blocks of up to `n_bars`; `trades` and `exposure` as in `Saved.room`."""
        return cls(np.zeros(n_bars, np.int64), np.zeros((PICKED, n_bars)), Saved.room(n_bars, trades, exposure))


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
        room.ts,
        room.picked,
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
    times: I64,
    picked: F64,
    trades: NDArray[np.void],
    position: I8,
    equity: F64,
    exposure: F64,
) -> tuple[int, int]:
    """The loop behind `advance_block`; `ranges`: open, high and low are other arrays than the close."""
    close, signal, open_, high, low = columns
    n_present = closed = 0
    for row in range(close.shape[0]):
        n = 0
        for bar in range(ts.shape[0]):
            times[n] = ts[bar]
            picked[0, n] = close[row, bar]
            picked[1, n] = signal[row, bar]
            if ranges:
                picked[2, n] = open_[row, bar]
                picked[3, n] = high[row, bar]
                picked[4, n] = low[row, bar]
            n += close[row, bar] == close[row, bar]  # a bar that is missing is overwritten by the next
        if n == 0:
            continue
        at = (2, 3, 4) if ranges else (0, 0, 0)
        closed += advance_bars(
            accounts[row],
            rules,
            times[:n],
            picked[at[0], :n],
            picked[at[1], :n],
            picked[at[2], :n],
            picked[0, :n],
            picked[1, :n],
            trades,
            position,
            equity,
            exposure,
        )
        n_present += n
    return n_present, closed


@cache
def compiled() -> Callable[..., tuple[int, int]]:
    """`advance_rows` as machine code that releases the GIL: compiled, or read from Numba's cache, once."""
    import numba

    typeof: Any = numba.typeof
    types: Any = numba.types
    block = types.Array(numba.float64, 2, "C", readonly=True)
    signature = types.UniTuple(numba.int64, 2)(
        typeof(np.zeros(1, ACCOUNT)),
        typeof(Rules.of(RunConfig(), 0, has_open=True)),
        types.Array(numba.int64, 1, "C", readonly=True),
        types.UniTuple(block, 5),
        numba.boolean,
        numba.int64[::1],
        numba.float64[:, ::1],
        typeof(np.zeros(0, TRADE)),
        numba.int8[::1],
        numba.float64[::1],
        numba.float64[::1],
    )
    execution.jitable()
    return jit.compiled(advance_rows, [signature], sources=[execution, *execution.PARTS], allocates=False)
