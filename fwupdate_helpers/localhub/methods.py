"""Direct methods: a request from a service that waits for a device's answer.

Source: Microsoft's "Understand and invoke direct methods from IoT Hub"
(iot-hub-devguide-direct-methods.md).
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from fwupdate_helpers.localhub.errors import (
    ARGUMENT_INVALID,
    DEVICE_NOT_ONLINE,
    FORMAT_ERROR,
    GATEWAY_TIMEOUT,
    TOO_MANY_METHODS,
    HubError,
)
from fwupdate_helpers.localhub.jsontext import dumps, loads
from fwupdate_helpers.localhub.throttle import Throttle

Json = dict[str, Any]

MAX_PAYLOAD: Final = 128 * 1024
MAX_IN_FLIGHT: Final = 100
"""Open calls to one device; Azure has a limit and does not tell it."""
_MISSING: Final = object()
_NAME = re.compile(r"""[!-~]{1,100}""")
_FORBIDDEN = set('$()<>@,;:\\"/[]?={}#+')
"""Separators of HTTP, and the wildcards of MQTT, which no topic may hold."""


class Devices(Protocol):
    """What direct methods need of the device endpoint."""

    def send_method(self, device_id: str, name: str, request_id: str, payload: bytes) -> bool:
        """Send a request to the device; False when it is offline or takes no methods."""

    async def wait_for_methods(self, device_id: str, seconds: float) -> bool:
        """Wait until the device takes methods; False when it does not in that time."""


@dataclass(frozen=True)
class MethodRequest:
    """A checked request.

    Attributes:
        payload: JSON, or empty when the service sent none.
        response_timeout: Seconds to wait for the answer.
        connect_timeout: Seconds to wait for an offline device.
    """

    name: str
    payload: bytes
    response_timeout: int
    connect_timeout: int

    @classmethod
    def from_json(cls, body: Json) -> MethodRequest:
        """Check a request as the REST API takes it; raise `HubError` 400004 for a bad one."""
        name, payload = body.get("methodName"), body.get("payload", _MISSING)
        if not isinstance(name, str) or not _NAME.fullmatch(name) or _FORBIDDEN & set(name):
            raise HubError(ARGUMENT_INVALID, "methodName must be printable ASCII, no separators.")
        raw = b"" if payload is _MISSING else dumps(payload).encode()
        if len(raw) > MAX_PAYLOAD:
            raise HubError(ARGUMENT_INVALID, f"The payload is over {MAX_PAYLOAD} bytes.")
        return cls(
            name=name,
            payload=raw,
            response_timeout=_seconds(body, "responseTimeoutInSeconds", 5, default=30),
            connect_timeout=_seconds(body, "connectTimeoutInSeconds", 0, default=0),
        )


def _seconds(body: Json, field: str, least: int, *, default: int) -> int:
    value = body.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 300:
        raise HubError(ARGUMENT_INVALID, f"{field} must be within [{least}; 300].")
    return value


class DirectMethods:
    """Pairs the requests that services make with the answers that devices give.

    Args:
        throttle: Counts the messages that calls cost; None counts none.
    """

    def __init__(self, throttle: Throttle | None = None) -> None:
        self._throttle = throttle
        self._waiting: dict[tuple[str, str], asyncio.Future[Json]] = {}

    async def invoke(
        self,
        devices: Devices,
        device_id: str,
        request: MethodRequest,
        *,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> Json:
        """Call a method and return ``{"status": int, "payload": …}`` as the device gave it.

        Args:
            devices: The way to the devices.
            device_id: The device to call.
            request: What to call.
            is_wanted: Whether somebody still waits for the answer. A call whose service has hung
                up while the device was away is not made (what IoT Hub does is not documented).

        Raises:
            HubError: 404103 offline, 504101 no answer in time, 403800 too many open calls,
                400006 an answer that is no JSON, 403002 the messages of the day are used up.
        """
        if self._throttle is not None:
            self._throttle.check_quota()
        if sum(device == device_id for device, _ in self._waiting) >= MAX_IN_FLIGHT:
            raise HubError(TOO_MANY_METHODS, f"{MAX_IN_FLIGHT} calls to the device are open.")
        request_id = secrets.token_hex(8)
        answer: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._waiting[device_id, request_id] = answer
        try:
            is_there = await devices.wait_for_methods(device_id, request.connect_timeout)
            sent = (
                is_there
                and is_wanted()
                and devices.send_method(device_id, request.name, request_id, request.payload)
            )
            self._charge(request.payload)
            if not sent:
                self._charge(b"")  # the answer that the device is offline counts, too
                raise _offline()
            # A device that drops out may come back and still answer, so nothing ends the wait
            # but the answer and the clock.
            return await asyncio.wait_for(answer, request.response_timeout)
        except asyncio.TimeoutError as error:
            raise HubError(
                GATEWAY_TIMEOUT, "Timed out waiting for the response from device."
            ) from error
        finally:
            del self._waiting[device_id, request_id]

    def waits_for(self, device_id: str, request_id: str) -> bool:
        """Tell whether a service waits for this answer."""
        waiting = self._waiting.get((device_id, request_id))
        return waiting is not None and not waiting.done()

    def answer(self, device_id: str, request_id: str, status: int, payload: bytes) -> None:
        """Take a device's answer; one that comes late, twice or from another device is dropped."""
        waiting = self._waiting.get((device_id, request_id))
        if waiting is None or waiting.done():
            return
        self._charge(payload)
        try:
            if len(payload) > MAX_PAYLOAD:
                raise HubError(FORMAT_ERROR, f"The device's answer is over {MAX_PAYLOAD} bytes.")
            content = loads(payload) if payload.strip() else None
        except HubError as error:
            waiting.set_exception(HubError(error.code, f"The device's answer: {error.message}"))
        else:
            waiting.set_result({"status": status, "payload": content})

    def _charge(self, payload: bytes) -> None:
        if self._throttle is not None:
            self._throttle.charge(len(payload))


def _offline() -> HubError:
    return HubError(
        DEVICE_NOT_ONLINE,
        "The operation failed because the requested device isn't online or hasn't registered "
        "the direct method callback.",
    )
