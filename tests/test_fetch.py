"""Fetch held by a server that does everything wrong: whole, verified files, or a reason; never anything else."""

from __future__ import annotations

import gzip
import io
import json
import time
import zipfile
from email.utils import formatdate
from pathlib import Path

import pytest
from archive_server import BODY, QUICK, Archive, Trouble, hidden, visible

from atc_backtest.stores.fetch import FetchOptions, FetchReport, Job, fetch


def job(archive: Archive, name: str = "a.csv") -> Job:
    return Job(f"{archive.url}/{name}", name)


def got(archive: Archive, folder: Path, options: FetchOptions = QUICK, name: str = "a.csv") -> FetchReport:
    return fetch([job(archive, name)], folder, options)


def zipped(body: bytes) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.csv", body)
    return held.getvalue()


def test_a_file_comes_and_is_skipped_after(archive: Archive, tmp_path: Path) -> None:
    archive.put("/a.csv", BODY)
    report = got(archive, tmp_path / "new" / "folder")
    assert (report.fetched, report.n_bytes, report.ok) == (1, len(BODY), True)
    assert (tmp_path / "new" / "folder" / "a.csv").read_bytes() == BODY
    assert hidden(tmp_path / "new" / "folder") == set()
    again = got(archive, tmp_path / "new" / "folder")
    assert (again.fetched, again.skipped, archive.times_asked("/a.csv")) == (0, 1, 1)


@pytest.mark.parametrize(
    "trouble",
    [
        Trouble("status", 500),
        Trouble("status", 503),
        Trouble("status", 429),
        Trouble("status", 408),
        Trouble("hang_up"),
        Trouble("drop", 0),
        Trouble("drop", 100_000),
        Trouble("cut", 100_000),
        Trouble("longer", 10),
        Trouble("shorter", 10),
    ],
    ids=lambda trouble: f"{trouble.kind}-{trouble.n}",
)
def test_trouble_that_passes(archive: Archive, tmp_path: Path, trouble: Trouble) -> None:
    archive.put("/a.csv", BODY, trouble, trouble)
    report = got(archive, tmp_path)
    assert report.failed == ()
    assert (tmp_path / "a.csv").read_bytes() == BODY
    assert hidden(tmp_path) == set()


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (Trouble("status", 500), "HTTP 500"),
        (Trouble("status", 429), "HTTP 429"),
        (Trouble("hang_up"), "disconnected"),
        (Trouble("cut", 100_000), "broke after"),
        (Trouble("longer", 10), "broke after"),
        (Trouble("shorter", 10), "but more follow"),
    ],
    ids=lambda case: getattr(case, "kind", None),
)
def test_trouble_that_stays_fails_and_says_why(archive: Archive, tmp_path: Path, trouble: Trouble, said: str) -> None:
    archive.put("/a.csv", BODY, *[trouble] * 20, tagged=trouble.kind not in ("cut", "longer"))
    if trouble.kind == "shorter":  # the question what follows the end is answered truly
        archive.files["/a.csv"].troubles = [trouble, Trouble("none")] * 20
    report = got(archive, tmp_path, FetchOptions(backoff_s=0.001, retries=2))
    assert [file.tries for file in report.failed] == [3]
    assert said in report.failed[0].reason
    assert not report.ok
    assert visible(tmp_path) == set()


def test_what_is_refused_is_not_tried_again(archive: Archive, tmp_path: Path) -> None:
    for status in (400, 401, 403, 451, 501):
        archive.put("/a.csv", BODY, *[Trouble("status", status)] * 9)
        archive.asked.clear()
        report = got(archive, tmp_path)
        assert [file.reason[:8] for file in report.failed] == [f"HTTP {status}"]
        assert archive.times_asked("/a.csv") == 1


def test_not_there_is_no_failure_unless_nothing_is(archive: Archive, tmp_path: Path) -> None:
    archive.put("/a.csv", BODY)
    report = fetch([job(archive, "a.csv"), job(archive, "b.csv")], tmp_path, QUICK)
    assert (report.fetched, report.missing, report.failed, report.ok) == (1, ("b.csv",), (), True)
    assert archive.times_asked("/b.csv") == 1
    assert not got(archive, tmp_path, name="b.csv").ok


