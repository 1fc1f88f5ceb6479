"""What a check reads from the wire trace of the local hub: who asked for what, and in which order.

On Azure there is no trace: the rows are empty, and a check does with what the device and the twin
tell.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fwupdate_helpers.trace import DEVICE, SERVICE, TraceRow

Json = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """A direct method that a service has asked for.

    Attributes:
        number: Its place among all messages.
        name: The method.
        connect_seconds: How long the hub was to wait for the device.
        status: The HTTP status of the hub's answer; None when it has not answered yet.
    """

    number: int
    name: str
    connect_seconds: int
    status: int | None


def calls(rows: Iterable[TraceRow]) -> list[Call]:
    """Return the direct methods that services have asked for, in their order."""
    rows = list(rows)
    answers = {row.answers: row.status for row in rows if row.target == SERVICE}
    found = []
    for row in rows:
        if row.source == SERVICE and row.kind == "methods":
            body = _body(row)
            name, seconds = body.get("methodName", ""), body.get("connectTimeoutInSeconds", 0)
            found.append(Call(row.number, str(name), seconds, answers.get(row.number)))
    return found


def reads(rows: Iterable[TraceRow]) -> list[int]:
    """Return the numbers of the messages with which services have read the twin."""
    return [row.number for row in rows if row.source == SERVICE and row.what.startswith("GET /tw")]


def connects(rows: Iterable[TraceRow]) -> list[int]:
    """Return the numbers of the messages with which the device has connected."""
    return [row.number for row in rows if row.source == DEVICE and row.what.startswith("CONNECT")]


def reports(rows: Iterable[TraceRow]) -> list[Json]:
    """Return the reported patches that the device has sent, in their order."""
    patches = "PUBLISH $iothub/twin/PATCH/properties/reported/"
    return [_body(row) for row in rows if row.source == DEVICE and row.what.startswith(patches)]


def _body(row: TraceRow) -> Json:
    try:
        content = json.loads(row.body)
    except ValueError:  # cut, because it is long
        return {}
    return content if isinstance(content, dict) else {}
