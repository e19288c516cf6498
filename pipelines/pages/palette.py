"""Colours of data, read on white and on near-black alike: each keeps a contrast of at least 3:1 with both."""

from __future__ import annotations

STRATEGY = "#2f81d8"
HOLD = "#8a7f6d"
LOSS = "#d9504a"
GAIN = "#2b9a66"
SIGNAL = "#9a66d6"
FAMILY_COLOURS = ("#2f81d8", "#c9731a", "#2b9a66", "#c6538c", "#9a66d6", "#17929e")
"""In the order of `config.FAMILIES`."""

DIVERGING = ("#c43c39", "#d9706b", "#d9a5a1", "#98a0a8", "#9cc4ae", "#55ad82", "#1f8f5c")
"""From -1 over 0 to 1."""

PAPER, NIGHT = "#ffffff", "#11161d"
"""The grounds they lie on."""


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb`, 0 to 1. Source: WCAG 2.2."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast of two colours, 1 to 21. Source: WCAG 2.2."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
