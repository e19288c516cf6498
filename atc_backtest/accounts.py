"""What an account is: the rules it follows, its record, its trades, and the arrays it is fed and fills.

Only data; `execution` moves it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atc_backtest.config import INTRABAR, STOPS, RunConfig
from atc_backtest.errors import ConfigError, DataError
from atc_backtest.limits import NEVER_NS, distance, interval_ns

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
I8 = NDArray[np.int8]

NEXT_OPEN, NEXT_CLOSE, CLOSE = 0, 1, 2
FILLS = ("next_open", "next_close", "close")

OPEN, SIGNAL, REVERSAL, RUIN, STOP_LOSS, TAKE_PROFIT, TRAILING_STOP = range(7)
REASONS = ("open", "signal", "reversal", "ruin", "stop_loss", "take_profit", "trailing_stop")
"""Names of the codes in `TRADE`'s `reason`; `open` marks a trade that has no exit."""


WORST, BEST, OPEN_FIRST = range(len(INTRABAR))
"""Which of two stops within one bar comes first, in the order of `INTRABAR`."""

GROUP = 64
"""Evaluated bars whose returns are summed together, see `sums`."""


class Charges(NamedTuple):
    """What trading and holding cost one account, as fractions: of traded value and of the price, per side, and of
    market value per funding interval."""

    fee: float
    slippage: float
    funding: float

    @classmethod
    def of(cls, fee_bps: float, slippage_bps: float, funding_bps: float) -> Charges:
        """From basis points."""
        return cls(fee_bps / 10_000, slippage_bps / 10_000, funding_bps / 10_000)


class Rules(NamedTuple):
    """What decides every fill and sum of one parameter set; made by `Rules.of`.

    A named tuple, not a dataclass, because compiled code reads it as it is.
    """

    fill: int
    """NEXT_OPEN, NEXT_CLOSE or CLOSE."""
    delay: int
    """Bars by which every fill comes later."""
    opens: bool
    """Opens are prices of their own; else the close stands in for them."""
    fee: float
    """Fraction of traded value, per side; like the next two where an account has no charges of its own."""
    slippage: float
    """Fraction of the price, per side."""
    funding: float
    """Fraction of market value, per interval."""
    funding_ns: int
    bar_ns: int
    """Length of a bar: which instants lie within it. 0 where nobody asks."""
    size: float
    hold: bool
    long_threshold: float
    """Infinite where longs are not held; likewise shorts."""
    short_threshold: float
    stops: bool
    """Some stop is set."""
    ranged: bool
    """One of them by the average true range."""
    stop_share: float
    """Distance of the stop-loss: this fraction of the entry price, or so many average true ranges; 0 both: none."""
    stop_atr: float
    profit_share: float
    profit_atr: float
    trail_share: float
    """Of the best price since the entry."""
    trail_atr: float
    atr_length: int
    intrabar: int
    """WORST, BEST or OPEN_FIRST."""
    warmup_bars: int
    eval_start_ns: int
    eval_end_ns: int
    start_equity: float
    rf: float
    mar: float

    @classmethod
    def of(cls, run: RunConfig, warmup_bars: int, has_open: bool, bar_ns: int = 0) -> Rules:
        """The rules of one run. `warmup_bars`: present bars before the signal counts; stops by the average true
        range need theirs too.

        `has_open`: the store has opens; `auto` then fills at the next open, else at the next close. Raises
        `ConfigError` for fills at opens that are not there, and for funding where the length of a bar is not known.
        """
        execution = run.execution
        if execution.funding_bps != 0.0 and bar_ns <= 0:
            raise ConfigError(f"funding_bps = {execution.funding_bps:g} needs bars of a known length.")
        stop, profit, trail = (distance(name, getattr(execution, name)) for name in STOPS)
        ranged = stop[1] + profit[1] + trail[1] > 0.0
        charges = Charges.of(execution.fee_bps, execution.slippage_bps, execution.funding_bps)
        return cls(
            fill=FILLS.index(_fill_of(execution.fill, has_open)),
            delay=execution.delay_bars,
            opens=has_open,
            fee=charges.fee,
            slippage=charges.slippage,
            funding=charges.funding,
            funding_ns=interval_ns("funding_interval", execution.funding_interval),
            bar_ns=bar_ns,
            size=float(execution.size),
            hold=execution.neutral == "hold",
            long_threshold=float(run.atc.long_threshold) if execution.longs else math.inf,
            short_threshold=float(run.atc.short_threshold) if execution.shorts else -math.inf,
            stops=sum(stop + profit + trail) > 0.0,
            ranged=ranged,
            stop_share=stop[0],
            stop_atr=stop[1],
            profit_share=profit[0],
            profit_atr=profit[1],
            trail_share=trail[0],
            trail_atr=trail[1],
            atr_length=execution.atr_length,
            intrabar=INTRABAR.index(execution.intrabar),
            warmup_bars=max(warmup_bars, execution.atr_length if ranged else 0),
            eval_start_ns=max(run.eval_start_ns(), -NEVER_NS),  # Numba takes -2**63 for unsigned
            eval_end_ns=run.eval_end_ns(),
            start_equity=float(execution.start_equity),
            rf=float(run.rf),
            mar=float(run.mar),
        )


