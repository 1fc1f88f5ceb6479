"""The device on a bad line: lost answers, lost connections, lost subscriptions, rivals."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from azure.iot.device import IoTHubDeviceClient
from azure.iot.device.aio import IoTHubDeviceClient as AsyncClient
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import CloudToDeviceMethod

from fwupdate_helpers import contract
from fwupdate_helpers.device import LinkPolicy, SimulatedDevice, sdk_inside
from fwupdate_helpers.device.surroundings import DeviceSurroundings
from fwupdate_helpers.errors import DeviceIdInUse, FirmwareUpdateError, HubUnavailable
from fwupdate_helpers.firmware.agent import UpdateAgent
from fwupdate_helpers.service import invoke_firmware_update, wait_for_update
from tests.raw_mqtt import PUBLISH, SUBACK
from tests.rest import wait_for
from tests.support import HubProcess, device_connection_string, reported
from tests.unruly_mqtt import UnrulyMqtt

Json = dict[str, Any]
NewDevice = Callable[..., SimulatedDevice]
HASTY = LinkPolicy(answer_seconds=0.3, first_wait=0.05, start_seconds=10)
"""A policy that lets no test wait long."""
TWIN_REPLIES = "$iothub/twin/res/"
PATCHES = "$iothub/twin/PATCH/properties/reported/"


@pytest.fixture
def line(hub_process: HubProcess) -> Iterator[UnrulyMqtt]:
    """Return a line to the hub that loses what a test wants."""
    with UnrulyMqtt(hub_process) as one:
        yield one


@pytest.fixture
def device(
    line: UnrulyMqtt, new_device: Callable[[str], str], device_id: str
) -> Iterator[SimulatedDevice]:
    """Return a device on that line; its tests leave no thread of it."""
    one = SimulatedDevice(
        line.string(new_device(device_id)),
        stage_seconds=0.0,
        link_policy=HASTY,
        server_verification_cert=line.ca_pem,
    )
    yield one
    one.stop()
    wait_for(lambda: not threads_of_devices())
    assert not [event for event in one.events if event.kind == "error"]


def threads_of_devices() -> set[str]:
    """Return the threads that neither the tests have nor all clients of the SDK share."""
    names = {thread.name for thread in threading.enumerate()}
    shared = {"MainThread", "unruly-mqtt", "pipeline", "callback", "asyncio_0"}
    return {name for name in names - shared if not name.endswith("(run_forever)")}


def update(registry: IoTHubRegistryManager, device_id: str) -> Json:
    """Walk one whole update; return the reported properties."""
    begun = invoke_firmware_update(registry, device_id)
    wait_for_update(registry, device_id, begun.update_id, interval=0.02, timeout=15)
    return reported(registry, device_id)


def patches(line: UnrulyMqtt) -> list[Json]:
    """Return the reported patches that the device sent."""
    return [
        packet.content
        for packet in list(line.sent)
        if packet.kind == PUBLISH and packet.topic.startswith(PATCHES)
    ]


def twin_reads(line: UnrulyMqtt) -> int:
    """Count how often the device has asked for its twin."""
    sent = [packet for packet in list(line.sent) if packet.kind == PUBLISH]
    return sum(packet.topic.startswith("$iothub/twin/GET/") for packet in sent)


def times_connected(device: SimulatedDevice) -> int:
    return [event.kind for event in device.events].count("connected")


# -- reports --------------------------------------------------------------------------------------


def test_a_report_whose_acknowledgement_is_lost_is_sent_again_and_the_update_goes_on(
    device: SimulatedDevice, line: UnrulyMqtt, registry: IoTHubRegistryManager, device_id: str
) -> None:
    device.start()
    lost = line.lose(PUBLISH, TWIN_REPLIES)  # the hub has applied what is answered there
    twin = update(registry, device_id)
    assert lost.lost == 1
    assert line.connections == 1, "nobody had to connect again"
    assert (twin["firmwareStatus"], twin["firmwareUpdate"]["outcome"]) == ("completed",) * 2
    sent = patches(line)
    assert any(one == two for one, two in pairwise(sent)), "the same again"
    assert update(registry, device_id)["firmwareStatus"] == "completed"


def test_a_twin_call_that_would_never_return_ends_with_the_connection(
    device: SimulatedDevice, line: UnrulyMqtt, registry: IoTHubRegistryManager, device_id: str
) -> None:
    """The SDK's call of a request that is acknowledged and never answered blocks for ever."""
    device.start()
    before = line.connections
    lost = line.lose(PUBLISH, TWIN_REPLIES, cut=True)
    twin = update(registry, device_id)
    assert (lost.lost, line.connections) == (1, before + 1)
    assert twin["firmwareUpdate"]["outcome"] == "completed"


