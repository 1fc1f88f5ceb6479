"""The simulated device against the real hub: what it answers, and what its twin tells."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import CloudToDeviceMethod, CloudToDeviceMethodResult

from fwupdate_helpers import contract
from fwupdate_helpers.device import SimulatedDevice
from fwupdate_helpers.errors import UpdateRejected
from fwupdate_helpers.service import invoke_firmware_update, wait_for_update
from tests.support import reported

Json = dict[str, Any]
NewDevice = Callable[..., SimulatedDevice]
LONG = 3600.0
"""Seconds of a stage that does not end by itself during a test."""


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
    times = [
        details["stages"][stage][end]
        for stage in (contract.WAITING, contract.DOWNLOADING, contract.APPLYING)
        for end in ("startedAt", "endedAt")
    ]
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
        {"fwPackageUri": "test.com", "version": "latest"},
        {"fwPackageUri": "test.com", "fwPackageCheckValue": "abc"},
        {"fwPackageUri": "test.com", "allowDowngrade": 1},
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
    with make(stage_seconds=1.0):
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
    assert {0, 1} < set(progress)
    assert len(set(progress)) <= 4, "more than two reports a second"


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
