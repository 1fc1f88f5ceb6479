"""Updates by the desired property `firmware`: the real hub, the real SDK, real images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import Twin, TwinProperties

from fwupdate_helpers import contract
from fwupdate_helpers.contract_firmware import (
    desired_firmware,
    desired_outcome,
    desired_update_id,
)
from fwupdate_helpers.device import LinkPolicy, SimulatedDevice
from fwupdate_helpers.errors import UpdateRejected
from fwupdate_helpers.merge import difference
from fwupdate_helpers.service import (
    cancel_firmware_update,
    invoke_firmware_update,
    wait_for_update,
)
from fwupdate_helpers.timeline import UpdateTimeline
from tests.images import Publisher
from tests.raw_mqtt import PUBLISH
from tests.rest import wait_for
from tests.sdk import DeviceService
from tests.support import HubProcess
from tests.unruly_mqtt import UnrulyMqtt

Json = dict[str, Any]
NewDevice = Callable[..., SimulatedDevice]
LONG = 3600.0
"""Seconds of a stage that does not end by itself during a test."""
SECOND, THIRD = desired_firmware("test.com", "2.0.0"), desired_firmware("test.com", "3.0.0")


until = partial(wait_for, seconds=60)


class Service(DeviceService):
    """What a service does with one device's twin."""

    def desire(self, content: Any, **others: Any) -> str:
        """Set the desired firmware, all of it, and return the id of its update."""
        before = self.registry.get_twin(self.device_id).properties.desired
        patch = difference({"firmware": before.get("firmware")}, {"firmware": content}) | others
        properties = TwinProperties(desired=patch)
        self.registry.update_twin(self.device_id, Twin(properties=properties), "*")
        return desired_update_id(content)

    def seen(self, update_id: str) -> Json:
        """Wait until the update has begun, and return the reported properties."""
        until(lambda: self.twin.get("firmwareUpdate", {}).get("updateId") == update_id)
        return self.twin


@pytest.fixture
def service(registry: IoTHubRegistryManager, device_id: str) -> Service:
    return Service(registry, device_id)


def version_known(device: SimulatedDevice) -> int:
    """Return the version of the desired properties that the device has got."""
    assert device._life is not None
    return device._life.desired._known.version or 0


def got(device: SimulatedDevice, service: Service) -> None:
    """Wait until the device has got the desired properties as they are now."""
    version = service.registry.get_twin(service.device_id).properties.desired["$version"]
    until(lambda: version_known(device) == version)


