"""Poisoned futures: planted bugs are caught, clean functions and our kernels raise no alarm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accounting import make_rules, play
from filling import fill_store
from numpy.typing import NDArray
from prices import tick_walk

from atc_backtest.accounts import Bars
from atc_backtest.causality import Arrays, check_causality
from atc_backtest.config import AtcConfig, ExecutionConfig, RunConfig
from atc_backtest.errors import ConfigError, DataError
from atc_backtest.kernels import KERNELS
from atc_backtest.kernels.protocol import Kernel
from atc_backtest.pipelines.guards import causal
from atc_backtest.reference import atc

F64 = NDArray[np.float64]


def ohlc(n: int = 300, seed: int = 0) -> Arrays:
    close = tick_walk(n, seed)
    opened = np.concatenate([close[:1], close[:-1] + 0.01])
    return {
        "open": opened,
        "high": np.maximum(opened, close) + 0.05,
        "low": np.minimum(opened, close) - 0.05,
        "close": close,
    }


def mean_before(values: F64, n: int) -> F64:
    """Mean of the last n values, this one included; NaN before there are n."""
    found = np.full(values.shape, np.nan)
    found[n - 1 :] = np.lib.stride_tricks.sliding_window_view(values, n).mean(axis=-1)
    return found


def side(bars: Arrays) -> NDArray[np.int8]:
    return (bars["close"] > mean_before(bars["close"], 10)).astype(np.int8)


def shifted(values: NDArray[Any], by: int) -> NDArray[Any]:
    """Later by `by` bars, or earlier when it is negative; zeros where nothing is known."""
    found = np.zeros_like(values)
    if by > 0:
        found[by:] = values[:-by]
    else:
        found[:by] = values[-by:]
    return found


def clean(bars: Arrays) -> dict[str, NDArray[Any]]:
    held = shifted(side(bars), 1)
    returns = np.diff(bars["close"], prepend=bars["close"][:1]) / bars["close"]
    return {"signal": side(bars), "held": held, "equity": np.cumsum(held * returns)}


def peeking(bars: Arrays) -> dict[str, NDArray[Any]]:
    """shift(-1): tomorrow's signal."""
    return {"signal": shifted(side(bars), -1)}


def same_bar(bars: Arrays) -> dict[str, NDArray[Any]]:
    """The bar whose close decides is held from its open on: no later bar is looked at."""
    return {"signal": side(bars), "held": side(bars)}


def centred(bars: Arrays) -> NDArray[Any]:
    return shifted(mean_before(bars["close"], 9), -4)


def normalised(bars: Arrays) -> NDArray[Any]:
    """By the mean and deviation of the whole sample."""
    close = bars["close"]
    return (close - np.nanmean(close)) / np.nanstd(close)


def filled_backwards(bars: Arrays) -> NDArray[Any]:
    """A gap takes the next bar's value."""
    found = mean_before(bars["close"], 5)
    for at in range(len(found) - 2, -1, -1):
        if np.isnan(found[at]) or at % 7 == 3:
            found[at] = found[at + 1]
    return found


@pytest.mark.parametrize("bug", [peeking, same_bar, centred, normalised, filled_backwards])
@pytest.mark.parametrize("seed", range(5))
def test_planted_bugs_are_caught(bug: Callable[[Arrays], Any], seed: int) -> None:
    assert check_causality(bug, ohlc(seed=seed), seed=seed) != ()


@pytest.mark.parametrize("seed", range(20))
def test_a_clean_function_raises_no_alarm(seed: int) -> None:
    assert check_causality(clean, ohlc(seed=seed), points=10, seed=seed) == ()
    assert check_causality(clean, {"close": tick_walk(60, seed)}, seed=seed) == ()


def test_a_leak_says_where_it_is() -> None:
    leaks = check_causality(peeking, ohlc(), points=range(50, 250), poisons=["nan"])
    assert leaks[0].output == "signal"
    assert all(leak.bar == leak.known for leak in leaks)
    found = check_causality(same_bar, ohlc(), points=range(50, 250))
    assert {leak.output for leak in found} == {"held"}
    assert all(leak.poison in ("higher", "lower") and leak.bar == leak.known + 1 for leak in found)
    assert "held[" in str(found[0])


def test_only_within_a_bar_does_a_fill_in_the_same_bar_show() -> None:
    assert check_causality(same_bar, ohlc(), points=50, poisons=["nan", "huge", "random"]) == ()


def test_the_functions_own_changes_do_not_count() -> None:
    def greedy(bars: Arrays) -> F64:
        bars["close"] *= 2
        return bars["close"]

    assert check_causality(greedy, ohlc()) == ()


