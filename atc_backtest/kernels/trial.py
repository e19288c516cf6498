"""Whether a device may be trusted: on a short series of prices it must give the bits that the CPU's kernel gives."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np

from atc_backtest.config import AtcConfig, PerFamily
from atc_backtest.errors import UnavailableError
from atc_backtest.kernels.devices import visible_gpus
from atc_backtest.kernels.protocol import F64, Kernel, Outputs, Prices, State

SYMBOLS, BARS = 40, 400
CUTS = (0, 77, 260, BARS)
"""The series goes through in pieces, so that the state goes to the device and comes back."""

CONFIGS = (
    AtcConfig(),
    AtcConfig(lambda_=0.5, decay=0.1),
    AtcConfig(lengths=PerFamily(20, 34, 28, 45, 17, 30)),
    AtcConfig(profile="pine"),
)
OUTPUTS = ("signal", "layer1", "equity2")

logger = logging.getLogger("atc_backtest.kernels")


@cache
def refusal(gpu: Callable[[], Kernel], cpu: Callable[[], Kernel]) -> str | None:
    """Why the kernel that `gpu` makes is not to be used by itself; None where it is. Tried once in a process.

    Logged as a warning where there is a device, which then is not used; where there is none, nothing is amiss.
    """
    try:
        found = difference(gpu(), cpu())
    except UnavailableError as error:
        logger.log(logging.WARNING if visible_gpus() else logging.DEBUG, "The GPU is not taken: %s", error)
        return str(error)
    except Exception as error:
        found = f"it failed in a trial ({type(error).__name__}: {error})"
    if found is not None:
        logger.warning("The GPU is not taken: %s. Name a kernel by --kernel to be told no more.", found)
    return found


def difference(gpu: Kernel, cpu: Kernel) -> str | None:
    """In which bits, first of all, the two differ over a series of both profiles with missing bars; None: in none."""
    close = _prices()
    states = [kernel.new_state(CONFIGS, SYMBOLS) for kernel in (gpu, cpu)]
    for start, stop in pairwise(CUTS):
        prices = Prices(np.ascontiguousarray(close[:, start:stop]))
        given = [Outputs.allocate(OUTPUTS, len(CONFIGS), SYMBOLS, stop - start) for _ in states]
        for kernel, state, outputs in zip((gpu, cpu), states, given, strict=True):
            kernel.advance(state, prices, outputs)
        for name in OUTPUTS:
            n = differing(getattr(given[0], name), getattr(given[1], name))
            if n:
                return f"it gave {n:,} other values of {name} than the {cpu.name} kernel in a trial"
    if not _same_states(*states):
        return f"it left another state than the {cpu.name} kernel in a trial"
    return None


def _prices() -> F64:
    """Walks in cents: some bars missing, one symbol listed late, one that ends, one that stands still, one empty."""
    rng = np.random.default_rng(20_24)
    close: F64 = np.round(100 * np.exp(rng.normal(0, 0.01, (SYMBOLS, BARS)).cumsum(axis=1)), 2)
    close[1::3][rng.random(close[1::3].shape) < 0.2] = np.nan
    close[2, :150] = close[3, 300:] = close[4] = np.nan
    close[5, 100:200] = close[5, 99]
    return close


def _same_states(one: State, other: State) -> bool:
    arrays = [[state.equities, *(stream.values for stream in state.streams)] for state in (one, other)]
    return np.array_equal(one.bars, other.bars) and not any(map(differing, *arrays))


def differing(one: F64, other: F64) -> int:
    """How many values are of other bits; all NaNs are one, 0.0 and -0.0 are two."""
    same = (one.view(np.int64) == other.view(np.int64)) | (np.isnan(one) & np.isnan(other))
    return int(np.count_nonzero(~same))
