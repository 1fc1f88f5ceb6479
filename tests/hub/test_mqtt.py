"""The device endpoint, spoken to in bare MQTT: connections, sessions, what ends them."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from fwupdate_helpers.localhub import device_endpoint
from fwupdate_helpers.localhub.authentication import Authenticator
from fwupdate_helpers.localhub.device_endpoint import DeviceEndpoint
from fwupdate_helpers.localhub.methods import DirectMethods
from fwupdate_helpers.localhub.sas import new_key
from fwupdate_helpers.localhub.store import Store
from tests.raw_mqtt import (
    DESIRED,
    METHODS,
    PINGREQ,
    TWIN_REPLIES,
    UNSUBACK,
    RawDevice,
    connect,
    packet,
    publish,
    subscribe,
    unsubscribe,
)
from tests.rest import call, create_device, policy_key, twin_path
from tests.support import HubProcess

OpenDevice = Callable[..., RawDevice]


@pytest.fixture
def open_device(hub_process: HubProcess) -> Iterator[OpenDevice]:
    """Return a function that opens a TLS connection for a device, whose identity it creates."""
    keys: dict[str, str] = {}
    with ExitStack() as stack:

        def open_one(device_id: str, *, key: str | None = None, **options: Any) -> RawDevice:
            if device_id not in keys:
                keys[device_id] = create_device(hub_process, device_id)
            key = key or keys[device_id]
            return stack.enter_context(RawDevice(hub_process, device_id, key, **options))

        yield open_one


def change_desired(hub: HubProcess, device_id: str, patch: dict[str, Any]) -> int:
    """Change desired properties as a service does; return their version."""
    reply = call(hub, "PATCH", twin_path(device_id), {"properties": {"desired": patch}})
    assert reply.status == 200, reply.text
    return int(reply.content["properties"]["desired"]["$version"])


# -- who may connect ----------------------------------------------------------------------------


def test_a_device_connects_with_its_key(open_device: OpenDevice, device_id: str) -> None:
    device = open_device(device_id)

    assert device.connect() == (False, 0)
    assert device.answers_ping()


def test_the_secondary_key_is_as_good(hub_process: HubProcess, device_id: str) -> None:
    keys = {"primaryKey": new_key(), "secondaryKey": new_key()}
    create_device(hub_process, device_id, authentication={"symmetricKey": keys})
    for key in keys.values():
        with RawDevice(hub_process, device_id, key) as device:
            assert device.connect()[1] == 0


REFUSALS: dict[str, tuple[int, Callable[[RawDevice], dict[str, Any]]]] = {
    "no password": (5, lambda d: {"password": ""}),
    "a password that is no token": (5, lambda d: {"password": "secret"}),
    "an expired token": (5, lambda d: {"password": d.token(valid=0)}),
    "a token that expired long ago": (5, lambda d: {"password": d.token(valid=-3600)}),
    "a token for another device": (
        5,
        lambda d: {"password": d.token(resource=f"{d.host}/devices/{d.device_id}2")},
    ),
    "a token for another host": (
        5,
        lambda d: {"password": d.token(resource=f"127.0.0.250/devices/{d.device_id}")},
    ),
    "a policy's name with the device's key": (5, lambda d: {"password": d.token(policy="device")}),
    "another hub in the username": (
        4,
        lambda d: {"username": f"127.0.0.250/{d.device_id}/?api-version=2019-10-01"},
    ),
    "another device in the username": (
        4,
        lambda d: {"username": f"{d.host}/other/?api-version=2019-10-01"},
    ),
    "no api-version in the username": (4, lambda d: {"username": f"{d.host}/{d.device_id}"}),
    "a username that is only a name": (4, lambda d: {"username": d.device_id}),
    "an empty client id": (2, lambda d: {"client_id": ""}),
    "a module's client id": (2, lambda d: {"client_id": f"{d.device_id}/module"}),
    "another client id": (4, lambda d: {"client_id": "other"}),
    "MQTT 3.1": (1, lambda d: {"protocol": ("MQIsdp", 3)}),
    "MQTT 5": (1, lambda d: {"protocol": ("MQTT", 5)}),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_bad_connect_is_refused_with_its_code(
    open_device: OpenDevice, device_id: str, case: str
) -> None:
    code, options = REFUSALS[case]
    device = open_device(device_id)

    assert device.connect(**options(device)) == (False, code)
    assert device.wait_until_closed() == []


def test_a_wrong_key_and_an_unknown_device_look_the_same(
    hub_process: HubProcess, open_device: OpenDevice, device_id: str
) -> None:
    wrong = open_device(device_id, key=new_key())
    with RawDevice(hub_process, f"{device_id}-unknown", new_key()) as unknown:
        assert wrong.connect() == unknown.connect() == (False, 5)


def test_a_key_of_one_device_is_no_key_of_another(open_device: OpenDevice, device_id: str) -> None:
    one, other = open_device(device_id), open_device(f"{device_id}-2")

    assert one.connect(password=other.token())[1] == 5
    stranger = open_device(device_id)
    foreign = other.token(resource=f"{stranger.host}/devices/{device_id}")
    assert stranger.connect(password=foreign)[1] == 5


def test_a_disabled_device_is_told_so_only_when_it_has_the_key(
    hub_process: HubProcess, device_id: str
) -> None:
    key = create_device(hub_process, device_id, status="disabled")
    with RawDevice(hub_process, device_id, key) as device:
        assert device.connect() == (False, 3)
    with RawDevice(hub_process, device_id, new_key()) as stranger:
        assert stranger.connect() == (False, 5)


@pytest.mark.parametrize(
    ("policy", "resource", "code"),
    [
        ("device", "{host}/devices/{id}", 0),
        ("device", "{host}/devices", 0),
        ("device", "{host}", 0),
        ("iothubowner", "{host}", 0),
        ("device", "{host}/devices/other", 5),
        ("device", "{host}/twins", 5),
        ("service", "{host}", 5),
        ("registryRead", "{host}", 5),
        ("registryReadWrite", "{host}", 5),
        ("nobody", "{host}", 5),
    ],
)
def test_a_policy_token_connects_a_device_when_the_policy_grants_it(
    hub_process: HubProcess, device_id: str, policy: str, resource: str, code: int
) -> None:
    create_device(hub_process, device_id)
    key = policy_key(hub_process, "iothubowner" if policy == "nobody" else policy)
    with RawDevice(hub_process, device_id, key) as device:
        scope = resource.format(host=device.host, id=device_id)
        assert device.connect(password=device.token(resource=scope, policy=policy))[1] == code


def test_a_policy_token_connects_no_unknown_device(hub_process: HubProcess, device_id: str) -> None:
    with RawDevice(hub_process, device_id, policy_key(hub_process, "device")) as device:
        assert device.connect(password=device.token(policy="device"))[1] == 5


# -- what ends a connection ---------------------------------------------------------------------


def test_the_link_ends_when_the_token_expires(open_device: OpenDevice, device_id: str) -> None:
    device = open_device(device_id)
    assert device.connect(password=device.token(valid=2))[1] == 0
    assert device.answers_ping()

    began = time.monotonic()
    device.wait_until_closed()
    assert time.monotonic() - began < 2.5


def test_silence_for_one_and_a_half_keep_alives_ends_the_link(
    open_device: OpenDevice, device_id: str
) -> None:
    device = open_device(device_id).connected(keep_alive=1)
    assert device.is_silent(1.0)
    assert device.answers_ping(), "any packet starts the time anew"

    began = time.monotonic()
    device.wait_until_closed()
    assert 1.4 < time.monotonic() - began < 2.5


def test_half_a_packet_is_silence_too(open_device: OpenDevice, device_id: str) -> None:
    device = open_device(device_id).connected(keep_alive=1)
    began = time.monotonic()
    with pytest.raises(ConnectionError):
        for byte in publish("a" * 100):
            device.send(bytes([byte]))
            device.is_silent(0.2)
    assert time.monotonic() - began < 2.5


def test_without_keep_alive_silence_is_no_fault(open_device: OpenDevice, device_id: str) -> None:
    device = open_device(device_id).connected(keep_alive=0)
    assert device.is_silent(1.0)


async def _seconds_until_hung_up(folder: Path, chatter: bytes) -> float:
    """Open a connection to an endpoint in this process, send a byte at a time, and wait."""

    def clock() -> datetime:
        return datetime.now(timezone.utc)

    store = Store(folder / "hub.db", clock)
    authenticator = Authenticator({}, host_names=frozenset(), store=store, clock=clock)
    endpoint = DeviceEndpoint(store, authenticator, DirectMethods(), clock)
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
        store.close()


@pytest.mark.parametrize("chatter", [b"", connect("d" * 100)], ids=["nothing", "byte by byte"])
def test_a_client_that_does_not_get_to_its_connect_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chatter: bytes
) -> None:
    monkeypatch.setattr(device_endpoint, "CONNECT_TIMEOUT", 0.5)

    assert 0.4 < asyncio.run(_seconds_until_hung_up(tmp_path, chatter)) < 1.5


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


RUDE = {
    "QoS 2": publish("devices/x/messages/events/", b"x", packet_id=1, qos=2),
    "QoS 3": publish("devices/x/messages/events/", b"x", packet_id=1, qos=3),
    "DUP with QoS 0": publish("devices/x/messages/events/", dup=True),
    "a second CONNECT": connect("x"),
    "a packet of the server": packet(0x20, b"\x00\x00"),
    "a reserved type": b"\xf0\x00",
    "a truncated SUBSCRIBE": packet(0x82, b"\x00\x01\x00\x05$io"),
    "a SUBSCRIBE without filters": packet(0x82, b"\x00\x01"),
    "bad UTF-8": publish(b"devices/\xff/messages/events/"),
    "an announced size beyond all limits": b"\x30\xff\xff\xff\x7f",
    "a size that never ends": b"\x30\xff\xff\xff\xff\xff",
    "another protocol": b"GET / HTTP/1.1\r\n" + b"X-Header: value\r\n" * 9,
    "a topic that IoT Hub does not have": publish("hello/world", b"x"),
    "telemetry of another device": publish("devices/other/messages/events/", b"x"),
    "telemetry of a longer id": publish("devices/{id}2/messages/events/", b"x"),
    "an unknown twin topic": publish("$iothub/twin/DELETE/?$rid=1"),
    "a method answer without status": publish("$iothub/methods/res/ok/?$rid=1"),
}


@pytest.mark.parametrize("case", RUDE)
def test_a_rude_packet_ends_its_connection_and_no_other(
    open_device: OpenDevice, device_id: str, case: str
) -> None:
    polite = open_device(f"{device_id}-polite").connected()
    rude = open_device(device_id).connected()

    rude.send(RUDE[case], PINGREQ)

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
    with socket.create_connection((host, 8883)) as plain:
        with pytest.raises(ssl.SSLError, match="(?i)alert.*version|version.*alert"):
            context.wrap_socket(plain, server_hostname=host)


def test_a_client_that_does_not_read_is_cut_off(
    hub_process: HubProcess, open_device: OpenDevice, device_id: str
) -> None:
    polite = open_device(f"{device_id}-polite").connected()
    slow = open_device(device_id, receive_buffer=4096).connected()
    change_desired(hub_process, device_id, {f"k{n}": "x" * 4000 for n in range(8)})

    with suppress(OSError):  # the hub may hang up before the last request is sent
        for n in range(5000):
            slow.send(publish(f"$iothub/twin/GET/?$rid={n}", b" "))

    answers = slow.wait_until_closed()
    assert len(answers) < 1000, "the hub kept answers for a client that reads none"
    assert polite.answers_ping()
    twin = call(hub_process, "GET", twin_path(device_id)).content
    assert twin["connectionState"] == "Disconnected"


# -- subscriptions and sessions -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic", "qos", "granted"),
    [
        (DESIRED, 0, 0),
        (DESIRED, 1, 1),
        (DESIRED, 2, 1),
        (METHODS, 2, 1),
        (TWIN_REPLIES, 1, 1),
        ("devices/{id}/messages/devicebound/#", 1, 1),
        ("devices/other/messages/devicebound/#", 1, 0x80),
        ("devices/{id}/messages/events/#", 1, 0x80),
        ("#", 1, 0x80),
        ("$iothub/#", 1, 0x80),
        ("$iothub/methods/POST/+", 1, 0x80),
    ],
)
def test_a_subscription_is_granted_for_what_iot_hub_offers(
    open_device: OpenDevice, device_id: str, topic: str, qos: int, granted: int
) -> None:
    device = open_device(device_id).connected()
    assert device.subscribe(topic.format(id=device_id), qos) == granted
    assert device.answers_ping()


def test_one_subscribe_may_have_several_filters(open_device: OpenDevice, device_id: str) -> None:
    device = open_device(device_id).connected()
    device.send(subscribe(9, (DESIRED, 0), ("#", 0), (METHODS, 1)))
    assert device.receive().body == b"\x00\x09\x00\x80\x01"


def test_a_session_is_kept_across_connections(
    hub_process: HubProcess, open_device: OpenDevice, device_id: str
) -> None:
    first = open_device(device_id)
    assert first.connect() == (False, 0)
    first.subscribe(DESIRED)
    first.socket.close()

    second = open_device(device_id)
    assert second.connect() == (True, 0)
    version = change_desired(hub_process, device_id, {"a": 1})
    assert second.receive().content == {"a": 1, "$version": version}


def test_a_clean_session_drops_what_was_kept_and_keeps_nothing(
    hub_process: HubProcess, open_device: OpenDevice, device_id: str
) -> None:
    open_device(device_id).connected().subscribe(DESIRED)

    clean = open_device(device_id)
    assert clean.connect(clean=True) == (False, 0)
    change_desired(hub_process, device_id, {"a": 1})
    assert clean.answers_ping(), "and nothing was pushed"
    clean.subscribe(DESIRED)
    change_desired(hub_process, device_id, {"a": 2})
    assert clean.receive().content["a"] == 2

    after = open_device(device_id)
    assert after.connect() == (False, 0)
    change_desired(hub_process, device_id, {"a": 3})
    assert after.answers_ping(), "and nothing was pushed"


def test_an_unsubscribed_topic_is_silent_for_good(
    hub_process: HubProcess, open_device: OpenDevice, device_id: str
) -> None:
    device = open_device(device_id).connected()
    device.subscribe(DESIRED)
    device.send(unsubscribe(7, DESIRED, "unknown"))
    answer = device.receive()
    assert (answer.kind, answer.packet_id) == (UNSUBACK, 7)
    change_desired(hub_process, device_id, {"a": 1})
    assert device.answers_ping()

    again = open_device(device_id).connected()
    change_desired(hub_process, device_id, {"a": 2})
    assert again.answers_ping()


def test_a_session_outlives_a_crash_of_the_hub(own_hub_process: HubProcess) -> None:
    key = create_device(own_hub_process, "d1")
    with RawDevice(own_hub_process, "d1", key) as device:
        device.connected().subscribe(DESIRED)
        own_hub_process.kill()
    own_hub_process.start()

    assert call(own_hub_process, "GET", "/devices/d1").content["connectionState"] == "Disconnected"
    with RawDevice(own_hub_process, "d1", key) as device:
        assert device.connect() == (True, 0)
        version = change_desired(own_hub_process, "d1", {"a": 1})
        assert device.receive().content == {"a": 1, "$version": version}


def test_the_session_of_a_deleted_device_is_forgotten(
    hub_process: HubProcess, device_id: str
) -> None:
    with RawDevice(hub_process, device_id, create_device(hub_process, device_id)) as device:
        device.connected().subscribe(DESIRED)
        call(hub_process, "DELETE", f"/devices/{device_id}")
        device.wait_until_closed()
    with RawDevice(hub_process, device_id, create_device(hub_process, device_id)) as device:
        assert device.connect() == (False, 0)
