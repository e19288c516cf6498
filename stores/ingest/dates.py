"""Dates as people write them, 31/01/2024 9:30 PM: read by a form that one file keeps throughout."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atc_backtest.errors import ConfigError, DataError
from atc_backtest.stores.base import I64

DIRECTIVES = {
    "Y": r"\d{4}",
    "y": r"\d{2}",
    "m": r"\d{1,2}",
    "d": r"\d{1,2}",
    "b": "[A-Za-z]{3}",
    "B": "[A-Za-z]+",
    "H": r"\d{1,2}",
    "I": r"\d{1,2}",
    "M": r"\d{2}",
    "S": r"\d{2}",
    "f": r"\d{1,9}",
    "p": "[AaPp][Mm]",
}
MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
PIVOT = 69
"""Two digits of a year: 69 to 99 lie in the 1900s, as in POSIX."""

WRITTEN = re.compile(
    r"(?P<one>\d{1,4})(?P<sep>[/.-])(?P<two>\d{1,2})(?P=sep)(?P<three>\d{1,4})"
    r"((?P<gap>[ T]|, )\d{1,2}:\d\d(?P<s>:\d\d(?P<f>\.\d+)?)?(?P<p> ?[AaPp][Mm])?)?"
)
COMPACT = {r"\d{8} \d{6}": "%Y%m%d %H%M%S", r"\d{8} \d{4}": "%Y%m%d %H%M", r"\d{8} \d\d:\d\d": "%Y%m%d %H:%M"}
COMPACT |= {r"\d{8} \d\d:\d\d:\d\d": "%Y%m%d %H:%M:%S"}


@dataclass(frozen=True)
class DateForm:
    """A form in the signs of strptime, of which `DIRECTIVES` are known. `ConfigError` where it is none."""

    text: str

    def __post_init__(self) -> None:
        self.pattern  # noqa: B018  - checked once, here
        found = set(re.findall("%(.)", self.text))
        if not (found & {"Y", "y"} and found & {"m", "b", "B"} and "d" in found) or ("I" in found) != ("p" in found):
            raise ConfigError(
                f"date_format = {self.text!r} is not allowed: it needs a year, a month and a day, and %I with %p, "
                "e.g. --date-format '%d/%m/%Y %H:%M'."
            )

    @property
    def pattern(self) -> str:
        """The regular expression of one whole time."""
        parts: list[str] = re.findall("%.|[^%]|%$", self.text, re.DOTALL)
        names: list[str] = []
        for i, part in enumerate(parts):
            if part[0] != "%" or part == "%%":
                parts[i] = re.escape(part[-1])
                continue
            name = part[1:]
            if name not in DIRECTIVES or name in names:
                known = " ".join(f"%{one}" for one in DIRECTIVES)
                raise ConfigError(f"date_format = {self.text!r} is not allowed: it may hold {known}, each once.")
            beside = i > 0 and parts[i - 1].startswith("(")
            beside |= i + 1 < len(parts) and parts[i + 1][0] == "%"  # without a sign between, each has two digits
            digits = DIRECTIVES[name].replace("{1,2}", "{2}") if beside else DIRECTIVES[name]
            parts[i] = f"(?P<{name}>{digits})"
            names.append(name)
        return "^" + "".join(parts) + "$"

    def to_ns(self, column: pa.Array, label: str, name: str) -> I64:
        """Clock times as if they were UTC. `DataError` for the first text that is of another form or no time."""
        parts = pc.extract_regex(column, self.pattern)
        if parts.null_count:
            raise self._refusal(
                label, name, column, parts.is_valid().to_numpy(zero_copy_only=False), "is of another form"
            )
        at = {field.name: parts.field(field.name) for field in parts.type}
        number = {key: _integers(value) for key, value in at.items() if key not in "bBpf"}
        year = number["Y"] if "Y" in number else number["y"] + np.where(number["y"] < PIVOT, 2000, 1900)
        month = number["m"] if "m" in number else _months(at.get("b", at.get("B")))
        hour = number.get("H", np.zeros(len(column), dtype=np.int64))
        good = (month >= 1) & (month <= 12) & (year >= 1678) & (year < 2262) & (number["d"] >= 1)
        if "I" in number:
            after = pc.equal(pc.utf8_lower(at["p"]), "pm").to_numpy(zero_copy_only=False)
            good &= (number["I"] >= 1) & (number["I"] <= 12)
            hour = number["I"] % 12 + np.where(after, 12, 0)
        months = np.where(good, (year - 1970) * 12 + month - 1, 0)
        first = months.astype("M8[M]").astype("M8[D]").astype(np.int64)
        days = (months + 1).astype("M8[M]").astype("M8[D]").astype(np.int64) - first
        minute, second = (number.get(key, np.zeros_like(hour)) for key in "MS")
        good &= (number["d"] <= days) & (hour < 24) & (minute < 60) & (second < 60)
        if not good.all():
            raise self._refusal(label, name, column, good, "is no time")
        seconds = (((first + number["d"] - 1) * 24 + hour) * 60 + minute) * 60 + second
        return np.asarray(seconds * 10**9 + (_nanoseconds(at["f"]) if "f" in at else 0), dtype=np.int64)

    def _refusal(self, label: str, name: str, column: pa.Array, good: np.ndarray, why: str) -> DataError:
        value = column[int(np.argmin(good))].as_py()
        return DataError(
            f"{label}: column {name!r} holds {value!r}, which {why}; its times were taken for {self.text!r}: one form "
            "a file. Mend the file, or name the form with --date-format."
        )


def forms_of(first: str) -> list[DateForm]:
    """The forms that a file's first time may have; two where day and month may stand either way round."""
    for pattern, text in COMPACT.items():
        if re.fullmatch(pattern, first):
            return [DateForm(text)]
    found = WRITTEN.fullmatch(first)
    if found is None:
        return []
    sep, lengths = found["sep"], (len(found["one"]), len(found["three"]))
    clock = ""
    if found["gap"]:
        space = " " if (found["p"] or "").startswith(" ") else ""
        clock = found["gap"] + ("%I:%M" if found["p"] else "%H:%M") + (":%S" if found["s"] else "")
        clock += (".%f" if found["f"] else "") + (f"{space}%p" if found["p"] else "")
    if lengths[0] == 4 and lengths[1] < 3:
        return [DateForm(f"%Y{sep}%m{sep}%d{clock}")]
    if lengths[0] < 3 and lengths[1] == 4:
        return [DateForm(f"%d{sep}%m{sep}%Y{clock}"), DateForm(f"%m{sep}%d{sep}%Y{clock}")]
    return []


