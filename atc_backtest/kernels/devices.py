"""Which GPUs a process may use, found without loading anything of CUDA into it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from itertools import takewhile
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""What CUDA reads, when it is loaded: the GPUs of a process, separated by commas."""
DRIVER = Path("/proc/driver/nvidia/gpus")
ASK_S = 30.0
"""The driver's own tool may have to wake the devices."""


def visible_gpus() -> tuple[str, ...]:
    """Names, as `VISIBLE` takes them, of the GPUs that this process may use: those it names, where it is set.

    Otherwise all of the machine, each cut of one that is cut (MIG) by itself. Empty where there is none.
    """
    if VISIBLE in os.environ:
        return named_gpus(os.environ[VISIBLE])
    return _listed() or tuple(str(number) for number, _ in enumerate(DRIVER.glob("*")))


def named_gpus(text: str) -> tuple[str, ...]:
    """The GPUs that a value of `VISIBLE` names; as for CUDA, the first that is none ends the list."""
    names = (name.strip() for name in text.split(","))
    return tuple(takewhile(lambda name: name and not name.startswith("-"), names))


def _listed() -> tuple[str, ...]:
    """What `nvidia-smi -L` names; empty where it is not there or knows of none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    try:
        done = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False, timeout=ASK_S)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return parse_list(done.stdout) if done.returncode == 0 else ()


def parse_list(text: str) -> tuple[str, ...]:
    """UUIDs in the output of `nvidia-smi -L`: of a GPU, or of its cuts, which it names in the lines below."""
    gpus: list[list[str]] = []
    for line in text.splitlines():
        found = re.search(r"\(UUID: ([^)\s]+)\)", line)
        if found and line.startswith("GPU "):
            gpus.append([found[1]])
        elif found and gpus:
            gpus[-1].append(found[1])
    return tuple(name for gpu in gpus for name in gpu[1:] or gpu)
