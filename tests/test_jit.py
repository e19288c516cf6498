"""Compiling with Numba: whoever comes first, once, and never another source's code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PARTS = """
from numba.extending import register_jitable

@register_jitable
def grown(x):
    return x + {step}
"""

ENTRY = """
import logging, sys
import numba
import parts
from atc_backtest.jit import compiled

def three_times(x):
    return 3.0 * parts.grown(x)

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
print(compiled(three_times, [(numba.float64,)], sources=(parts,))(1.0))
"""


def start(folder: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(folder / "cache")}
    return subprocess.Popen(
        [sys.executable, str(folder / "entry.py")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(process: subprocess.Popen[str]) -> tuple[str, int]:
    """What it printed, and how often it compiled."""
    out, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return out.strip(), said.count("compiling three_times, once on this machine")


def test_of_many_processes_one_compiles_and_all_compute_the_same(tmp_path: Path) -> None:
    (tmp_path / "parts.py").write_text(PARTS.format(step=1.0))
    (tmp_path / "entry.py").write_text(ENTRY)
    found = [outcome(process) for process in [start(tmp_path) for _ in range(4)]]
    assert [out for out, _ in found] == ["6.0"] * 4
    assert sum(compiled for _, compiled in found) == 1
    assert outcome(start(tmp_path)) == ("6.0", 0)


def test_a_full_disk_costs_the_cache_and_nothing_else(tmp_path: Path) -> None:
    full = "import errno, os\nfrom numba.core.caching import IndexDataCacheFile\ndef save(*args):\n"
    full += "    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))\nIndexDataCacheFile.save = save\n"
    (tmp_path / "parts.py").write_text(PARTS.format(step=1.0))
    (tmp_path / "entry.py").write_text(full + ENTRY)
    process = start(tmp_path)
    out, said = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, "6.0\n"), said
    assert "three_times is compiled in every process, for it cannot be kept: [Errno 28] No space left" in said


def test_another_source_that_is_compiled_in_is_never_taken_from_the_cache(tmp_path: Path) -> None:
    """Numba by itself looks at the function's own file only."""
    (tmp_path / "entry.py").write_text(ENTRY)
    for step, expected in ((1.0, "6.0"), (2.0, "9.0"), (1.0, "6.0")):
        (tmp_path / "parts.py").write_text(PARTS.format(step=step))
        out, _ = outcome(start(tmp_path))
        assert out == expected
