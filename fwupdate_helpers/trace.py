"""The wire trace: the last messages that passed the local hub, as rows that a notebook shows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any, Final, overload
from urllib.parse import urlencode

from fwupdate_helpers import own_routes
from fwupdate_helpers.reported import parse_time

if TYPE_CHECKING:
    from fwupdate_helpers.hub import Hub

KINDS: Final = ("methods", "twin", "query", "connection", "identity", "image", "other")
"""What a message can be about."""
SERVICE: Final = "service"
HUB: Final = "hub"
DEVICE: Final = "device"

ON_AZURE: Final = (
    "There is no wire trace on Azure: the messages pass through Azure's machines, and none of them "
    "through this computer. Run this notebook on the local hub to see them."
)
TURNED_OFF: Final = (
    "This local hub was started without its wire trace. Stop it with 'python -m "
    "fwupdate_helpers.localhub stop', and run the notebook's set-up cell again."
)
STARTED_ANEW: Final = (
    "The local hub has started again since then, and counts its messages from 1. Ask with after=0, "
    "and take a new mark."
)
GONE: Final = (
    "Some messages after that mark are gone: the trace was cleared, or more came than it keeps."
)
_BODY_SHOWN: Final = 80
_LEFT: Final = 'style="text-align:left;vertical-align:top"'


@dataclass(frozen=True)
class TraceRow:
    """One message on the wire.

    Attributes:
        number: Its place among all messages; later ones have greater numbers.
        at: The hub's clock, UTC.
        device_id: The device it is about; empty when none.
        kind: One of `KINDS`.
        source: ``"service"``, ``"hub"`` or ``"device"``.
        target: The same; one of the two is the hub.
        what: Method and address of a request, name and topic of an MQTT packet, or the reason of an
            answer: ``"POST /twins/pump/methods"``, ``"PUBLISH $iothub/methods/res/200/?$rid=1"``.
        status: The status that the message tells; None when it tells none.
        size: Bytes of the body.
        body: The body with secrets taken out, cut where it is long; empty when there is none.
        answers: The number of the message that this one answers; None when it answers none.
        is_acknowledgement: Whether it only says that a packet has arrived (PUBACK and its like).
    """

    number: int
    at: datetime
    device_id: str
    kind: str
    source: str
    target: str
    what: str
    status: int | None = None
    size: int = 0
    body: str = ""
    answers: int | None = None
    is_acknowledgement: bool = False

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> TraceRow:
        """Read a row as the local hub sends it."""
        return cls(**{**row, "at": parse_time(row["at"])})


class Trace(Sequence[TraceRow]):
    """Rows of the wire trace, oldest first; shown as a table.

    Attributes:
        last: The number of the newest message that the hub had seen; 0 when there was none.
        note: Why there is nothing to see, or what is missing; empty when all is here.
    """

    def __init__(self, rows: Iterable[TraceRow] = (), *, last: int = 0, note: str = "") -> None:
        self._rows = tuple(rows)
        self.last = max([last, *(row.number for row in self._rows)])
        self.note = note

    @overload
    def __getitem__(self, place: int) -> TraceRow: ...
    @overload
    def __getitem__(self, place: slice) -> Trace: ...
    def __getitem__(self, place: int | slice) -> TraceRow | Trace:
        """Return one row, or a trace of several."""
        if isinstance(place, slice):
            return Trace(self._rows[place], last=self.last, note=self.note)
        return self._rows[place]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    def __repr__(self) -> str:
        lines = [_line(row) for row in self._rows]
        return "\n".join([*lines, *([self.note] if self.note else [])]) or "no messages"

    def _repr_html_(self) -> str:
        note = f"<p>{escape(self.note)}</p>" if self.note else ""
        if not self._rows:
            return note or "<p>no messages</p>"
        names = ("time", "from → to", "message and body", "status", "bytes")
        head = "".join(f'<th scope="col" {_LEFT}>{name}</th>' for name in names)
        rows = "".join(_html_row(row) for row in self._rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{note}"


def read_trace(
    hub: Hub, device_id: str | None, *, after: int, kinds: Collection[str] | None
) -> Trace:
    """Ask a hub for its wire trace; `Hub.trace` tells how."""
    unknown = set(kinds or ()) - set(KINDS)
    if unknown:
        raise ValueError(f"There is no kind {sorted(unknown)}; the kinds are {', '.join(KINDS)}.")
    if hub.kind == "azure":
        return Trace(note=ON_AZURE)
    query = {"after": str(after), **({} if device_id is None else {"deviceId": device_id})}
    found = own_routes.send(hub, "GET", f"/$localhub/trace?{urlencode(query)}").json()
    rows = (TraceRow.from_json(row) for row in found["rows"])
    wanted = (row for row in rows if kinds is None or row.kind in kinds)
    return Trace(wanted, last=found["last"], note=_note(found, after))


def _note(found: dict[str, Any], after: int) -> str:
    if not found["on"]:
        return TURNED_OFF
    if after > found["last"]:
        return STARTED_ANEW
    return GONE if 0 < after < found["oldest"] - 1 else ""


def _line(row: TraceRow) -> str:
    status = "" if row.status is None else f" {row.status}"
    return f"{row.at:%H:%M:%S.%f}"[:-3] + f" {row.source} → {row.target}: {row.what}{status}"


def _html_row(row: TraceRow) -> str:
    body = escape(row.body)
    if len(row.body) > _BODY_SHOWN:
        short = escape(row.body[:_BODY_SHOWN] + "…")
        body = f"<details><summary><code>{short}</code></summary><code>{body}</code></details>"
    elif body:
        body = f"<br><code>{body}</code>"
    cells = (
        f"{row.at:%H:%M:%S.%f}"[:-3],
        f"{row.source} → {row.target}",
        f'<div style="overflow-wrap:anywhere"><code>{escape(row.what)}</code>{body}</div>',
        "" if row.status is None else str(row.status),
        str(row.size) if row.size else "",
    )
    return "<tr>" + "".join(f"<td {_LEFT}>{cell}</td>" for cell in cells) + "</tr>"
