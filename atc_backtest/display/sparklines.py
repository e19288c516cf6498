"""A series in one line of text."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int, logarithmic: bool = False) -> str:
    """Up to `width` characters: the last value of each of so many equal pieces, from the lowest block to the highest.

    `logarithmic`: heights go by the logarithm, values that have none are lowest. A level
    series is lowest throughout. No text for an empty one, and where the output cannot show the blocks.
    """
    if not values or not _can_show():
        return ""
    n = min(width, len(values))
    picked = [float(values[(at + 1) * len(values) // n - 1]) for at in range(n)]
    if logarithmic:
        least = min((value for value in picked if value > 0), default=1.0)
        picked = [math.log(max(value, least)) for value in picked]
    low, high = min(picked), max(picked)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((value - low) * scale)] for value in picked)


def _can_show() -> bool:
    try:
        BLOCKS.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
