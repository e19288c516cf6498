"""Recent bars of exchanges that repeat, skip, interrupt and hand out the bar that is not closed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import pytest

from atc_backtest.errors import ConfigError, DataError, StoreError
from atc_backtest.stores.fetch import FetchOptions, FetchReport
from atc_backtest.stores.fetch.exchange import Bars, fetch_bars, open_exchange, plan_bars
from atc_backtest.stores.ingest import IngestOptions, ingest
from atc_backtest.stores.zarr_store import open_store

MINUTE = 60_000
SINCE = 1_704_067_200_000
OPTIONS = FetchOptions(backoff_s=0.001, retries=3)
Row = list[float | None]


class BusyError(Exception):
    """What ccxt calls a NetworkError."""


def row(minute: int) -> Row:
    return [SINCE + minute * MINUTE, 1.0 + minute, 2.0 + minute, 0.5 + minute, 1.1 + minute, 0.1 * minute]


@dataclass
class FakeExchange:
    """Bars at `minutes`, `limit` of them a page; the clock stands within minute `now`.

    windowed    a page is a span of time, empty where there was no trade, instead of the next bars
    repeats     a page begins with bars that were given before
    failures    requests that fail first
    shuffled    bars within a page come in reverse
    """

    minutes: list[int]
    now: float = 1000.5
    limit: int = 100
    windowed: bool = False
    repeats: int = 0
    failures: int = 0
    shuffled: bool = False
    asked: list[int] = field(default_factory=list)

    def milliseconds(self) -> int:
        return SINCE + int(self.now * MINUTE)

    async def fetch_ohlcv(self, symbol: str, timeframe: str, since: int | None, limit: int | None) -> list[Row]:
        await asyncio.sleep(0)
        assert timeframe == "1m"
        assert since is not None
        assert limit is not None
        if symbol == "BAD/USDT":
            raise ValueError("no such market")
        if self.failures:
            self.failures -= 1
            raise BusyError("too busy")
        self.asked.append(since)
        begin = (since - SINCE) // MINUTE
        n_bars = min(limit, self.limit)
        there = [minute for minute in self.minutes if minute <= self.now]
        if self.windowed:
            page = [minute for minute in there if begin <= minute < begin + n_bars]
        else:
            page = [minute for minute in there if minute >= begin][:n_bars]
        old = [minute for minute in there if minute < begin][-self.repeats :] if self.repeats else []
        rows = [row(minute) for minute in (*old, *page, *page[: self.repeats])]
        return rows[::-1] if self.shuffled else rows


def bars(**more: int) -> Bars:
    return Bars(MINUTE, SINCE, **more)


def fetched(exchange: FakeExchange, folder: Path, wanted: Bars | None = None, *symbols: str) -> FetchReport:
    asked = symbols or ("BTC/USDT",)
    return asyncio.run(fetch_bars(exchange, asked, wanted or bars(), folder, OPTIONS, (BusyError,)))


def minutes_in(path: Path) -> list[int]:
    lines = path.read_text().splitlines()
    assert lines[0] == "time,open,high,low,close,volume"
    rows = [line.split(",") for line in lines[1:]]
    found = [(int(cells[0]) - SINCE) // MINUTE for cells in rows]
    assert [[float(cell) for cell in cells] for cells in rows] == [row(minute) for minute in found]
    return found


EXCHANGES = {
    "plain": {},
    "small pages": {"limit": 7},
    "windowed": {"windowed": True},
    "repeats": {"repeats": 3},
    "reversed and repeating": {"repeats": 2, "shuffled": True},
    "interrupts": {"failures": 3},
}


@pytest.mark.parametrize("kind", EXCHANGES)
def test_every_closed_bar_once_and_in_order(tmp_path: Path, kind: str) -> None:
    there = [minute for minute in range(1001) if not 200 <= minute < 650 and minute % 11]  # a gap of several pages
    exchange = FakeExchange(there, **EXCHANGES[kind])  # type: ignore[arg-type]
    report = fetched(exchange, tmp_path)
    assert (report.fetched, report.failed, report.missing) == (1, (), ())
    assert minutes_in(tmp_path / "BTC-USDT-1m.csv") == there[:-1], "all but the bar that is not closed"
    assert there[-1] == 1000
    assert {path.name for path in tmp_path.iterdir()} == {"BTC-USDT-1m.csv", ".fetch.lock"}


def test_a_bar_that_closes_this_instant_is_closed(tmp_path: Path) -> None:
    fetched(FakeExchange(list(range(30)), now=10.0), tmp_path)
    assert minutes_in(tmp_path / "BTC-USDT-1m.csv") == list(range(10))


def test_the_end_is_a_day_that_is_included(tmp_path: Path) -> None:
    fetched(FakeExchange(list(range(100))), tmp_path, bars(until_ms=SINCE + 20 * MINUTE))
    assert minutes_in(tmp_path / "BTC-USDT-1m.csv") == list(range(20))
    plan = plan_bars("kraken", ["BTC/USDT"], "1m", date(2024, 1, 1), date(2024, 1, 2))
    assert plan.bars == Bars(MINUTE, SINCE, SINCE + 2 * 1440 * MINUTE)
    assert (plan.bars.timeframe, plan.names, len(plan)) == ("1m", ["BTC-USDT-1m.csv"], 1)


def test_a_rerun_goes_on_from_the_last_bar(tmp_path: Path) -> None:
    exchange = FakeExchange(list(range(2000)), now=300.5)
    fetched(exchange, tmp_path)
    exchange.now = 500.5
    exchange.asked.clear()
    report = fetched(exchange, tmp_path)
    assert (report.fetched, report.resumed) == (1, 1)
    assert exchange.asked[0] == SINCE + 300 * MINUTE
    assert minutes_in(tmp_path / "BTC-USDT-1m.csv") == list(range(500))
    assert fetched(exchange, tmp_path).skipped == 1


def test_bars_before_those_that_are_here_are_fetched_with_them(tmp_path: Path) -> None:
    exchange = FakeExchange(list(range(400)), now=400.5)
    fetched(exchange, tmp_path, Bars(MINUTE, SINCE + 100 * MINUTE))
    assert minutes_in(tmp_path / "BTC-USDT-1m.csv") == list(range(100, 400))
    fetched(exchange, tmp_path)
    assert minutes_in(tmp_path / "BTC-USDT-1m.csv") == list(range(400))


def test_a_symbol_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    report = fetched(FakeExchange(list(range(50)), now=50.5), tmp_path, None, "A/USDT", "BAD/USDT", "B/USDT")
    assert (report.fetched, [file.reason for file in report.failed]) == (2, ["no such market"])
    assert not report.ok
    assert {path.name for path in tmp_path.glob("*.csv")} == {"A-USDT-1m.csv", "B-USDT-1m.csv"}
    assert not list(tmp_path.glob(".*.part"))


def test_an_exchange_that_stays_busy_fails(tmp_path: Path) -> None:
    report = fetched(FakeExchange([1], failures=99), tmp_path)
    assert "failed 4 times, last: too busy" in report.failed[0].reason


def test_no_bar_at_all_is_missing_and_a_late_listing_is_said(tmp_path: Path) -> None:
    assert fetched(FakeExchange([]), tmp_path).missing == ("BTC-USDT-1m.csv",)
    report = fetched(FakeExchange(list(range(700, 800)), windowed=True), tmp_path)
    assert report.notes == ("BTC/USDT: the exchange's bars begin at 2024-01-01 11:40 UTC",)


def test_a_file_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "BTC-USDT-1m.csv").write_text("something else\n")
    assert "not a file of bars that fetch wrote" in fetched(FakeExchange([1]), tmp_path).failed[0].reason
    assert (tmp_path / "BTC-USDT-1m.csv").read_text() == "something else\n"


def test_what_comes_is_what_ingest_reads(tmp_path: Path) -> None:
    exchange = FakeExchange(list(range(300)), now=300.5)
    fetched(exchange, tmp_path / "files", None, "A/USDT", "B/USDT")
    plan = plan_bars("kraken", ["A/USDT", "B/USDT"], "1m", date(2024, 1, 1), None)
    options = IngestOptions(symbol_pattern=plan.symbol_pattern)
    ingest([tmp_path / "files" / name for name in plan.names], tmp_path / "p.zarr", options)
    store = open_store(tmp_path / "p.zarr")
    assert [symbol.name for symbol in store.info.symbols] == ["A-USDT", "B-USDT"]
    assert store.read("volume", (0, 2), (0, 300)).tolist() == [[0.1 * minute for minute in range(300)]] * 2


def test_a_disk_that_refuses_says_so(tmp_path: Path) -> None:
    (tmp_path / ".BTC-USDT-1m.csv.part").mkdir()
    with pytest.raises(StoreError, match="cannot write"):
        fetched(FakeExchange([1]), tmp_path)


@pytest.mark.parametrize("bar", ["1us", "0m", None])
def test_bars_that_no_exchange_has(bar: str | None) -> None:
    with pytest.raises((ConfigError, DataError)):
        plan_bars("kraken", ["A"], bar, date(2024, 1, 1), None)


def test_without_ccxt_the_command_that_brings_it(tmp_path: Path) -> None:
    code = "import sys; sys.modules['ccxt'] = None; from atc_backtest.cli import main; main()"
    args = ["fetch", "--exchange", "kraken", "--symbols", "BTC/USD", "--bar", "1m", "--since", "2024-01-01"]
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr == "error: bars of an exchange need ccxt: pip install 'atc-backtest[ccxt]'\n"


def test_ccxt_is_as_we_take_it() -> None:
    ccxt = pytest.importorskip("ccxt.async_support", reason="the extra ccxt is not installed")

    async def look() -> None:
        exchange, transient = open_exchange("kraken")
        try:
            assert transient == (ccxt.NetworkError,)
            assert exchange.enableRateLimit
            assert "1m" in exchange.timeframes
            assert callable(exchange.fetch_ohlcv)
            assert callable(exchange.feature_value)
            assert isinstance(exchange.milliseconds(), int)
        finally:
            await exchange.close()

    asyncio.run(look())
    with pytest.raises(ConfigError, match="near are"):
        open_exchange("krake")
