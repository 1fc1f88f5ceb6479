"""The simulated device against the real hub: what it answers, what its twin tells, how it ends."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from azure.iot.device import IoTHubDeviceClient
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import CloudToDeviceMethod, CloudToDeviceMethodResult

from fwupdate_helpers import contract
from fwupdate_helpers.device import SimulatedDevice
from fwupdate_helpers.errors import (
    FirmwareUpdateError,
    HubUnauthorized,
    HubUnavailable,
    InvalidConnectionString,
    UpdateFailed,
    UpdateRejected,
)
from fwupdate_helpers.service import invoke_firmware_update, wait_for_update
from tests.support import HubProcess, free_loopback_address

Json = dict[str, Any]
NewDevice = Callable[..., SimulatedDevice]
LONG = 3600.0
"""Seconds of a stage that does not end by itself during a test."""


@pytest.fixture(scope="module")
def registry(hub_process: HubProcess) -> IoTHubRegistryManager:
    """Return the SDK's service client."""
    return hub_process.registry()


@pytest.fixture
def make(
    hub_process: HubProcess, new_device: Callable[[str], str], device_id: str
) -> Iterator[NewDevice]:
    """Return a function that makes devices of one id; they are stopped at the end."""
    string = new_device(device_id)
    made: list[SimulatedDevice] = []

    def make(stage_seconds: float = 0.0, **options: Any) -> SimulatedDevice:
        options = {**hub_process.device_options, **options}
        made.append(SimulatedDevice(string, stage_seconds=stage_seconds, **options))
        return made[-1]

    yield make
    for device in made:
        device.stop()


def reported(registry: IoTHubRegistryManager, device_id: str) -> Json:
    """Return the reported properties without what the hub adds to them."""
    found = dict(registry.get_twin(device_id).properties.reported)
    return {name: value for name, value in found.items() if not name.startswith("$")}


def raw_twin(registry: IoTHubRegistryManager, device_id: str) -> str:
    """Return the body of the hub's answer, as the tutorial's service searches it."""
    answer = registry.protocol.devices.get_twin(device_id, raw=True)
    return str(answer.response.text)


def invoke(
    registry: IoTHubRegistryManager, device_id: str, name: str, payload: Any
) -> CloudToDeviceMethodResult:
    method = CloudToDeviceMethod(
        method_name=name,
        payload=payload,
        response_timeout_in_seconds=30,
        connect_timeout_in_seconds=0,
    )
    return registry.invoke_device_method(device_id, method)


# -- the update -----------------------------------------------------------------------------------


def test_an_update_walks_through_every_status_in_the_raw_twin(
    make: NewDevice, registry: IoTHubRegistryManager, device_id: str
) -> None:
    with make(stage_seconds=0.25):
        assert '"firmwareStatus":"standBy"' in raw_twin(registry, device_id)
        update = invoke_firmware_update(registry, device_id, version="1.2.0")
        assert (update.status, update.payload) == (200, {"Response": "Firmware update started"})
        seen = [""]
        while seen[-1] != contract.COMPLETED:
            text = raw_twin(registry, device_id)
            now = next(one for one in contract.STATUSES if f'"firmwareStatus":"{one}"' in text)
            if now != seen[-1]:
                seen.append(now)
    assert seen[1:] == ["standBy", "downloading", "applying", "completed"]

    twin = reported(registry, device_id)
    details = twin["firmwareUpdate"]
    assert details["updateId"] == update.update_id
    assert (details["version"], details["progress"]) == ("1.2.0", 1)
    times = [details["stages"][stage][end] for stage in contract.STAGES for end in
             ("startedAt", "endedAt")]
    assert times == sorted(times)
    assert twin["logTime"] == times[0]
    assert twin["downloadComplete"] == twin["startedApplyingImage"] == times[3]
    assert twin["lastFirmwareUpdate"] == times[-1]


def test_the_opening_patch_is_in_the_twin_when_the_method_is_answered_and_forgets_the_past(
    make: NewDevice, registry: IoTHubRegistryManager, device_id: str
) -> None:
    with make():
        first = invoke_firmware_update(registry, device_id, version="1.2.0")
        completed = wait_for_update(registry, device_id, first.update_id, interval=0.02)
    last = completed.properties.reported["lastFirmwareUpdate"]
    with make(stage_seconds=LONG):
        second = invoke_firmware_update(registry, device_id)
        after_success = reported(registry, device_id)
    with make(stage_seconds=LONG):  # the second one was interrupted
        assert reported(registry, device_id)["firmwareStatus"] == "standBy"
        third = invoke_firmware_update(registry, device_id)
        after_failure = reported(registry, device_id)

    for twin, update in ((after_success, second), (after_failure, third)):
        started = twin["firmwareUpdate"]["stages"]["waiting"]["startedAt"]
        assert twin == {
            "firmwareStatus": "standBy",
            "logTime": started,
            "lastFirmwareUpdate": last,
            "firmwareUpdate": {
                "updateId": update.update_id,
                "progress": 0,
                "stages": {"waiting": {"startedAt": started}},
            },
        }


