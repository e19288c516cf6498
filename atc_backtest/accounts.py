"""What an account is: the rules it follows, its record, its trades, and the arrays it is fed and fills.

Only data; `execution` moves it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atc_backtest.config import RunConfig
from atc_backtest.errors import ConfigError, DataError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
I8 = NDArray[np.int8]

NEXT_OPEN, NEXT_CLOSE, CLOSE = 0, 1, 2
FILLS = ("next_open", "next_close", "close")

OPEN, SIGNAL, REVERSAL, RUIN = 0, 1, 2, 3
REASONS = ("open", "signal", "reversal", "ruin")
"""Names of the codes in `TRADE`'s `reason`; `open` marks a trade that has no exit."""


class Rules(NamedTuple):
    """What decides every fill and sum of one parameter set; made by `Rules.of`.

    A named tuple, not a dataclass, because compiled code reads it as it is.
    """

    fill: int
    """NEXT_OPEN, NEXT_CLOSE or CLOSE."""
    fee: float
    """Fraction of traded value, per side."""
    slippage: float
    """Fraction of the price, per side."""
    size: float
    shorts: bool
    hold: bool
    long_threshold: float
    short_threshold: float
    warmup_bars: int
    eval_start_ns: int
    start_equity: float
    rf: float
    mar: float

    @classmethod
    def of(cls, run: RunConfig, warmup_bars: int, has_open: bool) -> Rules:
        """The rules of one run. `warmup_bars`: present bars before the signal counts.

        `has_open`: the store has opens; `auto` then fills at the next open, else at the next close.
        Raises `ConfigError` for fills at opens that are not there.
        """
        execution = run.execution
        fill = execution.fill
        if fill == "auto":
            fill = "next_open" if has_open else "next_close"
        if fill == "next_open" and not has_open:
            raise ConfigError(
                "fill = 'next_open' needs opening prices and the store has none: "
                "use fill = 'next_close', or ingest files that have an open column."
            )
        return cls(
            fill=FILLS.index(fill),
            fee=execution.fee_bps / 10_000,
            slippage=execution.slippage_bps / 10_000,
            size=float(execution.size),
            shorts=execution.shorts,
            hold=execution.neutral == "hold",
            long_threshold=float(run.atc.long_threshold),
            short_threshold=float(run.atc.short_threshold),
            warmup_bars=warmup_bars,
            eval_start_ns=max(run.eval_start_ns(), -(2**63) + 1),  # Numba takes -2**63 for unsigned
            start_equity=float(execution.start_equity),
            rf=float(run.rf),
            mar=float(run.mar),
        )


_INTEGERS = (
    "bars",  # present bars seen: the t of the next one
    "started",  # the first evaluated bar has come
    "n",  # evaluated bars
    "start_ts",  # of the first evaluated bar
    "ts",  # of the last bar taken in: the last evaluated one once n > 0
    "target",  # decided last: 1 long, -1 short, 0 flat
    "ruined",
    "held",  # evaluated bars in position
    "peak_bar",  # the last at the peak, counted from e0; -1 is the start
    "peak_ts",
    "longest_bars",  # longest recovered drawdown
    "longest_ns",
    "trades",  # closed ones; so the open one's trade_id
    "wins",
    "losses",
    "trade_bars",  # sum over closed trades
    "entry_ts",
    "entry_bar",
)
_FLOATS = (
    "start_equity",
    "cash",
    "units",  # negative when short, 0 when flat
    "equity",  # at the last evaluated close
    "close",  # the last evaluated one
    "mean",  # of the returns r
    "m2",  # sum of squared deviations of r from their mean
    "downside",  # sum of min(r - mar, 0)^2
    "equity_sum",
    "peak",
    "drawdown",  # the deepest, <= 0
    "fees",
    "traded",
    "win_sum",
    "loss_sum",
    "pnl_mean",
    "pnl_m2",
    "best",  # trade return
    "worst",
    "hold_start",  # buy-and-hold: the close of e0
    "hold_peak",
    "hold_drawdown",
    "entry_price",
    "entry_fee",
    "entry_equity",  # before the entry's costs
    "trade_high",
    "trade_low",
)
ACCOUNT = np.dtype([(name, np.int64) for name in _INTEGERS] + [(name, np.float64) for name in _FLOATS])
"""One account: all that must be known to go on, and the sums the figures are made of."""

