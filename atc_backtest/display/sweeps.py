"""What people see of sweeps: how many sets, what they share, what they cost; how results lie over the axes."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from atc_backtest.display import runs
from atc_backtest.display.terminal import Side, print_heat, print_json, print_table

if TYPE_CHECKING:
    from atc_backtest.pipelines.job import Job
    from atc_backtest.pipelines.plateau import Axis, Grid
    from atc_backtest.pipelines.runs import Run
    from atc_backtest.pipelines.search import Goal, Search
    from atc_backtest.pipelines.surface import Surface
    from atc_backtest.pipelines.sweep import Sweep

MOST_COLUMNS, MOST_ROWS = 16, 24
"""Of a map in a terminal; --json has every cell."""


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


def show_search_plan(goal: Goal, one: Sweep, job: Job, as_json: bool) -> None:
    """What a search would be: one block, of draws in the place of proposals, and how many of them."""
    blocks = math.ceil(goal.trials / goal.block)
    if as_json:
        print_json({"trials": goal.trials, "blocks": blocks, "block": asdict(job.plan)})
        return
    print(f"{goal.trials:,} trials in {blocks:,} blocks of {goal.block:,}, each a run like this one:")
    show_plan(one, job, as_json)


def show_search(found: Search, as_json: bool) -> None:
    """How a search ended: its best trial, and the run with every set; or the block that is partial, to stderr."""
    best = None if found.best is None else found.trials[found.best]
    distinct = len({trial.config for trial in found.trials if trial.config is not None})
    failed = sum(trial.value is None for trial in found.trials)
    if as_json:
        facts = {"search": str(found.path), "trials": len(found.trials), "sets": distinct, "failed": failed}
        facts |= {
            "best": None if best is None else {"trial": found.best, "value": best.value, "settings": best.settings}
        }
        print_json(facts | {"run": None if found.run is None else str(found.run.path)})
    else:
        print(f"{len(found.trials):,} trials, {distinct:,} different sets, {failed:,} without a value")
        if best is not None:
            varied = ", ".join(f"{name}={value}" for name, value in best.settings.items())
            print(f"best: trial {found.best}, {_number(best.value)} ({varied})")
        if found.run is not None:
            print(f"run: {found.run.path}")
            print(f"next: atc-backtest surface {found.run.path}")
    if found.blocked is not None:
        runs.show_missing(found.blocked)


def show_surface(run: Run, found: Surface, x: str | None, y: str | None, limit: int) -> None:
    """The best sets, the best and its plateau in words, how stable the order is, and a map over two axes."""
    from atc_backtest.pipelines.surface import set_table

    view, axes = found.view, found.grid.axes
    table = set_table(run, found)
    n_sets, n_symbols = len(found.value), found.symbols
    print(f"{run.path.name}: {view.how} of {view.by} over {n_symbols:,} symbols, {n_sets:,} sets")
    print(f"axes      {'; '.join(map(_said, axes)) or 'none: one set'}")
    _show_best(found, table.slice(0, limit).to_pylist())
    if limit < n_sets:
        print(f"... {n_sets - limit:,} more sets: --limit {n_sets}, or --csv")
    print()
    _show_peak(found)
    _show_stability(found)
    if found.missing:
        print(f"partial   {found.missing} of {len(run.partitions)} partitions are missing: continue with --resume")
    if axes:
        _show_map(found, *chosen_axes(found.grid, x, y))


def _said(axis: Axis) -> str:
    others = [name for name in axis.settings if name.split(".")[0] != axis.name and name != axis.name]
    return f"{axis.name} ({len(axis.values)} values{', with ' + ', '.join(others) if others else ''})"


def _show_best(found: Surface, rows: list[dict[str, Any]]) -> None:
    settings = [axis.settings[0] for axis in found.grid.axes]
    columns: dict[str, Side] = {"set": "right"}
    for axis in found.grid.axes:
        columns[axis.name] = "right"
    for name in (found.view.how, "25 %", "75 %", "above 0", "symbols", "plateau", "neighbours"):
        columns[name] = "right"
    cells = []
    for row in rows:
        figures = [_number(row[name]) for name in ("value", "q25", "q75")]
        above = "-" if row["positive"] is None else f"{row['positive']:.0%}"
        near = (f"{row['n']:,}", _number(row["plateau"]), f"{row['neighbours']}")
        cells.append([f"{row['param_id']}", *(f"{row[name]}" for name in settings), *figures, above, *near])
    print_table(columns, cells, wrap=False)


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"


def named(grid: Grid, position: int) -> str:
    """A set by its number and the values of its axes."""
    values = (f"{axis.name}={axis.values[at]}" for axis, at in zip(grid.axes, grid.places[position], strict=True))
    return f"set {position} ({', '.join(values)})" if grid.axes else f"set {position}"


def _show_peak(found: Surface) -> None:
    peak = found.peak
    if peak is None:
        print("best      none: the figure is undefined for every set")
        return
    print(f"best      {named(found.grid, peak.best)}: {peak.best_value:.4g}, its plateau {peak.best_plateau:.4g}")
    print(f"plateau   {named(found.grid, peak.plateau)}: {peak.plateau_value:.4g} around it")
    spread = "" if peak.excess_iqr is None else f", {peak.excess_iqr:.2g} times the middle half of all sets"
    print(f"fragile   the best stands {peak.excess:.4g} above its plateau{spread}")
    if found.grid.scattered:
        print("          sets are scattered: neighbours are the nearest ones, not one step away")
    if peak.edges:
        print(f"edge      the best is the last tried of {', '.join(peak.edges)}: what lies beyond is not known")


def _show_stability(found: Surface) -> None:
    halves, time = found.by_symbols, found.by_time
    if halves.mean is None or halves.low is None or halves.high is None:
        print("symbols   too few symbols or sets to compare halves")
    else:
        print(
            f"symbols   rank correlation of sets between halves of the symbols {halves.mean:.2f} "
            f"({halves.low:.2f} to {halves.high:.2f})"
        )
    if time is None:
        print("time      not known: run with --save periods")
        return
    share = "-" if time.best_in_top_decile is None else f"{time.best_in_top_decile:.0%}"
    print(
        f"time      {time.figure} of {time.periods:,} {time.period}s: rank correlation of sets between both halves "
        f"{_number(time.halves)}, one {time.period} and the next {_number(time.consecutive)}; "
        f"the best is in the top tenth in {share} of them"
    )


def chosen_axes(grid: Grid, x: str | None, y: str | None) -> tuple[str, str | None]:
    """What a map is over: what was asked for, else the axes of numbers with the most values."""
    longest = sorted(grid.axes, key=lambda axis: (not axis.ordered, -len(axis.values)))
    names = [axis.name for axis in longest if axis.name not in {grid.axes[grid.axis(n)].name for n in (x, y) if n}]
    across = names.pop(0) if x is None else x
    return across, (names[0] if names else None) if y is None else y


def _show_map(found: Surface, x: str, y: str | None) -> None:
    from atc_backtest.pipelines.plateau import folded, matrix

    grid = folded(found.grid, x, MOST_COLUMNS)
    grid = grid if y is None else folded(grid, y, MOST_ROWS)
    across = grid.axes[grid.axis(x)]
    down = None if y is None else grid.axes[grid.axis(y)]
    cells = [[None if math.isnan(v) else v for v in line] for line in matrix(grid, found.value, x, y).tolist()]
    others = [axis.name for axis in grid.axes if axis not in (across, down)]
    over = f", median over {', '.join(others)}" if others else ""
    print(f"\n{found.view.how} of {found.view.by}: {across.name} across, {down.name if down else 'nothing'} down{over}")
    if grid.axes != found.grid.axes:
        print("values next to each other share a cell, their median, under the name of the first")
    rows = [""] if down is None else [f"{value}" for value in down.values]
    print_heat("" if down is None else down.name, [f"{value}" for value in across.values], rows, cells, "{:.3g}")


def surface_json(run: Run, found: Surface, x: str | None, y: str | None) -> dict[str, Any]:
    """All of it for machines; undefined is null."""
    from atc_backtest.pipelines.plateau import matrix
    from atc_backtest.pipelines.surface import set_table

    map_of: dict[str, Any] | None = None
    if found.grid.axes:
        across, down = chosen_axes(found.grid, x, y)
        values = matrix(found.grid, found.value, across, down).tolist()
        map_of = {"x": across, "y": down, "values": [[None if math.isnan(v) else v for v in row] for row in values]}
    return {
        "run": str(run.path),
        "state": run.state,
        "view": asdict(found.view),
        "symbols": found.symbols,
        "axes": [asdict(axis) for axis in found.grid.axes],
        "scattered": found.grid.scattered,
        "peak": None if found.peak is None else asdict(found.peak),
        "by_symbols": asdict(found.by_symbols),
        "by_time": None if found.by_time is None else asdict(found.by_time),
        "map": map_of,
        "sets": set_table(run, found).to_pylist(),
    }
