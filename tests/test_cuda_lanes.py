"""What only a GPU runs of `atc.cu`, run by lanes of a CPU.

The bits are Rust's in whatever order lanes go; no lane needs what another one may not have written yet; none goes
beyond its memory. And what is to find such faults does find them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from host_device import HostDriver, need_compiler
from lane_device import LaneDriver, LaneError, Launching, ProgramDriver, as_library, barriers, kernel_object
from prices import tick_walk
from test_cuda import VARIANTS
from test_kernels import market, run, same

from atc_backtest.config import AtcConfig, PerFamily
from atc_backtest.kernels.cuda import CudaKernel
from atc_backtest.kernels.device import Variant
from atc_backtest.kernels.protocol import OUTPUT_AXES, Kernel, Outputs, Prices, State

PLACES = {"near": Launching(), "far": Launching(blocks=2)}
"""One symbol a warp, in shared memory; two warps for all symbols, in the device's memory."""

SPARE = {("window_sums", 1), ("hma", 2), ("recursions", 1), ("signals", 1), ("load", 1), ("store", 1), ("turn", 2)}
"""Barriers (a function's first, second, ..) that others nearby make up for: the next one comes before what was written
is read, or what was read is overwritten.
"""


@pytest.fixture(autouse=True)
def _compiler() -> None:
    need_compiler()


@pytest.fixture(scope="module")
def rust(need_kernel: Callable[[str], Kernel]) -> Kernel:
    return need_kernel("rust")


def sets(variant: Variant, lengths: tuple[int, ...] = (9, 16, 14, 20, 11, 33)) -> list[AtcConfig]:
    """Seven of one stream, in three layers 1: more of both than a workspace holds at a time."""
    stream = {
        "lengths": PerFamily(*lengths),
        "robustness": variant.robustness,
        "profile": "pine" if variant.pine else "enhance",
    }
    differing = (
        {},
        {"lambda_": 0.5},
        {"long_threshold": 0.3},
        {"short_threshold": -0.3},
        {"lambda_": 0.3, "cutout": 40},
        {"long_threshold": 0.5},
        {"weights": PerFamily(1.5, 0.3, 1.0, 7.0, 0.5, 2.0)},
    )
    return [AtcConfig(**stream, **one) for one in differing]


def stretch(n_bars: int) -> Prices:
    """Five symbols with bars missing here and there, three tiles of one, and all of another; sources beside closes."""
    close = market(460)[[0, 1, 2, 4, 5], 60 : 60 + n_bars].copy()
    close[0, 33:130] = np.nan
    return Prices(close, close * 1.01)


def same_state(a: State, b: State) -> bool:
    pairs = [
        (a.equities, b.equities),
        *((one.values, other.values) for one, other in zip(a.streams, b.streams, strict=True)),
    ]
    return np.array_equal(a.bars, b.bars) and all(same(one, other) for one, other in pairs)


class Case:
    """What Rust makes of a series in pieces that end at `cuts`."""

    def __init__(self, rust: Kernel, configs: list[AtcConfig], prices: Prices, cuts: list[int]) -> None:
        self._configs, self._prices, self._cuts = configs, prices, cuts
        self._state, self._expected = run(rust, configs, prices, cuts)

    def holds(self, driver: HostDriver) -> bool:
        """Bit for bit, with all outputs, and in one piece with the signal alone: barriers depend on what is asked."""
        kernel, prices, expected = CudaKernel(driver), self._prices, self._expected
        got_state, got = run(kernel, self._configs, prices, self._cuts)
        if not all(same(getattr(got, name), getattr(expected, name)) for name in OUTPUT_AXES):
            return False
        alone = Outputs.allocate(["signal"], len(self._configs), *prices.close.shape)
        state = kernel.new_state(self._configs, prices.close.shape[0])
        kernel.advance(state, prices, alone)
        return same(alone.signal, expected.signal) and all(same_state(one, self._state) for one in (got_state, state))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_lanes_in_any_order_give_the_bits_of_rust(rust: Kernel, variant: Variant, place: str) -> None:
    case = Case(rust, sets(variant), stretch(170), [1, 33, 140])
    for seed in range(3):
        driver = LaneDriver(Launching(PLACES[place].blocks, seed))
        assert case.holds(driver), seed
        assert driver.seen[0] > 0


@pytest.mark.parametrize("pine", [False, True])
def test_few_warps_take_many_symbols_with_long_lengths(rust: Kernel, pine: bool) -> None:
    variant, prices = Variant("medium", pine), Prices(np.stack([tick_walk(450, seed) for seed in range(7)]))
    case = Case(rust, sets(variant, (300, 200, 310, 28, 260, 290))[:2], prices, [310])
    for blocks in (1, 3, 9):
        assert case.holds(LaneDriver(Launching(blocks))), blocks


