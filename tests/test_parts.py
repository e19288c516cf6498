"""Tables of parts: what rows of trades look like, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from accounting import DAY_NS, make_bars, make_rules, play
from numpy.typing import NDArray

from atc_backtest.accounts import TRADE
from atc_backtest.metrics import TRADE_COLUMNS, Value
from atc_backtest.pipelines import parts
from atc_backtest.pipelines.parts import EQUITY_SCHEMA, PartWriter, series_table, trades_table


def trade_columns(trades: NDArray[np.void]) -> dict[str, list[Value]]:
    """The table of trades of ABC's set 7 as plain values, times as integers."""
    table = trades_table("ABC", 7, trades)
    whole = {name: table[name].cast("int64") for name in table.column_names if name.endswith("_ts")}
    return {name: whole.get(name, table[name]).to_pylist() for name in table.column_names}


def test_trade_columns() -> None:
    rules = make_rules(fill="close", shorts=True)
    played = play(rules, make_bars([10, 11, 10, 12], [1, -1, 0, 1]))
    columns = trade_columns(np.concatenate((played.trades, played.open)))
    assert list(columns) == list(TRADE_COLUMNS)
    assert columns["symbol"] == ["ABC"] * 3
    assert columns["param_id"] == [7] * 3
    assert columns["trade_id"] == [0, 1, 2]
    assert columns["side"] == ["long", "short", "long"]
    assert columns["exit_reason"] == ["reversal", "signal", None]
    assert columns["status"] == ["closed", "closed", "open"]
    assert columns["entry_bar"] == [0, 1, 3]
    assert columns["exit_bar"] == [1, 2, None]
    assert columns["exit_ts"] == [DAY_NS, 2 * DAY_NS, None]
    assert columns["exit_price"] == [11, 10, None]
    assert columns["exit_fee"] == [0, 0, None]
    assert columns["bars"] == [1, 1, 0]
    none = trade_columns(np.zeros(0, TRADE))
    assert none == {name: [] for name in TRADE_COLUMNS}


def test_a_table_of_one_trade_keeps_its_values_when_the_array_is_filled_again() -> None:
    trades = np.zeros(1, TRADE)
    trades["pnl"], trades["entry_bar"] = 1.5, 7
    table = trades_table("ABC", 7, trades)
    trades["pnl"], trades["entry_bar"] = -2.5, 8
    assert (table["pnl"].to_pylist(), table["entry_bar"].to_pylist()) == ([1.5], [7])


def test_no_row_group_is_a_small_one_but_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "ROW_GROUP", 1_000)
    n_rows = 300
    with PartWriter(tmp_path / "run" / "equity" / "part-00000.parquet", EQUITY_SCHEMA) as writer:
        for block in range(10):
            columns = {"ts": np.arange(n_rows), "equity": np.full(n_rows, float(block))}
            writer.write(series_table(EQUITY_SCHEMA, "ABC", 7, columns))
        assert writer.finish().rows == 10 * n_rows
        writer.publish()
    found = pq.ParquetFile(writer.path).metadata
    assert [found.row_group(at).num_rows for at in range(found.num_row_groups)] == [1_200, 1_200, 600]
