"""Run folders: `manifest.json` says what was asked and how it was cut, the parts say what is done.

    runs/<name>/manifest.json, metrics/part-00000.parquet, and signals/, equity/, trades/ when saved

A partition is done when its metrics part has its name: that part is committed last.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from atc_backtest.config import RunConfig, from_dict
from atc_backtest.errors import ConfigError, StoreError
from atc_backtest.pipelines.job import METRICS, SERIES, Job
from atc_backtest.pipelines.plan import Partition, Plan

MANIFEST = "manifest.json"
FORMAT = "atc-backtest run"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Basis:
    """What a set's settings left to the store: the calendar its year is counted by, and its fill."""

    calendar: str
    fill: str


def create_run(job: Job, versions: Mapping[str, str], bases: Sequence[Basis], overwrite: bool) -> None:
    """Make the run's folder and its manifest; `StoreError` when something is in the way.

    `overwrite` replaces an earlier run, never anything else.
    """
    if job.run.exists() and any(job.run.iterdir() if job.run.is_dir() else [job.run]):
        if not (job.run / MANIFEST).is_file():
            raise StoreError(f"{job.run} exists and is not a run: choose another --out; nothing was touched.")
        if not overwrite:
            raise StoreError(
                f"{job.run} already holds a run: choose another --out, continue it with --resume, "
                "or replace it with --overwrite."
            )
        shutil.rmtree(job.run)
    try:
        job.run.mkdir(parents=True, exist_ok=True)
        _write_manifest(job, versions, bases)
    except OSError as error:
        raise StoreError(f"cannot create the run {job.run}: {error}.") from error


def _write_manifest(job: Job, versions: Mapping[str, str], bases: Sequence[Basis]) -> None:
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "store": {"path": job.store, "id": job.store_id, "version": job.store_version},
        "symbols": list(job.symbols),
        "sets": [
            {"config": config.to_dict(), "digest": config.digest(), "bars_per_year": bars} | asdict(basis)
            for config, bars, basis in zip(job.sets, job.bars_per_year, bases, strict=True)
        ],
        "kernel": job.kernel,
        "save": list(job.save),
        "varying": list(job.varying),
        "versions": dict(versions),
        "plan": asdict(job.plan),
    }
    hidden = job.run / f".{MANIFEST}.tmp"
    with hidden.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    hidden.replace(job.run / MANIFEST)


@dataclass(frozen=True)
class Run:
    """A run on disk, finished or not. `manifest` as written when it began."""

    path: Path
    manifest: dict[str, Any]

    @property
    def partitions(self) -> tuple[Partition, ...]:
        return tuple(
            Partition(p["index"], tuple(p["symbols"]), (p["sets"][0], p["sets"][1]))
            for p in self.manifest["plan"]["partitions"]
        )

    @property
    def done(self) -> frozenset[int]:
        """Indices of the committed partitions."""
        return frozenset(int(part.stem.removeprefix("part-")) for part in _parts(self.path / METRICS))

    @property
    def sets(self) -> tuple[RunConfig, ...]:
        return tuple(from_dict(one["config"]) for one in self.manifest["sets"])

    def table(self, dataset: str = METRICS) -> pa.Table:
        """All committed rows of a dataset, sorted by symbol, set, then time."""
        if dataset not in (METRICS, *SERIES):
            raise ConfigError(f"unknown dataset {dataset!r}: choose from {', '.join((METRICS, *SERIES))}.")
        parts = _parts(self.path / dataset)
        if not parts:
            remedy = "let the run begin" if dataset == METRICS else f"run again with --save {dataset}"
            raise StoreError(f"{self.path} has no committed {dataset} yet: {remedy}.")
        table = ds.dataset([str(part) for part in parts], format="parquet").to_table()
        keys = [("symbol", "ascending"), ("param_id", "ascending")]
        order = {"signals": "ts", "equity": "ts", "trades": "trade_id"}.get(dataset)
        return table.sort_by([*keys, (order, "ascending")] if order else keys)


def open_run(path: Path) -> Run:
    """The run at `path`; `StoreError` when there is none or it is of another format."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} is not a run ({error}): give the folder named by --out.") from error
    found = (manifest.get("format"), manifest.get("format_version"))
    if found != (FORMAT, FORMAT_VERSION):
        raise StoreError(f"{path} is {found[0]!r} version {found[1]!r}; this program reads version {FORMAT_VERSION}.")
    return Run(path, manifest)


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def discard_unfinished(path: Path) -> None:
    """Remove the hidden files of writers that were killed before they could commit."""
    for hidden in path.glob("*/.part-*.tmp"):
        hidden.unlink(missing_ok=True)


def resume_job(job: Job) -> Job:
    """`job` cut as the half-done run at its path was cut, so that its parts fit.

    `ConfigError` names what differs when the run was begun with other settings, prices or series.
    """
    run = open_run(job.run)
    begun = run.manifest
    now: dict[str, Any] = {
        "store": (begun["store"].get("id"), job.store_id),
        "store version": (begun["store"]["version"], job.store_version),
        "symbols": (begun["symbols"], list(job.symbols)),
        "settings": ([one["digest"] for one in begun["sets"]], [config.digest() for config in job.sets]),
        "saved series": (begun["save"], list(job.save)),
        "bars a year": ([one["bars_per_year"] for one in begun["sets"]], list(job.bars_per_year)),
    }
    for name, (then, asked) in now.items():
        if then != asked:
            raise ConfigError(
                f"{job.run} was begun with other {name}: a half-done run cannot change them. "
                "Resume with the same command, or start a new run with another --out."
            )
    chosen = {symbol for partition in job.plan.partitions for symbol in partition.symbols}
    if chosen != {symbol for partition in run.partitions for symbol in partition.symbols}:
        raise ConfigError(f"{job.run} was begun with other --symbols: resume with the same ones.")
    plan: Plan = replace(job.plan, partitions=run.partitions)
    return replace(job, plan=plan)
