"""Symbols in the names of known archives: Binance's public data, freqtrade's data folder, Lean's data folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BINANCE = re.compile(r"(?P<symbol>[^-]+)-(1s|1m|3m|5m|15m|30m|1h|2h|4h|6h|8h|12h|1d|3d|1w|1mo|1M)-\d{4}-\d\d(-\d\d)?")
FREQTRADE = re.compile(r"(?P<symbol>.+)-(\d+[smhdwMy]|1Mo)(-(?P<type>\w+))?")
FREQTRADE_ENDINGS = (".feather", ".parquet", ".json", ".json.gz")
NO_PRICES = ("mark", "index", "premiumIndex", "funding_rate")
"""Kinds of freqtrade's files beside prices of trades."""

LEAN_MINUTE = re.compile(r"\d{8}_(?P<symbol>.+?)_(minute|second)_(?P<kind>trade|quote)(_.*)?\.csv")
LEAN_DAY = re.compile(r"(?P<day>\d{8})_(?P<kind>trade|quote|openinterest)(_.*)?")
LEAN_LONG = re.compile(r"(?P<symbol>.+?)(_(?P<kind>trade|quote|openinterest)(_.*)?)?")
LEAN_MARKETS = {"equity": 10_000, "forex": 1, "cfd": 1, "crypto": 1, "cryptofuture": 1}
"""Kind of market, a folder of Lean's -> what its prices are multiplied by."""
LEAN_OTHERS = ("option", "future", "futureoption", "index", "indexoption")


@dataclass(frozen=True)
class Known:
    """What a name tells: the symbol and whose habit that is; `skip`: why it holds no prices to take."""

    symbol: str | None
    habit: str
    skip: str | None = None


def known(stem: str, ending: str) -> Known | None:
    """What Binance or freqtrade say by the name of a file without its ending, None where it is none of theirs."""
    if ending in (".csv", ".csv.gz", ".zip", ".parquet") and (found := BINANCE.fullmatch(stem)):
        return Known(found["symbol"], "Binance names its archives")
    if ending in FREQTRADE_ENDINGS:
        if stem.endswith("-trades"):
            return Known(None, "freqtrade names its files", "single trades, no bars")
        if found := FREQTRADE.fullmatch(stem):
            skip = "no prices of trades" if found["type"] in NO_PRICES else None
            return Known(found["symbol"], "freqtrade names its files", skip)
    return None


@dataclass(frozen=True)
class LeanName:
    """A Lean zip by its place: data/<market>/<exchange>/<resolution>/... `day` is yyyymmdd for minutes and seconds."""

    market: str | None
    symbol: str
    kind: str
    day: str | None


def lean(path: Path, member: str) -> LeanName | None:
    """What the place and names of an archive and its member say, None where they are not Lean's."""
    parents = [part.lower() for part in path.absolute().parts[:-1]]
    market = next((part for part in reversed(parents) if part in (*LEAN_MARKETS, *LEAN_OTHERS)), None)
    stem = path.name.rsplit(".", 1)[0]
    found = LEAN_MINUTE.fullmatch(Path(member).name)
    day = LEAN_DAY.fullmatch(stem)
    if found and day:
        return LeanName(market, found["symbol"], found["kind"], day["day"])
    if market is None or parents[-1] not in ("hour", "daily"):
        return None
    named = LEAN_LONG.fullmatch(stem)
    assert named is not None  # any name is one
    return LeanName(
        market, named["symbol"], named["kind"] or ("quote" if market in ("forex", "cfd") else "trade"), None
    )


def beside_trades(files: Sequence[Path]) -> set[Path]:
    """Lean's archives of quotes among `files` whose symbol has trades there too."""
    there = set(files)
    days = {file.parent for file in files if file.stem.endswith("_trade") and LEAN_DAY.fullmatch(file.stem)}
    found = set()
    for file in files:
        if file.stem.endswith("_quote") and file.suffix == ".zip":
            trades = file.with_name(file.name.replace("_quote.", "_trade."))
            long = file.parent.name in ("hour", "daily") and trades in there
            if long or (file.parent in days and LEAN_DAY.fullmatch(file.stem)):
                found.add(file)
    return found
