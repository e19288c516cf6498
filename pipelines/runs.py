"""Run folders: `manifest.json` says what was asked and how it was cut, the records in commits/ what is done.

    runs/<name>/manifest.json, commits/part-00000.json, metrics/part-00000.parquet,
    and signals/, equity/, trades/ when saved, failed/ when partitions were set aside

A partition is done when its record has its name; whoever reads the run while it goes on sees whole partitions.
docs/runs.md has the whole of it.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from atc_backtest.config import RunConfig, from_dict
from atc_backtest.errors import ConfigError, StoreError
from atc_backtest.kernels import best_kernel
from atc_backtest.pipelines import commits
from atc_backtest.pipelines.commits import SetAside, read_json, write_json
from atc_backtest.pipelines.hashing import Content, run_hash
from atc_backtest.pipelines.job import METRICS, PERIODS, SERIES, Job
from atc_backtest.pipelines.parts import schema_of
from atc_backtest.pipelines.plan import Partition, Plan
from atc_backtest.pipelines.scratch import remove_abandoned
from atc_backtest.stores.lock import locked
from atc_backtest.stores.opening import open_store
from atc_backtest.stores.zarr_store import ZarrStore
from atc_backtest.symbol_costs import SymbolCosts

if TYPE_CHECKING:
    import pyarrow.dataset as ds

MANIFEST = "manifest.json"
LOCK = "writer.lock"
REPLACED = ".replaced-"
"""Begins the name of a folder in the run's, of what it replaces, until it has begun."""
FORMAT = "atc-backtest run"
FORMAT_VERSION = 3
SCHEMA_VERSION = 2
"""Of the datasets: grows when a column changes its name, type or meaning."""

State = Literal["complete", "partial", "unfinished"]


@dataclass(frozen=True)
class Basis:
    """What a set's settings left to the store: the calendar its year is counted by, its fill, and whether stops
    see highs and lows."""

    calendar: str
    fill: str
    ranges: bool


@contextmanager
def writing(run: Path) -> Iterator[None]:
    """The right to begin or to go on with a run, of one process at a time.

    The run's folder is made where there is none, and is gone at the end where nothing came into it. `StoreError`
    names the process that has the right. The kernel takes it back when that process dies, however it does.
    """
    made = [folder for folder in (run, *run.parents) if not folder.exists()]
    with ExitStack() as stack:
        stack.callback(_remove_empty, made)
        try:
            run.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(run / LOCK, "atc-backtest backtest", f"remove {run / LOCK}"))
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(f"cannot write {run}: {error}. Check the folder and the free space.") from error
        yield


