"""ATC over whole markets: one exact state machine, the same bits on every backend.

Start reading at `atc_backtest.reference`: the algorithm, paragraph by paragraph.
"""

from __future__ import annotations

__version__ = "0.1.0"
