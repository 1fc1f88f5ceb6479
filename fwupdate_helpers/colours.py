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

__all__ = [
    "BLUE",
    "GREEN",
    "ORANGE",
    "PURPLE",
    "SKY",
    "STAGE_COLOURS",
    "VERMILLION",
    "YELLOW",
]
