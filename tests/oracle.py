"""Other people's programs, asked for by tests only."""

from __future__ import annotations

import warnings
from types import ModuleType

import pytest


def oracle(name: str) -> ModuleType:
    """Import with its own warnings silenced: they are not about this package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"{name} is an oracle of the dev extra: pip install -e '.[dev]'")
