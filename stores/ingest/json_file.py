"""JSON as freqtrade and exchanges' interfaces write bars: one array of arrays of numbers, streamed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from atc_backtest.errors import DataError
from atc_backtest.stores.ingest.csv_file import KLINES, CsvTable, empty, head_of, opened
from atc_backtest.stores.ingest.sources import Source

BARS = ("date", "open", "high", "low", "close", "volume")
ROW = re.compile(rb"[^\[\]{}]*")
EMPTY_LINE = re.compile(rb"(^|\n) *(\n|$)")
BETWEEN = re.compile(rb"\]\s*,\s*\[")


@dataclass(frozen=True)
class JsonTable(CsvTable):
    """`[[ms, open, high, low, close, volume], ...]`: every inner array is a line."""

    def blocks(self, block_bytes: int) -> Iterator[tuple[int, bytes]]:
        """Whole rows as lines, each block with the number of its first row."""
        row, rest, begun, ended = 1, b"", False, False
        with opened(self.source) as stream:
            while data := stream.read(block_bytes):
                data = rest + data.translate(_SPACES)
                if ended and data.strip():
                    raise self._broken("there is more after its end")
                if not begun:
                    data = data.lstrip()
                    found = re.match(rb"\[\s*\[", data)
                    if found is None:
                        if len(data) < 64 and re.fullmatch(rb"(\[\s*)?", data):
                            rest = data
                            continue
                        raise self._broken("it does not begin with [[")
                    begun, data = True, data[found.end() - 1 :]
                last = data.rfind(b"]")
                before = data.rfind(b"]", 0, last) if last > 0 else -1
                if last > 0 and before >= 0 and not data[before + 1 : last].strip() and not data[last + 1 :].strip():
                    ended, block, rest = True, data[: before + 1], b""
                else:
                    # Cut before the last row begins, so that what is left may hold the end.
                    start = data.rfind(b"[")
                    block, rest = data[:start].rstrip().removesuffix(b","), data[start:]
                    if start == 0:
                        if len(rest) > 1 << 20:
                            raise self._broken(f"row {row} does not end")
                        continue
                lines = self._lines(block.strip(), row)
                yield row, lines
                row += lines.count(b"\n")
        if not ended:
            raise self._broken("it is cut short")

    def line_at(self, place: int) -> int:
        """Rows stand for lines."""
        return place

    def _lines(self, rows: bytes, row: int) -> bytes:
        lines = BETWEEN.sub(b"\n", rows)
        inner = lines[1:-1]
        whole = lines.startswith(b"[") and lines.endswith(b"]") and ROW.fullmatch(inner)
        if not whole or EMPTY_LINE.search(inner):
            raise self._broken(f"after row {row} it is no array of arrays of numbers")
        if b'"' in inner:  # numbers as text, with blanks before them that CSV does not know
            inner = re.sub(rb' *" *', b'"', inner)
        return inner + b"\n"

    def _broken(self, why: str) -> DataError:
        return DataError(
            f"{self.source.label} cannot be read: {why}. Allowed is an array of arrays, [[ms, open, high, low, close, "
            "volume], ...], as freqtrade writes it: fetch or make it again, or leave it out."
        )


_SPACES = bytes(32 if byte in b"\t\r\n" else byte for byte in range(256))


def open_json(source: Source) -> JsonTable:
    """Reads the first row. `DataError` for what is no array of rows of 6 (freqtrade) or 12 columns (klines)."""
    head = head_of(source)
    if not head.strip():
        raise DataError(empty(source))
    if re.fullmatch(rb"\s*\[\s*(\[\s*\]\s*)?\]\s*", head):
        raise DataError(f"{source.label} has no rows: fetch or make it again, or leave it out.")
    table = JsonTable(source, BARS, ",", 0, (), lists_unused=False)
    found = re.match(rb"\s*\[\s*\[([^\[\]{}]*)\]", head)
    if found is None:
        raise table._broken(f"it begins with {head[:40].decode('utf-8', 'replace')!r}")
    width = found[1].count(b",") + 1
    if width == len(KLINES):
        return JsonTable(source, KLINES, ",", 0, ("JSON rows: read as Binance klines",), lists_unused=False)
    if width != len(BARS):
        raise table._broken(f"its rows have {width} values")
    return JsonTable(source, BARS, ",", 0, (f"JSON rows: read as {', '.join(BARS)}",), lists_unused=False)
