"""What people see of sweeps: how many sets, what they share, what they cost; how results lie over the axes."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from atc_backtest.display import runs
from atc_backtest.display.terminal import print_json

if TYPE_CHECKING:
    from atc_backtest.pipelines.job import Job
    from atc_backtest.pipelines.sweep import Sweep


def counted(sweep: Sweep) -> str:
    """How many sets came of how many combinations, and how many averages they share, as a sentence."""
    dropped = [f"{sweep.duplicates:,} equal to another" if sweep.duplicates else ""]
    dropped.append(f"{sweep.invalid:,} invalid" if sweep.invalid else "")
    left_out = ", ".join(filter(None, dropped))
    of = f" of {sweep.combinations:,} combinations (left out: {left_out})" if left_out else ""
    shared = f"{sweep.streams:,} streams of averages" if sweep.streams > 1 else "one stream of averages for all"
    return f"{len(sweep.sets):,} sets{of}, {shared}"


def show_count(sweep: Sweep) -> None:
    """To stderr, before the work begins."""
    print(counted(sweep), file=sys.stderr)


def show_plan(sweep: Sweep, job: Job, as_json: bool) -> None:
    """What a sweep would be, before anything runs."""
    if as_json:
        facts = {name: getattr(sweep, name) for name in ("combinations", "duplicates", "invalid", "streams")}
        print_json({"sets": len(sweep.sets)} | facts | asdict(job.plan))
        return
    print(counted(sweep))
    runs.show_plan(job, as_json)
