"""From a device twin to the stages of its firmware update, and to a figure of them.

Every stage carries two clocks: the times that the device reported, and the times at which the hub
received them (`$lastUpdated` in the twin's `$metadata`). Only `UpdateTimeline.plot` imports
matplotlib.
"""

from __future__ import annotations

import functools
import re
import textwrap
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

from . import contract
from .errors import FirmwareUpdateError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

# Okabe and Ito's palette, in the usual order of the stages.
_COLOURS: Final = {
    contract.WAITING: "#56B4E9",
    contract.DOWNLOADING: "#0072B2",
    "verifying": "#009E73",
    contract.APPLYING: "#E69F00",
    "rebooting": "#CC79A7",
}
_ORDER: Final = tuple(_COLOURS)
_OTHER_COLOUR: Final = "#F0E442"
_BAD_ENDS: Final = {contract.ERROR: ("failed", "X"), contract.ROLLED_BACK: ("rolled back", "<")}
_EDGE: Final[dict[str, Any]] = {"edgecolor": "black", "linewidth": 2}
_HUB_LINE: Final[dict[str, Any]] = {"color": "black", "linewidth": 2, "marker": "D"}
_HUB_MARK: Final[dict[str, Any]] = {"markersize": 7, "markeredgewidth": 2, "mfc": "white"}


@dataclass(frozen=True)
class Stage:
    """One stage of an update. An end is None while the stage is unfinished.

    Attributes:
        name: The stage's name in the twin, for example ``downloading``.
        started_at: The start by the device's clock.
        ended_at: The end by the device's clock.
        hub_started_at: When the hub received the start; None where the twin does not tell.
        hub_ended_at: When the hub received the end.
    """

    name: str
    started_at: datetime
    ended_at: datetime | None = None
    hub_started_at: datetime | None = None
    hub_ended_at: datetime | None = None

    @property
    def seconds(self) -> float | None:
        """How long the stage took by the device's clock."""
        return None if self.ended_at is None else (self.ended_at - self.started_at).total_seconds()


@dataclass(frozen=True)
class ReportedError:
    """The error that a device reported in `firmwareUpdate.error`."""

    code: str
    message: str


