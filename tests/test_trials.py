"""What Sharpe ratios are worth: against SciPy, the papers' numbers, and other libraries'.

skfolio 1.12.2 (probabilistic and deflated Sharpe ratio) and holdout-backtest 0.1.0 (PBO) were asked once, about the
returns of `seeded`: their answers stand here as numbers.
"""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from simulated import trials_of

from atc_backtest.errors import ConfigError, DataError
from atc_backtest.moments import Moments
from atc_backtest.resampling import cross_validate, overfitting, walk_forward, walk_forward_folds
from atc_backtest.trials import (
    Track,
    deflated_sharpe,
    expected_maximum,
    independent_trials,
    mean_correlation,
    minimum_track_record,
    probabilistic_sharpe,
)


def seeded() -> np.ndarray:
    """Twenty trials of 120 returns, with fat tails and a little edge."""
    found: np.ndarray = np.random.default_rng(42).standard_t(5, (20, 120)) * 0.02 + 0.003
    return found


def test_a_track_has_scipys_skewness_and_kurtosis() -> None:
    for row in seeded():
        track = Track.of(Moments.of(row))
        assert track is not None
        assert track.skewness == pytest.approx(stats.skew(row), rel=1e-12)
        assert track.kurtosis == pytest.approx(stats.kurtosis(row, fisher=False), rel=1e-12)


def test_what_never_moved_has_no_sharpe() -> None:
    assert Track.of(Moments.of(np.zeros(50))) is None
    assert Track.of(Moments.of(np.array([0.1]))) is None
    assert np.isnan(Moments.zeros(3).sharpe).all()


# Sharpe ratios


def test_the_deflated_sharpe_papers_example() -> None:
    """A yearly Sharpe ratio of 2.5 over 1,250 days, the best of 100 trials with a yearly variance of 1/2."""
    track = Track(1250, 2.5 / math.sqrt(250), skewness=-3.0, kurtosis=10.0)
    assert expected_maximum(100, 0.5 / 250) == pytest.approx(0.1132, abs=5e-5)
    assert deflated_sharpe(track, 100, 0.5 / 250) == pytest.approx(0.9004, abs=5e-5)
    assert deflated_sharpe(track, 46, 0.5 / 250) == pytest.approx(0.9505, abs=5e-5)
    normal = Track(1250, 2.5 / math.sqrt(250), skewness=0.0, kurtosis=3.0)
    assert deflated_sharpe(normal, 88, 0.5 / 250) == pytest.approx(0.9505, abs=5e-5)


def test_what_skfolio_says() -> None:
    moments = Moments.of(seeded())
    sharpe = moments.sharpe
    track = Track.of(moments[int(sharpe.argmax())])
    assert track is not None
    assert probabilistic_sharpe(track) == pytest.approx(0.994136497320392, rel=1e-12)
    assert expected_maximum(20, sharpe.var(ddof=1)) == pytest.approx(0.14988341544343245, rel=1e-12)
    assert deflated_sharpe(track, 20, sharpe.var(ddof=1)) == pytest.approx(0.7931006175514403, rel=1e-12)


@given(
    st.floats(-0.5, 0.5).filter(lambda sharpe: abs(sharpe) > 1e-9 or sharpe == 0),
    st.integers(3, 5000),
    st.floats(-2, 2),
    st.floats(0, 20),
)
def test_psr_and_track_record_are_each_others_inverse(sharpe: float, n: int, skewness: float, extra: float) -> None:
    track = Track(n, sharpe, skewness, 1 + skewness**2 + extra)
    found = probabilistic_sharpe(track)
    if track.spread <= 1e-12:
        return
    assert found is not None
    z = sharpe * math.sqrt(n - 1) / math.sqrt(track.spread)
    assert found == pytest.approx(stats.norm.cdf(z), abs=1e-12)
    needed = minimum_track_record(track)
    if sharpe <= 0:
        assert needed is None
    else:
        assert needed is not None
        assert needed == pytest.approx(1 + track.spread * (stats.norm.ppf(0.95) / sharpe) ** 2, rel=1e-12)
        assert (found >= 0.95) == (n >= needed) or n == pytest.approx(needed)


def test_the_best_of_many_normals_is_what_is_expected() -> None:
    """The approximation of the paper against a simulation: 0.5 % off at 1,000 trials, more for a few."""
    draws = np.random.default_rng(0).normal(0, 0.1, (4000, 1000)).max(axis=1).mean()
    assert expected_maximum(1000, 0.01) == pytest.approx(draws, rel=0.01)
    assert expected_maximum(1, 0.01) == 0.0
    assert expected_maximum(50, 0.0) == 0.0
    with pytest.raises(ConfigError, match="at least 1"):
        expected_maximum(0, 0.1)


