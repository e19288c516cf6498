"""Long series made short for display, as they stream by.

A series of N bars is cut into at most `BUCKETS` buckets of as many bars each, about one pixel of a wide screen. Of a
line, each bucket keeps its first, lowest, highest and last value at their own bars: no spike is lost, and neither is
the value at either end. Of a share or a weight, each bucket keeps the mean. Values that are not defined (NaN) do not
count. What comes out does not depend on the pieces in which bars come in, and memory is one bucket for each column.
Where bars were thinned out so, finer buckets are kept for those who zoom in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

BUCKETS = 1200

NEAR_BARS = 1 << 17
NEAR_BUCKETS = 1 << 15
"""For those who zoom in: every bar of at most so many, else so many buckets."""

METHOD = "first, lowest, highest and last value of each"
"""Said under the charts, after how many bars a bucket has."""


@dataclass(frozen=True)
class Line:
    """Points of a line, in order of time: `ts` int64 ns, `values` float64, all defined."""

    ts: I64
    values: F64


@dataclass(frozen=True)
class Sampled:
    """What is left of the series: `lines` by name; `means` by name, a value a bucket (NaN: none was defined).

    `starts`: ts of the first bar of each bucket; `end`: ts of the last bar of all. `width`: bars of a bucket.
    """

    width: int
    lines: dict[str, Line]
    starts: I64
    end: int
    means: dict[str, F64]


class Sampler:
    """Takes bars in order of time, `n_bars` at most in all, and thins out its columns: `lines` and `means` by name."""

    def __init__(self, n_bars: int, lines: Sequence[str], means: Sequence[str], most: int = BUCKETS) -> None:
        self.width = max(1, -(-n_bars // most))
        self._lines, self._means = tuple(lines), tuple(means)
        n_columns = len(self._lines) + len(self._means)
        self._ts, self._values = np.zeros(0, np.int64), np.zeros((n_columns, 0))
        self._points: list[list[Line]] = [[] for _ in self._lines]
        self._starts: list[I64] = []
        self._averages: list[F64] = []
        self._end = 0

    def add(self, ts: I64, values: F64) -> None:
        """The next bars: `values` [columns, bars], lines first."""
        if ts.size == 0:
            return
        self._end = int(ts[-1])
        ts, values = np.concatenate([self._ts, ts]), np.concatenate([self._values, values], axis=1)
        whole = ts.size // self.width * self.width
        if whole:
            self._thin(ts[:whole], values[:, :whole], self.width)
        self._ts, self._values = ts[whole:].copy(), values[:, whole:].copy()

    def _thin(self, ts: I64, values: F64, width: int) -> None:
        self._starts.append(ts[::width])
        n_lines = len(self._lines)
        for points, column in zip(self._points, values[:n_lines], strict=True):
            kept = extremes(column.reshape(-1, width))
            points.append(Line(ts[kept], column[kept]))
        self._averages.append(means(values[n_lines:].reshape(-1, ts.size // width, width)))

    def finish(self) -> Sampled:
        """All buckets, the last one perhaps shorter."""
        if self._ts.size:
            self._thin(self._ts, self._values, self._ts.size)
            self._ts, self._values = self._ts[:0], self._values[:, :0]
        lines = {name: _joined(points) for name, points in zip(self._lines, self._points, strict=True)}
        starts = np.concatenate([np.zeros(0, np.int64), *self._starts])
        averages = np.concatenate([np.zeros((len(self._means), 0)), *self._averages], axis=1)
        return Sampled(self.width, lines, starts, self._end, dict(zip(self._means, averages, strict=True)))


class NearAndFar:
    """A `Sampler` for the whole span and, where that one thins bars out, a finer one for those who zoom in."""

    def __init__(self, n_bars: int, lines: Sequence[str], means: Sequence[str]) -> None:
        self._far = Sampler(n_bars, lines, means)
        near = NEAR_BARS if n_bars <= NEAR_BARS else NEAR_BUCKETS
        self._near = Sampler(n_bars, lines, means, near) if self._far.width > 1 else None

    def add(self, ts: I64, values: F64) -> None:
        """As `Sampler.add`."""
        self._far.add(ts, values)
        if self._near is not None:
            self._near.add(ts, values)

    def finish(self) -> tuple[Sampled, Sampled | None]:
        """The whole span, and the finer buckets where there are some."""
        return self._far.finish(), None if self._near is None else self._near.finish()


def _joined(points: list[Line]) -> Line:
    ts = np.concatenate([np.zeros(0, np.int64), *(line.ts for line in points)])
    return Line(ts, np.concatenate([np.zeros(0), *(line.values for line in points)]))


def extremes(buckets: F64) -> NDArray[np.intp]:
    """Places in the flat `buckets` [n, width] of each one's first, lowest, highest and last value, ascending.

    Of equal values the earliest is taken. A bucket without a defined value has no place.
    """
    defined = ~np.isnan(buckets)
    filled = np.flatnonzero(defined.any(axis=1))
    values, defined = buckets[filled], defined[filled]
    width = buckets.shape[1]
    places = np.stack(
        [
            defined.argmax(axis=1),
            np.where(defined, values, np.inf).argmin(axis=1),
            np.where(defined, values, -np.inf).argmax(axis=1),
            width - 1 - defined[:, ::-1].argmax(axis=1),
        ],
        axis=1,
    )
    return np.unique(filled[:, None] * width + places)


def means(buckets: F64) -> F64:
    """Mean of the defined values of each bucket, [columns, n, width] to [columns, n]; NaN where there is none."""
    defined = ~np.isnan(buckets)
    count = defined.sum(axis=2)
    total = np.where(defined, buckets, 0.0).sum(axis=2)
    averages = np.full(count.shape, np.nan)
    np.divide(total, count, out=averages, where=count > 0)
    return averages
