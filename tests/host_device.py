"""A device that is the CPU: `atc.cu` compiled by g++, its lanes loops. For tests of the GPU kernel."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from atc_backtest.errors import UnavailableError
from atc_backtest.kernels.cuda import CudaKernel
from atc_backtest.kernels.device import SOURCE, DeviceMemoryError, Ledger, Slot, Variant

FLAGS = ("-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-DHOST", "-x", "c++")


@cache
def compiler() -> str | None:
    return shutil.which("g++") or shutil.which("clang++")


def gpu_kernel() -> CudaKernel:
    """On a GPU where there is one, else its code on the CPU. Skips without either, fails so in CI."""
    try:
        return CudaKernel()
    except UnavailableError:
        pass
    if compiler() is None:
        reason = "no GPU, and no g++ to run its code on the CPU: install g++ (on Debian or Ubuntu: apt install g++)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return CudaKernel(HostDriver())


@cache
def library(variant: Variant) -> ctypes.CDLL:
    """The kernel of a variant as a shared library."""
    made = Path(mkdtemp(prefix="atc-host-")) / "kernel.so"
    command = [str(compiler()), *FLAGS, *variant.macros, str(SOURCE), "-shared", "-fPIC", "-o", str(made)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(made))


class HostDriver:
    """Holds at most `free` bytes of what slots upload and blank at a time."""

    def __init__(self, free: int = 1 << 30, breaks_at: int | None = None) -> None:
        self.free, self.held, self.most = free, 0, 0
        self.breaks_at = breaks_at
        self.launches: list[int] = []
        self.ledger = Ledger()

    def free_bytes(self) -> int:
        return self.free

    def workspaces(self, work_bytes: int) -> int:
        return 0

    def address(self, device: NDArray[Any]) -> int:
        return int(device.ctypes.data)

    def slots(self, n: int) -> list[Slot]:
        return [HostSlot(self) for _ in range(n)]

    def take(self, n_bytes: int) -> None:
        if self.breaks_at is not None and n_bytes > self.breaks_at:
            raise DeviceMemoryError(f"{n_bytes} bytes do not fit")
        self.held += n_bytes
        self.most = max(self.most, self.held)


class HostSlot:
    """Computes when it is told to and hands out results when it is asked to finish, as a device does."""

    def __init__(self, driver: HostDriver) -> None:
        self._driver = driver
        self._held: list[NDArray[Any]] = []
        self._coming: list[tuple[NDArray[Any], NDArray[Any], Any]] = []

    def upload(self, array: NDArray[Any]) -> NDArray[Any]:
        self._driver.take(array.nbytes)
        self._held.append(array.copy())
        return self._held[-1]

    def blank(self, shape: tuple[int, ...]) -> NDArray[Any]:
        self._driver.take(8 * int(np.prod(shape)))
        self._held.append(np.full(shape, np.nan))
        return self._held[-1]

    def launch(self, variant: Variant, tables: tuple[Any, Any, Any], symbols: int, work_bytes: int) -> None:
        self._driver.launches.append(symbols)
        guard = 64
        work = np.full(work_bytes + guard, 0xA5, np.uint8)  # old contents are no zeros on a device either
        library(variant).advance(*(ctypes.c_void_p(self._driver.address(one)) for one in (*tables, work)), work_bytes)
        assert (work[work_bytes:] == 0xA5).all(), "the kernel wrote beyond its workspace"

    def download(self, device: NDArray[Any], out: NDArray[Any], key: Any) -> None:
        self._coming.append((device, out, key))

    def finish(self) -> None:
        for device, out, key in self._coming:
            out[key] = device
        self._driver.held -= sum(array.nbytes for array in self._held)
        self._held, self._coming = [], []

    def close(self) -> None:
        self._coming = []
        self.finish()
