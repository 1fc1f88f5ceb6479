"""The wire trace: a bounded record of the last messages that passed the hub.

It holds no clock and does no I/O. Who reads or writes a message on the wire adds it here; secrets
are taken out on the way in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from fwupdate_helpers.localhub.jsontext import timestamp
from fwupdate_helpers.localhub.redaction import mask_address, mask_body, mask_text

Json = dict[str, Any]

MAX_ROWS: Final = 2000
SERVICE: Final = "service"
HUB: Final = "hub"
DEVICE: Final = "device"


@dataclass(frozen=True)
class Message:
    """What is told of a message that was read or written.

    Attributes:
        device_id: The device it is about; empty when none.
        kind: ``methods``, ``twin``, ``connection``, ``identity``, ``image`` or ``other``.
        source: Who sent it; the hub is the source or the target.
        what: The method of a request, the name of a packet, or the reason phrase of an answer.
        address: The path of a request, or the topic of a packet.
        status: The status that it tells.
        size: Bytes of the body, where it is not at hand; None counts `body`.
        answers: The number of the message that it answers.
        is_acknowledgement: Whether it only says that a packet has arrived.
        reason: Why a connection ends, in the hub's own words.
    """

    device_id: str
    kind: str
    source: str
    target: str
    what: str
    address: str = ""
    status: int | None = None
    body: bytes = b""
    size: int | None = None
    answers: int | None = None
    is_acknowledgement: bool = False
    reason: str = ""


class WireTrace:
    """The last messages, numbered from 1.

    Args:
        clock: Tells the time, UTC.
        rows: How many messages are kept.
        on: Whether anything is kept.
    """

    def __init__(
        self, clock: Callable[[], datetime], *, rows: int = MAX_ROWS, on: bool = True
    ) -> None:
        self.on = on
        self.last = 0
        self._clock = clock
        self._rows: deque[Json] = deque(maxlen=rows)

    def add(self, message: Message) -> int | None:
        """Keep a message without its secrets; return its number, or None when tracing is off."""
        if not self.on:
            return None
        self.last += 1
        words = (message.what, mask_address(message.address), mask_text(message.reason))
        self._rows.append(
            {
                "number": self.last,
                "at": self._clock(),
                "device_id": message.device_id,
                "kind": message.kind,
                "source": message.source,
                "target": message.target,
                "what": " ".join(word for word in words if word),
                "status": message.status,
                "size": len(message.body) if message.size is None else message.size,
                "body": mask_body(message.body),
                "answers": message.answers,
                "is_acknowledgement": message.is_acknowledgement,
            }
        )
        return self.last

    def rows(self, *, after: int = 0, device_id: str | None = None) -> list[Json]:
        """Return the messages with greater numbers than `after`, of one device or of all."""
        return [
            {**row, "at": timestamp(row["at"])}
            for row in self._rows
            if row["number"] > after and device_id in (None, row["device_id"])
        ]

    def clear(self) -> None:
        """Forget all messages; the numbers go on."""
        self._rows.clear()
