"""MQTT over WebSockets on port 443: the SDK unmodified, the kit's devices, and rude clients."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import CloudToDeviceMethod

from fwupdate_helpers.device import LinkPolicy, SimulatedDevice
from fwupdate_helpers.errors import FirmwareUpdateError
from fwupdate_helpers.fleet import Fleet
from fwupdate_helpers.hub import Hub
from fwupdate_helpers.localhub import ports
from fwupdate_helpers.localhub.statedir import StateDir
from fwupdate_helpers.service import invoke_firmware_update, wait_for_update
from fwupdate_helpers.websockets import WEBSOCKETS_VARIABLE as VARIABLE
from tests.images import hub_of
from tests.raw_mqtt import PINGREQ, PINGRESP, publish
from tests.raw_mqtt import connect as connect_packet
from tests.raw_websocket import PATH, TEXT, WebSocketDevice, frame, read_head, upgrade
from tests.rest import call, change_desired, create_device, twin_path, wait_for
from tests.sdk import Connect, answer_methods
from tests.support import (
    HubProcess,
    free_loopback_address,
    may_listen,
    missing_tool,
    reported,
    settle,
    without_rights,
)
from tests.unruly_mqtt import UnrulyMqtt

Json = dict[str, Any]
OpenSocket = Callable[..., Any]
AZURE = "HostName=example.azure-devices.net;SharedAccessKeyName=service;SharedAccessKey=c2VjcmV0"
HASTY = LinkPolicy(answer_seconds=2, first_wait=0.02, longest_wait=0.1, start_seconds=20)


@pytest.fixture(scope="session", autouse=True)
def rights() -> None:
    """Skip these tests where the system keeps port 443 from this user."""
    if may_listen(443):
        return
    if sys.platform == "linux":
        missing_tool("no right to listen on 443 (sysctl net.ipv4.ip_unprivileged_port_start=443)")
    pytest.skip("no right to listen on port 443")


@pytest.fixture
def hub(hub_process: HubProcess, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Return the hub, with the setting on."""
    monkeypatch.setenv(VARIABLE, "1")
    with hub_of(hub_process) as hub:
        yield hub
        hub.faults.clear()


@pytest.fixture
def device(hub: Hub, device_id: str) -> Iterator[SimulatedDevice]:
    """Return a device that is set up as the notebooks do it."""
    string = hub.device_connection_string(device_id)
    with SimulatedDevice(string, stage_seconds=0.0, link_policy=HASTY, **hub.device_options) as one:
        yield one


@pytest.fixture
def open_socket(hub_process: HubProcess, device_id: str) -> Iterator[OpenSocket]:
    """Return a function that opens a bare WebSocket for a device, whose identity it creates."""
    key = create_device(hub_process, device_id)
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(
            WebSocketDevice(hub_process, device_id, key, **options)
        )


def clients_of(hub: HubProcess, port: int = 443) -> int:
    """Count the connections that a hub has on a port."""
    return sum(
        one.status == psutil.CONN_ESTABLISHED and one.laddr.port == port
        for one in psutil.Process(hub.ready["pid"]).net_connections("tcp")
    )


def update(hub: Hub, device_id: str) -> Json:
    begun = invoke_firmware_update(hub.registry, device_id)
    twin = wait_for_update(hub.registry, device_id, begun.update_id, interval=0.02, timeout=60)
    return dict(twin.properties.reported)


# -- the SDK --------------------------------------------------------------------------------------


def walk(hub: Hub, device_id: str, connect: Connect, **options: Any) -> Counter[str]:
    """Let a client of the SDK do all that it can; return what the wire trace tells of it."""
    patched = threading.Event()
    client = connect(hub.device_connection_string(device_id), **options)
    client.on_twin_desired_properties_patch_received = lambda patch: patched.set()
    answer_methods(client, lambda request: (200, {"heard": request.payload}))
    method = CloudToDeviceMethod(method_name="reboot", payload={"large": "x" * 70_000})
    answer = hub.registry.invoke_device_method(device_id, method)
    assert answer.payload == {"heard": {"large": "x" * 70_000}}
    client.patch_twin_reported_properties({"size": {f"k{n}": "x" * 4000 for n in range(7)}})
    hub.registry.update_twin(device_id, {"properties": {"desired": {"speed": 3}}})
    assert patched.wait(30)
    twin = client.get_twin()
    assert (twin["desired"]["speed"], len(twin["reported"]["size"])) == (3, 7)
    client.send_message("telemetry")
    client.disconnect()
    wait_for(lambda: "DISCONNECT" in str([row.what for row in hub.trace(device_id)]), seconds=30)
    return Counter(
        f"{row.source}→{row.target} {_plain(row.what, device_id)} {row.status}"
        for row in hub.trace(device_id)
    )


