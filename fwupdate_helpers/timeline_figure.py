"""The figure of a timeline."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from fwupdate_helpers import contract
from fwupdate_helpers.alt_text_figure import AltTextFigure
from fwupdate_helpers.colours import STAGE_COLOURS, VERMILLION, YELLOW
from fwupdate_helpers.reported import Stage
from fwupdate_helpers.timeline import offset_words, retries_told

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

    from fwupdate_helpers.timeline import UpdateTimeline

_BAD_END_MARKERS: Final = {contract.ERROR: "X", contract.ROLLED_BACK: "<"}
_EDGE: Final[dict[str, Any]] = {"edgecolor": "black", "linewidth": 2}
_HUB_LINE: Final[dict[str, Any]] = {"color": "black", "linewidth": 2, "marker": "D"}
_RETRY: Final[dict[str, Any]] = {
    "linestyle": "none",
    "marker": "v",
    "markersize": 9,
    "markerfacecolor": VERMILLION,
    "markeredgecolor": "black",
    "markeredgewidth": 1.5,
}
_HUB_MARK: Final[dict[str, Any]] = {"markersize": 7, "markeredgewidth": 2, "mfc": "white"}


def draw(
    timeline: UpdateTimeline,
    ax: Axes | None = None,
    *,
    title: str | None = None,
    to_come: Sequence[str] = (),
    retries: Iterable[datetime] = (),
) -> Figure:
    """Draw a timeline; `UpdateTimeline.plot` tells how.

    Args:
        timeline: The update.
        ax: The axes to draw on; without them a new figure is made.
        title: Another title than the timeline's own.
        to_come: Names of stages that have not begun: each has an empty row, so that the rows keep
            their places while the update runs.
        retries: When the service tried again (its clock, UTC).
    """
    marks = tuple(retries)
    if ax is None:
        size = (8, 2 + 0.72 * (len(timeline.stages) + len(to_come)))
        layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.15)
        alt_text = timeline.alt_text + retries_told(len(marks))
        ax = AltTextFigure(alt_text, figsize=size, layout=layout).add_subplot()
    _Drawing(timeline, ax, title or timeline.title, to_come, marks).draw()
    figure: Figure = ax.figure.figure  # the root figure, where ax lies in a subfigure
    return figure


def draw_together(
    timelines: Mapping[str, UpdateTimeline], retries: Mapping[str, Iterable[datetime]]
) -> Figure:
    """Draw timelines below each other on one axis; `plot_timelines` tells how."""
    marks = {name: tuple(retries.get(name, ())) for name in timelines}
    titles = {name: f"{name}: {_lower(timeline.title)}" for name, timeline in timelines.items()}
    told = (
        f"{name}: {each.alt_text}{retries_told(len(marks[name]))}"
        for name, each in timelines.items()
    )
    rows = [len(timeline.stages) for timeline in timelines.values()]
    figure = AltTextFigure(
        " ".join(told),
        figsize=(8, sum(2 + 0.72 * number for number in rows)),
        layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.15),
    )
    axes = figure.subplots(len(rows), squeeze=False, height_ratios=[2 + number for number in rows])
    drawings = [
        _Drawing(timeline, ax, titles[name], (), marks[name])
        for ax, (name, timeline) in zip(axes[:, 0], timelines.items(), strict=True)
    ]
    longest = max(drawings, key=lambda drawing: drawing.span)
    for drawing in drawings:
        drawing.unit, drawing.unit_name = longest.unit, longest.unit_name
        drawing.draw()
    limits = [drawing.ax.get_xlim() for drawing in drawings]
    for drawing in drawings:
        drawing.ax.set_xlim(min(left for left, _ in limits), max(right for _, right in limits))
    return figure


def _lower(title: str) -> str:
    return title[:1].lower() + title[1:]


class _Drawing:
    """One timeline on one pair of axes."""

    def __init__(
        self,
        timeline: UpdateTimeline,
        ax: Axes,
        title: str,
        to_come: Sequence[str],
        retries: tuple[datetime, ...],
    ) -> None:
        self.timeline, self.ax, self.title, self.retries = timeline, ax, title, retries
        self.rows = [*(stage.name for stage in timeline.stages), *to_come]
        self.offset = timeline.hub_offset
        ends = max(self._end(stage) for stage in timeline.stages)
        self.span = ends if ends > 0.0005 else 0.001 if timeline.outcome else 1.0
        self.aligned = abs(self.offset or 0) > self.span / 2
        self.unit, self.unit_name = (60.0, "min") if self.span >= 180 else (1.0, "s")

    def draw(self) -> None:
        labels = [self._draw_stage(row, stage) for row, stage in enumerate(self.timeline.stages)]
        self._draw_retries()
        self._draw_axis()
        self._draw_legend()
        self._fit(labels)

    def _at(self, moment: datetime) -> float:
        return (moment - self.timeline.stages[0].started_at).total_seconds()

    def _end(self, stage: Stage) -> float:
        """Return a stage's end, or when the hub last heard of it, by the device's clock."""
        if stage.ended_at:
            return self._at(stage.ended_at)
        start, heard = self._at(stage.started_at), self.timeline.heard_at
        if heard is None or self.offset is None:
            return start
        return max(start, self._at(heard) - self.offset)

    def _draw_stage(self, row: int, stage: Stage) -> Annotation:
        y = row if self.offset is None else row - 0.12
        start, end = self._at(stage.started_at) / self.unit, self._end(stage) / self.unit
        colour = STAGE_COLOURS.get(stage.name, YELLOW)
        self.ax.barh(y, max(end - start, 0), left=start, height=0.44, color=colour, **_EDGE)
        if stage.ended_at is None:
            end = self._draw_open_end(end, y)
        self._draw_hub_clock(row + 0.28, stage)
        gap = 16 if self._draw_bad_end(stage, end, y) else 8
        text: dict[str, Any] = {"va": "center", "fontsize": 12, "in_layout": False}
        text["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        words = self.timeline.describe(stage).replace(": ", ":\n")
        return self.ax.annotate(words, (end, y), (gap, 0), textcoords="offset points", **text)

    def _draw_open_end(self, start: float, y: float) -> float:
        """Hatch what nobody knows yet, without a closing edge."""
        end = start + 0.12 * self.span / self.unit
        ground: dict[str, Any] = {"facecolor": "white", "edgecolor": "#555555", "linewidth": 0}
        self.ax.barh(y, end - start, left=start, height=0.44, hatch="////", zorder=0.9, **ground)
        self.ax.hlines([y - 0.22, y + 0.22], start, end, color="black", linewidth=2)
        return end

    def _draw_bad_end(self, stage: Stage, x: float, y: float) -> bool:
        if stage is not self.timeline.stages[-1] or self.timeline.outcome not in _BAD_END_MARKERS:
            return False
        style: dict[str, Any] = {"color": VERMILLION, "markeredgecolor": "black", "clip_on": False}
        style |= {"marker": _BAD_END_MARKERS[self.timeline.outcome], "markersize": 15}
        self.ax.plot([x], [y], markeredgewidth=1.5, **style)
        return True

    def _hub_at(self, moment: datetime) -> float:
        """Return the place of a moment of the hub's or the service's clock."""
        shift = self.offset if self.offset and self.aligned else 0.0
        return (self._at(moment) - shift) / self.unit

    def _draw_retries(self) -> None:
        if self.retries:
            xs = [self._hub_at(moment) for moment in self.retries]
            self.ax.plot(xs, [-0.42] * len(xs), clip_on=False, **_RETRY)

    def _draw_hub_clock(self, y: float, stage: Stage) -> None:
        moments = [moment for moment in (stage.hub_started_at, stage.hub_ended_at) if moment]
        xs = [self._hub_at(moment) for moment in moments]
        self.ax.plot(xs, [y] * len(xs), clip_on=False, **_HUB_LINE, **_HUB_MARK)

    def _draw_axis(self) -> None:
        ax, rows = self.ax, self.rows
        ax.set_yticks(range(len(rows)), rows, fontsize=12)
        for label in ax.get_yticklabels()[len(self.timeline.stages) :]:
            label.set_color("#666666")
        ax.set_ylim(len(rows) - 0.45, -0.5)
        ax.set_xlabel(f"time since the update began ({self.unit_name})", fontsize=12)
        ax.tick_params(axis="x", labelsize=11, width=1.5)
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x", color="#DDDDDD", linewidth=1.5)
        ax.set_axisbelow(True)
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.spines["bottom"].set_linewidth(1.5)

    def _draw_legend(self) -> None:
        handles: list[Any] = [Patch(facecolor="#BBBBBB", label="device clock", **_EDGE)]
        if self.offset is not None:
            words = offset_words(self.offset) + (", drawn aligned" if self.aligned else "")
            label = f"hub clock ({words})"
            handles.append(Line2D([], [], label=label, **_HUB_LINE, **_HUB_MARK))
        if self.retries:
            words = f"retry ({len(self.retries)})"
            handles.append(Line2D([], [], label=words, **_RETRY))
        place: dict[str, Any] = {"bbox_to_anchor": (0, 1), "borderaxespad": 0.3, "borderpad": 0}
        style: dict[str, Any] = {"ncols": 3, "columnspacing": 1.2, "fontsize": 11, "frameon": False}
        legend = self.ax.legend(handles=handles, loc="lower left", **place, **style)
        legend.set_in_layout(False)  # the title's pad keeps its place; its width shall cost none

    def _fit(self, labels: list[Annotation]) -> None:
        """Wrap the title, and widen the axis until every label fits beside its bar."""
        ax, full = self.ax, self.span / self.unit
        ax.figure.figure.draw_without_rendering()  # lays the axes out, so that they have a size
        width, dpi = ax.get_window_extent().width, ax.figure.dpi
        left = min(ax.dataLim.x0, 0) - 0.015 * full
        right = max(ax.dataLim.x1, full) + 0.03 * full
        for label in labels:
            free = width - label.get_window_extent().width - 0.3 * dpi
            right = max(right, left + (label.xy[0] - left) * width / max(free, 0.3 * width))
        ax.set_xlim(left, right)
        characters = int(width / dpi * 72 / 8.4)  # of bold text in 14 pt
        title = textwrap.fill(self.title, max(16, characters))
        ax.set_title(title, loc="left", fontsize=14, fontweight="bold", pad=28)
