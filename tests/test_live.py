"""A state saved is a state continued; live is the batch, bar by bar."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prices import tick_walk

from atc_backtest.config import AtcConfig
from atc_backtest.errors import DataError
from atc_backtest.kernels import get_kernel
from atc_backtest.kernels.checkpoint import SPEC, from_bytes, symbols_of, to_bytes
from atc_backtest.kernels.protocol import Kernel, Outputs, Prices, State
from atc_backtest.live import Live
from atc_backtest.reference import atc

CONFIGS = [AtcConfig(), AtcConfig(profile="pine", cutout=40), AtcConfig(lambda_=0.5)]


def market(n_bars: int = 150) -> np.ndarray:
    close = np.stack([tick_walk(n_bars, seed) for seed in range(3)])
    close[1, ::6] = np.nan
    close[2, :70] = np.nan
    return close


def advanced(close: np.ndarray, kernel: str = "auto") -> State:
    chosen = get_kernel(kernel)
    state = chosen.new_state(CONFIGS, close.shape[0])
    chosen.advance(state, Prices(close), Outputs())
    return state


def test_live_is_the_reference_bar_by_bar() -> None:
    close = market()
    live = Live(CONFIGS, ["a", "b", "c"])
    got = np.stack([live.update(bar) for bar in close.T], axis=-1)
    for c, config in enumerate(CONFIGS):
        for symbol in range(3):
            assert np.array_equal(got[c, symbol], atc(close[symbol], config).signal, equal_nan=True)
    assert live.bars.tolist() == np.count_nonzero(~np.isnan(close), axis=1).tolist()


@pytest.mark.parametrize("kernel", ["auto", "numba"])
def test_one_symbol_at_a_time_is_all_at_once(kernel: str) -> None:
    close = market()
    names = ["a", "b", "c"]
    together, apart = Live(CONFIGS, names, kernel), Live(CONFIGS, names, kernel)
    for bar in close.T:
        all_signals = together.update(bar)
        for symbol, price in enumerate(bar):
            if not np.isnan(price):
                signals = apart.update({names[symbol]: price})
                assert np.array_equal(signals[:, symbol], all_signals[:, symbol], equal_nan=True)
                assert np.isnan(np.delete(signals, symbol, axis=1)).all()


@pytest.mark.parametrize("level", ["avx512", "avx2", "portable"])
def test_following_is_the_batch_on_every_level(need_kernel: Callable[[str], Kernel], level: str) -> None:
    """Whole groups, groups with absent symbols, and histories that outgrow their room many times."""
    need_kernel("rust")
    from atc_backtest.kernels import _rust
    from atc_backtest.kernels.rust import RustKernel

    if level not in _rust.levels():
        pytest.skip(f"this processor has no {level}")
    kernel = RustKernel(level)
    close = np.stack([tick_walk(260, seed) for seed in range(19)])
    close[11:, ::5] = close[17, 100:] = np.nan
    outputs = Outputs.allocate(["signal"], len(CONFIGS), *close.shape)
    whole = kernel.new_state(CONFIGS, 19)
    kernel.advance(whole, Prices(close), outputs)
    follower = kernel.follow(kernel.new_state(CONFIGS, 19))
    for bar, prices in enumerate(close.T):
        got = follower.update(np.ascontiguousarray(prices))
        assert outputs.signal is not None
        assert np.array_equal(got, outputs.signal[:, :, bar], equal_nan=True), bar
    assert to_bytes(follower.state()) == to_bytes(whole)


def test_growth_goes_on_beyond_the_table_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atc_backtest.kernels.rust.AHEAD", 7)
    configs = [AtcConfig(lambda_=5.0, growth_horizon=None), AtcConfig(lambda_=5.0, growth_horizon=90)]
    close = tick_walk(200, 1)[None]
    live = Live(configs, ["a"])
    got = np.stack([live.update({"a": price}) for price in close[0]], axis=-1)
    for c, config in enumerate(configs):
        assert np.array_equal(got[c, 0], atc(close[0], config).signal, equal_nan=True)


def test_warm_up_then_live_equals_live_from_the_start() -> None:
    close = market()
    slow, quick = Live(CONFIGS, ["a", "b", "c"]), Live(CONFIGS, ["a", "b", "c"])
    last = [slow.update(bar) for bar in close[:, :100].T][-1]
    quick.warm_up(close[:, :37])
    assert np.array_equal(quick.warm_up(close[:, 37:100]), last, equal_nan=True)
    assert np.array_equal(slow.update(close[:, 100]), quick.update(close[:, 100]), equal_nan=True)


@settings(max_examples=10)
@given(cut=st.integers(0, 150))
def test_saved_and_loaded_goes_on_as_if_never_stopped(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("live") / "state.atc"
    close = market()
    whole, first = Live(CONFIGS, ["a", "b", "c"]), Live(CONFIGS, ["a", "b", "c"], kernel="numba")
    whole.warm_up(close[:, :cut])
    first.warm_up(close[:, :cut])
    first.save(path)
    loaded = Live.load(path)
    assert loaded.symbols == ("a", "b", "c")
    assert loaded.configs == tuple(CONFIGS)
    assert np.array_equal(whole.warm_up(close[:, cut:]), loaded.warm_up(close[:, cut:]), equal_nan=True)


def test_bytes_round_trip_and_do_not_depend_on_the_kernel() -> None:
    state = advanced(market())
    blob = to_bytes(state, ["a", "b", "c"])
    assert to_bytes(from_bytes(blob, CONFIGS), ["a", "b", "c"]) == blob
    assert symbols_of(blob) == ("a", "b", "c")
    assert to_bytes(advanced(market(), "numba")) == to_bytes(state)


@settings(max_examples=60)
@given(data=st.data())
def test_any_damage_is_refused(data: st.DataObject) -> None:
    blob = to_bytes(advanced(market(60)))
    at = data.draw(st.integers(0, len(blob) - 1))
    flipped = bytearray(blob)
    flipped[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(DataError):
        from_bytes(bytes(flipped))
    with pytest.raises(DataError):
        from_bytes(blob[:at])


def test_other_versions_specifications_and_configurations_are_named() -> None:
    blob = to_bytes(advanced(market(60)))

    def sealed(body: bytes) -> bytes:
        return body + hashlib.sha256(body).digest()

    with pytest.raises(DataError, match="layout version 9, this program reads 1"):
        from_bytes(sealed(blob[:8] + (9).to_bytes(4, "little") + blob[12:-32]))
    other = blob[:-32].replace(b'"spec": "atc-1"', b'"spec": "atc-7"')
    with pytest.raises(DataError, match=f"specification 'atc-7', this program '{SPEC}'"):
        from_bytes(sealed(other))
    with pytest.raises(DataError, match=r"set 1 has cutout = 40, asked for is 41"):
        from_bytes(blob, [CONFIGS[0], AtcConfig(profile="pine", cutout=41), CONFIGS[2]])
    with pytest.raises(DataError, match="holds 3, asked for are 1"):
        from_bytes(blob, CONFIGS[:1])
    with pytest.raises(DataError, match="not a saved ATC state"):
        from_bytes(b"PK\x03\x04" + bytes(100))


def test_refused_prices_leave_the_state_as_it_was(tmp_path: Path) -> None:
    live = Live(CONFIGS, ["a", "b"])
    live.update([100.0, 200.0])
    live.save(tmp_path / "before")
    with pytest.raises(DataError, match="unknown symbol 'z'"):
        live.update({"a": 1.0, "z": 1.0})
    with pytest.raises(DataError, match=r"close\[symbol 1, bar 0\] = .*-1.0"):
        live.update([1.0, -1.0])
    with pytest.raises(DataError, match=r"shape \(3,\): give one per symbol, \(2,\)"):
        live.update([1.0, 2.0, 3.0])
    live.save(tmp_path / "after")
    assert (tmp_path / "before").read_bytes() == (tmp_path / "after").read_bytes()
    with pytest.raises(DataError, match="named more than once: a"):
        Live(CONFIGS, ["a", "b", "a"])
    with pytest.raises(DataError, match="cannot read the live state"):
        Live.load(tmp_path / "absent")
