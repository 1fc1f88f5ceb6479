"""JSON as IoT Hub writes and reads it: compact out, strict in."""

from __future__ import annotations

import json
import math
import re
from datetime import datetime, timezone
from typing import Any, Final

from fwupdate_helpers.localhub.errors import FORMAT_ERROR, HubError

NEVER = "0001-01-01T00:00:00Z"
_TIMESTAMP: Final = re.compile(
    r"(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.(?P<fraction>[0-9]{1,9}))?"
    r"(?P<zone>[Zz]|[+-][0-9]{2}:[0-9]{2})?"
)


def dumps(content: Any) -> str:
    """Write compact JSON."""
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False)


def loads(raw: bytes | str) -> Any:
    """Read JSON.

    Raises:
        HubError: 400006, it is no JSON in UTF-8, nests too deep, or holds a number that no
            float can hold or half a surrogate pair.
    """
    try:
        # json itself would take UTF-16 and bytes that stand for half a surrogate pair.
        text = raw.decode() if isinstance(raw, bytes) else raw
        content = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        if "\\ud" in text.lower():
            dumps(content).encode()
    except (ValueError, RecursionError) as error:
        raise HubError(FORMAT_ERROR, "The body is not valid JSON.") from error
    return content


def loads_object(raw: bytes | str) -> dict[str, Any]:
    """Read a JSON object; raise `HubError` 400006 for anything else."""
    content = loads(raw)
    if not isinstance(content, dict):
        raise HubError(FORMAT_ERROR, "The body must be a JSON object.")
    return content


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits} is too large")
    return number


def timestamp(moment: datetime) -> str:
    """Write a time as IoT Hub does: ISO 8601, UTC, seven digits of a second."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f") + "0Z"


def read_timestamp(text: str) -> datetime | None:
    """Read an ISO 8601 time, up to nine digits of a second; one without a zone is UTC.

    Returns:
        The time in UTC; None for anything else.
    """
    found = _TIMESTAMP.fullmatch(text)
    if found is None:
        return None
    date, fraction, zone = found["date"], (found["fraction"] or "")[:6].ljust(6, "0"), found["zone"]
    offset = "+00:00" if zone in (None, "Z", "z") else zone
    try:
        return datetime.fromisoformat(f"{date}.{fraction}{offset}").astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None
