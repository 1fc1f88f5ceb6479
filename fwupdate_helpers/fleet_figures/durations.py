"""How long the stages took: every device as a dot while they are few, else their distribution."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any, Final

from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from fwupdate_helpers import contract
from fwupdate_helpers.colours import VERMILLION
from fwupdate_helpers.fleet_figures.sheet import (
    MARGIN,
    Sheet,
    empty,
    stage_colour,
    stage_hatch,
    text_width,
)
from fwupdate_helpers.fleet_view import COMPLETED, FleetRow
from fwupdate_helpers.timeline import format_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WHOLE: Final = "whole update"
MOST_DOTS: Final = 30
"""Up to so many devices, each is a dot: a few values have no distribution."""
_LEAST: Final = 0.001
"""Seconds: what the twin's times can tell apart, and where an axis of powers of ten begins."""
_WIDE: Final = 40
"""The axis has powers of ten when the longest is so many times the shortest stage's median."""
_BINS: Final = 36
_ROW: Final = 0.74
_FAILED: Final[dict[str, Any]] = {
    "marker": "X",
    "markersize": 8,
    "linestyle": "none",
    "markerfacecolor": VERMILLION,
    "markeredgecolor": "black",
    "markeredgewidth": 1.0,
    "zorder": 5,
}


@dataclass
class StageDurations:
    """How long one stage took, on all devices.

    Attributes:
        name: The stage, or ``whole update``.
        seconds: Of devices that came through it, by their own clocks, sorted.
        failed: Seconds until it failed, of the others.
        impossible: Devices whose clock was set back meanwhile; their times tell nothing.
    """

    name: str
    seconds: list[float] = field(default_factory=list)
    failed: list[float] = field(default_factory=list)
    impossible: int = 0

    def add(self, seconds: float, *, failed: bool = False) -> None:
        """Add one device."""
        if seconds < 0:
            self.impossible += 1
        else:
            (self.failed if failed else self.seconds).append(seconds)

    @property
    def words(self) -> str:
        """The numbers, in words; of a few devices no more than they can tell."""
        number, failed = len(self.seconds), f"{len(self.failed):,} failed"
        if not number:
            return failed
        if number <= 2:
            told = " and ".join(map(format_seconds, self.seconds))
        else:
            last = f"longest {format_seconds(self.seconds[-1])}"
            if number > MOST_DOTS:
                last = f"95 % within {format_seconds(quantiles(self.seconds, n=20)[-1])}"
            told = f"median {format_seconds(median(self.seconds))}, {last}"
        return told + (f"; {failed}" if self.failed else "")


def measure_stages(rows: Iterable[FleetRow]) -> list[StageDurations]:
    """Collect how long each stage took, by the devices' own clocks, and the whole of the updates.

    A stage that runs still has no duration. One that failed is kept apart from the others.
    """
    found: dict[str, StageDurations] = {}
    whole = StageDurations(WHOLE)
    for row in rows:
        stages = row.timeline.stages if row.timeline else ()
        for stage in stages:
            if stage.seconds is not None:
                each = found.setdefault(stage.name, StageDurations(stage.name))
                each.add(stage.seconds, failed=row.has_failed and stage is stages[-1])
        if row.state == COMPLETED and row.timeline and row.timeline.seconds is not None:
            whole.add(row.timeline.seconds)
    names = [*contract.STAGES, *sorted(set(found) - set(contract.STAGES))]
    measured = [found[name] for name in names if name in found]
    for each in (*measured, whole):
        each.seconds.sort()
        each.failed.sort()
    return [*measured, *([whole] if whole.seconds else [])]


def plot_durations(rows: Sequence[FleetRow], *, title: str | None = None) -> Figure:
    """Draw how long the stages took.

    Up to 30 devices are dots. More are a histogram for each stage, with a box from the first to
    the third quartile and the median in it. Failures are marks of their own.

    Args:
        rows: The fleet, from `read_fleet`.
        title: The figure's message; by default it tells of the whole update.

    Returns:
        A figure with alt text, made without pyplot. A fleet without a finished stage makes one that
        says so.

    Example:
        >>> plot_durations(read_fleet(hub, "tags.fleet = 'fleet'"))  # doctest: +SKIP
    """
    measured = measure_stages(rows)
    if not any(each.seconds or each.failed for each in measured):
        return empty("No stage has ended on any device yet, so there is nothing to measure.")
    title = title or _title(measured)
    return _Durations(measured).draw(title)


def _title(measured: Sequence[StageDurations]) -> str:
    whole = measured[-1]
    if whole.name != WHOLE:
        return "No update has completed; the stages that have ended"
    number = len(whole.seconds)
    if number == 1:
        return f"The update that completed took {format_seconds(whole.seconds[0])}"
    half = format_seconds(median(whole.seconds))
    return f"Half of the {number:,} completed updates took {half} or less"


