"""What the pictures of a fleet share: a sheet that is laid out in inches, its title and legend."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from matplotlib.colors import to_rgb
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from fwupdate_helpers.alt_text_figure import AltTextFigure
from fwupdate_helpers.colours import STAGE_COLOURS, STAGE_HATCHES, YELLOW
from fwupdate_helpers.timeline import format_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fwupdate_helpers.fleet_figures.time_scale import Break, TimeScale

WIDTH: Final = 8.6
"""Inches; shown as wide as it is, text of 11 pt is 11 pt."""
MARGIN: Final = 0.16
GREY: Final = "#666666"
LINE: Final = 0.26
"""Inches of a line of the title."""
_LEGEND_LINE: Final = 0.27
_BOLD: Final = FontProperties(weight="bold", size=14)
_PLAIN: Final = FontProperties(size=11)


def stage_colour(name: str) -> str:
    """Return a stage's colour."""
    return STAGE_COLOURS.get(name, YELLOW)


def stage_hatch(name: str) -> str:
    """Return the pattern that tells a stage apart without its colour."""
    return STAGE_HATCHES.get(name, "oo")


def pale(colour: str) -> tuple[float, float, float]:
    """Return a colour that is two thirds white."""
    red, green, blue = (1 - (1 - part) / 3 for part in to_rgb(colour))
    return red, green, blue


class Sheet:
    """One figure with a title, a legend below it, and one pair of axes.

    Args:
        alt_text: What the figure shows, in words.
        title: Its one message; wrapped.
        legend: Handles of the legend, each with a label; wrapped to as many rows as they need.
        height: Inches of the axes.
        left: Inches beside the axes, for the labels of their rows.
        right: Inches on their other side.
        bottom: Inches below them.
        width: Inches of the whole.

    Attributes:
        figure: The figure.
        ax: The axes.
    """

    def __init__(
        self,
        alt_text: str,
        title: str,
        *,
        legend: Sequence[Any],
        height: float,
        left: float = MARGIN,
        right: float = MARGIN,
        bottom: float = 0.62,
        width: float = WIDTH,
    ) -> None:
        words = wrapped(title, width - 2 * MARGIN)
        rows = legend_rows([str(handle.get_label()) for handle in legend], width - 2 * MARGIN)
        top = MARGIN + LINE * (words.count("\n") + 1) + _LEGEND_LINE * len(rows) + 0.1
        whole = top + height + bottom
        self.figure: Figure = AltTextFigure(alt_text, figsize=(width, whole))
        box = (left / width, bottom / whole, (width - left - right) / width, height / whole)
        self.ax: Axes = self.figure.add_axes(box)
        style: dict[str, Any] = {"va": "top", "parse_math": False, "linespacing": 1.25}
        place = MARGIN / width, 1 - 0.1 / whole
        self.figure.text(*place, words, fontsize=14, fontweight="bold", **style)
        below = 0.1 + LINE * (words.count("\n") + 1)
        for number, row in enumerate(rows):
            handles = [legend[at] for at in row]
            y = 1 - (below + _LEGEND_LINE * number) / whole
            self._draw_legend(handles, (MARGIN / width, y))

    def _draw_legend(self, handles: Sequence[Any], place: tuple[float, float]) -> None:
        look: dict[str, Any] = {"frameon": False, "borderpad": 0, "borderaxespad": 0.2}
        look |= {"handlelength": 1.3, "handletextpad": 0.4, "columnspacing": 1.0}
        self.figure.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=place,
            ncols=len(handles),
            fontsize=11,
            **look,
        )

    def dress(self, *, xlabel: str, grid: bool = True) -> None:
        """Give the axes the look that all figures of this kit have."""
        ax = self.ax
        ax.set_xlabel(xlabel, fontsize=12)
        ax.tick_params(labelsize=11, width=1.5)
        ax.tick_params(axis="y", length=0)
        if grid:
            ax.grid(axis="x", color="#DDDDDD", linewidth=1.5)
        ax.set_axisbelow(True)
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.spines["bottom"].set_linewidth(1.5)

    def draw_time_axis(self, scale: TimeScale, *, band: tuple[float, float] | None = None) -> None:
        """Draw the axis of time, with a mark for each pause that is cut out of it.

        Args:
            scale: The axis.
            band: From where to where on the other axis there is room for the pauses' words.
        """
        ticks = scale.ticks
        self.dress(xlabel=f"time since the first update began ({scale.unit})")
        self.ax.set_xticks([place for place, _ in ticks], [words for _, words in ticks])
        margin = 0.01 * (scale.right - scale.left)
        self.ax.set_xlim(scale.left - margin, scale.right + margin)
        low, high = self.ax.get_ylim()
        for cut in scale.breaks:
            self.ax.axvspan(cut.left, cut.right, color="white", zorder=2)
            for x in (cut.left, cut.right):
                self.ax.plot([x, x], [low, high], color=GREY, linewidth=1.5, ls=":", zorder=2.1)
            self._tell_pause(cut, sum(band or (low, high)) / 2)

    def _tell_pause(self, cut: Break, y: float) -> None:
        style: dict[str, Any] = {"fontsize": 11, "color": GREY, "rotation": 90, "zorder": 6}
        style["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        words = f"pause {format_seconds(cut.end - cut.begin)}"
        self.ax.text((cut.left + cut.right) / 2, y, words, ha="center", va="center", **style)


def legend_rows(labels: Sequence[str], width: float) -> list[list[int]]:
    """Lay out legend entries in rows; return the numbers of the entries in each."""
    rows: list[list[int]] = []
    used = width
    for number, words in enumerate(labels):
        need = 0.45 + inches(words)
        if not rows or used + need > width:
            rows.append([])
            used = 0.0
        rows[-1].append(number)
        used += need
    return rows


def inches(text: str, font: FontProperties = _PLAIN) -> float:
    """Return how wide a line of text is drawn; by default in 11 pt."""
    return float(text_to_path.get_text_width_height_descent(text, font, False)[0]) / 72


def text_width(texts: Iterable[str]) -> float:
    """Return the inches that the widest of some texts takes in 11 pt."""
    return max(map(inches, texts), default=0.0)


def wrapped(title: str, width: float) -> str:
    """Wrap a title of bold 14 pt to a width in inches."""
    lines: list[str] = []
    for word in title.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and inches(longer, _BOLD) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def empty(words: str) -> Figure:
    """Return a figure that says why there is nothing to see."""
    lines = textwrap.wrap(words, 84)
    figure = AltTextFigure(words, figsize=(WIDTH, 0.5 + 0.25 * len(lines)))
    style: dict[str, Any] = {"va": "center", "fontsize": 12, "parse_math": False}
    figure.text(0.02, 0.5, "\n".join(lines), **style)
    return figure


def shortened(text: str, letters: int) -> str:
    """Leave out the middle of a text that is too long.

    >>> shortened("jovyan-fleet-0001", 9)
    'jovy…0001'
    """
    if len(text) <= letters:
        return text
    half = (letters - 1) // 2
    return f"{text[:half]}…{text[len(text) - (letters - 1 - half) :]}"


def devices(number: int) -> str:
    """Return ``1 device`` or ``1,000 devices``."""
    return "1 device" if number == 1 else f"{number:,} devices"


def percent(share: float) -> str:
    """Return a share in percent, with a decimal where it is needed.

    >>> percent(0.012), percent(0.5), percent(0.0004)
    ('1.2 %', '50 %', '0.04 %')
    """
    value = 100 * share
    return f"{value:.0f} %" if value >= 10 or value == 0 else f"{value:.2g} %"
