"""The GPU's benchmark, rehearsed on the CPU's twin of the GPU; its floor, counted again by numbers that count."""

from __future__ import annotations

import ctypes
import json
import math
import sys
from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from host_device import HostSlot, compiler
from numpy_cupy import numpy_cupy
from test_cuda import nvrtc

from atc_backtest.config import AtcConfig, PerFamily
from atc_backtest.kernels.cupy_device import CupyDriver
from atc_backtest.kernels.trial import differing

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import gpu
import gpu_floor
from gpu_devices import RATES

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no g++ to run the GPU's code on the CPU")
QUICK = [name for name in gpu.ROWS if name != "pipeline"]


@needs_compiler
def test_every_row_runs_on_the_twin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = tmp_path / "gpu.json"
    code = gpu.main(["--rehearse", "--only", ",".join(QUICK), "--rounds", "1", "--json", str(found)])
    shown = capsys.readouterr().out
    assert code == 0, shown
    said = json.loads(found.read_text())
    assert said["failed"] == []
    assert [table["title"] for table in said["tables"]][-1] == "Symbols side by side"
    assert "a rehearsal, its figures mean nothing" in shown
    bits = next(table for table in said["tables"] if table["title"] == "Bits")
    assert bits["rows"][-1][-1] == "0"


@needs_compiler
def test_every_row_runs_on_a_gpu_of_cupy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The lines that a GPU takes, over a CuPy made of NumPy."""
    cupy = numpy_cupy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr("atc_backtest.kernels.cupy_device._drivers", lambda: (CupyDriver(cupy, 0),))
    code = gpu.main(["--only", ",".join(QUICK), "--rounds", "1", "--scale", "1e-4"])
    shown = capsys.readouterr().out
    assert code == 0, shown
    assert "NumPy, compute capability 90" in shown
    assert "| fused steps |" in shown
    assert "| blocks (warps) a processor | 12 |" in shown


@needs_compiler
@pytest.mark.slow
def test_the_command_on_the_twin_has_the_same_hash(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--rehearse", "--only", "pipeline", "--rounds", "1"]) == 0, capsys.readouterr().out


@needs_compiler
def test_a_wrong_bit_fails_its_row_and_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    download = HostSlot.download

    def wrong(slot: HostSlot, device: np.ndarray, out: np.ndarray, key: object) -> None:
        download(slot, np.nextafter(device, 2.0), out, key)

    monkeypatch.setattr(HostSlot, "download", wrong)
    assert gpu.main(["--rehearse", "--only", "bits,resident", "--rounds", "1"]) == 1
    shown = capsys.readouterr().out
    assert "values differ from" in shown
    assert "On the device, one set" in shown
    assert "failed: bits" in shown


def test_rates_are_of_operations_that_are_not_fused() -> None:
    library, program = nvrtc(), ctypes.c_void_p()
    assert library.nvrtcCreateProgram(ctypes.byref(program), RATES.encode(), b"rates.cu", 0, None, None) == 0
    options = (b"--std=c++17", b"--fmad=false", b"--prec-div=true", b"--gpu-architecture=sm_90")
    assert library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options)) == 0
    size = ctypes.c_size_t()
    library.nvrtcGetPTXSize(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    library.nvrtcGetPTX(program, text)
    assert text.value.count(b"mul.rn.f64") >= 8
    assert text.value.count(b"div.rn.f64") >= 4
    assert b"fma" not in text.value
    assert b".local" not in text.value  # chains lie in registers


def test_unknown_rows_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--rehearse", "--only", "bits,speed"])
    assert "unknown rows speed" in capsys.readouterr().err


def test_bits_differ_but_for_what_a_nan_carries() -> None:
    one = np.array([1.0, 0.0, np.nan, 2.0])
    other = np.array([np.nextafter(1.0, 2.0), -0.0, np.nan, 2.0])
    other.view(np.int64)[2] ^= 1
    assert differing(one, other) == 2


class Counting(float):
    """A number that counts what is done with it."""

    done: ClassVar[Counter[str]] = Counter()

    def _count(self, name: str, value: float) -> Counting:
        self.done[name] += 1
        return Counting(value)

    def __add__(self, other: float) -> Counting:
        return self._count("add", 1.0)

    def __sub__(self, other: float) -> Counting:
        return self._count("add", 1.0)

    def __mul__(self, other: float) -> Counting:
        return self._count("multiply", 1.0)

    def __truediv__(self, other: float) -> Counting:
        return self._count("divide", 1.0)

    def __round__(self, digits: int = 0) -> Counting:  # type: ignore[override]
        return self._count("round", 1.0)

    def above(self, other: float) -> None:
        self._count("compare", 1.0)


V = Counting(1.0)


def doubled(largest: int, weighted: bool) -> None:
    """T, and W, of a bar from those before it."""
    n = 1
    while 2 * n <= largest:
        if weighted:
            (V + V * n) + V
        V + V
        n *= 2


def window(lengths: tuple[int, ...], weighted: bool) -> None:
    rest = min(lengths)
    powers = [1 << k for k in reversed(range(rest.bit_length())) if rest >> k & 1]
    for i, power in enumerate(powers):
        rest -= power
        part = V + V * rest if weighted and rest else V
        if i:
            V + V
            if weighted:
                V + part
    for _ in range(min(lengths), max(lengths)):
        V + V
        if weighted:
            V + V


def equity() -> None:
    (V * V).above(0.25)
    V.above(1e150)


def weighted_mean(n: int) -> None:
    """num and den, left to right, and their quotient."""
    V * V
    for _ in range(n - 1):
        V + V * V
        V + V
    V / V


def averages(hma: int, shares_first: bool) -> None:
    """One of each family, windows aside; HMA of that length."""
    V * V  # WMA
    V * V - V * V  # LSMA
    V * V - V * V  # HMA's y
    for _ in range(1, math.isqrt(hma)):
        V + V
        V + V
    V * V
    V + V * (V - V)  # EMA
    if not shares_first:
        V + V * (V - V)
    V + V * (V - V)
    V * V - V  # DEMA
    V.above(0.0)
    c = (V - V) / V * V + V
    V + (c * c) * (V - V)  # KAMA


def one_bar(config: AtcConfig) -> Counter[str]:
    """protocol.py's order of operations of one bar, each distinct value once."""
    Counting.done.clear()
    ema, hma, wma, dema, lsma, kama = (config.family_lengths(family) for family in range(6))
    halves = tuple(length // 2 for length in hma)
    doubled(max(min(hma), min(wma), min(lsma), min(halves)), weighted=True)
    V - V  # a bar's change
    doubled(min(kama), weighted=False)
    for lengths in {hma, wma, lsma}:
        window(lengths, weighted=True)
    window(halves, weighted=True)
    window(kama, weighted=False)
    for length in hma:
        averages(length, shares_first=dema == ema)
    V * V, V * V  # the close's band
    for _ in range(54):
        V.above(0.0), V.above(0.0)
    ((V - V) / V) * V
    V * (V + V), V * (V - V)
    for _ in range(54):
        equity()
    for _ in range(6):
        weighted_mean(9)
        round(V * 100)
        equity()
    weighted_mean(6)
    return Counting.done


@pytest.mark.parametrize(
    "config",
    [
        AtcConfig(),
        AtcConfig(robustness="wide", lengths=PerFamily(9, 40, 14, 100, 21, 33)),
        AtcConfig(robustness="narrow", lengths=PerFamily(16, 17, 31, 16, 31, 64)),
    ],
    ids=["default", "wide", "narrow"],
)
def test_the_floor_is_what_a_bar_takes(config: AtcConfig) -> None:
    counted, floor = one_bar(config), gpu_floor.of_a_set(config)
    names = ("add", "multiply", "compare", "divide", "round")
    assert {name: getattr(floor, name) for name in names} == {name: counted[name] for name in names}


def test_sets_that_share_take_less() -> None:
    config = AtcConfig()
    one, own, shared = (gpu_floor.of_a_set(config, *sets) for sets in ((1, 1), (1000, 1000), (1000, 1)))
    assert one.simple > own.simple > shared.simple
    assert own.simple >= gpu_floor.total(gpu_floor.of_layer1().values()).simple
