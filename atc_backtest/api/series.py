"""The indicator of one series, without a store or a run."""

from __future__ import annotations

from typing import Any

import numpy as np

from atc_backtest.api.frames import closes_of
from atc_backtest.api.parameters import Setting, config_of
from atc_backtest.errors import ConfigError
from atc_backtest.kernels import get_kernel
from atc_backtest.kernels.protocol import Outputs, Prices
from atc_backtest.stores.base import F64


def signals(closes: Any, config: Setting | None = None, *, kernel: str = "auto") -> Any:
    """The final signal of every bar, in [-1, 1], to the last bit what a backtest decides by.

    closes  a pandas or polars Series or a one-dimensional array, > 0; NaN is a bar that is missing
    config  as of `backtest`, one set; only the indicator's settings matter

    The result is of the same type, with the same index and name; NaN where a bar is missing or the signal undefined.
    `DataError` for prices that are not finite and > 0.

    >>> import numpy as np
    >>> import atc_backtest as atc
    >>> closes = 100 + np.arange(60.0) % 7
    >>> found = atc.signals(closes, {"lengths.ema": 20})
    >>> found.shape, bool(np.isnan(found[-1]))
    ((60,), False)
    """
    chosen = config_of(config)
    if chosen.source != "close":
        raise ConfigError(f"source = {chosen.source!r} is not allowed here: a series of closes has closes alone.")
    values = closes_of(closes)
    outputs = Outputs.allocate(["signal"], 1, 1, values.size)
    found = get_kernel(kernel)
    found.advance(found.new_state([chosen.atc], 1), Prices(values[None]), outputs)
    assert outputs.signal is not None  # asked for above
    return _alike(closes, outputs.signal[0, 0])


def _alike(given: Any, values: F64) -> Any:
    """`values` as the type that was given."""
    if isinstance(given, np.ndarray | list | tuple):
        return values
    if hasattr(given, "index"):
        return type(given)(values, index=given.index, name=given.name)
    return type(given)(given.name, values)
