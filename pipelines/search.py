"""Adaptive search: Optuna proposes parameter sets in blocks, and each block is one run over the whole store.

    runs/<name>/search.json           what is searched; written once
    runs/<name>/blocks/00000.json     proposals of a block, written before it runs
    runs/<name>/blocks/00000/         their run, without sets that an earlier block had
    runs/<name>/all/                  every set tried, as one run: made of the blocks when the search ends

The runs are the memory of the search: before each block the study is built afresh from the blocks before, with a
sampler of its own seed. So a search that was killed and goes on proposes what it would have proposed, and takes up
the run that it was in. Proposals on record are never asked for again; new ones are the same for the same version of
Optuna.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from atc_backtest.config import RunConfig
from atc_backtest.errors import ConfigError, StoreError, UnavailableError
from atc_backtest.metrics import METRIC_COLUMNS
from atc_backtest.pipelines.axes import MAX_SETS, Axis, Choice, Span, Steps, Value
from atc_backtest.pipelines.backtest import Options, backtest
from atc_backtest.pipelines.beginning import create_run
from atc_backtest.pipelines.commits import read_json, records, write_json
from atc_backtest.pipelines.job import METRICS, Job
from atc_backtest.pipelines.parts import PartWriter, commit_parts, schema_of
from atc_backtest.pipelines.plan import Partition
from atc_backtest.pipelines.runs import MANIFEST, Basis, Run, job_of, open_run
from atc_backtest.pipelines.surface import View, check_view, set_values
from atc_backtest.pipelines.sweep import Spec, laid_over
from atc_backtest.stores.opening import open_store

SEARCH = "search.json"
FORMAT = "atc-backtest search"
LISTED = "[[sweep.sets]]"
"""The axis of settings that belong together, as Optuna knows it."""

Params = dict[str, float]
"""What Optuna proposes for each axis: a number within a range, or a position among values."""


@dataclass(frozen=True)
class Goal:
    """What is sought: `trials` in blocks of `block`, judged by `view`. `skip_invalid`: refused sets are failures."""

    trials: int
    block: int = 16
    view: View = field(default_factory=View)
    skip_invalid: bool = False


@dataclass(frozen=True)
class Trial:
    """A proposal. `config`: None where the settings' rules refused it. `value`: None where the figure is undefined."""

    params: Params
    settings: Mapping[str, Value]
    config: RunConfig | None
    value: float | None


@dataclass(frozen=True)
class Search:
    """A search as it stands. `run` holds every set tried, in the order of first trial; None while a block is partial.

    `best`: position in `trials`, the first one of equals. `blocked`: the run of a block whose partitions failed.
    """

    path: Path
    trials: tuple[Trial, ...]
    best: int | None
    run: Run | None
    blocked: Run | None = None


def search(
    store: str | Path,
    out: Path,
    base: RunConfig,
    spec: Spec,
    goal: Goal,
    options: Options,
    show: Callable[[int, int], None] = lambda done, total: None,
) -> Search:
    """Search `spec` around `base` over the store; results under `out`. `show` is given trials done and in all.

    `ConfigError` for goals out of range, `StoreError` where something is in the way or the prices changed,
    `UnavailableError` without Optuna. `Options.resume` goes on, also to more trials than before.
    """
    _check(spec, goal)
    optuna = _optuna()
    facts = _facts(store, base, spec, goal, options)
    _begin(out, facts, options)
    known: dict[RunConfig, float | None] = {}
    trials: list[Trial] = []
    number = 0
    while len(trials) < goal.trials:
        show(len(trials), goal.trials)
        place = out / "blocks" / f"{number:05d}"
        size = min(goal.block, goal.trials - len(trials))
        proposals = _proposals(optuna, place.with_suffix(".json"), spec, goal, trials, number, size)
        configs = [_config_of(base, spec, goal, params) for params in proposals]
        fresh = [config for config in dict.fromkeys(configs) if config is not None and config not in known]
        if fresh:
            run = _block_run(store, place, fresh, options)
            if run.manifest["store"]["version"] != facts["store"]["version"]:
                raise StoreError(
                    f"{store} has grown since the search began: its prices are others. Start a new search."
                )
            if run.state != "complete":
                return Search(out, tuple(trials), _best(trials, goal), None, run)
            values = set_values(run, goal.view).tolist()
            known |= {config: None if math.isnan(v) else v for config, v in zip(fresh, values, strict=True)}
        trials += [
            Trial(params, _settings(spec, params), config, None if config is None else known[config])
            for params, config in zip(proposals, configs, strict=True)
        ]
        number += 1
    show(goal.trials, goal.trials)
    if not known:
        raise ConfigError(f"all {goal.trials} proposals were refused by the settings' rules: narrow the axes.")
    return Search(out, tuple(trials), _best(trials, goal), _merged(out, number))


