"""From a device twin to the stages of its firmware update.

Every stage carries two clocks: the times that the device reported, and the times at which the hub
received them (`$lastUpdated` in the twin's `$metadata`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from fwupdate_helpers import contract
from fwupdate_helpers.errors import FirmwareUpdateError
from fwupdate_helpers.reported import (
    ReportedError,
    Stage,
    hub_time,
    read_stages,
    reported_error,
    section,
    update_outcome,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fwupdate_helpers.retry_log import Retry

_BAD_ENDS: Final = {contract.ERROR: "failed", contract.ROLLED_BACK: "rolled back"}


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
        stages = read_stages(reported)
        if not stages:
            raise FirmwareUpdateError(
                f"The twin of {device_id or 'this device'} tells of no update yet. Invoke the "
                f"direct method {contract.METHOD} on the device, then read its twin again."
            )
        return cls(
            device_id=device_id,
            update_id=section(reported, contract.UPDATE).get(contract.UPDATE_ID),
            status=str(reported.get(contract.STATUS, "")),
            outcome=update_outcome(reported),
            stages=stages,
            error=reported_error(reported),
            heard_at=hub_time(section(reported, "$metadata"), contract.UPDATE),
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
            message = f"{_BAD_ENDS[self.outcome]} while {stage}"
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
        hub = "" if offset is None else f" Hub clock: {offset_words(offset)}."
        return f"{self.title}. Stages by the device clock: {words}.{hub}"

    def __str__(self) -> str:
        return self.alt_text

    def describe(self, stage: Stage) -> str:
        """Tell in words how long a stage took, and how it ended where it did not end well."""
        seconds = stage.seconds
        if stage is not self.stages[-1] or self.outcome not in _BAD_ENDS:
            return "unfinished" if seconds is None else format_seconds(seconds)
        words = _BAD_ENDS[self.outcome]
        words += "" if seconds is None else f" after {format_seconds(seconds)}"
        return words + (f": {self.error.code}" if self.error else "")

    def plot(self, ax: Axes | None = None, *, retries: Iterable[Retry] = ()) -> Figure:
        """Draw one bar a stage: its start and duration by the device's and by the hub's clock.

        Clocks that differ by more than half of the update are drawn from one start; the legend
        tells the difference.

        Args:
            ax: The axes to draw on, best 5 inches wide or more. Without them a new figure is made,
                not by pyplot: it may be drawn in any thread, and as a cell's last value it shows
                with its alt text.
            retries: What a `RetryLog` holds; each is a mark above the bars.
        """
        from fwupdate_helpers.timeline_figure import draw

        return draw(self, ax, retries=[retry.at for retry in retries])


def plot_timelines(
    timelines: Mapping[str, UpdateTimeline], *, retries: Mapping[str, Iterable[Retry]] | None = None
) -> Figure:
    """Draw several updates below each other, on a common axis that begins with each of them.

    Args:
        timelines: A name for each, for example ``{"good run": …, "power cut": …}``.
        retries: For names of these, what a `RetryLog` holds.

    Raises:
        ValueError: There is nothing to draw, or retries of a name that there is not.

    Example:
        >>> plot_timelines({"good run": first, "power cut": second})  # doctest: +SKIP
    """
    from fwupdate_helpers.timeline_figure import draw_together

    marks = {name: [retry.at for retry in each] for name, each in (retries or {}).items()}
    if not timelines or set(marks) - set(timelines):
        raise ValueError("plot_timelines needs one timeline or more, and retries of these only.")
    return draw_together(timelines, marks)


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


def offset_words(offset: float) -> str:
    """Tell in words how much later the hub's clock is, in seconds."""
    if abs(offset) < 0.0005:
        return "the same time"
    return f"{format_seconds(abs(offset))} {'later' if offset > 0 else 'earlier'}"


def retries_told(count: int) -> str:
    """Tell in a sentence how often the service tried again; nothing when it did not.

    >>> retries_told(2)
    ' The service tried again 2 times.'
    """
    times = "once" if count == 1 else f"{count} times"
    return f" The service tried again {times}." if count else ""


def _reported_of(twin: object) -> tuple[str | None, contract.Json]:
    if isinstance(twin, Mapping) and ("properties" in twin or "reported" in twin):
        sections = twin.get("properties", twin)
        return twin.get("deviceId", twin.get("device_id")), section(sections, "reported")
    if hasattr(twin, "properties"):
        reported = getattr(twin.properties, "reported", None)
        return getattr(twin, "device_id", None), section(reported)
    raise TypeError(
        f"A device twin is needed, not {type(twin).__name__}: pass what "
        "registry.get_twin(device_id) returned."
    )
