"""Which kernel `auto` takes: a GPU where it is worth it and has shown the CPU's bits, and why it does not."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from filling import fill_store
from host_device import HostDriver, compiler
from prices import tick_walk
from typer.testing import CliRunner

from atc_backtest.api import backtest as called
from atc_backtest.cli import app
from atc_backtest.config import AtcConfig, RunConfig
from atc_backtest.errors import ConfigError, UnavailableError
from atc_backtest.kernels import KERNELS, best_kernel, devices, get_kernel, gpu_refusal
from atc_backtest.kernels.cuda import CudaKernel
from atc_backtest.kernels.devices import VISIBLE, named_gpus, parse_list, visible_gpus
from atc_backtest.kernels.protocol import Kernel, Outputs, Prices, State
from atc_backtest.pipelines import costs
from atc_backtest.pipelines.backtest import Options, backtest, prepare
from atc_backtest.pipelines.choosing import choose, kernel_of
from atc_backtest.pipelines.cluster import Setup
from atc_backtest.pipelines.connecting import local_cluster
from atc_backtest.pipelines.executors import Done, Tick
from atc_backtest.pipelines.plan import Plan
from atc_backtest.pipelines.report import basis
from atc_backtest.pipelines.runs import open_run
from atc_backtest.pipelines.verify import verify

CPU = get_kernel().name
needs_compiler = pytest.mark.skipif(compiler() is None, reason="no g++ to run the GPU's code on the CPU")


@dataclass(frozen=True)
class Faulty:
    """A kernel as `get_kernel` gives it, but for a fault that a device may have."""

    fault: str
    name: str = "cuda"

    def new_state(self, configs: Sequence[AtcConfig], n_symbols: int) -> State:
        return State.new(configs, n_symbols)

    def advance(self, state: State, prices: Prices, outputs: Outputs) -> None:
        if self.fault == "fails":
            raise RuntimeError("an illegal memory access was encountered")
        get_kernel().advance(state, prices, outputs)
        if self.fault == "signal" and outputs.signal is not None:
            seen = ~np.isnan(outputs.signal)
            at = tuple(index[-1] for index in np.nonzero(seen))
            outputs.signal[at] = np.nextafter(outputs.signal[at], 2.0)
        if self.fault == "state":
            state.bars[4] += 1  # of the symbol that has no bar in the trial

    def follow(self, state: State) -> None:
        raise NotImplementedError


def absent() -> Kernel:
    raise UnavailableError("the GPU kernel finds no device: buy one.")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Kernel]], None]:
    """Puts something in the place of the GPU's kernel."""
    return lambda make: monkeypatch.setitem(KERNELS, "cuda", make)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU is worth its start for the shortest of runs."""
    monkeypatch.setattr(costs, "GPU_START_S", 0.0)
    monkeypatch.setattr(costs, "GPU_WORTH", 1.0)


@pytest.fixture(autouse=True)
def _no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three chunks of symbols x 300 hourly bars, some of them missing."""
    path = tmp_path_factory.mktemp("choosing") / "prices.zarr"
    close = np.stack([tick_walk(300, seed) for seed in range(130)])
    close[3, ::7] = close[9, :100] = np.nan
    fill_store(path, close)
    return path


# Which GPUs there are


def test_gpus_are_named_as_cuda_reads_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert named_gpus("0, 2,GPU-ab") == ("0", "2", "GPU-ab")
    assert named_gpus("1,-1,0") == ("1",)
    assert named_gpus("") == named_gpus("-1") == ()
    monkeypatch.setenv(VISIBLE, "3,1")
    assert visible_gpus() == ("3", "1")
    monkeypatch.delenv(VISIBLE)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(devices, "DRIVER", tmp_path / "gpus")
    assert visible_gpus() == ()
    for bus in ("0000:18:00.0", "0000:2a:00.0"):
        (tmp_path / "gpus" / bus).mkdir(parents=True)
    assert visible_gpus() == ("0", "1")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\n")
    tool.chmod(0o755)
    assert visible_gpus() == ("GPU-1",)
    tool.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert visible_gpus() == ("0", "1")


def test_cuts_of_a_gpu_count_each() -> None:
    told = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aa)
  MIG 3g.20gb     Device  0: (UUID: MIG-1)
  MIG 3g.20gb     Device  1: (UUID: MIG-2)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bb)
