"""What work costs, roughly: constants by which the plan cuts a run into tasks and says how long it may take.

Nanoseconds of one core, measured on an AMD EPYC with AVX-512 that others used too (benchmarks/out_of_core.py
prints them anew). They decide how evenly work is cut and nothing else: no result and no byte depends on them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Costs:
    """`stream_ns`: a bar of a stream, whose averages and signs sets share; `set_ns`: a bar of one set.

    `lanes`: symbols that are computed at once, in a kernel's vectors or on a device; fewer cost as much as that many.
    """

    stream_ns: float
    set_ns: float
    lanes: int = 8


KERNEL = {
    "rust": Costs(20, 18),
    "numba": Costs(32, 20),
    "cuda": Costs(0.15, 0.10, lanes=1000),
    "reference": Costs(400_000, 90_000, lanes=1),
}
"""By kernel. Of cuda estimated by counting instructions, not measured: a warp a series, so that up to about a thousand
take the time of one, 150 ns a bar of a stream and 100 ns a bar of each set."""

GPU_START_S = 10.0
"""What a GPU costs before its first bar, not measured: CuPy is imported, the kernel compiled and held to the CPU's."""

GPU_WORTH = 0.75
"""A GPU is taken by itself where the run, its start included, then lasts less than this share: estimates are rough."""

ACCOUNT_NS = 9.0
"""A present bar of one set: fills, costs and sums."""

READ_NS = 5.0
"""A bar of one field of a whole chunk, decoded; a partition with a part of a chunk decodes all of it."""

TASK_NS = 5e6
"""A partition of no bars: the store opened, the parts written and brought to disk."""

LONGEST_NS = 10e9
"""What a task should last at most: more is lost with it when it is lost, and the last one is waited for."""

SHORTEST_NS = 0.1e9
"""What a task should last at least, where that leaves no worker idle: below it, its fixed costs are felt."""

PART_BYTES = 128e6
"""What a part of a saved series should have on disk, where tasks are not too long for that."""

WORTH, WORTH_NS = 0.95, 20e6
"""A finer cut is taken where the run then lasts less than this share of what a coarser one takes, by that much."""
