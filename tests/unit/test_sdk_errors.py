"""From the exceptions of azure-iot-hub to this kit's errors."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests
from msrest.exceptions import ClientRequestError, HttpOperationError
from urllib3.exceptions import MaxRetryError, NewConnectionError, ProtocolError

from fwupdate_helpers.errors import (
    ANSWER_LOST,
    NOT_REACHED,
    DeviceNotFound,
    DeviceOffline,
    FirmwareUpdateError,
    HubRequestError,
    HubThrottled,
    HubUnauthorized,
    HubUnavailable,
    UpdateTimeout,
)
from fwupdate_helpers.sdk_errors import error_code, hub_errors

Json = dict[str, Any]
SECRET = "SharedAccessSignature sr=hub&sig=c2VjcmV0&se=1&skn=service"


TWIN = "https://127.0.0.1:8443/twins/device-01"
METHOD = "https://127.0.0.1:8443/twins/device-01/methods?api-version=2021-04-12"


def response(
    status: int, body: object = None, code_name: str | None = None, url: str = TWIN
) -> requests.Response:
    made = requests.Response()
    made.status_code = status
    made.reason = "the reason"
    made.url = url
    made.request = requests.Request("GET", made.url, {"Authorization": SECRET}).prepare()
    made._content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    if code_name:
        made.headers["iothub-errorcode"] = code_name
    return made


def named(name: str) -> Json:
    """The body of the twin and identity routes."""
    return {"Message": f"ErrorCode:{name};device-01", "ExceptionMessage": "Tracking ID:0f-G:0"}


def numbered(code: object) -> Json:
    """The body of the direct method route: JSON inside the message."""
    inner = {"errorCode": code, "trackingId": "0f", "message": "prose, 404001 and all"}
    return {"Message": json.dumps(inner), "ExceptionMessage": ""}


@pytest.mark.parametrize(
    ("body", "header", "code"),
    [
        (named("DeviceNotFound"), "DeviceNotFound", 404001),
        (numbered(404103), "DeviceNotOnline", 404103),
        (numbered("404103"), None, 404103),
        (named("IotHubUnauthorizedAccess"), None, 401002),
        ({"Message": "some new prose"}, "ThrottlingException", 429001),
        (numbered("NeverHeardOf"), "PreconditionFailed", 412001),
        ({"Message": "ErrorCode:504101;late"}, None, 504101),
        ("<html>a proxy</html>", "GatewayTimeout", 504101),
    ],
)
def test_the_error_code_is_read_from_either_body_or_the_header(
    body: object, header: str | None, code: int
) -> None:
    assert error_code(response(404, body, header)) == code


@pytest.mark.parametrize(
    "body",
    ["", "<html>", "null", "[]", '"text"', "7", {}, {"Message": None}, {"Message": "[1]"},
     {"Message": "Device 404001 is missing"}, {"Message": "{}"}, named("NeverHeardOf")],
)  # fmt: skip
def test_a_body_without_a_code_has_none(body: object) -> None:
    assert error_code(response(404, body)) is None


def raised(error: Exception) -> FirmwareUpdateError:
    with pytest.raises(FirmwareUpdateError) as caught, hub_errors("device-01"):
        raise error
    assert caught.value.__cause__ is error
    assert "c2VjcmV0" not in str(caught.value)
    return caught.value


def refused(status: int, body: object = "", header: str | None = None) -> FirmwareUpdateError:
    return raised(HttpOperationError(None, response(status, body, header)))


@pytest.mark.parametrize(
    ("status", "body", "kind", "says"),
    [
        (404, numbered(404103), DeviceOffline, "Start the device"),
        (404, numbered(404001), DeviceNotFound, "create the device first"),
        (404, named("DeviceNotFound"), DeviceNotFound, "no device device-01"),
        (404, "", DeviceNotFound, "no device device-01"),
        (504, numbered(504101), UpdateTimeout, "look at its twin"),
        (401, named("IotHubUnauthorizedAccess"), HubUnauthorized, "connection string"),
        (401, "", HubUnauthorized, "credentials"),
    ],
)
def test_a_refusal_becomes_a_typed_error_that_says_what_to_do(
    status: int, body: object, kind: type[FirmwareUpdateError], says: str
) -> None:
    error = refused(status, body)
    assert type(error) is kind
    assert says in str(error)
    assert getattr(error, "device_id", "device-01") == "device-01"


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (429, named("ThrottlingException"), 429001),
        (504, "", None),
        (412, named("PreconditionFailed"), 412001),
        (404, named("JobNotFound"), 404002),
        (501, "", None),
        (500, "", None),
    ],
)
def test_any_other_refusal_keeps_its_status_and_code(
    status: int, body: object, code: int | None
) -> None:
    error = refused(status, body)
    assert isinstance(error, HubRequestError)
    assert (error.status, error.code) == (status, code)
    assert str(code or status) in str(error)


@pytest.mark.parametrize(
    ("cause", "kind", "says"),
    [
        (requests.ConnectionError("refused"), HubUnavailable, "does not answer"),
        (requests.exceptions.RetryError("too many 503"), HubUnavailable, "server errors"),
        (requests.exceptions.SSLError("unknown CA"), HubUnavailable, "certificate"),
        (requests.ReadTimeout("100 s"), HubUnavailable, "does not answer"),
        (None, HubUnavailable, "does not answer"),
    ],
)
def test_no_response_becomes_a_typed_error(
    cause: Exception | None, kind: type[FirmwareUpdateError], says: str
) -> None:
    error = raised(ClientRequestError(f"Error in request {SECRET}", cause))
    assert type(error) is kind
    assert says in str(error)


def post(cause: type[requests.RequestException], *arguments: object) -> requests.RequestException:
    """An error of a request that invokes a direct method."""
    return cause(*arguments, request=requests.Request("POST", METHOD).prepare())


@pytest.mark.parametrize(
    "error",
    [
        HttpOperationError(None, response(504, url=METHOD)),
        *(
            ClientRequestError("Error", cause)
            for cause in (
                post(requests.ReadTimeout, "100 s"),
                post(requests.ConnectionError, ProtocolError("aborted", ConnectionResetError())),
                post(requests.exceptions.SSLError, "UNEXPECTED_EOF_WHILE_READING"),
                post(requests.exceptions.ChunkedEncodingError, "cut short"),
            )
        ),
    ],
    ids=str,
)
def test_a_method_whose_answer_is_lost_may_have_run(error: Exception) -> None:
    timeout = raised(error)
    assert isinstance(timeout, UpdateTimeout)
    assert timeout.code in (504, ANSWER_LOST)
    assert "look at its twin" in str(timeout)


@pytest.mark.parametrize(
    "cause",
    [
        post(requests.ConnectTimeout, "5 s"),
        post(requests.exceptions.ProxyError, "no tunnel"),
        post(
            requests.ConnectionError, MaxRetryError(None, "/", NewConnectionError(None, "refused"))
        ),
    ],
    ids=str,
)
def test_a_method_that_was_never_sent_has_not_run(cause: Exception) -> None:
    error = raised(ClientRequestError("Error", cause))
    assert isinstance(error, HubUnavailable)
    assert error.reason == NOT_REACHED


@pytest.mark.parametrize(
    ("asks", "date", "seconds"),
    [
        ("7", None, 7),
        ("Mon, 04 May 2026 12:30:09 GMT", "Mon, 04 May 2026 12:30:00 GMT", 9),
        ("Mon, 04 May 2026 12:30:00 GMT", "Mon, 04 May 2026 12:30:00 GMT", None),
        ("Mon, 04 May 2020 12:30:00 GMT", None, None),
        ("soon", None, None),
        (None, None, None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_how_long_the_hub_asks_to_wait_is_read_by_the_hubs_clock(
    asks: str | None, date: str | None, seconds: float | None, status: int
) -> None:
    answer = response(status)
    answer.headers.update({k: v for k, v in (("Retry-After", asks), ("Date", date)) if v})
    error = raised(HttpOperationError(None, answer))
    assert isinstance(error, HubThrottled if status == 429 else HubRequestError)
    assert error.retry_after == seconds
    assert ("asks to wait" in str(error)) == (seconds is not None)


def test_a_missing_ca_file_counts_as_no_hub() -> None:
    assert isinstance(raised(OSError("no CA bundle")), HubUnavailable)


def test_other_errors_pass_unchanged() -> None:
    for error in (KeyboardInterrupt(), ValueError("mine"), DeviceOffline("device-01", "text")):
        with pytest.raises(type(error)) as caught, hub_errors("device-01"):
            raise error
        assert caught.value is error
