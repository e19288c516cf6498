"""`python -m atc_backtest` is `atc-backtest`."""

from atc_backtest.cli import main

main()
