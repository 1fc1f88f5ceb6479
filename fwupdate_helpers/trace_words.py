"""What a message on the wire says, in words that a learner understands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from fwupdate_helpers.trace import HUB, SERVICE, TraceRow

_PACKETS: Final = {
    "PUBACK": "received",
    "SUBACK": "subscribed",
    "UNSUBACK": "unsubscribed",
    "CONNECT": "connect",
    "DISCONNECT": "goodbye",
    "CLOSE": "the connection ends",
}
_SUBSCRIPTIONS: Final = {
    "$iothub/methods/POST/#": "methods",
    "$iothub/twin/PATCH/properties/desired/#": "wishes",
    "$iothub/twin/res/#": "twin answers",
}
_TOPICS: Final[tuple[tuple[str, Callable[[re.Match[str], TraceRow], str]], ...]] = (
    (r"\$iothub/methods/POST/([^/]+)/", lambda found, row: f"call {found[1]}"),
    (r"\$iothub/methods/res/", lambda found, row: f"answer {row.status}"),
    (r"\$iothub/twin/GET/", lambda found, row: "read the twin"),
    (r"\$iothub/twin/PATCH/properties/reported/", lambda found, row: f"report{_names(row)}"),
    (r"\$iothub/twin/PATCH/properties/desired/", lambda found, row: f"wish{_names(row)}"),
    (r"\$iothub/twin/res/204/.*\$version=(\d+)", lambda found, row: f"taken, version {found[1]}"),
    (r"\$iothub/twin/res/200/", lambda found, row: "the twin"),
    (r"\$iothub/twin/res/", lambda found, row: f"refused, {row.status}"),
    (r"devices/.*/messages/events", lambda found, row: "telemetry"),
)
_REQUESTS: Final[tuple[tuple[str, Callable[[TraceRow], str]], ...]] = (
    (
        r"POST /twins/[^/]+/methods",
        lambda row: f"call {_body(row).get('methodName') or 'a method'}",
    ),
    (r"GET /twins/", lambda row: "read the twin"),
    (r"PATCH /twins/", lambda row: f"change the twin{_names(row)}"),
    (r"POST /devices/query", lambda row: "ask which devices"),
    (r"PUT /twins/", lambda row: "replace the twin"),
    (r"GET /devices", lambda row: "read the identity"),
    (r"PUT /devices", lambda row: "write the identity"),
    (r"DELETE /devices", lambda row: "delete the identity"),
    (r"GET /firmware/", lambda row: "fetch the image"),
)
_REQUEST: Final = re.compile(
    r"(GET|PUT|POST|PATCH|DELETE) "
    r"|PUBLISH \$iothub/(methods/POST|twin/GET|twin/PATCH/properties/reported)/"
)
_IMAGE_ANSWERS: Final[dict[int, str]] = {200: "the image", 206: "a part of the image"}
_NAMES_SHOWN: Final = 3


def words_for(row: TraceRow) -> str:
    """Return a few words for what a message says, in one line."""
    return " ".join(_words(row).split())


def _words(row: TraceRow) -> str:
    name, _, address = row.what.partition(" ")
    if name == "PUBLISH":
        return _first(_TOPICS, address, row) or "publish"
    if name == "SUBSCRIBE":
        return f"subscribe to {_SUBSCRIPTIONS.get(address, 'a topic')}"
    if name == "CONNACK":
        return "connected" if row.status == 0 else f"refused, code {row.status}"
    if name == "SUBACK" and has_failed(row):
        return "refused: IoT Hub has no such topic"
    if name in _PACKETS:
        return _PACKETS[name]
    if row.source == HUB:
        return _answer(row)
    return next((words(row) for pattern, words in _REQUESTS if re.match(pattern, row.what)), "ask")


def is_request(row: TraceRow) -> bool:
    """Tell whether a message asks for an answer other than that it has arrived."""
    return _REQUEST.match(row.what) is not None


def has_failed(row: TraceRow) -> bool:
    """Tell whether a message says that something did not work."""
    if row.what == "CONNACK":
        return row.status != 0
    if row.what == "SUBACK":
        return row.status is not None
    return row.status is not None and row.status >= 400


def _answer(row: TraceRow) -> str:
    if has_failed(row):
        return f"{row.status} {row.what}"
    if row.status == HTTPStatus.NO_CONTENT:
        return "done"
    if row.kind == "methods":
        return f"answer {_body(row).get('status', '')}".rstrip()
    if row.kind == "image" and row.status in _IMAGE_ANSWERS:
        return _IMAGE_ANSWERS[row.status]
    return {"twin": "the twin", "identity": "the identity", "query": "the rows"}.get(
        row.kind, f"{row.status} {row.what}"
    )


def _first(table: Any, text: str, row: TraceRow) -> str:
    for pattern, words in table:
        if found := re.match(pattern, text):
            return str(words(found, row))
    return ""


def _names(row: TraceRow) -> str:
    """Return the names at the top of a patch, for example `` speed, battery``."""
    body = _body(row)
    if row.target == HUB and row.source == SERVICE:
        properties = body.get("properties")
        desired = properties.get("desired") if isinstance(properties, dict) else None
        body = desired if isinstance(desired, dict) else body
    names = [name for name in body if not name.startswith("$")]
    more = ", …" if len(names) > _NAMES_SHOWN else ""
    return f" {', '.join(names[:_NAMES_SHOWN])}{more}" if names else ""


def _body(row: TraceRow) -> dict[str, Any]:
    try:
        content = json.loads(row.body)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
