"""The rows of a run's datasets, a few parameter sets at a time and of all symbols: what surfaces are made of.

A run of many sets has more rows than memory; but of some sets, one figure of every symbol is small. The sets that a
partition holds are read together, and apart where there would be too many.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from atc_backtest.pipelines.commits import records
from atc_backtest.pipelines.job import METRICS
from atc_backtest.pipelines.plateau import F64, I64
from atc_backtest.pipelines.runs import Run

CELLS = 1 << 22
"""Figures of metrics/ held at a time, of symbols times sets."""


@dataclass(frozen=True)
class Piece:
    """Sets [start, stop), and the committed files that hold them."""

    start: int
    stop: int
    files: tuple[Path, ...]

    @property
    def sets(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def n_sets(self) -> int:
        return self.stop - self.start


def pieces(run: Run, dataset: str, most: int) -> Iterator[Piece]:
    """All sets, at most `most` at a time (and one at least)."""
    groups: dict[tuple[int, int], list[Path]] = {}
    partitions = {partition.index: partition for partition in run.partitions}
    for index, parts in records(run.path):
        groups.setdefault(partitions[index].sets, []).append(run.path / parts[dataset].file)
    step = max(1, most)
    for (first, last), files in groups.items():
        for start in range(first, last, step):
            yield Piece(start, min(start + step, last), tuple(files))


def rows_of(piece: Piece, columns: Sequence[str], position: Mapping[str, int]) -> Iterator[tuple[I64, I64, pa.Table]]:
    """Of each row of a piece: its set, counted from the piece's first, its symbol's position, and `columns`."""
    for file in piece.files:
        with pq.ParquetFile(file) as opened:
            for batch in opened.iter_batches(columns=["symbol", "param_id", *columns]):
                coded = batch["symbol"].dictionary_encode()
                places = np.array([position.get(name, -1) for name in coded.dictionary.to_pylist()], np.int64)
                symbol = places[coded.indices.to_numpy()] if batch.num_rows else np.zeros(0, np.int64)
                param_id = batch["param_id"].to_numpy()
                mine = (symbol >= 0) & (param_id >= piece.start) & (param_id < piece.stop)
                if mine.any():
                    rows = pa.Table.from_batches([batch]).select(list(columns)).filter(pa.array(mine))
                    yield param_id[mine] - piece.start, symbol[mine], rows


def figures(run: Run, by: str, names: Sequence[str]) -> Iterator[tuple[slice, F64]]:
    """Sets, and their figure for every symbol: [sets, symbols], NaN where undefined or not committed."""
    position = {name: at for at, name in enumerate(names)}
    for piece in pieces(run, METRICS, CELLS // len(names)):
        block = np.full((piece.n_sets, len(names)), np.nan)
        for at, symbol, rows in rows_of(piece, [by], position):
            block[at, symbol] = numbers(rows[by])
        yield piece.sets, block


def numbers(column: pa.ChunkedArray) -> F64:
    """float64, null as NaN."""
    values: F64 = pc.cast(column, pa.float64()).to_numpy()
    return values
