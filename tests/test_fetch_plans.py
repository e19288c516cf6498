"""Which files a fetch is about: templates, presets, ranges of days, names."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest

from atc_backtest.errors import ConfigError, DataError
from atc_backtest.stores.fetch import parse_day, plan, plan_files, read_symbols
from atc_backtest.stores.fetch.templates import plain

DAYS = (date(2024, 1, 30), date(2024, 4, 2))
BASE = "https://data.binance.vision/data"


def names(archive: str, **more: object) -> list[str]:
    return [job.name for job in plan_files(archive, ["A", "B"], DAYS, "1m", **more)]  # type: ignore[arg-type]


def test_a_daily_template() -> None:
    jobs = list(plan_files("http://x/{month:%Y}/{symbol}/{symbol}-{date:%Y%m%d}.csv.gz", ["A", "B"], DAYS))
    assert len(jobs) == 2 * 64
    assert (jobs[0].url, jobs[0].name) == ("http://x/2024/A/A-20240130.csv.gz", "A-20240130.csv.gz")
    assert (jobs[-1].symbol, jobs[-1].name) == ("B", "B-20240402.csv.gz")
    assert len({job.name for job in jobs}) == len(jobs)


def test_monthly_yearly_and_timeless_templates() -> None:
    assert names("http://x/{symbol}-{bar}-{month}.zip")[:4] == [f"A-1m-2024-0{i}.zip" for i in (1, 2, 3, 4)]
    assert names("http://x/{symbol}-{year}.zip") == ["A-2024.zip", "B-2024.zip"]
    assert names("http://x/{symbol}.csv") == ["A.csv", "B.csv"]
    assert [job.name for job in plan_files("http://x/all.csv")] == ["all.csv"]


def test_names_have_what_tells_files_apart() -> None:
    assert names("http://x/{symbol}/{bar}/{month}.zip")[0] == "A_1m_2024-01.zip"
    assert names("http://x/get?s={symbol}&d={month}", name="{symbol}-{month}.csv")[0] == "A-2024-01.csv"


@pytest.mark.parametrize(("preset", "market"), [("binance-spot", "spot"), ("binance-um", "futures/um")])
def test_a_preset_takes_whole_months_and_the_days_beside_them(preset: str, market: str) -> None:
    asked = plan_files(preset, ["BTCUSDT"], DAYS, "1m")
    jobs = list(asked)
    months, days = jobs[:2], jobs[2:]
    assert months[0].url == f"{BASE}/{market}/monthly/klines/BTCUSDT/1m/BTCUSDT-1m-2024-02.zip"
    assert days[0].url == f"{BASE}/{market}/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-01-30.zip"
    assert [job.name[-14:-4] for job in days] == ["2024-01-30", "2024-01-31", "2024-04-01", "2024-04-02"]
    assert months[0].instead == ()
    assert [job.name for job in months[1].instead] == [f"BTCUSDT-1m-2024-03-{day:02}.zip" for day in range(1, 32)]
    assert (len(asked), asked.checksum) == (6, ".CHECKSUM")


def test_a_preset_of_one_kind() -> None:
    assert len(names("binance-spot", every="month")) == 2 * 4
    assert len(names("binance-spot", every="day")) == 2 * 64
    first, last = date(2024, 2, 1), date(2024, 2, 29)
    assert [job.name for job in plan_files("binance-spot", ["A"], (first, last), "1h")] == ["A-1h-2024-02.zip"]


def test_symbols_are_quoted_in_urls_and_plain_in_names() -> None:
    (job,) = plan_files("http://x/{symbol}.csv", ["BTC/USDT:USDT"])
    assert (job.url, job.name) == ("http://x/BTC%2FUSDT%3AUSDT.csv", "BTC-USDT-USDT.csv")
    assert plain("../../etc/passwd") == "-..-etc-passwd"


def test_the_symbol_is_found_in_names() -> None:
    for archive in ("http://x/{symbol}-{bar}-{month}.csv.gz", "http://x/{symbol}/{bar}/{date}.zip", "binance-um"):
        asked = plan_files(archive, ["BTC-X", "Z"], DAYS, "1m")
        for job in asked:
            stem = re.sub(r"(\.csv)?\.(gz|zip)$", "", job.name)
            found = re.search(asked.symbol_pattern or "", stem)
            assert found is not None
            assert found[1] == job.symbol
    assert plan_files("http://x/{month}.csv", (), DAYS).symbol_pattern is None


@pytest.mark.parametrize(
    ("archive", "more", "said"),
    [
        ("binance-sport", {}, "neither a preset"),
        ("ftp://x/{symbol}.csv", {}, "neither a preset"),
        ("http://x/{ticker}.csv", {}, "no placeholder"),
        ("http://x/{symbol.csv", {}, "no template"),
        ("http://x/{date}.csv", {}, "no {symbol}"),
        ("http://x/get?s={symbol}", {}, "no path that names"),
        ("http://x/{symbol}-{date}.csv", {"name": "{symbol}.csv"}, "share a name"),
        ("http://x/{symbol}.csv", {"name": "{symbol}/a.csv"}, "no file name"),
        ("http://x/{symbol}.csv", {"name": ".{symbol}"}, "no file name"),
        ("http://x/{symbol}.csv", {"name": "{bar}"}, "placeholders that"),
        ("http://x/{symbol}-{date:%Y-%m}.csv", {}, "too coarse"),
        ("http://x/{symbol}.csv", {"every": "day"}, "for presets"),
        ("binance-spot", {"name": "a"}, "for URL templates"),
    ],
)
def test_what_does_not_fit_together(archive: str, more: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        list(names(archive, **more))


def test_what_is_missing() -> None:
    with pytest.raises(ConfigError, match="give symbols"):
        plan_files("http://x/{symbol}.csv")
    with pytest.raises(ConfigError, match="first and last day"):
        plan_files("http://x/{symbol}-{date}.csv", ["A"])
    with pytest.raises(ConfigError, match="needs symbols"):
        plan_files("binance-spot", ["A"])
    with pytest.raises(ConfigError, match="exchange them"):
        plan_files("http://x/{date}.csv", (), (DAYS[1], DAYS[0]))
    with pytest.raises(ConfigError, match="would share a file"):
        plan_files("http://x/{symbol}.csv", ["A/B", "A:B"])
    with pytest.raises(ConfigError, match="one of them"):
        plan("binance-spot", "kraken", [], None, None, None)
    with pytest.raises(ConfigError, match="one of them"):
        plan(None, None, [], None, None, None)
    with pytest.raises(ConfigError, match="go together"):
        plan("http://x/{date}.csv", None, [], None, "2024-01-01", None)
    with pytest.raises(ConfigError, match="--since"):
        plan(None, "kraken", ["A/B"], "1m", None, None)


def test_days_and_symbols_as_people_write_them(tmp_path: Path) -> None:
    assert parse_day("2024-02") == date(2024, 2, 1)
    assert parse_day("2024-02", last=True) == date(2024, 2, 29)
    for text in ("2024", "2024-13", "2024-02-30", "yesterday"):
        with pytest.raises(ConfigError, match="is no day"):
            parse_day(text)
    path = tmp_path / "symbols.txt"
    path.write_text("BTCUSDT\n\n  ETHUSDT  # the other one\n# none\n")
    assert read_symbols(path) == ["BTCUSDT", "ETHUSDT"]
    path.write_text("# none\n")
    with pytest.raises(DataError, match="names no symbol"):
        read_symbols(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_symbols(tmp_path / "other.txt")
