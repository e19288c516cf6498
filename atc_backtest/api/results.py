"""A run as Python users hold it: figures, trades and series as pandas or Arrow, pictures."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds

from atc_backtest.config import RunConfig
from atc_backtest.errors import ConfigError, UnavailableError
from atc_backtest.pipelines import report
from atc_backtest.pipelines.job import METRICS
from atc_backtest.pipelines.recomputing import recomputed
from atc_backtest.pipelines.runs import Run as RunFolder
from atc_backtest.stores.ingest.columns import listed
from atc_backtest.stores.zarr_store import ZarrStore

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class Run:
    """A backtest that was run.

    `metrics`, `trades`, `equity`, `signals` are pandas objects and need pandas; `table`, `dataset` and `files` are
    Arrow and files, and need nothing. Times are UTC. A series that the run did not save is computed again when it is
    asked for, from the version of the prices that the run began with, to the same bits. Where `symbol` or `param_id`
    may be left out, the run has one of them.

    >>> import numpy as np
    >>> import atc_backtest as atc
    >>> closes = {"AAA": 100 + np.sin(np.arange(300) / 9).round(2)}
    >>> run = atc.backtest(closes, {"fee_bps": 2}, bar="1d")
    >>> run.metrics[["symbol", "n_bars", "trades"]]
      symbol  n_bars  trades
    0    AAA     263       4
    >>> equity = run.equity("AAA")
    >>> len(equity), str(equity.index[0])
    (263, '2000-02-07 00:00:00+00:00')
    """

    def __init__(self, run: RunFolder, temporary: Path | None = None) -> None:
        """`temporary`: a folder that is removed with this object."""
        self._run = run
        self._is_temporary = temporary is not None and run.path.is_relative_to(temporary.resolve())
        if temporary is not None:
            weakref.finalize(self, shutil.rmtree, temporary, ignore_errors=True)

    def __repr__(self) -> str:
        symbols, sets = (f"{n} {what}{'' if n == 1 else 's'}" for n, what in self._sizes())
        return f"Run({symbols}, {sets}, {self.state}, {'temporary' if self._is_temporary else self.path})"

    def _sizes(self) -> tuple[tuple[int, str], tuple[int, str]]:
        return (len(self.symbols), "symbol"), (len(self.sets), "set")

    # What it is

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self._run.path

    @property
    def state(self) -> str:
        """complete, partial (some partitions failed) or unfinished."""
        return self._run.state

    @property
    def hash(self) -> str:
        """The content hash of all committed rows: equal for equal rows, however they came about."""
        return self._run.content_hash()

    @property
    def symbols(self) -> tuple[str, ...]:
        return self._run.symbols

    @property
    def sets(self) -> tuple[RunConfig, ...]:
        """The parameter sets; the place of one is its `param_id`."""
        return self._run.sets

    @property
    def store(self) -> ZarrStore:
        """The version of the prices that the run began with. `StoreError` where it is no longer there."""
        return self._run.prices()

    @property
    def warnings(self) -> list[str]:
        """What must be known before these figures are believed, a sentence each."""
        return report.warnings(self._run, self._run.table(METRICS))

    # Figures and series, in pandas

    @property
    def metrics(self) -> pd.DataFrame:
        """The figures, a row per symbol and parameter set; undefined ones are NaN."""
        return _pandas(self.table(METRICS), "metrics", 'table("metrics")')

    @property
    def trades(self) -> pd.DataFrame:
        """Every trade of every symbol and set."""
        return _pandas(self.table("trades"), "trades", 'table("trades")')

    def equity(self, symbol: str | None = None, param_id: int | None = None) -> pd.Series:
        """Money at the close of every evaluated bar."""
        return self._series("equity", symbol, param_id)["equity"].rename(self._symbol(symbol))

    def signals(self, symbol: str | None = None, param_id: int | None = None) -> pd.DataFrame:
        """`signal`, -1 to 1 (NaN in the warm-up), and `position`, the target known at that close: 1, 0, -1."""
        return self._series("signals", symbol, param_id)[["signal", "position"]]

    def plot(self, symbol: str | None = None, param_id: int | None = None) -> Figure:
        """Price with the positions shaded, equity and drawdown. Needs matplotlib.

        A notebook shows the figure; `.savefig("run.png")` writes it.
        """
        from atc_backtest.api.plotting import figure_of

        name, number = self._symbol(symbol), self._param_id(param_id)
        return figure_of(self, name, number)

    # Arrow and files

    def table(
        self, dataset: str = METRICS, *, symbols: str | Sequence[str] | None = None, param_id: int | None = None
    ) -> pa.Table:
        """Rows of "metrics", "signals", "equity" or "trades" in memory, by symbol, set, then time."""
        names = [symbols] if isinstance(symbols, str) else symbols
        for name in names or ():
            self._symbol(name)
        wanted = list(self.symbols if names is None else names)
        first, last = (0, len(self.sets) - 1) if param_id is None else (self._param_id(param_id),) * 2
        if dataset in self._run.datasets:
            number = ds.field("param_id")
            return self._run.table(dataset, ds.field("symbol").isin(wanted) & (number >= first) & (number <= last))
        return recomputed(self._run, dataset, wanted, (first, last + 1))

    def dataset(self, dataset: str = METRICS) -> ds.Dataset:
        """A saved dataset as a lazy pyarrow one; `StoreError` where the run did not save it.

        Its files, and those of `files`, stay as long as this object where the run is temporary.
        """
        return self._run.dataset(dataset)

    def files(self, dataset: str = METRICS) -> list[Path]:
        """The Parquet files of a saved dataset, for any reader: polars, DuckDB, Dask."""
        return self._run.files(dataset)

    def _series(self, dataset: str, symbol: str | None, param_id: int | None) -> pd.DataFrame:
        name, number = self._symbol(symbol), self._param_id(param_id)
        table = self.table(dataset, symbols=name, param_id=number)
        instead = f'table("{dataset}", symbols="{name}")'
        return _pandas(table.drop_columns(["symbol", "param_id"]), dataset, instead).set_index("ts")

    def _symbol(self, name: str | None) -> str:
        if name is None:
            if len(self.symbols) != 1:
                raise ConfigError(f"the run has {len(self.symbols)} symbols: name one of {listed(self.symbols)}.")
            return self.symbols[0]
        if name not in self.symbols:
            raise ConfigError(f"the run has no symbol {name!r}: it has {listed(self.symbols)}.")
        return name

    def _param_id(self, number: int | None) -> int:
        n_sets = len(self.sets)
        if number is None:
            if n_sets != 1:
                raise ConfigError(f"the run has {n_sets} parameter sets: give param_id=, 0 to {n_sets - 1}.")
            return 0
        if not 0 <= number < n_sets:
            raise ConfigError(f"the run has no param_id {number!r}: it has 0 to {n_sets - 1}.")
        return number


def _pandas(table: pa.Table, what: str, instead: str) -> Any:
    try:
        import pandas  # noqa: F401
    except ImportError as error:
        raise UnavailableError(
            f"run.{what} is a pandas object, and pandas is not installed: pip install 'atc-backtest[pandas]', "
            f"or take run.{instead}, which is Arrow."
        ) from error
    return table.to_pandas()
