"""Sessions a year of venues, and bars that lack."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from filling import fill_store
from prices import tick_walk
from typer.testing import CliRunner

from atc_backtest import calendars
from atc_backtest.calendars import DAY_NS, gaps, venue
from atc_backtest.cli import app
from atc_backtest.errors import ConfigError, UnavailableError
from atc_backtest.metrics import bars_per_year

HOUR = 3600 * 10**9


def times(*texts: str) -> np.ndarray:
    return np.array(texts, dtype="datetime64[ns]").astype(np.int64)


@pytest.fixture
def installed() -> None:
    pytest.importorskip("exchange_calendars", reason=calendars.REMEDY)


@pytest.mark.usefixtures("installed")
def test_a_year_of_a_venue_is_its_sessions() -> None:
    london = venue("XLON")
    assert london is not None
    assert 250 < london.sessions < 255
    assert london.session_ns == 8.5 * HOUR
    assert bars_per_year(DAY_NS, "XLON") == london.sessions
    assert bars_per_year(HOUR, "XLON") == 9 * london.sessions
    assert bars_per_year(7 * DAY_NS, "XLON") == pytest.approx(365.25 / 7)
    assert venue("MARS") is None


def test_without_the_package_its_venues_are_unknown_and_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "exchange_calendars", None)
    venue.cache_clear()
    with pytest.raises(ConfigError, match=r"'XLON' is not known: .*pip install 'atc-backtest\[calendars\]'"):
        bars_per_year(DAY_NS, "XLON")
    with pytest.raises(UnavailableError, match=r"pip install 'atc-backtest\[calendars\]'"):
        gaps(times("2024-01-02", "2024-01-09"), DAY_NS, "XLON")
    venue.cache_clear()


def test_gaps_of_what_is_open_always() -> None:
    ts = np.delete(times("2024-01-05T00") + np.arange(100) * HOUR, [3, 4, 5, 50])
    assert [(one.n_bars, one.first_ns) for one in gaps(ts, HOUR, "24/7")] == [(3, ts[2] + HOUR), (1, ts[46] + HOUR)]
    assert gaps(ts[:0], HOUR, "24/7") == ()
    weekend = np.concatenate([times("2024-01-05T20") + np.arange(4) * HOUR, times("2024-01-08T01")])
    assert [one.n_bars for one in gaps(weekend, HOUR, "24/5")] == [1]
    with pytest.raises(ConfigError, match="bars of up to a day"):
        gaps(ts, 7 * DAY_NS, "24/7")


@pytest.mark.usefixtures("installed")
def test_gaps_of_a_venue_are_within_its_sessions() -> None:
    days = times("2023-12-28", "2023-12-29", "2024-01-03", "2024-01-04")  # 1 January is a holiday, the 2nd lacks
    (one,) = gaps(days + 5 * HOUR, DAY_NS, "XLON")
    assert (one.n_bars, one.first_ns) == (1, times("2024-01-02")[0])
    bars = [f"2024-01-0{day}T{hour:02}" for day in (3, 4) for hour in range(8, 17) if (day, hour) != (4, 8)]
    (hour,) = gaps(times(*bars), HOUR, "XLON")
    assert (hour.n_bars, hour.first_ns) == (1, times("2024-01-04T08")[0])
    with pytest.raises(ConfigError, match="'MARS' is not known to exchange-calendars"):
        gaps(days, DAY_NS, "MARS")


def test_the_command_lists_them(tmp_path: Path) -> None:
    close = tick_walk(60, 1)[None]
    close[0, 10:14] = np.nan
    close[0, 30] = np.nan
    fill_store(tmp_path / "s.zarr", close, fields=("close",))
    result = CliRunner().invoke(app, ["store", "gaps", str(tmp_path / "s.zarr"), "S000", "--limit", "1"])
    assert "S000: 5 bars lack in 2 gaps (calendar 24/7)" in result.stdout
    assert "... 1 shorter ones: --limit 2" in result.stdout
    machine = CliRunner().invoke(app, ["store", "gaps", str(tmp_path / "s.zarr"), "S000", "--json"])
    assert [one["n_bars"] for one in json.loads(machine.stdout)] == [4, 1]
    refused = CliRunner().invoke(app, ["store", "gaps", str(tmp_path / "s.zarr"), "NOPE"])
    assert refused.exit_code == 3
    assert "has no symbol 'NOPE': it holds S000" in refused.stderr
