"""What `doctor` tells: what is here, what is not, and the command that brings it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from atc_backtest import __version__
from atc_backtest.errors import UnavailableError
from atc_backtest.kernels import KERNELS, get_kernel, gpu_refusal
from atc_backtest.kernels.devices import visible_gpus
from atc_backtest.pipelines.costs import GPU_START_S
from atc_backtest.pipelines.memory import ram_bytes

PACKAGES = ("numpy", "numba", "zarr", "pyarrow", "dask", "distributed", "typer", "rich")


@dataclass(frozen=True)
class Finding:
    """One line: `ok` None where an absence is no fault; `remedy` empty where nothing is to do."""

    name: str
    ok: bool | None
    found: str
    remedy: str = ""


def diagnose() -> list[Finding]:
    """Everything about this installation that decides what runs and how fast."""
    here = f"Python {platform.python_version()}, {platform.machine()}, {platform.system()}"
    findings = [
        Finding("atc-backtest", True, f"{__version__} on {here}"),
        Finding("machine", True, f"{os.cpu_count()} cores, {_memory()}"),
    ]
    findings += [_kernel(name) for name in KERNELS]
    findings.append(_gpus())
    findings.append(_auto())
    findings.append(_cargo())
    findings += [_package(name) for name in PACKAGES]
    findings.append(_extra("fetch", "aiohttp", "downloads of archive files"))
    findings.append(_extra("ccxt", "ccxt", "recent bars of exchanges"))
    findings.append(_extra("dashboard", "bokeh", "the Dask dashboard"))
    findings.append(_extra("report", "matplotlib", "pages and pictures of a report"))
    findings.append(_extra("pandas", "pandas", "pandas results from Python"))
    findings.append(_extra("optuna", "optuna", "sweep --search optuna"))
    findings.append(_extra("gpu", "cupy", "CuPy, for --kernel cuda"))
    return findings


def _kernel(name: str) -> Finding:
    try:
        get_kernel(name)
    except UnavailableError as error:
        return Finding(f"kernel {name}", None, "unavailable", str(error))
    return Finding(f"kernel {name}", True, "available")


def _gpus() -> Finding:
    gpus = visible_gpus()
    if not gpus:
        return Finding("GPUs", None, "none")
    return Finding("GPUs", True, ", ".join(gpus), "threads spread over them, with --workers N each worker has one")


def _auto() -> Finding:
    """What `--kernel auto` takes, and why; a GPU is tried here as a run would try it."""
    cpu, refused = get_kernel().name, gpu_refusal()
    why = [] if cpu == "rust" else ["Numba takes the Rust kernel's place: the same bits, slower"]
    if refused is None:
        why.append(
            f"cuda has given the bits of {cpu} in a trial; {cpu} where it is done within {GPU_START_S:g} s of cuda"
        )
        return Finding("kernel auto", True, f"cuda, or {cpu} for short runs", "; ".join(why))
    unavailable = not _kernel("cuda").ok
    why.append("no GPU: kernel cuda is unavailable" if unavailable else f"the GPU is not taken: {refused}")
    return Finding("kernel auto", True, cpu, "; ".join(why))


def _cargo() -> Finding:
    path = shutil.which("cargo")
    if path is None:
        return Finding("cargo", None, "not on PATH", "needed to build the Rust kernel only: https://rustup.rs")
    return Finding("cargo", True, path)


def _package(name: str) -> Finding:
    try:
        return Finding(name, True, version(name))
    except PackageNotFoundError:
        return Finding(name, False, "not installed", f"pip install {name}")


def _extra(extra: str, module: str, what: str) -> Finding:
    if importlib.util.find_spec(module) is None:
        return Finding(f"extra {extra}", None, f"without {what}", f"pip install 'atc-backtest[{extra}]'")
    return Finding(f"extra {extra}", True, what)


def _memory() -> str:
    size = ram_bytes()
    return "memory unknown" if size is None else f"{size / 2**30:.1f} GiB of memory"
