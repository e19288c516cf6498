"""Arrow and Feather files as a stream of columns, one record batch after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.ipc as ipc

from atc_backtest.stores.ingest.parquet_file import CELL_BYTES, decoded, to_number
from atc_backtest.stores.ingest.sources import Source, Wanted, unless_damaged

DAMAGED = (pa.ArrowException, OSError, ValueError, IndexError, MemoryError)


@dataclass(frozen=True)
class ArrowTable:
    """One Arrow IPC file (Feather is one) or stream, with its schema read."""

    source: Source
    columns: tuple[str, ...]
    said: tuple[str, ...] = ()
    lists_unused: bool = True

    def batches(self, wanted: Wanted) -> Iterator[list[pa.Array]]:
        """See `Wanted`; memory: one record batch of its columns.

        `DataError` for text that is no number, another type, or a damaged file.
        """
        places = sorted({*wanted.texts, *wanted.numbers})
        rows = max(wanted.batch_bytes // (CELL_BYTES * len(places)), 1)
        with unless_damaged(self.source, DAMAGED), _opened(self.source, places) as held:
            for batch in held:
                batch.validate(full=True)  # damaged files have offsets that point anywhere
                for start in range(0, batch.num_rows, rows):
                    part = batch.slice(start, rows)
                    arrays = {i: decoded(part.column(k)) for k, i in enumerate(places)}
                    values = [to_number(self, i, arrays[i]) for i in wanted.numbers]
                    yield [arrays[i] for i in wanted.texts] + values


def open_arrow(source: Source) -> ArrowTable:
    """Reads the schema. `DataError` for a file that is unreadable."""
    with unless_damaged(source, DAMAGED, " as Arrow or Feather"), _opened(source, None) as found:
        return ArrowTable(source, tuple(found.schema.names))


class _Held:
    """A reader of either format: iterates over record batches of the wanted columns."""

    def __init__(self, reader: ipc.RecordBatchFileReader | ipc.RecordBatchStreamReader) -> None:
        self.schema = reader.schema
        self._reader = reader

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        if isinstance(self._reader, ipc.RecordBatchFileReader):
            for i in range(self._reader.num_record_batches):
                yield self._reader.get_batch(i)
        else:
            yield from self._reader


@contextmanager
def _opened(source: Source, wanted: Sequence[int] | None) -> Iterator[_Held]:
    options = ipc.IpcReadOptions(use_threads=False, included_fields=None if wanted is None else list(wanted))
    with pa.OSFile(str(source.path), "rb") as file:
        if file.read(6) == b"ARROW1":
            file.seek(0)
            yield _Held(ipc.open_file(file, options=options))
        else:
            file.seek(0)
            yield _Held(ipc.open_stream(file, options=options))
