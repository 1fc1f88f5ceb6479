"""What a fleet board shows, made of the fleet's rows and the time; without any I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from fwupdate_helpers.errors import HubUnavailable
from fwupdate_helpers.fleet_view import (
    COMPLETED,
    FAILED,
    NOT_BEGUN,
    NOT_REACHED,
    ROLLED_BACK,
    UP_TO_DATE,
    FleetRow,
    count_states,
)
from fwupdate_helpers.timeline import format_seconds
from fwupdate_helpers.widgets.view import HUB_AWAY, HUB_CLOSED, HUB_REFUSES, Note, error_words

# What a board can show, beside the hub's states of `view`.
READING: Final = "reading the fleet"
NO_DEVICE: Final = "no device fits"
NO_UPDATE: Final = "no update yet"
RUNNING: Final = "updates run"
STILL: Final = "no update runs"
ENDED: Final = "all updates ended"

MOST_OPTIONS: Final = 200
"""How many devices the list to choose from holds; the field above it finds the others."""
_WINDOW_SECONDS: Final = 30.0
_NO_NOTE: Final = Note("")
_WORDS: Final = {
    HUB_AWAY: "hub does not answer",
    HUB_REFUSES: "hub refuses the query",
    HUB_CLOSED: "hub is closed",
}
_SIGNS: Final = {
    COMPLETED: "✔",
    UP_TO_DATE: "✔",
    FAILED: "✖",
    ROLLED_BACK: "◀",
    NOT_BEGUN: "○",
    NOT_REACHED: "?",
}
_ORDER: Final = {FAILED: 0, ROLLED_BACK: 1, NOT_REACHED: 3, NOT_BEGUN: 4}
"""Failures come first in the list, then what runs (2), then what has not begun, then the rest."""


@dataclass(frozen=True)
class BoardLook:
    """What there is to know at one moment.

    Attributes:
        now: Seconds of a clock that never goes back.
        rows: The fleet as it was read last; None before the first time.
        problem: Why it could not be read just now, or None.
        note: Something else to tell, or None.
        closed: Whether the hub has been closed: nothing more will come.
        seconds: Seconds between two reads while updates run.
    """

    now: float
    rows: tuple[FleetRow, ...] | None = None
    problem: Exception | None = None
    note: Note | None = None
    closed: bool = False
    seconds: float = 1.0


@dataclass(frozen=True)
class BoardView:
    """What the board shows.

    Attributes:
        state: One of the states of this module, or a hub's state of `view`.
        text: The line that tells state, percent and time left.
        percent: How many of the devices have ended, 0 to 100.
        counts: For each state, in the order of an update, the number of devices.
        rows: The fleet.
        message: What happened and what to do, or an empty note.
        title: The message of the picture.
    """

    state: str
    text: str
    percent: int = 0
    counts: dict[str, int] = field(default_factory=lambda: count_states(()))
    rows: tuple[FleetRow, ...] = ()
    message: Note = _NO_NOTE
    title: str = ""


class BoardReader:
    """Turns one look after the other into what the board shows."""

    def __init__(self) -> None:
        self._meter = EndMeter()

    def view(self, look: BoardLook) -> BoardView:
        """Return what the board shows at this moment."""
        rows = look.rows or ()
        ended = sum(row.has_ended for row in rows)
        running = sum(row.is_running for row in rows)
        state = _state(look, running, ended)
        percent = 100 * ended // len(rows) if rows else 0
        left = self._meter.tell(look.now, ended, len(rows), runs=state == RUNNING)
        return BoardView(
            state=state,
            text=_text(state, rows, f"{percent} %", left),
            percent=percent,
            counts=count_states(rows),
            rows=rows,
            message=_message(look, state),
            title=f"{ended:,} of {len(rows):,} devices have ended" if rows else "",
        )


class EndMeter:
    """Tells the time left, from how many devices ended in the last half minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def tell(self, now: float, ended: int, total: int, *, runs: bool) -> str:
        """Return the time left in words.

        Args:
            now: Seconds of a clock that never goes back.
            ended: How many devices have ended.
            total: How many devices there are.
            runs: Whether updates run, and the hub tells of them.
        """
        if total and ended == total:
            return "0 s left"
        if not runs:
            self._seen.clear()
            return "time left not known yet"
        if not self._seen or ended != self._seen[-1][1]:
            self._seen.append((now, ended))
        while len(self._seen) > 2 and now - self._seen[0][0] > _WINDOW_SECONDS:
            self._seen.popleft()
        first, before = self._seen[0]
        if ended <= before or now <= first:
            return "time left not known yet"
        seconds = (total - ended) * (now - first) / (ended - before)
        whole = f"{seconds:.0f} s" if seconds < 59.5 else format_seconds(seconds)
        return f"about {whole} left" if seconds >= 1 else "less than 1 s left"


def _state(look: BoardLook, running: int, ended: int) -> str:
    if look.closed:
        return HUB_CLOSED
    if look.problem is not None:
        return HUB_AWAY if isinstance(look.problem, HubUnavailable) else HUB_REFUSES
    if look.rows is None:
        return READING
    if not look.rows:
        return NO_DEVICE
    if running:
        return RUNNING
    if ended == len(look.rows):
        return ENDED
    return STILL if ended else NO_UPDATE


def _text(state: str, rows: Sequence[FleetRow], *words: str) -> str:
    parts = [_WORDS.get(state, state), *words]
    failed = sum(row.has_failed for row in rows)
    return " · ".join([*parts, f"{failed:,} failed"] if rows else parts)


def _message(look: BoardLook, state: str) -> Note:
    if look.closed:
        return Note("hub.close() has ended this board. Run the set-up cell and this cell again.")
    if look.problem is not None:
        return Note(error_words(look.problem, "board"), is_error=True)
    if look.note is not None:
        return look.note
    if state == NO_DEVICE:
        return Note("Check the condition: the hub has no device that it holds for.")
    if look.seconds > 5:
        seconds = format_seconds(look.seconds)
        why = "the hub grants few queries, or its answers take long"
        return Note(f"The fleet is read every {seconds} only: {why}.")
    if state == STILL:
        waiting = sum(not row.has_ended for row in look.rows or ())
        told = "1 device has" if waiting == 1 else f"{waiting:,} devices have"
        return Note(f"{told} not begun: of a later wave, switched off, or not reached.")
    return _NO_NOTE


def sign_of(row: FleetRow) -> str:
    """Return one letter for a device's state."""
    return "▶" if row.is_running else _SIGNS.get(row.state, "•")


def device_options(rows: Iterable[FleetRow], part: str = "") -> list[tuple[str, str]]:
    """Return the labels and ids of the devices to choose from, failures first.

    Args:
        rows: The fleet.
        part: Only devices with this in their id, in small or capital letters.
    """
    fitting = [row for row in rows if part.strip().casefold() in row.device_id.casefold()]
    fitting.sort(key=lambda row: (_rank(row), row.device_id))
    return [(_label(row), row.device_id) for row in fitting[:MOST_OPTIONS]]


def _rank(row: FleetRow) -> int:
    return 2 if row.is_running else _ORDER.get(row.state, 5)


def _label(row: FleetRow) -> str:
    what = row.error_code if row.has_failed and row.error_code else row.state
    return f"{sign_of(row)} {row.device_id} · {what}"
