"""Choosing in one part of time and looking in another: walk-forward, combinatorial cross-validation, CSCV.

All from pieces of `Trials`, [trial, period]: how a set of periods is scored is a sum over its periods, so that
thousands of ways to cut time cost a multiplication each, and memory stays at trials x periods.

A choice takes the trial with the best score in the training periods, the first of equals. Scores: `sharpe`
(an account that never moved counts as 0) or `return` (the sum of logarithmic growth). A trial without two returns
in the training periods is never chosen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice

import numpy as np
from numpy.typing import NDArray

from atc_backtest.accounts import F64
from atc_backtest.errors import ConfigError, DataError
from atc_backtest.moments import Moments

Mask = NDArray[np.bool_]
SCORES = ("sharpe", "return")

MOST_SPLITS = 200_000
"""More ways to cut time than this are refused: nobody waits for them."""

_AT_A_TIME = 1 << 22
"""Scores held at once: splits times trials."""


@dataclass(frozen=True)
class Trials:
    """What is known of trials: `moments` and logarithmic `growth` of equity, [trial, period], time ascending.

    `ids`: the trials' param_ids. `per_year`: returns a year, one for each trial; it annualises their Sharpe ratios.
    """

    ids: NDArray[np.int64]
    starts: NDArray[np.int64]
    """Of the periods, ns UTC."""
    moments: Moments
    growth: F64
    per_year: F64

    @property
    def n_periods(self) -> int:
        return len(self.starts)

    def blocks(self, n: int) -> Trials:
        """The same in `n` blocks of neighbouring periods, as even as can be."""
        edges = np.linspace(0, self.n_periods, n + 1).round().astype(np.int64)
        growth = np.add.reduceat(self.growth, edges[:-1], axis=1)
        return Trials(self.ids, self.starts[edges[:-1]], self.moments.blocks(edges), growth, self.per_year)

    def annual(self, trial: int, moments: Moments) -> float | None:
        """Yearly Sharpe ratio of pieces of one trial; None where undefined."""
        sharpe = float(moments.pooled().sharpe) * math.sqrt(self.per_year[trial])
        return None if math.isnan(sharpe) else sharpe


@dataclass(frozen=True)
class Fold:
    """Half-open ranges of periods: where a trial is chosen, and where it is looked at."""

    train: tuple[int, int]
    test: tuple[int, int]


class Scores:
    """Scores of all trials over sets of periods: sums over periods of deviations from each trial's own mean."""

    def __init__(self, trials: Trials, by: str) -> None:
        if by not in SCORES:
            raise ConfigError(f"--by {by!r} is not allowed: choose from {', '.join(SCORES)}.")
        self._by, moments = by, trials.moments
        self._n = moments.n.T.copy()
        if by == "return":
            self._growth = trials.growth.T.copy()
            return
        _, self._mean, d = moments.centred()
        self._s1 = (moments.n * d).T.copy()
        self._s2 = (moments.m2 + moments.n * d**2).T.copy()
        scale = self._s2.sum(axis=0)
        self._floor = 1e-14 * scale

    @property
    def chunk(self) -> int:
        """Splits to score at once within bounded memory."""
        n_trials: int = self._n.shape[1]
        return max(1, _AT_A_TIME // max(1, n_trials))

    def of(self, masks: Mask) -> F64:
        """[split, trial] of masks [split, period]; -inf where a trial has fewer than two returns."""
        n = _sum(masks, self._n)
        if self._by == "return":
            return np.where(n < 2, -np.inf, _sum(masks, self._growth))
        s1, s2 = _sum(masks, self._s1), _sum(masks, self._s2)
        with np.errstate(divide="ignore", invalid="ignore"):
            squares = s2 - s1**2 / n
            sharpe = (self._mean + s1 / n) / np.sqrt(squares / (n - 1))
        return np.where(n < 2, -np.inf, np.where(squares > self._floor, sharpe, 0.0))


def _sum(masks: Mask, values: F64) -> F64:
    """Sums over periods; by einsum, whose order of additions does not depend on the machine's threads."""
    found: F64 = np.einsum("sp,pt->st", masks.astype(np.float64), values)
    return found


def _range(start: int, stop: int, n: int) -> Mask:
    at = np.arange(n)
    found: Mask = (at >= start) & (at < stop)
    return found


# Walk-forward


def walk_forward_folds(n_periods: int, train: int, test: int, anchored: bool = False, embargo: int = 0) -> list[Fold]:
    """Training periods, `embargo` periods left out, then `test` periods; and on by `test`. The last may be shorter.

    `anchored`: training always starts at the first period. `ConfigError` where not even one fold fits.
    """
    for name, value, least in (("--train", train, 1), ("--test", test, 1), ("--embargo", embargo, 0)):
        if value < least:
            raise ConfigError(f"{name} {value} is not allowed: at least {least} periods.")
    starts = range(train + embargo, n_periods, test)
    if not starts:
        raise ConfigError(
            f"--train {train}, --embargo {embargo} and one more period to test need {train + embargo + 1} periods; "
            f"there are {n_periods}: train on fewer, or save shorter ones with --period."
        )
    ends = [(start, start - embargo) for start in starts]
    return [Fold((0 if anchored else end - train, end), (start, min(start + test, n_periods))) for start, end in ends]


@dataclass(frozen=True)
class Step:
    """One fold: the chosen trial's param_id (None: no trial had two returns) and its yearly Sharpe ratios."""

    train: tuple[int, int]
    test: tuple[int, int]
    chosen: int | None
    in_sample: float | None
    out_of_sample: float | None


@dataclass(frozen=True)
class WalkForward:
    """All folds, and the test periods put one after another. Sharpe ratios are yearly.

    `efficiency`: the stitched Sharpe ratio over the mean in-sample one of the chosen sets; None unless that is
    above 0. `growth`: equity at the end over equity at the beginning, all test periods compounded.
    """

    steps: tuple[Step, ...]
    in_sample: float | None
    out_of_sample: float | None
    efficiency: float | None
    growth: float
    positive: int
    """Folds whose test periods have a Sharpe ratio above 0."""


def walk_forward(trials: Trials, folds: Sequence[Fold], by: str = "sharpe") -> WalkForward:
    """Choose in each fold's training periods and read the choice's test periods."""
    scores, steps, pieces, growth = Scores(trials, by), [], [], 0.0
    per_year = []
    for fold in folds:
        found = scores.of(_range(*fold.train, trials.n_periods)[None])[0]
        best = int(np.argmax(found))
        if found[best] == -np.inf:
            steps.append(Step(fold.train, fold.test, None, None, None))
            continue
        inside, outside = (trials.moments[best, slice(*part)] for part in (fold.train, fold.test))
        steps.append(
            Step(
                fold.train,
                fold.test,
                int(trials.ids[best]),
                trials.annual(best, inside),
                trials.annual(best, outside),
            )
        )
        pieces.append(outside.pooled())
        growth += float(trials.growth[best, slice(*fold.test)].sum())
        per_year.append(float(trials.per_year[best]))
    return _stitched(steps, pieces, per_year, growth)


def _stitched(steps: list[Step], pieces: list[Moments], per_year: list[float], growth: float) -> WalkForward:
    outside = None
    if pieces:
        sharpe = float(Moments.stacked(pieces).pooled().sharpe) * math.sqrt(float(np.mean(per_year)))
        outside = None if math.isnan(sharpe) else sharpe
    known = [step.in_sample for step in steps if step.in_sample is not None]
    inside = float(np.mean(known)) if known else None
    efficiency = outside / inside if outside is not None and inside is not None and inside > 0 else None
    positive = sum(step.out_of_sample is not None and step.out_of_sample > 0 for step in steps)
    return WalkForward(tuple(steps), inside, outside, efficiency, math.exp(growth), positive)


# Purged combinatorial cross-validation


@dataclass(frozen=True)
class CrossValidation:
    """`paths`: yearly Sharpe ratio of each path through all groups, ascending; None where it is undefined.

    `chosen`: how often each param_id was chosen over all splits, most often first.
    """

    groups: int
    test_groups: int
    splits: int
    paths: tuple[float | None, ...]
    median: float | None
    negative: float
    """Share of the paths whose Sharpe ratio is not above 0; undefined ones count as 0."""
    chosen: tuple[tuple[int, int], ...]


def cross_validate(
    trials: Trials, groups: int, test_groups: int, purge: int = 0, embargo: int = 0, by: str = "sharpe"
) -> CrossValidation:
    """Every choice of `test_groups` of `groups` is tested with the trial that the other groups choose.

    López de Prado, "Advances in Financial Machine Learning" (2018), chapter 12. `purge`: periods on either side of a
    test group that do not train; `embargo`: further ones after it. Path j takes each group as its j-th split
    tested it: C(groups, test_groups) * test_groups / groups paths.
    """
    edges = _groups(trials.n_periods, groups)
    if not 1 <= test_groups < groups:
        raise ConfigError(f"--test-groups {test_groups} is not allowed: from 1 to {groups - 1}, fewer than --groups.")
    _check_splits(math.comb(groups, test_groups))
    if purge < 0 or embargo < 0:
        raise ConfigError(f"--purge {purge} and --embargo {embargo}: at least 0 periods each.")
    splits = list(combinations(range(groups), test_groups))
    picks = _picks(trials, splits, edges, purge, embargo, by)
    per_group = trials.moments.blocks(edges)
    tested: list[list[int]] = [[] for _ in range(groups)]  # group -> the trial that each of its splits chose
    for split, pick in zip(splits, picks, strict=True):
        for group in split:
            tested[group].append(pick)
    n_paths = len(tested[0])
    found = []
    for path in range(n_paths):
        pieces = Moments.stacked([per_group[tested[group][path], group] for group in range(groups)])
        found.append(trials.annual(tested[0][path], pieces))
    values = sorted(found, key=lambda value: -math.inf if value is None else value)
    as_numbers = np.array([0.0 if value is None else value for value in values])
    ids, counts = np.unique(trials.ids[picks], return_counts=True)
    order = sorted(zip(counts.tolist(), ids.tolist(), strict=True), key=lambda pair: (-pair[0], pair[1]))
    return CrossValidation(
        groups,
        test_groups,
        len(splits),
        tuple(values),
        float(np.median(as_numbers)),
        float((as_numbers <= 0).mean()),
        tuple((trial, count) for count, trial in order),
    )


def _picks(
    trials: Trials, splits: list[tuple[int, ...]], edges: NDArray[np.int64], purge: int, embargo: int, by: str
) -> NDArray[np.int64]:
    """The trial that each split's training periods choose. `ConfigError` where purging leaves none to train on."""
    scores = Scores(trials, by)
    picks: list[int] = []
    for some in _chunks(iter(splits), scores.chunk):
        masks = np.ones((len(some), trials.n_periods), dtype=bool)
        for mask, split in zip(masks, some, strict=True):
            for group in split:
                mask[max(0, edges[group] - purge) : edges[group + 1] + purge + embargo] = False
        found = scores.of(masks)
        if (found == -np.inf).all(axis=1).any():
            raise ConfigError(
                f"--purge {purge} and --embargo {embargo} leave a split nothing to train on: "
                f"{trials.n_periods} periods in {len(edges) - 1} groups are too few for them."
            )
        picks += found.argmax(axis=1).tolist()
    return np.array(picks, dtype=np.int64)


def _groups(n_periods: int, groups: int) -> NDArray[np.int64]:
    if not 2 <= groups <= n_periods:
        raise ConfigError(f"--groups {groups} is not allowed: from 2 to {n_periods}, the periods there are.")
    return np.linspace(0, n_periods, groups + 1).round().astype(np.int64)


def _check_splits(n: int) -> None:
    if n > MOST_SPLITS:
        raise ConfigError(f"{n:,} ways to split are more than {MOST_SPLITS:,}: use fewer groups.")


def _chunks(items: Iterator[tuple[int, ...]], size: int) -> Iterator[list[tuple[int, ...]]]:
    while some := list(islice(items, size)):
        yield some


# The probability of backtest overfitting


@dataclass(frozen=True)
class Overfitting:
    """What CSCV finds. Sharpe ratios are yearly where it went by them; `slope` of out of sample over in sample.

    `pbo`: share of the splits where the trial that was best in one half is in the lower half (logit <= 0) of the
    other. `loss`: share where it made no gain there (score below 0). `logits`: their deciles 0, 10, .. 100 %.
    """

    trials: int
    blocks: int
    splits: int
    pbo: float
    slope: float | None
    loss: float
    in_sample: float
    out_of_sample: float
    logits: tuple[float, ...]


def overfitting(trials: Trials, blocks: int = 16, by: str = "sharpe") -> Overfitting:
    """Combinatorially symmetric cross-validation from block sums (Bailey, Borwein, López de Prado, Zhu 2017).

    Every half of the blocks chooses, the other half ranks the choice among all trials; ties take the mean rank.
    `trials` may already be in blocks. `ConfigError` for an odd number of blocks, `DataError` for fewer than two
    trials.
    """
    if blocks < 2 or blocks % 2 or blocks > trials.n_periods:
        raise ConfigError(f"--blocks {blocks} is not allowed: an even number from 2 to {trials.n_periods} (periods).")
    if len(trials.ids) < 2:
        raise DataError("one trial cannot be overfitted by choosing: PBO needs a run of several parameter sets.")
    _check_splits(math.comb(blocks, blocks // 2))
    scores = Scores(trials.blocks(blocks) if blocks < trials.n_periods else trials, by)
    inside, outside, ranks = [], [], []
    for some in _chunks(combinations(range(blocks), blocks // 2), scores.chunk):
        masks = np.zeros((len(some), blocks), dtype=bool)
        for mask, half in zip(masks, some, strict=True):
            mask[list(half)] = True
        chosen, other = scores.of(masks), scores.of(~masks)
        pick = chosen.argmax(axis=1)[:, None]
        theirs = np.take_along_axis(other, pick, axis=1)
        scale = np.sqrt(trials.per_year[pick[:, 0]]) if by == "sharpe" else 1.0
        inside.append(np.take_along_axis(chosen, pick, axis=1)[:, 0] * scale)
        outside.append(theirs[:, 0] * scale)
        ranks.append((other < theirs).sum(axis=1) + ((other == theirs).sum(axis=1) + 1) / 2)
    return _overfitting(len(trials.ids), blocks, *(np.concatenate(part) for part in (inside, outside, ranks)))


def _overfitting(n_trials: int, blocks: int, inside: F64, outside: F64, ranks: F64) -> Overfitting:
    if not (np.isfinite(inside).all() and np.isfinite(outside).all()):
        raise DataError("half of the time holds fewer than two returns of a trial: use fewer blocks or a longer run.")
    share = ranks / (n_trials + 1)
    logits = np.log(share / (1 - share))
    moved = inside - inside.mean()
    spread = float((moved**2).sum())
    return Overfitting(
        n_trials,
        blocks,
        len(ranks),
        pbo=float((logits <= 0).mean()),
        slope=float((moved * (outside - outside.mean())).sum() / spread) if spread > 0 else None,
        loss=float((outside < 0).mean()),
        in_sample=float(inside.mean()),
        out_of_sample=float(outside.mean()),
        logits=tuple(np.quantile(logits, np.linspace(0, 1, 11)).tolist()),
    )
