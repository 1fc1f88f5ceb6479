"""From the exceptions of the two SDKs to this kit's errors.

azure-iot-hub keeps IoT Hub's error code hidden in the body of the response; here it decides.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, TypeVar

from azure.core.exceptions import ClientAuthenticationError
from msrest.exceptions import ClientRequestError, HttpOperationError
from requests.exceptions import ConnectionError as NoConnection
from requests.exceptions import ConnectTimeout, ProxyError, RequestException, SSLError
from urllib3.exceptions import ConnectTimeoutError, MaxRetryError, NewConnectionError

from fwupdate_helpers.errors import (
    ANSWER_LOST,
    NOT_REACHED,
    NOT_TRUSTED,
    DeviceNotFound,
    DeviceOffline,
    FirmwareUpdateError,
    HubQuotaExceeded,
    HubRequestError,
    HubThrottled,
    HubUnauthorized,
    HubUnavailable,
    SignInUnavailable,
    UpdateTimeout,
)
from fwupdate_helpers.firmware.http_answers import retry_after

if TYPE_CHECKING:
    from requests import PreparedRequest, Request, Response

# Names and numbers of IoT Hub's error codes: learn.microsoft.com, "Understand and resolve Azure
# IoT Hub errors". A response carries one or the other.
_CODES: Final = {
    "InvalidProtocolVersion": 400001,
    "InvalidOperation": 400003,
    "ArgumentInvalid": 400004,
    "ArgumentNull": 400005,
    "IotHubFormatError": 400006,
    "DeserializationError": 400012,
    "IotHubUnauthorizedAccess": 401002,
    "IotHubUnauthorized": 401003,
    "IotHubQuotaExceeded": 403002,
    "JobQuotaExceeded": 403003,
    "DeviceDisabled": 403012,
    "DeviceMaximumInflightMethodExceeded": 403800,
    "DeviceNotFound": 404001,
    "JobNotFound": 404002,
    "ModuleNotFound": 404010,
    "DeviceNotOnline": 404103,
    "ConfigurationNotFound": 404301,
    "DeviceAlreadyExists": 409001,
    "JobAlreadyExists": 409104,
    "ConfigurationAlreadyExists": 409401,
    "PreconditionFailed": 412001,
    "JobRunPreconditionFailed": 412003,
    "MessageTooLarge": 413001,
    "ThrottlingException": 429001,
    "ThrottleBacklogLimitExceeded": 429002,
    "ThrottlingBacklogTimeout": 429003,
    "ThrottlingMaxActiveJobCountExceeded": 429004,
    "DeviceThrottlingLimitExceeded": 429005,
    "ServerError": 500001,
    "GenericTimeout": 500008,
    "ServiceUnavailable": 503001,
    "ServerBusy": 503005,
    "DeviceUnavailable": 503102,
    "GatewayTimeout": 504101,
}
_ADVICE: Final = {
    400: "check the arguments of the call",
    403: "a limit of the hub or of the device is reached; try again later",
    409: "it exists already; read it first",
    412: "somebody else changed it meanwhile; read it again, then repeat the change",
    413: "send less at once",
    429: "too many requests; wait a few seconds, then try again",
    501: "the local hub does not know this request; the Azure IoT Hub does",
}


@contextmanager
def hub_errors(device_id: str = "") -> Iterator[None]:
    """Turn the errors of SDK calls about one device into this kit's; without one, about many.

    Raises:
        DeviceNotFound: 404001, or 404 without a code.
        DeviceOffline: 404103.
        UpdateTimeout: A direct method was sent, and no answer came: 504, or the connection was
            lost, or the SDK's own time limit was reached.
        HubUnauthorized: 401.
        HubThrottled: 429.
        HubQuotaExceeded: 403002.
        HubRequestError: Any other HTTP error.
        HubUnavailable: No response at all, or only server errors after the SDK's retries.
        SignInUnavailable: azure-identity finds nobody who is signed in.

    Example:
        >>> with hub_errors("device-01"):  # doctest: +SKIP
        ...     twin = registry.get_twin("device-01")
    """
    try:
        yield
    except HttpOperationError as error:
        raise _refusal(device_id, error.response) from without_frames(error)
    except ClientRequestError as error:
        raise _no_response(device_id, error.inner_exception) from without_frames(error)
    except ClientAuthenticationError as error:
        raise SignInUnavailable(
            "Nobody is signed in to Azure here. Run `az login` in a terminal and try again, or set "
            "FWUPDATE_IOTHUB_CONNECTION_STRING."
        ) from without_frames(error)
    except OSError as error:  # the SDK lets a missing CA file through as it is
        raise _no_response(device_id, error) from without_frames(error)


E = TypeVar("E", bound=BaseException)


def without_frames(error: E) -> E:
    """Return an error of an SDK, with what it came from, without their tracebacks.

    A token or a key is the value of some variable there, and there are tools that show all values:
    ``%xmode Verbose``, pytest's ``-l``, services that collect crashes.
    """
    link: BaseException | None = error
    while link is not None and link.__traceback__ is not None:
        link.__traceback__ = None
        inner = getattr(link, "inner_exception", None)
        if isinstance(inner, BaseException):
            without_frames(inner)
        link = link.__cause__ or link.__context__
    return error


def error_code(response: Response) -> int | None:
    """Read IoT Hub's error code, for example 404103, or None where there is none.

    The hub writes bodies of two shapes: with a name in the message (``ErrorCode:DeviceNotFound;…``)
    or with JSON inside it. The prose differs between versions, so it is not read.
    """
    try:
        message = json.loads(response.text)["Message"]
    except (ValueError, TypeError, KeyError):
        message = None
    return _code_in(message) or _as_code(response.headers.get("iothub-errorcode"))


def _code_in(message: object) -> int | None:
    if not isinstance(message, str):
        return None
    try:
        return _as_code(json.loads(message)["errorCode"])
    except (ValueError, TypeError, KeyError):
        return _as_code(message.removeprefix("ErrorCode:").partition(";")[0])


def _as_code(text: object) -> int | None:
    number = str(text).strip()
    if number.isascii() and number.isdigit() and len(number) == 6:
        return int(number)
    return _CODES.get(number)


def _refusal(device_id: str, response: Response) -> FirmwareUpdateError:
    status, code = response.status_code, error_code(response)
    if code == _CODES["DeviceNotOnline"]:
        return DeviceOffline(
            device_id,
            f"Device {device_id} is not connected, or listens to no direct method. "
            "Start the device, wait until it reports standBy, then try again.",
        )
    if code == _CODES["DeviceNotFound"] or (status == 404 and code is None):
        return DeviceNotFound(
            device_id,
            f"The hub has no device {device_id}, or it is disabled. "
            "Check the spelling, or create the device first.",
        )
    if code == _CODES["GatewayTimeout"] or (status == 504 and _is_method_call(response.request)):
        return _no_answer(device_id, code or status)
    if status == 401:
        return HubUnauthorized(
            "The hub refused the service's credentials. Check that the connection string is of "
            "this hub, that its policy has the permissions registry read, registry write and "
            "service connect (iothubowner has them), and that the clock here is right. A sign-in "
            "without a connection string needs the role IoT Hub Data Contributor."
        )
    if code == _CODES["IotHubQuotaExceeded"]:
        return _quota_exceeded(status, code)
    kind = HubThrottled if status == 429 else HubRequestError
    asked = _asked_seconds(response)
    wait = "" if asked is None else f" It asks to wait {asked:g} s."
    advice = _ADVICE.get(status, "try again later")
    about = f" about device {device_id}" if device_id else ""
    message = f"The hub refused a request{about} with {code or status}: {advice}.{wait}"
    return kind(message, status=status, code=code, retry_after=asked)


def _quota_exceeded(status: int, code: int) -> HubQuotaExceeded:
    return HubQuotaExceeded(
        "The hub's messages of the day are used up (403002); it takes none, from services or "
        "devices, until 00:00 UTC. Go on then, or now with another hub: the local one (unset "
        "FWUPDATE_IOTHUB_CONNECTION_STRING), or one of tier S1 (400,000 messages a day; the free "
        "tier F1 has 8,000). Fewer devices, fewer live views and longer intervals use fewer.",
        status=status,
        code=code,
    )


def _asked_seconds(response: Response) -> float | None:
    # Against the hub's own clock, where it tells it: the clock here may be wrong.
    try:
        now = parsedate_to_datetime(response.headers.get("Date", "")).astimezone(timezone.utc)
    except (TypeError, ValueError, OverflowError):
        now = datetime.now(timezone.utc)
    return retry_after(response.headers.get("Retry-After"), now) or None


def _is_method_call(request: PreparedRequest | Request | None) -> bool:
    path = str(request.url if request else "").partition("?")[0]
    return path.endswith("/methods")


def _no_answer(device_id: str, code: int | str) -> UpdateTimeout:
    what = "The answer was lost" if code == ANSWER_LOST else "It did not answer in time"
    return UpdateTimeout(
        device_id,
        f"There is no answer from device {device_id}. {what}, and it may have begun the update "
        "all the same: look at its twin before you invoke the method again.",
        code=code,
    )


_WHAT: Final = {
    NOT_REACHED: "is not reached",
    ANSWER_LOST: "does not answer, or with server errors only",
    NOT_TRUSTED: "shows a certificate that this client does not trust",
}


def _no_response(device_id: str, cause: Exception | None) -> FirmwareUpdateError:
    reason = _reason(cause)
    request = cause.request if isinstance(cause, RequestException) else None
    if reason == ANSWER_LOST and _is_method_call(request):
        return _no_answer(device_id, reason)
    return HubUnavailable(
        f"The hub {_WHAT[reason]}. Check that it runs and that the network leads to it; "
        "for the local hub, run the notebook's set-up cell again.",
        reason=reason,
    )


def _reason(cause: Exception | None) -> str:
    if isinstance(cause, SSLError):  # one that was cut short is no reason for distrust
        return ANSWER_LOST if "EOF" in str(cause) else NOT_TRUSTED
    if isinstance(cause, (ConnectTimeout, ProxyError)):
        return NOT_REACHED
    if isinstance(cause, NoConnection):
        first = cause.args[0] if cause.args else None
        why = first.reason if isinstance(first, MaxRetryError) else first
        unsent = isinstance(why, (NewConnectionError, ConnectTimeoutError))
        return NOT_REACHED if unsent else ANSWER_LOST
    if cause is None or isinstance(cause, RequestException):
        return ANSWER_LOST
    return NOT_TRUSTED  # requests finds no CA file


def no_connection(
    error: BaseException, device_id: str, clock: datetime | None = None
) -> FirmwareUpdateError:
    """Tell why a device client of azure-iot-device could not connect, or was turned away.

    The SDK hides the reason in the cause of its error, so both are looked at by name.

    Args:
        error: What the SDK raised.
        device_id: The device.
        clock: What the device's clock says; a wrong one makes tokens that the hub refuses.
    """
    says = "" if clock is None else f" (it says {clock:%Y-%m-%d %H:%M} UTC)"
    causes = {type(error).__name__, type(error.__cause__).__name__}
    found: FirmwareUpdateError
    if causes & {"CredentialError", "UnauthorizedError"}:
        found = HubUnauthorized(
            f"The hub refuses the device {device_id!r}: its key is wrong, the hub has no such "
            f"device, or the device's clock is wrong{says}, so that its token is out of date. Run "
            "the set-up cell again for a new connection string, or set the clock."
        )
    elif causes & {"ServiceError"}:
        found = FirmwareUpdateError(
            f"The hub refuses what the device {device_id!r} reports ({error.__cause__}). Delete "
            "the device, then run the set-up cell again."
        )
    elif causes & {"TlsExchangeAuthError"}:
        found = HubUnavailable(
            "The hub's certificate is not trusted. Pass **hub.device_options, which holds the CA "
            "of the local hub; run the set-up cell again when the local hub was reset."
        )
    else:
        found = HubUnavailable(
            f"The device {device_id!r} reaches no hub ({type(error).__name__}). Run the set-up "
            "cell again. On a network that blocks port 8883, set FWUPDATE_IOTHUB_WEBSOCKETS=1 (it "
            "takes port 443); a device identity that is disabled is turned away, too, and so is "
            "every device of a hub whose messages of the day are used up."
        )
    found.__cause__ = error
    return found
