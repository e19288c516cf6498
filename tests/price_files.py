"""Price files for tests, and what a store made of them."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from atc_backtest.errors import DataError
from atc_backtest.stores.ingest import IngestOptions, IngestReport, SymbolReport, ingest
from atc_backtest.stores.zarr_store import ZarrStore, open_store

HOUR_S = 3600
START_S = 1_704_067_200
"""2024-01-01 00:00 UTC."""

HEADER = ("time", "open", "high", "low", "close", "volume")
Row = tuple[object, ...]


def bars(n: int, seed: int = 0, start_s: int = START_S, step_s: int = HOUR_S) -> list[Row]:
    """n good rows in the order of `HEADER`, time in epoch seconds; prices with digits that a float32 would lose."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, n)))
    opened = close * np.exp(rng.normal(0, 0.005, n))
    high, low = np.maximum(opened, close) * 1.001, np.minimum(opened, close) * 0.999
    volume = rng.integers(0, 10_000, n) / 8
    times = [start_s + i * step_s for i in range(n)]
    columns = (times, *(values.tolist() for values in (opened, high, low, close, volume)))
    return list(zip(*columns, strict=True))


def flat(time: object, close: float = 10.0, volume: object = 1.0) -> Row:
    """One row whose four prices are the same."""
    return (time, close, close, close, close, volume)


def write_csv(path: Path, rows: Sequence[Row], header: Sequence[str] | None = HEADER, delimiter: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        if header is not None:
            writer.writerow(header)
        writer.writerows(rows)
    return path


def zipped(path: Path, members: Mapping[str, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


def take(source: Path | Sequence[Path], store: Path, **options: object) -> tuple[IngestReport, ZarrStore]:
    """Ingest, and open what was written."""
    sources = [source] if isinstance(source, Path) else list(source)
    report = ingest(sources, store, IngestOptions(**options))  # type: ignore[arg-type]
    return report, open_store(store)


def refused(source: Path | Sequence[Path], store: Path, **options: object) -> str:
    """What ingest says when it refuses, leaving nothing."""
    with pytest.raises(DataError) as caught:
        take(source, store, **options)
    assert not store.exists()
    assert left_behind(store.parent) == []
    return str(caught.value)


def only(report: IngestReport) -> SymbolReport:
    (symbol,) = report.symbols
    return symbol


def series(store: ZarrStore, field: str = "close", symbol: str | None = None) -> NDArray[np.float64]:
    """One symbol's row over the whole axis, the first one's unless named."""
    row = 0 if symbol is None else [info.name for info in store.info.symbols].index(symbol)
    return store.read(field, (row, row + 1), (0, store.info.n_bars))[0]


def assert_holds(store: ZarrStore, rows: Sequence[Row], symbol: str | None = None) -> None:
    """One symbol's bars are `rows`, bit for bit."""
    for column, field in enumerate(HEADER[1:], start=1):
        found = series(store, field, symbol)
        assert found[~np.isnan(found)].tolist() == [row[column] for row in rows]


def axis(store: ZarrStore) -> list[int]:
    return [int(ns) for ns in store.ts(0, store.info.n_bars)]


def present(store: ZarrStore, symbol: str | None = None) -> list[tuple[str, float]]:
    """(UTC time, close) of every bar."""
    close = series(store, "close", symbol)
    shown = [str(np.datetime64(ns, "ns"))[:19].replace("T", " ") for ns in axis(store)]
    return [(time, float(value)) for time, value in zip(shown, close, strict=True) if not np.isnan(value)]


def left_behind(folder: Path) -> list[str]:
    """Hidden files and folders: an ingest that ends, however, leaves none."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]
