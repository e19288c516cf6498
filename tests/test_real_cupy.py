"""The real CuPy, which is imported without a GPU: it has what the driver calls, and compiles the kernel its own way."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
from types import SimpleNamespace
from typing import Any

import pytest
from fake_cupy import VARIANTS, Machine

from atc_backtest.errors import UnavailableError
from atc_backtest.kernels.cupy_device import OUT_OF_MEMORY, cupy_drivers
from atc_backtest.kernels.device import SOURCE, Variant

OURS = ("later", "on_its_device", "queue", "passed", "total", "raw", "variant", "device_id", "machine", "ptr")
"""Of the fake's classes alone; `ptr` is an instance's."""


def real_cupy() -> Any:
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("no CuPy: pip install 'atc-backtest[gpu]'")
    import cupy

    return cupy


def test_devices_of_a_process_are_the_same_for_everybody() -> None:
    real_cupy()
    try:
        assert cupy_drivers() is cupy_drivers()
    except UnavailableError as error:
        assert "finds no device" in str(error)  # noqa: PT017


def said_of(real: Any) -> str:
    """What a compiled function tells of its parameters: a signature, or the first lines of its documentation."""
    said = [" ".join((real.__doc__ or "").split("\n\n\n")[0].split())]
    with contextlib.suppress(ValueError, TypeError):
        said.append(str(inspect.signature(real)))
    return " ".join(said)


def test_the_real_cupy_has_what_the_fake_offers() -> None:
    compared: list[str] = []

    def compare(fake: Any, real: Any, name: str) -> None:
        if isinstance(fake, SimpleNamespace):
            for key, value in vars(fake).items():
                compare(value, getattr(real, key), f"{name}.{key}")
        elif inspect.isclass(fake):
            if not issubclass(fake, BaseException):
                takes(fake.__init__, real, name)
            for key in {key for kind in fake.__mro__[:-1] for key in vars(kind)} - {*dir(Exception), *OURS}:
                if not key.startswith("_"):
                    compare(getattr(fake, key), getattr(real, key), f"{name}.{key}")
        elif callable(fake):
            takes(fake, real, name)

    def takes(fake: Any, real: Any, name: str) -> None:
        parameters = [key for key in inspect.signature(fake).parameters if key not in ("self", "args", "kwargs")]
        said = said_of(real)
        assert [key for key in parameters if key not in said] == [], (name, said)
        compared.append(name)

    cupy = real_cupy()
    compare(Machine().cupy(), cupy, "cupy")
    assert len(compared) >= 20
    assert "ptr" in dir(cupy.cuda.MemoryPointer)
    assert {"data", "dtype", "nbytes", "shape"} <= set(dir(cupy.ndarray))
    assert "shared_mem" in cupy.RawKernel.__call__.__doc__
    assert "max_dynamic_shared_size_bytes" in dir(cupy.RawKernel)
    assert cupy.cuda.Stream.null.ptr == 0
    runtime = cupy.cuda.runtime
    assert runtime.pointerGetAttributes.__doc__.endswith("-> PointerAttributes")
    assert runtime.CUDARuntimeError(OUT_OF_MEMORY).status == OUT_OF_MEMORY
    assert "cudaErrorMemoryAllocation" in str(runtime.CUDARuntimeError(OUT_OF_MEMORY))
    assert runtime.PointerAttributes(0, 0, 0, runtime.memoryTypeHost).type == runtime.memoryTypeHost
    for name in ("MaxSharedMemoryPerBlockOptin", "MultiProcessorCount"):
        assert hasattr(runtime, f"cudaDevAttr{name}")


@pytest.mark.slow
@pytest.mark.parametrize("chip", ["80", "90"])
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=str)
def test_it_compiles_the_kernel_with_the_options_it_adds(
    variant: Variant, chip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As RawModule does, but for the question which chip is here."""
    cupy = real_cupy()
    compiler = cupy.cuda.compiler
    monkeypatch.setattr(compiler, "_get_arch_for_options_for_nvrtc", lambda arch=None: (f"-arch=sm_{arch}", "cubin"))
    asked = ("--std=c++17", "--fmad=false", "--prec-div=true", *variant.macros)
    try:
        options = (*cupy._core.core.assemble_cupy_compiler_options(asked), "-ftz=true")
        cubin, _ = compiler.compile_using_nvrtc(SOURCE.read_text(encoding="utf-8"), options, chip, "atc.cu")
    except RuntimeError as error:
        pytest.skip(f"CuPy finds no NVRTC or no headers of CUDA: {error}")
    assert len(cubin) > 1000
