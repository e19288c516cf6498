"""A block of accounts: the bits of `execution.advance` over each symbol's present bars, in plain Python too."""

from __future__ import annotations

import numpy as np
import pytest
from prices import tick_walk

from atc_backtest.accounts import Bars, Rules, Saved, new_accounts
from atc_backtest.config import ExecutionConfig, RunConfig
from atc_backtest.execution import advance, advance_bars
from atc_backtest.pipelines.accounting import Room, advance_block

N_BARS = 400


@pytest.mark.parametrize("names", [("close",), ("open", "high", "low", "close"), ("high", "low", "close")])
def test_a_block_moves_accounts_as_their_present_bars_do(names: tuple[str, ...]) -> None:
    rng = np.random.default_rng(1)
    close = np.stack([tick_walk(N_BARS, seed) for seed in range(4)])
    close[1, :50] = close[2, ::3] = np.nan
    close[3] = np.nan
    factor = {"open": 1.001, "high": 1.01, "low": 0.99, "close": 1.0}
    fields = {name: close * factor[name] for name in names}
    signal = rng.uniform(-1, 1, close.shape)
    ts = np.arange(N_BARS) * 10**9
    execution = ExecutionConfig(fee_bps=5.0, slippage_bps=2.0, shorts=True)
    rules = Rules.of(RunConfig(execution=execution), 20, has_open="open" in names)
    block, alone = new_accounts(rules, 4), new_accounts(rules, 4)
    room, saved = Room.of(N_BARS, trades=True, exposure=True), Saved.room(N_BARS, exposure=True)

    for row in range(4):
        present = np.flatnonzero(~np.isnan(close[row]))
        bars = Bars(ts[present], signal=signal[row][present], **{name: fields[name][row][present] for name in names})
        closed = advance(alone[row], rules, bars, saved, advance_bars)
        rows = slice(row, row + 1)
        cut = {name: values[rows] for name, values in fields.items()}
        assert advance_block(block[rows], rules, ts, cut, signal[rows], room) == (present.size, closed, 0)
        assert np.array_equal(room.ts[: present.size], ts[present])
        assert np.array_equal(room.signal[: present.size], signal[row][present])
        assert np.array_equal(room.saved.position[: present.size], saved.position[: present.size])
        for name in ("equity", "exposure"):
            made, expected = (getattr(one, name)[: present.size].tobytes() for one in (room.saved, saved))
            assert made == expected
        assert room.saved.trades[:closed].tobytes() == saved.trades[:closed].tobytes()
    assert block.tobytes() == alone.tobytes()
    assert (alone["trades"] > 10).tolist() == [True, True, True, False]

    together = new_accounts(rules, 4)
    n_present, closed, _ = advance_block(together, rules, ts, fields, signal, room)
    assert (n_present, closed) == (np.count_nonzero(close == close), alone["trades"].sum())
    assert together.tobytes() == alone.tobytes()
