"""One fault at the local hub, as a notebook holds it: what it does, and whether it still does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from types import TracebackType

    from requests import Response

Json = dict[str, Any]
Send = Callable[[str, str], "Response"]

ACTIVE: Final = "active"
CLEARED: Final = "cleared"
_LEFT: Final = 'style="text-align:left;vertical-align:top"'


class Fault:
    """A fault at the local hub. As a context manager it is cleared at the end of the block.

    Its properties are as of the last answer of the hub: `refresh` asks for them anew.

    Args:
        row: What the hub tells of it.
        send: Sends a request of this method about the fault with this id, and returns the answer.
    """

    def __init__(self, row: Json, send: Send) -> None:
        self._row = row
        self._send = send

    @property
    def id(self) -> str:
        """Names it at the hub."""
        return str(self._row["id"])

    @property
    def kind(self) -> str:
        """The method of `Faults` that made it."""
        return str(self._row["kind"])

    @property
    def text(self) -> str:
        """What it does, in words."""
        return str(self._row["text"])

    @property
    def device_id(self) -> str | None:
        """The device that it is about; None when about none, or about all."""
        device_id: str | None = self._row["device_id"]
        return device_id

    @property
    def remaining(self) -> int | None:
        """How often it acts yet; None means until it expires."""
        remaining: int | None = self._row["remaining"]
        return remaining

    @property
    def acted(self) -> int:
        """How often it has acted."""
        return int(self._row["acted"])

    @property
    def expires_at(self) -> datetime:
        """When it ends at the latest, by the hub's clock, UTC."""
        text = str(self._row["expires_at"])
        # Seven digits of a second are one too many for Python 3.10.
        return datetime.fromisoformat(text[:26] + "+00:00")

    @property
    def state(self) -> str:
        """``active``, or how it ended: ``used up``, ``expired`` or ``cleared``."""
        return str(self._row["state"])

    @property
    def is_active(self) -> bool:
        """Whether it may act, or keeps a device off."""
        return self.state == ACTIVE

    def refresh(self) -> Fault:
        """Ask the hub for the attributes anew; return this object.

        One that the hub does not know any more, because it has restarted, counts as cleared.
        """
        self._take(self._send("GET", self.id))
        return self

    def clear(self) -> None:
        """End it; harmless when it has ended."""
        self._take(self._send("DELETE", self.id))

    def _take(self, response: Response) -> None:
        gone = {**self._row, "state": CLEARED if self.is_active else self.state}
        self._row = gone if response.status_code == 204 else response.json()

    def __enter__(self) -> Fault:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.clear()

    def __repr__(self) -> str:
        return f"Fault({self.id}: {self.text}; {self.state}, acted {self.acted} times)"

    def _repr_html_(self) -> str:
        return table([self])


def table(faults: Iterable[Fault]) -> str:
    """Return faults as a table in HTML."""
    rows = "".join(_html_row(fault) for fault in faults)
    if not rows:
        return "<p>no faults</p>"
    names = ("fault", "what it does", "acted", "remaining", "state", "until (UTC)")
    head = "".join(f'<th scope="col" {_LEFT}>{name}</th>' for name in names)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _html_row(fault: Fault) -> str:
    cells = (
        fault.id,
        fault.text,
        str(fault.acted),
        "until it expires" if fault.remaining is None else str(fault.remaining),
        fault.state,
        f"{fault.expires_at:%H:%M:%S}",
    )
    return "<tr>" + "".join(f"<td {_LEFT}>{escape(cell)}</td>" for cell in cells) + "</tr>"
