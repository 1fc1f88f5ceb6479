"""The wire trace: a bounded record of the last messages that passed the hub.

It holds no clock and does no I/O. Who reads or writes a message on the wire adds it here; secrets
are taken out on the way in.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, NamedTuple

from fwupdate_helpers.localhub.jsontext import timestamp
from fwupdate_helpers.localhub.redaction import (
    HIDDEN,
    IDENTITY_FIELDS,
    mask_address,
    mask_body,
    mask_id,
    mask_text,
)

Json = dict[str, Any]

MAX_ROWS: Final = 2000
MAX_NEW: Final = 100
"""Messages that may wait until their secrets are taken out."""
_MAX_REASON: Final = 200
_MAX_IMAGES: Final = 200
_IMAGE_TOKEN: Final = re.compile(rb"/firmware/([A-Za-z0-9_-]{16,64})/")
SERVICE: Final = "service"
HUB: Final = "hub"
DEVICE: Final = "device"


class Message(NamedTuple):
    """What is told of a message that was read or written.

    Attributes:
        device_id: The device it is about; empty when none.
        kind: ``methods``, ``twin``, ``query``, ``connection``, ``identity``, ``image`` or
            ``other``.
        source: Who sent it; the hub is the source or the target.
        what: The method of a request, the name of a packet, or the reason phrase of an answer.
        address: The path of a request, or the topic of a packet.
        status: The status that it tells.
        size: Bytes of the body, where it is not at hand; None counts `body`.
        answers: The number of the message that it answers.
        is_acknowledgement: Whether it only says that a packet has arrived.
        reason: Why a connection ends, or which part of an image an answer holds, in the hub's own
            words.
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
        defer: Calls a function a moment later. Taking secrets out of a body costs as much as the
            way of a small message, so it waits until the messages of the moment have passed.
        rows: How many messages are kept.
        on: Whether anything is kept.
    """

    def __init__(
        self,
        clock: Callable[[], datetime],
        *,
        defer: Callable[[Callable[[], None]], object] = lambda call: call(),
        rows: int = MAX_ROWS,
        on: bool = True,
    ) -> None:
        self.on = on
        self.last = 0
        self._clock = clock
        self._defer = defer
        self._rows: deque[Json] = deque(maxlen=rows)
        self._new: list[tuple[int, datetime, Message]] = []
        self._told: dict[bytes, str] = {}
        self._names_image: Callable[[str], bool] = lambda text: False

    def hide_images(self, names_image: Callable[[str], bool]) -> None:
        """Show no device id that holds the address of an image, whoever makes one up.

        Args:
            names_image: Tells whether a text holds one.
        """
        self._names_image = names_image

    def add(self, message: Message) -> int | None:
        """Keep a message without its secrets; return its number, or None when tracing is off."""
        if not self.on:
            return None
        self.last += 1
        self._new.append((self.last, self._clock(), message))
        if len(self._new) == 1:
            self._defer(self._take_in)
        elif len(self._new) > MAX_NEW:
            self._take_in()
        return self.last

    def rows(self, *, after: int = 0, device_id: str | None = None) -> list[Json]:
        """Return the messages with greater numbers than `after`, of one device or of all."""
        self._take_in()
        return [
            {**row, "at": timestamp(row["at"])}
            for row in self._rows
            if row["number"] > after and device_id in (None, row["device_id"])
        ]

    @property
    def oldest(self) -> int:
        """The number of the oldest message that is kept, or will be."""
        self._take_in()
        return int(self._rows[0]["number"]) if self._rows else self.last + 1

    def clear(self) -> None:
        """Forget all messages; the numbers go on."""
        self._new.clear()
        self._rows.clear()

    def note_images(self, device_id: str, payload: bytes) -> None:
        """Remember which device is told the address of an image."""
        for token in _IMAGE_TOKEN.findall(payload):
            only = self._told.get(token, device_id) == device_id
            self._told[token] = device_id if only else ""
            if len(self._told) > _MAX_IMAGES:
                del self._told[next(iter(self._told))]

    def reader_of(self, token: str) -> str:
        """Return the device that alone was told an image's address; empty when none was.

        A download does not name its device: the address is all that it needs.
        """
        return self._told.get(token.encode(), "")

    def _take_in(self) -> None:
        new, self._new = self._new, []
        for number, at, message in new:
            hides = self._names_image(message.device_id)
            shown_id = HIDDEN if hides else mask_id(message.device_id)
            self._rows.append(_row(number, at, message, device_id=shown_id))


def _row(number: int, at: datetime, message: Message, *, device_id: str) -> Json:
    own = "" if device_id == HIDDEN else message.device_id
    address = mask_address(message.address, device_id=own)
    fields = IDENTITY_FIELDS if message.kind == "identity" else None
    words = (message.what, address, mask_text(message.reason)[:_MAX_REASON])
    return {
        "number": number,
        "at": at,
        "device_id": device_id,
        "kind": message.kind,
        "source": message.source,
        "target": message.target,
        "what": " ".join(word for word in words if word),
        "status": message.status,
        "size": len(message.body) if message.size is None else message.size,
        "body": mask_body(message.body, fields=fields, keep=device_id),
        "answers": message.answers,
        "is_acknowledgement": message.is_acknowledgement,
    }
