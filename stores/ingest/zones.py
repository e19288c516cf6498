"""Local clock times to instants and back, whole arrays at once, by the zone's own changes of offset."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from atc_backtest.errors import ConfigError
from atc_backtest.stores.base import I64

SECOND_NS = 10**9
DAY_S = 86_400
NEVER_NS = np.iinfo(np.int64).max
WIDENED_NS = 1500 * DAY_S * SECOND_NS
"""A clock is worked out for whole pieces of so much: sorted files ask for a little more with every batch."""


def load_zone(name: str) -> ZoneInfo:
    """The IANA zone `name`; `ConfigError` when there is none."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # OSError: a folder of zones, as America is
        raise ConfigError(
            f"tz = {name!r} is not a known time zone: give an IANA name, e.g. UTC, America/New_York or Europe/Berlin."
        ) from error


@dataclass(frozen=True)
class Clock:
    """A zone's clock over a span of time: offset[i] holds from instant at[i - 1] to at[i], all in ns."""

    at: I64
    offset: I64

    def to_utc(self, local: I64) -> tuple[I64, NDArray[np.bool_]]:
        """Instants of local clock times, and which of them exist. Times the clock shows twice: the earlier."""
        earlier = np.searchsorted(self.at + self.offset[:-1], local, side="right")
        later = np.searchsorted(self.at + self.offset[1:], local, side="right")
        return local - self.offset[earlier], later >= earlier

    def to_local(self, utc: I64) -> I64:
        """What the clock shows at instants."""
        shown: I64 = utc + self.offset[np.searchsorted(self.at, utc, side="right")]
        return shown

    def repeats(self) -> tuple[I64, I64]:
        """Instants [start, stop) whose clock times come again, stop - start later."""
        back = self.offset[:-1] - self.offset[1:]
        falls = back > 0
        return self.at[falls] - back[falls], self.at[falls]


class Zone:
    """A zone by name. Keeps the clock it has worked out and widens it as times ask for, of any thread."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._zone = load_zone(name)
        self._lock = threading.Lock()
        self._span = (0, 0)
        self._clock = _clock(self._zone, 0, 0)

    def clock(self, times: I64) -> Clock:
        """The clock for all of `times`, int64 ns, local or UTC."""
        if times.size:
            first, last = int(times.min()), int(times.max())
            with self._lock:
                start = min(first - first % WIDENED_NS, self._span[0])
                stop = max(last - last % -WIDENED_NS, self._span[1])
                if (start, stop) != self._span:
                    self._clock, self._span = _clock(self._zone, start, stop), (start, stop)
                return self._clock
        return self._clock


def _clock(zone: ZoneInfo, start_ns: int, stop_ns: int) -> Clock:
    """Covers two days more on both sides, within int64: local times are less than a day from their instants."""
    low = max(start_ns // SECOND_NS - 2 * DAY_S, -NEVER_NS // SECOND_NS + DAY_S)
    high = min(stop_ns // SECOND_NS + 2 * DAY_S, NEVER_NS // SECOND_NS - DAY_S)
    days = range(low, high + 1, DAY_S)
    offsets = [_offset_s(zone, day) for day in days]
    changes = [i for i in range(1, len(days)) if offsets[i] != offsets[i - 1]]
    at = [_change_s(zone, days[i - 1], days[i]) for i in changes]
    kept = [offsets[0], *(offsets[i] for i in changes)]
    return Clock(np.array(at, dtype=np.int64) * SECOND_NS, np.array(kept, dtype=np.int64) * SECOND_NS)


def _offset_s(zone: ZoneInfo, instant_s: int) -> int:
    offset = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=instant_s)).astimezone(zone).utcoffset()
    return 0 if offset is None else round(offset.total_seconds())


def _change_s(zone: ZoneInfo, low: int, high: int) -> int:
    """The second in (low, high] at which the offset of `high` begins."""
    new = _offset_s(zone, high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _offset_s(zone, middle) == new else (middle, high)
    return high