def _remove_empty(folders: Sequence[Path]) -> None:
    """Innermost first, as long as nothing is in them."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def check_place(run: Path, overwrite: bool) -> None:
    """`StoreError` when something is where a new run is to be that `overwrite` does not replace: all but a run."""
    if not is_occupied(run):
        return
    if not (run / MANIFEST).is_file():
        raise StoreError(f"{run} exists and is not a run: choose another --out; nothing was touched.")
    if not overwrite:
        raise StoreError(
            f"{run} already holds a run: choose another --out, continue it with --resume, "
            "or replace it with --overwrite."
        )


def is_occupied(path: Path) -> bool:
    """Whether something is there that is more than a lock and the beginning of a run that was killed at once."""
    if not path.is_dir():
        return path.exists()
    return any(child.name != LOCK and not child.match(f".{MANIFEST}.*.tmp") for child in path.iterdir())


def write_manifest(job: Job, versions: Mapping[str, str], bases: Sequence[Basis]) -> None:
    """What is asked for and how it is cut. `StoreError` when it cannot be written."""
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "id": secrets.token_hex(16),
        "store": {"path": job.store, "id": job.store_id, "version": job.store_version},
        "symbols": list(job.symbols),
        "sets": [
            {"config": config.to_dict(), "digest": config.digest(), "bars_per_year": bars} | asdict(basis)
            for config, bars, basis in zip(job.sets, job.bars_per_year, bases, strict=True)
        ],
        "costs": [row._asdict() for row in job.costs],
        "kernel": job.kernel,
        "save": list(job.save),
        "period": job.period,
        "varying": list(job.varying),
        "versions": dict(versions),
        "schema_version": SCHEMA_VERSION,
        "schemas": {
            name: {field.name: str(field.type) for field in schema_of(job, name)} for name in (METRICS, *job.save)
        },
        "plan": asdict(job.plan),
    }
    write_json(job.run / MANIFEST, content)


@dataclass(frozen=True)
class Run:
    """A run on disk, finished or not. `manifest` as written when it began; all else as it is when asked.

    Only committed parts count, also while the run goes on.
    """

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
        return commits.committed(self.path)

    @property
    def set_aside(self) -> tuple[SetAside, ...]:
        """Partitions that failed in every attempt; --resume tries them again."""
        return commits.read_set_aside(self.path)

    @property
    def state(self) -> State:
        """Partial: some partitions were set aside. Unfinished: others are still to come."""
        if len(self.done) == len(self.partitions):
            return "complete"
        return "partial" if self.set_aside else "unfinished"

    @property
    def positions(self) -> tuple[int, ...]:
        """Of the symbols that are run, in the store: ascending."""
        return tuple(sorted({symbol for partition in self.partitions for symbol in partition.symbols}))

    @property
    def symbols(self) -> tuple[str, ...]:
        """Names of the symbols that are run, in the store's order."""
        return tuple(self.manifest["symbols"][symbol] for symbol in self.positions)

    def prices(self) -> ZarrStore:
        """As `prices_of`."""
        begun = self.manifest["store"]
        return _prices(begun["path"], begun["version"], begun["id"])

    @property
    def sets(self) -> tuple[RunConfig, ...]:
        return tuple(from_dict(one["config"]) for one in self.manifest["sets"])

    @property
    def kernels(self) -> tuple[str, ...]:
        """Those that computed what is committed, by name; until something is, the one that the run was begun with."""
        computed = {part.kernel for _, parts in commits.records(self.path) for part in parts.values() if part.kernel}
        return tuple(sorted(computed)) or (self.manifest["kernel"],)

    @property
    def datasets(self) -> tuple[str, ...]:
        """What the run holds: metrics and the saved series."""
        return (METRICS, *self.manifest["save"])

    def contents(self) -> dict[str, Content]:
        """Dataset -> rows and content hash of what is committed, as `hashing` defines them."""
        found = {name: Content() for name in self.datasets}
        for _, parts in commits.records(self.path):
            for name, part in parts.items():
                found[name] += part.sum
        return found

    def content_hash(self) -> str:
        """The hash of all committed rows: of a complete run, the same however it came about."""
        return run_hash(self.contents())

    def files(self, dataset: str = METRICS) -> list[Path]:
        """The committed Parquet files of a dataset, for any reader of Parquet: polars, DuckDB, pandas, Dask."""
        if dataset not in (METRICS, *SERIES):
            raise ConfigError(f"unknown dataset {dataset!r}: choose from {', '.join((METRICS, *SERIES))}.")
        if dataset not in self.datasets:
            raise StoreError(f"{self.path} has no {dataset}: run again with --save {dataset}.")
        return [self.path / parts[dataset].file for _, parts in commits.records(self.path)]

    def dataset(self, dataset: str = METRICS) -> ds.Dataset:
        """A dataset's committed rows, lazily. Those of one symbol and set follow each other in time."""
        files = self.files(dataset)
        if not files:
            raise StoreError(f"{self.path} has no committed {dataset} yet: let the run go on.")
        return rows_in(files)

    def table(self, dataset: str = METRICS, where: ds.Expression | None = None) -> pa.Table:
        """The committed rows of a dataset, all or some, in memory, sorted by symbol, set, then time."""
        return in_order(self.dataset(dataset).to_table(filter=where), dataset)


def rows_in(files: Sequence[Path]) -> ds.Dataset:
    """The rows of Parquet files, one file after the other, lazily."""
    import pyarrow.dataset as ds  # imports pandas, where that is installed: not before something is read

    return ds.dataset([str(file) for file in files], format="parquet")


def in_order(rows: pa.Table, dataset: str) -> pa.Table:
    """Rows of a dataset by symbol, set, then time."""
    keys = [("symbol", "ascending"), ("param_id", "ascending")]
    order = {"signals": "ts", "equity": "ts", "trades": "trade_id", PERIODS: "period_ts"}.get(dataset)
    return rows.sort_by([*keys, (order, "ascending")] if order else keys)


