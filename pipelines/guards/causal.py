"""Our own kernels and accounts, held to `causality`: what they say up to a bar does not change with what follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atc_backtest.accounts import CLOSE
from atc_backtest.causality import HELD, POISONS, Arrays, Leak, check_causality
from atc_backtest.config import STOPS, RunConfig
from atc_backtest.errors import ConfigError, UnavailableError
from atc_backtest.execution import open_trade
from atc_backtest.kernels import KERNELS, get_kernel
from atc_backtest.pipelines.accounting import Advanced
from atc_backtest.pipelines.guards.playing import Player
from atc_backtest.pipelines.slabs import I64, Slab
from atc_backtest.stores.opening import open_store

WANTS = ("signals", "equity", "trades")


@dataclass(frozen=True)
class Checked:
    """One kernel over one symbol: nothing leaked where `leaks` is empty. `bars`: so many, from its first."""

    kernel: str
    symbol: str
    bars: int
    outputs: tuple[str, ...]
    leaks: tuple[Leak, ...]


def available(kernels: str) -> tuple[str, ...]:
    """`all` kernels that are installed, or the named one; errors as those of `get_kernel`."""
    if kernels != "all":
        return (get_kernel(kernels).name,)
    found = []
    for name in KERNELS:
        try:
            found.append(get_kernel(name).name)
        except UnavailableError:
            continue
    return tuple(found)


def check_kernels(
    place: str | Path,
    config: RunConfig,
    kernels: Sequence[str],
    symbols: Sequence[str] | int = 3,
    points: int = 8,
    seed: int = 0,
    n_bars: int = 500,
    show: Callable[[int, int], None] = lambda done, total: None,
) -> list[Checked]:
    """Every kernel over every symbol: signal, position, equity, and what is held, under all poisons.

    `symbols`: names, or how many to draw by `seed`. `n_bars`: of each, its first ones; a state machine that is
    causal there is causal everywhere. `show` is given checks done and in all.
    """
    if n_bars < 10:
        raise ConfigError(f"--bars {n_bars} is not allowed: at least 10.")
    names = tuple(symbol.name for symbol in open_store(place).info.symbols if symbol.n_bars >= 10)
    chosen = sampled(names, symbols, seed) if isinstance(symbols, int) else tuple(symbols)
    checked = []
    for kernel in kernels:
        player = Player.of(place, [config], chosen, kernel)
        for symbol in chosen:
            checked.append(_checked(player, symbol, points, seed, n_bars))
            show(len(checked), len(kernels) * len(chosen))
    return checked


def sampled(names: Sequence[str], n: int, seed: int) -> tuple[str, ...]:
    """`n` of the names, or all where there are fewer, in their order; `ConfigError` for fewer than one."""
    if n < 1 or not names:
        raise ConfigError(f"{n} of {len(names)} symbols: at least one is needed.")
    picked = np.random.default_rng(seed).permutation(len(names))[:n]
    return tuple(names[at] for at in sorted(picked.tolist()))


def _checked(player: Player, symbol: str, points: int, seed: int, n_bars: int) -> Checked:
    position = player.job.symbols.index(symbol)
    slab = player.bars(position, WANTS, n_bars)
    stream = player.stream(position, 1, WANTS)
    # With a stop, a position may rightly end within the bar that shows the price; a fill at the deciding close is
    # known with that close only.
    stopped = any(getattr(stream.sets[0].execution, name) is not None for name in STOPS)
    early = not (stopped or stream.rules[0].fill == CLOSE)

    def outputs(bars: Arrays) -> dict[str, NDArray[Any]]:
        found = _outputs(player, position, slab.ts, bars)
        return found if early else {name: values for name, values in found.items() if name != HELD}

    bars = {name: values[0] for name, values in slab.fields.items()}
    leaks = check_causality(outputs, bars, points, seed, poisons=POISONS)
    return Checked(player.job.kernel, symbol, len(slab.ts), tuple(outputs(bars)), leaks)


def _outputs(player: Player, position: int, ts: I64, bars: Arrays) -> dict[str, NDArray[Any]]:
    """What kernel and account say of these bars, a value a bar; `held` is the side of the position after its fills."""
    n = len(ts)
    present = np.flatnonzero(~np.isnan(bars["close"]))
    found: dict[str, NDArray[Any]] = {
        "signal": np.full(n, np.nan),
        "position": np.zeros(n, np.int8),
        "equity": np.full(n, np.nan),
        HELD: np.zeros(n, np.int8),
    }
    stream = player.stream(position, 1, WANTS)
    seen, trades = 0, []

    def take(rows: slice, at: int, advanced: Advanced) -> None:
        nonlocal seen
        where = present[seen : seen + advanced.bars]
        found["signal"][where] = stream.room.signal[: advanced.bars]
        found["position"][where] = stream.room.saved.position[: advanced.bars]
        found["equity"][where] = stream.room.saved.equity[: advanced.bars]
        trades.append(stream.room.saved.trades[: advanced.trades].copy())
        seen += advanced.bars

    player.play(stream, Slab(ts, {name: values[None] for name, values in bars.items()}), take)
    still = open_trade(stream.accounts[0][0])
    for trade in np.concatenate(trades):
        found[HELD][present[trade["entry_bar"] : trade["exit_bar"]]] = trade["side"]
    for trade in still:
        found[HELD][present[trade["entry_bar"] :]] = trade["side"]
    return found
