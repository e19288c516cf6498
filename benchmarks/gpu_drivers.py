"""Drivers of `CudaKernel` around a device's own: launches timed alone, arrays left where they are.

The kernel is driven as always; nothing of it is written again here.
"""

from __future__ import annotations

from typing import Any

from gpu_devices import Device, seconds_of
from numpy.typing import NDArray

from atc_backtest.kernels.device import Slot
from atc_backtest.kernels.protocol import F64


class Resident:
    """A driver whose launches are timed alone, everything before them done, and that leaves some arrays there."""

    def __init__(self, device: Device, stay: tuple[NDArray[Any], ...] = ()) -> None:
        self._device, self._stay = device, stay
        self.seconds: list[float] = []
        self.launched: tuple[Any, ...] = ()
        """What the last launch was asked for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device.driver, name)

    def slots(self, n: int) -> list[Any]:
        return [_ResidentSlot(self, slot) for slot in self._device.driver.slots(n)]

    def stays(self, out: NDArray[Any]) -> bool:
        return any(out is one for one in self._stay)

    def launch(self, slot: Slot, *asked: Any) -> None:
        self.launched = asked
        self.seconds.append(seconds_of(self._device, lambda: slot.launch(*asked)))


class _ResidentSlot:
    def __init__(self, driver: Resident, slot: Slot) -> None:
        self._driver, self._slot = driver, slot

    def __getattr__(self, name: str) -> Any:
        return getattr(self._slot, name)

    def launch(self, *asked: Any) -> None:
        self._driver.launch(self._slot, *asked)

    def download(self, device: Any, out: NDArray[Any], key: Any) -> None:
        if not self._driver.stays(out):
            self._slot.download(device, out, key)


class Landed:
    """A driver for calls that are repeated: what comes down goes to page-locked memory of its own and stays there, so
    that no copy on the host counts. Arrays are told apart by their order, which is the same in every call."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.down: list[F64] = []
        """What came down last, in the order it was asked for."""
        self._next = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device.driver, name)

    def slots(self, n: int) -> list[Any]:
        return [_LandedSlot(self, slot) for slot in self._device.driver.slots(n)]

    def begin(self) -> None:
        """The next call."""
        self._next = 0

    def fetch(self, slot: Slot, array: Any) -> None:
        if self._next == len(self.down):
            self.down.append(self._device.pinned(array.shape))
        self._device.fetch(slot, array, self.down[self._next])
        self._next += 1


class _LandedSlot:
    def __init__(self, driver: Landed, slot: Slot) -> None:
        self._driver, self._slot = driver, slot

    def __getattr__(self, name: str) -> Any:
        return getattr(self._slot, name)

    def download(self, device: Any, out: NDArray[Any], key: Any) -> None:
        self._driver.fetch(self._slot, device)
