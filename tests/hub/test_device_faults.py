"""Faults in the device's hardware, on the real hub: each ends with the right code, and passes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

import pytest
from azure.iot.hub import IoTHubRegistryManager

from fwupdate_helpers import contract
from fwupdate_helpers.device import DeviceFaults, LinkPolicy, SimulatedDevice
from fwupdate_helpers.errors import HubUnauthorized, UpdateFailed
from fwupdate_helpers.firmware import DownloadPolicy
from fwupdate_helpers.service import invoke_firmware_update, wait_for_update
from fwupdate_helpers.timeline import UpdateTimeline
from tests.images import SIZE, Publisher
from tests.rest import wait_for
from tests.support import reported

Json = dict[str, Any]
NewDevice = Callable[..., SimulatedDevice]


@pytest.fixture
def device(make: NewDevice, publisher: Publisher) -> Iterator[SimulatedDevice]:
    """Return a device with a board, which is started; its tests leave no thread of it."""
    device = make(
        board=publisher.board(watchdog_seconds=0.2), link_policy=LinkPolicy(first_wait=0.05)
    )
    yield device.start()
    device.stop()
    assert f"device-{device.device_id}" not in {thread.name for thread in threading.enumerate()}


class Service:
    """What a service does with the device, and what the twin then tells."""

    def __init__(self, registry: IoTHubRegistryManager, device_id: str, url: str) -> None:
        self.registry, self.device_id, self.url = registry, device_id, url

    def begin(self, **options: Any) -> str:
        """Begin an update; return its id."""
        options = {"package_uri": self.url, **options}
        return invoke_firmware_update(self.registry, self.device_id, **options).update_id

    def end_of(self, update_id: str) -> Json:
        """Wait for the end, good or bad; return the reported properties."""
        with suppress(UpdateFailed):
            wait_for_update(self.registry, self.device_id, update_id, interval=0.02, timeout=15)
        return self.twin

    def update(self) -> Json:
        """Begin an update and wait for its end."""
        return self.end_of(self.begin())

    @property
    def twin(self) -> Json:
        return reported(self.registry, self.device_id)


@pytest.fixture
def service(registry: IoTHubRegistryManager, device_id: str, publisher: Publisher) -> Service:
    return Service(registry, device_id, publisher.publish("2.0.0"))


def code(twin: Json) -> str | None:
    error: Json = twin["firmwareUpdate"].get("error", {})
    return error.get("code")


@pytest.mark.parametrize("stage", contract.STAGES)
def test_a_power_cut_at_a_stage_comes_as_it_begins_once_and_the_update_goes_on_after_the_start(
    stage: str, device: SimulatedDevice, service: Service
) -> None:
    device.cut_power_at(stage)
    update_id = service.begin() if stage != contract.WAITING else _begin_and_lose(service)
    assert device.events.wait_for("power-cut", timeout=10)
    device.start()  # also while the last thread is about to end
    twin = service.end_of(update_id)
    assert (code(twin), twin["firmware"]["currentFwVersion"]) == (None, "2.0.0")
    assert twin["firmwareUpdate"]["recovery"]["action"] == "resumed"
    assert [event.kind for event in device.events].count("power-cut") == 1


def _begin_and_lose(service: Service) -> str:
    """Begin an update whose answer may get lost: the power goes as soon as it has begun."""
    with suppress(Exception):
        service.begin(update_id="cut-at-once", response_timeout=5)
    return "cut-at-once"


def test_a_board_that_fails_the_self_test_rolls_each_image_back_until_it_is_mended(
    device: SimulatedDevice, service: Service
) -> None:
    device.faults.fail_self_test()
    assert repr(device.faults) == "DeviceFaults(self-test fails)"
    for _ in range(2):
        twin = service.update()
        assert (code(twin), twin["firmware"]["currentFwVersion"]) == ("selfTestFailed", "1.0.0")
    device.faults.clear()
    twin = service.update()
    assert (code(twin), twin["firmware"]["currentFwVersion"]) == (None, "2.0.0")


def test_a_power_cut_leaves_the_twin_at_the_stage_where_it_came(
    device: SimulatedDevice, service: Service, registry: IoTHubRegistryManager
) -> None:
    device.faults.cut_power_at(contract.APPLYING)
    update_id = service.begin()
    assert device.events.wait_for("stopped", timeout=10)
    wait_for(lambda: registry.get_twin(device.device_id).connection_state == "Disconnected")
    twin = service.twin
    assert (contract.open_stage(twin), twin["firmwareStatus"]) == ("applying", "applying")
    assert not device.is_running and device.error is None
    assert "power cut" not in repr(device.faults), "once"
    device.start()
    assert service.end_of(update_id)["firmware"]["currentFwVersion"] == "2.0.0"


def test_a_stage_that_does_not_exist_is_refused(device: SimulatedDevice) -> None:
    with pytest.raises(ValueError, match="applying"):
        device.cut_power_at("appyling")


def test_an_apply_that_is_stuck_is_ended_by_the_watchdog_and_the_next_update_works(
    device: SimulatedDevice, service: Service
) -> None:
    device.faults.hang_while_applying()
    twin = service.update()
    assert (twin["firmwareStatus"], code(twin)) == ("error", contract.CODE_WATCHDOG)
    assert "applying" in twin["firmwareUpdate"]["error"]["message"]
    assert twin["firmware"]["currentFwVersion"] == "1.0.0"
    kinds = [event.kind for event in device.events]
    assert kinds.count("booted") == 2
    assert kinds.index("hang") < kinds.index("failed")
    assert device.is_running
    assert service.update()["firmware"]["currentFwVersion"] == "2.0.0"


def test_a_full_chip_fails_the_update_and_the_next_one_works_when_there_is_room_again(
    device: SimulatedDevice, service: Service
) -> None:
    board = device.board
    assert board is not None
    for leave in (0, SIZE // 2, SIZE + 10_000):  # nothing, half a download, no room for the copy
        board.fill(leave=leave)
        twin = service.update()
        assert (twin["firmwareStatus"], code(twin)) == ("error", contract.CODE_DISK_FULL)
        assert twin["firmware"]["currentFwVersion"] == "1.0.0"
    assert contract.open_stage(twin) is None
    assert twin["firmwareUpdate"]["stages"]["applying"]["endedAt"], "the last one got so far"
    board.free_up()
    assert service.update()["firmware"]["currentFwVersion"] == "2.0.0"


def test_a_chip_that_fills_up_in_mid_download_fails_the_update(
    make: NewDevice, publisher: Publisher, service: Service
) -> None:
    board = publisher.board()
    with make(board=board, policy=DownloadPolicy(bytes_per_second=SIZE)) as device:
        update_id = service.begin()
        wait_for(lambda: service.twin["firmwareUpdate"].get("receivedBytes", 0) > 0)
        board.fill()
        assert code(service.end_of(update_id)) == contract.CODE_DISK_FULL
        assert device.is_running


@pytest.mark.parametrize("offset", [-1800.0, 86_400.0])
def test_a_clock_that_is_off_shows_in_every_time_of_the_device_and_not_in_the_hubs(
    offset: float, make: NewDevice, registry: IoTHubRegistryManager, device_id: str
) -> None:
    with make(faults=DeviceFaults(clock_offset=offset)) as device:
        update_id = invoke_firmware_update(registry, device_id).update_id
        twin = wait_for_update(registry, device_id, update_id, interval=0.02)
        event = device.events.wait_for("ready", timeout=1)
    timeline = UpdateTimeline.from_twin(twin)
    assert timeline.outcome == "completed"
    assert timeline.hub_offset == pytest.approx(-offset, abs=5)
    assert event is not None
    here = datetime.now(timezone.utc)
    assert (event.at - here).total_seconds() == pytest.approx(offset, abs=10)


def test_a_clock_that_is_very_slow_makes_tokens_that_the_hub_refuses(
    make: NewDevice, registry: IoTHubRegistryManager, device_id: str
) -> None:
    device = make(faults=DeviceFaults(clock_offset=-7200))  # a token is good for one hour
    with pytest.raises(HubUnauthorized, match="clock is wrong") as refused:
        device.start()
    assert f"{device.faults.now():%Y-%m-%d %H}" in str(refused.value)
    assert not device.is_running
    device.faults.clear()
    with device:
        assert invoke_firmware_update(registry, device_id).status == 200
        assert device.events.wait_for("completed", timeout=10)


def test_a_token_that_a_slow_clock_makes_short_is_followed_by_the_next_one(
    make: NewDevice, registry: IoTHubRegistryManager, device_id: str
) -> None:
    with make(faults=DeviceFaults(clock_offset=-3597)) as device:  # it is good for 2 or 3 seconds
        assert device.events.wait_for("disconnected", timeout=10), "the hub ends the connection"
        update_id = invoke_firmware_update(registry, device_id, connect_timeout=10).update_id
        wait_for_update(registry, device_id, update_id, interval=0.02, timeout=10)
        assert device.error is None