def open_run(path: Path) -> Run:
    """The run at `path`; `StoreError` when there is none or it is of another format."""
    try:
        manifest = read_json(path / MANIFEST)
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} is not a run ({error}): give the folder named by --out.") from error
    found = (manifest.get("format"), manifest.get("format_version"))
    if found != (FORMAT, FORMAT_VERSION):
        raise StoreError(f"{path} is {found[0]!r} version {found[1]!r}; this program reads version {FORMAT_VERSION}.")
    return Run(path, manifest)


def job_of(run: Run, kernel: str) -> Job:
    """The job that `run` carries out, with another kernel."""
    begun = run.manifest
    return Job(
        store=begun["store"]["path"],
        run=run.path,
        store_id=begun["store"]["id"],
        store_version=begun["store"]["version"],
        symbols=tuple(begun["symbols"]),
        sets=run.sets,
        bars_per_year=tuple(one["bars_per_year"] for one in begun["sets"]),
        kernel=kernel,
        save=tuple(begun["save"]),
        period=begun["period"],
        plan=Plan(**(begun["plan"] | {"partitions": run.partitions})),
        costs=tuple(SymbolCosts(**row) for row in begun["costs"]),
    )


def prices_of(job: Job) -> ZarrStore:
    """The version of the prices that the run began with, also when the store has gone on since.

    `StoreError` when that version is no longer kept, or another store is at its place.
    """
    return _prices(job.store, job.store_version, job.store_id)


def _prices(place: str, version: int, store_id: str) -> ZarrStore:
    store = open_store(place, version)
    if store.info.id != store_id:
        raise StoreError(
            f"{place} is another store than the one that the run began with, and its prices are others: "
            "bring that one back, or start a new run."
        )
    return store


@dataclass(frozen=True)
class JobPlace:
    """A job by the folder whose manifest holds it: small, whatever the number of symbols and sets.

    `id` is that of the run; `plan` is without its partitions.
    """

    run: Path
    id: str
    kernel: str
    plan: Plan

    @classmethod
    def of(cls, run: Run, job: Job) -> JobPlace:
        return cls(run.path.resolve(), run.manifest["id"], job.kernel, replace(job.plan, partitions=()))


@lru_cache(maxsize=4)
def job_at(place: JobPlace) -> Job:
    """The job, read once in a process, with a kernel of this process where it is `auto`.

    `StoreError` where the folder holds no run, or another one by now.
    """
    run = open_run(place.run)
    if run.manifest["id"] != place.id:
        raise StoreError(f"{place.run} was replaced by another run: begin again.")
    return replace(job_of(run, best_kernel(place.kernel)), plan=place.plan)


def remove_leftovers(run: Run) -> None:
    """Remove what attempts that were killed left behind; for the run's holder, while nobody computes."""
    for pattern in ("*/.part-*.tmp", f"{commits.COMMITS}/.part-*.lock"):
        for hidden in run.path.glob(pattern):
            hidden.unlink(missing_ok=True)


def discard_unfinished(run: Run) -> None:
    """`remove_leftovers`, and forget what failed: it is tried again."""
    remove_leftovers(run)
    remove_abandoned(run.path)
    for folder in run.path.glob(f"{REPLACED}*"):
        shutil.rmtree(folder, ignore_errors=True)
    commits.forget_set_aside(run.path, (failure.partition for failure in run.set_aside))


def check_resumes(job: Job, run: Run) -> None:
    """Whether `job` can go on with `run`, as which it is cut.

    `ConfigError` names what differs when the run was begun with other settings, prices or series.
    """
    begun = run.manifest
    now: dict[str, Any] = {
        "prices: another store is at its place now": (begun["store"].get("id"), job.store_id),
        "store version": (begun["store"]["version"], job.store_version),
        "symbols": (begun["symbols"], list(job.symbols)),
        "settings": ([one["digest"] for one in begun["sets"]], [config.digest() for config in job.sets]),
        "costs": (begun["costs"], [row._asdict() for row in job.costs]),
        "saved series": (begun["save"], list(job.save)),
        "period": (begun["period"], job.period),
        "bars a year": ([one["bars_per_year"] for one in begun["sets"]], list(job.bars_per_year)),
    }
    for name, (then, asked) in now.items():
        if then != asked:
            raise ConfigError(
                f"{job.run} was begun with other {name}: a half-done run cannot change them. "
                "Resume with the same command, or start a new run with another --out."
            )
    if run.partitions != job.plan.partitions:
        raise ConfigError(f"{job.run} was replaced by another run in the meantime: resume that one, if it is yours.")