@pytest.mark.parametrize("seed", range(4))
def test_gaps_and_cuts_anywhere(rust: Kernel, seed: int) -> None:
    rng = np.random.default_rng(seed)
    close = np.stack([tick_walk(300, seed + symbol) for symbol in range(4)])
    for symbol, share in enumerate(rng.random(4)):
        close[symbol, rng.random(300) < share] = np.nan
    cuts = sorted(rng.integers(0, 300, 4).tolist())
    variant = Variant("medium", bool(seed % 2))
    driver = LaneDriver(Launching(None if seed < 2 else 3, seed))
    assert Case(rust, sets(variant), Prices(close), cuts).holds(driver), cuts


def test_every_barrier_is_come_by() -> None:
    seen = LaneDriver()
    run(CudaKernel(seen), sets(Variant("medium", False)), stretch(70))
    assert [line for line in barriers() if not seen.seen[line]] == []


@pytest.mark.parametrize("engine", ["fibers", pytest.param("thread", marks=pytest.mark.slow)])
def test_a_barrier_left_out_is_found(rust: Kernel, engine: str) -> None:
    """Each in turn; one that nothing finds must be in `SPARE`."""
    case, order = Case(rust, sets(Variant("medium", False)), stretch(96), []), dict[str, int]()
    for line, function in barriers().items():
        order[function] = order.get(function, 0) + 1
        said = ""
        try:
            is_found = not case.holds(ProgramDriver(engine, Launching(blocks=2, seed=line, without=line)))
        except LaneError as error:
            is_found, said = True, str(error)
        assert not said or engine != "thread" or "ThreadSanitizer" in said, said
        is_spare = (function, order[function]) in SPARE
        assert is_found != is_spare, f"line {line}, in {function}: {'needed' if is_spare else 'is it needed?'}"


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("variant", [VARIANTS[0], VARIANTS[3], VARIANTS[4]], ids=str)
@pytest.mark.parametrize("engine", ["thread", "address"])
def test_sanitizers_find_nothing(rust: Kernel, engine: str, variant: Variant, place: str) -> None:
    """ThreadSanitizer; AddressSanitizer and UBSan. A fault is a `LaneError` that says which, and where."""
    case = Case(rust, sets(variant), stretch(100), [1, 70])
    assert case.holds(ProgramDriver(engine, PLACES[place]))
    lengths = (8, 9, 10, 11, 12, 13) if variant.pine else (28, 90, 28, 28, 65, 28)
    case = Case(rust, sets(variant, lengths)[:2], Prices(stretch(100).close), [])
    assert case.holds(ProgramDriver(engine, Launching(1 if place == "far" else None)))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("lengths", [(28,) * 6, (8, 9, 10, 11, 12, 13), (64, 28, 33, 8, 90, 28)], ids=str)
@pytest.mark.parametrize("pine", [False, True])
def test_a_workspace_that_lacks_a_word_is_found(pine: bool, lengths: tuple[int, ...], place: str) -> None:
    configs, prices, blocks = sets(Variant("medium", pine), lengths)[:2], stretch(40), PLACES[place].blocks
    run(CudaKernel(LaneDriver(Launching(blocks))), configs, prices)
    with pytest.raises(LaneError, match="wrote beyond its"):
        run(CudaKernel(LaneDriver(Launching(blocks, lacks=8))), configs, prices)


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_address_sanitizer_finds_a_workspace_that_lacks_a_word(place: str) -> None:
    driver = ProgramDriver("address", Launching(1 if place == "far" else None, lacks=8))
    with pytest.raises(LaneError, match=r"AddressSanitizer: (heap-buffer-overflow|use-after-poison)"):
        run(CudaKernel(driver), sets(Variant("medium", False))[:2], stretch(40))


FAULTS = {
    "lanes 0 and 16 wait at lines 2 and 3": "if (threadIdx.x < 16)\n__syncwarp(); else\n__syncwarp();",
    "lanes 0 and 5 wait at lines 0 and 1": "if (threadIdx.x == 5) __syncwarp();",
    "wrote what it reads as if nobody did": "((long long *)table)[0] = __ldg(table) + 1;",
    "": "if (__ballot_sync(~0u, threadIdx.x % 2) == 0xaaaaaaaau) __syncwarp();",
}
"""By what is said of kernels of a line."""


@pytest.mark.parametrize("fault", FAULTS)
def test_lanes_that_part_are_found(fault: str, tmp_path: Path) -> None:
    """And memory that is read past a GPU's caches though it changes; a vote is no such thing."""
    source = tmp_path / "small.cu"
    signature = "const long long *table, const long long *, const long long *, char *, long long"
    source.write_text(f'extern "C" __global__ void advance({signature}) {{ (void)table; {FAULTS[fault]} }}\n')
    table, seen = np.zeros(1, np.int64), np.zeros(10, np.int64)
    places = [ctypes.c_void_p(array.ctypes.data) for array in (table, table, table)]
    found = as_library(kernel_object("fibers", source)).run_warps(
        *places, None, ctypes.c_int64(8), 1, 0, 0, ctypes.c_void_p(seen.ctypes.data)
    )
    assert (fault in found.decode()) if fault else found == b""