@pytest.mark.parametrize(
    "payload",
    [
        None,
        "test.com",
        {},
        {"fwPackageUri": ""},
        {"fwPackageUri": 7},
        {"fwPackageUri": "two\nlines"},
        {"fwPackageUri": "https://example.com/image"},
        {"fwPackageUri": "test.com", "updateId": ["no text"]},
    ],
)
def test_a_payload_without_a_usable_uri_is_answered_400_and_changes_nothing(
    payload: Any, make: NewDevice, registry: IoTHubRegistryManager, device_id: str
) -> None:
    with make():
        before = reported(registry, device_id)
        answer = invoke(registry, device_id, contract.METHOD, payload)
        assert answer.status == 400
        assert answer.payload["error"]["code"] == "badRequest"
        assert reported(registry, device_id) == before


def test_another_method_is_answered_404(
    make: NewDevice, registry: IoTHubRegistryManager, device_id: str
) -> None:
    with make():
        answer = invoke(registry, device_id, "reboot", {"fwPackageUri": "test.com"})
        assert answer.status == 404
        assert "'reboot'" in answer.payload["error"]["message"]


def test_of_several_updates_at_once_one_runs_and_the_others_are_answered_409(
    make: NewDevice, registry: IoTHubRegistryManager, device_id: str
) -> None:
    with make(stage_seconds=LONG), ThreadPoolExecutor(3) as pool:
        payload = {"fwPackageUri": "test.com"}
        answers = list(
            pool.map(lambda _: invoke(registry, device_id, contract.METHOD, payload), range(3))
        )
        assert sorted(answer.status for answer in answers) == [200, 409, 409]
        running = reported(registry, device_id)["firmwareUpdate"]["updateId"]
        with pytest.raises(UpdateRejected, match="already") as refused:
            invoke_firmware_update(registry, device_id, update_id="another")
        assert refused.value.status == 409
        assert reported(registry, device_id)["firmwareUpdate"]["updateId"] == running


def test_the_device_makes_an_update_id_when_the_service_sends_none(
    make: NewDevice, registry: IoTHubRegistryManager, device_id: str
) -> None:
    ids = set()
    for _ in range(2):
        with make() as device:
            answer = invoke(registry, device_id, contract.METHOD, {"fwPackageUri": "test.com"})
            assert answer.status == 200
            assert device.events.wait_for("completed", timeout=10)
            ids.add(reported(registry, device_id)["firmwareUpdate"]["updateId"])
    assert len(ids) == 2
    assert all(len(one) == 32 for one in ids)


def test_progress_is_reported_and_only_grows(
    make: NewDevice, registry: IoTHubRegistryManager, device_id: str
) -> None:
    with make(stage_seconds=1.5):
        update = invoke_firmware_update(registry, device_id)
        progress: list[float] = []
        wait_for_update(
            registry,
            device_id,
            update.update_id,
            interval=0.05,
            on_change=lambda twin: progress.append(
                twin.properties.reported["firmwareUpdate"]["progress"]
            ),
        )
    assert progress == sorted(progress)
    assert set(progress) == {0, 0.333, 0.667, 1}


# -- its life -------------------------------------------------------------------------------------


def test_start_and_stop_can_be_repeated_and_leave_no_thread_behind(
    make: NewDevice, registry: IoTHubRegistryManager, device_id: str
) -> None:
    make().start().stop()  # the SDK's threads that all clients share are there now
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
    assert _threads() == before
    assert {name.partition(" ")[2] or name for name in before - {"MainThread"}} <= {
        *("pipeline", "callback", "(run_forever)", "asyncio_0")
    }
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


def test_a_hub_that_does_not_run_is_unavailable(hub_process: HubProcess) -> None:
    device = SimulatedDevice(
        f"HostName={free_loopback_address()};DeviceId=d1;SharedAccessKey=AAAA",
        **hub_process.device_options,
    )
    with pytest.raises(HubUnavailable, match="8883"):
        device.start()


def test_a_hub_that_refuses_the_first_report_is_an_error_of_start(
    make: NewDevice, registry: IoTHubRegistryManager, hub_process: HubProcess, device_id: str
) -> None:
    device = make()
    client = IoTHubDeviceClient.create_from_connection_string(
        str.__str__(device._connection_string), **hub_process.device_options
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


# -- its events -----------------------------------------------------------------------------------


def test_events_can_be_followed_while_they_happen(
    make: NewDevice, registry: IoTHubRegistryManager, device_id: str
) -> None:
    device = make()
    assert device.events.wait_for("ready", timeout=0) is None
    with ThreadPoolExecutor(1) as pool, device:
        assert device.events.wait_for("ready", timeout=10)
        followed = pool.submit(lambda: list(device.events.follow(until="completed")))
        invoke_firmware_update(registry, device_id)
        kinds = [event.kind for event in followed.result(timeout=10)]
    assert kinds[:3] == ["connected", "reported", "ready"]
    walk = [kind for kind in kinds[3:] if kind != "reported"]
    assert walk == ["starting", "downloading", "applying", "applied", "completed"]
    assert kinds.count("reported") == 5
    assert "Firmware update completed." in repr(device.events)
    assert len(device.events) == len(list(device.events))
