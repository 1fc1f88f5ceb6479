"""Which errors of the hub are worth another try: one table, by error and by operation.

Source of the codes: Microsoft's "Understand and resolve Azure IoT Hub errors" and "Understand and
invoke direct methods from IoT Hub".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from html import escape
from typing import Final

from fwupdate_helpers.errors import (
    ANSWER_LOST,
    NOT_REACHED,
    NOT_TRUSTED,
    DeviceNotFound,
    DeviceOffline,
    FirmwareUpdateError,
    HubRequestError,
    HubUnauthorized,
    HubUnavailable,
    UpdateRejected,
    UpdateTimeout,
)

Cause = int | str
"""IoT Hub's error code (404103), an HTTP status (504), or a word such as ``answerLost``."""

REJECTED: Final = "rejected"
"""The device itself answered, with another status than 200."""


class Operation(str, Enum):
    """What is asked of the hub; the value is what people read."""

    IDENTITY = "identity"
    TWIN = "twin read"
    QUERY = "query"
    METHOD = "direct method"
    REQUEST = "request"


class Verdict(str, Enum):
    """What to do after an error; the value is what people read."""

    RETRY = "try again"
    IF_OFFLINE_ALLOWED = "only with retry_offline"
    LOOK = "look at the twin first"
    GIVE_UP = "give up"


@dataclass(frozen=True)
class RetryRule:
    """One line of the table.

    Attributes:
        cause: The error that it is about.
        name: What the error is called.
        read: The verdict for a twin read, and for other calls that do no harm when they come
            twice: a query, the kit's own create and delete of an identity.
        method: The verdict for a direct method.
        why: The reason.
    """

    cause: Cause
    name: str
    read: Verdict
    method: Verdict
    why: str

    def verdict(self, operation: Operation) -> Verdict:
        """Return what to do when `operation` ends in this error."""
        return self.method if operation is Operation.METHOD else self.read


class RetryRules(tuple[RetryRule, ...]):
    """The table; a notebook shows it as one."""

    __slots__ = ()

    def find(self, cause: Cause) -> RetryRule:
        """Return the rule for a cause: its own, that of its HTTP status, or that of its class.

        >>> RETRY_RULES.find(503001).cause, RETRY_RULES.find(412001).cause
        (503001, 412)
        """
        status = cause // 1000 if isinstance(cause, int) and cause > 999 else cause
        group = "5xx" if isinstance(status, int) and 500 <= status < 600 else "other"
        rules = {rule.cause: rule for rule in self}
        return rules.get(cause) or rules.get(status) or rules[group]

    def _repr_html_(self) -> str:
        head = ("error", "name", "twin read", "direct method", "why")
        rows = [
            (str(rule.cause), rule.name, rule.read.value, rule.method.value, rule.why)
            for rule in self
        ]
        return html_table(head, rows)


_RETRY, _LOOK, _NO = Verdict.RETRY, Verdict.LOOK, Verdict.GIVE_UP
_BUSY: Final = "The hub refuses at its door, so the device has got nothing."
_UNKNOWN: Final = "The hub may have passed the request on before it failed."

RETRY_RULES: Final = RetryRules(
    RetryRule(*row)
    for row in (
        (400, "bad request", _NO, _NO, "The same request fails again."),
        (401, "unauthorized", _NO, _NO, "The same credentials are refused again."),
        (403, "quota or limit", _NO, _NO, "A quota lasts for hours (403002: the next UTC day)."),
        (404001, "DeviceNotFound", _NO, _NO, "A device does not appear by itself."),
        (
            404103,
            "DeviceNotOnline",
            _NO,
            Verdict.IF_OFFLINE_ALLOWED,
            "Nothing ran, so it is safe; but a device may be offline for days.",
        ),
        (409, "conflict", _NO, _NO, "An identity of this name exists, also a second later."),
        (412, "PreconditionFailed", _NO, _NO, "Somebody changed it: read it, then decide anew."),
        (429, "throttling", _RETRY, _RETRY, _BUSY),
        (500, "ServerError", _RETRY, _LOOK, _UNKNOWN),
        (502, "bad gateway", _RETRY, _LOOK, _UNKNOWN),
        (503001, "ServiceUnavailable", _RETRY, _RETRY, _BUSY),
        (503005, "ServerBusy", _RETRY, _RETRY, _BUSY),
        (503, "a 503 without such a code", _RETRY, _LOOK, "It may be of a gateway on the way."),
        (504101, "GatewayTimeout", _RETRY, _LOOK, "The device did not answer; it may have run."),
        (504, "gateway time-out", _RETRY, _LOOK, _UNKNOWN),
        (501, "not implemented", _NO, _NO, "The hub does not know this request."),
        ("5xx", "another server error", _RETRY, _LOOK, _UNKNOWN),
        (NOT_REACHED, "no connection", _RETRY, _RETRY, "Nothing was sent."),
        (ANSWER_LOST, "answer lost", _RETRY, _LOOK, "The request was sent; it may have run."),
        (NOT_TRUSTED, "certificate", _NO, _NO, "Trust does not come with time."),
        (
            REJECTED,
            "the device's own refusal",
            _NO,
            _NO,
            "It is an answer. Status 409: an update runs; wait until it has ended.",
        ),
        ("other", "anything else", _NO, _NO, "Nothing is known that makes it safe."),
    )
)
"""Which errors are retried, for which operation."""


def cause_of(error: FirmwareUpdateError) -> Cause:
    """Return the cause to look up in `RETRY_RULES`.

    >>> cause_of(DeviceOffline("device-01", "It is offline."))
    404103
    """
    if isinstance(error, HubRequestError):
        return error.code or error.status
    if isinstance(error, HubUnavailable):
        return error.reason
    if isinstance(error, UpdateTimeout):
        return error.code or "other"
    known: dict[type[FirmwareUpdateError], Cause] = {
        DeviceOffline: 404103,
        DeviceNotFound: 404001,
        HubUnauthorized: 401,
        UpdateRejected: REJECTED,
    }
    return known.get(type(error), "other")


def html_table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a table for a notebook."""
    style = 'style="text-align:left"'
    titles = "".join(f'<th scope="col" {style}>{escape(title)}</th>' for title in head)
    lines = (
        "<tr>" + "".join(f"<td {style}>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


__all__ = [
    "REJECTED",
    "RETRY_RULES",
    "Cause",
    "Operation",
    "RetryRule",
    "RetryRules",
    "Verdict",
    "cause_of",
]
