"""The extension built from the crate in `rust/`; `rust.py` is its only caller."""

from collections.abc import Sequence
from typing import final

from atc_backtest.kernels.lowering import MemberConstants, StreamConstants
from atc_backtest.kernels.protocol import F64, I64, Outputs, Prices, StreamLayout

@final
class Stream:
    """Lengths and constants of one stream, checked and ready for `advance`."""

    def __new__(cls, layout: StreamLayout, constants: StreamConstants) -> Stream: ...

@final
class Follower:
    """Symbols followed bar by bar, from a state on.

    The state's arrays are copied. `jobs` as in `advance`. `ValueError` where shapes do not fit, arrays
    share memory, or the processor lacks `level`.
    """

    def __new__(
        cls, jobs: Sequence[tuple[Stream, MemberConstants, F64]], bars: I64, equities: F64, level: str = "auto"
    ) -> Follower: ...
    def update(self, close: F64, signal: F64) -> int:
        """One bar of every symbol, NaN where there is none; -1, or the symbol whose price is refused.

        `close` [symbols], `signal` [configs, symbols] is filled. Refused, and nothing is done: a price that
        is not finite and > 0.
        """

    def update_one(self, symbol: int, close: float) -> list[float] | None:
        """One bar of one symbol; its signals by configuration. None where the price is refused."""

    def store(self, values: Sequence[F64], bars: I64, equities: F64) -> None:
        """Write the state to a state's arrays."""

    def bars(self) -> list[int]:
        """Bars seen of each symbol."""

    def grow(self, members: Sequence[MemberConstants]) -> None:
        """Later growth tables: the members of every stream, as given first."""

def levels() -> list[str]:
    """The levels this processor has, best first."""

def advance(
    jobs: Sequence[tuple[Stream, MemberConstants, F64]],
    bars: I64,
    equities: F64,
    prices: Prices,
    outputs: Outputs,
    level: str = "auto",
) -> None:
    """Advance `bars`, `equities` and the values of every job in place and fill `outputs`.

    A job is one stream of the state with its members. Releases the GIL. `ValueError` where shapes do
    not fit, arrays share memory, or the processor lacks `level`; nothing is changed then.
    """
