"""Retries with the real SDK, a real device and the local hub, on a way that fails as asked."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from azure.iot.hub import IoTHubRegistryManager

from fwupdate_helpers import apps
from fwupdate_helpers.device import SimulatedDevice
from fwupdate_helpers.errors import (
    DeviceOffline,
    HubRequestError,
    HubThrottled,
    HubUnavailable,
    UpdateRejected,
    UpdateTimeout,
)
from fwupdate_helpers.hub import Hub
from fwupdate_helpers.retries import Operation, Retry, RetryLog, RetryPolicy, Verdict
from fwupdate_helpers.service import (
    cancel_firmware_update,
    invoke_firmware_update,
    wait_for_update,
)
from tests.sdk import Connect, answer_methods
from tests.support import HubProcess
from tests.unruly_hub import BUSY, LOST_ANSWER, LOST_REQUEST, THROTTLED, Fault, UnrulyHub

TIMED_OUT = Fault(504, "GatewayTimeout")
Make = Callable[..., SimulatedDevice]


@pytest.fixture
def service(unruly: UnrulyHub, hub_process: HubProcess) -> Iterator[Hub]:
    """A hub whose service client goes the unruly way."""
    with Hub(
        kind="azure",
        connection_string=unruly.connection_string,
        ca_file=Path(hub_process.ca_file),
    ) as hub:
        yield hub


class Waits:
    """A policy whose back-off waits are noted, and over at once."""

    def __init__(self, **limits: Any) -> None:
        self.seconds: list[float] = []
        options = {"settle_seconds": 0.2, "cap_seconds": 0.01, **limits}
        self.policy = RetryPolicy(
            random=random.Random(5).random, sleep=self.seconds.append, **options
        )


def quick(**limits: Any) -> RetryPolicy:
    return RetryPolicy(**{"settle_seconds": 0.3, "cap_seconds": 0.01, **limits})


def verdicts(log: RetryLog) -> list[tuple[Operation, Any, Verdict]]:
    return [(retry.operation, retry.cause, retry.verdict) for retry in log]


METHOD, TWIN = Operation.METHOD, Operation.TWIN


# --- refusals ---


def test_a_throttled_and_busy_hub_is_asked_again_until_the_update_is_through(
    unruly: UnrulyHub, service: Hub, make: Make, device_id: str
) -> None:
    log, waits = RetryLog(), Waits()
    asks = Fault(429, "ThrottlingException", {"Retry-After": "7"})
    with make() as device:
        unruly.faults = [asks, BUSY, THROTTLED, None, BUSY, LOST_REQUEST, THROTTLED]
        update = invoke_firmware_update(
            service.registry, device_id, policy=waits.policy, on_retry=log
        )
        wait_for_update(
            service.registry, device_id, update.update_id, policy=waits.policy, on_retry=log
        )
        assert [event.kind for event in device.events].count("starting") == 1
    assert (update.status, update.resolved_from_twin) == (200, False)
    assert verdicts(log) == [
        *((METHOD, cause, Verdict.RETRY) for cause in (429001, 503001, 429001)),
        *((TWIN, cause, Verdict.RETRY) for cause in (503001, "answerLost", 429001)),
    ]
    assert 7 < waits.seconds[0] < 7.01
    assert all(seconds < 0.01 for seconds in waits.seconds[1:])


@pytest.mark.parametrize("fault", [THROTTLED, BUSY, TIMED_OUT, LOST_REQUEST], ids=str)
def test_there_are_as_many_requests_as_tries(
    unruly: UnrulyHub, service: Hub, device_id: str, fault: Fault
) -> None:
    unruly.faults = [fault] * 20
    with pytest.raises((HubRequestError, HubUnavailable, UpdateTimeout)) as caught:
        wait_for_update(service.registry, device_id, policy=quick(attempts=3))
    assert unruly.requests == [f"GET /twins/{device_id}"] * 3
    assert caught.value.attempts == 3
    assert "Tried 3 times" in str(caught.value)
    assert caught.value.__cause__ is not None


def test_the_hubs_code_and_retry_after_survive_the_sdk(
    unruly: UnrulyHub, service: Hub, device_id: str
) -> None:
    date = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(hours=1)
    unruly.faults = [Fault(503, "ServerBusy", {"Retry-After": format_datetime(date, usegmt=True)})]
    with pytest.raises(HubRequestError, match=r"asks to wait 3[56]") as caught:
        wait_for_update(service.registry, device_id)
    assert (caught.value.status, caught.value.code) == (503, 503005)
    assert 3590 < (caught.value.retry_after or 0) <= 3600
    assert len(unruly.requests) == 1, "an hour is longer than the policy has"


def test_without_retries_the_first_error_is_the_last(
    unruly: UnrulyHub, service: Hub, device_id: str
) -> None:
    unruly.faults = [THROTTLED] * 2
    with pytest.raises(HubThrottled):
        wait_for_update(service.registry, device_id, policy=RetryPolicy.none())
    with pytest.raises(HubThrottled):
        invoke_firmware_update(service.registry, device_id, policy=RetryPolicy.none())
    assert len(unruly.requests) == 2


def test_a_watch_is_over_at_its_own_time_limit_while_the_hub_fails(
    unruly: UnrulyHub, service: Hub, device_id: str
) -> None:
    unruly.faults = [BUSY] * 1000
    with pytest.raises(HubRequestError) as caught:
        wait_for_update(service.registry, device_id, timeout=0.2, policy=quick(attempts=1000))
    assert 0.1 < caught.value.seconds < 2


def test_identities_are_made_and_deleted_through_a_failing_hub(
    unruly: UnrulyHub, service: Hub, device_id: str
) -> None:
    unruly.faults = [BUSY, None, LOST_ANSWER]
    assert device_id in service.device_connection_string(device_id)
    unruly.faults = [LOST_ANSWER]
    service.delete_device(device_id)
    assert [line.split()[0] for line in unruly.requests] == [
        *("GET", "GET", "POST", "POST", "GET"),
        *("DELETE", "DELETE"),
    ]


# --- a method that may have run ---


@pytest.mark.parametrize("fault", [LOST_ANSWER, Fault(504, "GatewayTimeout", reaches_hub=True)])
def test_an_update_whose_answer_is_lost_is_found_in_the_twin(
    unruly: UnrulyHub, service: Hub, make: Make, device_id: str, fault: Fault
) -> None:
    log = RetryLog()
    with make() as device:
        unruly.faults = [fault]
        update = invoke_firmware_update(service.registry, device_id, on_retry=log)
        wait_for_update(service.registry, device_id, update.update_id, interval=0.02)
        assert [event.kind for event in device.events].count("starting") == 1
    assert update.resolved_from_twin
    assert (update.status, update.payload) == (200, {"Response": "Firmware update started"})
    assert not update.is_up_to_date
    assert [verdict for _, _, verdict in verdicts(log)] == [Verdict.LOOK]
    assert unruly.requests[:2] == [f"POST /twins/{device_id}/methods", f"GET /twins/{device_id}"]


@pytest.mark.parametrize("fault", [LOST_REQUEST, TIMED_OUT, Fault(500, "ServerError")], ids=str)
def test_an_update_that_is_not_in_the_twin_is_asked_for_again_with_the_same_id(
    unruly: UnrulyHub, service: Hub, make: Make, device_id: str, fault: Fault
) -> None:
    log = RetryLog()
    with make() as device:
        first = invoke_firmware_update(service.registry, device_id)
        wait_for_update(service.registry, device_id, first.update_id, interval=0.02)
        unruly.faults = [fault]
        update = invoke_firmware_update(
            service.registry, device_id, update_id="ours", policy=quick(), on_retry=log
        )
        twin = wait_for_update(service.registry, device_id, "ours", interval=0.02)
        assert [event.kind for event in device.events].count("starting") == 2
    assert (update.status, update.resolved_from_twin) == (200, False)
    assert twin.properties.reported["firmwareUpdate"]["updateId"] == "ours"
    assert [verdict for _, _, verdict in verdicts(log)] == [Verdict.LOOK, Verdict.RETRY]


def test_a_busy_device_is_told_after_a_lost_request_and_is_not_asked_again(
    unruly: UnrulyHub, service: Hub, make: Make, device_id: str
) -> None:
    with make(stage_seconds=30):
        invoke_firmware_update(service.registry, device_id)
        unruly.faults, unruly.requests = [LOST_REQUEST], []
        with pytest.raises(UpdateRejected, match="running") as caught:
            invoke_firmware_update(service.registry, device_id, policy=quick())
    assert (caught.value.status, caught.value.attempts) == (409, 2)
    assert [line.split()[0] for line in unruly.requests].count("POST") == 2


@pytest.mark.parametrize("fault", [LOST_ANSWER, LOST_REQUEST, TIMED_OUT], ids=str)
def test_the_tutorials_device_is_never_asked_twice_when_it_may_have_begun(
    unruly: UnrulyHub,
    service: Hub,
    connect: Connect,
    new_device: Callable[[str], str],
    device_id: str,
    fault: Fault,
) -> None:
    client = connect(new_device(device_id))
    calls: list[str] = []

    def begin(request: Any) -> tuple[int, Any]:
        calls.append(request.name)
        return 200, {"Response": "Firmware update started"}

    answer_methods(client, begin)
    client.patch_twin_reported_properties({"firmwareStatus": "standBy"})
    unruly.faults = [fault]
    with pytest.raises(UpdateTimeout, match="look at its twin") as caught:
        invoke_firmware_update(service.registry, device_id, policy=quick())
    assert caught.value.attempts == 1
    assert len(calls) == fault.reaches_hub
    assert [line.split()[0] for line in unruly.requests].count("POST") == 1


def test_what_a_device_of_ours_left_does_not_make_the_tutorials_device_begin_twice(
    unruly: UnrulyHub,
    service: Hub,
    connect: Connect,
    new_device: Callable[[str], str],
    device_id: str,
) -> None:
    client = connect(new_device(device_id))
    closed = {"startedAt": "2026-05-04T12:30:00Z", "endedAt": "2026-05-04T12:30:01Z"}
    left = {"updateId": "old", "outcome": "completed", "stages": {"applying": closed}}
    client.patch_twin_reported_properties({"firmwareUpdate": left})
    client.patch_twin_reported_properties({"firmwareStatus": "downloading"})
    unruly.faults = [LOST_REQUEST]
    with pytest.raises(UpdateTimeout):
        invoke_firmware_update(service.registry, device_id, policy=quick())
    assert [line.split()[0] for line in unruly.requests].count("POST") == 1


def test_a_cancellation_whose_answer_is_lost_is_found_in_the_twin(
    unruly: UnrulyHub, service: Hub, make: Make, device_id: str
) -> None:
    with make(stage_seconds=30):
        update = invoke_firmware_update(service.registry, device_id)
        unruly.faults = [LOST_REQUEST, None, LOST_ANSWER]
        payload = cancel_firmware_update(
            service.registry, device_id, update.update_id, policy=quick(settle_seconds=0.5)
        )
        assert payload == {"Response": "Firmware update is being cancelled"}
        with pytest.raises(UpdateRejected, match="noUpdate"):
            cancel_firmware_update(service.registry, device_id, update.update_id)


def test_a_cancellation_without_an_id_is_not_repeated(
    unruly: UnrulyHub, service: Hub, make: Make, device_id: str
) -> None:
    with make(stage_seconds=30):
        invoke_firmware_update(service.registry, device_id)
        unruly.faults, unruly.requests = [LOST_REQUEST], []
        with pytest.raises(UpdateTimeout):
            cancel_firmware_update(service.registry, device_id, policy=quick())
    assert len(unruly.requests) == 1


# --- an offline device ---


def test_an_offline_device_is_waited_for_when_asked(
    service: Hub, make: Make, device_id: str
) -> None:
    device, log = make(), RetryLog()

    def start(retry: Retry) -> None:
        log(retry)
        if len(log) == 2:
            device.start()

    patient = quick(retry_offline=True)
    with pytest.raises(DeviceOffline):
        invoke_firmware_update(service.registry, device_id, policy=quick())
    update = invoke_firmware_update(service.registry, device_id, policy=patient, on_retry=start)
    assert update.status == 200
    assert [cause for _, cause, _ in verdicts(log)] == [404103, 404103]


# --- all of it at once ---


def test_updates_in_a_row_complete_although_a_third_of_the_calls_fails(
    unruly: UnrulyHub, service: Hub, make: Make, device_id: str
) -> None:
    chance, log = random.Random(20), RetryLog()
    kinds = [THROTTLED, BUSY, LOST_REQUEST, LOST_ANSWER]
    policy = quick(attempts=20, cap_seconds=0.005, settle_seconds=0.02)
    options: dict[str, Any] = {"policy": policy, "on_retry": log}
    with make() as device:
        invoke_firmware_update(service.registry, device_id, update_id="0")
        wait_for_update(service.registry, device_id, "0", interval=0.01)
        unruly.faults = [
            chance.choice(kinds) if chance.random() < 0.3 else None for _ in range(2000)
        ]
        for n in range(1, 21):
            invoke_firmware_update(service.registry, device_id, update_id=str(n), **options)
            wait_for_update(service.registry, device_id, str(n), interval=0.01, **options)
        assert [event.kind for event in device.events].count("starting") == 21
    assert {retry.operation for retry in log} == {TWIN, METHOD}
    assert {retry.cause for retry in log} >= {429001, 503001, "answerLost"}


# --- the console app ---


def test_the_service_app_shows_every_retry_as_a_line(
    unruly: UnrulyHub,
    make: Make,
    device_id: str,
    hub_process: HubProcess,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "service.txt"
    file.write_text(unruly.connection_string, encoding="utf-8")
    options = ["--connection-string-file", str(file), "--ca-file", hub_process.ca_file]
    with make():
        unruly.faults = [THROTTLED, LOST_ANSWER, BUSY]
        assert apps.service_main([*options, "--device-id", device_id]) == 0
    lines = capsys.readouterr().out.splitlines()
    said = [line[9:] for line in lines if " Try " in line]
    assert said[0].startswith("Try 1 of the direct method failed (429001): next try in 0.")
    assert said[1] == (
        "Try 2 of the direct method failed (answerLost): it may have run, so the twin is asked."
    )
    assert said[2].startswith("Try 1 of the twin read failed (503001): next try in 0.")
    assert len(said) == 3
    assert "Firmware applied" in lines


def test_a_registry_of_ones_own_with_the_sdks_retries_still_ends_well(
    unruly: UnrulyHub, hub_process: HubProcess, make: Make, device_id: str
) -> None:
    registry = IoTHubRegistryManager(unruly.connection_string)
    registry.protocol.config.connection.verify = hub_process.ca_file
    with make():
        unruly.faults = [BUSY, LOST_ANSWER]
        update = invoke_firmware_update(registry, device_id, policy=quick())
    assert update.resolved_from_twin
