"""What every command shares: refusals and interruptions end it with their exit code and a sentence."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from atc_backtest.errors import AtcError

P = ParamSpec("P")
R = TypeVar("R")

REFUSED, PARTIAL, INTERRUPTED = 3, 4, 130


def _say_what_takes_long() -> None:
    """What the package logs for people who wait, such as compiling, goes to stderr."""
    import logging

    class ToStderr(logging.Handler):
        """Wherever stderr leads when something is said."""

        def emit(self, record: logging.LogRecord) -> None:
            print(record.getMessage(), file=sys.stderr)

    logger = logging.getLogger("atc_backtest")
    if not logger.handlers:
        logger.addHandler(ToStderr())
        logger.setLevel(logging.INFO)
        logger.propagate = False


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Errors that are meant for people end a command as such, not as a traceback."""

    @functools.wraps(command)
    def guard(*args: P.args, **kwargs: P.kwargs) -> R:
        _say_what_takes_long()
        try:
            return command(*args, **kwargs)
        except AtcError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(REFUSED) from error
        except KeyboardInterrupt:
            print("interrupted.", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None
        except BrokenPipeError:  # the reader of our output left, as `head` does
            sys.stderr.close()
            raise SystemExit(0) from None

    return guard
