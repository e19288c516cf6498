"""A run under a hard limit of the kernel's, 1.3 times what its plan promises: it finishes.

The limit is a control group's. RLIMIT_AS would not do: Numba, Arrow and threads reserve addresses that they never use.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from filling import fill_store
from prices import tick_walk

from atc_backtest.config import RunConfig
from atc_backtest.pipelines.backtest import Options, backtest, prepare
from atc_backtest.pipelines.runs import open_run

ROOT = Path(__file__).resolve().parent.parent
GROUPS = {
    Path("/sys/fs/cgroup/memory"): "memory.limit_in_bytes",
    Path("/sys/fs/cgroup"): "memory.max",
}
"""Where control groups of memory are made, of the first version and the second, and the file of their limit."""


@pytest.fixture
def group() -> Iterator[tuple[Path, str]]:
    """A control group and the name of its limit. Skips, and says why, where none can be made."""
    said = "no control groups are mounted"
    for root, limit in GROUPS.items():
        path = root / f"atc-test-{os.getpid()}"
        try:
            path.mkdir()
        except OSError as error:
            said = str(error)
            continue
        if (path / limit).exists():
            yield path, limit
            path.rmdir()
            return
        path.rmdir()
    pytest.skip(f"no control group of memory can be made here ({said}): needs root")


def limited(group: tuple[Path, str], size: int, *command: str) -> int:
    """Exit status of Python under a limit of so many bytes."""
    path, limit = group
    (path / limit).write_text(str(size))
    join = f'echo $$ > {path / "cgroup.procs"} && exec "$@"'
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(["sh", "-c", join, "sh", sys.executable, *command], check=False, env=env).returncode


@pytest.mark.slow
def test_a_run_finishes_under_a_hard_limit_of_its_projection_and_a_bit(tmp_path: Path, group: tuple[Path, str]) -> None:
    path, save = tmp_path / "prices.zarr", ("signals", "equity")
    fill_store(path, np.stack([tick_walk(20_000, seed) for seed in range(128)]))
    options = Options(threads=2, save=save)
    projected = prepare(path, tmp_path / "run", [RunConfig()], options).plan.projected_bytes
    limit = projected * 13 // 10
    greedy = f"import numpy; numpy.ones({2 * limit} // 8)"
    assert limited(group, limit, "-c", greedy) == -9  # the limit is one
    command = ("backtest", str(path), "--out", str(tmp_path / "run"), "--threads", "2", "--save", ",".join(save))
    assert limited(group, limit, "-m", "atc_backtest", *command) == 0
    whole = backtest(path, tmp_path / "whole", [RunConfig()], options)
    assert open_run(tmp_path / "run").content_hash() == whole.content_hash()
