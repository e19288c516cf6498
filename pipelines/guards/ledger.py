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

from atc_backtest.config import RunConfig
from atc_backtest.errors import StoreError
from atc_backtest.pipelines.commits import read_json, write_json
from atc_backtest.pipelines.job import settings_of
from atc_backtest.pipelines.runs import Run
from atc_backtest.stores.folder import is_url

FORMAT = "atc-backtest trials"

IMPOSED = frozenset({"fee_bps", "slippage_bps", "delay_bars", "start_equity"})
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
    """All entries of one store, oldest first. `damaged`: files that cannot be read. `others`: entries of other stores."""

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
    plain, default = config.to_dict(), RunConfig().to_dict()
    tried = settings_of(config)
    kept = {*settings_of(RunConfig())} - {*plain["run"]} - IMPOSED
    usual = {**_flat(default)}
    found = {name: tried[name] for name in sorted(kept) if tried[name] != usual[name]}
    found |= {"fill": fill, "source": config.source}
    return hashlib.blake2b(json.dumps(found, sort_keys=True).encode(), digest_size=8).hexdigest()