class _Durations:
    """The rows of the stages on their common axis."""

    def __init__(self, measured: Sequence[StageDurations]) -> None:
        self.measured = measured
        self.are_dots = max(len(each.seconds) for each in measured) <= MOST_DOTS
        every = [seconds for each in measured for seconds in (*each.seconds, *each.failed)]
        middles = [median(each.seconds) for each in measured if each.seconds]
        self.most = max(*every, 10 * _LEAST)
        self.is_log = self.most > _WIDE * max(_LEAST, min(middles, default=self.most))
        self.least = max(_LEAST, min(every)) if self.is_log else 0.0
        longest = self.most
        self.unit, self.unit_name = (
            (1.0, "s") if longest < 600 else (60.0, "min") if longest < 36_000 else (3600.0, "h")
        )

    def draw(self, title: str) -> Figure:
        names, words = [each.name for each in self.measured], [each.words for each in self.measured]
        lines = [text.replace(", ", "\n").replace("; ", "\n") for text in words]
        widest = text_width(line for text in lines for line in text.split("\n"))
        told = "; ".join(f"{name}: {text}" for name, text in zip(names, words, strict=True))
        sheet = Sheet(
            f"{title}. By the devices' clocks, {told}.{self._impossible}",
            title,
            legend=self._legend(),
            height=_ROW * len(names) + 0.1,
            left=text_width(names) + MARGIN + 0.15,
            right=widest + MARGIN + 0.15,
        )
        self.ax: Axes = sheet.ax
        self.ax.set_ylim(len(names) - 0.42, -0.58)
        self._set_scale()
        for y, each in enumerate(self.measured):
            self._draw(y, each)
            style: dict[str, Any] = {"va": "center", "fontsize": 11, "linespacing": 1.1}
            self.ax.text(1.015, y, lines[y], transform=self.ax.get_yaxis_transform(), **style)
        scale = ", logarithmic axis" if self.is_log else ""
        sheet.dress(xlabel=f"duration by the device's clock ({self.unit_name}{scale})")
        self.ax.set_yticks(range(len(names)), names, fontsize=12, parse_math=False)
        return sheet.figure

    def _set_scale(self) -> None:
        ax, least, most = self.ax, self.least / self.unit, self.most / self.unit
        if self.is_log:
            ax.set_xscale("log")
            ax.set_xlim(least / 1.3, most * 1.3)
            decades = math.log10(most / least)
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)))
            ax.xaxis.set_minor_locator(NullLocator())
        else:
            ax.set_xlim(-0.015 * most, 1.03 * most)
            ax.xaxis.set_major_locator(MaxNLocator(nbins=6))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))

    def _draw(self, y: int, each: StageDurations) -> None:
        values = self._places(each.seconds)
        if self.are_dots:
            self._draw_dots(y, each.name, values)
        elif values:
            self._draw_histogram(y, each.name, values)
        if each.failed:
            few = len(each.failed) <= MOST_DOTS
            size = {"markersize": 8 if few else 6, "markeredgewidth": 1.0 if few else 0.4}
            xs = self._places(each.failed)
            self.ax.plot(xs, [y + 0.33] * len(xs), **_FAILED | size)

    def _places(self, seconds: Iterable[float]) -> list[float]:
        return [max(self.least, each) / self.unit for each in seconds]

    def _draw_dots(self, y: int, name: str, values: Sequence[float]) -> None:
        heights = [y + 0.07 * (at % 5 - 2) for at in range(len(values))]
        look: dict[str, Any] = {"markerfacecolor": _colour(name), "markeredgecolor": "black"}
        self.ax.plot(values, heights, "o", markersize=7, zorder=4, **look)
        if len(values) > 2:
            self.ax.plot([median(values)] * 2, [y - 0.25, y + 0.25], color="black", lw=2, zorder=3)

    def _draw_histogram(self, y: int, name: str, values: Sequence[float]) -> None:
        edges, counts = self._histogram(values)
        ground = y + 0.06
        tops = [ground - 0.5 * number / max(counts) for number in counts]
        look: dict[str, Any] = {"facecolor": _colour(name), "edgecolor": "black", "linewidth": 0.6}
        look |= {"hatch": stage_hatch(name) if name != WHOLE else None, "zorder": 3}
        self.ax.fill_between(edges, ground, [*tops, tops[-1]], step="post", label=name, **look)
        first, half, third = quantiles(values, n=4)
        box = y + 0.14
        self.ax.plot([first, third], [box, box], color="black", lw=5, zorder=4)
        self.ax.plot([half], [box], "o", ms=8, mfc="white", mec="black", mew=2, zorder=4.5)

    def _histogram(self, values: Sequence[float]) -> tuple[list[float], list[int]]:
        """Return the edges and the counts of bins that are equally wide on the axis."""
        convert = math.log if self.is_log else float
        low, high = convert(self.least / self.unit), convert(self.most / self.unit)
        width = (high - low) / _BINS
        counts = [0] * _BINS
        for value in values:
            counts[min(_BINS - 1, int((convert(value) - low) / width))] += 1
        places = [low + at * width for at in range(_BINS + 1)]
        return [math.exp(place) if self.is_log else place for place in places], counts

    def _legend(self) -> list[Any]:
        dot: dict[str, Any] = {"marker": "o", "ls": "none", "mec": "black"}
        if self.are_dots:
            handles: list[Any] = [Line2D([], [], label="one device", ms=7, mfc="white", **dot)]
            if any(len(each.seconds) > 2 for each in self.measured):
                handles.append(Line2D([], [], label="median", color="black", lw=2))
        else:
            handles = [Patch(label="share of the devices", fc="#BBBBBB", ec="black")]
            handles.append(Line2D([], [], label="half of them", color="black", lw=5))
            handles.append(Line2D([], [], label="median", ms=8, mfc="white", mew=2, **dot))
        if any(each.failed for each in self.measured):
            handles.append(Line2D([], [], label="until it failed", **_FAILED))
        return handles

    @property
    def _impossible(self) -> str:
        number = sum(each.impossible for each in self.measured)
        return f" Left out: {number:,} with a clock that was set back meanwhile." if number else ""


def _colour(name: str) -> str:
    return "#BBBBBB" if name == WHOLE else stage_colour(name)