@pytest.fixture
def no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no progress be reported, so that reports can be counted however slow it goes."""
    monkeypatch.setattr("fwupdate_helpers.firmware.stages.PROGRESS_SECONDS", LONG)


@pytest.mark.usefixtures("no_progress")
def test_an_image_is_installed_because_it_is_desired_and_is_not_installed_twice(
    make: NewDevice, publisher: Publisher, service: Service
) -> None:
    image, url = publisher.build("2.0.0"), publisher.publish("2.0.0")
    check_value = hashlib.sha256(image.read_bytes()).hexdigest()
    content = desired_firmware(url, "2.0.0", check_value=check_value)
    board = publisher.board()
    with make(board=board) as device:
        update_id = service.desire(content)
        wait_for_update(service.registry, service.device_id, update_id, interval=0.02, timeout=60)
        assert board.power_up().version == "2.0.0"

        def reports() -> int:
            return [event.kind for event in device.events].count("reported")

        until(lambda: reports() >= 1 + 6)  # the hub knows of the last one before the device does
        assert reports() == 1 + 6, "as many as for a direct method"
    twin = service.twin
    assert (twin["firmwareStatus"], twin["firmwareUpdate"]["updateId"]) == ("completed", update_id)
    stages = twin["firmwareUpdate"]["stages"]
    assert twin["firmware"] == {
        "currentFwVersion": "2.0.0",
        "slots": {"active": "b", "a": "1.0.0", "b": "2.0.0"},
        "fwUpdateId": update_id,
        "fwUpdateStatus": "current",
        "lastFwUpdateStartTime": stages["waiting"]["startedAt"],
        "lastFwUpdateEndTime": stages["rebooting"]["endedAt"],
    }
    timeline = UpdateTimeline.from_twin({"properties": {"reported": twin}})
    assert [stage.name for stage in timeline.stages] == list(contract.STAGES)

    with make(board=board) as device:  # neither after a restart nor with a new $version
        service.desire(content, other=1)
        got(device, service)
        assert service.twin["firmwareUpdate"] == twin["firmwareUpdate"]
        assert service.twin["firmware"] == twin["firmware"]
        # The same version from another place is no reason for an update either.
        moved = service.desire(desired_firmware(publisher.publish("2.0.0"), "2.0"))
        service.end_of(moved)
        assert service.twin["firmwareUpdate"] == twin["firmwareUpdate"]
        assert desired_outcome(service.twin, moved) == "current"


@pytest.mark.usefixtures("no_progress")
def test_a_device_without_a_board_keeps_its_version_in_the_twin(
    make: NewDevice, service: Service
) -> None:
    with make(version="2.0.0") as device:
        assert service.twin["firmware"] == {"currentFwVersion": "2.0.0"}
        update_id = service.desire(SECOND)
        twin = service.end_of(update_id)
        assert "firmwareUpdate" not in twin, "it runs already"
        assert desired_outcome(twin, update_id) == "current"
        before = [event.kind for event in device.events].count("reported")
        update_id = service.desire(THIRD)
        assert service.end_of(update_id)["firmware"]["currentFwVersion"] == "3.0.0"

        def reports() -> int:
            return [event.kind for event in device.events].count("reported") - before

        until(lambda: reports() >= 4)  # the hub knows of the last one before the device is told so
        assert reports() == 4, "as many as for a direct method"
    with make(version="2.0.0") as device:  # what it left the factory with no longer counts
        got(device, service)
        firmware = service.twin["firmware"]
        assert (firmware["currentFwVersion"], firmware["fwUpdateStatus"]) == ("3.0.0", "current")
        old = service.end_of(service.desire(SECOND))
        assert old["firmwareUpdate"]["error"]["code"] == "downgrade"
        assert old["firmware"]["fwUpdateSubstatus"].startswith("downgrade: Version 2.0.0 is older")
        back = service.end_of(service.desire(SECOND | {"allowDowngrade": True}))
        assert back["firmware"]["currentFwVersion"] == "2.0.0"


def test_a_device_catches_up_when_it_comes_back(make: NewDevice, service: Service) -> None:
    update_id = service.desire(SECOND)
    assert service.twin == {}
    with make():
        twin = service.end_of(update_id)
    assert twin["firmware"]["currentFwVersion"] == "2.0.0"


@pytest.mark.parametrize("cut", [True, False])
def test_a_patch_that_got_lost_is_made_good(
    cut: bool,
    hub_process: HubProcess,
    new_device: Callable[[str], str],
    device_id: str,
    service: Service,
) -> None:
    with UnrulyMqtt(hub_process) as line:
        device = SimulatedDevice(
            line.string(new_device(device_id)),
            stage_seconds=0.0,
            link_policy=LinkPolicy(answer_seconds=60, first_wait=0.05),
            server_verification_cert=line.ca_pem,
        )
        with device:
            lost = line.lose(PUBLISH, "$iothub/twin/PATCH/properties/desired/", cut=cut)
            update_id = service.desire(SECOND)
            until(lambda: lost.lost == 1)
            if not cut:  # the next one tells that one is missing
                assert "firmwareUpdate" not in service.twin
                service.desire(SECOND, other=1)
            assert service.end_of(update_id)["firmware"]["currentFwVersion"] == "2.0.0"
        looks = [packet for packet in line.sent if "twin/GET" in packet.topic]
        assert len(looks) == 2, "the SDK itself asks for nothing"


def test_while_an_update_runs_the_newest_desire_waits_and_a_method_is_answered_409(
    make: NewDevice, service: Service
) -> None:
    device = make(stage_seconds=LONG)
    device.start()
    first = service.desire(SECOND)
    assert service.seen(first)["firmware"]["pendingFwVersion"] == "2.0.0"
    with pytest.raises(UpdateRejected) as refused:
        invoke_firmware_update(service.registry, service.device_id)
    assert refused.value.status == 409
    service.desire(SECOND | {"fwVersion": "2.5.0"})
    newest = service.desire(THIRD)
    got(device, service)
    assert service.twin["firmwareUpdate"]["updateId"] == first
    cancel_firmware_update(service.registry, service.device_id, first)
    firmware = service.seen(newest)["firmware"]
    assert (firmware["fwUpdateId"], firmware["pendingFwVersion"]) == (newest, "3.0.0")
    assert firmware["fwUpdateStatus"] == "downloading"
    starts = [event for event in device.events if event.kind == "starting"]
    assert len(starts) == 2, "the one in between was overtaken"


@pytest.mark.parametrize("end", [SimulatedDevice.stop, SimulatedDevice.power_cut])
def test_without_a_board_there_is_nothing_to_resume_from_so_the_update_begins_anew(
    end: Callable[[SimulatedDevice], None], make: NewDevice, service: Service
) -> None:
    device = make(stage_seconds=LONG).start()
    update_id = service.desire(SECOND)
    service.seen(update_id)
    end(device)
    assert contract.open_stage(service.twin) is not None
    with make():
        twin = wait_for_update(service.registry, service.device_id, update_id, timeout=60)
    firmware = twin.properties.reported["firmware"]
    assert (firmware["currentFwVersion"], firmware["fwUpdateStatus"]) == ("2.0.0", "current")


def test_an_update_that_was_cancelled_is_not_begun_again(make: NewDevice, service: Service) -> None:
    with make(stage_seconds=LONG):
        update_id = service.desire(SECOND)
        service.seen(update_id)
        cancel_firmware_update(service.registry, service.device_id, update_id)
        twin = service.end_of(update_id)
        assert twin["firmware"]["fwUpdateStatus"] == "error"
        assert twin["firmware"]["fwUpdateSubstatus"].startswith("cancelled: ")
    with make(stage_seconds=LONG):
        assert service.twin["firmwareUpdate"] == twin["firmwareUpdate"]
        # A direct method may bring the version all the same; then the desire is fulfilled.
    with make():
        update = invoke_firmware_update(service.registry, service.device_id, version="2.0.0")
        service.end_of(update.update_id)
        until(lambda: desired_outcome(service.twin, update_id) == "current")
        assert "fwUpdateSubstatus" not in service.twin["firmware"]


def test_a_version_that_was_rolled_back_is_tried_again_only_when_the_content_changes(
    make: NewDevice, publisher: Publisher, service: Service
) -> None:
    board = publisher.board()
    bad = desired_firmware(publisher.publish("2.0.0", behaviour="failsSelfTest"), "2.0.0")
    with make(board=board):
        twin = service.end_of(service.desire(bad))
        assert twin["firmware"]["fwUpdateStatus"] == "rolledback"
        assert twin["firmware"]["fwUpdateSubstatus"].startswith("selfTestFailed: ")
        assert twin["firmware"]["currentFwVersion"] == "1.0.0"
    with make(board=board) as device:
        service.desire(bad, other=1)
        got(device, service)
        assert service.twin["firmwareUpdate"] == twin["firmwareUpdate"]
        again = service.end_of(service.desire(bad | {"attempt": 2}))
        assert again["firmwareUpdate"]["stages"] != twin["firmwareUpdate"]["stages"]
        good = service.end_of(service.desire(desired_firmware(publisher.publish("2.0.1"), "2.0.1")))
        assert good["firmware"]["currentFwVersion"] == "2.0.1"
        assert good["firmware"]["fwUpdateStatus"] == "current"


@pytest.mark.parametrize("stage", [contract.DOWNLOADING, contract.REBOOTING])
def test_an_update_that_loses_its_power_goes_on_as_what_is_desired(
    stage: str, make: NewDevice, publisher: Publisher, service: Service
) -> None:
    board = publisher.board()
    device = make(board=board).start()
    device.cut_power_at(stage)
    update_id = service.desire(desired_firmware(publisher.publish("2.0.0"), "2.0.0"))
    assert device.events.wait_for("power-cut", timeout=60)
    until(lambda: not device.is_running)
    with make(board=board):
        twin = service.end_of(update_id)
    assert twin["firmwareUpdate"]["recovery"]["action"] == "resumed"
    assert (twin["firmware"]["currentFwVersion"], twin["firmware"]["fwUpdateStatus"]) == (
        "2.0.0",
        "current",
    )


def test_an_update_that_hung_is_not_begun_again(
    make: NewDevice, publisher: Publisher, service: Service
) -> None:
    board = publisher.board(watchdog_seconds=0.1)
    device = make(board=board)
    device.faults.hang_while_applying()
    with device:
        content = desired_firmware(publisher.publish("2.0.0"), "2.0.0")
        twin = service.end_of(service.desire(content))
        assert twin["firmware"]["fwUpdateSubstatus"].startswith("watchdogReset: ")
        service.desire(content, other=1)
        until(lambda: device._life is not None)
        got(device, service)
        assert service.twin["firmwareUpdate"] == twin["firmwareUpdate"]


def test_what_is_removed_is_left_alone_and_what_comes_back_is_tried_again(
    make: NewDevice, service: Service
) -> None:
    with make(stage_seconds=0.0, version="3.0.0") as device:
        refused = service.end_of(service.desire(SECOND))
        service.desire(None)
        got(device, service)
        until(lambda: "fwUpdateId" not in service.twin["firmware"])
        assert service.twin["firmwareUpdate"] == refused["firmwareUpdate"]
        again = service.desire(SECOND)
        until(lambda: desired_outcome(service.twin, again) == "error")
    assert [event.kind for event in device.events].count("failed") == 2


def test_a_malformed_desire_is_an_error_that_tells_and_the_device_goes_on(
    make: NewDevice, publisher: Publisher, service: Service
) -> None:
    url = publisher.publish("2.0.0")
    good = desired_firmware(url, "2.0.0")
    bad: dict[str, Any] = {
        "badDesired: The desired 'firmware' must be an object": "2.0.0",
        "badDesired: The desired 'firmware' needs": {"fwVersion": "2.0.0"},
        "badDesired: 'fwPackageCheckValue' must be a SHA-256": good | {"fwPackageCheckValue": "ab"},
        "uriRefused: http://": good | {"fwPackageURI": "http://127.0.0.1/2.0.0.img?sig=s3cret"},
        "checkValueMismatch: ": good | {"fwPackageCheckValue": "0" * 64},
        "wrongVersion: ": good | {"fwVersion": "2.0.1"},
    }
    with make(board=publisher.board()) as device:
        for words, content in bad.items():
            update_id = service.desire(content)
            twin = service.end_of(update_id)
            assert desired_outcome(twin, update_id) == "error"
            assert twin["firmware"]["fwUpdateSubstatus"].startswith(words)
            assert twin["firmwareUpdate"]["error"]["code"] == words.partition(":")[0]
            assert "s3cret" not in f"{twin}{device.events}" and url not in f"{twin}{device.events}"
        assert service.end_of(service.desire(good))["firmware"]["currentFwVersion"] == "2.0.0"