@dataclass(frozen=True)
class UpdateTimeline:
    """The stages of one update, in the order in which they began.

    Attributes:
        device_id: The device's id; None where the twin does not tell (a device-side twin).
        update_id: The service's id of the update; None on the device of Azure's tutorial.
        status: The reported `firmwareStatus`.
        outcome: ``completed``, ``error``, ``rolledback``, or None before the end.
        stages: The stages that have begun, at least one.
        error: The reported error, if any.
        heard_at: When the hub last received anything about the update (hub clock).

    Example:
        >>> stages = {"downloading": {"startedAt": "2026-05-04T12:30:00.000Z",
        ...                           "endedAt": "2026-05-04T12:30:05.100Z"}}
        >>> twin = {"deviceId": "device-01", "properties": {"reported": {
        ...     "firmwareStatus": "completed", "firmwareUpdate": {"stages": stages}}}}
        >>> UpdateTimeline.from_twin(twin).title
        'Update completed in 5.1 s: device-01'
    """

    device_id: str | None
    update_id: str | None
    status: str
    outcome: str | None
    stages: tuple[Stage, ...]
    error: ReportedError | None = None
    heard_at: datetime | None = None

    @classmethod
    def from_twin(cls, twin: object) -> UpdateTimeline:
        """Read the update that a device twin tells of.

        The device of Azure's tutorial reports four naive timestamps and no `firmwareUpdate`. They
        are read in this computer's time zone. Its `downloadComplete` is the start of the download,
        and its wait counts from `logTime`, when the device app started.

        Args:
            twin: A Twin of the service SDK, the same as a dictionary (the JSON of the REST
                interface), or the twin that the device SDK returns.

        Raises:
            FirmwareUpdateError: The twin tells of no update.
            TypeError: `twin` is no twin.
        """
        device_id, reported = _reported_of(twin)
        stages = _read_stages(reported)
        if not stages:
            raise FirmwareUpdateError(
                f"The twin of {device_id or 'this device'} tells of no update yet. Invoke the "
                f"direct method {contract.METHOD} on the device, then read its twin again."
            )
        return cls(
            device_id=device_id,
            update_id=_dict(reported, contract.UPDATE).get(contract.UPDATE_ID),
            status=str(reported.get(contract.STATUS, "")),
            outcome=update_outcome(reported),
            stages=stages,
            error=reported_error(reported),
            heard_at=_hub_time(_dict(reported, "$metadata"), contract.UPDATE),
        )

    @property
    def seconds(self) -> float | None:
        """From the first start to the last end by the device's clock; None while unfinished."""
        end = self.stages[-1].ended_at
        return None if end is None else (end - self.stages[0].started_at).total_seconds()

    @property
    def hub_offset(self) -> float | None:
        """Seconds by which the hub's clock is later: clock difference plus the report's way.

        None where the twin carries no `$metadata`, as on the device's side.
        """
        pairs = ((stage.started_at, stage.hub_started_at) for stage in self.stages)
        return next(((hub - device).total_seconds() for device, hub in pairs if hub), None)

    @property
    def title(self) -> str:
        """The one message of the figure."""
        stage, seconds = self.stages[-1].name, self.seconds
        if self.outcome in _BAD_ENDS:
            message = f"{_BAD_ENDS[self.outcome][0]} while {stage}"
            message += f" ({self.error.code})" if self.error else ""
        elif self.outcome == contract.COMPLETED:
            message = "completed" + ("" if seconds is None else f" in {format_seconds(seconds)}")
        else:
            message = f"unfinished, last seen {stage}"
        return f"Update {message}" + (f": {self.device_id}" if self.device_id else "")

    @property
    def alt_text(self) -> str:
        """What the figure shows, in words: for screen readers and logs."""
        words = ", ".join(f"{stage.name} {self.describe(stage)}" for stage in self.stages)
        offset = self.hub_offset
        hub = "" if offset is None else f" Hub clock: {_offset_words(offset)}."
        return f"{self.title}. Stages by the device clock: {words}.{hub}"

    def __str__(self) -> str:
        return self.alt_text

    def describe(self, stage: Stage) -> str:
        """Tell in words how long a stage took, and how it ended where it did not end well."""
        seconds = stage.seconds
        if stage is not self.stages[-1] or self.outcome not in _BAD_ENDS:
            return "unfinished" if seconds is None else format_seconds(seconds)
        words = _BAD_ENDS[self.outcome][0]
        words += "" if seconds is None else f" after {format_seconds(seconds)}"
        return words + (f": {self.error.code}" if self.error else "")

    def plot(self, ax: Axes | None = None) -> Figure:
        """Draw one bar a stage: its start and duration by the device's and by the hub's clock.

        Clocks that differ by more than half of the update are drawn from one start; the legend
        tells the difference.

        Args:
            ax: The axes to draw on. Without them a new figure is made, not by pyplot: it may be
                drawn in any thread, and as a cell's last value it shows with its alt text.
        """
        if ax is None:
            ax = _figure_class()(self.alt_text, rows=len(self.stages)).add_subplot()
        _Drawing(self, ax).draw()
        figure: Figure = ax.figure.figure  # the root figure, where ax lies in a subfigure
        return figure


def update_outcome(reported: contract.Json) -> str | None:
    """Tell how the update in the reported properties ended, or None before its end.

    `firmwareStatus` alone cannot tell: a device that restarts says standBy again, and reports an
    interrupted update by its error.

    Returns:
        ``completed``, ``error``, ``rolledback`` or None.
    """
    status = reported.get(contract.STATUS)
    if status in contract.FINAL_STATUSES:
        return str(status)
    if reported_error(reported):
        return contract.ERROR
    stages, last_update = _read_stages(reported), parse_time(reported.get(contract.LAST_UPDATE))
    if stages and last_update and stages[-1].ended_at == last_update:
        return contract.COMPLETED
    return None


def reported_error(reported: contract.Json) -> ReportedError | None:
    """Return the error that the device reported for its last update, or None."""
    error = _dict(reported, contract.UPDATE, contract.ERROR_KEY)
    code, message = error.get(contract.ERROR_CODE), error.get(contract.ERROR_MESSAGE)
    return ReportedError(str(code or "unknown"), str(message or "")) if error else None


def parse_time(text: object) -> datetime | None:
    """Read a time of a twin; None when it is none. A time without a zone is local time.

    Python 3.10's ``fromisoformat`` reads neither the hub's seven digits nor a ``Z``.

    >>> parse_time("2024-03-14T09:54:49.1234567Z").isoformat()
    '2024-03-14T09:54:49.123456+00:00'
    """
    pattern = r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)?"
    match = re.fullmatch(pattern, text, re.ASCII) if isinstance(text, str) else None
    if match is None:
        return None
    second, fraction, zone = match.groups(default="")
    try:
        moment = datetime.fromisoformat(f"{second}.{fraction:0<6.6}{zone.replace('Z', '+00:00')}")
        return moment if zone else moment.astimezone()
    except (ValueError, OverflowError, OSError):  # no such day, or none that the system can place
        return None


