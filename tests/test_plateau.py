"""Neighbours, plateaus and ranks: worked by hand on small grids, held against pandas and plain loops on others."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from atc_backtest.errors import ConfigError
from atc_backtest.pipelines.plateau import (
    BLOCK,
    Axis,
    Grid,
    aggregate,
    folded,
    grid_of,
    matrix,
    neighbours,
    peak_of,
    plateau,
    rank_correlation,
    ranks,
    significant,
)

NAN = math.nan


def product_grid(**axes: list[Any]) -> Grid:
    """A full grid, the last axis fastest."""
    combos = list(itertools.product(*axes.values()))
    return grid_of({name: [combo[at] for combo in combos] for at, name in enumerate(axes)}, len(combos))


def test_axes_are_what_varies_and_what_varies_together_is_one() -> None:
    lengths = {f"lengths.{family}": [20, 30, 20, 30] for family in ("ema", "hma", "wma", "dema", "lsma", "kama")}
    varying = lengths | {"long_threshold": [0.2, 0.2, 0.1, 0.1], "short_threshold": [-0.2, -0.2, -0.1, -0.1]}
    grid = grid_of(varying, 4)
    assert [axis.name for axis in grid.axes] == ["lengths", "long_threshold"]
    assert grid.axes[1].settings == ("long_threshold", "short_threshold")
    assert [axis.values for axis in grid.axes] == [(20, 30), (0.1, 0.2)]
    assert grid.places.tolist() == [[0, 1], [1, 1], [0, 0], [1, 0]]
    assert (grid.axis("lengths"), grid.axis("lengths.kama"), grid.axis("short_threshold")) == (0, 0, 1)
    with pytest.raises(ConfigError, match=r"'decay' does not vary in this run; what does: lengths, long_threshold"):
        grid.axis("decay")


def test_numbers_have_an_order_and_words_and_switches_have_not() -> None:
    grid = grid_of({"a": ["x", "b", "x"], "b": [True, False, True], "c": [3, 1, 2], "d": ["1%", "2atr", "2h"]}, 3)
    assert [axis.ordered for axis in grid.axes] == [False, True, False]
    assert [axis.name for axis in grid.axes] == ["a", "c", "d"]
    assert grid.axes[0].settings == ("a", "b")  # both change alike
    assert grid.axes[0].values == ("x", "b")


def test_distances_have_an_order_and_what_is_not_set_is_beyond_them() -> None:
    varying = {"stop_loss": ["10%", None, "2%", "2%"], "growth_horizon": [None, 50, None, 9]}
    axes = grid_of(varying, 4).axes
    assert [axis.values for axis in axes] == [("2%", "10%", None), (9, 50, None)]
    assert all(axis.ordered for axis in axes)


def test_draws_that_never_repeat_are_axes_of_their_own_unless_they_rise_and_fall_together() -> None:
    up = [0.3, 0.1, 0.4, 0.2]
    drawn = {"up": up, "down": [-value for value in up], "other": [0.1, 0.2, 0.3, 0.4]}
    assert [axis.settings for axis in grid_of(drawn, 4).axes] == [("up", "down"), ("other",)]


def test_a_line_worked_by_hand() -> None:
    grid = product_grid(length=[10, 20, 30, 40, 50])
    assert neighbours(grid).tolist() == [[-1, 1], [0, 2], [1, 3], [2, 4], [3, -1]]
    values = np.array([1.0, 2.0, 9.0, 3.0, 4.0])
    flat = plateau(values, neighbours(grid))
    assert flat.tolist() == [1.5, 2.0, 3.0, 4.0, 3.5]
    peak = peak_of(grid, values, flat, neighbours(grid))
    assert peak is not None
    assert (peak.best, peak.best_value, peak.best_plateau) == (2, 9.0, 3.0)
    assert (peak.plateau, peak.plateau_value, peak.excess) == (3, 4.0, 6.0)
    assert peak.excess_iqr == 6.0 / (4.0 - 2.0)
    assert peak.edges == ()
    low = peak_of(grid, values, flat, neighbours(grid), ascending=True)
    assert low is not None
    assert (low.best, low.plateau, low.excess, low.edges) == (0, 0, 0.5, ("length",))


def test_a_plane_worked_by_hand_corners_and_edges_and_a_hole() -> None:
    grid = product_grid(row=[1, 2, 3], column=[0.1, 0.2, 0.3])
    # 5 1 2
    # 4 . 3
    # 0 9 8
    values = np.array([5.0, 1.0, 2.0, 4.0, NAN, 3.0, 0.0, 9.0, 8.0])
    near = neighbours(grid)
    assert [sorted(line[line >= 0].tolist()) for line in near] == [
        [1, 3],
        [0, 2, 4],
        [1, 5],
        [0, 4, 6],
        [1, 3, 5, 7],
        [2, 4, 8],
        [3, 7],
        [4, 6, 8],
        [5, 7],
    ]
    flat = plateau(values, near)
    assert flat[[0, 1, 2, 3]].tolist() == [4.0, 2.0, 2.0, 4.0]
    assert math.isnan(flat[4])
    assert flat[[5, 6, 7, 8]].tolist() == [3.0, 4.0, 8.0, 8.0]
    peak = peak_of(grid, values, flat, near)
    assert peak is not None
    assert (peak.best, peak.plateau, peak.edges) == (7, 7, ("row",))


def test_steps_do_not_lead_through_words_or_over_places_that_were_left_out() -> None:
    grid = product_grid(length=[1, 2], profile=["enhance", "pine"])
    assert neighbours(grid).tolist() == [[-1, 2], [-1, 3], [0, -1], [1, -1]]
    gap = grid_of({"x": [1, 2, 3, 1, 3], "y": [1, 1, 1, 2, 2]}, 5)  # (2, 2) is not there
    assert [sorted(line[line >= 0].tolist()) for line in neighbours(gap)] == [[1, 3], [0, 2], [1, 4], [0], [2]]


@given(st.data())
def test_neighbours_on_any_grid_with_holes(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    everywhere = list(itertools.product(*map(range, sizes)))
    taken = data.draw(st.permutations(everywhere))[
        : data.draw(st.integers((len(everywhere) + 3) // 4, len(everywhere)))
    ]
    places = np.array(taken)
    axes = tuple(Axis(f"a{at}", (f"a{at}",), tuple(range(size)), ordered=at != 1) for at, size in enumerate(sizes))
    grid = Grid(axes, places)
    for row, found in enumerate(neighbours(grid)):
        apart = np.abs(places - places[row])
        beside = (apart.sum(axis=1) == 1) & (apart[:, [at != 1 for at in range(len(sizes))]].sum(axis=1) == 1)
        assert sorted(found[found >= 0]) == np.flatnonzero(beside).tolist()


def test_a_set_without_neighbours_has_no_plateau_unless_none_has() -> None:
    grid = grid_of({"x": [1, 2, 9, 9], "profile": ["a", "a", "b", "c"]}, 4)
    values = np.array([1.0, 2.0, 8.0, 7.0])
    near = neighbours(grid)
    peak = peak_of(grid, values, plateau(values, near), near)
    assert peak is not None
    assert (peak.best, peak.best_plateau, peak.plateau, peak.plateau_value) == (2, 8.0, 0, 1.5)
    words = product_grid(profile=["a", "b"])
    alone = peak_of(words, np.array([1.0, 2.0]), np.array([1.0, 2.0]), neighbours(words))
    assert alone is not None
    assert alone.plateau == alone.best == 1
    assert peak_of(words, np.array([NAN, NAN]), np.array([NAN, NAN]), neighbours(words)) is None


def test_one_set_has_nothing_around_it() -> None:
    grid = grid_of({}, 1)
    assert neighbours(grid).shape == (1, 0)
    assert plateau(np.array([3.0]), neighbours(grid)).tolist() == [3.0]


@pytest.mark.parametrize("n_sets", [40, BLOCK + 30])
def test_scattered_sets_have_their_nearest_ones(n_sets: int) -> None:
    rng = np.random.default_rng(n_sets)
    varying = {"a": rng.random(n_sets).tolist(), "b": rng.random(n_sets).tolist()}
    varying["profile"] = ["pine" if draw < 0.3 else "enhance" for draw in rng.random(n_sets)]
    grid = grid_of(varying, n_sets)
    assert grid.scattered
    found = neighbours(grid)
    where = np.stack([pd.Series(varying[name]).rank().to_numpy() / (n_sets - 1) for name in "ab"], axis=1)
    for row in range(n_sets):
        others = [at for at in range(n_sets) if at != row and varying["profile"][at] == varying["profile"][row]]
        distance = {at: float(np.sum((where[at] - where[row]) ** 2)) for at in others}
        nearest = sorted(others, key=lambda at: distance[at])[:4]
        assert sorted(distance[at] for at in found[row] if at >= 0) == pytest.approx([distance[at] for at in nearest])
        assert row not in found[row]


def test_scattered_sets_that_are_few_or_equally_far() -> None:
    grid = Grid(product_grid(a=list(range(9)), b=list(range(9))).axes, np.array([[0, 0], [8, 8], [4, 4]]))
    assert grid.scattered
    assert neighbours(grid).tolist() == [[2, 1, -1, -1], [2, 0, -1, -1], [0, 1, -1, -1]]


values = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 6), st.integers(1, 9)), elements=st.floats(-9, 9) | st.just(NAN)
)


@given(values)
def test_aggregates_are_those_of_pandas(rows: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    frame = pd.DataFrame(rows.T)
    expected = {
        "median": frame.median(),
        "q25": frame.quantile(0.25),
        "q75": frame.quantile(0.75),
        "mean": frame.mean(),
    }
    expected["positive"] = (frame > 0).sum() / frame.count().where(frame.count() > 0)
    for how, series in expected.items():
        np.testing.assert_allclose(aggregate(rows, how), series.to_numpy(), rtol=1e-12, atol=1e-12)


@given(hnp.arrays(np.float64, st.integers(1, 30), elements=st.integers(-4, 4)))
def test_ranks_are_those_of_pandas(found: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    np.testing.assert_array_equal(ranks(found), pd.Series(found).rank().to_numpy())


@pytest.mark.parametrize("scale", [1e-180, 1e-9, 1.0, 7e12])
def test_figures_that_differ_in_their_last_bits_are_tied(scale: float) -> None:
    found = np.array([1.0, 1.0 + 4e-16, 1.0 + 1e-8, -1 / 3, 0.0, NAN]) * scale
    rounded = significant(found)
    assert rounded[0] == rounded[1] < rounded[2]
    np.testing.assert_allclose(rounded, found, rtol=1e-9)


@given(
    hnp.arrays(np.float64, (2, 12), elements=st.integers(-4, 4) | st.just(NAN)),
)
def test_rank_correlation_is_that_of_pandas(pair: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    frame = pd.DataFrame(pair.T).dropna().rank()
    found = rank_correlation(*pair)
    if len(frame) < 3 or frame.nunique().min() == 1:
        assert found is None
    else:
        assert found == pytest.approx(frame[0].corr(frame[1]), abs=1e-12)


def test_a_map_is_the_median_over_all_other_axes() -> None:
    grid = product_grid(a=[1, 2, 3], b=[10, 20], c=["x", "y", "z"])
    figures = np.random.default_rng(1).random(18)
    figures[[0, 1, 2, 4]] = NAN
    a, b, _ = grid.places.T
    frame = pd.DataFrame({"a": a, "b": b, "value": figures})
    table = frame.pivot_table(index="b", columns="a", values="value", aggfunc="median", dropna=False).to_numpy()
    np.testing.assert_array_equal(matrix(grid, figures, "a", "b"), table)
    line = frame.groupby("a")["value"].median().to_numpy()
    np.testing.assert_array_equal(matrix(grid, figures, "a"), line[None])
    with pytest.raises(ConfigError, match="x and y are both a"):
        matrix(grid, figures, "a", "a")


def test_a_long_axis_is_folded_for_looking_at() -> None:
    grid = product_grid(a=list(range(10)), profile=["x", "y"])
    short = folded(grid, "a", 4)
    assert short.axes[0].values == (0, 3, 6, 9)
    assert folded(grid, "profile", 1).axes == grid.axes
    figures = np.arange(20.0)
    assert matrix(short, figures, "a", "profile").tolist() == [[2.0, 8.0, 14.0, 18.0], [3.0, 9.0, 15.0, 19.0]]
