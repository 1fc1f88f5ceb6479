"""Okabe and Ito's palette, told apart by all eyes, and the badge that shows a state with it.

It imports nothing of this package: the check of a machine needs it on every Python.
"""

from __future__ import annotations

from html import escape
from typing import Final

BLUE: Final = "#0072B2"
SKY: Final = "#56B4E9"
GREEN: Final = "#009E73"
ORANGE: Final = "#E69F00"
PURPLE: Final = "#CC79A7"
VERMILLION: Final = "#D55E00"
YELLOW: Final = "#F0E442"
PALE: Final = "#E8E8E8"
"""For what has no state yet; not of the palette."""

_TEXT_ON: Final = {BLUE: "#FFFFFF"}
"""The colour of a text on a ground; black on all others."""


def badge(marker: str, word: str, ground: str) -> str:
    """Return HTML for a state: colour, marker and word, because no reader sees all three.

    >>> badge("●", "ok", BLUE).count("● ok")
    1
    """
    return (
        f'<span style="background:{ground};color:{_TEXT_ON.get(ground, "#000000")};'
        'padding:2px 8px;border-radius:3px;font-weight:bold;white-space:nowrap">'
        f"{escape(marker)} {escape(word)}</span>"
    )
