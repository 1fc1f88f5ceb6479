"""Requests to the routes that the local hub has, and an IoT Hub on Azure does not."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Final

from fwupdate_helpers.errors import HubRequestError, HubUnauthorized, HubUnavailable
from fwupdate_helpers.localhub.errors import NAMES
from fwupdate_helpers.localhub.redaction import mask_text

if TYPE_CHECKING:
    from requests import Response

    from fwupdate_helpers.hub import Hub

_CODES: Final = {name: code for code, name in NAMES.items()}


def send(hub: Hub, method: str, path: str, body: BinaryIO | None = None) -> Response:
    """Send a request, and return an answer that says that it was carried out.

    Args:
        hub: A local hub.
        method: The HTTP method.
        path: Percent-encoded, with its query.
        body: Sent as it is read, never held in memory as a whole.

    Raises:
        HubUnavailable: The hub does not answer.
        HubUnauthorized: The hub refuses the key of this `Hub`.
        HubRequestError: The hub refuses the request; the message has its reason, without secrets.
    """
    try:
        with masked_logs():
            response = hub.local_request(method, path, body)
    except OSError as error:
        problem = type(error).__name__
    else:
        _check(response)
        return response
    # Raised here and not while the other is handled: its text holds the address.
    raise HubUnavailable(
        f"The local hub does not answer ({problem}). Run the notebook's set-up cell again."
    )


def _check(response: Response) -> None:
    if response.ok:
        return
    if response.status_code == 401:
        raise HubUnauthorized(
            "The local hub refuses this connection; it may have been reset. Run the notebook's "
            "set-up cell again."
        )
    try:
        message = str(response.json()["Message"]).partition(";")[2]
    except (ValueError, KeyError, TypeError):
        message = "no reason given."
    raise HubRequestError(
        f"The local hub answers {response.status_code}: {mask_text(message)}",
        status=response.status_code,
        code=_CODES.get(response.headers.get("iothub-errorcode", "")),
    )


class _Mask(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = mask_text(record.getMessage()), ()
        return True


@contextmanager
def masked_logs() -> Iterator[None]:
    """Mask what urllib3 logs at level DEBUG: every address with its query."""
    mask = _Mask()
    loggers = [logging.getLogger(f"urllib3.{name}") for name in ("connectionpool", "util.retry")]
    for logger in loggers:
        logger.addFilter(mask)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(mask)
