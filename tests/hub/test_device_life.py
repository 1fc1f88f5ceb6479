"""How the simulated device starts and ends, and what keeps it from starting."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from azure.iot.device import IoTHubDeviceClient
from azure.iot.hub import IoTHubRegistryManager

from fwupdate_helpers import contract
from fwupdate_helpers.device import LinkPolicy, SimulatedDevice
from fwupdate_helpers.device.surroundings import DeviceSurroundings
from fwupdate_helpers.errors import (
    FirmwareUpdateError,
    HubUnauthorized,
    HubUnavailable,
    InvalidConnectionString,
    UpdateFailed,
)
from fwupdate_helpers.service import invoke_firmware_update, wait_for_update
from tests.rest import wait_for
from tests.support import (
    HubProcess,
    device_connection_string,
    free_loopback_address,
    reported,
)

Json = dict[str, Any]
NewDevice = Callable[..., SimulatedDevice]
LONG = 3600.0
"""Seconds of a stage that does not end by itself during a test."""


def test_start_and_stop_can_be_repeated_and_leave_no_thread_behind(
    make: NewDevice, registry: IoTHubRegistryManager, device_id: str
) -> None:
    of_other_tests = _threads()
    make().start().stop()
    # The SDK's threads that all clients share are there now, and no other.
    shared = {"pipeline", "callback", "(run_forever)", "asyncio_0"}
    wait_for(
        lambda: {name.partition(" ")[2] or name for name in _threads() - of_other_tests} <= shared
    )
    before = _threads()
    device = make()
    device.stop()  # before it ever ran
    assert device.start() is device.start() is device
    assert device.is_running
    assert f"device-{device_id}" in _threads() - before
    update = invoke_firmware_update(registry, device_id)
    wait_for_update(registry, device_id, update.update_id, interval=0.02)
    device.stop()
    device.stop()
    assert not device.is_running
    wait_for(lambda: not _threads() - before)
    assert registry.get_twin(device_id).connection_state == "Disconnected"

    with device:  # and it starts again
        assert invoke_firmware_update(registry, device_id).status == 200


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if "urllib3" not in thread.name}


def test_stop_during_an_update_tells_the_twin_that_it_was_interrupted(
    make: NewDevice, registry: IoTHubRegistryManager, device_id: str
) -> None:
    device = make(stage_seconds=LONG).start()
    update = invoke_firmware_update(registry, device_id)
    device.stop()
    with pytest.raises(UpdateFailed) as failed:
        wait_for_update(registry, device_id, update.update_id, timeout=10)
    assert failed.value.code == "interrupted"
    twin = reported(registry, device_id)
    assert twin["firmwareStatus"] == "error"
    assert contract.open_stage(twin) is None


def test_stop_before_the_device_knows_of_the_end_leaves_the_update_completed(
    make: NewDevice,
    registry: IoTHubRegistryManager,
    device_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    report = DeviceSurroundings.report

    async def hear_late(around: DeviceSurroundings, patch: Json) -> None:
        await report(around, patch)
        await asyncio.sleep(0.1)

    monkeypatch.setattr(DeviceSurroundings, "report", hear_late)
    with make():
        update = invoke_firmware_update(registry, device_id)
        wait_for_update(registry, device_id, update.update_id, interval=0.02)
    assert reported(registry, device_id)["firmwareStatus"] == "completed"


def test_an_update_goes_on_over_a_restart_of_the_hub(
    own_hub_process: HubProcess, device_id: str
) -> None:
    device = SimulatedDevice(
        device_connection_string(own_hub_process, device_id),
        stage_seconds=0.3,
        connection_retry_interval=1,
        **own_hub_process.device_options,
    )
    with device:
        update = invoke_firmware_update(own_hub_process.registry(), device_id)
        own_hub_process.stop()
        assert device.events.wait_for("retry", timeout=10), "it had something to report meanwhile"
        own_hub_process.start()
        wait_for_update(own_hub_process.registry(), device_id, update.update_id, timeout=20)


def test_a_new_device_for_an_id_stops_the_older_one_of_this_process(
    make: NewDevice, registry: IoTHubRegistryManager, device_id: str
) -> None:
    older, newer = make().start(), make()
    newer.start()
    assert (older.is_running, newer.is_running, older.error) == (False, True, None)
    assert invoke_firmware_update(registry, device_id).status == 200
    assert newer.events.wait_for("completed", timeout=10)


def test_devices_of_one_id_that_start_at_once_leave_one_and_end_cleanly(make: NewDevice) -> None:
    devices = [make() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(SimulatedDevice.start, devices, timeout=30))
    assert [device.is_running for device in devices].count(True) == 1
    assert [device.error for device in devices] == [None] * 4


def test_stop_ends_a_start_that_goes_on_in_another_thread(make: NewDevice) -> None:
    for _ in range(5):
        device = make()
        starting = threading.Thread(target=device.start)
        starting.start()
        while starting.is_alive():
            device.stop()
        starting.join(10)
        device.stop()
        assert not device.is_running


def test_a_device_that_is_deleted_ends_with_an_error(
    make: NewDevice, registry: IoTHubRegistryManager, device_id: str
) -> None:
    device = make().start()
    registry.delete_device(device_id)
    assert device.events.wait_for("stopped", timeout=15)
    assert isinstance(device.error, HubUnauthorized)
    with pytest.raises(HubUnauthorized, match="has no such device"):
        device.start()


def test_a_connection_that_is_lost_takes_no_method_request_and_no_end_of_a_handler_with_it(
    make: NewDevice,
) -> None:
    # As the SDK is made, what ends a handler is deleted with the requests: it waits for ever.
    device = make().start()
    assert device._life is not None
    client = device._life._link._client
    put, lose = client._inbox_manager.get_method_request_inbox().put, client._on_disconnected

    def put_and_lose(item: object) -> None:
        put(item)
        lose()

    client._inbox_manager.get_method_request_inbox().put = put_and_lose
    stopping = threading.Thread(target=device.stop, daemon=True)
    stopping.start()
    stopping.join(10)
    assert not stopping.is_alive()


# -- what cannot work -----------------------------------------------------------------------------


def test_a_wrong_key_is_unauthorized(
    hub_process: HubProcess, new_device: Callable[[str], str], device_id: str
) -> None:
    new_device(device_id)
    string = f"HostName={hub_process.ready['device_host']};DeviceId={device_id}"
    device = SimulatedDevice(
        f"{string};SharedAccessKey=AAAAAAAAAAAAAAAAAAAAAA==", **hub_process.device_options
    )
    with pytest.raises(HubUnauthorized, match=device_id):
        device.start()
    assert not device.is_running


def test_a_hub_that_is_not_trusted_is_unavailable(
    new_device: Callable[[str], str], device_id: str
) -> None:
    device = SimulatedDevice(new_device(device_id))
    with pytest.raises(HubUnavailable, match="certificate is not trusted"):
        device.start()


def test_a_hub_that_does_not_run_is_unavailable_after_some_tries(hub_process: HubProcess) -> None:
    device = SimulatedDevice(
        f"HostName={free_loopback_address()};DeviceId=d1;SharedAccessKey=AAAA",
        link_policy=LinkPolicy(start_seconds=0.5, first_wait=0.1),
        **hub_process.device_options,
    )
    with pytest.raises(HubUnavailable, match="8883") as failed:
        device.start()
    assert failed.value.attempts > 1
    assert "Tried" in str(failed.value)
    assert device.events.wait_for("retry", timeout=0), "it says so meanwhile"
    assert not device.is_running


def test_a_device_that_starts_before_its_hub_waits_for_it(
    own_hub_process: HubProcess, device_id: str
) -> None:
    string = device_connection_string(own_hub_process, device_id)
    device = SimulatedDevice(string, stage_seconds=0, **own_hub_process.device_options)
    own_hub_process.stop()
    with ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        stack.callback(device.stop)
        starting = pool.submit(device.start)
        assert device.events.wait_for("retry", timeout=10)
        own_hub_process.start()
        starting.result(timeout=20)
        update = invoke_firmware_update(own_hub_process.registry(), device_id)
        wait_for_update(own_hub_process.registry(), device_id, update.update_id, interval=0.02)


def test_a_hub_that_refuses_the_first_report_is_an_error_of_start(
    make: NewDevice, registry: IoTHubRegistryManager, hub_process: HubProcess, device_id: str
) -> None:
    device = make()
    client = IoTHubDeviceClient.create_from_connection_string(
        str.__str__(device._setup.connection_string), **hub_process.device_options
    )
    client.connect()
    full = {f"k{number}": "x" * 4000 for number in range(8)}
    client.patch_twin_reported_properties({**full, "rest": "x" * (32 * 1024 - 32050)})
    client.shutdown()
    with pytest.raises(FirmwareUpdateError, match="refuse"):
        device.start()
    assert not device.is_running


@pytest.mark.parametrize(
    ("string", "part"),
    [("", "HostName"), ("HostName=h;SharedAccessKeyName=s;SharedAccessKey=AAAA", "DeviceId")],
)
def test_a_malformed_connection_string_is_refused_at_once(string: str, part: str) -> None:
    with pytest.raises(InvalidConnectionString) as refused:
        SimulatedDevice(string)
    assert refused.value.part == part


def test_an_unknown_option_of_the_sdk_is_an_error_of_start(make: NewDevice) -> None:
    with pytest.raises(FirmwareUpdateError, match="no_such_option"):
        make(no_such_option=1).start()