def format_seconds(seconds: float) -> str:
    """Write a duration for people.

    >>> [format_seconds(s) for s in (0, 0.0123, 15.24, 60, 65, 3720)]
    ['0 s', '0.012 s', '15.2 s', '1 min', '1 min 5 s', '1 h 2 min']
    """
    if seconds < 0:  # the device's clock was set back meanwhile
        return f"−{format_seconds(-seconds)}"
    if seconds < 0.0005:
        return "0 s"
    if seconds < 59.95:
        return f"{seconds:.{3 if seconds < 0.0995 else 2 if seconds < 0.995 else 1}f} s"
    size, large, little = (60, "h", "min") if seconds >= 3599.5 else (1, "min", "s")
    whole, rest = divmod(round(seconds / size), 60)
    return f"{whole} {large}" + (f" {rest} {little}" if rest else "")


def _offset_words(offset: float) -> str:
    if abs(offset) < 0.0005:
        return "the same time"
    return f"{format_seconds(abs(offset))} {'later' if offset > 0 else 'earlier'}"


def _dict(value: object, *keys: str) -> contract.Json:
    """Follow keys into nested objects; what is missing or no object counts as empty."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return dict(value) if isinstance(value, Mapping) else {}


def _reported_of(twin: object) -> tuple[str | None, contract.Json]:
    if isinstance(twin, Mapping) and ("properties" in twin or "reported" in twin):
        sections = twin.get("properties", twin)
        return twin.get("deviceId", twin.get("device_id")), _dict(sections, "reported")
    if hasattr(twin, "properties"):
        reported = getattr(twin.properties, "reported", None)
        return getattr(twin, "device_id", None), _dict(reported)
    raise TypeError(
        f"A device twin is needed, not {type(twin).__name__}: pass what "
        "registry.get_twin(device_id) returned."
    )


def _hub_time(metadata: contract.Json, key: str) -> datetime | None:
    return parse_time(_dict(metadata, key).get("$lastUpdated"))


def _read_stages(reported: contract.Json) -> tuple[Stage, ...]:
    if reported.get(contract.UPDATE) is None:
        return tuple(_tutorial_stages(reported))
    path, bounds = (contract.UPDATE, contract.STAGES_KEY), (contract.STARTED_AT, contract.ENDED_AT)
    metadata = _dict(reported, "$metadata", *path)
    read = (
        _read_stage(name, _dict(times), _dict(metadata, name), *bounds)
        for name, times in _dict(reported, *path).items()
    )
    stages = [stage for stage in read if stage]
    # A stage that the opening patch does not know survives from the update before.
    opened = [stage.started_at for stage in stages if stage.name == contract.WAITING]
    current = (stage for stage in stages if not opened or stage.started_at >= opened[0])
    return tuple(sorted(current, key=_sort_key))


def _read_stage(
    name: str, times: contract.Json, metadata: contract.Json, start: str, end: str
) -> Stage | None:
    started_at, ended_at = parse_time(times.get(start)), parse_time(times.get(end))
    if started_at is None:
        return None
    hub_ended_at = _hub_time(metadata, end) if ended_at else None
    return Stage(name, started_at, ended_at, _hub_time(metadata, start), hub_ended_at)


def _sort_key(stage: Stage) -> tuple[datetime, datetime, int]:
    # Very fast stages start within the same millisecond; their usual order decides then.
    known = _ORDER.index(stage.name) if stage.name in _ORDER else len(_ORDER)
    return stage.started_at, stage.ended_at or datetime.max.replace(tzinfo=timezone.utc), known


def _tutorial_stages(reported: contract.Json) -> list[Stage]:
    """Read the four timestamps; each is the end of a stage and the start of the next one."""
    bounds = (
        (contract.WAITING, contract.LOG_TIME, contract.DOWNLOAD_COMPLETE),
        (contract.DOWNLOADING, contract.DOWNLOAD_COMPLETE, contract.STARTED_APPLYING),
        (contract.APPLYING, contract.STARTED_APPLYING, contract.LAST_UPDATE),
    )
    stages: list[Stage] = []
    for name, start, end in bounds:
        stage = _read_stage(name, reported, _dict(reported, "$metadata"), start, end)
        if stage and stage.ended_at and stage.ended_at < stage.started_at:
            # Left by an earlier update: a merge patch forgets nothing by itself.
            stage = replace(stage, ended_at=None, hub_ended_at=None)
        # An idle device has a logTime, too: its wait counts only once a download has ended it.
        idle = stage and name == contract.WAITING and stage.ended_at is None
        if stage and not idle and not (stages and stages[-1].ended_at is None):
            stages.append(stage)
    return stages


@functools.cache
def _figure_class() -> Any:
    """Return a Figure class that notebooks show, and with alt text.

    IPython shows a plain Figure only after pyplot has been imported (measured with
    matplotlib-inline 0.2), and gives it no alt text.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    class TimelineFigure(Figure):
        def __init__(self, alt_text: str, *, rows: int) -> None:
            layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.15)
            super().__init__(figsize=(8, 2 + 0.72 * rows), layout=layout)
            self.alt_text = alt_text

        def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> Any:
            buffer = BytesIO()
            self.savefig(buffer, format="png", dpi=2 * self.dpi)  # sharp on a projector, too
            png, alt = b64encode(buffer.getvalue()).decode(), escape(self.alt_text)
            width = round(self.get_figwidth() * self.dpi)
            image = f'<img alt="{alt}" width="{width}" src="data:image/png;base64,{png}">'
            data = {"text/html": image, "image/png": png, "text/plain": self.alt_text}
            return data, {"image/png": {"width": width, "alt": self.alt_text}}

    return TimelineFigure


