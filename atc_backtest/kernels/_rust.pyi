"""The extension built from the crate in `rust/`; `rust.py` is its only caller."""

from collections.abc import Sequence
from typing import final

from atc_backtest.kernels.lowering import MemberConstants, StreamConstants
from atc_backtest.kernels.protocol import F64, I64, Outputs, Prices, StreamLayout

@final
class Stream:
    """Lengths and constants of one stream, checked and ready for `advance`."""

    def __new__(cls, layout: StreamLayout, constants: StreamConstants) -> Stream: ...

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
