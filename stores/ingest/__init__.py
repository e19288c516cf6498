"""Price files in, one store out. Streams: memory holds one batch, one symbol's rows or one block of bars.

    sources     files (.csv, .csv.gz, .zip of CSV, .parquet) or folders of them, read in the order of their names
    columns     time, symbol, open, high, low, close, volume, recognised by name or named by `columns`
    store       every symbol that kept rows, the fields that all files have, the union of all open times

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
and `tz`. What was recognised, left out or assumed is said in the report's notes.
"""

from __future__ import annotations

from atc_backtest.stores.ingest.driver import ingest
from atc_backtest.stores.ingest.options import IngestOptions
from atc_backtest.stores.ingest.report import DONE, RULES, IngestReport, SymbolReport

__all__ = ["DONE", "RULES", "IngestOptions", "IngestReport", "SymbolReport", "ingest"]
