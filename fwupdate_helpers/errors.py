"""One family of errors. Every message says what happened and what to do about it."""

from __future__ import annotations

from typing import Any, Final


class FirmwareUpdateError(Exception):
    """The base of every error that this kit raises on purpose.

    Attributes:
        attempts: How many tries failed before this was raised; 1 where none was repeated.
        seconds: From the first try to the end of the last one.
    """

    attempts: int = 1
    seconds: float = 0.0

    def tell_attempts(self, attempts: int, seconds: float) -> None:
        """Note how often and how long it was tried, in the attributes and in the message."""
        self.attempts, self.seconds = attempts, seconds
        if attempts > 1:
            self.args = (f"{self} Tried {attempts} times over {seconds:.1f} s.",)


class InvalidConnectionString(FirmwareUpdateError):
    """A connection string lacks a part or has a bad one; the message never shows the key.

    Attributes:
        part: The part that is wrong, for example ``HostName``.
    """

    def __init__(self, part: str, problem: str) -> None:
        self.part = part
        super().__init__(problem)


NOT_REACHED: Final = "notReached"
"""No connection came about, so the hub got nothing of the request."""
ANSWER_LOST: Final = "answerLost"
"""The request was sent, and the connection broke, or the time was up, before the answer came."""
NOT_TRUSTED: Final = "notTrusted"
"""The hub's certificate is not trusted, or the CA that should vouch for it cannot be read."""


class HubUnavailable(FirmwareUpdateError):
    """No hub answers: the local hub did not start, or the network does not reach it.

    Attributes:
        reason: `NOT_REACHED`, `ANSWER_LOST` or `NOT_TRUSTED`.
    """

    def __init__(self, message: str, *, reason: str = NOT_REACHED) -> None:
        self.reason = reason
        super().__init__(message)


class HubUnauthorized(FirmwareUpdateError):
    """The hub refused the credentials (HTTP 401, or CONNACK 5 for a device)."""


class HubRequestError(FirmwareUpdateError):
    """The hub refused a request for another reason.

    Attributes:
        status: The HTTP status.
        code: IoT Hub's own error code, for example 412001, or None where it sent none.
        retry_after: Seconds to wait as the answer's ``Retry-After`` says; None where it has none.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.status = status
        self.code = code
        self.retry_after = retry_after
        super().__init__(message)


class HubThrottled(HubRequestError):
    """The hub got more requests than it takes, and did nothing with this one (HTTP 429)."""


class HubQuotaExceeded(HubRequestError):
    """The hub's messages of the day are used up (403002), until the next day in UTC begins."""


class QueryRefused(HubRequestError):
    """The hub does not understand a query (HTTP 400); the message has the hub's own words.

    Attributes:
        query: The query's text.
    """

    def __init__(self, message: str, *, query: str, code: int | None) -> None:
        self.query = query
        super().__init__(message, status=400, code=code)


class _DeviceError(FirmwareUpdateError):
    def __init__(self, device_id: str, message: str) -> None:
        self.device_id = device_id
        super().__init__(message)


class DeviceNotFound(_DeviceError):
    """The hub has no such device identity, or it is disabled (404001)."""


class DeviceOffline(_DeviceError):
    """The device is not connected, or listens to no direct method (404103)."""


class DeviceIdInUse(_DeviceError):
    """Another client with the same device id writes its twin and takes over the connection."""


class FleetInUse(FirmwareUpdateError):
    """Another kernel or program on this computer runs a fleet of that name."""


class FleetNotStarted(FirmwareUpdateError):
    """Devices of a fleet did not come so far as to be connected to the hub.

    Attributes:
        reasons: For each device id that failed, why.
    """

    def __init__(self, message: str, *, reasons: dict[str, str]) -> None:
        self.reasons = reasons
        super().__init__(message)


class UpdateRejected(_DeviceError):
    """The device answered the direct method with another status than 200.

    Attributes:
        status: The status of the device's answer, for example 409 while an update runs.
        payload: The payload of the device's answer.
    """

    def __init__(self, device_id: str, message: str, *, status: int, payload: Any) -> None:
        self.status = status
        self.payload = payload
        super().__init__(device_id, message)


class UpdateFailed(_DeviceError):
    """The device reported that the update ended in an error.

    Attributes:
        code: The code in the twin's `firmwareUpdate.error`.
    """

    def __init__(self, device_id: str, message: str, *, code: str) -> None:
        self.code = code
        super().__init__(device_id, message)


class UpdateTimeout(_DeviceError):
    """The device did not answer, or did not reach the end, in the time that was given.

    Attributes:
        code: Why there is no answer to a direct method, which may have run: 504101, 504 or
            `ANSWER_LOST`. None when it was answered, and the end did not come.
    """

    def __init__(self, device_id: str, message: str, *, code: int | str | None = None) -> None:
        self.code = code
        super().__init__(device_id, message)


class StageError(FirmwareUpdateError):
    """A stage of the update failed on the device.

    Attributes:
        code: One of the error codes of `contract`, for the twin's `firmwareUpdate.error`.
    """

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


class DownloadError(StageError):
    """The image could not be got."""


class ImageRefused(StageError):
    """The image was got, and is not one that this device may run."""


class FaultsUnavailable(FirmwareUpdateError):
    """This hub makes nothing fail on purpose: it is on Azure, or was started without faults."""


class FaultRefused(FirmwareUpdateError):
    """The local hub does not make a fault as it was asked for; the message tells why."""
