"""What a person sees of downloads and of invented prices."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from atc_backtest.display import count, print_json, show_ingest

if TYPE_CHECKING:
    from atc_backtest.stores.fetch import FetchReport
    from atc_backtest.stores.ingest import IngestReport
    from atc_backtest.stores.synth import SynthReport

MISSING_SHOWN = 8
"""Files that are not there, named in a terminal."""


def show_fetch(report: FetchReport, as_json: bool, ingested: IngestReport | None = None) -> None:
    """What came, what is not there, what failed and why."""
    if as_json:
        print_json(report.to_dict() | ({} if ingested is None else {"ingest": ingested.to_dict()}))
        return
    for file in report.failed:
        print(f"failed   {file.name}: {file.reason} (tries: {file.tries}; {file.url})")
    if report.missing:
        more = "" if len(report.missing) <= MISSING_SHOWN else ", ... (all with --json)"
        print(f"missing  {len(report.missing):,}: {', '.join(report.missing[:MISSING_SHOWN])}{more}")
    for note in report.notes:
        print(f"note     {note}")
    resumed = f" ({report.resumed:,} gone on with)" if report.resumed else ""
    print(
        f"fetched  {report.fetched:,}{resumed}, skipped {report.skipped:,}, missing {len(report.missing):,}, "
        f"failed {len(report.failed):,}: {count(report.n_bytes)}B in {report.seconds:.2f} s into {report.folder}"
    )
    if not report.ok:
        print("next     the same command again: what is there is skipped" if report.failed else "none of them is there")
    elif ingested is None:
        print(f"next     atc-backtest ingest {report.folder} --store STORE")
    else:
        show_ingest(ingested, as_json)


def show_synth(report: SynthReport, as_json: bool) -> None:
    """What was made, and how fast."""
    from atc_backtest.stores.base import format_bar

    spec = report.spec
    if as_json:
        print_json(asdict(report) | {"store": str(report.store)})
        return
    bars = spec.n_symbols * spec.n_bars
    print(
        f"store  {report.store}: {spec.n_symbols:,} symbols x {spec.n_bars:,} bars of {format_bar(spec.bar_ns)}, "
        f"{', '.join(spec.fields)}; {report.n_present / bars:.1%} of the bars are there"
    )
    print(f"made   in {report.seconds:.2f} s ({count(bars / report.seconds)} bars/s), seed {spec.seed}")
    print(f"next   atc-backtest backtest {report.store}")
