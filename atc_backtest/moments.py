"""Moments of returns that merge: of pieces of time, in any order, so that no series is kept.

A piece is known by how many returns it has, their mean, and sums of products of deviations from it. Taken together,
each piece's deviations are from the mean of all, so that no digits cancel. Sources: T. Chan, G. Golub, R. LeVeque,
Updating formulae and a pairwise algorithm for computing sample variances (1979); P. Pébay, Formulas for robust,
one-pass parallel computation of covariances and arbitrary-order statistical moments, SAND2008-6212 (2008); here of
any number of pieces at once. How a piece's bars become its moments: `periods.add_returns`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from atc_backtest.accounts import F64


@dataclass(frozen=True)
class Spread:
    """Of pieces of returns: how many, their mean, and the sum of squared deviations from it. Arrays of one shape.

    A piece without returns has n = 0 and zeros.
    """

    n: F64
    mean: F64
    m2: F64

    @classmethod
    def of(cls, returns: F64) -> Self:
        """Of the returns along the last axis, all of them finite."""
        one, zero = (np.broadcast_to(value, returns.shape) for value in (1.0, 0.0))
        return cls(one, returns, *[zero] * (len(fields(cls)) - 2)).pooled()

    @classmethod
    def zeros(cls, *shape: int) -> Self:
        """Pieces without returns."""
        return cls(*(np.zeros(shape) for _ in fields(cls)))

    @classmethod
    def stacked(cls, pieces: Sequence[Self]) -> Self:
        """Of a new last axis, at least one."""
        return cls(*(np.stack([getattr(piece, f.name) for piece in pieces], axis=-1) for f in fields(cls)))

    def __getitem__(self, key: Any) -> Self:
        """The pieces that NumPy's indexing picks."""
        return type(self)(*(np.asarray(getattr(self, f.name)[key]) for f in fields(self)))

    def centred(self) -> tuple[F64, F64, F64]:
        """Number and mean of all returns along the last axis, and how far each piece's mean is from it; 0 of none."""
        n = self.n.sum(axis=-1)
        mean = (self.n * self.mean).sum(axis=-1) / np.maximum(n, 1.0)
        return n, mean, np.where(self.n > 0, self.mean - mean[..., None], 0.0)

    def pooled(self) -> Self:
        """The pieces along the last axis as one."""
        n, mean, d = self.centred()
        return type(self)(n, mean, *(of_pieces.sum(axis=-1) for of_pieces in self._about(d)))

    def _about(self, d: F64) -> tuple[F64, ...]:
        """Each piece's sums about another mean, which is `d` below its own."""
        return (self.m2 + self.n * d**2,)

    def blocks(self, edges: NDArray[np.int64]) -> Self:
        """Pooled between neighbouring `edges` along the last axis: one piece for each gap."""
        return self.stacked([self[..., start:stop].pooled() for start, stop in pairwise(edges)])

    @property
    def deviation(self) -> F64:
        """Standard deviation (ddof 1); NaN for fewer than two returns."""
        return np.sqrt(self.m2 / np.where(self.n > 1, self.n - 1, np.nan))

    @property
    def sharpe(self) -> F64:
        """Mean over standard deviation; NaN for fewer than two returns and for none that differ."""
        with np.errstate(divide="ignore", invalid="ignore"):
            deviation = self.deviation
            return np.where(deviation > 0, self.mean / deviation, np.nan)


@dataclass(frozen=True)
class Moments(Spread):
    """Also the sums of third and fourth powers of the deviations."""

    m3: F64
    m4: F64

    def _about(self, d: F64) -> tuple[F64, ...]:
        m3 = self.m3 + 3 * d * self.m2 + self.n * d**3
        m4 = self.m4 + 4 * d * self.m3 + 6 * d**2 * self.m2 + self.n * d**4
        return *super()._about(d), m3, m4


_COLUMNS = ("n_bars", "mean", "m2", "hold_mean", "hold_m2", "hold_cov")


@dataclass(frozen=True)
class Comoments:
    """Of returns beside those of a benchmark at the same bars; `cov`: the sum of products of both's deviations."""

    own: Spread
    hold: Spread
    cov: F64

    @classmethod
    def of(cls, returns: F64, hold: F64) -> Comoments:
        """Of the returns along the last axis, all of them finite."""
        one, zero = (np.broadcast_to(value, returns.shape) for value in (1.0, 0.0))
        return cls(Spread(one, returns, zero), Spread(one, hold, zero), zero).pooled()

    @classmethod
    def of_rows(cls, rows: Sequence[Mapping[str, Any]]) -> Comoments:
        """Of rows of periods/, a piece each."""
        n, mean, m2, hold_mean, hold_m2, cov = (np.array([row[name] for row in rows], np.float64) for name in _COLUMNS)
        return cls(Spread(n, mean, m2), Spread(n, hold_mean, hold_m2), cov)

    def row(self) -> dict[str, Any]:
        """A single piece as a row of periods/ holds it."""
        found = (self.own.n, self.own.mean, self.own.m2, self.hold.mean, self.hold.m2, self.cov)
        return {name: value.item() for name, value in zip(_COLUMNS, found, strict=True)} | {"n_bars": int(self.own.n)}

    def pooled(self) -> Comoments:
        """The pieces along the last axis as one."""
        _, _, d = self.own.centred()
        _, _, e = self.hold.centred()
        return Comoments(self.own.pooled(), self.hold.pooled(), (self.cov + self.own.n * d * e).sum(axis=-1))
