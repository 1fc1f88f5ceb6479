"""The simulated device as a process of its own: killed, doubled, left alone, its hub restarted."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import pytest

from fwupdate_helpers import contract
from fwupdate_helpers.device import SimulatedDevice
from fwupdate_helpers.errors import UpdateFailed
from fwupdate_helpers.service import invoke_firmware_update, wait_for_update
from tests.support import HubProcess, device_connection_string, told_python

DEVICE = """
import json, sys
from fwupdate_helpers.device import SimulatedDevice
from fwupdate_helpers.errors import FirmwareUpdateError

given = json.loads(sys.stdin.readline())
device = SimulatedDevice(given["string"], **given["options"])
try:
    device.start()
except FirmwareUpdateError as error:
    print(type(error).__name__, flush=True)
    sys.exit()
for event in device.events.follow(until=given["until"]):
    print(event.kind, flush=True)
print(type(device.error).__name__, flush=True)
"""
"""Prints what happens on a device up to an event, then why it ended; never calls `stop`."""


@contextmanager
def device_process(
    hub: HubProcess, string: str, *, until: str = "stopped", **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """Run `DEVICE`; it is killed at the end, unless it has ended by itself."""
    options = {**hub.device_options, **options}
    given = {"string": string, "options": options, "until": until}
    with told_python(DEVICE, given) as process:
        yield process


def read_until(process: subprocess.Popen[str], kind: str) -> list[str]:
    """Read events up to one of this kind."""
    assert process.stdout is not None
    events: list[str] = []
    for line in process.stdout:
        events.append(line.strip())
        if events[-1] == kind:
            return events
    raise AssertionError(f"{kind} did not come after {events}")


def test_an_update_whose_device_was_killed_is_reported_as_interrupted_by_the_next_start(
    hub_process: HubProcess, new_device: Callable[[str], str], device_id: str
) -> None:
    registry, string = hub_process.registry(), new_device(device_id)
    with device_process(hub_process, string, stage_seconds=0.2) as killed:
        read_until(killed, "ready")
        update = invoke_firmware_update(registry, device_id)
        read_until(killed, "applying")
    with (
        SimulatedDevice(string, **hub_process.device_options),
        pytest.raises(UpdateFailed, match="has started again") as failed,
    ):
        wait_for_update(registry, device_id, update.update_id, timeout=10)
    assert failed.value.code == "interrupted"
    reported = registry.get_twin(device_id).properties.reported
    assert reported["firmwareStatus"] == "standBy"
    assert contract.open_stage(reported) is None


def test_two_processes_with_one_id_end_with_an_error_and_without_a_storm(
    hub_process: HubProcess, new_device: Callable[[str], str], device_id: str
) -> None:
    string = new_device(device_id)
    with device_process(hub_process, string) as first:
        read_until(first, "ready")
        with device_process(hub_process, string) as second, ThreadPoolExecutor(2) as pool:
            endings = [pool.submit(process.communicate) for process in (first, second)]
            done, _ = wait(endings, timeout=15, return_when=FIRST_COMPLETED)
            assert done, "neither gave up"
            first.kill()
            second.kill()
            outputs = [ending.result(timeout=10) for ending in endings]
    assert "DeviceIdInUse" in {word for output, _ in outputs for word in output.split()}
    assert "HubUnavailable" not in str(outputs)
    assert all(output.split().count("disconnected") <= 6 for output, _ in outputs), outputs
    assert [errors for _, errors in outputs] == ["", ""]


def test_a_device_outlives_a_restart_of_its_hub_and_writes_nothing_to_stderr(
    own_hub_process: HubProcess, device_id: str
) -> None:
    string = device_connection_string(own_hub_process, device_id)
    retry = {"connection_retry_interval": 1, "stage_seconds": 0.0}
    with device_process(own_hub_process, string, until="completed", **retry) as process:
        read_until(process, "ready")
        own_hub_process.stop()
        read_until(process, "disconnected")
        own_hub_process.start()
        read_until(process, "connected")
        registry = own_hub_process.registry()
        update = invoke_firmware_update(registry, device_id, connect_timeout=10)
        wait_for_update(registry, device_id, update.update_id, interval=0.02, timeout=10)
        rest, errors = process.communicate(timeout=10)
    assert rest.split()[-2:] == ["completed", "NoneType"]
    assert errors == ""


@pytest.mark.parametrize("until", ["ready", "downloading"])
def test_a_script_that_never_stops_its_device_ends_cleanly(
    until: str, hub_process: HubProcess, new_device: Callable[[str], str], device_id: str
) -> None:
    with device_process(
        hub_process, new_device(device_id), until=until, stage_seconds=0.1
    ) as process:
        read_until(process, "ready")
        if until != "ready":
            invoke_firmware_update(hub_process.registry(), device_id)
        _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (0, "")