def test_another_file_instead_of_one_that_is_not_there(archive: Archive, tmp_path: Path) -> None:
    archive.put("/day1.csv", BODY)
    days = tuple(job(archive, f"day{i}.csv") for i in (1, 2))
    report = fetch([Job(f"{archive.url}/month.csv", "month.csv", None, days)], tmp_path, QUICK)
    assert (report.fetched, report.missing) == (1, ("day2.csv",))
    assert visible(tmp_path) == {"day1.csv"}


def test_retry_after_is_waited_for_by_all(archive: Archive, tmp_path: Path) -> None:
    archive.put("/a.csv", BODY, Trouble("status", 429, (("Retry-After", "1"),)))
    archive.put("/b.csv", BODY, Trouble("status", 429))
    began = time.monotonic()
    assert fetch([job(archive, "a.csv"), job(archive, "b.csv")], tmp_path, QUICK).fetched == 2
    assert 1 <= time.monotonic() - began < 5


def test_retry_after_as_a_date(archive: Archive, tmp_path: Path) -> None:
    now = time.time()
    headers = (("Retry-After", formatdate(now + 1, usegmt=True)), ("Date", formatdate(now, usegmt=True)))
    archive.put("/a.csv", BODY, Trouble("status", 503, headers))
    began = time.monotonic()
    assert got(archive, tmp_path).fetched == 1
    assert time.monotonic() - began >= 1


def test_a_server_that_asks_for_an_hour_is_not_waited_for(archive: Archive, tmp_path: Path) -> None:
    archive.put("/a.csv", BODY, Trouble("status", 429, (("Retry-After", "3600"),)))
    began = time.monotonic()
    report = got(archive, tmp_path)
    assert "asks to wait 3600 s" in report.failed[0].reason
    assert time.monotonic() - began < 5


def test_silence_is_a_failed_try(archive: Archive, tmp_path: Path) -> None:
    archive.put("/a.csv", BODY, Trouble("stall", 70_000))
    began = time.monotonic()
    assert got(archive, tmp_path, FetchOptions(backoff_s=0.001, timeout_s=0.3)).fetched == 1
    assert time.monotonic() - began < 10
    assert (tmp_path / "a.csv").read_bytes() == BODY


def test_a_dropped_download_goes_on_where_it_was(archive: Archive, tmp_path: Path) -> None:
    archive.put("/a.csv", BODY, Trouble("drop", 100_000), Trouble("drop", 50_000))
    report = got(archive, tmp_path)
    assert (report.fetched, report.resumed) == (1, 1)
    assert report.n_bytes == len(BODY) - 150_000
    assert [asked.get("range") for _, asked in archive.asked] == [None, "bytes=100000-", "bytes=150000-"]
    assert archive.asked[1][1]["if-range"] == archive.files["/a.csv"].tag
    assert (tmp_path / "a.csv").read_bytes() == BODY


def test_a_later_run_goes_on_where_one_failed(archive: Archive, tmp_path: Path) -> None:
    archive.put("/a.csv", BODY, Trouble("drop", 100_000))
    assert got(archive, tmp_path, FetchOptions(retries=0)).failed
    assert hidden(tmp_path) == {".a.csv.part", ".a.csv.part.json"}
    report = got(archive, tmp_path)
    assert (report.resumed, report.n_bytes) == (1, len(BODY) - 100_000)
    assert (tmp_path / "a.csv").read_bytes() == BODY
    assert hidden(tmp_path) == set()


def test_all_there_but_for_its_name(archive: Archive, tmp_path: Path) -> None:
    archive.put("/a.csv", BODY, Trouble("drop", len(BODY)))
    archive.put_sum("/a.csv", BODY, *[Trouble("status", 500)] * 2)
    report = got(archive, tmp_path, FetchOptions(backoff_s=0.001, checksum=".CHECKSUM"))
    assert (report.fetched, report.resumed, report.n_bytes) == (1, 1, 0)
    assert (tmp_path / "a.csv").read_bytes() == BODY


def test_without_a_tag_it_starts_again(archive: Archive, tmp_path: Path) -> None:
    archive.put("/a.csv", BODY, Trouble("drop", 100_000), tagged=False)
    report = got(archive, tmp_path)
    assert (report.fetched, report.resumed, report.n_bytes) == (1, 0, len(BODY))
    assert "range" not in archive.asked[1][1]


