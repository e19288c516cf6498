"""Price files in, one store out. Streams: memory holds a batch a thread, one symbol's times or one block of bars.

    sources     files (.csv, .csv.gz, .zip of CSV, .parquet, .feather, .arrow, .json of rows) or folders of them, in
                the order of their names; the archives of Binance, freqtrade and Lean are known by their names
    columns     time, symbol, open, high, low, close, volume, recognised by name or named by `columns`
    store       every symbol that kept rows, the fields that all their files have, the union of all open times

What happens to a row, in this order, each counted per symbol. `strict` refuses where it says (strict).

    rule                      what is done
    ------------------------  ------------------------------------------------------------------------------
    nonexistent time          a local time that the clocks skipped in spring: dropped (strict)
    bad price                 open, high, low or close empty, not finite or not above 0: dropped (strict)
    high below low            dropped (strict)
    outside range             open or close outside [low, high]: kept
    bad volume                negative or not finite: the row is kept, its volume is missing (strict);
                              an empty volume is missing and not counted
    repeated hour             local times that the clocks run through twice in autumn: the earlier instant; where
                              a file steps back once inside such an hour, the rows from there on get the later one
    unsorted                  a row earlier than one read before it: sorted (strict)
    exact duplicate           same time, same values: one stays (strict)
    conflicting duplicate     same time, other values: the last one read stays (strict)
    other bar size            the symbol's commonest step between bars is not the store's: refused, or with
                              `bar` the symbol is left out (strict)
    off grid                  open time not a whole number of bars from the symbol's commonest ones, on the wall
                              clock of `tz` (else UTC), for bars up to a week: kept

Nothing is filled or invented: a symbol without a row at some time has no bar there. Times with an offset and
epoch numbers are instants; times without one need `tz`; epoch numbers that show a wall clock need `wall_clock`
and `tz`; dates such as 01/02/2024 are read where the whole column tells day from month, or `date_format` does.
What was recognised, left out or assumed is said in the report's notes.

`append` brings rows into a store that is there, by the same rules: what it lacks is added, what it has is
compared, and rows that disagree are refused, or with `correct` written over what is there.
"""

from __future__ import annotations

from atc_backtest.stores.ingest.appending import append
from atc_backtest.stores.ingest.driver import ingest
from atc_backtest.stores.ingest.options import IngestOptions
from atc_backtest.stores.ingest.report import DONE, RULES, AppendedSymbol, AppendReport, IngestReport, SymbolReport

__all__ = [
    "DONE",
    "RULES",
    "AppendReport",
    "AppendedSymbol",
    "IngestOptions",
    "IngestReport",
    "SymbolReport",
    "append",
    "ingest",
]
