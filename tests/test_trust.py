"""A run can be trusted: what fails is named and tried again, what is committed stays, what is changed is found."""

from __future__ import annotations

import json
import pickle
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import atc
from filling import apart, fill_store
from prices import tick_walk

from atc_backtest.config import AtcConfig, RunConfig
from atc_backtest.errors import ConfigError, DataError, StoreError
from atc_backtest.pipelines import backtest as running
from atc_backtest.pipelines import executors
from atc_backtest.pipelines.backtest import Options, backtest, prepare
from atc_backtest.pipelines.commits import file_digest, read_record, write_record
from atc_backtest.pipelines.executors import Tick, WorkerLostError
from atc_backtest.pipelines.job import Job
from atc_backtest.pipelines.partition import PartSummary, run_partition
from atc_backtest.pipelines.parts import SIGNALS_SCHEMA, PartWriter, series_table
from atc_backtest.pipelines.plan import Partition, Plan, make_plan
from atc_backtest.pipelines.runs import REPLACED, JobPlace, Run, job_at, open_run
from atc_backtest.pipelines.verify import verify

RUN = RunConfig(AtcConfig())
SETS = [RUN, replace(RUN, atc=AtcConfig(lambda_=0.3))]
ALL = ("signals", "equity", "trades")


@pytest.fixture(scope="module", autouse=True)
def _apart() -> Iterator[None]:
    with apart():
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three chunks of symbols x 300 hourly bars."""
    path = tmp_path_factory.mktemp("trust") / "prices.zarr"
    close = np.stack([tick_walk(300, seed) for seed in range(130)])
    close[5, 40:90] = np.nan
    fill_store(path, close)
    return path


@pytest.fixture(scope="module")
def finished(store: Path) -> Run:
    return backtest(store, store.parent / "finished", SETS, Options(save=ALL, threads=2))


@pytest.fixture
def copied(finished: Run, tmp_path: Path) -> Run:
    shutil.copytree(finished.path, tmp_path / "run")
    return open_run(tmp_path / "run")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "PAUSE_S", 0.001)


class Failing:
    """`run_partition`, which fails for chosen partitions in their first attempts."""

    def __init__(self, failures: dict[int, list[Exception]]) -> None:
        self._failures = failures
        self._lock = threading.Lock()
        self.attempts: Counter[int] = Counter()

    def __call__(self, job: Job, partition: Partition, tick: Tick) -> PartSummary:
        with self._lock:
            self.attempts[partition.index] += 1
            left = self._failures.get(partition.index)
            error = left.pop(0) if left else None
        if error is not None:
            raise error
        return run_partition(job, partition, tick)


Fail = Callable[[dict[int, list[Exception]]], Failing]


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Fail:
    def chosen(failures: dict[int, list[Exception]]) -> Failing:
        failing = Failing(failures)
        monkeypatch.setattr(running, "run_partition", failing)
        return failing

    return chosen


# What may pass is tried again, what fails for good is set aside


def test_errors_that_may_pass_are_tried_again(store: Path, tmp_path: Path, finished: Run, fail: Fail) -> None:
    failing = fail({0: [OSError(28, "No space left on device")], 2: [StoreError("a chunk"), WorkerLostError("gone")]})
    run = backtest(store, tmp_path / "run", SETS, Options(save=ALL, threads=2))
    assert failing.attempts == {0: 2, 1: 1, 2: 3}
    assert (run.state, run.set_aside) == ("complete", ())
    assert run.content_hash() == finished.content_hash()


def test_what_fails_for_good_is_set_aside_and_resumed(store: Path, tmp_path: Path, finished: Run, fail: Fail) -> None:
    lasting: list[Exception] = [OSError("a bad disk")] * 9
    failing = fail({0: lasting, 1: [DataError("a negative price")]})
    run = backtest(store, tmp_path / "run", SETS, Options(save=ALL, threads=2, retries=3))
    assert failing.attempts == {0: 4, 1: 1, 2: 1}
    assert (run.state, run.done) == ("partial", {2})
    poisoned, refused = run.set_aside
    assert (poisoned.partition, poisoned.error, poisoned.attempts) == (0, "OSError: a bad disk", 4)
    assert poisoned.symbols == tuple(f"S{i:03d}" for i in range(64))
    assert poisoned.sets == (0, 2)
    assert "in __call__" in poisoned.traceback
    assert (refused.error, refused.attempts) == ("DataError: a negative price", 1)
    assert {row["symbol"] for row in run.table().to_pylist()} == {"S128", "S129"}

    again = fail({1: [ValueError("a mistake")]})
    run = backtest(store, tmp_path / "run", SETS, Options(save=ALL, resume=True))
    assert again.attempts == {0: 1, 1: 1}
    assert [failure.error for failure in run.set_aside] == ["ValueError: a mistake"]
    fail({})
    run = backtest(store, tmp_path / "run", SETS, Options(save=ALL, resume=True))
    assert (run.state, run.set_aside) == ("complete", ())
    assert run.content_hash() == finished.content_hash()


def test_a_partial_run_exits_with_4_and_says_what_is_missing(store: Path, tmp_path: Path, fail: Fail) -> None:
    fail({1: [StoreError("chunk c/1/0 is damaged")]})
    result = atc("backtest", store, "--out", tmp_path / "run", "--retries", 0)
    assert result.exit_code == 4
    assert "partial: 1 of 3 partitions are missing" in result.stderr
    assert "partition 1 (64 symbols: S064, S065" in result.stderr
    assert "after 1 attempt: StoreError: chunk c/1/0 is damaged" in result.stderr
    assert "--resume" in result.stderr
    shown = atc("report", tmp_path / "run").stdout
    assert "warning   partial: 1 of 3 partitions are missing; continue with --resume" in shown
    assert "S064 .. S127, sets 0-0): StoreError: chunk c/1/0 is damaged" in shown
    found = json.loads(atc("report", tmp_path / "run", "--json").stdout)
    assert (found["state"], found["set_aside"][0]["partition"], len(found["rows"])) == ("partial", 1, 66)
    assert atc("backtest", store, "--out", tmp_path / "run", "--resume").exit_code == 0
    assert json.loads(atc("report", tmp_path / "run", "--json").stdout)["state"] == "complete"


@pytest.mark.parametrize("operation", ["finish", "publish"])
def test_a_disk_that_is_full_for_a_while_loses_nothing(
    store: Path, tmp_path: Path, finished: Run, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    honest, calls = getattr(PartWriter, operation), Counter[str]()

    def full(writer: PartWriter) -> Any:
        calls["all"] += 1
        if 2 <= calls["all"] < 7:
            raise OSError(28, "No space left on device")
        return honest(writer)

    monkeypatch.setattr(PartWriter, operation, full)
    run = backtest(store, tmp_path / "run", SETS, Options(save=ALL, threads=2, retries=5))
    assert calls["all"] >= 12 + 5
    assert (run.state, run.content_hash()) == ("complete", finished.content_hash())
    assert not list(run.path.rglob("*.tmp"))


def test_negative_retries_are_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--retries -1 is not allowed: at least 0"):
        prepare(store, tmp_path / "run", SETS, Options(retries=-1))


def test_a_second_attempt_replaces_nothing_that_was_committed(store: Path, tmp_path: Path) -> None:
    run = backtest(store, tmp_path / "run", SETS, Options(save=ALL, threads=1))
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in run.path.rglob("part-*")}
    assert len(before) == 3 * 5
    job = prepare(store, tmp_path / "run", SETS, Options(save=ALL, resume=True))
    for partition in job.plan.partitions:
        run_partition(job, partition, lambda bars: None)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in run.path.rglob("part-*")} == before
    assert not list(run.path.rglob("*.tmp"))


def test_what_travels_with_a_task_does_not_grow_with_symbols_and_sets(store: Path, tmp_path: Path) -> None:
    sizes = []
    for n_sets in (1, 40):
        sets = [replace(RUN, atc=AtcConfig(lambda_=0.01 + i / 1000)) for i in range(n_sets)]
        out = tmp_path / f"of{n_sets}"
        options = Options(threads=1, symbols=("S000",))
        run, job = backtest(store, out, sets, options), prepare(store, out, sets, options)
        place = JobPlace.of(run, job)
        assert job_at(place) == replace(job, plan=place.plan)
        sizes.append(len(pickle.dumps(place)))
    assert max(sizes) - min(sizes) < 20
    assert max(sizes) < 2_000


# The hash of a run


def finely_cut(*args: Any) -> Plan:
    """The plan, with partitions of at most 20 symbols and one set."""
    plan = make_plan(*args)
    pieces = [
        (part.symbols[at : at + 20], (param_id, param_id + 1))
        for part in plan.partitions
        for param_id in range(*part.sets)
        for at in range(0, len(part.symbols), 20)
    ]
    return replace(plan, partitions=tuple(Partition(index, *piece) for index, piece in enumerate(pieces)))


def test_neither_cut_nor_kernel_nor_workers_change_the_hash(
    store: Path, tmp_path: Path, finished: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = backtest(store, tmp_path / "one", SETS, Options(save=ALL, threads=1, kernel="numba"))
    clustered = backtest(store, tmp_path / "clustered", SETS, Options(save=ALL, workers=2))
    monkeypatch.setattr(running, "make_plan", finely_cut)
    many = backtest(store, tmp_path / "many", SETS, Options(save=ALL, threads=3))
    assert len(many.partitions) == 2 * (4 + 4 + 1)
    assert verify(many, sample=0.3, options=Options(threads=1)).ok
    assert {run.content_hash() for run in (one, many, clustered)} == {finished.content_hash()}
    figures = backtest(store, tmp_path / "figures", SETS, Options(threads=1))
    assert figures.contents()["metrics"] == finished.contents()["metrics"]
    other = backtest(store, tmp_path / "other", [RUN, RUN], Options(save=ALL))
    assert other.content_hash() != finished.content_hash()


def test_rows_that_wait_in_a_writer_do_not_change_with_their_array(tmp_path: Path) -> None:
    position = np.ones(4, np.int8)
    with PartWriter(tmp_path / "signals" / "part-00000.parquet", SIGNALS_SCHEMA) as writer:
        columns: dict[str, Any] = {"ts": np.arange(4), "signal": np.ones(4), "position": position}
        writer.write(series_table(SIGNALS_SCHEMA, "A", 0, columns))
        position[:] = -1
        writer.finish()
        writer.publish()
    assert pq.read_table(tmp_path / "signals" / "part-00000.parquet")["position"].to_pylist() == [1] * 4


# Reading


def test_series_are_read_lazily_from_the_committed_files(finished: Run) -> None:
    lazy = finished.dataset("signals")
    assert lazy.count_rows() == finished.contents()["signals"].rows == 2 * (130 * 300 - 50)
    mine = lazy.to_table(filter=pa.compute.field("symbol") == "S007")
    assert mine.num_rows == 600
    frame = pd.concat([pd.read_parquet(file) for file in finished.files("signals")])
    assert len(frame) == lazy.count_rows()
    assert {name: str(kind) for name, kind in zip(lazy.schema.names, lazy.schema.types, strict=True)} == (
        finished.manifest["schemas"]["signals"]
    )
    assert finished.manifest["schema_version"] == 2
    with pytest.raises(ConfigError, match="unknown dataset 'prices'"):
        finished.dataset("prices")


def test_parts_without_a_record_do_not_count(copied: Run) -> None:
    (copied.path / "commits" / "part-00001.json").unlink()
    assert copied.done == {0, 2}
    assert copied.state == "unfinished"
    assert [file.name for file in copied.files("trades")] == ["part-00000.parquet", "part-00002.parquet"]
    assert copied.table("equity").num_rows == copied.contents()["equity"].rows > 0
    assert not {"S064", "S127"} & set(copied.table()["symbol"].to_pylist())


def test_a_run_that_was_killed_as_it_began_or_while_it_was_replaced_is_not_in_the_way(
    store: Path, copied: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / ".manifest.json.0a1b2c.tmp").write_text("{")
    assert backtest(store, tmp_path / "begun", [RUN], Options(threads=1)).state == "complete"

    def cut(path: Path, ignore_errors: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", cut)
    with pytest.raises(KeyboardInterrupt):
        backtest(store, copied.path, SETS, Options(save=ALL, overwrite=True))
    monkeypatch.undo()
    assert open_run(copied.path).done == frozenset()
    assert len(list(copied.path.glob(f"{REPLACED}*"))) == 1
    assert backtest(store, copied.path, [RUN], Options(threads=1, overwrite=True)).state == "complete"
    assert not list(copied.path.glob(f"{REPLACED}*"))


# Verification


@pytest.mark.parametrize("options", [Options(kernel="numba"), Options(threads=1)])
def test_a_run_verifies_with_any_kernel(finished: Run, options: Options) -> None:
    found = verify(finished, options=options)
    assert (found.ok, found.parts, found.pairs, found.unfinished) == (True, 12, 260, 0)
    assert not list(finished.path.glob(".verify-*"))


def test_a_sample_is_seeded_and_verifies(finished: Run) -> None:
    found = verify(finished, sample=0.05, seed=3, options=Options(threads=1))
    assert (found.ok, found.pairs, found.all_pairs) == (True, 13, 260)
    with pytest.raises(ConfigError, match=r"--sample 0 is not allowed: more than 0, at most 1"):
        verify(finished, sample=0)


@pytest.mark.parametrize("dataset", ["metrics", *ALL])
def test_a_flipped_byte_is_found_and_named(copied: Run, dataset: str) -> None:
    part = copied.path / dataset / "part-00001.parquet"
    data = bytearray(part.read_bytes())
    for at in np.random.default_rng(1).integers(0, len(data), 3):
        data[at] ^= 0x10
        part.write_bytes(data)
        found = verify(copied, sample=0.004, options=Options(threads=1))
        assert [(one.partition, one.dataset, one.file) for one in found.findings] == [
            (1, dataset, f"{dataset}/part-00001.parquet")
        ]
        data[at] ^= 0x10


def test_rows_that_were_changed_are_named_with_both_values(copied: Run) -> None:
    part = copied.path / "equity" / "part-00000.parquet"
    table = pq.read_table(part)
    mine = pa.compute.and_(pa.compute.equal(table["symbol"], "S009"), pa.compute.equal(table["param_id"], 1))
    at = int(np.flatnonzero(mine.to_numpy())[20])
    values = table["equity"].to_numpy().copy()
    honest = values[at]
    values[at] = np.nextafter(honest, np.inf)
    changed = table.set_column(table.column_names.index("equity"), "equity", pa.array(values))
    pq.write_table(changed, part)
    result = atc("verify", copied.path, "--threads", 1)
    assert result.exit_code == 3
    assert "equity/part-00000.parquet is damaged: its bytes are not those that were committed" in result.stdout
    record = read_record(copied.path, 0)
    forged = replace(record["equity"], size=part.stat().st_size, blake2b=file_digest(part))
    write_record(copied.path, 0, record | {"equity": forged})
    assert "holds other rows than its record" in atc("verify", copied.path, "--threads", 1).stdout
    with PartWriter(copied.path / "equity" / "part-00000.parquet", table.schema) as writer:
        writer.write(changed)
        forged = writer.finish()
        writer.publish()
    write_record(copied.path, 0, record | {"equity": forged})
    (found,) = verify(copied, options=Options(kernel="numba")).findings
    assert (found.symbol, found.param_id, found.dataset, found.row) == ("S009", 1, "equity", 20)
    assert found.stored is not None
    assert found.recomputed is not None
    assert (found.stored["equity"], found.recomputed["equity"]) == (values[at], honest)
    assert found.stored["ts"] == found.recomputed["ts"]
    shown = atc("verify", copied.path)
    assert shown.exit_code == 3
    assert f'S009, set 1, equity, row 20: stored {{"ts": "{found.stored["ts"]}", "equity": {values[at]}' in shown.stdout


def test_what_is_missing_or_unreadable_is_named(copied: Run) -> None:
    (copied.path / "trades" / "part-00002.parquet").unlink()
    (copied.path / "commits" / "part-00001.json").write_text("{")
    found = verify(copied, sample=0.004, options=Options(threads=1))
    assert [(one.partition, one.dataset) for one in found.findings] == [(1, "record"), (2, "trades")]
    assert "is damaged" in found.findings[0].what
    assert "is missing" in found.findings[1].what


# Prices that change under a run


def test_prices_that_went_away_refuse_resume_and_verify(tmp_path: Path) -> None:
    path = tmp_path / "prices.zarr"
    close = np.stack([tick_walk(200, 1)])
    fill_store(path, close)
    run = backtest(path, tmp_path / "run", [RUN])
    fill_store(path, close[:, :10], start=500)
    assert verify(run).ok  # the version it began with is kept
    shutil.rmtree(path)
    with pytest.raises(StoreError, match=r"began with version \d+ of .*, which cannot be read any more"):
        verify(run)
    fill_store(path, close)  # made anew with the same prices: nobody can know that they are
    with pytest.raises(StoreError, match=r"is another store than the one that .* began with"):
        verify(run)
    (run.path / "commits" / "part-00000.json").unlink()
    with pytest.raises(ConfigError, match="begun with other prices: another store is at its place now"):
        backtest(path, tmp_path / "run", [RUN], Options(resume=True))
    assert atc("verify", run.path).exit_code == 3
