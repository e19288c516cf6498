"""Moments that merge, against two passes in exact fractions: in any order and grouping, where digits could cancel."""

from __future__ import annotations

from fractions import Fraction
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from atc_backtest.moments import Comoments, Moments, Spread

Floats = NDArray[np.float64]

POWERS = {"m2": 2, "m3": 3, "m4": 4}


def exactly(values: Floats) -> tuple[Fraction, list[Fraction]]:
    """Mean, and deviations from it."""
    numbers = [Fraction(value) for value in values.tolist()]
    mean = sum(numbers) / Fraction(len(numbers))
    return mean, [number - mean for number in numbers]


def check(found: Moments, values: Floats, rel: float) -> None:
    """`found` are the moments of `values`; sums whose parts cancel are held to the size of the parts."""
    assert float(found.n) == len(values)
    mean, deviations = exactly(values)
    assert float(found.mean) == pytest.approx(float(mean), rel=1e-14, abs=1e-16)
    for name, power in POWERS.items():
        size = float(sum(abs(d) ** power for d in deviations))
        expected = float(sum(d**power for d in deviations))
        assert float(getattr(found, name)) == pytest.approx(expected, abs=rel * size + 1e-60), name


def cut(rng: np.random.Generator, values: Floats) -> list[Floats]:
    """Pieces of any length, none included."""
    return np.split(values, np.sort(rng.integers(0, len(values) + 1, rng.integers(1, 9))))


@given(st.integers(0, 2**32), st.integers(1, 60), st.sampled_from([0.0, 1e-4, 0.3]), st.randoms(use_true_random=False))
def test_pieces_merge_in_any_order_to_the_moments_of_all(seed: int, n: int, drift: float, random: Random) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(rng.normal(0, drift, n), 0.02)
    pieces = [Moments.of(part) for part in cut(rng, values)]
    random.shuffle(pieces)
    one_by_one = pieces[0]
    for piece in pieces[1:]:
        one_by_one = Moments.stacked([one_by_one, piece]).pooled()
    middle = random.randint(1, len(pieces))
    halves = [Moments.stacked(some).pooled() for some in (pieces[:middle], pieces[middle:]) if some]
    for merged in (one_by_one, Moments.stacked(pieces).pooled(), Moments.stacked(halves).pooled()):
        check(merged, values, 1e-12)


def test_a_small_spread_around_a_large_mean_does_not_cancel() -> None:
    """Returns of 1e-9 around 1e-3: a sum of squares minus a square would keep four digits."""
    rng = np.random.default_rng(1)
    values = 1e-3 + 1e-9 * rng.normal(size=3000)
    pieces = [Moments.of(part) for part in cut(rng, values)]
    check(Moments.stacked(pieces).pooled(), values, 1e-8)


def test_blocks_are_what_their_pieces_pool_to() -> None:
    returns = np.random.default_rng(2).normal(0, 0.02, (3, 4, 50))
    pieces = Moments.of(returns)
    blocks = pieces.blocks(np.array([0, 1, 4]))
    assert blocks.n.tolist() == [[50, 150]] * 3
    for row in range(3):
        check(blocks[row, 0], returns[row, 0], 1e-12)
        check(blocks[row, 1], returns[row, 1:].ravel(), 1e-12)


def test_pieces_without_returns_count_for_nothing() -> None:
    values = np.array([0.01, 0.03, -0.02])
    none = Moments.of(np.zeros(0))
    assert none.n == none.mean == none.m2 == none.m3 == none.m4 == 0
    check(Moments.stacked([none, Moments.of(values), none]).pooled(), values, 1e-12)


def test_spread_says_what_moments_say() -> None:
    returns = np.random.default_rng(3).normal(0.001, 0.02, (5, 7))
    spread, moments = Spread.of(returns), Moments.of(returns)
    for name in ("n", "mean", "m2", "deviation", "sharpe"):
        assert getattr(spread, name).tolist() == getattr(moments, name).tolist()
    assert spread.deviation == pytest.approx(returns.std(axis=1, ddof=1), rel=1e-13)
    assert spread.sharpe == pytest.approx(returns.mean(axis=1) / returns.std(axis=1, ddof=1), rel=1e-13)


def test_undefined_is_nan() -> None:
    assert np.isnan(Spread.of(np.array([0.1])).deviation)
    assert np.isnan(Spread.of(np.array([0.1])).sharpe)
    assert Spread.of(np.zeros(50)).deviation == 0
    assert np.isnan(Spread.of(np.zeros(50)).sharpe)


@given(st.integers(0, 2**32), st.integers(1, 60))
def test_two_series_merge_to_the_covariance_of_all(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    hold = rng.normal(0.001, 0.02, n)
    returns = 0.7 * hold + rng.normal(0, 0.01, n)
    pieces = cut(rng, np.arange(n))
    rows = [Comoments.of(returns[at], hold[at]).row() for at in pieces if len(at)]
    found = Comoments.of_rows(rows).pooled().row()
    (mean, r), (hold_mean, b) = exactly(returns), exactly(hold)
    assert found["n_bars"] == n
    assert type(found["n_bars"]) is int
    for name, expected in (
        ("mean", float(mean)),
        ("hold_mean", float(hold_mean)),
        ("m2", float(sum(d * d for d in r))),
        ("hold_m2", float(sum(e * e for e in b))),
        ("hold_cov", float(sum(d * e for d, e in zip(r, b, strict=True)))),
    ):
        assert found[name] == pytest.approx(expected, rel=1e-11, abs=1e-14), name