def test_the_mean_correlation_is_that_of_the_matrix() -> None:
    rng = np.random.default_rng(3)
    returns = rng.normal(0, 1, (12, 90)) + rng.normal(0, 1, 90)
    matrix = np.corrcoef(returns)
    assert mean_correlation(returns) == pytest.approx(matrix[~np.eye(12, dtype=bool)].mean(), rel=1e-12)
    with_flat = np.vstack([returns, np.zeros(90)])
    assert mean_correlation(with_flat) == pytest.approx(mean_correlation(returns), rel=1e-12)
    assert mean_correlation(np.zeros((3, 9))) is None
    assert independent_trials(100, 0.0) == 100
    assert independent_trials(100, 1.0) == 1


# Overfitting


def plain_pbo(returns: np.ndarray, blocks: int) -> list[float]:
    """The logits by the paper's letter: concatenated returns, ranks counted one by one."""
    edges = np.linspace(0, returns.shape[1], blocks + 1).round().astype(int)
    parts = [returns[:, a:b] for a, b in pairwise(edges)]
    logits = []
    for half in combinations(range(blocks), blocks // 2):
        inside = np.concatenate([parts[b] for b in half], axis=1)
        outside = np.concatenate([parts[b] for b in range(blocks) if b not in half], axis=1)
        best = int((inside.mean(1) / inside.std(1, ddof=1)).argmax())
        other = outside.mean(1) / outside.std(1, ddof=1)
        share = sum(value <= other[best] for value in other) / (len(returns) + 1)
        logits.append(math.log(share / (1 - share)))
    return logits


@pytest.mark.parametrize("blocks", [2, 6, 8])
def test_pbo_is_what_the_paper_counts(blocks: int) -> None:
    returns = seeded()
    found = overfitting(trials_of(returns), blocks)
    logits = plain_pbo(returns, blocks)
    assert found.splits == len(logits) == math.comb(blocks, blocks // 2)
    assert found.pbo == pytest.approx(np.mean(np.array(logits) <= 0))
    assert found.logits == pytest.approx(np.quantile(logits, np.linspace(0, 1, 11)), abs=1e-12)


def test_what_holdout_backtest_says() -> None:
    found = overfitting(trials_of(seeded()), 8)
    assert found.pbo == 0.7857142857142857
    assert found.in_sample == pytest.approx(0.304384724, abs=1e-8)
    assert found.out_of_sample == pytest.approx(0.054482289, abs=1e-8)


def test_pbo_sees_block_sums_alone() -> None:
    """Pieces of any size that add up to the blocks give the blocks' figures."""
    returns = seeded()
    fine, coarse = overfitting(trials_of(returns), 8), overfitting(trials_of(returns).blocks(8), 8)
    assert fine == coarse
    days = overfitting(trials_of(returns).blocks(40), 8)
    assert days.pbo == fine.pbo
    assert days.out_of_sample == pytest.approx(fine.out_of_sample, rel=1e-12)


def test_pbo_refuses_what_it_cannot_count() -> None:
    with pytest.raises(ConfigError, match="even number"):
        overfitting(trials_of(seeded()), 7)
    with pytest.raises(ConfigError, match="fewer groups"):
        overfitting(trials_of(seeded()), 40)
    with pytest.raises(DataError, match="several parameter sets"):
        overfitting(trials_of(seeded()[:1]), 8)


# Folds


def plain_sharpe(returns: np.ndarray) -> float:
    return float(returns.mean() / returns.std(ddof=1))


@pytest.mark.parametrize("anchored", [False, True])
@pytest.mark.parametrize("embargo", [0, 2])
def test_walk_forward_chooses_before_it_looks(anchored: bool, embargo: int) -> None:
    returns = seeded()
    folds = walk_forward_folds(120, 24, 7, anchored, embargo)
    found = walk_forward(trials_of(returns, per_year=12), folds)
    outside, start = [], 24 + embargo
    for fold, step in zip(folds, found.steps, strict=True):
        train = returns[:, (0 if anchored else start - embargo - 24) : start - embargo]
        best = int(np.argmax([plain_sharpe(row) for row in train]))
        test = returns[best, start : start + 7]
        assert fold.test == (start, min(start + 7, 120))
        assert step.chosen == best
        assert step.in_sample == pytest.approx(plain_sharpe(train[best]) * math.sqrt(12), rel=1e-9)
        outside.append(test)
        start += 7
    stitched = np.concatenate(outside)
    assert len(stitched) == 120 - 24 - embargo
    assert found.out_of_sample == pytest.approx(plain_sharpe(stitched) * math.sqrt(12), rel=1e-9)
    assert found.growth == pytest.approx(np.prod(1 + stitched), rel=1e-9)
    assert found.efficiency == pytest.approx(
        found.out_of_sample / np.mean([step.in_sample for step in found.steps]), rel=1e-12
    )


def test_the_test_periods_never_choose() -> None:
    returns = seeded()
    folds = walk_forward_folds(120, 24, 6)
    chosen = [step.chosen for step in walk_forward(trials_of(returns), folds).steps]
    changed = returns.copy()
    changed[:, 60:] = np.random.default_rng(9).normal(0, 1, changed[:, 60:].shape) ** 2
    again = [step.chosen for step in walk_forward(trials_of(changed), folds).steps]
    assert again[:7] == chosen[:7]  # their training ends at period 60 or before
    assert again != chosen


def test_walk_forward_refuses_folds_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="need 31 periods"):
        walk_forward_folds(30, 30, 6)
    with pytest.raises(ConfigError, match="--test 0"):
        walk_forward_folds(30, 10, 0)


def test_a_trial_without_bars_is_never_chosen_and_a_flat_one_is_worth_nothing() -> None:
    returns = np.full((3, 40), -0.01) + np.random.default_rng(1).normal(0, 0.001, (3, 40))
    returns[1] = 0.0
    trials = trials_of(returns)
    trials.moments.n[2] = 0.0
    found = walk_forward(trials, walk_forward_folds(40, 20, 10))
    assert [step.chosen for step in found.steps] == [1, 1]  # doing nothing beats losing
    assert found.out_of_sample is None
    assert found.growth == 1.0
    trials.moments.n[:] = 0.0
    assert walk_forward(trials, walk_forward_folds(40, 20, 10)).steps[0].chosen is None


def test_combinatorial_paths_by_the_letter() -> None:
    returns = seeded()
    groups, k, purge, embargo = 6, 2, 1, 2
    found = cross_validate(trials_of(returns), groups, k, purge, embargo)
    per_group: dict[int, list[np.ndarray]] = {group: [] for group in range(groups)}
    for split in combinations(range(groups), k):
        train = np.ones(120, dtype=bool)
        for group in split:
            train[max(0, group * 20 - purge) : group * 20 + 20 + purge + embargo] = False
        best = int(np.argmax([plain_sharpe(row[train]) for row in returns]))
        for group in split:
            per_group[group].append(returns[best, group * 20 : group * 20 + 20])
    paths = [plain_sharpe(np.concatenate([per_group[g][j] for g in range(groups)])) for j in range(5)]
    assert found.splits == 15
    assert len(found.paths) == math.comb(6, 2) * 2 // 6 == 5
    assert found.paths == pytest.approx(sorted(paths), rel=1e-9)
    assert found.median == pytest.approx(np.median(paths), rel=1e-9)
    assert sum(count for _, count in found.chosen) == 15
    with pytest.raises(ConfigError, match="nothing to train on"):
        cross_validate(trials_of(returns), 6, 2, purge=60)
    with pytest.raises(ConfigError, match="--test-groups 6"):
        cross_validate(trials_of(returns), 6, 6)


# Noise and edge


def test_noise_is_called_noise() -> None:
    """A thousand trials without skill over ten years of months, six worlds of them.

    In each the winner of one half is as good as any other in the other half, so that PBO is 1/2 in the mean; one
    world's has a spread of some 0.1, since its splits share their blocks: six have 0.04, and 0.12 is three of them.
    """
    found = []
    for seed in range(6):
        returns = np.random.default_rng(seed).normal(0, 0.04, (1000, 120))
        found.append(overfitting(trials_of(returns), 10).pbo)
        sharpe = Moments.of(returns).sharpe
        track = Track.of(Moments.of(returns)[int(sharpe.argmax())])
        assert track is not None
        assert probabilistic_sharpe(track) > 0.99  # taken alone, the winner looks certain
        assert deflated_sharpe(track, 1000, sharpe.var(ddof=1)) < 0.95
    assert np.mean(found) == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize("correlation", [0.0, 0.7, 0.95])
def test_noise_is_seldom_called_more_than_luck(correlation: float) -> None:
    """Trials that share luck: 95 % are asked for, so that up to 5 % of the worlds may pass; of 100, 11 are 3 sigma."""
    alarms = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        shared, own = rng.normal(size=120), rng.normal(size=(200, 120))
        moments = Moments.of(0.04 * (math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own))
        sharpe = moments.sharpe
        track = Track.of(moments[int(sharpe.argmax())])
        assert track is not None
        alarms += deflated_sharpe(track, 200, sharpe.var(ddof=1)) > 0.95
    assert alarms <= 11


def test_an_edge_is_called_an_edge() -> None:
    """One trial of a thousand earns a yearly Sharpe ratio of 2.6: known in every half, beyond what luck brings."""
    returns = np.random.default_rng(0).normal(0, 0.04, (1000, 120))
    returns[417] += 0.03
    found = overfitting(trials_of(returns), 10)
    sharpe = Moments.of(returns).sharpe
    assert int(sharpe.argmax()) == 417
    assert found.pbo < 0.05
    assert found.loss < 0.05
    track = Track.of(Moments.of(returns)[417])
    assert track is not None
    assert deflated_sharpe(track, 1000, sharpe.var(ddof=1)) > 0.95
    forward = walk_forward(trials_of(returns, per_year=12), walk_forward_folds(120, 48, 12))
    assert sum(step.chosen == 417 for step in forward.steps) >= 4
    assert forward.out_of_sample > 1