def test_reports_without_a_connection_wait_are_merged_and_arrive_in_their_order(
    device: SimulatedDevice, line: UnrulyMqtt, registry: IoTHubRegistryManager, device_id: str
) -> None:
    device.start()
    before = len(patches(line))
    lost = line.lose(PUBLISH, PATCHES, from_device=True, cut=True, times=3)
    with ThreadPoolExecutor(8) as pool:
        reports = [pool.submit(device.report, {"door": {"count": n}, f"n{n}": n}) for n in range(8)]
        assert [report.result(timeout=20) for report in reports] == [None] * 8
    twin = reported(registry, device_id)
    assert [twin[f"n{n}"] for n in range(8)] == list(range(8))
    assert lost.lost == 3
    sent = patches(line)[before:]
    assert len(sent) < 8 + 3, "what waited was sent in one"
    assert twin["door"] == sent[-1]["door"]
    assert update(registry, device_id)["firmwareStatus"] == "completed"


def test_a_report_that_the_hub_refuses_is_an_error_of_its_caller_alone(
    device: SimulatedDevice, registry: IoTHubRegistryManager, device_id: str
) -> None:
    with pytest.raises(FirmwareUpdateError, match="does not run"):
        device.report({"a": 1})
    device.start()
    with ThreadPoolExecutor(3) as pool:
        good = [pool.submit(device.report, {f"good{n}": n}) for n in range(2)]
        bad = pool.submit(device.report, {"bad name": 1})
        for report in good:
            report.result(timeout=10)
        with pytest.raises(FirmwareUpdateError, match="refuses"):
            bad.result(timeout=10)
    assert reported(registry, device_id)["good1"] == 1
    assert update(registry, device_id)["firmwareStatus"] == "completed"


def test_a_report_that_is_not_acknowledged_in_time_says_so_and_comes_later(
    device: SimulatedDevice, line: UnrulyMqtt, registry: IoTHubRegistryManager, device_id: str
) -> None:
    device.start()
    line.lose(PUBLISH, PATCHES, from_device=True, times=2)
    with pytest.raises(HubUnavailable, match="as soon as"):
        device.report({"late": True}, timeout=0.1)
    wait_for(lambda: "late" in reported(registry, device_id))