def test_a_part_from_before_the_machine_started_is_not_trusted(archive: Archive, tmp_path: Path) -> None:
    archive.put("/a.csv", BODY, Trouble("drop", 100_000))
    got(archive, tmp_path, FetchOptions(retries=0))
    record = tmp_path / ".a.csv.part.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"boot": "another"}))
    assert got(archive, tmp_path).resumed == 0
    assert (tmp_path / "a.csv").read_bytes() == BODY


def test_a_server_that_ignores_ranges(archive: Archive, tmp_path: Path) -> None:
    archive.put("/a.csv", BODY, Trouble("drop", 100_000), Trouble("whole"))
    assert got(archive, tmp_path).resumed == 0
    assert (tmp_path / "a.csv").read_bytes() == BODY


@pytest.mark.parametrize("trouble", [Trouble("shifted", 18), Trouble("shorter", 18)], ids=lambda t: t.kind)
def test_a_range_that_is_not_the_one_asked_for(archive: Archive, tmp_path: Path, trouble: Trouble) -> None:
    archive.put("/a.csv", BODY, Trouble("drop", 100_000), trouble)
    report = got(archive, tmp_path)
    assert (report.fetched, report.resumed, len(archive.asked)) == (1, 1, 3)
    assert (tmp_path / "a.csv").read_bytes() == BODY


def test_a_request_as_a_whole_takes_no_longer_than_it_may(archive: Archive, tmp_path: Path) -> None:
    archive.put("/a.csv", BODY * 10)
    archive.chunk_s = 0.1  # never silent for long
    began = time.monotonic()
    report = got(archive, tmp_path, FetchOptions(timeout_s=5, request_s=0.5, retries=1, backoff_s=0.001))
    assert time.monotonic() - began < 4
    assert "broke after" in report.failed[0].reason


@pytest.mark.parametrize("trouble", [Trouble("none"), Trouble("splice")], ids=["honours If-Range", "ignores If-Range"])
def test_a_file_that_changes_between_tries_is_one_version(archive: Archive, tmp_path: Path, trouble: Trouble) -> None:
    changed = BODY.replace(b"1.5", b"1.6")
    archive.put("/a.csv", BODY, Trouble("drop", 100_000), trouble, then=changed)
    assert got(archive, tmp_path).fetched == 1
    assert (tmp_path / "a.csv").read_bytes() == changed


def test_a_shorter_version_than_the_part(archive: Archive, tmp_path: Path) -> None:
    archive.put("/a.csv", BODY, Trouble("drop", 100_000), Trouble("splice"), then=BODY[:18])
    assert got(archive, tmp_path).fetched == 1
    assert (tmp_path / "a.csv").read_bytes() == BODY[:18]


CHECKED = FetchOptions(backoff_s=0.001, checksum=".CHECKSUM", retries=3)


def test_checksums_are_verified_and_kept(archive: Archive, tmp_path: Path) -> None:
    archive.put("/a.csv", BODY)
    archive.put_sum("/a.csv", BODY)
    assert got(archive, tmp_path, CHECKED).fetched == 1
    assert visible(tmp_path) == {"a.csv", "a.csv.CHECKSUM"}
    assert got(archive, tmp_path, CHECKED).skipped == 1
    assert len(archive.asked) == 2, "a skipped file is verified with the checksum here"


def test_a_wrong_checksum_fails(archive: Archive, tmp_path: Path) -> None:
    archive.put("/a.csv", BODY)
    archive.put_sum("/a.csv", BODY + b"more")
    report = got(archive, tmp_path, CHECKED)
    assert "SHA-256" in report.failed[0].reason
    assert archive.times_asked("/a.csv") == 4
    assert "a.csv" not in visible(tmp_path)


def test_a_checksum_that_is_wrong_once(archive: Archive, tmp_path: Path) -> None:
    archive.put("/a.csv", BODY.replace(b"1.5", b"1.6"), then=BODY)
    archive.put_sum("/a.csv", BODY)
    assert got(archive, tmp_path, CHECKED).fetched == 1
    assert (tmp_path / "a.csv").read_bytes() == BODY


