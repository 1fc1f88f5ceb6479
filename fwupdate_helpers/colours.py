"""The colours of figures and widgets: Okabe and Ito's palette, told apart by all eyes."""

from __future__ import annotations

from typing import Final

from fwupdate_helpers import contract

BLUE: Final = "#0072B2"
SKY: Final = "#56B4E9"
GREEN: Final = "#009E73"
ORANGE: Final = "#E69F00"
PURPLE: Final = "#CC79A7"
VERMILLION: Final = "#D55E00"
YELLOW: Final = "#F0E442"

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