def open_files() -> int:
    """Count the files and sockets that this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="counts the open files in /proc")
def test_after_many_lost_connections_no_thread_and_no_socket_is_left(
    device: SimulatedDevice, line: UnrulyMqtt
) -> None:
    device.start().stop()  # what all clients of the SDK share is there now
    gc.collect()
    before = open_files()
    device.start()
    for number in range(line.connections, line.connections + 3):
        line.cut()
        wait_for(lambda number=number: line.connections > number)
        device.report({"number": number}, timeout=10)
    device.stop()
    wait_for(lambda: not threads_of_devices())
    gc.collect()  # the SDK leaves two descriptors of a client to it
    wait_for(lambda: open_files() <= before)


def test_an_update_that_follows_before_the_device_knows_of_the_last_ones_end_is_not_refused(
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
        first, second = (update(registry, device_id) for _ in range(2))
    assert first["firmwareUpdate"]["updateId"] != second["firmwareUpdate"]["updateId"]
    assert second["firmwareUpdate"]["outcome"] == "completed"


# -- the SDK's traps ------------------------------------------------------------------------------


def test_a_hub_that_answers_no_request_is_an_error_of_start(
    device: SimulatedDevice, line: UnrulyMqtt, device_id: str
) -> None:
    line.lose(PUBLISH, TWIN_REPLIES, times=1000)
    impatient = replace(HASTY, start_seconds=1.5)
    device._setup = replace(device._setup, link_policy=impatient)
    with pytest.raises(HubUnavailable, match="does not answer"):
        device.start()
    assert not device.is_running
    assert line.connections > 1, "it had tried a new connection"
    device.events._events.clear()  # the error is as it should be


def test_an_acknowledgement_of_a_subscription_that_is_lost_does_not_keep_the_device(
    device: SimulatedDevice, line: UnrulyMqtt, registry: IoTHubRegistryManager, device_id: str
) -> None:
    lost = line.lose(SUBACK, times=2)
    device.start()
    assert lost.lost == 2
    assert update(registry, device_id)["firmwareStatus"] == "completed"


def test_a_hub_that_has_lost_the_session_hears_of_the_subscriptions_again(
    own_hub_process: HubProcess, device_id: str
) -> None:
    hub = own_hub_process
    string = device_connection_string(hub, device_id)
    with SimulatedDevice(
        string, stage_seconds=0.0, link_policy=HASTY, **hub.device_options
    ) as device:
        hub.stop()
        with sqlite3.connect(next(hub.state_dir.glob("*.db*"))) as database:
            assert database.execute("DELETE FROM sessions").rowcount == 1
        database.close()
        hub.start()
        assert invoke_firmware_update(hub.registry(), device_id, connect_timeout=10).status == 200
        assert device.events.wait_for("completed", timeout=10)


def test_a_method_that_fails_on_the_device_is_answered_500_and_the_device_goes_on(
    make: NewDevice,
    registry: IoTHubRegistryManager,
    device_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(agent: UpdateAgent, order: contract.UpdateOrder) -> None:
        raise OSError(5, "Input/output error", "/secret/place")

    method = CloudToDeviceMethod(method_name=contract.METHOD, payload={"fwPackageUri": "test.com"})
    with make() as device:
        with monkeypatch.context() as patch:
            patch.setattr(UpdateAgent, "answer_at_once", fail)
            answer = registry.invoke_device_method(device_id, method)
        assert (answer.status, answer.payload["error"]["code"]) == (500, "internal")
        assert "Input/output error" in answer.payload["error"]["message"]
        assert "secret" not in str(answer.payload)
        noted = device.events.wait_for("error", timeout=5)
        assert noted is not None and "firmwareUpdate" in noted.text
        assert update(registry, device_id)["firmwareStatus"] == "completed"


def test_a_token_is_renewed_in_mid_update(
    make: NewDevice,
    registry: IoTHubRegistryManager,
    device_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    renewed = threading.Event()

    async def hold(around: DeviceSurroundings, share: float = 1.0) -> None:
        await asyncio.to_thread(renewed.wait, 60)

    def connected_at() -> Any:
        return registry.get_device(device_id).connection_state_updated_time

    monkeypatch.setattr(DeviceSurroundings, "pause", hold)
    with make(sastoken_ttl=121) as device:  # the SDK renews after one second
        begun = invoke_firmware_update(registry, device_id)
        assert device.events.wait_for("starting", timeout=15)
        before = connected_at()
        wait_for(lambda: connected_at() != before, seconds=30)
        renewed.set()
        wait_for_update(registry, device_id, begun.update_id, interval=0.02, timeout=30)
    assert reported(registry, device_id)["firmwareUpdate"]["outcome"] == "completed"
    assert device.error is None


def test_of_two_clients_with_one_id_one_gives_way_and_the_other_goes_on(
    hub_process: HubProcess,
    new_device: Callable[[str], str],
    registry: IoTHubRegistryManager,
    device_id: str,
) -> None:
    string = new_device(device_id)
    options = {"stage_seconds": 0.0, "link_policy": LinkPolicy(first_wait=0.1)}
    first, second = (
        # Two devices of one process know of each other, unless their strings differ.
        SimulatedDevice(one, **options, **hub_process.device_options)
        for one in (string, f"{string};GatewayHostName={hub_process.ready['device_host']}")
    )
    with first:
        with suppress(DeviceIdInUse):  # it may be the one that gives way
            second.start()
        wait_for(lambda: [first.is_running, second.is_running].count(False) == 1, seconds=15)
        stays, gone = (first, second) if first.is_running else (second, first)
        assert isinstance(gone.error, DeviceIdInUse)
        wait_for(lambda: registry.get_twin(device_id).connection_state == "Connected")
        assert update(registry, device_id)["firmwareStatus"] == "completed"
        assert stays.is_running and stays.error is None
        second.stop()


def test_a_line_that_is_bad_for_long_is_no_second_client(
    device: SimulatedDevice, line: UnrulyMqtt, registry: IoTHubRegistryManager, device_id: str
) -> None:
    impatient = replace(HASTY, evictions=2, longest_wait=0.1)
    device._setup = replace(device._setup, link_policy=impatient)
    device.start()
    update(registry, device_id)  # reports of its own
    lost = line.lose(PUBLISH, PATCHES, from_device=True, cut=True)  # one that may have arrived
    device.report({"door": "open"}, timeout=20)
    assert lost.lost == 1
    reads = twin_reads(line)
    for _ in range(6):
        before = times_connected(device)
        line.cut()
        wait_for(lambda before=before: times_connected(device) > before, seconds=20)
    assert device.events.wait_for("unsteady", timeout=10)
    wait_for(lambda: twin_reads(line) > reads, seconds=20)  # it has asked the hub
    assert update(registry, device_id)["firmwareStatus"] == "completed"
    assert device.error is None


def test_a_connection_that_is_lost_as_it_is_made_is_made_again(
    device: SimulatedDevice, line: UnrulyMqtt, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, losses = AsyncClient.connect, [1]

    async def connect_and_lose(client: AsyncClient) -> None:
        await connect(client)
        if losses:
            losses.pop()
            line.cut()
            while client.connected:
                await asyncio.sleep(0.01)

    monkeypatch.setattr(AsyncClient, "connect", connect_and_lose)
    device.start()
    assert times_connected(device) >= 2


def test_a_network_thread_that_dies_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    client = IoTHubDeviceClient.create_from_connection_string(
        "HostName=127.0.0.1;DeviceId=d;SharedAccessKey=c2VjcmV0"
    )
    paho = sdk_inside._paho_of(client)
    paho._thread_main = raise_eof
    sdk_inside.keep_quiet(client)
    thread = threading.Thread(target=paho._thread_main)
    thread.start()
    thread.join()
    assert capfd.readouterr().err == ""
    client.shutdown()


def raise_eof() -> None:
    raise ssl.SSLEOFError(8, "EOF occurred in violation of protocol")
