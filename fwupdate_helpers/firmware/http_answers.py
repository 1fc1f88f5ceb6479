"""What a server's answer to a download request means; no I/O.

A resumed download sends ``Range: bytes=N-`` with ``If-Range``: the rest when the image is still
the one that the first N bytes belong to, else the whole (RFC 9110, sections 13.1.5 and 14). Some
servers ignore one of the two headers, so nothing in an answer is believed before it is checked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

from fwupdate_helpers.contract import CODE_DOWNLOAD_REFUSED
from fwupdate_helpers.errors import DownloadError

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
TEMPORARY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed later."""

_RANGE: Final = re.compile(r"bytes[ \t]+(\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII | re.I)
_NO_RANGE: Final = re.compile(r"bytes[ \t]+\*/(\d{1,18})", re.ASCII | re.I)
_STRONG_ETAG: Final = re.compile(r'"[!#-~]{0,200}"')
_SECONDS: Final = re.compile(r"\d{1,9}", re.ASCII)


class TemporaryProblem(Exception):
    """A try failed, and the next one may not.

    Attributes:
        asked_seconds: How long the server asked to wait, in seconds.
    """

    def __init__(self, reason: str, asked_seconds: float = 0.0) -> None:
        self.asked_seconds = asked_seconds
        super().__init__(reason)


class UselessPart(Exception):
    """What the device has cannot be completed, so it has to start over.

    Attributes:
        changed: Whether the image has certainly changed on the server.
    """

    def __init__(self, reason: str, *, changed: bool = False) -> None:
        self.changed = changed
        super().__init__(reason)


@dataclass(frozen=True)
class Partial:
    """What the device has of an image.

    Attributes:
        size: In bytes.
        validator: The strong ETag of the image they belong to, None when there is none.
        total: The size of the whole image in bytes, None when unknown.
    """

    size: int
    validator: str | None = None
    total: int | None = None


@dataclass(frozen=True)
class Body:
    """Which bytes of the image an answer brings.

    Attributes:
        start: The offset of its first byte.
        stop: The offset after its last byte, None when only the end of the answer tells.
        total: The size of the whole image in bytes, None when only the end of the answer tells.
        validator: The strong ETag of the image, None when the server gives none.
    """

    start: int
    stop: int | None
    total: int | None
    validator: str | None


def resume_headers(have: Partial) -> dict[str, str]:
    """Return the request headers that ask for what is missing.

    >>> resume_headers(Partial(1000, '"v2"'))
    {'Range': 'bytes=1000-', 'If-Range': '"v2"'}
    """
    if not have.size or have.validator is None:
        return {}
    return {"Range": f"bytes={have.size}-", "If-Range": have.validator}


def probe_headers(have: Partial) -> dict[str, str]:
    """Return the request headers that ask for the last byte at hand once more."""
    last = have.size - 1
    return {"Range": f"bytes={last}-{last}", "If-Range": have.validator or ""}


def strong_etag(value: str | None) -> str | None:
    """Return an ETag that promises the same bytes, or None for a weak, missing or malformed one.

    >>> strong_etag('"0x8DC"'), strong_etag('W/"0x8DC"')
    ('"0x8DC"', None)
    """
    text = (value or "").strip()
    return text if _STRONG_ETAG.fullmatch(text) else None


def content_range(value: str | None) -> tuple[int, int, int] | None:
    """Read the ``Content-Range`` of a 206.

    Returns:
        The offsets of the first byte and after the last, and the image's size; None when it is
        missing, malformed, contradicts itself or does not tell the size.

    Example:
        >>> content_range("bytes 100-199/1000")
        (100, 200, 1000)
    """
    match = _RANGE.fullmatch((value or "").strip())
    if match is None:
        return None
    first, last, total = (int(number) for number in match.groups())
    return (first, last + 1, total) if first <= last < total else None


def size_in_416(value: str | None) -> int | None:
    """Return the image's size in the ``Content-Range`` of a 416, in bytes, or None.

    >>> size_in_416("bytes */1000")
    1000
    """
    match = _NO_RANGE.fullmatch((value or "").strip())
    return int(match.group(1)) if match else None


def retry_after(value: str | None, now: datetime) -> float:
    """Return how long a server asks to wait, in seconds; 0 when it does not, or unreadably.

    Args:
        value: The header: a number of seconds, or an HTTP date.
        now: With a time zone.
    """
    text = (value or "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, (moment - now).total_seconds())


def check_status(
    status: int, headers: Mapping[str, str], *, ranged: bool, place: str, now: datetime
) -> None:
    """Go on with an answer that brings the image; raise for every other.

    Args:
        status: The HTTP status.
        headers: The answer's headers.
        ranged: Whether the request asked for a part of the image.
        place: What to call the address in messages.
        now: With a time zone, to read a date in ``Retry-After``.

    Raises:
        TemporaryProblem: It may work later.
        DownloadError: It will not, with the code `downloadRefused`.
    """
    if status in TEMPORARY:
        asked = retry_after(headers.get("Retry-After"), now)
        raise TemporaryProblem(f"the server answered {_named(status)}", asked)
    if status not in ((200, 206, 416) if ranged else (200,)):
        raise DownloadError(
            CODE_DOWNLOAD_REFUSED,
            f"The server refuses {place}: it answered {_named(status)}. {_advice(status)}",
        )
    encoding = headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "") and status != 416:
        raise DownloadError(
            CODE_DOWNLOAD_REFUSED,
            f"The server sends {place} compressed, which the device did not ask for. Publish the "
            "image without a Content-Encoding.",
        )


def _named(status: int) -> str:
    try:
        return f"{status} ({HTTPStatus(status).phrase})"
    except ValueError:
        return str(status)


def _advice(status: int) -> str:
    if status in (401, 403):
        return (
            "The signature in the address may have expired, or does not allow reading: publish "
            "the image again, and start the update with the new address."
        )
    if status in (404, 410):
        return "Check the address, and that the image is published."
    return "Check the address, and that a plain GET of it brings the image."


def whole_body(have: Partial, etag: str | None, length: int | None) -> tuple[Body, bool]:
    """Judge a 200: the image from its first byte.

    Args:
        have: What the device has.
        etag: The header.
        length: The header ``Content-Length`` in bytes, None when there is none.

    Returns:
        What it brings, and whether that is certainly another image than the one at hand.
    """
    validator = strong_etag(etag)
    changed = have.validator is not None and validator not in (None, have.validator)
    return Body(0, length, length, validator), changed


def partial_body(have: Partial, headers: Mapping[str, str], length: int | None) -> Body:
    """Judge a 206: the rest of the image, or a part of it that begins where the device stopped.

    Args:
        have: What the device has; its validator was sent in ``If-Range``.
        headers: The answer's headers.
        length: The header ``Content-Length`` in bytes, None when there is none.

    Raises:
        UselessPart: It does not fit what the device has.
    """
    etag = strong_etag(headers.get("ETag"))
    if etag is not None and etag != have.validator:
        raise UselessPart("the image changed on the server", changed=True)
    if etag is None:
        raise UselessPart("the server sent a part of an image, and did not tell of which")
    span = content_range(headers.get("Content-Range"))
    if span is None or span[0] != have.size or length not in (None, span[1] - span[0]):
        raise UselessPart("the server sent another part than the one it was asked for")
    start, stop, total = span
    if have.total not in (None, total):
        raise UselessPart("the size of the image changed on the server", changed=True)
    return Body(start, stop, total, etag)


def is_complete(have: Partial, headers: Mapping[str, str]) -> bool:
    """Judge a 416, the answer to a request for what comes after the last byte of an image.

    Returns:
        True when the device has the whole image; False when that has to be asked for with
        `probe_headers`, because the answer does not tell. Azure's blob service, for one, leaves
        the ETag out.

    Raises:
        UselessPart: The image is not the one at hand.
    """
    total = size_in_416(headers.get("Content-Range"))
    etag = strong_etag(headers.get("ETag"))
    if total not in (None, have.size) or etag not in (None, have.validator):
        raise UselessPart("the image changed on the server", changed=True)
    return total is not None and etag is not None


def check_probe(have: Partial, status: int, headers: Mapping[str, str]) -> None:
    """Judge the answer to `probe_headers`; returns when the device has the whole image.

    Raises:
        UselessPart: The image is not the one at hand.
    """
    etag = strong_etag(headers.get("ETag"))
    if etag not in (None, have.validator):
        raise UselessPart("the image changed on the server", changed=True)
    last_byte = (have.size - 1, have.size, have.size)
    if etag is None or status != 206 or content_range(headers.get("Content-Range")) != last_byte:
        raise UselessPart("the server does not tell whether the image is complete")