def decide(forms: list[DateForm], columns: Iterable[pa.Array], label: str, name: str) -> DateForm:
    """Day first or month first, by all times of a file: one that can be a day alone tells. `DataError` otherwise."""
    day_first, month_first = forms
    seen = [False, False]
    example = ""
    for column in columns:
        parts = pc.drop_null(pc.extract_regex(column, day_first.pattern))  # other forms are refused when they are read
        for i, key in enumerate("dm"):
            beyond = pc.greater(parts.field(key).cast(pa.int64()), 12)
            seen[i] |= bool(pc.any(beyond).as_py())
        example = example or (column[0].as_py() if len(column) else "")
        if all(seen):
            raise DataError(
                f"{label}: column {name!r} has the day first in some rows and the month first in others: mend the file."
            )
    if not any(seen):
        raise DataError(
            f"{label}: column {name!r} has dates such as {example}, and none of them tells day from month: say which, "
            f"--date-format '{day_first.text}' or --date-format '{month_first.text}'."
        )
    return day_first if seen[0] else month_first


def _integers(column: pa.Array) -> I64:
    return np.asarray(column.cast(pa.int64()).to_numpy(zero_copy_only=False), dtype=np.int64)


def _months(names: pa.Array) -> I64:
    """1 to 12 by name, whole or its first three letters; 0 for none."""
    coded = pc.utf8_lower(names).dictionary_encode()
    numbers = [
        next((i for i, month in enumerate(MONTHS, 1) if name in (month, month[:3])), 0)
        for name in coded.dictionary.to_pylist()
    ]
    found: I64 = np.array(numbers, dtype=np.int64)[coded.indices.to_numpy(zero_copy_only=False)]
    return found


def _nanoseconds(fractions: pa.Array) -> I64:
    return _integers(pc.utf8_rpad(fractions, 9, "0"))
