"""CSV as a stream of record batches: plain, gzipped, or a member of a zip archive."""

from __future__ import annotations

import csv
import re
import struct
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Any, TypeVar

import pyarrow as pa
import pyarrow.csv as pacsv

from atc_backtest.errors import DataError
from atc_backtest.stores.ingest.sources import Source, Wanted, unless_damaged

A = TypeVar("A")
B = TypeVar("B")

HEAD_BYTES = 1 << 16
LEAST_BLOCK_BYTES = 1 << 10
LONGEST_LINE_BYTES = 1 << 24

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

UNREADABLE = (
    *(pa.ArrowException, OSError, EOFError, zlib.error, zipfile.BadZipFile),
    *(RuntimeError, struct.error, ValueError, OverflowError),
)
"""What reading damaged files raises; RuntimeError: a zip member with a password or a method that is not known."""

COMMENT = re.compile(r'"?\s*(#|https?://\S+"?[,;]*$)')
"""A first line that is none of the table: CryptoDataDownload writes its address there."""


@dataclass(frozen=True)
class CsvTable:
    """Text with its first lines read. Columns are told apart by position: names may repeat.

    head_bytes  what comes before the first row
    said        what was recognised, for the report
    """

    source: Source
    columns: tuple[str, ...]
    delimiter: str
    head_bytes: int
    said: tuple[str, ...] = ()
    decimal: str = "."
    lists_unused: bool = True

    def batches(self, wanted: Wanted) -> Iterator[list[pa.Array]]:
        """See `Wanted`; an empty number is null.

        Raises `DataError` for what is no number, a line of another length, or a damaged file.
        """
        coded = {i: of for i, of in wanted.typed.items() if pa.types.is_dictionary(of)}
        trying = [dict(wanted.typed)]

        def parsed(block: tuple[int, bytes]) -> list[pa.Array]:
            self._check_quotes(*block)
            if trying[0] != coded:
                try:
                    return self._parse(block[1], wanted, trying[0])
                except pa.ArrowException:
                    trying[0] = coded  # one block decides for the rest: trying costs as much as parsing
            try:
                return self._parse(block[1], wanted, coded)
            except pa.ArrowException as error:
                raise DataError(self._told(str(error), *block)) from error

        blocks = self._guarded(max(wanted.batch_bytes, LEAST_BLOCK_BYTES))
        yield from in_order(parsed, blocks, wanted.ahead)

    def _guarded(self, block_bytes: int) -> Iterator[tuple[int, bytes]]:
        with unless_damaged(self.source, UNREADABLE):
            yield from self.blocks(block_bytes)

    def blocks(self, block_bytes: int) -> Iterator[tuple[int, bytes]]:
        """Whole lines, each block with its place in bytes."""
        with opened(self.source) as stream:
            place, rest = len(read_exactly(stream, self.head_bytes)), b""
            while data := stream.read(block_bytes):
                data = rest + data
                cut = (data.rfind(b"\n") if b"\n" in data else data.rfind(b"\r", 0, -1)) + 1
                rest = data[cut:]
                if len(rest) > LONGEST_LINE_BYTES:
                    raise DataError(f"{self.source.label}: a line does not end: this is no table of prices.")
                block = data[:cut]
                if block and not block.isspace():
                    yield place, block
                place += cut
            if rest and not rest.isspace():
                yield place, rest

    def line_at(self, place: int) -> int:
        """The number of the line that begins at a place `blocks` told: looked up when an error needs it."""
        with opened(self.source) as stream:
            line = 1
            while place > 0 and (data := stream.read(min(place, HEAD_BYTES))):
                place -= len(data)
                line += n_lines(data)
        return line

    def _check_quotes(self, place: int, block: bytes) -> None:
        """A quote that runs over the end of its line would swallow the rows up to the next one."""
        if b'"' in block:
            odd = next((i for i, line in enumerate(block.splitlines()) if line.count(b'"') % 2), None)
            if odd is not None:
                line = self.line_at(place) + odd
                raise DataError(f"{self.source.label}: line {line} has a quote that does not end: mend the file.")

    def _parse(self, block: bytes, wanted: Wanted, typed: Mapping[int, pa.DataType]) -> list[pa.Array]:
        texts, numbers = wanted.texts, wanted.numbers
        types = {str(i): typed.get(i, pa.string()) for i in texts} | {str(i): pa.float64() for i in numbers}
        names = [str(i) for i in (*texts, *numbers)]
        table = pacsv.read_csv(
            pa.BufferReader(block),
            read_options=pacsv.ReadOptions(
                use_threads=False,  # with threads, errors would not say the row
                block_size=len(block) + 1,
                column_names=[str(i) for i in range(len(self.columns))],
            ),
            parse_options=pacsv.ParseOptions(delimiter=self.delimiter),
            convert_options=pacsv.ConvertOptions(
                column_types=types, include_columns=list(dict.fromkeys(names)), decimal_point=self.decimal
            ),
        )
        arrays = [table.column(name).combine_chunks() for name in names]
        if any(arrays[texts.index(i)].null_count for i in typed if i in texts):
            raise pa.ArrowInvalid("a gap, which the text tells better")
        return arrays

    def _told(self, said: str, place: int, block: bytes) -> str:
        """Arrow's sentence with the column's name, its row as the line of the file, and the remedy."""
        label = self.source.label
        row = re.search(r"Row #(\d+)", said)
        at = "" if row is None else f"line {self.line_at(place) + _lines_before(block, int(row[1]))}"
        found = re.search(r"column #(\d+): .*invalid (?:value )?(.*)", said, re.DOTALL)
        if found:
            return (
                f"{label}: column {self.columns[int(found[1])]!r}{at and ', '}{at} holds {found[2]}, not a number: "
                "mend the file, or choose another column with --column."
            )
        said = re.sub(r"Row #\d+", at, said.removeprefix("CSV parse error: "))
        return f"{label} cannot be read as CSV ({said[:300]}): mend the file, or leave it out."


