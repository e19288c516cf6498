"""Memory that processes take before their first bar, and what this machine has."""

from __future__ import annotations

import os

from atc_backtest.kernels import AUTO
from atc_backtest.kernels.cuda import SLAB_BYTES, SLOTS

PROCESS_BYTES = {"rust": 360 * 2**20, "numba": 560 * 2**20, "cuda": 800 * 2**20, "reference": 360 * 2**20}
"""Of a kernel: a process with everything imported and compiled, Numba's compiler included; measured, but for cuda."""

STAGING_BYTES = {"cuda": SLOTS * SLAB_BYTES}
"""Of a kernel that has a device: the most of a call's prices and outputs that are on their way, in pinned memory."""


def process_bytes(kernel: str) -> int:
    """Of a process that computes with that kernel; with `auto`, whichever it takes."""
    return max(PROCESS_BYTES.values()) if kernel == AUTO else PROCESS_BYTES[kernel]


def ram_bytes() -> int | None:
    """This machine's memory; None where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # no POSIX
        return None
