"""Lean's zips: bars of trades, or of quotes, without a header; the day may stand in the name alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atc_backtest.errors import DataError
from atc_backtest.stores.ingest.csv_file import CsvTable, head_of, is_number, split
from atc_backtest.stores.ingest.names import LEAN_MARKETS, LeanName
from atc_backtest.stores.ingest.sources import Source, Wanted

TRADES = ("time", "open", "high", "low", "close", "volume")
QUOTES = ("time", "open", "high", "low", "close")
RAW_COLUMNS = {"trade": 6, "quote": 11}
"""Time, four prices, volume; or time, four of the bid, its size, four of the ask, its size."""

LONG_TIME = r"^(\d{4})(\d\d)(\d\d) (\d\d:\d\d)$"


@dataclass(frozen=True)
class LeanTable(CsvTable):
    """Prices and local times as they are meant: divided by the market's factor, the day put before the time."""

    name: LeanName | None = None

    def batches(self, wanted: Wanted) -> Iterator[list[pa.Array]]:
        """As other tables give them; a quote's price is the middle of bid and ask, or the one that is there."""
        assert self.name is not None
        factor = LEAN_MARKETS[self.name.market or ""]
        quotes = self.name.kind == "quote"
        raw = [part for i in wanted.numbers for part in ((i, i + 5) if quotes else (i,))]
        time = {0: pa.int64()} if self.name.day else {}
        for arrays in super().batches(replace(wanted, numbers=raw, typed=time)):
            values = arrays[len(wanted.texts) :]
            if quotes:
                values = [_middle(bid, ask) for bid, ask in zip(values[::2], values[1::2], strict=True)]
            prices = [
                pc.divide(value, float(factor)) if i in range(1, 5) else value
                for i, value in zip(wanted.numbers, values, strict=True)
            ]
            texts = zip(wanted.texts, arrays, strict=False)
            yield [self._local(array) if i == 0 else array for i, array in texts] + prices

    def _local(self, column: pa.Array) -> pa.Array:
        assert self.name is not None
        if self.name.day is None:
            return pc.replace_substring_regex(column, LONG_TIME, r"\1-\2-\3 \4")
        day_ms = int(np.datetime64(datetime.strptime(self.name.day, "%Y%m%d"), "ms").astype(np.int64))
        try:
            ms = column.cast(pa.int64())
        except pa.ArrowException as error:
            raise DataError(f"{self.source.label}: its times are no milliseconds ({error}): make it again.") from error
        if pc.any(pc.or_(pc.less(ms, 0), pc.greater_equal(ms, 86_400_000))).as_py():
            raise DataError(f"{self.source.label}: its times are no milliseconds since midnight: make it again.")
        return pc.add(ms, day_ms).cast(pa.timestamp("ms"))


def open_lean(source: Source, name: LeanName) -> LeanTable:
    """Reads the first line. `DataError` for markets and bars that are not read, and where the market is not told."""
    if name.market is None:
        raise DataError(
            f"{source.label} is named as Lean's data are, without the folder that tells its market, which decides how "
            f"prices are written: put it into Lean's folders, e.g. equity/usa/minute/{name.symbol}/."
        )
    if name.market not in LEAN_MARKETS or name.kind not in RAW_COLUMNS:
        raise DataError(
            f"{source.label} is Lean's {name.market} {name.kind} data, which is not read: give trades or quotes of "
            f"{', '.join(LEAN_MARKETS)}."
        )
    if name.day is not None:
        try:
            datetime.strptime(name.day, "%Y%m%d")
        except ValueError as error:
            raise DataError(f"{source.label}: {name.day} in its name is no day: mend the name.") from error
    line = next((line for line in head_of(source).splitlines() if line.strip()), b"").decode("utf-8", "replace")
    cells = split(line, ",")
    kind = name.kind if len(cells) != RAW_COLUMNS["trade"] else "trade"  # hours of old forex data are unnamed
    if len(cells) != RAW_COLUMNS[kind] or not all(is_number(cell) for cell in cells[1:] if cell):
        raise DataError(
            f"{source.label}: its first line is {line[:120]!r}, and Lean's bars have {RAW_COLUMNS['trade']} values "
            f"(trades) or {RAW_COLUMNS['quote']} (quotes): make it again, or leave it out."
        )
    said = f"Lean's {name.market} bars of {kind}s"
    if kind == "quote":
        said += ": prices are the middle of bid and ask, as in Lean; no volume"
    factor = LEAN_MARKETS[name.market]
    said += f"; prices divided by {factor:,}" if factor != 1 else ""
    columns = TRADES if kind == "trade" else QUOTES
    known = LeanName(name.market, name.symbol, kind, name.day)
    return LeanTable(source, _padded(columns, kind), ",", 0, (said,), lists_unused=False, name=known)


def _padded(columns: Sequence[str], kind: str) -> tuple[str, ...]:
    """A name for every raw column, so that positions hold: those past the first are none of ours."""
    return (*columns, *(f"raw {i}" for i in range(len(columns), RAW_COLUMNS[kind])))


def _middle(bid: pa.Array, ask: pa.Array) -> pa.Array:
    """An empty side, or one of 0, is none, as in Lean."""
    bid, ask = (pc.if_else(pc.equal(side, 0.0), pa.scalar(None, pa.float64()), side) for side in (bid, ask))
    return pc.coalesce(pc.divide(pc.add(bid, ask), 2.0), bid, ask)
