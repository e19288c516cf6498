"""Price files from the net into a folder, many at once; none is there under its name before it is whole.

    templates   which files: a URL template or a named archive, symbols, a range of days
    driver      a bounded number of downloads at a time, each file handed over as it is ready
    download    one file: retries, resuming, checksums (aiohttp, the extra `fetch`)
    partial     what lies on disk meanwhile, and the step that makes it a file
    exchange    recent bars through ccxt (the extra `ccxt`) as CSV files
    order       all of it from a user's words, and on into a store

What a file under its name promises, how failures end and what a rerun does: docs/fetch.md.
"""

from __future__ import annotations

from atc_backtest.stores.fetch.driver import each_file, fetch, fetch_files, fetch_into
from atc_backtest.stores.fetch.options import Fetched, FetchOptions, FetchReport
from atc_backtest.stores.fetch.order import plan, run
from atc_backtest.stores.fetch.templates import PRESETS, Job, Plan, parse_day, plan_files, read_symbols

__all__ = [
    "PRESETS",
    "FetchOptions",
    "FetchReport",
    "Fetched",
    "Job",
    "Plan",
    "each_file",
    "fetch",
    "fetch_files",
    "fetch_into",
    "parse_day",
    "plan",
    "plan_files",
    "read_symbols",
    "run",
]
