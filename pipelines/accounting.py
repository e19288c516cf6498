"""The accounts of a block of symbols, advanced in one compiled call.

`execution` takes the present bars of one symbol; a block has a row per symbol and NaN where a bar is
missing. Here the present bars of each row are picked and its account moved, without Python in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atc_backtest import execution, jit, periods, sums
from atc_backtest.accounts import ACCOUNT, F64, I8, I64, TRADE, Rules, Saved
from atc_backtest.config import RunConfig
from atc_backtest.execution import advance_bars
from atc_backtest.periods import PERIOD, add_returns, begin_period, end_period

PICKED = 5
"""Rows of `Room.picked`: close, signal, open, high, low."""


@dataclass(frozen=True)
class Room:
    """Arrays filled anew by each row of a block: what was picked, and what the account made of it.

    After a call they hold the last row: `ts` its present bars, `picked` their closes and signals, `saved` its series.
    `views` are the first two once more, read-only, as prices are. `ended`, `PERIOD`, holds all rows' periods that
    ended, in order of rows, then time.
    """

    ts: I64
    picked: F64
    saved: Saved
    views: tuple[I64, F64]
    ended: NDArray[np.void]

    @property
    def signal(self) -> F64:
        """Of the present bars, in its beginning."""
        row: F64 = self.picked[1]
        return row

    @classmethod
    def of(cls, n_bars: int, trades: bool, exposure: bool = False, periods: bool = False) -> Room:
        """Room for blocks of up to `n_bars`; `trades` and `exposure` as in `Saved.room`."""
        ts, picked = np.zeros(n_bars, np.int64), np.zeros((PICKED, n_bars))
        saved, ended = Saved.room(n_bars, trades, exposure), np.zeros(n_bars if periods else 0, PERIOD)
        return cls(ts, picked, saved, (_read_only(ts), _read_only(picked)), ended)


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


@dataclass(frozen=True)
class Periods:
    """Where a block's accounts are in the calendar: `open`, `PERIOD` [symbols], changed in place.

    `starts` as `period_starts` gives them for the block's `ts`. A call may take so many symbols that `room` for
    their periods is enough: symbols x periods of the block.
    """

    open: NDArray[np.void]
    starts: I64


NO_PERIODS = Periods(np.zeros(0, PERIOD), np.zeros(0, np.int64))


class Advanced(NamedTuple):
    """What a block came to: present bars, trades closed, periods ended."""

    bars: int
    trades: int
    periods: int


def advance_block(
    accounts: NDArray[np.void],
    rules: Rules,
    ts: I64,
    fields: dict[str, F64],
    signal: F64,
    room: Room,
    periods: Periods = NO_PERIODS,
) -> Advanced:
    """Take a block into `accounts`, `ACCOUNT` [symbols], changed in place.

    `fields`: close and, where the store has them, open, high and low; like `signal` float64 [symbols,
    bars], C-contiguous. Bits are those of `execution.advance` over each symbol's present bars.
    """
    close = fields["close"]
    saved = room.saved
    return Advanced(
        *compiled()(
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
            periods.open,
            periods.starts,
            room.ended,
        )
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
    periods: NDArray[np.void],
    starts: I64,
    ended: NDArray[np.void],
) -> tuple[int, int, int]:
    """The loop behind `advance_block`; `ranges`: open, high and low are other arrays than the close."""
    n_present = closed = n_ended = 0
    for row in range(columns[0].shape[0]):
        n, times, close, signal, open_, high, low = _present(ts, columns, ranges, row, room)
        account = accounts[row]
        done = traded = 0
        piece = 0  # the period that the next bar is in
        while done < n:
            stop = n
            if starts.shape[0]:
                while starts[piece + 1] <= times[done]:
                    piece += 1
                stop = done + np.searchsorted(times[done:n], starts[piece + 1])
                n_ended = _turn(periods[row], row, starts[piece], account, ended, n_ended)
            before = account["close"]
            traded += advance_bars(
                account,
                rules,
                times[done:stop],
                open_[done:stop],
                high[done:stop],
                low[done:stop],
                close[done:stop],
                signal[done:stop],
                trades[traded:],
                position[done:],
                equity[done:],
                exposure[done:],
            )
            if starts.shape[0]:
                add_returns(periods[row], equity[done:], close[done:], before, stop - done)
            done = stop
        closed += traded
        n_present += n
        if row == columns[0].shape[0] - 1 and n == ts.shape[0]:
            _keep(ts, close, signal, room)
    return n_present, closed, n_ended


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


def _turn(period: Any, row: int, start: int, account: Any, ended: NDArray[np.void], n_ended: int) -> int:
    """Where `start` is that of a later period, put the one that ended away, if it has bars; how many there are."""
    if period["n_bars"]:
        if period["period_ts"] == start:
            return n_ended
        end_period(period, account)
        ended[n_ended] = period
        n_ended += 1
    begin_period(period, row, start, account)
    return n_ended


@cache
def compiled() -> Callable[..., tuple[int, int, int]]:
    """`advance_rows` as machine code that releases the GIL: compiled, or read from Numba's cache, once."""
    import numba
    from numba.extending import register_jitable

    typeof: Any = numba.typeof
    types: Any = numba.types
    block, times = types.Array(numba.float64, 2, "C", readonly=True), types.Array(numba.int64, 1, "C", readonly=True)
    signature = types.UniTuple(numba.int64, 3)(
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
        typeof(np.zeros(0, PERIOD)),
        numba.int64[::1],
        typeof(np.zeros(0, PERIOD)),
    )
    execution.jitable()
    for part in (_present, _keep, _turn, begin_period, end_period, add_returns):
        register_jitable(part)
    return jit.compiled(advance_rows, [signature], sources=[execution, *execution.SOURCES, periods], allocates=False)


@cache
def compiled_sums() -> Callable[..., None]:
    """`sums.sum_bars` alone as machine code: for an equity that is no account's, such as a portfolio's."""
    import numba

    typeof: Any = numba.typeof
    series = numba.types.Array(numba.float64, 1, "C", readonly=True)
    times = numba.types.Array(numba.int64, 1, "C", readonly=True)
    rules = typeof(Rules.of(RunConfig(), 0, has_open=True))
    signature = numba.void(typeof(np.zeros(1, ACCOUNT)[0]), rules, times, series, series, numba.int64, numba.int64)
    execution.jitable()
    return jit.compiled(sums.sum_bars, [signature], allocates=False)
