"""What the GPU kernel asks of a device: its source, slabs on their way, and a ledger of who holds how many bytes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from numpy.typing import NDArray

from atc_backtest.config import OFFSETS

SOURCE = Path(__file__).with_name("atc.cu")
OPTIONS = ("--std=c++17", "--fmad=false", "--prec-div=true")
"""Of NVRTC: every operation rounds as IEEE 754 says."""
_CHOOSING = threading.Lock()


class DeviceMemoryError(MemoryError):
    """The device has no room, or the host none that is page-locked."""


@dataclass(frozen=True)
class Variant:
    """What is compiled into the code: lengths are not, so that a sweep over them compiles nothing."""

    robustness: str
    pine: bool

    @property
    def macros(self) -> tuple[str, ...]:
        offsets = ",".join(map(str, OFFSETS[self.robustness]))
        return (f"-DOFFSETS={offsets}", f"-DPINE={int(self.pine)}")


class Slot(Protocol):
    """One slab on its way; what is asked of it is done in order, and computing in the order of slots."""

    def upload(self, array: NDArray[Any]) -> Any:
        """A copy on the device, contiguous whatever the array's strides; it must not change before `finish`."""
        ...

    def blank(self, shape: tuple[int, ...]) -> Any:
        """Float64 NaNs on the device."""
        ...

    def launch(self, variant: Variant, tables: tuple[Any, Any, Any], symbols: int, work_bytes: int) -> None:
        """Advance every symbol of a block, after what other slots have launched before."""
        ...

    def download(self, device: Any, out: NDArray[Any], key: Any) -> None:
        """Into `out[key]`, at the latest when `finish` returns; not at all where something before it failed."""
        ...

    def finish(self) -> None:
        """Wait until everything is done."""
        ...

    def close(self) -> None:
        """Wait for what is still under way, also after an error; what was to come down is left. The last call."""
        ...


class Driver(Protocol):
    """A device: one of CuPy's, the CPU in tests. `DeviceMemoryError` where something does not fit."""

    @property
    def ledger(self) -> Ledger: ...

    def free_bytes(self) -> int:
        """Of the device: what this process may use, what its groups hold at the moment included."""
        ...

    def workspaces(self, work_bytes: int) -> int:
        """How many workspaces of that size a launch takes from the device's memory at most: 0 where a processor
        has room for one."""
        ...

    def slots(self, n: int) -> list[Slot]:
        """Launches of slots made together are computed in the order they were asked for."""
        ...

    def address(self, device: Any) -> int: ...


class Ledger:
    """Bytes of one device that groups of this process hold or wait for, and how many groups. For many threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._held = self._asked = self.groups = 0

    @property
    def load(self) -> tuple[int, int]:
        """Groups on their way, and bytes that they hold or wait for."""
        return self.groups, self._asked

    @contextmanager
    def reserve(self, n_bytes: int, share: int) -> Iterator[None]:
        """Wait, in the order of asking, until so many bytes fit into `share` beside what others hold.

        What fits into no share is let in alone. Nobody may hold two at a time: they could wait for each other.
        """
        ticket = object()
        with self._changed:
            self._asked += n_bytes
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is ticket and self._fits(n_bytes, share))
                self._held += n_bytes
            except BaseException:
                self._asked -= n_bytes
                raise
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._held -= n_bytes
                self._asked -= n_bytes
                self._changed.notify_all()

    def _fits(self, n_bytes: int, share: int) -> bool:
        return self._held == 0 or self._held + n_bytes <= share


AnyDriver = TypeVar("AnyDriver", bound=Driver)


@contextmanager
def least_busy(drivers: Sequence[AnyDriver]) -> Iterator[AnyDriver]:
    """The device with the fewest groups on their way, of these with the fewest bytes; until the end it has one more."""
    with _CHOOSING:
        driver = min(drivers, key=lambda one: one.ledger.load)
        driver.ledger.groups += 1
    try:
        yield driver
    finally:
        with _CHOOSING:
            driver.ledger.groups -= 1
