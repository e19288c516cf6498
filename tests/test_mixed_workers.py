"""Workers of one scheduler, each with other kernels: every one takes the best it has, and the run is the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from clusters import scheduler, worker
from filling import fill_store
from host_device import compiler
from prices import tick_walk

from atc_backtest.config import AtcConfig, RunConfig
from atc_backtest.errors import StoreError
from atc_backtest.kernels import get_kernel
from atc_backtest.pipelines.backtest import Options, backtest
from atc_backtest.pipelines.memory import PROCESS_BYTES
from atc_backtest.pipelines.runs import Run
from atc_backtest.pipelines.verify import verify

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(compiler() is None, reason="no g++ to run the GPU's code on the CPU"),
    pytest.mark.skipif(get_kernel().name != "rust", reason="no Rust kernel"),
]
SETS = [RunConfig(), RunConfig(AtcConfig(profile="pine", lambda_=0.5))]
SAVE = ("signals", "trades")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifteen chunks of symbols x 400 hourly bars, some of them missing."""
    path = tmp_path_factory.mktemp("mixed") / "prices.zarr"
    close = np.stack([tick_walk(400, seed) for seed in range(16)])
    close[3, ::7] = close[9, :100] = np.nan
    fill_store(path, np.tile(close, (60, 1)))
    return path


@pytest.fixture(scope="module")
def whole(store: Path) -> Run:
    return backtest(store, store.parent / "whole", SETS, Options(save=SAVE, threads=2, kernel="numba"))


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A scheduler whose workers have a GPU, Rust, and Numba alone."""
    with scheduler(tmp_path) as found, ExitStack() as stack:
        for kernel in ("cuda", "rust", "numba"):
            arguments = ("--preload", "worker_kernels", "--resources", f"{kernel.upper()}=1")
            stack.enter_context(worker(found, tmp_path / kernel, *arguments, env={"ATC_TEST_KERNEL": kernel}))
        yield found


def test_every_worker_takes_the_best_kernel_that_it_has(
    store: Path, whole: Run, address: str, tmp_path: Path, apart: None
) -> None:
    options = Options(save=SAVE, scheduler=address)
    run = backtest(store, tmp_path / "run", SETS, options)
    assert len(run.partitions) == 15
    assert run.manifest["kernel"] == "auto"
    assert run.kernels == ("cuda", "numba", "rust")
    assert run.content_hash() == whole.content_hash()
    found = verify(run, options=options)
    assert (found.ok, found.kernel, found.pairs) == (True, "auto", 2 * 960)
    for part in list((run.path / "commits").iterdir())[:7]:
        part.unlink()
    resumed = backtest(store, run.path, SETS, Options(save=SAVE, resume=True, kernel="rust"))
    assert resumed.content_hash() == whole.content_hash()
    assert verify(resumed, sample=0.1).ok


def test_a_named_kernel_is_needed_of_all_and_memory_counted_by_what_is_taken(
    store: Path, address: str, tmp_path: Path
) -> None:
    missing = r"worker tcp://\S+ on \S+, worker tcp://\S+ on \S+: cannot use the kernel cuda: .*pip install"
    with pytest.raises(StoreError, match=missing):
        backtest(store, tmp_path / "run", SETS, Options(scheduler=address, kernel="cuda"))
    of_gpus = Options(scheduler=address, kernel="cuda", resources=(("CUDA", 1),))
    run = backtest(store, tmp_path / "of-gpus", SETS[:1], of_gpus)
    assert (run.state, run.kernels) == ("complete", ("cuda",))
    little = PROCESS_BYTES["cuda"]
    arguments = ("--preload", "worker_kernels", "--memory-limit", str(little))
    with (
        worker(address, tmp_path / "small", *arguments, env={"ATC_TEST_KERNEL": "rust"}),
        worker(address, tmp_path / "too-small", *arguments, env={"ATC_TEST_KERNEL": "cuda"}),
        pytest.raises(StoreError, match=rf"for this run: worker \S+ on \S+: may take {little:,} .* kernel cuda"),
    ):
        backtest(store, tmp_path / "run", SETS, Options(scheduler=address, threads=1))
    assert not (tmp_path / "run").exists()
