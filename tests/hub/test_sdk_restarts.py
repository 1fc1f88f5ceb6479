"""The unmodified SDKs while links break: restarts, crashes, renewed tokens."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from azure.iot.device import IoTHubDeviceClient, MethodResponse
from azure.iot.hub.models import CloudToDeviceMethod, Twin, TwinProperties

from tests.rest import wait_for
from tests.support import HubProcess, device_connection_string


class Device:
    """An SDK client that answers methods and remembers desired patches."""

    def __init__(self, hub: HubProcess, device_id: str, **options: Any) -> None:
        self.id = device_id
        self.patches: list[Any] = []
        self.client = IoTHubDeviceClient.create_from_connection_string(
            device_connection_string(hub, device_id),
            connection_retry_interval=1,
            **hub.device_options,
            **options,
        )
        self.client.connect()
        self.client.on_method_request_received = self._answer
        self.client.on_twin_desired_properties_patch_received = self.patches.append

    def _answer(self, request: Any) -> None:
        response = MethodResponse.create_from_method_request(request, 200, request.payload)
        self.client.send_method_response(response)


@pytest.fixture
def device(own_hub_process: HubProcess) -> Iterator[Device]:
    device = Device(own_hub_process, "d1")
    yield device
    device.client.shutdown()


def invoke(registry: Any, payload: str) -> Any:
    method = CloudToDeviceMethod(method_name="echo", payload=payload, connect_timeout_in_seconds=20)
    return registry.invoke_device_method("d1", method).payload


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_open_handles_go_on_working_after_a_restart(
    own_hub_process: HubProcess, device: Device, end: str
) -> None:
    registry = own_hub_process.registry()
    registry.update_twin("d1", Twin(tags={"site": "A"}))
    device.client.patch_twin_reported_properties({"before": 1})
    assert invoke(registry, "before") == "before"
    before = registry.get_device("d1")

    getattr(own_hub_process, end)()
    own_hub_process.start()

    # The handles of the service side, opened before.
    after = registry.get_device("d1")
    assert (after.etag, after.authentication) == (before.etag, before.authentication)
    twin = registry.get_twin("d1")
    assert (twin.tags, twin.properties.reported["before"]) == ({"site": "A"}, 1)
    # Those of the device: it subscribed once, and never will again.
    assert invoke(registry, "after") == "after"
    device.client.patch_twin_reported_properties({"after": 1})
    assert device.client.get_twin()["reported"]["after"] == 1
    desired = TwinProperties(desired={"go": "on"})
    registry.update_twin("d1", Twin(properties=desired))
    wait_for(lambda: any(patch.get("go") == "on" for patch in device.patches))


def test_what_was_acknowledged_before_a_crash_is_there_after_it(
    own_hub_process: HubProcess, device: Device
) -> None:
    acknowledged: list[int] = []
    enough = threading.Event()

    def report() -> None:
        for number in range(1, 201):
            device.client.patch_twin_reported_properties({"number": number, f"n{number}": 1})
            acknowledged.append(number)
            if number == 100:
                enough.set()

    reporting = threading.Thread(target=report, name="reporting", daemon=True)
    reporting.start()
    assert enough.wait(30)
    own_hub_process.kill()
    before = list(acknowledged)
    own_hub_process.start()

    reported = own_hub_process.registry().get_twin("d1").properties.reported
    assert reported["number"] >= before[-1] >= 100
    assert {f"n{number}" for number in before} <= reported.keys()

    # And no call hangs: what was not acknowledged is sent again.
    reporting.join(timeout=30)
    assert acknowledged == list(range(1, 201))
    reported = own_hub_process.registry().get_twin("d1").properties.reported
    assert {f"n{number}" for number in range(1, 201)} <= reported.keys()


def test_a_token_is_renewed_without_loss(hub_process: HubProcess, device_id: str) -> None:
    # The SDK renews 120 s before the end: here every 5 s, by disconnecting and connecting.
    device = Device(hub_process, device_id, sastoken_ttl=125)
    registry = hub_process.registry()
    try:
        connected_at = registry.get_device(device_id).connection_state_updated_time
        count = 0

        def reconnected() -> bool:
            nonlocal count
            count += 1
            device.client.patch_twin_reported_properties({f"n{count}": 1})
            identity = registry.get_device(device_id)
            return bool(
                identity.connection_state == "Connected"
                and identity.connection_state_updated_time != connected_at
            )

        wait_for(reconnected, seconds=20)
        reported = registry.get_twin(device_id).properties.reported
        assert {f"n{number}" for number in range(1, count + 1)} <= reported.keys()
        method = CloudToDeviceMethod(method_name="echo", payload="renewed")
        assert registry.invoke_device_method(device_id, method).payload == "renewed"
    finally:
        device.client.shutdown()
