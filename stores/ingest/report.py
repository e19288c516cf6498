"""What an ingest did, symbol by symbol."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RULES = {
    "nonexistent_time": "no such time",
    "bad_price": "bad price",
    "high_below_low": "high below low",
    "exact_duplicate": "exact duplicate",
    "conflicting_duplicate": "conflicting duplicate",
    "other_bar": "other bar size",
    "bad_volume": "bad volume",
    "unsorted": "unsorted",
    "repeated_hour": "repeated hour",
    "outside_range": "outside range",
    "off_grid": "off grid",
}
"""Counter -> its heading in a table: first what drops rows, then what mends them, then what only warns."""

DROPPING = tuple(RULES)[:6]
"""rows_read = rows_kept + the sum of these."""

DONE = dict.fromkeys(DROPPING, "dropped") | {
    "other_bar": "left out",
    "bad_volume": "volume made missing",
    "unsorted": "sorted",
    "repeated_hour": "later instant",
    "outside_range": "kept",
    "off_grid": "kept",
}
"""Counter -> what became of its rows."""


@dataclass(frozen=True)
class SymbolReport:
    """Rows of one symbol, and how many met each rule. first_ns, last_ns: None where no row was kept."""

    name: str
    rows_read: int
    rows_kept: int
    first_ns: int | None
    last_ns: int | None
    nonexistent_time: int = 0
    bad_price: int = 0
    high_below_low: int = 0
    exact_duplicate: int = 0
    conflicting_duplicate: int = 0
    other_bar: int = 0
    bad_volume: int = 0
    unsorted: int = 0
    repeated_hour: int = 0
    outside_range: int = 0
    off_grid: int = 0


@dataclass(frozen=True)
class IngestReport:
    """The store that was written, what every symbol brought, and what was recognised or assumed."""

    store: Path
    bar_ns: int
    calendar: str
    fields: tuple[str, ...]
    n_bars: int
    symbols: tuple[SymbolReport, ...]
    notes: tuple[str, ...]
    files: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = asdict(self) | {"store": str(self.store), "fields": list(self.fields), "notes": list(self.notes)}
        return plain | {"symbols": [asdict(symbol) for symbol in self.symbols]}


@dataclass(frozen=True)
class AppendedSymbol:
    """Rows of one symbol as read, and of those kept how many the store had, lacked, and had otherwise."""

    rows: SymbolReport
    identical: int
    new: int
    corrected: int

    @property
    def name(self) -> str:
        return self.rows.name


@dataclass(frozen=True)
class AppendReport:
    """What an append did. `version_before` is `version` where nothing was new, so that nothing was written."""

    store: Path
    version_before: int
    version: int
    bar_ns: int
    n_bars: int
    symbols: tuple[AppendedSymbol, ...]
    notes: tuple[str, ...]
    files: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        symbols = [
            asdict(one.rows) | {"identical": one.identical, "new": one.new, "corrected": one.corrected}
            for one in self.symbols
        ]
        return asdict(self) | {"store": str(self.store), "notes": list(self.notes), "symbols": symbols}
