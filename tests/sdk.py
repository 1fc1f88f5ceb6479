"""What tests of the SDKs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from azure.iot.device import IoTHubDeviceClient, MethodResponse
from msrest.exceptions import HttpOperationError

Connect = Callable[..., IoTHubDeviceClient]
"""Connects a client with a connection string; other options of the SDK as keywords."""


def answer_methods(client: IoTHubDeviceClient, answer: Callable[[Any], tuple[int, Any]]) -> None:
    """Answer every direct method with the status and payload that `answer` returns."""

    def on_request(request: Any) -> None:
        status, payload = answer(request)
        client.send_method_response(
            MethodResponse.create_from_method_request(request, status, payload)
        )

    client.on_method_request_received = on_request


def refusal(call: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[int, str]:
    """Make a call that the hub must refuse; return the status and the error's name."""
    with pytest.raises(HttpOperationError) as error:
        call(*arguments, **options)
    return error.value.response.status_code, error.value.response.headers["iothub-errorcode"]
