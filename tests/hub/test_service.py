"""The service side's typed errors, as the local hub and the unmodified SDK cause them."""

from __future__ import annotations

import pytest
from azure.iot.device import IoTHubDeviceClient
from azure.iot.hub import IoTHubRegistryManager

from fwupdate_helpers.errors import (
    DeviceNotFound,
    DeviceOffline,
    HubUnauthorized,
    HubUnavailable,
    UpdateTimeout,
)
from fwupdate_helpers.localhub.sas import new_key
from fwupdate_helpers.retries import RetryPolicy
from fwupdate_helpers.service import invoke_firmware_update, wait_for_update
from tests.support import HubProcess, device_connection_string


def test_an_offline_device_and_an_unknown_one_are_told_apart(
    hub_process: HubProcess, device_id: str
) -> None:
    with pytest.raises(DeviceNotFound, match=device_id):
        invoke_firmware_update(hub_process.registry(), device_id)
    device_connection_string(hub_process, device_id)
    with pytest.raises(DeviceOffline, match="Start the device"):
        invoke_firmware_update(hub_process.registry(), device_id)


def test_a_device_that_does_not_answer_is_a_timeout(
    hub_process: HubProcess, device_id: str
) -> None:
    client = IoTHubDeviceClient.create_from_connection_string(
        device_connection_string(hub_process, device_id), **hub_process.device_options
    )
    try:
        client.on_method_request_received = lambda request: None
        with pytest.raises(UpdateTimeout, match="look at its twin"):
            invoke_firmware_update(
                hub_process.registry(),
                device_id,
                response_timeout=5,
                policy=RetryPolicy(settle_seconds=0),
            )
        with pytest.raises(UpdateTimeout, match="did not end in the time"):
            wait_for_update(hub_process.registry(), device_id, "u1", timeout=0.2, interval=0.05)
    finally:
        client.shutdown()


def test_a_wrong_key_is_unauthorized_and_a_hub_that_is_not_trusted_unavailable(
    hub_process: HubProcess, device_id: str
) -> None:
    host = hub_process.connection_string.split(";")[0]
    wrong = f"{host};SharedAccessKeyName=iothubowner;SharedAccessKey={new_key()}"
    registry = IoTHubRegistryManager(wrong)
    registry.protocol.config.connection.verify = hub_process.ca_file
    with pytest.raises(HubUnauthorized):
        invoke_firmware_update(registry, device_id)
    with pytest.raises(HubUnavailable, match="does not trust"):
        invoke_firmware_update(IoTHubRegistryManager(wrong), device_id)
