"""What ends a connection to the device endpoint, and no other, in bare MQTT."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

import pytest

from fwupdate_helpers.localhub import device_connection
from fwupdate_helpers.localhub.authentication import Authenticator
from fwupdate_helpers.localhub.database import Database
from fwupdate_helpers.localhub.device_endpoint import DeviceEndpoint
from fwupdate_helpers.localhub.fault_wire import WireFaults
from fwupdate_helpers.localhub.methods import DirectMethods
from fwupdate_helpers.localhub.sas import new_key
from fwupdate_helpers.localhub.store import Store
from fwupdate_helpers.localhub.wiretrace import WireTrace
from tests.raw_mqtt import DESIRED, PINGREQ, OpenDevice, connect, packet, publish, subscribe
from tests.rest import call, change_desired, twin_path, wait_for
from tests.support import HubProcess


def test_the_link_ends_when_the_token_expires(open_device: OpenDevice, device_id: str) -> None:
    device = open_device(device_id)
    assert device.connect(password=device.token(valid=2))[1] == 0
    assert device.answers_ping()

    began = time.monotonic()
    device.wait_until_closed()
    assert time.monotonic() - began < 4


def test_silence_for_one_and_a_half_keep_alives_ends_the_link(
    open_device: OpenDevice, device_id: str
) -> None:
    device = open_device(device_id).connected(keep_alive=1)
    assert device.is_silent(1.0)
    assert device.answers_ping(), "any packet starts the time anew"

    began = time.monotonic()
    device.wait_until_closed()
    assert 1.4 < time.monotonic() - began < 2.9


def test_half_a_packet_is_silence_too(open_device: OpenDevice, device_id: str) -> None:
    device = open_device(device_id).connected(keep_alive=1)
    began = time.monotonic()
    with pytest.raises(ConnectionError):
        for byte in publish("a" * 100):
            device.send(bytes([byte]))
            device.is_silent(0.2)
    assert time.monotonic() - began < 4


def test_without_keep_alive_silence_is_no_fault(open_device: OpenDevice, device_id: str) -> None:
    device = open_device(device_id).connected(keep_alive=0)
    assert device.is_silent(1.0)


async def _seconds_until_hung_up(folder: Path, chatter: bytes) -> float:
    """Open a connection to an endpoint in this process, send a byte at a time, and wait."""

    def clock() -> datetime:
        return datetime.now(timezone.utc)

    database = Database(folder / "hub.db", clock)
    store = Store(database)
    authenticator = Authenticator({}, host_names=frozenset(), store=store, clock=clock)
    endpoint = DeviceEndpoint(
        store, authenticator, DirectMethods(), clock, WireTrace(clock), WireFaults(clock)
    )
    loop = asyncio.get_running_loop()
    server = await loop.create_server(endpoint.new_connection, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    began = loop.time()
    try:
        for byte in chatter:
            writer.write(bytes([byte]))
            try:
                assert await asyncio.wait_for(reader.read(), 0.1) == b""
                break
            except asyncio.TimeoutError:
                continue
        else:
            assert await asyncio.wait_for(reader.read(), 5) == b""
        return loop.time() - began
    finally:
        writer.close()
        server.close()
        database.close()


@pytest.mark.parametrize("chatter", [b"", connect("d" * 100)], ids=["nothing", "byte by byte"])
def test_a_client_that_does_not_get_to_its_connect_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chatter: bytes
) -> None:
    monkeypatch.setattr(device_connection, "CONNECT_TIMEOUT", 0.5)

    assert 0.4 < asyncio.run(_seconds_until_hung_up(tmp_path, chatter)) < 3


def test_a_second_connection_of_a_device_ends_the_first(
    hub_process: HubProcess, open_device: OpenDevice, device_id: str
) -> None:
    first = open_device(device_id).connected()
    second = open_device(device_id).connected()

    first.wait_until_closed()
    assert second.answers_ping()
    assert call(hub_process, "GET", twin_path(device_id)).content["connectionState"] == "Connected"


def test_a_connection_that_was_ended_changes_nothing_any_more(
    hub_process: HubProcess, open_device: OpenDevice, device_id: str
) -> None:
    first = open_device(device_id).connected()
    open_device(device_id).connected()
    with suppress(OSError):
        first.send(publish("$iothub/twin/PATCH/properties/reported/?$rid=1", b'{"late":1}'))

    first.wait_until_closed()
    reported = call(hub_process, "GET", twin_path(device_id)).content["properties"]["reported"]
    assert "late" not in reported


def test_a_refused_connection_ends_no_other(open_device: OpenDevice, device_id: str) -> None:
    first = open_device(device_id).connected()
    assert open_device(device_id, key=new_key()).connect()[1] == 5

    assert first.answers_ping()


RUDE: dict[str, Callable[[str], bytes]] = {
    "QoS 2": lambda d: publish(f"devices/{d}/messages/events/", b"x", packet_id=1, qos=2),
    "QoS 3": lambda d: publish(f"devices/{d}/messages/events/", b"x", packet_id=1, qos=3),
    "DUP with QoS 0": lambda d: publish(f"devices/{d}/messages/events/", dup=True),
    "a second CONNECT": lambda d: connect(d),
    "a packet of the server": lambda d: packet(0x20, b"\x00\x00"),
    "a reserved type": lambda d: b"\xf0\x00",
    "a truncated SUBSCRIBE": lambda d: packet(0x82, b"\x00\x01\x00\x05$io"),
    "a SUBSCRIBE without filters": lambda d: packet(0x82, b"\x00\x01"),
    "bad UTF-8": lambda d: publish(b"devices/\xff/messages/events/"),
    "an announced size beyond all limits": lambda d: b"\x30\xff\xff\xff\x7f",
    "a size that never ends": lambda d: b"\x30\xff\xff\xff\xff\xff",
    "another protocol": lambda d: b"GET / HTTP/1.1\r\n" + b"X-Header: value\r\n" * 9,
    "a topic that IoT Hub does not have": lambda d: publish("hello/world", b"x"),
    "telemetry of another device": lambda d: publish("devices/other/messages/events/", b"x"),
    "telemetry of a longer id": lambda d: publish(f"devices/{d}2/messages/events/", b"x"),
    "an unknown twin topic": lambda d: publish("$iothub/twin/DELETE/?$rid=1"),
    "a method answer without status": lambda d: publish("$iothub/methods/res/ok/?$rid=1"),
}


@pytest.mark.parametrize("case", RUDE)
def test_a_rude_packet_ends_its_connection_and_no_other(
    open_device: OpenDevice, device_id: str, case: str
) -> None:
    polite = open_device(f"{device_id}-polite").connected()
    rude = open_device(device_id).connected()

    rude.send(RUDE[case](device_id), PINGREQ)

    assert rude.wait_until_closed() == [], "nothing is answered after the violation"
    assert polite.answers_ping()
    again = open_device(device_id)
    assert again.connect()[1] == 0
    assert again.answers_ping()


@pytest.mark.parametrize("first", [PINGREQ, subscribe(1, (DESIRED, 1)), publish("a", b"x")])
def test_the_first_packet_must_be_a_connect(
    open_device: OpenDevice, device_id: str, first: bytes
) -> None:
    device = open_device(device_id)
    device.send(first)
    assert device.wait_until_closed() == []


def test_what_follows_a_refused_connect_is_not_looked_at(
    open_device: OpenDevice, device_id: str
) -> None:
    device = open_device(device_id)
    user = f"{device.host}/{device_id}/?api-version=2019-10-01"
    good = connect(device_id, user, device.token())

    device.send(connect(device_id, user, "bad"), good, PINGREQ)

    assert [answer.body for answer in device.wait_until_closed()] == [b"\x00\x05"]


def test_a_client_that_speaks_no_tls_harms_nobody(
    hub_process: HubProcess, open_device: OpenDevice, device_id: str
) -> None:
    device = open_device(device_id).connected()
    with socket.create_connection((hub_process.ready["device_host"], 8883)) as plain:
        plain.sendall(connect("x"))
        plain.settimeout(5)
        while plain.recv(1000):  # an alert, perhaps, and then the end
            pass
    assert device.answers_ping()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_below_1_2_is_not_spoken(hub_process: HubProcess) -> None:
    context = ssl.create_default_context(cafile=hub_process.ca_file)
    context.set_ciphers("ALL:@SECLEVEL=0")  # without it this client refuses to try
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    host = hub_process.ready["device_host"]
    with socket.create_connection((host, 8883)) as plain, pytest.raises(ssl.SSLError) as error:
        context.wrap_socket(plain, server_hostname=host)
    assert "NO_PROTOCOLS" not in str(error.value), "the hub refuses, not the client"


def test_a_client_that_does_not_read_is_cut_off(
    hub_process: HubProcess, open_device: OpenDevice, device_id: str
) -> None:
    polite = open_device(f"{device_id}-polite").connected()
    slow = open_device(device_id, receive_buffer=4096).connected()
    change_desired(hub_process, device_id, {f"k{n}": "x" * 4000 for n in range(8)})

    with suppress(OSError):  # the hub may hang up before the last request is sent
        for n in range(5000):
            slow.send(publish(f"$iothub/twin/GET/?$rid={n}", b" "))

    def is_cut_off() -> bool:
        twin = call(hub_process, "GET", twin_path(device_id)).content
        return bool(twin["connectionState"] == "Disconnected")

    # To read earlier would be to help the hub, which has not come to all requests yet.
    wait_for(is_cut_off)
    answers = slow.wait_until_closed()
    assert len(answers) < 1000, "the hub kept answers for a client that reads none"
    assert polite.answers_ping()