def test_a_body_cut_short_by_its_length_is_found_by_its_checksum(archive: Archive, tmp_path: Path) -> None:
    archive.put("/a.csv", BODY, Trouble("shorter", len(BODY) // 2))
    archive.put_sum("/a.csv", BODY)
    assert got(archive, tmp_path, CHECKED).fetched == 1
    assert (tmp_path / "a.csv").read_bytes() == BODY


@pytest.mark.parametrize("content", [b"", b"hello\n", b"0" * 64 + b"  other.csv\n", b"\xff" * 200_000])
def test_a_checksum_file_that_is_none(archive: Archive, tmp_path: Path, content: bytes) -> None:
    archive.put("/a.csv", BODY)
    archive.put("/a.csv.CHECKSUM", content)
    assert "has no SHA-256 for a.csv" in got(archive, tmp_path, CHECKED).failed[0].reason


def test_a_checksum_file_that_is_not_there(archive: Archive, tmp_path: Path) -> None:
    archive.put("/a.csv", BODY)
    assert "there is no checksum file" in got(archive, tmp_path, CHECKED).failed[0].reason
    assert visible(tmp_path) == set()


def test_a_damaged_file_is_fetched_again(archive: Archive, tmp_path: Path) -> None:
    archive.put("/a.csv", BODY)
    archive.put_sum("/a.csv", BODY)
    got(archive, tmp_path, CHECKED)
    (tmp_path / "a.csv").write_bytes(BODY.replace(b"1.5", b"9.5", 1))
    for options in (CHECKED, QUICK):  # with the checksum file here, also where none is asked for
        assert got(archive, tmp_path, options).n_bytes == (len(BODY) if options is CHECKED else 0)
        assert (tmp_path / "a.csv").read_bytes() == BODY
    (tmp_path / "a.csv.CHECKSUM").write_bytes(b"rubbish")
    assert got(archive, tmp_path, QUICK).fetched == 1
    assert got(archive, tmp_path, QUICK).skipped == 1


def test_a_file_here_without_its_checksum_is_verified(archive: Archive, tmp_path: Path) -> None:
    archive.put("/a.csv", BODY)
    archive.put_sum("/a.csv", BODY, Trouble("status", 500))
    (tmp_path / "a.csv").write_bytes(BODY)
    assert got(archive, tmp_path, CHECKED).skipped == 1
    assert archive.times_asked("/a.csv") == 0


@pytest.mark.parametrize("name", ["a.zip", "a.csv.gz"])
def test_archives_tell_when_they_are_cut_or_damaged(archive: Archive, tmp_path: Path, name: str) -> None:
    body = zipped(BODY) if name == "a.zip" else gzip.compress(BODY)
    archive.put(f"/{name}", body, Trouble("shorter", 8))
    assert got(archive, tmp_path, name=name).fetched == 1
    assert (tmp_path / name).read_bytes() == body
    (tmp_path / name).unlink()
    archive.put(f"/{name}", body[:1000] + b"\0\0\0\0" + body[1004:])
    assert "no whole" in got(archive, tmp_path, QUICK, name).failed[0].reason


def test_text_that_ends_within_a_line_is_asked_about(archive: Archive, tmp_path: Path) -> None:
    archive.put("/a.csv", BODY[:-1])
    assert got(archive, tmp_path).fetched == 1
    assert archive.asked[1][1]["range"] == f"bytes={len(BODY) - 1}-"
    assert (tmp_path / "a.csv").read_bytes() == BODY[:-1]


def test_no_length_and_no_chunks_is_refused_unless_the_file_tells(archive: Archive, tmp_path: Path) -> None:
    archive.put("/a.csv", BODY, Trouble("no_length"))
    archive.put("/a.zip", zipped(BODY), Trouble("no_length"))
    assert "no length" in got(archive, tmp_path).failed[0].reason
    assert got(archive, tmp_path, name="a.zip").fetched == 1


def test_an_encoded_body_is_refused(archive: Archive, tmp_path: Path) -> None:
    archive.put("/a.csv", BODY, Trouble("gzip"))
    assert "encoded as gzip" in got(archive, tmp_path).failed[0].reason
    assert archive.asked[0][1]["accept-encoding"] == "identity"


def test_an_empty_file_is_a_file(archive: Archive, tmp_path: Path) -> None:
    archive.put("/a.csv", b"")
    assert got(archive, tmp_path).fetched == 1
    assert (tmp_path / "a.csv").read_bytes() == b""