def _plain(what: str, device_id: str) -> str:
    return re.sub(r"rid=[^&\s]+", "rid=", what.replace(device_id, "id"))


def test_the_unmodified_sdk_does_all_over_websockets_and_the_wire_trace_is_that_of_tcp(
    hub_process: HubProcess, hub: Hub, connect: Connect, device_id: str
) -> None:
    over_tcp = walk(hub, f"{device_id}-tcp", connect)
    over_websockets = walk(hub, f"{device_id}-ws", connect, websockets=True)
    assert over_websockets == over_tcp
    assert sum(over_tcp.values()) > 20


def test_a_hub_on_443_is_known_by_its_host_name_alone_also_after_a_restart(
    tmp_path: Path, device_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "1")
    with HubProcess(tmp_path / "hub", "--service-port", "443") as process:
        host = process.ready["device_host"]
        assert process.connection_string.startswith(f"HostName={host};")
        assert (process.ready["service_port"], process.ready["websocket_port"]) == (443, 443)
        with hub_of(process) as hub:
            string = hub.device_connection_string(device_id)
            with SimulatedDevice(string, stage_seconds=0.0, **process.device_options):  # on 8883
                assert update(hub, device_id)["firmwareStatus"] == "completed"
            with SimulatedDevice(
                string, stage_seconds=0.0, link_policy=HASTY, **hub.device_options
            ) as device:
                assert process.stop() == "", "it ended without a complaint"
                process.start()
                device.report({"back": True}, timeout=60)
                assert clients_of(process, 8883) == 0
                assert update(hub, device_id)["back"] is True
                assert hub.trace(device_id)


def test_services_may_use_443_and_devices_the_service_port(
    hub_process: HubProcess, device_id: str
) -> None:
    class OnServicePort(WebSocketDevice):
        port = int(hub_process.ready["service_port"])

    key = create_device(hub_process, device_id)
    with OnServicePort(hub_process, device_id, key) as device:
        assert device.connected().answers_ping()
    port = hub_process.ready["service_port"]
    manager = IoTHubRegistryManager(hub_process.connection_string.replace(f":{port}", ""))
    manager.protocol.config.connection.verify = hub_process.ca_file
    assert manager.get_twin(device_id).device_id == device_id


# -- the kit's devices ----------------------------------------------------------------------------


def test_one_setting_brings_devices_to_port_443(
    hub_process: HubProcess, hub: Hub, device: SimulatedDevice, device_id: str
) -> None:
    assert hub.device_options["websockets"] is True
    wait_for(lambda: clients_of(hub_process) == 1, seconds=30)
    assert update(hub, device_id)["firmwareStatus"] == "completed"


def test_dropped_connections_and_a_hub_that_keeps_off_are_survived_as_over_tcp(
    hub: Hub, device: SimulatedDevice, device_id: str
) -> None:
    fault = hub.faults.drop_connection(device_id, at="downloading", keep_off=0.3)
    assert update(hub, device_id)["firmwareStatus"] == "completed"
    assert fault.refresh().acted == 1
    seen = [row.what for row in hub.trace(device_id, kinds=["connection"])]
    assert any("a fault at the hub drops the connection" in what for what in seen), seen
    assert [event.kind for event in device.events].count("connected") >= 2


def test_a_power_cut_is_no_farewell_and_leaves_no_socket(
    hub_process: HubProcess, hub: Hub, device: SimulatedDevice, device_id: str
) -> None:
    device.stop()  # what all clients of the SDK share is there now
    wait_for(lambda: (sockets_here(), clients_of(hub_process)) == (0, 0), seconds=30)
    gc.collect()
    before = sockets_of_all_kinds()
    for _ in range(3):
        device.start()
        mark = hub.trace(device_id).last
        device.power_cut()
        wait_for(lambda mark=mark: "CLOSE" in packets(hub, device_id, mark), seconds=30)
        assert "DISCONNECT" not in packets(hub, device_id, mark)
    wait_for(lambda: (sockets_here(), clients_of(hub_process)) == (0, 0), seconds=30)
    wait_for(lambda: sockets_of_all_kinds() <= before, seconds=30)  # paho has a pair of its own
    assert not [event for event in device.events if event.kind == "error"]


def packets(hub: Hub, device_id: str, after: int) -> list[str]:
    """Return the names of the packets about a device's connection."""
    rows = hub.trace(device_id, after=after, kinds=["connection"])
    return [row.what.partition(" ")[0] for row in rows]


