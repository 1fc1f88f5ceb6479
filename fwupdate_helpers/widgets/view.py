"""What an update panel shows, made of a twin, the device's events and the time; without any I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from fwupdate_helpers import contract
from fwupdate_helpers.errors import (
    DeviceNotFound,
    FirmwareUpdateError,
    HubUnavailable,
    UpdateRejected,
)
from fwupdate_helpers.events import DeviceEvent
from fwupdate_helpers.reported import section
from fwupdate_helpers.timeline import UpdateTimeline, format_seconds
from fwupdate_helpers.widgets.progress import (
    SIMULATED_STAGES,
    Progress,
    ProgressMeter,
    planned_stages,
)

# What a panel can show, beside the names of the stages in `contract.STAGES`.
READING: Final = "reading the twin"
NO_UPDATE: Final = "no update yet"
COMPLETED: Final = "completed"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
ROLLED_BACK: Final = "rolled back"
NO_POWER: Final = "no power"
STOPPED: Final = "stopped"
REPLACED: Final = "replaced"
HUB_AWAY: Final = "hub away"
HUB_REFUSES: Final = "hub refuses"
NO_IDENTITY: Final = "no identity"
HUB_CLOSED: Final = "hub closed"

START, CANCEL, POWER_CUT, RESTART = "start", "cancel", "power cut", "restart"
BUTTONS: Final = (START, CANCEL, POWER_CUT, RESTART)

LOG_LINES: Final = 100
NOTE_SECONDS: Final = 5.0
"""A note stays so long at least, and until something new has happened."""

_WORDS: Final = {
    NO_POWER: "device has no power",
    STOPPED: "device is stopped",
    REPLACED: "another object runs as this device",
    HUB_AWAY: "hub does not answer",
    HUB_REFUSES: "hub refuses to tell",
    NO_IDENTITY: "hub has no such device",
    HUB_CLOSED: "hub is closed",
}
_ENDS: Final = {contract.COMPLETED: COMPLETED, contract.ROLLED_BACK: ROLLED_BACK}
_RECOVERIES: Final = {
    contract.RESUMED: "resumed",
    contract.CONFIRMED: "confirmed after a power loss",
    contract.ROLLED_BACK_ACTION: "rolled back after a power loss",
}


@dataclass(frozen=True)
class Note:
    """Something to tell beside the state, for example why a press was refused."""

    text: str
    is_error: bool = False


@dataclass(frozen=True)
class Look:
    """What there is to know at one moment.

    Attributes:
        now: Seconds of a clock that never goes back.
        twin: The device twin, as the service read it last; None before the first time.
        problem: Why the twin could not be read just now, or None.
        running: Whether the device has power and runs.
        events: What happened on the device.
        replaced: Whether another object of this kernel runs as the device.
        device_error: Why the device ended by itself, or None.
        note: The last thing to tell, or None.
        busy: Whether a press is being worked on.
        closed: Whether the hub has been closed: nothing more will come.
        retries: When the service tried again, for this panel's last press.
    """

    now: float
    twin: object | None = None
    problem: Exception | None = None
    running: bool = True
    replaced: bool = False
    events: tuple[DeviceEvent, ...] = ()
    device_error: Exception | None = None
    note: Note | None = None
    busy: bool = False
    closed: bool = False
    retries: tuple[datetime, ...] = ()


@dataclass(frozen=True)
class PanelView:
    """What the panel shows.

    Attributes:
        state: One of `contract.STAGES`, or one of the other states of this module.
        text: The line that tells state, percent and time left.
        percent: Of the whole update, 0 to 100.
        time_left: The time left, in words.
        update_id: The update that is shown, or None.
        stages: The names of its stages, in their order.
        stages_begun: How many of them have begun.
        message: What happened and what to do, or an empty note.
        refusals: For each button that makes no sense now: why.
        log: The device's last events, oldest first.
        timeline: What the picture shows, or None before the first update.
        title: The message of the picture.
        busy: Whether a press is being worked on.
        retries: When the service tried again: marks in the picture.
    """

    state: str
    text: str
    percent: int = 0
    time_left: str = ""
    update_id: str | None = None
    stages: tuple[str, ...] = contract.STAGES
    stages_begun: int = 0
    message: Note = Note("")
    refusals: Mapping[str, str] = field(default_factory=dict)
    log: tuple[str, ...] = ()
    timeline: UpdateTimeline | None = None
    title: str = ""
    busy: bool = False
    retries: tuple[datetime, ...] = ()


class PanelReader:
    """Turns one look after the other into what the panel shows."""

    def __init__(self) -> None:
        self._meter = ProgressMeter()
        self._heard: tuple[datetime | None, float] = (None, 0.0)
        self._note: tuple[Note | None, Any, float] = (None, None, 0.0)

    def view(self, look: Look) -> PanelView:
        """Return what the panel shows at this moment."""
        reported = _reported(look.twin)
        timeline = _timeline(look.twin, reported)
        progress = Progress()
        if timeline is not None:
            moving = look.running and look.problem is None and not look.closed
            progress = self._meter.measure(timeline, reported, now=look.now, moving=moving)
            timeline = self._grown(timeline, look.now, moving=moving)
        state = _state(look, timeline)
        time_left = _time_left(state, timeline, progress)
        return PanelView(
            state=state,
            text=_text(state, timeline, reported, f"{progress.percent} %", time_left),
            percent=progress.percent,
            time_left=time_left,
            update_id=timeline.update_id if timeline else None,
            stages=_stages(look, timeline, reported),
            stages_begun=len(timeline.stages) if timeline else 0,
            message=self._message(look, state, timeline, reported),
            refusals=_refusals(look, state, timeline),
            log=log_lines(look.events),
            timeline=timeline,
            title=_title(state, timeline),
            busy=look.busy,
            retries=look.retries,
        )

    def _grown(self, timeline: UpdateTimeline, now: float, *, moving: bool) -> UpdateTimeline:
        """Let the stage that runs grow between two reports of the device."""
        if timeline.outcome or timeline.heard_at is None:
            return timeline
        if self._heard[0] != timeline.heard_at or not moving:
            self._heard = (timeline.heard_at, now)
        silence = timedelta(seconds=now - self._heard[1])
        return replace(timeline, heard_at=timeline.heard_at + silence)

    def _message(
        self, look: Look, state: str, timeline: UpdateTimeline | None, reported: contract.Json
    ) -> Note:
        situation = (timeline and (timeline.update_id, timeline.outcome), state in _WORDS)
        note, since, at = self._note
        if look.note is not note:
            self._note = note, since, at = look.note, situation, look.now
        if look.closed:
            return Note(
                "hub.close() has ended this panel. Run the set-up cell and this cell again."
            )
        if look.problem is not None:
            return Note(error_words(look.problem), is_error=True)
        if note and (situation == since or look.now - at < NOTE_SECONDS):
            return note
        if look.device_error is not None and not look.running:
            return Note(error_words(look.device_error), is_error=True)
        return Note(_hint(state, timeline, reported), is_error=state in (FAILED, ROLLED_BACK))


def log_lines(events: Iterable[DeviceEvent]) -> tuple[str, ...]:
    """Return the last events as lines; a text that repeats itself is one line, with a count."""
    lines: list[tuple[DeviceEvent, int]] = []
    for event in list(events)[-10 * LOG_LINES :]:
        if lines and lines[-1][0].text == event.text:
            lines[-1] = (event, lines[-1][1] + 1)
        else:
            lines.append((event, 1))
    return tuple(str(event) + (f" (× {n})" if n > 1 else "") for event, n in lines[-LOG_LINES:])


def _reported(twin: object) -> contract.Json:
    if isinstance(twin, Mapping):
        return section(twin, "properties", "reported")
    properties = getattr(twin, "properties", None)
    return section(getattr(properties, "reported", None))


def _timeline(twin: object, reported: contract.Json) -> UpdateTimeline | None:
    if twin is None:
        return None
    try:
        return UpdateTimeline.from_twin(twin)
    except FirmwareUpdateError:  # it tells of no update
        return None


def _stages(
    look: Look, timeline: UpdateTimeline | None, reported: contract.Json
) -> tuple[str, ...]:
    if timeline is not None:
        return planned_stages(timeline, reported)
    simulated = look.twin is not None and contract.FIRMWARE not in reported
    return SIMULATED_STAGES if simulated else contract.STAGES


def _state(look: Look, timeline: UpdateTimeline | None) -> str:
    if look.closed:
        return HUB_CLOSED
    if isinstance(look.problem, DeviceNotFound):
        return NO_IDENTITY
    if look.problem is not None:
        return HUB_AWAY if isinstance(look.problem, HubUnavailable) else HUB_REFUSES
    if look.replaced:
        return REPLACED
    if not look.running:
        kinds = [event.kind for event in look.events[-2:]]
        return NO_POWER if "power-cut" in kinds else STOPPED
    if look.twin is None:
        return READING
    return NO_UPDATE if timeline is None else _update_state(timeline)


def _update_state(timeline: UpdateTimeline) -> str:
    if timeline.outcome is None:
        return timeline.stages[-1].name
    if timeline.error and timeline.error.code == contract.CODE_CANCELLED:
        return CANCELLED
    return _ENDS.get(timeline.outcome, FAILED)


def _time_left(state: str, timeline: UpdateTimeline | None, progress: Progress) -> str:
    if timeline and timeline.outcome:
        return "0 s left"
    if progress.is_late:
        return "longer than last time"
    seconds = progress.seconds_left
    if seconds is None or state in _WORDS:
        return "time left not known yet"
    whole = f"{seconds:.0f} s" if seconds < 59.5 else format_seconds(seconds)
    about = "less than 1 s" if seconds < 1 else f"about {whole}"
    return f"{about} left" + (" to download" if progress.of_download else "")


def _text(state: str, timeline: UpdateTimeline | None, reported: contract.Json, *words: str) -> str:
    parts = [_WORDS.get(state) or _what(state, timeline), *words]
    if timeline and timeline.update_id:
        parts.append(f"update {short_id(timeline.update_id)}")
    action = section(reported, contract.UPDATE, contract.RECOVERY).get("action")
    return " · ".join([*parts, *([_RECOVERIES.get(action, str(action))] if action else [])])


def short_id(update_id: str) -> str:
    """Return what is enough of an update id to tell it from the last ones."""
    is_made_up = len(update_id) == 32
    return update_id[:4] if is_made_up else update_id[:16]


def _what(state: str, timeline: UpdateTimeline | None) -> str:
    if timeline is None or timeline.outcome is None:
        return state
    if state == COMPLETED:
        return (
            state if timeline.seconds is None else f"{state} in {format_seconds(timeline.seconds)}"
        )
    code = timeline.error.code if timeline.error and state != CANCELLED else None
    return f"{state} while {timeline.stages[-1].name}" + (f" ({code})" if code else "")


def _title(state: str, timeline: UpdateTimeline | None) -> str:
    if timeline is None:
        return ""
    what = _what(_update_state(timeline), timeline).partition(" (")[0]
    if timeline.outcome is None:
        when = "no power while" if state == NO_POWER else "last seen" if state in _WORDS else "now"
        what = f"{when} {what}"
    return what.capitalize() if what.islower() else what


def _refusals(look: Look, state: str, timeline: UpdateTimeline | None) -> dict[str, str]:
    if look.closed:
        return dict.fromkeys(BUTTONS, "The hub is closed.")
    unfinished = timeline is not None and timeline.outcome is None
    reasons: dict[str, str] = {}
    if unfinished:
        reasons[START] = "An update runs. Wait for its end, or press Cancel."
    else:
        reasons[CANCEL] = "No update runs."
    if state == contract.REBOOTING:
        reasons[CANCEL] = "Too late: the device is switching to the new image."
    if look.busy or look.twin is None or state in _WORDS:
        why = _WORDS.get(state, "the last press is being worked on" if look.busy else READING)
        reasons |= dict.fromkeys((START, CANCEL), f"{why.capitalize()}.")
    if look.running:
        reasons[RESTART] = "The device runs."
    elif look.replaced:
        reasons |= dict.fromkeys((RESTART, POWER_CUT), "Run this panel's cell again.")
    else:
        reasons[POWER_CUT] = "The device does not run."
    return reasons


def _hint(state: str, timeline: UpdateTimeline | None, reported: contract.Json) -> str:
    if state == NO_POWER:
        lost = "A device without power reports nothing: the twin tells what was true last. "
        return f"{lost}Press Restart device."
    if state == REPLACED:
        return "This panel is of the older object. Run its cell again."
    if state == STOPPED:
        return "Press Restart device, or run the cell again that starts it."
    if state == NO_UPDATE:
        return "Press Start update, or invoke the direct method in a cell."
    if timeline and timeline.error:
        return timeline.error.message
    if section(reported, contract.UPDATE, contract.RECOVERY).get("action") == contract.RESUMED:
        return "The device has found its update on the flash chip and resumed it."
    return ""


def error_words(error: Exception, widget: str = "panel") -> str:
    """Tell what happened and what to do about it, without what may be secret."""
    if isinstance(error, UpdateRejected) and _code(error) == "busy":
        return f"{error} Or press Cancel."
    if isinstance(error, FirmwareUpdateError):
        return str(error)
    # Its text is not ours, and may hold anything.
    return f"Not expected: {type(error).__name__}. Run this cell again; {widget}.error tells more."


def _code(error: UpdateRejected) -> object:
    return section(error.payload, contract.ERROR_KEY).get(contract.ERROR_CODE)
