"""Prices in memory: every form is the run of the command, bit for bit; what no store can hold is refused."""

from __future__ import annotations

import tempfile
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from frames import CLOSES, COSTS, INDEX, SERIES, SYMBOLS, WIDE
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from prices import NAN, ohlcv, same, tick_walk
from typer.testing import CliRunner

import atc_backtest as atc
from atc_backtest.api.frames import panel_of, write_store
from atc_backtest.api.times import Times
from atc_backtest.cli import app
from atc_backtest.stores.base import FIELDS
from atc_backtest.stores.ingest import IngestOptions, ingest


def whole_bars() -> dict[str, pd.DataFrame]:
    """Open to volume of each symbol, rows without a bar left out."""
    fields = dict(zip(("close", "open", "high", "low", "volume"), ohlcv(3, 300), strict=True))
    frames = {}
    for at, name in enumerate(SYMBOLS):
        frame = pd.DataFrame({field: fields[field][at] for field in FIELDS}, INDEX)
        frames[name] = frame.dropna(subset=["open", "high", "low", "close"])
    return frames


def of_command(tmp_path: Path, frame: pd.DataFrame, *more: str) -> atc.Run:
    """The same prices through a file, `ingest` and `backtest`."""
    frame.to_parquet(tmp_path / "prices.parquet", index=False)
    ingest([tmp_path / "prices.parquet"], tmp_path / "prices.zarr", IngestOptions())
    args = ["backtest", tmp_path / "prices.zarr", "--out", tmp_path / "run", "--fee-bps", 4, "--slippage-bps", 1, *more]
    assert CliRunner().invoke(app, [str(arg) for arg in args]).exit_code == 0
    return atc.open_run(tmp_path / "run")


def long_of(wide: pd.DataFrame) -> pd.DataFrame:
    melted = wide.rename_axis("time").reset_index().melt("time", var_name="symbol", value_name="close")
    return melted.dropna().sample(frac=1, random_state=3)


def forms_of_closes() -> dict[str, Any]:
    times = pl.Series("time", INDEX.tz_localize(None).to_numpy()).dt.replace_time_zone("UTC")
    wide = pl.DataFrame({"time": times, **{name: CLOSES[i] for i, name in enumerate(SYMBOLS)}})
    return {
        "pandas": WIDE,
        "pandas in another zone": WIDE.tz_convert("America/New_York"),
        "pandas in seconds": WIDE.set_axis(INDEX.as_unit("s")),
        "pandas of nullable floats": WIDE.astype("Float64"),
        "pandas long": long_of(WIDE),
        "pandas long by time": long_of(WIDE).set_index("time"),
        "pandas long, symbols a category": long_of(WIDE).astype({"symbol": "category"}),
        "polars": wide,
        "polars long": pl.from_pandas(long_of(WIDE)),
        "arrow": wide.to_arrow(),
        "mapping of series": {name: WIDE[name] for name in SYMBOLS},
        "mapping of series without the missing": {name: WIDE[name].dropna() for name in SYMBOLS},
        "mapping of frames": {name: WIDE[[name]].rename(columns={name: "Close"}) for name in SYMBOLS},
    }


def test_every_form_of_closes_is_the_run_of_the_command(tmp_path: Path) -> None:
    expected = of_command(tmp_path, long_of(WIDE), "--save", "signals,equity,trades").hash
    for name, form in forms_of_closes().items():
        assert atc.backtest(form, COSTS, save=SERIES).hash == expected, name
    arrays = dict(zip(SYMBOLS, CLOSES, strict=True))
    for stamps in (INDEX, INDEX.as_unit("ns").asi8):
        assert atc.backtest(arrays, COSTS, timestamps=stamps, save=SERIES).hash == expected
    naive = INDEX.tz_localize(None).to_numpy()
    assert atc.backtest(arrays, COSTS, timestamps=naive, tz="UTC", save=SERIES).hash == expected
    assert atc.backtest(tmp_path / "prices.zarr", COSTS, save=SERIES).hash == expected
    assert atc.backtest(atc.open_store(tmp_path / "prices.zarr"), COSTS, save=SERIES).hash == expected