def test_after_lost_connections_no_socket_is_left(
    hub_process: HubProcess, hub: Hub, device: SimulatedDevice, device_id: str
) -> None:
    wait_for(lambda: (sockets_here(), clients_of(hub_process)) == (1, 1), seconds=30)
    for number in range(3):
        hub.faults.drop_connection(device_id)
        device.report({"number": number}, timeout=30)
        wait_for(
            lambda: hub.registry.get_twin(device_id).connection_state == "Connected", seconds=30
        )
    wait_for(lambda: (sockets_here(), clients_of(hub_process)) == (1, 1), seconds=30)
    assert reported(hub.registry, device_id)["number"] == 2


def sockets_of_all_kinds() -> int:
    return len(psutil.Process().net_connections("tcp"))


def sockets_here() -> int:
    """Count this process's connections over TCP to port 443."""
    connections = psutil.Process().net_connections("tcp")
    return sum(bool(one.raddr) and one.raddr.port == 443 for one in connections)


class Doorkeeper(UnrulyMqtt):
    """A TLS server on port 443 that turns the first ones away, and leads the others to the hub."""

    port = 443

    def __init__(self, hub: HubProcess, *answers: bytes) -> None:
        super().__init__(hub)
        self.answers = list(answers)

    async def _serve(self, device: asyncio.StreamReader, to_device: asyncio.StreamWriter) -> None:
        head = await device.readuntil(b"\r\n\r\n")
        if self.answers:
            to_device.write(self.answers.pop(0))
            to_device.close()
            return
        trust = ssl.create_default_context(cafile=self.hub.ca_file)
        host = str(self.hub.ready["device_host"])
        hub, to_hub = await asyncio.open_connection(host, 443, ssl=trust)
        to_hub.write(head)
        pumps = [
            asyncio.ensure_future(_pump(*ends)) for ends in ((device, to_hub), (hub, to_device))
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            to_hub.transport.abort()
            to_device.transport.abort()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            target.write(data)


def test_a_handshake_that_is_turned_away_is_tried_again(
    hub_process: HubProcess, hub: Hub, device_id: str
) -> None:
    """The SDK calls it unexpected; a proxy that is busy, or wants a login, is not the end."""
    busy = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    login = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nlogin"
    with Doorkeeper(hub_process, b"", busy, login) as door:
        before = sockets_here()
        string = door.string(str.__str__(hub.device_connection_string(device_id)))
        options = {**hub.device_options, "server_verification_cert": door.ca_pem}
        with SimulatedDevice(string, link_policy=HASTY, **options) as device:
            assert not door.answers
            assert [event.kind for event in device.events].count("retry") >= 3
            device.report({"in": True}, timeout=30)
        wait_for(lambda: sockets_here() <= before, seconds=30)


def test_a_worker_of_a_fleet_has_the_setting(hub_process: HubProcess, hub: Hub) -> None:
    with Fleet(hub, 2, name="ws", stage_seconds=0.0, speeds=(None,)) as fleet:
        fleet.start()
        wait_for(lambda: clients_of(hub_process) == 2, seconds=30)
        fleet.delete()


def test_the_console_app_has_the_setting_with_a_connection_string_of_its_own(
    hub_process: HubProcess, hub: Hub, device_id: str
) -> None:
    string = str.__str__(hub.device_connection_string(device_id))
    app = subprocess.Popen(
        [str(Path(sys.executable).with_name("fwupdate-device")), "--ca-file", hub_process.ca_file],
        env={**os.environ, "IOTHUB_DEVICE_CONNECTION_STRING": string, VARIABLE: "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    with app:
        assert app.stdout is not None
        assert any("Waiting for commands" in line for line in app.stdout)
        wait_for(lambda: clients_of(hub_process) == 1, seconds=30)
        app.terminate()


# -- the setting ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "options"),
    [("1", {"websockets": True}), (" TRUE ", {"websockets": True}), ("0", {}), ("", {})],
)
def test_the_setting_is_an_option_of_the_sdk_on_azure(
    monkeypatch: pytest.MonkeyPatch, given: str, options: Json
) -> None:
    monkeypatch.setenv(VARIABLE, given)
    with Hub(kind="azure", connection_string=AZURE) as hub:
        assert hub.device_options == options


def test_a_setting_that_is_neither_on_nor_off_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, "443")
    hub = Hub(kind="azure", connection_string=AZURE)
    with pytest.raises(FirmwareUpdateError, match=f"{VARIABLE} is '443'. Set it to 1"):
        _ = hub.device_options


SETTING = """
from fwupdate_helpers import connect_hub
from fwupdate_helpers.doctor.hub import check_local_hub
from fwupdate_helpers.doctor.machine import Machine
from fwupdate_helpers.errors import HubUnavailable
from fwupdate_helpers.localhub import background
from fwupdate_helpers.localhub import ports
from fwupdate_helpers.localhub.statedir import StateDir
state = StateDir.default()
try:
    connect_hub()
except HubUnavailable as error:
    print("connect:", error)
try:
    print("status:", background.status(state)["websocket_port"])
    found = check_local_hub(Machine())
    print("doctor:", found.state, found.found, found.commands)
finally:
    background.stop(state)
"""


def test_a_local_hub_without_port_443_says_so_where_the_setting_is_on(tmp_path: Path) -> None:
    if not (drop := without_rights()):
        pytest.skip("this user may listen on port 443 without a right that can be dropped")
    state = StateDir(tmp_path / "state")
    settle(state)
    told = subprocess.run(
        [*drop, sys.executable, "-c", SETTING],
        env={**os.environ, "FWUPDATE_STATE_DIR": str(state.path), VARIABLE: "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (told.returncode, told.stderr) == (0, "")
    connected, status, doctor = told.stdout.splitlines()
    reason = "not let this user listen on port 443"
    assert reason in connected and f"set {VARIABLE}=0" in connected
    assert "ip_unprivileged_port_start=443" in connected
    assert status == "status: None"
    assert doctor.startswith("doctor: failure") and reason in doctor and f"{VARIABLE}=0" in doctor


def test_port_443_that_another_program_has_is_no_hindrance_and_its_owner_is_named() -> None:
    address = free_loopback_address()
    with socket.create_server((address, 443)), closing(ports.bind(address=address)) as found:
        assert found.websocket is None
        assert f"Port 443 is taken on {address}" in str(found.websocket_problem)
        assert f"(process {os.getpid()})" in str(found.websocket_problem)


# -- rude clients ---------------------------------------------------------------------------------


def test_packets_may_be_cut_and_joined_by_frames(open_socket: OpenSocket) -> None:
    device = open_socket()
    username = f"{device.host}/{device.device_id}/?api-version=2019-10-01"
    packets = connect_packet(device.device_id, username, device.token()) + PINGREQ
    for place in range(0, len(packets), 50):
        device.send(packets[place : place + 50])
    assert (device.receive().body[1], device.receive().kind) == (0, PINGRESP)
    device.send(PINGREQ, PINGREQ)
    assert [device.receive().kind for _ in range(2)] == [PINGRESP] * 2


def test_the_hub_says_goodbye_with_a_frame_and_hangs_up(open_socket: OpenSocket) -> None:
    refused = open_socket()
    assert refused.connect(password="SharedAccessSignature sr=x&sig=y&se=1")[1] == 5
    assert refused.wait_until_closed(30) == []
    assert refused.socket.closed_with == 1000

    rude = open_socket().connected()
    rude.socket.plain.sendall(frame(PINGREQ, TEXT))  # [6.0.0-1]
    assert rude.wait_until_closed(30) == []

    older, newer = open_socket().connected(), open_socket().connected()
    assert older.wait_until_closed(30) == []
    assert newer.answers_ping()


def test_what_is_no_websocket_of_mqtt_is_refused(hub_process: HubProcess) -> None:
    host, ready = hub_process.ready["device_host"], hub_process.ready
    plain = requests.get(f"https://{host}{PATH}", verify=hub_process.ca_file, timeout=30)
    assert (plain.status_code, plain.headers["iothub-errorcode"]) == (400, "ArgumentInvalid")
    trust = ssl.create_default_context(cafile=hub_process.ca_file)
    for port in (443, ready["service_port"]):
        with (
            socket.create_connection((host, port), timeout=30) as tcp,
            trust.wrap_socket(tcp, server_hostname=host) as secure,
        ):
            secure.sendall(upgrade(host, protocol="chat"))
            assert read_head(secure).startswith("HTTP/1.1 400 ")


def test_a_client_that_does_not_read_is_cut_off_and_the_others_are_served(
    hub_process: HubProcess, open_socket: OpenSocket, device_id: str
) -> None:
    slow = open_socket(receive_buffer=4096).connected()
    change_desired(hub_process, device_id, {f"k{n}": "x" * 4000 for n in range(7)})
    with suppress(OSError):  # the hub may hang up before the last request is sent
        for n in range(2000):
            slow.send(publish(f"$iothub/twin/GET/?$rid={n}", b" "))

    def is_cut_off() -> bool:
        twin = call(hub_process, "GET", twin_path(device_id)).content
        return bool(twin["connectionState"] == "Disconnected")

    wait_for(is_cut_off, seconds=30)
    assert len(slow.wait_until_closed(30)) < 1000, (
        "the hub kept answers for a client that reads none"
    )
