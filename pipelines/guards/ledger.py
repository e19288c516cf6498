"""The ledger of trials: every run over a store leaves an entry, so that trying often can be held against the best.

    prices.zarr.trials/<run id>.json    beside the store, also for runs that were interrupted or thrown away

A small file a run: written whole or not at all, never changed, and two runs that begin at once write two. For a
store behind a URL it lies in a folder of this machine, named after the store's id. `ATC_LEDGER` names another
folder for all stores; entries say which store's they are.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from atc_backtest.config import RunConfig, flatten
from atc_backtest.errors import StoreError
from atc_backtest.pipelines.commits import read_json, write_json
from atc_backtest.pipelines.runs import Run
from atc_backtest.stores.folder import is_url

FORMAT = "atc-backtest trials"

IMPOSED = frozenset({"fee_bps", "slippage_bps", "funding_bps", "funding_interval", "delay_bars", "start_equity"})
"""Settings of the execution that a market decides or that change no return: another value is no other trial."""

LOG = logging.getLogger("atc_backtest")


@dataclass(frozen=True)
class Entry:
    """One run: `trials` are digests of what its parameter sets try. `when`: ISO, UTC, as it began."""

    run_id: str
    run: str
    store_id: str
    store_version: int
    when: str
    symbols: int
    trials: tuple[str, ...]


@dataclass(frozen=True)
class Ledger:
    """All entries of one store, oldest first. `damaged`: files that cannot be read; `others`: of other stores."""

    place: Path
    store_id: str
    entries: tuple[Entry, ...]
    damaged: tuple[str, ...]
    others: int

    @property
    def trials(self) -> int:
        """Distinct ones over all runs."""
        return len({trial for entry in self.entries for trial in entry.trials})


def trial_digest(config: RunConfig, fill: str) -> str:
    """What a parameter set tries, 16 hex digits: indicator, execution with its resolved `fill`, and source.

    Not the kernel, the symbols, the evaluated span or how figures are annualised, and not `IMPOSED`. Settings that
    have their defaults are left out, so that a setting added later makes no old trial a new one.
    """
    sections, usual = config.to_dict(), RunConfig().to_dict()
    tried: dict[str, Any] = {"fill": fill, "source": config.source}
    for section in ("atc", "execution"):
        default = dict(flatten(usual[section]))
        for name, value in flatten(sections[section]):
            if name not in IMPOSED | tried.keys() and value != default[name]:
                tried[name] = value
    return hashlib.blake2b(json.dumps(tried, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


def ledger_folder(store: str, store_id: str) -> Path:
    """Where entries of the store at this absolute path or URL lie."""
    named = os.environ.get("ATC_LEDGER")
    if named:
        return Path(named)
    if is_url(store):
        state = os.environ.get("XDG_STATE_HOME")
        return (Path(state) if state else Path.home() / ".local" / "state") / "atc-backtest" / "trials" / store_id
    path = Path(store)
    return path.with_name(f"{path.name}.trials")


def record(run: Run) -> None:
    """Leave the run's entry, unless it is there; where it cannot be written, log a warning: no run stops for it."""
    store = run.manifest["store"]
    path = ledger_folder(store["path"], store["id"]) / f"{run.manifest['id']}.json"
    if path.is_file():
        return
    fills = [one["fill"] for one in run.manifest["sets"]]
    trials = (trial_digest(config, fill) for config, fill in zip(run.sets, fills, strict=True))
    entry = Entry(
        run_id=run.manifest["id"],
        run=str(run.path.resolve()),
        store_id=store["id"],
        store_version=store["version"],
        when=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        symbols=len(run.positions),
        trials=tuple(dict.fromkeys(trials)),
    )
    try:
        write_json(path, {"format": FORMAT} | asdict(entry))
    except StoreError as error:
        LOG.warning(
            "warning: this run is not counted in the ledger of trials: %s Set ATC_LEDGER to a folder that can be "
            "written, or deflated Sharpe ratios will think too well of it.",
            error,
        )


def read_ledger(store: str, store_id: str) -> Ledger:
    """The ledger of the store at this absolute path or URL; empty where there is none yet."""
    folder = ledger_folder(store, store_id)
    entries, damaged, others = [], [], 0
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            entry = _entry(read_json(path))
        except (OSError, ValueError, TypeError, KeyError):
            damaged.append(path.name)
            continue
        if entry.store_id == store_id:
            entries.append(entry)
        else:
            others += 1
    entries.sort(key=lambda entry: (entry.when, entry.run_id))
    return Ledger(folder, store_id, tuple(entries), tuple(damaged), others)


def _entry(found: dict[str, Any]) -> Entry:
    """`ValueError`, `TypeError` or `KeyError` where it is none."""
    if found.pop("format") != FORMAT:
        raise ValueError("not an entry of a ledger")
    return Entry(**(found | {"trials": tuple(found["trials"])}))


def growing(entries: tuple[Entry, ...]) -> Iterator[tuple[Entry, int]]:
    """Every entry with the distinct trials up to and with it."""
    seen: set[str] = set()
    for entry in entries:
        seen.update(entry.trials)
        yield entry, len(seen)