TRADE = np.dtype(
    [
        ("trade_id", np.int64),
        ("side", np.int64),
        ("units", np.float64),
        ("entry_ts", np.int64),
        ("entry_bar", np.int64),
        ("entry_price", np.float64),
        ("entry_fee", np.float64),
        ("exit_ts", np.int64),
        ("exit_bar", np.int64),
        ("exit_price", np.float64),
        ("exit_fee", np.float64),
        ("pnl", np.float64),
        ("return", np.float64),
        ("bars", np.int64),
        ("reason", np.int64),
        ("mae", np.float64),
        ("mfe", np.float64),
    ]
)
"""One trade. `side` 1 or -1, `units` > 0, prices with slippage, pnl net of both fees, `return` =
pnl / (units * entry_price). While `reason` is OPEN the exit fields are those of the last close."""


def new_accounts(rules: Rules, shape: int | tuple[int, ...]) -> NDArray[np.void]:
    """Fresh accounts, `ACCOUNT` of that shape, holding the start equity and nothing else."""
    accounts = np.zeros(shape, dtype=ACCOUNT)
    for name in ("start_equity", "cash", "equity", "peak"):
        accounts[name] = rules.start_equity
    accounts["peak_bar"] = -1
    return accounts


@dataclass(frozen=True)
class Bars:
    """Present bars of one symbol in time order, C-contiguous, all of one length.

    `ts` int64 ns, strictly ascending; `close` float64, finite and > 0; `signal` A, known at the
    close. `open`, `high`, `low`: None where the store has none (the close stands in). Raises
    `DataError` naming the array that does not fit.
    """

    ts: I64
    close: F64
    signal: F64
    open: F64 | None = None
    high: F64 | None = None
    low: F64 | None = None

    def __post_init__(self) -> None:
        n_bars = self.ts.shape[0]
        _check("ts", self.ts, np.int64, n_bars)
        _check("close", self.close, np.float64, n_bars)
        _check("signal", self.signal, np.float64, n_bars)
        for name in ("open", "high", "low"):
            column = getattr(self, name)
            if column is not None:
                _check(name, column, np.float64, n_bars)


def _check(name: str, array: NDArray[Any], dtype: type, n_bars: int) -> None:
    if array.dtype != dtype or array.shape != (n_bars,) or not array.flags.c_contiguous:
        wanted = f"{np.dtype(dtype)} ({n_bars},)"
        raise DataError(f"{name} is {array.dtype} {array.shape}: give C-contiguous {wanted}, one value per bar.")


@dataclass(frozen=True)
class Saved:
    """Arrays that `advance` fills from their beginning, C-contiguous, for blocks they have room for.

    `trades`: `TRADE`, one more than the bars, closed trades in the order of their exits; empty when
    not asked for. `position`: int8, the target known at the close (1, 0, -1). `equity`: float64 at
    the close, NaN before the first evaluated bar; the figures' sums are taken from it. `exposure`:
    float64, signed market value of the position at the close over that equity (0 flat or ruined, NaN
    before the first evaluated bar); empty when not asked for.
    """

    trades: NDArray[np.void]
    position: I8
    equity: F64
    exposure: F64

    @classmethod
    def room(cls, n_bars: int, trades: bool = True, exposure: bool = False) -> Saved:
        """Fresh arrays for blocks of up to `n_bars`; one set serves any number of blocks in turn."""
        return cls(
            trades=np.zeros(n_bars + 1 if trades else 0, TRADE),
            position=np.zeros(n_bars, np.int8),
            equity=np.zeros(n_bars),
            exposure=np.zeros(n_bars if exposure else 0),
        )

    def check(self, n_bars: int) -> None:
        """Raise `DataError` unless each array fits a block of `n_bars`."""
        _check_room("trades", self.trades, TRADE, n_bars + 1 if self.trades.size else 0)
        _check_room("position", self.position, np.dtype(np.int8), n_bars)
        _check_room("equity", self.equity, np.dtype(np.float64), n_bars)
        _check_room("exposure", self.exposure, np.dtype(np.float64), n_bars if self.exposure.size else 0)


def _check_room(name: str, array: NDArray[Any], dtype: np.dtype[Any], room: int) -> None:
    if array.dtype != dtype or array.ndim != 1 or not array.flags.c_contiguous or array.size < room:
        wanted = "TRADE" if dtype == TRADE else str(dtype)
        raise DataError(
            f"{name} is {array.dtype} {array.shape}: give a C-contiguous {wanted} array of at least {room}; "
            "see Saved.room."
        )
