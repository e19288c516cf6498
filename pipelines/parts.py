"""Parquet parts: schemas of the run's datasets, and writers whose parts are committed all at once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from atc_backtest.accounts import OPEN, REASONS
from atc_backtest.errors import StoreError
from atc_backtest.metrics import METRIC_COLUMNS, TIMESTAMP, TRADE_COLUMNS
from atc_backtest.periods import PERIOD_COLUMNS
from atc_backtest.pipelines.commits import PartRecord, file_digest, is_committed, turn_path, write_record
from atc_backtest.pipelines.hashing import Hasher
from atc_backtest.pipelines.job import METRICS, PERIODS, Job
from atc_backtest.pipelines.plan import ROW_GROUP
from atc_backtest.stores.lock import in_turn

TS = pa.timestamp("ns", tz="UTC")
_TYPES = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    TIMESTAMP: TS,
}
KEYS = [("symbol", pa.string()), ("param_id", pa.int64())]
SIGNALS_SCHEMA = pa.schema([*KEYS, ("ts", TS), ("signal", pa.float64()), ("position", pa.int8())])
EQUITY_SCHEMA = pa.schema([*KEYS, ("ts", TS), ("equity", pa.float64())])
TRADES_SCHEMA = pa.schema([(name, _TYPES[kind]) for name, kind in TRADE_COLUMNS.items()])
PERIODS_SCHEMA = pa.schema([(name, _TYPES[kind]) for name, kind in PERIOD_COLUMNS.items()])
_SCHEMAS = {"signals": SIGNALS_SCHEMA, "equity": EQUITY_SCHEMA, "trades": TRADES_SCHEMA, PERIODS: PERIODS_SCHEMA}

_SIDES, _STATUSES = ("short", "long"), ("closed", "open")
_REASONS = tuple(None if code == OPEN else name for code, name in enumerate(REASONS))


def metrics_schema(varying: Mapping[str, Sequence[Any]]) -> pa.Schema:
    """The figures' columns, then one per setting that varies, of the type of its values."""
    columns = [(name, _TYPES[kind]) for name, kind in METRIC_COLUMNS.items()]
    return pa.schema([*columns, *((name, pa.array(values).type) for name, values in varying.items())])


def schema_of(job: Job, dataset: str) -> pa.Schema:
    """The schema of one of the run's datasets."""
    if dataset == METRICS:
        return metrics_schema(job.varying_values)
    return _SCHEMAS[dataset]


def series_table(schema: pa.Schema, symbol: str, param_id: int, columns: dict[str, NDArray[Any]]) -> pa.Table:
    """Rows of one symbol and set, one per value of the columns given, copied; NaN becomes null.

    Arrow would share the memory of an array without NaN, which the caller fills again before the rows are written.
    """
    n = columns["ts"].size
    arrays = [pa.repeat(symbol, n), pa.array(np.full(n, param_id, np.int64))]
    for name in schema.names[2:]:
        values = columns[name].copy()
        arrays.append(pa.array(values, from_pandas=True).cast(schema.field(name).type))
    return pa.table(arrays, schema=schema)


def trades_table(symbol: str, param_id: int | NDArray[np.int64], trades: NDArray[np.void]) -> pa.Table:
    """The trade log of `TRADE` records, copied, of one set or one for each; an open trade has null exits."""
    is_open = trades["reason"] == OPEN
    columns = {
        "symbol": pa.repeat(symbol, len(trades)),
        "param_id": np.full(len(trades), param_id, np.int64),
        "side": pa.array(_SIDES).take(pa.array(trades["side"] > 0).cast(pa.int8())),
        "exit_reason": pa.array(_REASONS).take(pa.array(trades["reason"])),
        "status": pa.array(_STATUSES).take(pa.array(is_open).cast(pa.int8())),
    }
    for name in (name for name in TRADES_SCHEMA.names if name not in columns):
        found = pa.array(trades[name].copy(), mask=is_open if name.startswith("exit_") else None)
        columns[name] = found.cast(TRADES_SCHEMA.field(name).type)
    return pa.table([columns[name] for name in TRADES_SCHEMA.names], schema=TRADES_SCHEMA)


def periods_table(names: Sequence[str], param_id: int, periods: NDArray[np.void]) -> pa.Table:
    """Rows of `PERIOD` records, copied; `names`: symbol of each `row`."""
    which = pa.DictionaryArray.from_arrays(pa.array(periods["row"].copy()), pa.array(names, pa.string()))
    arrays = [which.cast(pa.string()), pa.array(np.full(periods.size, param_id, np.int64))]
    for name in PERIODS_SCHEMA.names[2:]:
        arrays.append(pa.array(periods[name].copy()).cast(PERIODS_SCHEMA.field(name).type))
    return pa.table(arrays, schema=PERIODS_SCHEMA)


class PartWriter:
    """One part of one dataset, at <run>/<dataset>/<part>: rows stream into a hidden file, hashed as they go.

    `commit_parts` gives it its name; leaving the `with` block without that removes the file.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self._hidden = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(6).hex()}.tmp")
        self._hasher = Hasher(path.parent.name, schema)
        self._waiting: list[pa.Table] = []
        self._n_waiting = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = pq.ParquetWriter(self._hidden, schema, compression="zstd")
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error}. Check the folder and the free space.") from error

    def __enter__(self) -> PartWriter:
        return self

    def write(self, table: pa.Table) -> None:
        """Rows to add, each symbol's and set's in order; kept until a row group is full."""
        if table.num_rows:
            self._waiting.append(table)
            self._n_waiting += table.num_rows
        if self._n_waiting >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            rows = pa.concat_tables(self._waiting)
            self._hasher.update(rows)
            self._file.write_table(rows, row_group_size=rows.num_rows)
        self._waiting, self._n_waiting = [], 0

    def finish(self) -> PartRecord:
        """Finish the file and bring it to disk, still hidden; what it holds."""
        self._flush()
        self._file.close()
        with self._hidden.open("rb") as written:
            os.fsync(written.fileno())
        content = self._hasher.content()
        size, digest = self._hidden.stat().st_size, file_digest(self._hidden)
        file = self.path.relative_to(self.path.parent.parent).as_posix()
        return PartRecord(file, content.rows, content.hex, size, digest)

    def publish(self) -> None:
        """Give the finished file its name."""
        self._hidden.replace(self.path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._hidden.exists():
            with contextlib.suppress(OSError):
                self._file.close()
            self._hidden.unlink(missing_ok=True)


def commit_parts(job: Job, index: int, writers: Mapping[str, PartWriter]) -> None:
    """Commit partition `index`: its parts get their names, then its record is written; from here on it counts.

    Nothing committed is replaced: where another attempt was faster, this one's files are dropped. Two that come at
    once take turns, so that a record and the parts that it names are of one attempt.
    """
    parts = {name: replace(writer.finish(), kernel=job.kernel) for name, writer in writers.items()}
    with in_turn(turn_path(job.run, index)):
        if is_committed(job.run, index):
            return
        for writer in writers.values():
            writer.publish()
        write_record(job.run, index, parts)
