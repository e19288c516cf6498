"""CSV as a stream of record batches: plain, gzipped, or a member of a zip archive."""

from __future__ import annotations

import csv
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.csv as pacsv

from atc_backtest.errors import DataError
from atc_backtest.stores.ingest.sources import Source

HEAD_BYTES = 1 << 16
LEAST_BLOCK_BYTES = 1 << 10
"""Arrow needs every line to fit into one block."""

DELIMITERS = ",;\t|"

KLINES = (
    "open_time",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "close_time",
    "quote_volume",
    "count",
    "taker_buy_volume",
    "taker_buy_quote_volume",
    "ignore",
)
"""What Binance writes into kline files, the older of which have no header."""

UNREADABLE = (pa.ArrowException, OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError)
"""What reading damaged files raises; RuntimeError: a zip member that needs a password."""


@dataclass(frozen=True)
class CsvTable:
    """One CSV file with its first line read. Columns are told apart by position: names may repeat."""

    source: Source
    columns: tuple[str, ...]
    delimiter: str
    skip_lines: int
    is_kline: bool

    def batches(self, texts: Sequence[int], numbers: Sequence[int], batch_bytes: int) -> Iterator[list[pa.Array]]:
        """Columns `texts` as strings, then `numbers` as float64 (empty = null), about `batch_bytes` at a time.

        Raises `DataError` for what is no number, a line of another length, or a damaged file.
        """
        types = {str(i): pa.string() for i in texts} | {str(i): pa.float64() for i in numbers}
        wanted = [str(i) for i in (*texts, *numbers)]
        try:
            with _opened(self.source) as stream:
                reader = pacsv.open_csv(
                    stream,
                    read_options=pacsv.ReadOptions(
                        use_threads=False,  # with threads, errors would not say the row
                        block_size=max(batch_bytes, LEAST_BLOCK_BYTES),
                        skip_rows=self.skip_lines,
                        column_names=[str(i) for i in range(len(self.columns))],
                    ),
                    parse_options=pacsv.ParseOptions(delimiter=self.delimiter),
                    convert_options=pacsv.ConvertOptions(column_types=types, include_columns=wanted),
                )
                for batch in reader:
                    yield [batch.column(name) for name in wanted]
        except UNREADABLE as error:
            raise DataError(self._told(str(error))) from error

    def _told(self, said: str) -> str:
        """Arrow's sentence with the column's name, its row as the line of the file, and the remedy."""
        label = self.source.label
        if "Empty CSV" in said:
            return _empty(label)
        found = re.search(r"column #(\d+): (?:Row #(\d+): )?.*invalid (?:value )?(.*)", said)
        if found:
            row = f", line {found[2]}" if found[2] else ""
            return (
                f"{label}: column {self.columns[int(found[1])]!r}{row} holds {found[3]}, not a number: "
                "mend the file, or choose another column with --column."
            )
        said = said.removeprefix("CSV parse error: ").replace("Row #", "line ")
        return f"{label} cannot be read as CSV ({said}): mend the file, or leave it out."


def open_csv(source: Source) -> CsvTable:
    """Reads the first line. `DataError` for a file that is empty, unreadable, no text, or lacks a header."""
    try:
        with _opened(source) as stream:
            head = stream.read(HEAD_BYTES)
    except UNREADABLE as error:
        raise DataError(f"{source.label} cannot be read ({error}): fetch or make it again, or leave it out.") from error
    lines = head.splitlines()
    skip = next((i for i, line in enumerate(lines) if line.strip()), None)
    if skip is None:
        raise DataError(_empty(source.label))
    try:
        line = lines[skip].decode("utf-8-sig")
        if "\0" in line:
            raise ValueError("it has NUL bytes")
    except ValueError as error:
        raise DataError(f"{source.label} is no CSV text in UTF-8 ({error}): convert it, or leave it out.") from error
    delimiter = max(DELIMITERS, key=line.count)
    cells = tuple(cell.strip() for cell in next(csv.reader([line], delimiter=delimiter)))
    if not all(_is_number(cell) for cell in cells):
        return CsvTable(source, cells, delimiter, skip + 1, False)
    if len(cells) != len(KLINES):
        raise DataError(
            f"{source.label} has no header: its first line is {line[:120]!r}. Without one only Binance klines are "
            f"read, {len(KLINES)} columns from open time to ignore; add a line of column names."
        )
    return CsvTable(source, KLINES, delimiter, skip, True)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _empty(label: str) -> str:
    return f"{label} is empty: fetch or make it again, or leave it out."


@contextmanager
def _opened(source: Source) -> Iterator[IO[bytes] | Any]:
    with ExitStack() as stack:
        if source.member is not None:
            archive = stack.enter_context(zipfile.ZipFile(source.path))
            yield stack.enter_context(archive.open(source.member))
        else:
            compression = "gzip" if source.path.name.lower().endswith(".gz") else None
            yield stack.enter_context(pa.input_stream(str(source.path), compression=compression))
