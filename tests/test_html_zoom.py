"""What comes back as one zooms into a page: packed and read again, joined as thinned out anew, drawn by a browser."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
import subprocess
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from filling import fill_store
from hypothesis import given
from hypothesis import strategies as st
from prices import tick_walk

from atc_backtest.config import ExecutionConfig, RunConfig
from atc_backtest.pipelines.backtest import Options, backtest
from atc_backtest.pipelines.pages import sampling
from atc_backtest.pipelines.pages.page import PAGE_BYTES, page
from atc_backtest.pipelines.pages.sampling import Line, NearAndFar, Sampled, Sampler
from atc_backtest.pipelines.pages.subject import Subject, subject_of
from atc_backtest.pipelines.pages.zooming import Detail, detail, joined

N_BARS = 20_000


def read(packed: Detail) -> Sampled:
    """Plainly, as the module says that it is written. Times in ms."""
    about = json.loads(packed.text)
    data = zlib.decompress(base64.b64decode(about["data"]))
    at = 0

    def take(n: int, kind: str) -> np.ndarray[Any, Any]:
        nonlocal at
        found = np.frombuffer(data, kind, n, at)
        at += found.nbytes
        return found

    def times(n: int) -> np.ndarray[Any, Any]:
        return about["begin"] + np.cumsum(take(n, "<u4"), dtype=np.int64) * about["unit"]

    starts, lines, means = times(about["starts"]), {}, {}
    for name, n in about["lines"]:
        ts, planes, bits, last = times(n), take(4 * n, "u1").reshape(4, n).astype(int), [], 0
        for one in planes.T.tolist():
            step = sum(byte << 8 * place for place, byte in enumerate(one))
            last += -(step + 1) // 2 if step % 2 else step // 2
            bits.append(last % 2**32)
        lines[name] = Line(ts, np.array(bits, "<u4").view("<f4"))
    for name, low, high in about["means"]:
        codes = take(about["starts"], "u1")
        means[name] = np.where(codes == 255, np.nan, low + codes * (high - low) / 254)
    assert at == len(data)
    return Sampled(packed.width, lines, starts, about["end"], means)


def sampled(n: int, seed: int, width: int) -> Sampled:
    """Two lines, one of which begins late and has holes, and two means, over bars of which some lack."""
    rng = np.random.default_rng(seed)
    values = np.cumsum(rng.standard_normal((4, n)), axis=1)
    values[1, : n // 3] = values[2, : n // 3] = np.nan
    values[1, rng.random(n) < 0.2] = np.nan
    ts = 1_700_000_000_000_000_000 + 60_000_000_000 * np.cumsum(rng.integers(1, 4, n))
    sampler = Sampler(n, ["a", "b"], ["c", "d"])
    sampler.width = width
    sampler.add(ts, values)
    return sampler.finish()


@given(st.integers(1, 3000), st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 50]))
def test_what_is_packed_is_read_again(n: int, seed: int, width: int) -> None:
    fine = sampled(n, seed, width)
    found = read(detail(fine, 10**9))
    assert (found.width, found.end) == (fine.width, fine.end / 1e6)
    assert found.starts.tolist() == (fine.starts / 1e6).tolist()
    for name, line in fine.lines.items():
        assert found.lines[name].ts.tolist() == (line.ts / 1e6).tolist()
        assert found.lines[name].values.tolist() == line.values.astype(np.float32).tolist()
    for name, values in fine.means.items():
        step = (np.nanmax(values) - np.nanmin(values)) / 254 if not np.isnan(values).all() else 0.0
        np.testing.assert_allclose(found.means[name], values, rtol=0, atol=step / 2 + 1e-12)


def test_times_too_far_apart_for_their_type_are_rounded_and_do_not_drift() -> None:
    fine = sampled(1000, 1, 1)
    ts = fine.starts.copy()
    ts[1:] += np.arange(999) + 3  # no common step but 1 ns
    ts[500:] += 10**17
    fine = replace(fine, starts=ts, lines={"a": Line(ts, np.arange(1000.0))}, end=int(ts[-1]))
    found = read(detail(fine, 10**9))
    np.testing.assert_allclose(found.starts, ts / 1e6, rtol=0, atol=1e5 / 2**32 * 1e6)
    assert found.lines["a"].ts.tolist() == found.starts.tolist()


@given(st.integers(1, 3000), st.integers(0, 2**32 - 1), st.integers(1, 7))
def test_joined_buckets_are_those_of_twice_the_width(n: int, seed: int, width: int) -> None:
    """Of lines exactly; of means where all bars of both are defined."""
    found, wide = joined(sampled(n, seed, width)), sampled(n, seed, 2 * width)
    assert found.width == wide.width
    assert found.starts.tolist() == wide.starts.tolist()
    for name, line in wide.lines.items():
        assert found.lines[name].ts.tolist() == line.ts.tolist()
        assert found.lines[name].values.tolist() == line.values.tolist()
    np.testing.assert_allclose(found.means["d"][:-1], wide.means["d"][:-1], rtol=1e-9, atol=1e-9)
    assert np.isnan(found.means["c"]).tolist() == np.isnan(wide.means["c"]).tolist()


def test_detail_takes_the_room_there_is() -> None:
    fine = sampled(20_000, 1, 1)
    widths = [detail(fine, room) for room in (10**9, 100_000, 30_000, 10_000, 1_000)]
    assert [one.width for one in widths] == sorted(one.width for one in widths)
    assert len({one.width for one in widths}) >= 4
    for one, room in zip(widths, (10**9, 100_000, 30_000, 10_000), strict=False):
        assert len(one.text) <= room
    assert detail(fine, -1).text  # the least there is


def test_all_bars_are_kept_of_few_and_as_many_buckets_as_said_of_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "NEAR_BARS", 4000)
    monkeypatch.setattr(sampling, "NEAR_BUCKETS", 2000)
    for n, near in ((1200, None), (1201, 1), (4000, 1), (4001, 3)):
        sampler = NearAndFar(n, ["a"], [])
        sampler.add(np.arange(n), np.arange(float(n))[None])
        found = sampler.finish()[1]
        assert (None if found is None else found.width) == near


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    path = tmp_path_factory.mktemp("zoom")
    fill_store(path / "prices.zarr", tick_walk(N_BARS, 4)[None])
    run = backtest(
        path / "prices.zarr", path / "run", [RunConfig(execution=ExecutionConfig(shorts=True))], Options(ledger=False)
    )
    return subject_of(run)


def test_a_page_stays_within_its_size(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    text = page(subject)
    assert "as you zoom in, all bars come back" in text
    assert len(text.encode()) < PAGE_BYTES
    monkeypatch.setattr("atc_backtest.pipelines.pages.page.PAGE_BYTES", 2_350_000)
    text = page(subject)
    assert len(text.encode()) < 2_350_000
    assert re.search(r"as you zoom in, they come down to \d+ bars", text)


LOOK = """(() => { const found = {};
  Bokeh.documents.forEach(doc => doc._all_models.forEach(model => {
    if (model.type === "ColumnDataSource" && model.tags.length)
      found[model.tags.join(":")] = Object.fromEntries(Object.entries(model.data).map(([k, v]) => [k, Array.from(v)]));
  }));
  return found; })()"""

ZOOM = """Bokeh.documents.forEach(doc => doc._all_models.forEach(model => {
  if (model.name === "time") model.setv({start: %r, end: %r}); }))"""


class Tab:
    """A page in a browser, by its DevTools."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket

    async def call(self, method: str, **params: Any) -> Any:
        await self._socket.send_json({"id": 1, "method": method, "params": params})
        while (found := await self._socket.receive_json()).get("id") != 1:
            assert found.get("method") != "Runtime.exceptionThrown", found
        return found["result"]

    async def value(self, code: str) -> Any:
        found = await self.call("Runtime.evaluate", expression=code, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, code: str) -> None:
        for _ in range(300):
            if await self.value(code):
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"never: {code}")


