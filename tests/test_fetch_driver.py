"""Many downloads at a time: bounded, in order, handed over as they come, stopped when nobody takes them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing, closing
from itertools import islice
from pathlib import Path

import pytest
from archive_server import BODY, QUICK, Archive, Trouble

from atc_backtest.errors import ConfigError, StoreError
from atc_backtest.stores.fetch import FetchOptions, Job, each_file, fetch, fetch_files, fetch_into
from atc_backtest.stores.fetch.partial import only_one


def job(archive: Archive, name: str) -> Job:
    return Job(f"{archive.url}/{name}", name)


@pytest.mark.parametrize("concurrency", [1, 3, 16])
def test_connections_are_bounded_and_results_in_order(archive: Archive, tmp_path: Path, concurrency: int) -> None:
    names = [f"{i:02}.csv" for i in range(40)]
    archive.latency_s = 0.01
    for i, name in enumerate(names):
        troubles = [Trouble("drop", 10), Trouble("status", 500)] if i % 5 == 0 else []
        archive.put(f"/{name}", BODY[: 18 * i], *troubles)
        archive.put_sum(f"/{name}", BODY[: 18 * i])
    options = FetchOptions(concurrency, backoff_s=0.001, checksum=".CHECKSUM")
    done = list(each_file([job(archive, name) for name in names], tmp_path, options))
    assert [file.name for file in done] == names
    assert {file.status for file in done} == {"fetched"}
    assert archive.peak <= concurrency
    assert concurrency == 1 or archive.peak > 1


def test_what_is_asked_stops_when_nobody_takes_it(archive: Archive, tmp_path: Path) -> None:
    for i in range(50):
        archive.put(f"/{i}.csv", BODY)
    archive.latency_s = 0.02
    with closing(each_file((job(archive, f"{i}.csv") for i in range(50)), tmp_path, FetchOptions(2))) as files:
        assert [file.name for file in islice(files, 2)] == ["0.csv", "1.csv"]
    assert len(archive.asked) < 50

    async def two() -> None:
        async with aclosing(fetch_files((job(archive, f"{i}.csv") for i in range(50)), tmp_path, QUICK)) as files:
            async for file in files:
                assert file.status == "skipped"
                break

    asyncio.run(two())
    assert fetch((job(archive, f"{i}.csv") for i in range(50)), tmp_path, QUICK).ok


def test_files_are_handed_over_while_others_download(archive: Archive, tmp_path: Path) -> None:
    for i in range(10):
        archive.put(f"/{i}.csv", BODY)
    archive.latency_s = 0.05
    left: list[int] = []

    def take(paths: Iterator[Path]) -> list[str]:
        names = []
        for path in paths:
            assert path.read_bytes() == BODY
            names.append(path.name)
            left.append(10 - len(archive.asked))
        return names

    jobs = [job(archive, f"{i}.csv") for i in range(10)]
    report, names = fetch_into(jobs, tmp_path, take, FetchOptions(1))
    assert (report.fetched, names) == (10, [f"{i}.csv" for i in range(10)])
    assert left[0] >= 7


def test_nothing_is_handed_on_whole_when_a_file_failed(archive: Archive, tmp_path: Path) -> None:
    archive.put("/0.csv", BODY)
    archive.put("/1.csv", BODY, Trouble("status", 403))
    report, taken = fetch_into([job(archive, f"{i}.csv") for i in range(2)], tmp_path, list, QUICK)
    assert taken is None
    assert [file.name for file in report.failed] == ["1.csv"]


def test_one_fetch_at_a_time(archive: Archive, tmp_path: Path) -> None:
    archive.put("/a.csv", BODY)
    with only_one(tmp_path), pytest.raises(StoreError, match="another fetch"):
        fetch([job(archive, "a.csv")], tmp_path, QUICK)
    assert fetch([job(archive, "a.csv")], tmp_path, QUICK).ok


def test_a_disk_that_refuses_says_so(archive: Archive, tmp_path: Path) -> None:
    archive.put("/a.csv", BODY)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        fetch([job(archive, "a.csv")], tmp_path / "file", QUICK)
    (tmp_path / ".a.csv.part").mkdir()
    with pytest.raises(StoreError, match=r"cannot write .*a\.csv"):
        fetch([job(archive, "a.csv")], tmp_path, QUICK)


@pytest.mark.parametrize("values", [{"concurrency": 0}, {"retries": -1}, {"timeout_s": 0}, {"checksum": "SUM"}])
def test_options_out_of_range(values: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        FetchOptions(**values)  # type: ignore[arg-type]
