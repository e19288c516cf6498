"""Hidden folders of a run: safe while their owner lives, whoever resumes; removed by the next when it was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filling import fill_store
from prices import tick_walk

from atc_backtest.config import RunConfig
from atc_backtest.pipelines import summing
from atc_backtest.pipelines import verify as verifying
from atc_backtest.pipelines.backtest import Options, backtest
from atc_backtest.pipelines.executors import Tick
from atc_backtest.pipelines.partition import PartSummary, run_partition
from atc_backtest.pipelines.portfolio import portfolio, weighting_of
from atc_backtest.pipelines.runs import Run
from atc_backtest.pipelines.scratch import scratch
from atc_backtest.pipelines.verify import verify
from atc_backtest.stores.lock import this_process

ROOT = Path(__file__).resolve().parent.parent
RUN = RunConfig()
SAVE = ("trades", "periods")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    fill_store(tmp_path / "prices.zarr", np.stack([tick_walk(2_000, seed) for seed in range(3)]))
    return backtest(tmp_path / "prices.zarr", tmp_path / "run", [RUN], Options(save=SAVE))


def resume(run: Run) -> Run:
    return backtest(run.manifest["store"]["path"], run.path, [RUN], Options(save=SAVE, resume=True))


def hidden(run: Run) -> list[str]:
    return sorted(path.name for path in run.path.rglob(".*"))


def killed(run: Run, kind: str) -> None:
    """A process is killed while it has such a folder, with something in it."""
    program = (
        "import os, signal; from pathlib import Path; from atc_backtest.pipelines.scratch import scratch\n"
        f"with scratch(Path({str(run.path)!r}), {kind!r}) as folder:\n"
        "    (folder / 'half').write_text('done'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    died = subprocess.run([sys.executable, "-c", program], check=False, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert died.returncode == -signal.SIGKILL
    assert [name for name in hidden(run) if name.startswith(f".{kind}-")]


def test_a_run_is_resumed_while_it_is_verified(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def resumed_before_it_is_compared(job: Any, partition: Any, tick: Tick) -> PartSummary:
        done = run_partition(job, partition, tick)
        seen.append(resume(run).state)
        return done

    monkeypatch.setattr(verifying, "run_partition", resumed_before_it_is_compared)
    found = verify(run, options=Options(threads=1))
    assert found.findings == ()
    assert seen == ["complete"]
    assert hidden(run) == []


def test_a_run_is_resumed_while_its_portfolio_is_made(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, seen = summing._sum_block, []

    def resumed_before_it_is_added(*args: Any) -> None:
        kept(*args)
        seen.append(resume(run).state)

    monkeypatch.setattr(summing, "_sum_block", resumed_before_it_is_added)
    portfolio(run, weighting_of(run, 0, "equal", None, 1, 6, 0.0), options=Options(threads=1))
    assert seen == ["complete"]
    assert hidden(run) == []


@pytest.mark.parametrize("kind", ["verify", "portfolio", "probe"])
@pytest.mark.parametrize("somebody", [resume, verify])
def test_what_was_killed_is_cleaned_up_by_whoever_comes_next(run: Run, kind: str, somebody: Any) -> None:
    killed(run, kind)
    with scratch(run.path, "verify") as mine:
        somebody(run)
        assert hidden(run) == [mine.name, f"{mine.name}.lock"]
    assert hidden(run) == []


def test_a_folder_without_its_lock_is_nobodys_and_another_hosts_is_left_alone(run: Run) -> None:
    (run.path / ".verify-old").mkdir()
    (run.path / ".verify-far").mkdir()
    elsewhere = replace(this_process("atc-backtest verify"), host="elsewhere", pid=77)
    (run.path / ".verify-far.lock").write_text(json.dumps(asdict(elsewhere)))
    (run.path / ".verify-new.lock").touch()  # its owner is about to hold it
    resume(run)
    assert hidden(run) == [".verify-far", ".verify-far.lock", ".verify-new.lock"]


def test_many_come_and_go_at_once(tmp_path: Path) -> None:
    lost = []

    def work() -> None:
        for _ in range(60):
            with scratch(tmp_path, "verify") as folder:
                (folder / "half").touch()
                lost.extend([] if (folder / "half").exists() else [folder])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lost == []
    assert list(tmp_path.iterdir()) == []