def test_whole_bars_fill_at_opens_in_every_form(tmp_path: Path) -> None:
    frames = whole_bars()
    rows = [frame.rename_axis("time").reset_index().assign(symbol=name) for name, frame in frames.items()]
    expected = of_command(tmp_path, pd.concat(rows), "--shorts").hash
    both_sides = {**COSTS, "shorts": True}
    by_symbol = pd.concat(frames, axis=1, sort=True)
    forms: dict[str, Any] = {
        "mapping": frames,
        "columns (symbol, field)": by_symbol,
        "columns (field, symbol)": by_symbol.swaplevel(axis=1).rename(columns=str.title, level=0),
        "long, polars": pl.from_pandas(pd.concat(rows)),
        "mapping, polars": {row["symbol"].iloc[0]: pl.from_pandas(row.drop(columns="symbol")) for row in rows},
    }
    for name, form in forms.items():
        run = atc.backtest(form, both_sides)
        assert run.hash == expected, name
        assert run.store.info.fields == FIELDS, name


@given(data=st.data(), n_symbols=st.integers(1, 70), n_bars=st.integers(2, 40))
@settings(max_examples=20)
def test_what_a_frame_holds_is_what_its_store_gives_back(data: st.DataObject, n_symbols: int, n_bars: int) -> None:
    any_price = st.one_of(st.just(NAN), st.floats(min_value=5e-324, max_value=1e300))
    closes = data.draw(arrays(np.float64, (n_bars, n_symbols), elements=any_price))
    times = np.cumsum(data.draw(arrays(np.int64, n_bars, elements=st.integers(1, 10**15))))
    frame = pd.DataFrame(closes, pd.to_datetime(times, utc=True), [f"S{i}" for i in range(n_symbols)])
    panel = panel_of(frame, Times())
    with tempfile.TemporaryDirectory() as folder:
        write_store(panel, Path(folder, "prices.zarr"), 10**9, "24/7")
        store = atc.open_store(Path(folder, "prices.zarr"))
        assert same(store.read("close", (0, n_symbols), (0, n_bars)), np.ascontiguousarray(closes.T))
        assert np.array_equal(store.ts(0, n_bars), times)
        assert [symbol.name for symbol in store.info.symbols] == list(frame.columns)
        assert [symbol.n_bars for symbol in store.info.symbols] == frame.count().tolist()


def test_arrays_have_numbers_for_names_and_times_from_2000_on() -> None:
    run = atc.backtest(CLOSES, COSTS, bar="1h")
    assert run.symbols == ("0", "1", "2")
    assert str(run.equity("0").index[-1]) == str(pd.Timestamp("2000-01-01", tz="UTC") + 299 * pd.Timedelta("1h"))
    assert atc.backtest(CLOSES[0].tolist(), bar="1h").symbols == ("asset",)


def test_days_and_local_times_are_read_on_the_clock_that_is_named() -> None:
    days = [date(2024, 1, 1) + timedelta(days=i) for i in range(60)]
    frame = pl.DataFrame({"day": days, "AAA": tick_walk(60, 1)})
    closes = frame["AAA"].to_list()
    for form in (frame, frame.to_pandas(), pd.DataFrame({"day": days, "AAA": closes}), pd.Series(closes, days)):
        run = atc.backtest(form, tz="America/New_York")
        ts = run.store.ts(0, 60).astype("datetime64[ns]")
        assert [str(t)[:16] for t in (ts[0], ts[-1])] == ["2024-01-01T05:00", "2024-02-29T05:00"]
        assert run.store.info.bar_ns == 86_400 * 10**9


def test_a_calendar_is_the_stores() -> None:
    days = WIDE.set_axis(pd.date_range("2020-01-01", periods=300, freq="D", tz="UTC"))
    always, sessions = atc.backtest(days), atc.backtest(days, calendar="XNYS")
    assert sessions.store.info.calendar == "XNYS"
    ratio = sessions.metrics["volatility"] / always.metrics["volatility"]
    np.testing.assert_allclose(ratio, np.sqrt(252 / 365.25), rtol=1e-12)


