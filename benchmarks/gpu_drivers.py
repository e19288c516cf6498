"""Drivers of `CudaKernel` around a device's own: launches timed alone, arrays left where they are.

The kernel is driven as always; nothing of it is written again here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gpu_devices import Device, seconds_of
from numpy.typing import NDArray

from atc_backtest.kernels.cuda import Slot
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


class Prestaged:
    """A driver for calls that are repeated: from the second on, what goes up is in pinned memory already, and what
    comes down stays there, so that no copy on the host counts.

    Arrays are told apart by their order, which is the same in every call; addresses (integers) go up as they do.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._up: list[F64] = []
        self._down: list[F64] = []
        self._next = [0, 0]
        self._repeats = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device.driver, name)

    def slots(self, n: int) -> list[Any]:
        return [_PrestagedSlot(self, slot) for slot in self._device.driver.slots(n)]

    def repeat(self) -> None:
        """The next call begins."""
        self._next, self._repeats = [0, 0], bool(self._up)

    def sent(self, slot: Slot, array: NDArray[Any]) -> Any:
        if not self._repeats:
            self._up.append(self._device.pinned(array.shape))
            self._up[-1][...] = array
            return slot.upload(array)
        self._next[0] += 1
        return self._device.send(slot, self._up[self._next[0] - 1])

    def fetched(self, slot: Slot, array: Any, out: NDArray[Any], key: Any) -> None:
        if not self._repeats:
            self._down.append(self._device.pinned(array.shape))
            slot.download(array, out, key)
            return
        self._next[1] += 1
        self._device.fetch(slot, array, self._down[self._next[1] - 1])

    @property
    def down(self) -> list[F64]:
        """What came down last, in the order it was asked for."""
        return self._down


class _PrestagedSlot:
    def __init__(self, driver: Prestaged, slot: Slot) -> None:
        self._driver, self._slot = driver, slot
        self._held: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._slot, name)

    def upload(self, array: NDArray[Any]) -> Any:
        if array.dtype != np.float64:
            return self._slot.upload(array)
        self._held.append(self._driver.sent(self._slot, array))
        return self._held[-1]

    def download(self, device: Any, out: NDArray[Any], key: Any) -> None:
        self._held.append(device)
        self._driver.fetched(self._slot, device, out, key)

    def finish(self) -> None:
        self._slot.finish()
        self._held = []
