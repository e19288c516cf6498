"""The table of kernels: a name gives a kernel, or says why it is unavailable and what brings it."""

from __future__ import annotations

from collections.abc import Callable

from atc_backtest.errors import ConfigError, UnavailableError
from atc_backtest.kernels import trial
from atc_backtest.kernels.protocol import Kernel

AUTO = "auto"


def _make_rust() -> Kernel:
    from atc_backtest.kernels.rust import RustKernel

    return RustKernel()


def _make_numba() -> Kernel:
    from atc_backtest.kernels.numba_cpu import NumbaKernel

    return NumbaKernel()


def _make_reference() -> Kernel:
    from atc_backtest.kernels.reference import ReferenceKernel

    return ReferenceKernel()


def _make_cuda() -> Kernel:
    from atc_backtest.kernels.cuda import CudaKernel

    return CudaKernel()


KERNELS: dict[str, Callable[[], Kernel]] = {
    "rust": _make_rust,
    "numba": _make_numba,
    "cuda": _make_cuda,
    "reference": _make_reference,
}
"""Making one raises `UnavailableError` (with the remedy) where it is not installed."""


def get_kernel(name: str = AUTO) -> Kernel:
    """The kernel of that name; `auto`: the CPU's, Rust, or Numba where the Rust extension was not built."""
    if name == AUTO:
        try:
            return _make_rust()
        except UnavailableError:
            return _make_numba()
    if name not in KERNELS:
        raise ConfigError(f"unknown kernel {name!r}: choose one of {AUTO}, {', '.join(KERNELS)}.")
    return KERNELS[name]()


def best_kernel(name: str = AUTO) -> str:
    """`name`; for `auto` the best kernel in this process: the GPU's once it has shown its bits, else the CPU's."""
    if name != AUTO:
        return name
    return "cuda" if gpu_refusal() is None else get_kernel().name


def gpu_refusal() -> str | None:
    """Why `best_kernel` is not the GPU's, as `trial.refusal`; None where it is."""
    return trial.refusal(KERNELS["cuda"], get_kernel)