# Prices that are refused


def broken() -> dict[str, tuple[Any, dict[str, Any], str]]:
    twice = pd.concat([WIDE, WIDE.tail(1)])
    naive = WIDE.tz_localize(None)
    half = whole_bars()["AAA"]
    half.iloc[7, half.columns.get_loc("open")] = NAN
    text = WIDE.astype(object)
    text.iloc[3, 0] = "n/a"
    spring = pd.DataFrame({"AAA": [1.0, 2.0]}, pd.to_datetime(["2024-03-10 01:30", "2024-03-10 02:30"]))
    return {
        "naive": (naive, {}, "without a zone, e.g. 2024-01-01T00:00:00.*tz='UTC'"),
        "naive array": (CLOSES, {"timestamps": naive.index.to_numpy()}, "without a zone"),
        "no such hour": (spring, {"tz": "America/New_York"}, "2024-03-10T02:30:00 does not exist"),
        "no zone of that name": (naive, {"tz": "Mars/Olympus"}, "not a known time zone"),
        "unsorted": (WIDE.iloc[::-1], {}, "is followed by .* sort by time"),
        "twice": (twice, {}, "2024-01-13 11:00:00 UTC is there twice"),
        "long, twice": (pd.concat([long_of(WIDE)] * 2), {}, "has two rows at"),
        "half a bar": (half, {}, "open of asset"),
        "zero": (WIDE.replace(WIDE.iloc[9, 0], 0.0), {}, "close of AAA"),
        "infinite": (WIDE.replace(WIDE.iloc[9, 0], np.inf), {}, "close of AAA"),
        "text": (text, {}, "AAA holds no numbers"),
        "booleans": (WIDE > 0, {}, "AAA holds no numbers"),
        "no times": (WIDE.reset_index(drop=True), {}, "RangeIndex, not times"),
        "no times, polars": (pl.DataFrame({"AAA": [1.0]}), {}, "no column holds times"),
        "array without times": (CLOSES, {}, "timestamps=, one a bar"),
        "other length": (CLOSES, {"timestamps": INDEX[:-1]}, "299 times for 300"),
        "three dimensions": (CLOSES[None], {"bar": "1h"}, "3 dimensions"),
        "same names": (WIDE.set_axis(["A", "A", "B"], axis=1), {}, "more than once: A"),
        "one bar": (WIDE.head(1), {}, "give it, e.g. bar='1d'"),
        "two bar sizes": ({"A": WIDE["AAA"], "B": WIDE["BBB"].dropna().iloc[::2]}, {}, "several sizes"),
        "bar size": (WIDE, {"bar": "1 moon"}, "bar size '1 moon'"),
        "a frame in a mapping": ({"A": WIDE}, {}, "one a symbol"),
        "nothing": ({}, {}, "the mapping is empty"),
        "no columns": (WIDE[[]], {}, "no column of prices"),
        "levels without close": (pd.concat({"A": WIDE}, axis=1), {}, "close among them"),
        "something else": (object(), {}, "give a store's path"),
    }


@pytest.mark.parametrize("name", broken())
def test_prices_that_are_refused(name: str) -> None:
    prices, how, message = broken()[name]
    with pytest.raises(atc.AtcError, match=message):
        atc.backtest(prices, **how)


def test_volume_without_a_bar_is_none() -> None:
    frame = whole_bars()["AAA"].reindex(INDEX)
    frame["volume"] = frame["volume"].fillna(0.0)
    run = atc.backtest(frame)
    stored = run.store
    volume = stored.read("volume", (0, 1), (0, stored.info.n_bars))[0]
    missing = frame["close"].isna().to_numpy()
    assert missing.any()
    np.testing.assert_array_equal(volume, np.where(missing, NAN, frame["volume"]))