class _Drawing:
    """One timeline on one pair of axes."""

    def __init__(self, timeline: UpdateTimeline, ax: Axes) -> None:
        self.timeline, self.ax = timeline, ax
        self.offset = timeline.hub_offset
        ends = max(self._end(stage) for stage in timeline.stages)
        self.span = ends if ends > 0.0005 else 0.001 if timeline.outcome else 1.0
        self.aligned = abs(self.offset or 0) > self.span / 2
        self.unit, self.unit_name = (60.0, "min") if self.span >= 180 else (1.0, "s")

    def draw(self) -> None:
        labels = [self._draw_stage(row, stage) for row, stage in enumerate(self.timeline.stages)]
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
        colour = _COLOURS.get(stage.name, _OTHER_COLOUR)
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
        if stage is not self.timeline.stages[-1] or self.timeline.outcome not in _BAD_ENDS:
            return False
        style: dict[str, Any] = {"color": "#D55E00", "markeredgecolor": "black", "clip_on": False}
        style |= {"marker": _BAD_ENDS[self.timeline.outcome][1], "markersize": 15}
        self.ax.plot([x], [y], markeredgewidth=1.5, **style)
        return True

    def _draw_hub_clock(self, y: float, stage: Stage) -> None:
        shift = self.offset if self.offset and self.aligned else 0.0
        moments = [moment for moment in (stage.hub_started_at, stage.hub_ended_at) if moment]
        xs = [(self._at(moment) - shift) / self.unit for moment in moments]
        self.ax.plot(xs, [y] * len(xs), clip_on=False, **_HUB_LINE, **_HUB_MARK)

    def _draw_axis(self) -> None:
        ax, stages = self.ax, self.timeline.stages
        ax.set_yticks(range(len(stages)), [stage.name for stage in stages], fontsize=12)
        ax.set_ylim(len(stages) - 0.45, -0.5)
        ax.set_xlabel(f"time since the update began ({self.unit_name})", fontsize=12)
        ax.tick_params(axis="x", labelsize=11, width=1.5)
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x", color="#DDDDDD", linewidth=1.5)
        ax.set_axisbelow(True)
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.spines["bottom"].set_linewidth(1.5)

    def _draw_legend(self) -> None:
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch

        handles: list[Any] = [Patch(facecolor="#BBBBBB", label="device clock", **_EDGE)]
        if self.offset is not None:
            words = _offset_words(self.offset) + (", drawn aligned" if self.aligned else "")
            label = f"hub clock ({words})"
            handles.append(Line2D([], [], label=label, **_HUB_LINE, **_HUB_MARK))
        place: dict[str, Any] = {"bbox_to_anchor": (0, 1), "borderaxespad": 0.3, "borderpad": 0}
        style: dict[str, Any] = {"ncols": 2, "fontsize": 11, "frameon": False}
        self.ax.legend(handles=handles, loc="lower left", **place, **style)

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
        title = textwrap.fill(self.timeline.title, max(16, characters))
        ax.set_title(title, loc="left", fontsize=14, fontweight="bold", pad=28)
