"""What tests of the SDKs share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from azure.iot.device import IoTHubDeviceClient, MethodResponse
from azure.iot.hub import IoTHubRegistryManager
from msrest.exceptions import HttpOperationError

from fwupdate_helpers.errors import UpdateFailed
from fwupdate_helpers.service import wait_for_update
from tests.support import reported

Json = dict[str, Any]
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


class DeviceService:
    """A service that has to do with one device, and what the twin tells it."""

    def __init__(self, registry: IoTHubRegistryManager, device_id: str) -> None:
        self.registry, self.device_id = registry, device_id

    def end_of(self, update_id: str) -> Json:
        """Wait for the end of an update, good or bad, and return the reported properties."""
        with suppress(UpdateFailed):
            wait_for_update(self.registry, self.device_id, update_id, interval=0.02, timeout=60)
        return self.twin

    @property
    def twin(self) -> Json:
        """The reported properties."""
        return reported(self.registry, self.device_id)
