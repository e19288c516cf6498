"""What can go wrong, as few types: each says what was found, what is allowed and what to do."""

from __future__ import annotations


class AtcError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(AtcError, ValueError):
    """A setting is unknown, out of range or contradicts another one."""


class DataError(AtcError, ValueError):
    """Prices or files are not what they must be: bad values, wrong shape, unreadable, damaged."""


class StoreError(AtcError, OSError):
    """A store or run folder is missing, of another version, in the way, or cannot be written."""


class UnavailableError(AtcError, ImportError):
    """An optional part (kernel, extra) is not installed here; the message names the remedy."""