async def zoomed(port: int, target: Path, spans: list[tuple[float, float]]) -> list[dict[str, Any]]:
    """What the sources hold of the whole span, of each of `spans`, and of the whole one again."""
    async with aiohttp.ClientSession() as session:
        tabs = await (await session.get(f"http://127.0.0.1:{port}/json/list")).json()
        address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        async with session.ws_connect(address, max_msg_size=0) as socket:
            tab = Tab(socket)
            await tab.call("Runtime.enable")
            await tab.call("Page.navigate", url=target.as_uri())
            await tab.until("Boolean(window.Bokeh && Bokeh.documents.length && document.querySelector('.bk-Figure'))")
            await asyncio.sleep(0.5)
            found = [await tab.value(LOOK)]
            for start, end in [*spans, (0.0, 1e15)]:
                await tab.value(ZOOM % (float(start), float(end)))
                n = len(found[0]["line:equity:all"]["x"])
                inside = f"x[0] <= {start} && x[8] >= {start} && x[x.length - 9] <= {end} && x[x.length - 1] >= {end}"
                drawn = inside if start else f"x.length === {n}"
                await tab.until(f"(x => {drawn})({LOOK}['line:equity:all'].x)")
                found.append(await tab.value(LOOK))
    return found


@pytest.mark.slow
def test_a_browser_brings_bars_back(subject: Subject, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium here")
    (tmp_path / "page.html").write_text(page(subject), encoding="utf-8")
    near = subject.series.near
    assert near is not None
    assert near.width == 1
    ts = near.starts / 1e6
    spans = [(ts[10_000] - 1e3, ts[10_200] + 1e3), (ts[5_000] - 1e3, ts[15_000] + 1e3)]
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    browser = subprocess.Popen(
        [chromium, *flags, f"--user-data-dir={tmp_path / 'profile'}", "about:blank"], stderr=subprocess.PIPE, text=True
    )
    try:
        assert browser.stderr is not None
        said = next(line for line in browser.stderr if "DevTools listening on" in line)
        port = int(said.split(":")[2].split("/")[0])
        whole, close, wide, again = asyncio.run(zoomed(port, tmp_path / "page.html", spans))
    finally:
        browser.kill()
        browser.communicate()
    assert again == whole
    for name in ("equity", "close", "signal", "drawdown"):
        line, seen = near.lines[name], close[f"line:{name}:all"]
        bars = np.flatnonzero((line.ts / 1e6 >= spans[0][0]) & (line.ts / 1e6 <= spans[0][1]))
        shown = slice(bars[0] - 1, bars[-1] + 2)
        assert seen["x"] == (line.ts[shown] / 1e6).tolist()
        np.testing.assert_allclose(seen["y"], line.values[shown], rtol=1e-6)
        x, y = (np.array(wide[f"line:{name}:all"][axis]) for axis in ("x", "y"))
        assert 1200 < x.size <= 4808
        inside = (line.ts / 1e6 >= spans[1][0]) & (line.ts / 1e6 <= spans[1][1])
        for extreme in (np.min, np.max):
            assert extreme(y[(x >= spans[1][0]) & (x <= spans[1][1])]) == pytest.approx(
                extreme(line.values[inside]), rel=1e-6
            )
    held = near.means["long"][9_999:10_202]
    assert close["shade:0.3"]["long"] == pytest.approx((0.3 * held).tolist())
    assert close["shade:0.3"]["left"] == ts[9_999:10_202].tolist()
    assert len(wide["keep"]["left"]) <= 1202
