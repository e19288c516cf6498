"""What the user says about the sources, checked once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from atc_backtest.errors import ConfigError
from atc_backtest.stores.base import FIELDS
from atc_backtest.stores.coding import CODECS
from atc_backtest.stores.ingest.dates import DateForm
from atc_backtest.stores.ingest.zones import load_zone

COLUMN_FIELDS = ("ts", "symbol", *FIELDS)


@dataclass(frozen=True)
class IngestOptions:
    """How sources are read. `ConfigError` for a setting that is unknown or contradicts another.

    tz              zone of times without an offset, e.g. UTC or America/New_York
    wall_clock      epoch numbers show the wall clock of `tz` instead of counting from 1970 in UTC
    columns         field -> name of its column, for `ts`, `symbol` and the five of `FIELDS`
    symbol          name of the only symbol, for a single file without a symbol column
    symbol_pattern  regular expression, found in a file's name without its ending; its one group is the symbol
    date_format     how times without an offset are written, in the signs of strptime: %d/%m/%Y %H:%M
    decimal_comma   numbers have a decimal comma where it could also part thousands
    bar             bar size in ns, where symbols have several
    calendar        the store's calendar, kept with it
    strict          refuse instead of dropping or mending rows
    codec           how the store packs its prices, one of `CODECS`
    volume_bits     significant bits that volume is rounded to, 1 to 52; None: not at all
    overwrite       replace an existing store
    threads         files, or pieces of few files, parsed at a time; None: one a core, at most 8
    batch_bytes     about how much is parsed at a time by a thread; no result depends on it, nor on `threads`
    """

    tz: str | None = None
    wall_clock: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)
    symbol: str | None = None
    symbol_pattern: str | None = None
    date_format: str | None = None
    decimal_comma: bool = False
    bar: int | None = None
    calendar: str = "24/7"
    strict: bool = False
    codec: str = "blosc"
    volume_bits: int | None = None
    overwrite: bool = False
    threads: int | None = None
    batch_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        if self.tz is not None:
            load_zone(self.tz)
        if self.wall_clock and self.tz is None:
            raise ConfigError(
                "wall_clock is set and tz is not: name the zone whose clock the numbers show, "
                "e.g. --wall-clock --tz America/New_York."
            )
        for name in self.columns:
            if name not in COLUMN_FIELDS:
                raise ConfigError(
                    f"column {name!r} is not a field: write --column FIELD=NAME with FIELD one of "
                    f"{', '.join(COLUMN_FIELDS)}."
                )
        if self.symbol is not None and not self.symbol.strip():
            raise ConfigError(f"symbol = {self.symbol!r} is empty: give it a name, e.g. --symbol BTCUSDT.")
        if self.symbol is not None and self.symbol_pattern is not None:
            raise ConfigError("symbol and symbol_pattern are both set: give one of --symbol and --symbol-pattern.")
        if self.symbol_pattern is not None:
            _check_pattern(self.symbol_pattern)
        if self.bar is not None and self.bar <= 0:
            raise ConfigError(f"bar = {self.bar} ns is not allowed: more than 0, e.g. --bar 1h.")
        if self.date_format is not None:
            DateForm(self.date_format)
        if self.codec not in CODECS:
            raise ConfigError(f"codec = {self.codec!r} is not known: one of {', '.join(CODECS)}.")
        if self.volume_bits is not None and not 1 <= self.volume_bits <= 52:
            raise ConfigError(f"volume_bits = {self.volume_bits} is not allowed: 1 to 52 significant bits.")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads = {self.threads} is not allowed: at least 1.")
        if self.batch_bytes < 1:
            raise ConfigError(f"batch_bytes = {self.batch_bytes} is not allowed: at least 1.")


def _check_pattern(text: str) -> None:
    example = r"e.g. --symbol-pattern '^([A-Z]+)-1m-'"
    try:
        groups = re.compile(text).groups
    except re.error as error:
        raise ConfigError(f"symbol_pattern {text!r} is no regular expression ({error}): {example}.") from error
    if groups != 1:
        raise ConfigError(f"symbol_pattern {text!r} has {groups} groups, it needs one around the symbol: {example}.")