def test_what_cannot_be_checked_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="two calls"):
        check_causality(lambda bars: rng.normal(size=300), ohlc())
    with pytest.raises(DataError, match="one value a bar"):
        check_causality(lambda bars: bars["close"][:-1], ohlc())
    with pytest.raises(DataError, match="one length"):
        check_causality(clean, {"close": np.ones(10), "open": np.ones(9)})
    with pytest.raises(ConfigError, match="points = 0"):
        check_causality(clean, ohlc(), points=0)
    with pytest.raises(ConfigError, match="0 to 298"):
        check_causality(clean, ohlc(), points=[299])
    with pytest.raises(ConfigError, match="poisons"):
        check_causality(clean, ohlc(), poisons=["arsenic"])


def played(bars: Arrays, signal: F64, fill: str) -> dict[str, NDArray[Any]]:
    """Position and what is held when our account trades this signal."""
    present = ~np.isnan(bars["close"])
    columns = {name: np.ascontiguousarray(values[present]) for name, values in bars.items()}
    ts = np.arange(int(present.sum()), dtype=np.int64) * 3_600_000_000_000
    found = play(make_rules(fill=fill, shorts=True), Bars(ts, columns.pop("close"), signal[present].copy(), **columns))
    held, position = np.zeros(len(present), np.int8), np.zeros(len(present), np.int8)
    position[: len(ts)] = found.position
    for trade in [*found.trades, *found.open]:
        stop = trade["exit_bar"] if trade["reason"] else len(present)
        held[trade["entry_bar"] : stop] = trade["side"]
    return {"position": position, "held": held}


@pytest.mark.parametrize("fill", ["next_open", "next_close"])
def test_our_account_fills_after_it_knows_and_bugs_around_it_are_caught(fill: str) -> None:
    config = AtcConfig()

    def ours(bars: Arrays) -> dict[str, NDArray[Any]]:
        return played(bars, atc(bars["close"], config).signal, fill)

    def early(bars: Arrays) -> dict[str, NDArray[Any]]:
        return played(bars, np.append(atc(bars["close"], config).signal[1:], np.nan), fill)

    assert check_causality(ours, ohlc(160), points=12) == ()
    assert check_causality(early, ohlc(160), points=range(40, 158, 5), poisons=["random"]) != ()


def test_a_fill_at_the_deciding_close_is_seen_as_what_it_is() -> None:
    """The optimistic policy: fine as a close's own price, but not known before that close."""
    config = AtcConfig()
    leaks = check_causality(
        lambda bars: played(bars, atc(bars["close"], config).signal, "close"), ohlc(160), points=range(40, 158, 5)
    )
    assert {leak.output for leak in leaks} == {"held"}


# Our kernels


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("causal") / "prices.zarr"
    close = np.stack([tick_walk(400, seed) for seed in range(4)])
    close[1, 50:300:9] = np.nan
    close[3, 5:] = np.nan  # too short to be drawn
    fill_store(path, close)
    return path


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(
    "execution",
    [
        {},
        {"shorts": True, "fill": "next_close", "delay_bars": 1},
        {"fill": "close", "fee_bps": 5.0},
        {"stop_loss": "2atr", "trailing_stop": "3%", "shorts": True, "funding_bps": 1.0},
    ],
)
def test_kernels_know_no_future(
    store: Path, name: str, execution: dict[str, Any], need_kernel: Callable[[str], Kernel]
) -> None:
    need_kernel(name)
    config = RunConfig(AtcConfig(), ExecutionConfig(**execution), calendar="24/7")
    points = 3 if name == "reference" else 12
    checked = causal.check_kernels(store, config, [name], 4, points, seed=1, n_bars=150 if name == "reference" else 400)
    assert [one.symbol for one in checked] == ["S000", "S001", "S002"]
    assert [one.leaks for one in checked] == [(), (), ()]
    assert ("held" in checked[0].outputs) == (execution.get("fill") != "close" and "stop_loss" not in execution)
    assert {"signal", "position", "equity"} <= set(checked[0].outputs)


def test_a_kernel_that_peeks_is_caught(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real pipeline over a kernel whose signals are one bar early."""
    from atc_backtest.kernels.reference import ReferenceKernel

    honest = ReferenceKernel.advance

    def early(self: Any, state: Any, prices: Any, outputs: Any) -> None:
        honest(self, state, prices, outputs)
        outputs.signal[..., :-1] = outputs.signal[..., 1:].copy()

    monkeypatch.setattr(ReferenceKernel, "advance", early)
    checked = causal.check_kernels(store, RunConfig(calendar="24/7"), ["reference"], ["S000"], 12, n_bars=150)
    assert {leak.output for leak in checked[0].leaks} >= {"signal"}


def test_kernels_are_named_or_all(store: Path, need_kernel: Callable[[str], Kernel]) -> None:
    need_kernel("numba")
    assert "reference" in causal.available("all")
    assert causal.available("numba") == ("numba",)
    with pytest.raises(ConfigError, match="unknown kernel"):
        causal.available("abacus")
    with pytest.raises(ConfigError, match="--bars 5"):
        causal.check_kernels(store, RunConfig(), ["numba"], n_bars=5)
