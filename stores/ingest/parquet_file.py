"""Parquet as a stream of columns, a few rows at a time whatever the size of its row groups."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from atc_backtest.errors import DataError
from atc_backtest.stores.ingest.sources import Source, Wanted, unless_damaged

if TYPE_CHECKING:
    from atc_backtest.stores.ingest.arrow_file import ArrowTable

READ_BUFFER_BYTES = 1 << 20
CELL_BYTES = 8
DAMAGED = (pa.ArrowException, OSError, ValueError, MemoryError)


@dataclass(frozen=True)
class ParquetTable:
    """One Parquet file with its schema read."""

    source: Source
    columns: tuple[str, ...]
    said: tuple[str, ...] = ()
    lists_unused: bool = True

    def batches(self, wanted: Wanted) -> Iterator[list[pa.Array]]:
        """See `Wanted`.

        Decimals and numbers written as text become the nearest float64. `DataError` for text that is no
        number, another type, or a damaged file.
        """
        texts, numbers = wanted.texts, wanted.numbers
        names = [self.columns[i] for i in (*texts, *numbers)]
        rows = max(wanted.batch_bytes // (CELL_BYTES * len(names)), 1)
        options = {"buffer_size": READ_BUFFER_BYTES, "pre_buffer": False}
        with unless_damaged(self.source, DAMAGED), pq.ParquetFile(self.source.path, **options) as file:
            for batch in file.iter_batches(rows, columns=list(dict.fromkeys(names)), use_threads=wanted.ahead > 1):
                arrays = [decoded(batch.column(name)) for name in names]
                values = [to_number(self, i, arrays[len(texts) + j]) for j, i in enumerate(numbers)]
                yield arrays[: len(texts)] + values


def open_parquet(source: Source) -> ParquetTable:
    """Reads the schema. `DataError` for a file that is unreadable."""
    with unless_damaged(source, DAMAGED, " as Parquet"), pq.ParquetFile(source.path) as file:
        return ParquetTable(source, tuple(file.schema_arrow.names))


def to_number(table: ParquetTable | ArrowTable, index: int, array: pa.Array) -> pa.Array:
    """A column as float64; `DataError` for what is no number."""
    try:
        if pa.types.is_boolean(array.type) or pa.types.is_temporal(array.type):
            raise pa.ArrowInvalid(f"type {array.type}")
        if pa.types.is_integer(array.type):  # volumes beyond 2**53 are rounded, as they would be from text
            return array.cast(pa.float64(), safe=False)
        if pa.types.is_decimal(array.type):  # text is rounded to the nearest, a decimal's own cast need not be
            array = array.cast(pa.string())
        return array.cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"{table.source.label}: column {table.columns[index]!r} does not hold numbers "
            f"({str(error)[:300]}): mend the file, or choose another column with --column."
        ) from error


def decoded(array: pa.Array) -> pa.Array:
    """A dictionary's values in its place."""
    return pc.cast(array, array.type.value_type) if pa.types.is_dictionary(array.type) else array