def _check(spec: Spec, goal: Goal) -> None:
    if not spec.axes and not spec.listed:
        raise ConfigError("a search of nothing: name an axis, as --set lengths.ema=14:56.")
    if spec.random is not None:
        raise ConfigError("a random sample is not searched: give one of --random and --search.")
    check_view(goal.view)
    for name, value, most in (("trials", goal.trials, MAX_SETS), ("block", goal.block, MAX_SETS)):
        if not 1 <= value <= most:
            raise ConfigError(f"--{name} {value} is not allowed: from 1 to {most:,}.")


def _facts(store: str | Path, base: RunConfig, spec: Spec, goal: Goal, options: Options) -> dict[str, Any]:
    """What may not change while a search goes on."""
    info = open_store(store).info
    facts = {
        "format": FORMAT,
        "store": {"id": info.id, "version": info.version},
        "base": base.digest(),
        "axes": {name: str(axis) for name, axis in spec.axes.items()},
        "listed": [dict(one) for one in spec.listed],
        "seed": spec.seed,
        "block": goal.block,
        "view": asdict(goal.view),
        "symbols": options.symbols,
        "save": options.save,
        "period": options.period,
        "costs": options.costs,
    }
    as_written: dict[str, Any] = json.loads(json.dumps(facts))
    return as_written


def _begin(out: Path, facts: Mapping[str, Any], options: Options) -> None:
    """Make the search's folder, or see that it is the same search. `StoreError`, `ConfigError` when it is not."""
    path = out / SEARCH
    if path.is_file():
        if options.overwrite:
            shutil.rmtree(out / "blocks", ignore_errors=True)
            shutil.rmtree(out / "all", ignore_errors=True)
        elif not options.resume:
            raise StoreError(f"{out} already holds a search: choose another --out, --resume it, or --overwrite it.")
        else:
            begun = read_json(path)
            changed = [name for name, value in facts.items() if begun.get(name) != value]
            if changed:
                raise ConfigError(
                    f"{out} was begun with another {', '.join(changed)}: a search cannot change them. "
                    "Resume with the same command, or start a new one with another --out."
                )
            return
    elif options.resume:
        raise StoreError(f"{out} holds no search to go on with: start it without --resume.")
    elif out.exists() and any(out.iterdir()):
        raise StoreError(f"{out} exists and is not a search: choose another --out; nothing was touched.")
    write_json(path, facts)


def _block_run(store: str | Path, place: Path, sets: Sequence[RunConfig], options: Options) -> Run:
    """The run of a block: as it is when it is whole, else gone on with, else begun."""
    begun = (place / MANIFEST).is_file()
    if begun and open_run(place).state == "complete":
        return open_run(place)
    return backtest(store, place, sets, replace(options, resume=begun, overwrite=False))


def _best(trials: Sequence[Trial], goal: Goal) -> int | None:
    sign = 1.0 if goal.view.ascending else -1.0
    found = [(sign * trial.value, at) for at, trial in enumerate(trials) if trial.value is not None]
    return min(found)[1] if found else None


# Proposals


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UnavailableError(f"Optuna is not installed ({error}): pip install 'atc-backtest[optuna]'.") from error
    return optuna


@contextlib.contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Optuna tells every trial and warns of what it calls experimental; neither is news here."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def _proposals(
    optuna: Any, path: Path, spec: Spec, goal: Goal, trials: Sequence[Trial], number: int, size: int
) -> list[Params]:
    """Those of the block that are on record, else `size` new ones, which are put on record."""
    if path.is_file():
        recorded: list[Params] = read_json(path)["proposals"]
        return recorded
    space = _space(optuna, spec)
    with _quiet(optuna):
        seed = (spec.seed * 1_000_003 + number) % 2**32
        study = _study(optuna, space, goal, trials, optuna.samplers.TPESampler(seed=seed, constant_liar=True))
        asked = [study.ask(space).params for _ in range(size)]
    write_json(path, {"proposals": asked})
    return asked


def _study(optuna: Any, space: Mapping[str, Any], goal: Goal, trials: Sequence[Trial], sampler: Any) -> Any:
    """A study in memory that knows `trials`; what has no value has failed."""
    study = optuna.create_study(direction="minimize" if goal.view.ascending else "maximize", sampler=sampler)
    states = optuna.trial.TrialState
    for trial in trials:
        state = states.FAIL if trial.value is None else states.COMPLETE
        study.add_trial(
            optuna.trial.create_trial(state=state, params=trial.params, distributions=space, value=trial.value)
        )
    return study


def study_of(found: Search, spec: Spec, goal: Goal) -> Any:
    """An `optuna.Study` in memory with all trials of a search, for Optuna's own plots and importances."""
    optuna = _optuna()
    with _quiet(optuna):
        return _study(optuna, _space(optuna, spec), goal, found.trials, None)


