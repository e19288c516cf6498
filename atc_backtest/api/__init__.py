"""What Python users call: `backtest`, `signals`, `settings`, `open_run`, under these names in `atc_backtest` itself.

Everything is done by the pipeline behind the commands, so that a run from here and one from the command line, over the
same prices and settings, have the same content hash.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from atc_backtest.api.frames import bar_ns_of, panel_of, write_store
from atc_backtest.api.parameters import Setting, config_of, settings
from atc_backtest.api.results import Run
from atc_backtest.api.series import signals
from atc_backtest.api.times import Times
from atc_backtest.config import RunConfig
from atc_backtest.display.terminal import run_progress
from atc_backtest.errors import ConfigError
from atc_backtest.pipelines import runs
from atc_backtest.pipelines.backtest import Options
from atc_backtest.pipelines.backtest import backtest as run_over
from atc_backtest.pipelines.choosing import kernel_of
from atc_backtest.pipelines.plan import parse_bytes
from atc_backtest.stores.zarr_store import ZarrStore
from atc_backtest.symbol_costs import read_costs

__all__ = ["Run", "backtest", "open_run", "settings", "signals"]


def backtest(
    prices: Any,
    config: Setting | Sequence[Setting] | None = None,
    *,
    symbols: Sequence[str] | None = None,
    save: Sequence[str] = (),
    out: str | Path | None = None,
    calendar: str | None = None,
    tz: str | None = None,
    bar: str | None = None,
    timestamps: Any = None,
    costs: str | Path | None = None,
    period: str = "month",
    kernel: str = "auto",
    threads: int | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    memory_limit: int | str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = False,
) -> Run:
    """Backtest one or many parameter sets over prices.

    prices        the path or URL of a store, or a store; pandas: closes (index of times, a column a symbol), open to
                  volume of one symbol, or of several with columns (symbol, field) or (field, symbol); polars or Arrow:
                  the same with a column of times, or long with a column `symbol`; NumPy closes [bars] or
                  [symbols, bars]; or a mapping of symbol to any of these. NaN is a bar that is missing.
    config        settings (see `settings`), a `RunConfig` or `AtcConfig`, the path of a TOML file, or a list of such:
                  the place in it is a set's `param_id`. The environment's ATC_* do not count here.
    symbols       only these
    save          series to keep in the run: "signals", "equity", "trades", "periods". The rest is computed again
                  when it is asked for.
    out           the run's folder; prices from memory are kept beside it as `<out>.zarr`. None: a temporary one, which
                  is gone when the `Run` is.
    calendar      of prices from memory: "24/7" unless given; says how many bars a year has
    tz            the clock of times that have no zone; such are refused without it
    bar           size of a bar, as "1h"; unless given, the commonest step between the bars
    timestamps    of arrays: a DatetimeIndex, datetime64, or int64 ns UTC
    costs         path of a CSV of single symbols' costs: symbol,fee_bps,slippage_bps,funding_bps
    period        what the rows of "periods" are of, where they are asked for: day, week, month, quarter or year
    kernel, threads, workers, scheduler, memory_limit, overwrite, resume
                  as of the command `atc-backtest backtest`; they do not change the result. kernel "auto" stays on the
                  CPU of this machine, with a scheduler it is the best of each worker: name "cuda" for the GPU
    progress      show a bar on stderr while the run goes on

    A run of which partitions failed comes back with `state` "partial". Raises `ConfigError`, `DataError`, `StoreError`,
    all of them `AtcError`.

    >>> import numpy as np
    >>> import atc_backtest as atc
    >>> steps = np.random.default_rng(1).normal(0, 0.01, (2, 500))
    >>> closes = dict(zip(["AAA", "BBB"], 100 * np.exp(steps.cumsum(axis=1)).round(2), strict=True))
    >>> run = atc.backtest(closes, [{"fee_bps": 2}, {"fee_bps": 2, "lengths.ema": 40}], bar="1d")
    >>> run
    Run(2 symbols, 2 sets, complete, temporary)
    >>> run.table("metrics").column_names[-1]
    'lengths.ema'
    """
    options = Options(
        kernel=kernel_of(kernel, scheduler is not None),
        symbols=None if symbols is None else tuple([symbols] if isinstance(symbols, str) else symbols),
        save=tuple([save] if isinstance(save, str) else save),
        period=period,
        costs=() if costs is None else read_costs(Path(costs)),
        workers=workers,
        scheduler=scheduler,
        threads=threads,
        memory_limit=parse_bytes(memory_limit) if isinstance(memory_limit, str) else memory_limit,
        overwrite=overwrite,
        resume=resume,
    )
    sets = _sets_of(config)
    store = _store_of(prices)
    if store is not None:
        _check_store_alone(calendar=calendar, tz=tz, bar=bar, timestamps=timestamps)
    elif resume:
        raise ConfigError("resume = True is not allowed with prices from memory: give the store <out>.zarr instead.")
    temporary = Path(tempfile.mkdtemp(prefix="atc-backtest-")) if out is None else None
    folder = Path(out) if out is not None else Path(temporary or "", "run")
    try:
        if store is None:
            store = folder.with_name(f"{folder.name}.zarr")
            panel = panel_of(prices, Times(tz, timestamps, bar))
            write_store(panel, store, bar_ns_of(panel, bar), calendar or "24/7", overwrite)
        with run_progress() if progress else nullcontext() as shown:
            run = run_over(store, folder, sets, options, shown.progress if shown else None)
        return Run(run, temporary)
    except BaseException:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        raise


def open_run(path: str | Path) -> Run:
    """The run in a folder, as `backtest` or the command wrote it, finished or not.

    `StoreError` when there is none.
    """
    return Run(runs.open_run(Path(path)))


def _sets_of(config: Setting | Sequence[Setting] | None) -> list[RunConfig]:
    if isinstance(config, Sequence) and not isinstance(config, str):
        return [config_of(one) for one in config]
    return [config_of(config)]


def _store_of(prices: Any) -> str | Path | None:
    """The place of a store, or None for prices in memory."""
    if isinstance(prices, str | Path):
        return prices
    return prices.info.path if isinstance(prices, ZarrStore) else None


def _check_store_alone(**given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise ConfigError(
                f"{name} = {value!r} is not allowed with a store, which has its own: leave it out "
                "(the calendar of a run is the setting `calendar`)."
            )