"""
    assert parse_list(told) == ("MIG-1", "MIG-2", "GPU-bb")
    assert parse_list("No devices were found\n") == ()


# The trial


@needs_compiler
def test_a_device_of_the_same_bits_is_taken(device: Callable[..., None]) -> None:
    device(lambda: CudaKernel(HostDriver()))
    assert gpu_refusal() is None
    assert best_kernel() == "cuda"
    assert best_kernel("numba") == "numba"
    assert get_kernel().name == CPU


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("signal", "other values of signal than the"),
        ("state", "left another state than the"),
        ("fails", r"failed in a trial \(RuntimeError: an illegal memory access"),
    ],
)
def test_another_device_is_not_taken_and_that_is_said_once(
    device: Callable[..., None], caplog: pytest.LogCaptureFixture, fault: str, said: str
) -> None:
    device(lambda: Faulty(fault))
    with caplog.at_level(logging.DEBUG, "atc_backtest.kernels"):
        for _ in range(2):
            assert re.search(said, gpu_refusal() or "")
            assert best_kernel() == CPU
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "The GPU is not taken" in record.getMessage()


@pytest.mark.parametrize(("gpus", "level"), [("", logging.DEBUG), ("0", logging.WARNING)])
def test_only_where_there_is_a_device_its_absence_is_a_warning(
    device: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    gpus: str,
    level: int,
) -> None:
    monkeypatch.setenv(VISIBLE, gpus)
    device(lambda: absent())
    with caplog.at_level(logging.DEBUG, "atc_backtest.kernels"):
        assert gpu_refusal() == "the GPU kernel finds no device: buy one."
    assert [record.levelno for record in caplog.records] == [level]


# The choice


def planned(**seconds: float) -> Callable[[str], Plan]:
    """Plans that take so long, by kernel; of other kernels there is none under the limit."""

    def plan(name: str) -> Plan:
        if name not in seconds:
            raise ConfigError("a memory limit of 1 B is too small")
        return Plan((), 1, 1, 1, False, 1, 1, None, True, seconds[name])

    return plan


def test_a_gpu_is_taken_where_it_is_well_sooner_with_its_start(device: Callable[..., None]) -> None:
    device(lambda: Faulty(""))  # of the same bits
    start = costs.GPU_START_S
    for cpu, gpu, taken in [
        (0.9 * start, 0.0, CPU),
        (4.0 * start, 1.9 * start, "cuda"),
        (4.0 * start, 2.1 * start, CPU),
        (1e6, 1e5, "cuda"),
    ]:
        name, plan = choose("auto", planned(**{CPU: cpu, "cuda": gpu}), processes=False)
        assert (name, plan.seconds) == (taken, gpu if taken == "cuda" else cpu)
    assert choose(CPU, planned(**{CPU: 1e6, "cuda": 1.0}), processes=False)[0] == CPU
    assert choose("auto", planned(**{CPU: 1e6}), processes=False)[0] == CPU  # no room for its process


def test_a_device_is_not_tried_for_a_run_that_is_over_soon(device: Callable[..., None]) -> None:
    tried = []
    device(lambda: tried.append(1) or absent())
    choose("auto", planned(**{CPU: 1.0, "cuda": 0.1}), processes=False)
    assert tried == []
    assert choose("auto", planned(**{CPU: 1e6, "cuda": 1.0}), processes=False)[0] == CPU
    assert tried == [1]


def test_workers_of_this_machine_decide_each_where_it_has_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    long = planned(**{CPU: 1e6, "cuda": 1.0})
    assert choose("auto", long, processes=True)[0] == CPU
    monkeypatch.setenv(VISIBLE, "0,1")
    assert choose("auto", long, processes=True) == ("auto", long("cuda"))
    assert choose("auto", planned(**{CPU: 1.0, "cuda": 0.1}), processes=True)[0] == CPU


def test_workers_of_a_scheduler_have_what_they_have(device: Callable[..., None]) -> None:
    device(absent)
    long = planned(**{CPU: 1e6, "cuda": 1.0})
    assert choose("auto", long, processes=False, elsewhere=True) == ("auto", long(CPU))
    assert choose("cuda", long, processes=False, elsewhere=True) == ("cuda", long("cuda"))
    with pytest.raises(UnavailableError, match="buy one"):
        choose("cuda", long, processes=False)
    with pytest.raises(ConfigError, match="unknown kernel 'fortran'"):
        kernel_of("fortran", elsewhere=True)


# Runs


@needs_compiler
@pytest.mark.usefixtures("at_once")
def test_a_run_says_which_kernels_computed_it(
    store: Path, tmp_path: Path, device: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = [RunConfig(), RunConfig(AtcConfig(profile="pine"))]
    whole = backtest(store, tmp_path / "whole", sets, Options(kernel="numba"))
    device(lambda: CudaKernel(HostDriver()))
    monkeypatch.setattr(costs, "SHORTEST_NS", 1.0)  # a partition a chunk
    run = backtest(store, tmp_path / "run", sets, Options(threads=2))
    assert (run.manifest["kernel"], run.kernels) == ("cuda", ("cuda",))
    assert run.content_hash() == whole.content_hash()
    assert basis(run)[0].endswith("kernel cuda")
    found = verify(run)
    assert (found.ok, found.kernel) == (True, CPU)
    next((run.path / "commits").iterdir()).unlink()
    resumed = backtest(store, run.path, sets, Options(resume=True, kernel="numba"))
    assert resumed.kernels == ("cuda", "numba")
    assert resumed.content_hash() == whole.content_hash()
    called(store, sets, out=tmp_path / "called")
    assert open_run(tmp_path / "called").kernels == (CPU,)


@pytest.mark.usefixtures("at_once")
def test_a_run_does_without_a_device_that_gives_other_bits(
    store: Path, tmp_path: Path, device: Callable[..., None]
) -> None:
    device(lambda: Faulty("signal"))
    run = backtest(store, tmp_path / "run", [RunConfig()])
    assert (run.manifest["kernel"], run.kernels) == (CPU, (CPU,))
    assert verify(run, options=Options(kernel="numba")).ok
    device(lambda: absent())
    with pytest.raises(UnavailableError, match="buy one"):
        backtest(store, tmp_path / "named", [RunConfig()], Options(kernel="cuda"))
    assert not (tmp_path / "named").exists()


@pytest.mark.usefixtures("at_once")
def test_a_plan_for_a_gpu_counts_its_processes(store: Path, device: Callable[..., None]) -> None:
    device(lambda: Faulty(""))
    cpu = prepare(store, Path("never"), [RunConfig()], Options(threads=1, kernel=CPU)).plan
    taken = prepare(store, Path("never"), [RunConfig()], Options(threads=1))
    assert taken.kernel == "cuda"
    assert taken.plan.projected_bytes > cpu.projected_bytes
    tight = prepare(store, Path("never"), [RunConfig()], Options(threads=1, memory_limit=cpu.projected_bytes))
    assert (tight.kernel, tight.plan.projected_bytes) == (CPU, cpu.projected_bytes)


def _gpu_of_worker(item: int, tick: Tick) -> tuple[int, str | None]:
    from distributed import get_worker

    time.sleep(0.2)
    return get_worker().name, os.environ.get(VISIBLE)


def test_workers_are_given_one_gpu_each_by_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VISIBLE)
    with local_cluster(3, None, Setup(gpus=("GPU-a", "GPU-b"))) as executor:
        outcomes = list(executor.run(_gpu_of_worker, range(12), lambda bars: None))
    found = dict(one.result for one in outcomes if isinstance(one, Done))
    assert found
    assert found == {name: ("GPU-a", "GPU-b", "GPU-a")[name] for name in found}
    assert VISIBLE not in os.environ


@pytest.mark.usefixtures("at_once")
def test_workers_that_cannot_use_their_gpus_do_without(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no CuPy here, or no device 0."""
    monkeypatch.setenv(VISIBLE, "GPU-that-is-nowhere")
    run = backtest(store, tmp_path / "run", [RunConfig()], Options(workers=1))
    assert (run.manifest["kernel"], run.kernels) == ("auto", (CPU,))
    assert verify(run).ok


# Doctor


def told_by_doctor() -> dict[str, dict[str, str]]:
    return {one["name"]: one for one in json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)}


def test_doctor_says_what_auto_takes_and_why(device: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    device(lambda: absent())
    found = told_by_doctor()
    assert (found["GPUs"]["found"], found["kernel auto"]["found"]) == ("none", CPU)
    assert "kernel cuda is unavailable" in found["kernel auto"]["remedy"]
    monkeypatch.setenv(VISIBLE, "0,1")
    device(lambda: Faulty("signal"))
    found = told_by_doctor()
    assert (found["GPUs"]["found"], found["kernel auto"]["found"]) == ("0, 1", CPU)
    assert "other values of signal" in found["kernel auto"]["remedy"]
    device(lambda: Faulty(""))
    found = told_by_doctor()
    assert found["kernel auto"]["found"].startswith("cuda")
    assert f"the bits of {CPU} in a trial" in found["kernel auto"]["remedy"]
