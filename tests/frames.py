"""The same prices of a few symbols for tests of the Python API: what pandas holds, and the bits behind it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from prices import NAN, tick_walk

SYMBOLS = ("AAA", "BBB", "CCC")
INDEX = pd.date_range("2024-01-01", periods=300, freq="h", tz="UTC")
CLOSES = np.stack([tick_walk(300, seed) for seed in range(3)])
CLOSES[1, :40] = NAN
CLOSES[2, [5, 77, 250]] = NAN
WIDE = pd.DataFrame(CLOSES.T, INDEX, SYMBOLS)
SERIES = ("trades", "signals", "equity")
COSTS = {"fee_bps": 4, "slippage_bps": 1}