def _fill_of(fill: str, has_open: bool) -> str:
    if fill == "next_open" and not has_open:
        raise ConfigError(
            "fill = 'next_open' needs opening prices and the store has none: "
            "use fill = 'next_close', or ingest files that have an open column."
        )
    if fill == "auto":
        return "next_open" if has_open else "next_close"
    return fill


_INTEGERS = (
    "bars",  # present bars seen: the t of the next one
    "started",  # the first evaluated bar has come
    "n",  # evaluated bars
    "start_ts",  # of the first evaluated bar
    "ts",  # of the last bar taken in: the last evaluated one once n > 0
    "target",  # decided last: 1 long, -1 short, 0 flat
    "queue",  # the targets before it, as many as fills are delayed, two bits each, the oldest highest
    "stopped",  # the side that was stopped out and waits for another target; 0: none
    "ambiguous",  # bars whose range held two stops
    "atr_bars",
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
    "fee_rate",  # what this account is charged: see Charges
    "slippage_rate",
    "funding_rate",
    "start_equity",
    "cash",
    "units",  # negative when short, 0 when flat
    "equity",  # at the last evaluated close
    "close",  # the last evaluated one
    "prior_close",  # the last one
    "mean",  # of the returns r, those of an unfinished group left out
    "m2",  # sum of squared deviations of r from their mean, likewise
    "group_sum",  # of the unfinished group: r - mean
    "group_squares",  # (r - mean)^2
    "downside",  # sum of min(r - mar, 0)^2
    "equity_sum",
    "peak",
    "bottom",  # lowest equity since then
    "drawdown",  # the deepest, <= 0
    "fees",
    "funding",  # paid; negative: received
    "traded",
    "win_sum",
    "loss_sum",
    "pnl_mean",
    "pnl_m2",
    "best",  # trade return
    "worst",
    "hold_start",  # buy-and-hold: the close of e0
    "hold_peak",
    "hold_bottom",
    "hold_drawdown",
    "entry_price",
    "entry_fee",
    "entry_equity",  # before the entry's costs
    "trade_high",
    "trade_low",
    "trade_funding",
    "stop_price",
    "profit_price",
    "trail_distance",
    "atr",  # Wilder's; a sum while bars are fewer than its length
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
"""One trade. `side` 1 or -1, `units` > 0, prices with slippage, pnl net of both fees and of funding, `return` =
pnl / (units * entry_price). While `reason` is OPEN the exit fields are those of the last close."""


def new_accounts(
    rules: Rules, shape: int | tuple[int, ...], charges: Sequence[Charges] | None = None
) -> NDArray[np.void]:
    """Fresh accounts, `ACCOUNT` of that shape, holding the start equity and nothing else.

    `charges`: one per account of the last axis; without them all are charged what `rules` say.
    """
    accounts = np.zeros(shape, dtype=ACCOUNT)
    for name in ("start_equity", "cash", "equity", "peak", "bottom"):
        accounts[name] = rules.start_equity
    accounts["peak_bar"] = -1
    rates = charges or [Charges(rules.fee, rules.slippage, rules.funding)]
    for name, values in zip(Charges._fields, zip(*rates, strict=True), strict=True):
        accounts[f"{name}_rate"] = values
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
