"""The GPU kernel on one GPU: bits, speed, and what it is set against, side by side in one run.

    python benchmarks/gpu.py [--only bits,resident,...] [--scale 0.1] [--json FILE] [--rehearse]

Rows, in this order; all unless some are named:

    machine    0. chip, driver, clocks, bandwidths of bus and memory, double precision without fused multiply-add
    floor      1. operations and bytes that a bar takes, and how fast this chip could do them
    bits       2. 10^8 bars and sets of all kinds against Rust: every bit of signals and state, 0 differences
    resident   3. 10,000 symbols x 20,000 bars, prices and signals on the device
    sets       4. 1,000 symbols x 20,000 bars x 1,000 sets that share lengths, on the device
    bus        5. prices and signals over the bus, with overlap and without
    arrays     6. the same algorithm in CuPy array operations (cupy_arrays.py)
    rust       7. Rust on all cores of this machine
    occupancy  8. registers, shared memory, blocks a processor; throughput by the number of symbols
    pipeline   9. `backtest --kernel cuda` against `--kernel rust` over a store, the same content hash

A row that fails prints its traceback and the others go on; the exit code is then 1. `--rehearse` runs every row on the
CPU's twin of the GPU at tiny sizes: the same lines, figures that mean nothing. `--scale` multiplies symbols, bars and
sets. A full run takes some five minutes; a row's repetitions stop after `--seconds`. First see that it works at all:

    python benchmarks/gpu.py --scale 0.02 && python benchmarks/gpu.py --json gpu.json

Memory and races under compute-sanitizer, which slows launches a hundredfold (shared memory is a warp's workspace, so
racecheck matters; initcheck reads of memory that nobody wrote):

    for tool in memcheck racecheck synccheck initcheck; do
        compute-sanitizer --tool $tool --error-exitcode 9 python benchmarks/gpu.py --only bits --scale 0.002 || break
    done

In a clone that is not installed, with PYTHONPATH=$PWD. All rows but `pipeline` need NumPy and CuPy alone, and the Rust
extension (without it the CPU's kernel is Numba, and says so); `pipeline` needs what the package needs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import gpu_against
import gpu_rows
from gpu_bench import Bench, Report
from gpu_devices import Device, Gpu, Twin
from measure import machine

from atc_backtest.errors import UnavailableError

ROWS: dict[str, Callable[[Bench], None]] = {
    "machine": gpu_rows.machine,
    "floor": gpu_rows.floor,
    "bits": gpu_rows.bits,
    "resident": gpu_rows.resident,
    "sets": gpu_rows.sets,
    "bus": gpu_against.bus,
    "arrays": gpu_against.arrays,
    "rust": gpu_against.rust,
    "occupancy": gpu_rows.occupancy,
    "pipeline": gpu_against.pipeline,
}
REHEARSAL_SCALE = 1e-4


def options(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(ROWS), help="rows, separated by commas")
    parser.add_argument("--scale", type=float, help="of symbols, bars and sets; default 1")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of each measurement")
    parser.add_argument("--seconds", type=float, default=20.0, help="after which no further round begins")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the tables, too")
    parser.add_argument("--folder", type=Path, help="where the store and runs of `pipeline` go, kept")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU's twin of the GPU, at tiny sizes")
    asked = parser.parse_args(given)
    unknown = [name for name in asked.only.split(",") if name not in ROWS]
    if unknown:
        parser.error(f"unknown rows {', '.join(unknown)}; there are: {', '.join(ROWS)}")
    if asked.scale is None:
        asked.scale = REHEARSAL_SCALE if asked.rehearse else 1.0
    if not 0 < asked.scale <= 1 or asked.rounds < 1:
        parser.error("--scale is above 0 and at most 1, --rounds at least 1")
    return asked


def run(bench: Bench, names: Sequence[str], written: Path | None) -> list[str]:
    """The rows that failed; what is known is written after each, for a command may be ended at any time."""
    failed = []
    for name in names:
        bench.report.say(f"{name}: {ROWS[name].__doc__}")
        try:
            ROWS[name](bench)
        except (Exception, SystemExit):  # a command of `pipeline` that fails ends the program
            failed.append(name)
            traceback.print_exc(file=sys.stdout)
            sys.stdout.flush()
        try:
            bench.device.release()
        except Exception:  # a device that one row has broken fails the next ones too, each with its own traceback
            traceback.print_exc(file=sys.stdout)
        if written:
            found = {"scale": bench.scale, "machine": machine(), "failed": failed, "tables": bench.report.tables}
            written.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return failed


def main(given: Sequence[str] | None = None) -> int:
    asked = options(given)
    try:
        device: Device = Twin() if asked.rehearse else Gpu()
    except UnavailableError as error:
        print(f"{error} `--rehearse` runs this without one.", file=sys.stderr)
        return 3
    with ExitStack() as stack:
        folder = asked.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        cores = len(os.sched_getaffinity(0))
        bench = Bench(device, Report(), folder, asked.scale, asked.rounds, asked.seconds, cores, asked.rehearse)
        print(f"# {machine()}; {device.facts()[0][1]}; scale {asked.scale:g}; medians (slowest to fastest) of rounds")
        names = [name for name in ROWS if name in asked.only.split(",")]
        failed = run(bench, names, asked.json)
    bench.report.say(f"failed: {', '.join(failed)}" if failed else "all rows done")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
