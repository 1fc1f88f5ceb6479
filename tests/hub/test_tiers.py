"""A hub with the limits of tier F1, as the unmodified SDKs and the kit meet them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
from azure.iot.device import IoTHubDeviceClient, MethodResponse
from azure.iot.device.exceptions import ConnectionFailedError
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import (
    CloudToDeviceMethod,
    ConfigurationContent,
    ExportImportDevice,
    QuerySpecification,
)
from azure.iot.hub.models import Configuration as DeviceConfiguration
from msrest.exceptions import HttpOperationError

from fwupdate_helpers import Fleet
from fwupdate_helpers.device import SimulatedDevice
from fwupdate_helpers.device.link_policy import LinkPolicy
from fwupdate_helpers.errors import FirmwareUpdateError, HubQuotaExceeded, UpdateTimeout
from fwupdate_helpers.hub import Hub
from fwupdate_helpers.hub_pace import FREE_PACE, METERED_PACE, pace_of
from fwupdate_helpers.localhub.tiers import Operation
from fwupdate_helpers.retries import RetryPolicy
from fwupdate_helpers.service import invoke_firmware_update, wait_for_update, watch_update
from tests.raw_mqtt import PUBACK, RawDevice, publish
from tests.rest import call, create_device, device_path, twin_path, wait_for
from tests.support import HubProcess, device_connection_string
from tests.tiers import SmallHub, about, messages, throttled

UPDATE_ID = "throttled-1"
NEVER_AGAIN = 0.001
"""A rate at which no test waits for more: what is saved up is all."""


@pytest.fixture(scope="module")
def f1(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """Return a hub of tier F1 as it is."""
    with HubProcess(tmp_path_factory.mktemp("f1"), "--tier", "F1") as hub:
        yield hub


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Callable[..., SmallHub]]:
    """Return a function that starts a hub whose tier F1 has smaller numbers."""
    with ExitStack() as stack:
        yield lambda **numbers: stack.enter_context(SmallHub(tmp_path / "hub", **numbers))


def hub_of(process: HubProcess, *, kind: Any = "local") -> Hub:
    return Hub(
        kind=kind,
        connection_string=process.connection_string,
        device_host=str(process.ready["device_host"]),
        ca_file=Path(process.ca_file),
        tier=about(process)["tier"] if kind == "local" else None,
    )


def client_of(hub: HubProcess, device_id: str, **options: Any) -> IoTHubDeviceClient:
    string = device_connection_string(hub, device_id)
    options = {**hub.device_options, "connection_retry": False, **options}
    return IoTHubDeviceClient.create_from_connection_string(string, **options)


def query(registry: Any) -> Any:
    return registry.query_iot_hub(QuerySpecification(query="SELECT deviceId FROM devices"))


# --- what F1 grants ---


def test_the_status_tells_the_tier_and_what_is_used(
    f1: HubProcess, hub_process: HubProcess
) -> None:
    found = about(f1)
    assert (found["tier"], found["daily_messages"]["limit"]) == ("F1", 8000)
    assert about(hub_process)["tier"] is None


def test_the_21st_query_at_once_is_refused_with_a_wait(f1: HubProcess) -> None:
    registry = f1.registry()
    with pytest.raises(HttpOperationError) as caught:
        for _ in range(40):  # however slow this machine is, it asks faster than 20 a minute
            query(registry)
    response = caught.value.response
    assert (response.status_code, response.headers["iothub-errorcode"]) == (
        429,
        "ThrottlingException",
    )
    assert 1 <= int(response.headers["Retry-After"]) <= 3


def test_the_kit_waits_as_the_hub_asks_and_shows_it(f1: HubProcess) -> None:
    with hub_of(f1) as hub:
        while not len(hub.retries):  # faster than 100 a minute
            assert hub.patiently(hub.jobs.query_scheduled_jobs, None, None).items == []
        (retry,) = hub.retries
        assert (retry.cause, str(retry.operation.value)) == (429001, "request")
        assert retry.delay >= 1
        assert "429001" in repr(hub.retries)


def test_a_bulk_call_counts_each_device(f1: HubProcess) -> None:
    registry = f1.registry()
    devices = [ExportImportDevice(id=f"bulk-{n}", import_mode="createOrUpdate") for n in range(60)]
    assert registry.bulk_create_or_update_devices(devices).is_successful
    with pytest.raises(HttpOperationError) as caught:
        for _ in range(3):
            registry.bulk_create_or_update_devices(devices)
    assert caught.value.response.status_code == 429


def test_f1_has_ten_configurations(f1: HubProcess) -> None:
    configurations = f1.configurations()
    for number in range(11):
        content = ConfigurationContent(device_content={"properties.desired.x": number})
        one = DeviceConfiguration(id=f"c{number}", content=content, target_condition="tags.no = 1")
        if number < 10:
            configurations.create_configuration(one)
    with pytest.raises(HttpOperationError) as caught:
        configurations.create_configuration(one)
    assert "ConfigurationCountLimitExceeded" in caught.value.response.text


def test_a_fleet_of_more_than_twenty_is_refused_before_anything_is_made(f1: HubProcess) -> None:
    for kind in ("local", "azure"):
        with hub_of(f1, kind=kind) as hub:
            with pytest.raises(FirmwareUpdateError, match="Make the fleet smaller"):
                Fleet(hub, 21)
            assert len(Fleet(hub, 20).profiles) == 20


def test_a_hub_that_counts_is_asked_less_often(f1: HubProcess, hub_process: HubProcess) -> None:
    paces = [hub_of(process).pace for process in (f1, hub_process)]
    assert paces == [METERED_PACE, FREE_PACE]
    assert hub_of(hub_process, kind="azure").pace == METERED_PACE
    azure = "HostName=example.azure-devices.net;SharedAccessKeyName=x;SharedAccessKey=eA=="
    assert pace_of(IoTHubRegistryManager(azure)) == METERED_PACE
    assert pace_of(hub_process.registry()) == FREE_PACE


def test_a_watch_reads_the_twin_at_the_pace_of_its_hub(
    f1: HubProcess, hub_process: HubProcess, device_id: str
) -> None:
    for process, seconds in ((f1, 2.0), (hub_process, 0.5)):
        create_device(process, device_id)
        slept: list[float] = []
        with hub_of(process) as hub, pytest.raises(UpdateTimeout):
            wait = watch_update(
                hub.registry, device_id, timeout=5, clock=partial(sum, slept), sleep=slept.append
            )
            list(wait)
        assert set(slept[:2]) == {seconds}


# --- what an operation costs ---


def test_each_operation_costs_the_messages_that_azure_charges(
    f1: HubProcess, device_id: str
) -> None:
    registry = f1.registry()

    def cost(operation: Callable[[], object]) -> int:
        before = messages(f1)
        operation()
        return messages(f1) - before

    call_of_offline = {"methodName": "m", "payload": "x" * 600}
    string = device_connection_string(f1, device_id)
    with RawDevice(f1, device_id, string.partition("SharedAccessKey=")[2]) as device:
        assert cost(lambda: registry.get_device(device_id)) == 0
        assert (
            cost(lambda: call(f1, "POST", f"{twin_path(device_id)}/methods", call_of_offline)) == 3
        )
        size = len(call(f1, "GET", twin_path(device_id)).text)
        assert cost(lambda: registry.get_twin(device_id)) == -(-size // 512)
        long = {"properties": {"desired": {"a": "x" * 1000}}}
        assert cost(lambda: call(f1, "PATCH", twin_path(device_id), long)) == 3
        assert cost(device.connected) == 0
        assert cost(lambda: _ask(device, "GET/", b" ")) == 3
        assert cost(lambda: _ask(device, "PATCH/properties/reported/", b'{"b":1}')) == 1


def _ask(device: RawDevice, operation: str, payload: bytes) -> int:
    number = device.next_id()
    device.send(publish(f"$iothub/twin/{operation}?$rid={number}", payload, packet_id=number))
    answer, acknowledged = device.receive(), device.receive()
    assert acknowledged.kind == PUBACK
    return int(answer.topic.split("/")[3])


def test_a_method_costs_its_request_and_its_answer(f1: HubProcess, device_id: str) -> None:
    client = client_of(f1, device_id)
    client.on_method_request_received = lambda request: client.send_method_response(
        _answer(request, "y" * 600)
    )
    try:
        wait_for(lambda: about(f1)["connected_devices"] > 0)
        before = messages(f1)
        method = CloudToDeviceMethod(method_name="m", payload="x" * 600)
        f1.registry().invoke_device_method(device_id, method)
        assert messages(f1) - before == 4
    finally:
        client.shutdown()


def _answer(request: Any, payload: str) -> Any:
    return MethodResponse.create_from_method_request(request, 200, payload)


# --- devices over the limit ---


def test_a_device_whose_twin_operations_are_throttled_backs_off_and_ends_its_update(
    small: Callable[..., SmallHub], device_id: str
) -> None:
    hub = small(per_second={Operation.TWIN_UPDATE: NEVER_AGAIN}, burst_seconds=4 / NEVER_AGAIN)
    string = device_connection_string(hub, device_id)
    policy = _ShortBackOff()
    device = SimulatedDevice(string, stage_seconds=0.0, link_policy=policy, **hub.device_options)
    with device:
        while call(hub, "PATCH", twin_path(device_id), {"tags": {"a": 1}}).status == 200:
            pass
        # The device answers when its first report is acknowledged, which is not before the end.
        order = Thread(target=_invoke_in_vain, args=(hub.registry(), device_id))
        order.start()
        wait_for(lambda: len(_refusals(device)) >= 3, seconds=60)
        assert {1, 2, 3} <= set(policy.asked)  # each wait is of a longer range than the last
        refused = throttled(hub, Operation.TWIN_UPDATE)
        # Each is told and followed by a wait; the SDK's own way is thousands in a second.
        assert refused <= len(_refusals(device)) + 2  # one was ours, one is just being answered
        hub.kill()
        hub.program = HubProcess.program
        hub.start()
        wait_for_update(hub.registry(), device_id, UPDATE_ID, timeout=120)
        order.join()


class _ShortBackOff(LinkPolicy):
    """Notes after how many failures a wait is asked for."""

    asked: ClassVar[list[int]] = []

    def wait_after(self, failures: int) -> float:
        self.asked.append(failures)
        return 0.05


def _invoke_in_vain(registry: Any, device_id: str) -> None:
    with suppress(FirmwareUpdateError):
        invoke_firmware_update(registry, device_id, update_id=UPDATE_ID, policy=RetryPolicy.none())


def _refusals(device: SimulatedDevice) -> list[str]:
    return [event.text for event in device.events if "returned status 429" in event.text]


def test_a_throttled_connection_is_refused_as_one_that_may_be_tried_later(
    small: Callable[..., SmallHub],
) -> None:
    hub = small(per_second={Operation.CONNECT: NEVER_AGAIN}, burst_seconds=3 / NEVER_AGAIN)
    key = create_device(hub, "d1")
    for _ in range(3):
        with RawDevice(hub, "d1", key) as device:
            device.connected()
    client = client_of(hub, "d2")
    with pytest.raises(ConnectionFailedError):
        client.connect()
    client.shutdown()
    assert throttled(hub, Operation.CONNECT) == 1


def test_telemetry_over_the_rate_is_acknowledged_late_and_far_over_it_ends_the_connection(
    small: Callable[..., SmallHub],
) -> None:
    hub = small(per_second={Operation.TELEMETRY: 2.0}, burst_seconds=1.0)
    with RawDevice(hub, "d1", create_device(hub, "d1")) as device:
        device.connected()
        # 2 pass at once, then 20 may wait for 10 s; sent in one go, 300 are read in less than that.
        events = [publish("devices/d1/messages/events/", b"x", packet_id=n) for n in range(1, 300)]
        device.send(*events)
        answers = device.wait_until_closed(timeout=30)
    taken = messages(hub)
    assert {packet.kind for packet in answers} == {PUBACK}
    assert 2 <= len(answers) < taken < 299
    assert throttled(hub, Operation.TELEMETRY) == 1


# --- messages that are used up ---


def test_used_up_messages_stop_services_and_devices_also_after_a_restart(
    small: Callable[..., SmallHub], device_id: str
) -> None:
    hub = small(daily_messages=30)
    key = create_device(hub, device_id)
    registry = hub.registry()
    with RawDevice(hub, device_id, key) as device:
        device.connected()
        while messages(hub) < 30:
            registry.get_twin(device_id)
        device.send(publish(f"devices/{device_id}/messages/events/", b"x", packet_id=1))
        assert device.wait_until_closed() == []
    hub.stop()
    hub.start()
    _check_used_up(hub, device_id)


def _check_used_up(hub: HubProcess, device_id: str) -> None:
    with hub_of(hub) as kit:
        with pytest.raises(HubQuotaExceeded, match="00:00 UTC") as caught:
            wait_for_update(kit.registry, device_id)
        assert (caught.value.code, caught.value.attempts) == (403002, 1)
        with pytest.raises(HubQuotaExceeded):
            kit.patiently(query, kit.registry)
        with pytest.raises(HubQuotaExceeded):
            invoke_firmware_update(kit.registry, device_id)
        assert kit.registry.get_device(device_id).device_id == device_id  # that is no message
    client = client_of(hub, f"{device_id}-2")
    with pytest.raises(ConnectionFailedError):
        client.connect()
    client.shutdown()
    deleted = call(hub, "DELETE", device_path(device_id), headers={"If-Match": "*"})
    assert deleted.status == 204, deleted.text
