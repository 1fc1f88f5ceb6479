"""The errors that the hub answers with, and those of the hub itself.

Names and numbers: Microsoft's "Understand and resolve Azure IoT Hub errors"
(troubleshoot-error-codes.md). The HTTP status is the first three digits of the number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ARGUMENT_INVALID: Final = 400004
FORMAT_ERROR: Final = 400006
INVALID_PROTOCOL_VERSION: Final = 400001
INVALID_OPERATION: Final = 400003
DEVICE_DEFINED_MULTIPLE_TIMES: Final = 400011
BULK_REGISTRY_OPERATION_FAILURE: Final = 400013
INVALID_CONFIGURATION_TARGET: Final = 400401
INVALID_CONFIGURATION_CONTENT: Final = 400402
CONFIGURATION_CONTENT_IMMUTABLE: Final = 400403
INVALID_CONFIGURATION_METRICS: Final = 400404
UNAUTHORIZED_ACCESS: Final = 401002
UNAUTHORIZED: Final = 401003
QUOTA_EXCEEDED: Final = 403002
TOO_MANY_METHODS: Final = 403800
DEVICE_NOT_FOUND: Final = 404001
JOB_NOT_FOUND: Final = 404002
DEVICE_NOT_ONLINE: Final = 404103
ROUTE_NOT_FOUND: Final = 404000
CONFIGURATION_NOT_FOUND: Final = 404301
DEVICE_ALREADY_EXISTS: Final = 409001
JOB_ALREADY_EXISTS: Final = 409104
CONFIGURATION_ALREADY_EXISTS: Final = 409401
PRECONDITION_FAILED: Final = 412001
JOB_PRECONDITION_FAILED: Final = 412003
MESSAGE_TOO_LARGE: Final = 413001
TOO_MANY_DEVICES: Final = 413002
TOO_MANY_CONFIGURATIONS: Final = 413101
THROTTLED: Final = 429001
TOO_MANY_ACTIVE_JOBS: Final = 429004
SERVER_ERROR: Final = 500001
NOT_IMPLEMENTED: Final = 501000
SERVICE_UNAVAILABLE: Final = 503001
GATEWAY_TIMEOUT: Final = 504101

NAMES: Final = {
    ARGUMENT_INVALID: "ArgumentInvalid",
    FORMAT_ERROR: "IotHubFormatError",
    INVALID_PROTOCOL_VERSION: "InvalidProtocolVersion",
    DEVICE_DEFINED_MULTIPLE_TIMES: "DeviceDefinedMultipleTimes",
    BULK_REGISTRY_OPERATION_FAILURE: "BulkRegistryOperationFailure",
    INVALID_OPERATION: "InvalidOperation",
    INVALID_CONFIGURATION_TARGET: "InvalidConfigurationTargetCondition",
    INVALID_CONFIGURATION_CONTENT: "InvalidConfigurationContent",
    CONFIGURATION_CONTENT_IMMUTABLE: "CannotModifyImmutableConfigurationContent",
    INVALID_CONFIGURATION_METRICS: "InvalidConfigurationCustomMetricsQuery",
    UNAUTHORIZED_ACCESS: "IotHubUnauthorizedAccess",
    UNAUTHORIZED: "IotHubUnauthorized",
    QUOTA_EXCEEDED: "IotHubQuotaExceeded",
    TOO_MANY_METHODS: "DeviceMaximumInflightMethodExceeded",
    DEVICE_NOT_FOUND: "DeviceNotFound",
    JOB_NOT_FOUND: "JobNotFound",
    DEVICE_NOT_ONLINE: "DeviceNotOnline",
    ROUTE_NOT_FOUND: "NotFound",
    CONFIGURATION_NOT_FOUND: "ConfigurationNotFound",
    DEVICE_ALREADY_EXISTS: "DeviceAlreadyExists",
    JOB_ALREADY_EXISTS: "JobAlreadyExists",
    CONFIGURATION_ALREADY_EXISTS: "ConfigurationAlreadyExists",
    PRECONDITION_FAILED: "PreconditionFailed",
    JOB_PRECONDITION_FAILED: "JobRunPreconditionFailed",
    MESSAGE_TOO_LARGE: "MessageTooLarge",
    TOO_MANY_DEVICES: "TooManyDevices",
    TOO_MANY_CONFIGURATIONS: "ConfigurationCountLimitExceeded",
    THROTTLED: "ThrottlingException",
    TOO_MANY_ACTIVE_JOBS: "ThrottlingMaxActiveJobCountExceeded",
    SERVER_ERROR: "ServerError",
    NOT_IMPLEMENTED: "NotImplemented",
    SERVICE_UNAVAILABLE: "ServiceUnavailable",
    GATEWAY_TIMEOUT: "GatewayTimeout",
}


class HubError(Exception):
    """An answer of the hub that is not a success.

    Attributes:
        code: IoT Hub's six-digit error code.
        name: Its name, as the header ``iothub-errorcode`` carries it.
        status: The HTTP status, the first three digits of the code.
        retry_after: Seconds that the answer asks to wait, or None.
    """

    def __init__(self, code: int, message: str, *, retry_after: int | None = None) -> None:
        self.code = code
        self.name = NAMES[code]
        self.status = code // 1000
        self.message = message
        self.retry_after = retry_after
        super().__init__(message)


class LocalHubError(Exception):
    """The local hub cannot start, be reached or be stopped; the message tells what to do.

    Attributes:
        happened: The part of the message that says what happened.
        fix: The part that says what to do, where the two were given apart.
    """

    def __init__(self, happened: str, fix: str = "") -> None:
        self.happened = happened
        self.fix = fix
        super().__init__(f"{happened} {fix}".strip())


class PortTaken(LocalHubError):
    """Another program listens on a port that the hub needs.

    Attributes:
        port: The port.
        owner: The process that listens there, where the system tells it to this user.
    """

    def __init__(self, happened: str, fix: str, *, port: int, owner: PortOwner | None) -> None:
        self.port = port
        self.owner = owner
        super().__init__(happened, fix)


class HubSilent(LocalHubError):
    """A hub holds its folder and does not answer.

    Attributes:
        pid: Its process id, where its folder tells it.
    """

    def __init__(self, happened: str, fix: str, *, pid: int | None) -> None:
        self.pid = pid
        super().__init__(happened, fix)


@dataclass(frozen=True)
class PortOwner:
    """A process that listens on a port."""

    name: str
    pid: int

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid})"
