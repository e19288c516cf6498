"""What people see of a run at its end: how it went, what is missing, and whether it is what it says it is."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atc_backtest.display import ShownRun, count, print_json

if TYPE_CHECKING:
    from atc_backtest.pipelines.commits import SetAside
    from atc_backtest.pipelines.runs import Run
    from atc_backtest.pipelines.verify import Finding, Verification

NAMED = 5
"""Set-aside partitions and symbols of each that are named on the terminal; --json names all."""


def show_run(run: Run, shown: ShownRun, as_json: bool) -> None:
    """How a run went, and where it is; what is missing goes to stderr."""
    manifest = run.manifest
    facts = {
        "run": str(run.path),
        "state": run.state,
        "kernel": manifest["kernel"],
        "symbols": sum(len(p.symbols) for p in run.partitions if p.sets[0] == 0),
        "sets": len(manifest["sets"]),
        "bars": shown.done,
        "seconds": round(shown.seconds, 3),
        "partitions": len(run.partitions),
        "done": len(run.done),
        "hash": run.content_hash(),
        "set_aside": [asdict(failure) for failure in run.set_aside],
    }
    if as_json:
        print_json(facts)
    else:
        rate = count(shown.done / shown.seconds) if shown.seconds else "-"
        print(
            f"{facts['symbols']} symbols, {shown.done:,} bars in {shown.seconds:.2f} s "
            f"({rate} bars/s, kernel {manifest['kernel']})"
        )
        print(f"run: {run.path}")
        print(f"hash: {facts['hash']}")
        print(f"next: atc-backtest report {run.path}")
    if run.state != "complete":
        _show_missing(run)


def _show_missing(run: Run) -> None:
    """To stderr: what was set aside and why, and how to go on."""
    failures = run.set_aside
    missing = len(run.partitions) - len(run.done)
    print(
        f"partial: {missing} of {len(run.partitions)} partitions are missing, the others are committed.",
        file=sys.stderr,
    )
    for failure in failures[:NAMED]:
        print(f"  {described(failure)}: {failure.error}", file=sys.stderr)
    if len(failures) > NAMED:
        print(f"  and {len(failures) - NAMED} more: see {run.path / 'failed'}", file=sys.stderr)
    print(
        f"Tracebacks are in {run.path / 'failed'}. The same command with --resume tries what is missing again.",
        file=sys.stderr,
    )


def described(failure: SetAside) -> str:
    """A set-aside partition by its symbols and sets, in few words."""
    names = ", ".join(failure.symbols[:NAMED]) + (", ..." if len(failure.symbols) > NAMED else "")
    first, last = failure.sets[0], failure.sets[1] - 1
    sets = f"set {first}" if first == last else f"sets {first}-{last}"
    tries = "1 attempt" if failure.attempts == 1 else f"{failure.attempts} attempts"
    return f"partition {failure.partition} ({len(failure.symbols)} symbols: {names}; {sets}), after {tries}"


def show_interrupted(folder: Path) -> None:
    """How to go on after Ctrl-C."""
    print(
        f"interrupted: what was committed stays in {folder}. Give the same command with --resume to go on, "
        "or with --overwrite to start again.",
        file=sys.stderr,
    )


def show_verification(run: Run, found: Verification, as_json: bool) -> None:
    """What was checked and what differs."""
    if as_json:
        print_json(asdict(found) | {"run": str(run.path), "ok": found.ok, "hash": run.content_hash()})
        return
    for finding in found.findings:
        print(_said(finding))
    share = f"{found.pairs:,} of {found.all_pairs:,} pairs of symbol and set recomputed, kernel {found.kernel}"
    if found.unfinished:
        print(f"unfinished: {found.unfinished} partitions are not committed and were not verified")
    print(f"{'verified' if found.ok else 'DIFFERS'}: {found.parts:,} parts read, {share}")
    if found.ok:
        print(f"hash: {run.content_hash()}")


def _said(finding: Finding) -> str:
    if finding.symbol is None:
        return f"partition {finding.partition}, {finding.dataset}: {finding.what}"
    return (
        f"{finding.symbol}, set {finding.param_id}, {finding.dataset}, row {finding.row}: "
        f"stored {_row(finding.stored)}, recomputed {_row(finding.recomputed)}"
    )


def _row(row: dict[str, Any] | None) -> str:
    return "no such row" if row is None else json.dumps(row, default=str)
