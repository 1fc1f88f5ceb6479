"""Errors as HTTP responses: the status, the header and the two shapes of body that IoT Hub has.

Source: error bodies as seen in public captures.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from typing import Any, Final

from aiohttp import web

from fwupdate_helpers.localhub.errors import MESSAGE_TOO_LARGE, SERVER_ERROR, HubError
from fwupdate_helpers.localhub.jsontext import dumps

logger = logging.getLogger(__name__)

Json = dict[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_BODY: Final = 1024 * 1024
_IMAGE_TOKEN: Final = re.compile(r"(/firmware/|/images/)[^/]+(?=/)")


def _tracking_id() -> tuple[str, datetime]:
    now = datetime.now(timezone.utc)
    return f"{secrets.token_hex(16)}-G:0-TimeStamp:{now:%m/%d/%Y %H:%M:%S}", now


def error_response(error: HubError) -> web.Response:
    """Return an error in the shape that all routes but the methods have."""
    tracking_id, _ = _tracking_id()
    return _response(
        error,
        {
            "Message": f"ErrorCode:{error.name};{error.message}",
            "ExceptionMessage": f"Tracking ID:{tracking_id}",
        },
    )


def method_error(error: HubError) -> web.Response:
    """Return an error in the shape that a call of a direct method gets."""
    # The methods path wraps its details as JSON inside the message.
    tracking_id, now = _tracking_id()
    details = {
        "errorCode": error.code,
        "trackingId": tracking_id,
        "message": error.message,
        "timestampUtc": f"{now:%Y-%m-%dT%H:%M:%SZ}",
    }
    return _response(error, {"Message": dumps(details), "ExceptionMessage": ""})


def _response(error: HubError, body: Json) -> web.Response:
    headers = {"iothub-errorcode": error.name}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    return web.Response(
        status=error.status, text=dumps(body), content_type="application/json", headers=headers
    )


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except HubError as error:
        return error_response(error)
    except web.HTTPRequestEntityTooLarge:
        return error_response(HubError(MESSAGE_TOO_LARGE, f"The body is over {MAX_BODY} bytes."))
    except web.HTTPException:
        raise
    except Exception:
        path = _IMAGE_TOKEN.sub(r"\1***", request.path)
        logger.exception("%s %s could not be answered", request.method, path)
        return error_response(HubError(SERVER_ERROR, "The local hub failed; its log tells why."))
