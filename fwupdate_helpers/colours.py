"""The colours of figures and widgets: which one is which stage."""

from __future__ import annotations

from typing import Final

from fwupdate_helpers import contract
from fwupdate_helpers.palette import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION, YELLOW

STAGE_COLOURS: Final = {
    contract.WAITING: SKY,
    contract.DOWNLOADING: BLUE,
    contract.VERIFYING: GREEN,
    contract.APPLYING: ORANGE,
    contract.REBOOTING: PURPLE,
}

STAGE_HATCHES: Final = {
    contract.WAITING: "",
    contract.DOWNLOADING: "//",
    contract.VERIFYING: "..",
    contract.APPLYING: "\\\\",
    contract.REBOOTING: "xx",
}
"""A second sign beside the colour, for areas that are large enough to show it."""

__all__ = [
    "BLUE",
    "GREEN",
    "ORANGE",
    "PURPLE",
    "SKY",
    "STAGE_COLOURS",
    "STAGE_HATCHES",
    "VERMILLION",
    "YELLOW",
]