def open_csv(source: Source, decimal_comma: bool = False) -> CsvTable:
    """Reads the first lines. `DataError` for a file that is empty, unreadable, no text, or lacks a header."""
    head = head_of(source)
    lines = head.splitlines(keepends=True)
    at = next((i for i, line in enumerate(lines) if line.strip()), None)
    if at is None:
        raise DataError(empty(source))
    line = _text(source, lines[at])
    said: tuple[str, ...] = ()
    if COMMENT.match(line) and any(other.strip() for other in lines[at + 1 :]):
        said = (f"its first line is no part of the table and was skipped: {line.strip()[:80]!r}",)
        at = next(i for i in range(at + 1, len(lines)) if lines[i].strip())
        line = _text(source, lines[at])
    if len(head) == HEAD_BYTES and at == len(lines) - 1:
        raise DataError(f"{source.label}: its first line does not end within {HEAD_BYTES} bytes: this is no table.")
    delimiter = max(DELIMITERS, key=line.count)
    cells = split(line, delimiter)
    if not all(is_number(cell) for cell in (cells[1:] or cells)):
        after = sum(map(len, lines[: at + 1]))
        row = next((_text(source, line) for line in lines[at + 1 :] if line.strip()), "")
        decimal = _decimal(source, cells, split(row, delimiter), delimiter, decimal_comma)
        said += (f"numbers with a decimal comma, delimited by {delimiter!r}",) if decimal == "," else ()
        return CsvTable(source, cells, delimiter, after, said, decimal)
    if len(cells) != len(KLINES) or not is_number(cells[0]):
        raise DataError(
            f"{source.label} has no header: its first line is {line.strip()[:120]!r}. Without one only Binance klines "
            f"are read, {len(KLINES)} columns from open time to ignore; add a line of column names.{_lean_hint(line)}"
        )
    before = sum(map(len, lines[:at]))
    return CsvTable(source, KLINES, delimiter, before, (*said, "no header: read as Binance klines"), lists_unused=False)


def _lean_hint(line: str) -> str:
    if not re.match(r"\d{8} \d\d:\d\d,", line):
        return ""
    return " It looks like Lean's data: those are read from zips in Lean's folders, e.g. equity/usa/hour/aapl.zip."


def _decimal(source: Source, header: Sequence[str], row: Sequence[str], delimiter: str, told: bool) -> str:
    """The sign between whole and fraction, by the first row. A comma before three digits may also part thousands."""
    if delimiter == ",":
        if told:
            raise DataError(f"{source.label} is delimited by commas, which cannot be decimal ones too: mend the file.")
        return "."
    commas = [cell for cell in row if re.fullmatch(r"[+-]?\d+,\d+", cell)]
    if told or any(re.fullmatch(r"[+-]?(\d{4,}|0\d*),\d+|[+-]?\d+,(\d{1,2}|\d{4,})", cell) for cell in commas):
        return ","
    if commas:
        name = header[list(row).index(commas[0])] if len(header) == len(row) else "?"
        raise DataError(
            f"{source.label}: column {name!r} begins with {commas[0]}, which may be a decimal comma or "
            "one of thousands: say --decimal-comma if it is the former, else write the numbers without commas."
        )
    return "."


def split(line: str, delimiter: str) -> tuple[str, ...]:
    """The cells of one line, trimmed."""
    return tuple(cell.strip() for cell in next(csv.reader([line.rstrip("\r\n")], delimiter=delimiter), []))


def head_of(source: Source) -> bytes:
    """The first bytes, decompressed; `DataError` where they cannot be had."""
    with unless_damaged(source, UNREADABLE), opened(source) as stream:
        return read_exactly(stream, HEAD_BYTES)


def _text(source: Source, line: bytes) -> str:
    try:
        text = line.decode("utf-8-sig")
        if "\0" in text:
            raise ValueError("it has NUL bytes")
    except ValueError as error:
        raise DataError(f"{source.label} is no CSV text in UTF-8 ({error}): convert it, or leave it out.") from error
    return text


def _lines_before(block: bytes, row: int) -> int:
    """Lines of a block before its row-th that is not blank; Arrow counts only these."""
    at = -1
    for i, line in enumerate(block.splitlines()):
        row -= bool(line)
        at = i
        if row == 0:
            break
    return at


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def n_lines(text: bytes) -> int:
    return text.count(b"\n") or text.count(b"\r")


def empty(source: Source) -> str:
    return f"{source.label} is empty: fetch or make it again, or leave it out."


def read_exactly(stream: Any, n: int) -> bytes:
    """n bytes, fewer only at the end: compressed streams give what they have."""
    parts = []
    while n > 0 and (part := stream.read(n)):
        parts.append(part)
        n -= len(part)
    return b"".join(parts)


def in_order(work: Callable[[A], B], items: Iterator[A], ahead: int) -> Iterator[B]:
    """`work` of every item in their order, done by `ahead` threads, each with one item waiting."""
    if ahead < 2:
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(ahead)
    waiting: deque[Any] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def opened(source: Source) -> Iterator[IO[bytes] | Any]:
    """The bytes of a source, decompressed."""
    with ExitStack() as stack:
        if source.member is not None:
            archive = stack.enter_context(zipfile.ZipFile(source.path))
            yield stack.enter_context(archive.open(source.member))
        elif source.path.name.lower().endswith(".gz"):
            yield stack.enter_context(pa.input_stream(str(source.path), compression="gzip"))
        else:
            yield stack.enter_context(source.path.open("rb", buffering=0))
