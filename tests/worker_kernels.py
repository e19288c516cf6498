"""Preloaded by workers of tests: the best kernel that such a worker has is the one that ATC_TEST_KERNEL names."""

from __future__ import annotations

import os
import sys
from typing import Any

from host_device import HostDriver

from atc_backtest.kernels import KERNELS
from atc_backtest.kernels.cuda import CudaKernel


def dask_setup(worker: Any) -> None:
    best = os.environ["ATC_TEST_KERNEL"]
    if best == "cuda":
        KERNELS["cuda"] = lambda: CudaKernel(HostDriver())
    if best == "numba":
        sys.modules["atc_backtest.kernels._rust"] = None  # type: ignore[assignment]