def _space(optuna: Any, spec: Spec) -> dict[str, Any]:
    space = {name: _distribution(optuna.distributions, axis) for name, axis in spec.axes.items()}
    if spec.listed:
        space[LISTED] = optuna.distributions.CategoricalDistribution(tuple(range(len(spec.listed))))
    return space


def _distribution(known: Any, axis: Axis) -> Any:
    """Numbers in order are positions that have an order; words are not."""
    if isinstance(axis, Span):
        kind = known.IntDistribution if axis.integer else known.FloatDistribution
        return kind(axis.low, axis.high, log=axis.log)
    if isinstance(axis, Choice) and not _ascend(axis.values):
        return known.CategoricalDistribution(tuple(range(axis.size)))
    return known.IntDistribution(0, axis.size - 1)


def _ascend(values: Sequence[Value]) -> bool:
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return len(numbers) == len(values) and numbers == sorted(numbers)


def _settings(spec: Spec, params: Params) -> dict[str, Value]:
    """The settings that a proposal means."""
    together = spec.listed[int(params[LISTED])] if spec.listed else {}
    return {**together, **{name: _value(axis, params[name]) for name, axis in spec.axes.items()}}


def _value(axis: Axis, proposed: float) -> Value:
    if isinstance(axis, Choice | Steps):
        return axis.value(int(proposed))
    return axis.value(proposed)


def _config_of(base: RunConfig, spec: Spec, goal: Goal, params: Params) -> RunConfig | None:
    settings = _settings(spec, params)
    try:
        return laid_over(base.to_dict(), settings)
    except ConfigError as error:
        if goal.skip_invalid:
            return None
        named = ", ".join(f"{name}={value}" for name, value in settings.items())
        raise ConfigError(f"the proposal {named}: {error} --skip-invalid counts such proposals as failed.") from error


# One run of all blocks


def _merged(out: Path, n_blocks: int) -> Run:
    """`all/`: every set of the blocks, in their order, and their rows; an ordinary run like that of a sweep."""
    places = [out / "blocks" / f"{number:05d}" for number in range(n_blocks)]
    blocks = [open_run(place) for place in places if (place / MANIFEST).is_file()]
    jobs = [job_of(block, block.manifest["kernel"]) for block in blocks]
    partitions: list[Partition] = []
    firsts, first = [], 0
    for job in jobs:
        for partition in job.plan.partitions:
            sets = (partition.sets[0] + first, partition.sets[1] + first)
            partitions.append(replace(partition, index=len(partitions), sets=sets))
        firsts.append(first)
        first += len(job.sets)
    whole = replace(
        jobs[0],
        run=(out / "all").resolve(),
        sets=tuple(config for job in jobs for config in job.sets),
        bars_per_year=tuple(bars for job in jobs for bars in job.bars_per_year),
        plan=replace(jobs[0].plan, partitions=tuple(partitions)),
    )
    known = [each.name for each in fields(Basis)]
    bases = [Basis(**{name: one[name] for name in known}) for block in blocks for one in block.manifest["sets"]]
    create_run(whole, blocks[0].manifest["versions"], bases, overwrite=True)
    index = 0
    for block, start in zip(blocks, firsts, strict=True):
        for _, parts in records(block.path):
            files = {name: block.path / part.file for name, part in parts.items()}
            kernel = next((part.kernel for part in parts.values() if part.kernel), whole.kernel)
            _copy_partition(replace(whole, kernel=kernel), index, files, start)
            index += 1
    return open_run(whole.run)


def _copy_partition(whole: Job, index: int, files: Mapping[str, Path], first: int) -> None:
    """A block's parts under the numbers that its sets have in the whole; row groups pass through one at a time."""
    with contextlib.ExitStack() as stack:
        writers = {}
        for name, file in files.items():
            schema = schema_of(whole, name)
            writers[name] = stack.enter_context(PartWriter(whole.part(name, index), schema))
            opened = stack.enter_context(pq.ParquetFile(file))
            for group in range(opened.num_row_groups):
                writers[name].write(_renumbered(whole, name, opened.read_row_group(group), first, schema))
        commit_parts(whole, index, writers)


def _renumbered(whole: Job, dataset: str, rows: pa.Table, first: int, schema: pa.Schema) -> pa.Table:
    """The same rows with `first` added to their sets' numbers; of metrics, with the settings that vary in the whole."""
    numbers = rows["param_id"].to_numpy() + first
    columns = dict(zip(rows.column_names, rows.columns, strict=True)) | {"param_id": pa.array(numbers)}
    if dataset == METRICS:
        columns = {name: columns[name] for name in METRIC_COLUMNS}
        for name, values in whole.varying_values.items():
            columns[name] = pa.array([values[number] for number in numbers], schema.field(name).type)
    return pa.table([columns[name] for name in schema.names], schema=schema)
