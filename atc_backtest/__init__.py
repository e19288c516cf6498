"""ATC over whole markets: one exact state machine, the same bits on every backend.

    import atc_backtest as atc

    run = atc.backtest(frame, {"fee_bps": 2})  # pandas, polars, Arrow, NumPy, or the path of a store
    run.metrics, run.trades, run.equity("BTCUSDT"), run.plot()

The names below are imported when they are first used, so that `import atc_backtest` costs nothing.
Start reading at `atc_backtest.reference`: the algorithm, paragraph by paragraph.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:  # the twin of _HOMES, for type checkers and editors
    from atc_backtest.api import backtest, open_run, settings, signals
    from atc_backtest.api.results import Run
    from atc_backtest.config import AtcConfig, ExecutionConfig, RunConfig
    from atc_backtest.errors import AtcError, ConfigError, DataError, StoreError, UnavailableError
    from atc_backtest.live import Live
    from atc_backtest.stores.opening import open_store

_HOMES = {
    "backtest": "atc_backtest.api",
    "open_run": "atc_backtest.api",
    "settings": "atc_backtest.api",
    "signals": "atc_backtest.api",
    "Run": "atc_backtest.api.results",
    "AtcConfig": "atc_backtest.config",
    "ExecutionConfig": "atc_backtest.config",
    "RunConfig": "atc_backtest.config",
    "AtcError": "atc_backtest.errors",
    "ConfigError": "atc_backtest.errors",
    "DataError": "atc_backtest.errors",
    "StoreError": "atc_backtest.errors",
    "UnavailableError": "atc_backtest.errors",
    "Live": "atc_backtest.live",
    "open_store": "atc_backtest.stores.opening",
}
"""Public name -> the module that holds it."""

__all__ = [
    "AtcConfig",
    "AtcError",
    "ConfigError",
    "DataError",
    "ExecutionConfig",
    "Live",
    "Run",
    "RunConfig",
    "StoreError",
    "UnavailableError",
    "__version__",
    "backtest",
    "open_run",
    "open_store",
    "settings",
    "signals",
]

if not TYPE_CHECKING:  # or a type checker would believe in every name

    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
