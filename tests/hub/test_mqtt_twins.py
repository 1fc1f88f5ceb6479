"""The device's side of its twin, in bare MQTT."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.raw_mqtt import PUBACK, PUBLISH, TWIN_REPLIES, OpenDevice, Received, publish
from tests.rest import call, change_desired, twin_path
from tests.support import HubProcess

GET = "$iothub/twin/GET/?$rid="
PATCH = "$iothub/twin/PATCH/properties/reported/?$rid="


@pytest.fixture
def device(open_device: OpenDevice, device_id: str) -> Any:
    """Return a connected device."""
    return open_device(device_id).connected()


def reported(hub: HubProcess, device_id: str) -> Any:
    return call(hub, "GET", twin_path(device_id)).content["properties"]["reported"]


def ask(device: Any, topic: str, payload: bytes = b" ", packet_id: int = 1) -> Received:
    """Send a twin request at QoS 1; return the reply, which must come before the PUBACK."""
    device.send(publish(topic, payload, packet_id=packet_id))
    reply, acknowledgement = device.receive(), device.receive()
    assert (reply.kind, acknowledgement.kind) == (PUBLISH, PUBACK)
    assert acknowledgement.packet_id == packet_id
    return reply


def test_a_new_device_reads_an_empty_twin(device: Any) -> None:
    reply = ask(device, f"{GET}1")

    assert reply.topic == "$iothub/twin/res/200/?$rid=1"
    assert reply.payload == b'{"desired":{"$version":1},"reported":{"$version":1}}'


def test_the_device_sees_both_sections_without_metadata_and_tags(
    hub_process: HubProcess, device: Any, device_id: str
) -> None:
    call(hub_process, "PATCH", twin_path(device_id), {"tags": {"secret": 1}})
    change_desired(hub_process, device_id, {"a": {"b": "ü"}})
    ask(device, f"{PATCH}1", b'{"c":1}')

    assert ask(device, f"{GET}2").content == {
        "desired": {"a": {"b": "ü"}, "$version": 2},
        "reported": {"c": 1, "$version": 2},
    }


@pytest.mark.parametrize(
    "rid", ["1", "0d8a-4f", "A%20b%2Fc", "ü", "a=b", "", "x" * 1000], ids=lambda rid: rid[:10]
)
def test_the_request_id_comes_back_verbatim(device: Any, rid: str) -> None:
    assert ask(device, f"{GET}{rid}").topic == f"$iothub/twin/res/200/?$rid={rid}"
    patched = ask(device, f"{PATCH}{rid}", b'{"a":1}')
    assert patched.topic == f"$iothub/twin/res/204/?$rid={rid}&$version=2"
    assert ask(device, f"{PATCH}{rid}", b"bad").topic == f"$iothub/twin/res/400/?$rid={rid}"


def test_a_request_id_too_long_for_the_reply_ends_only_this_connection(
    open_device: OpenDevice, device_id: str
) -> None:
    polite = open_device(f"{device_id}-polite").connected()
    device = open_device(device_id).connected()
    device.send(publish(GET + "x" * (65535 - len(GET)), b" ", packet_id=1))
    assert device.wait_until_closed() == []
    assert polite.answers_ping()


def test_a_patch_merges_deletes_and_counts(
    hub_process: HubProcess, device: Any, device_id: str
) -> None:
    first = ask(device, f"{PATCH}1", b'{"a":{"b":1,"c":2},"d":[1,{"e":2}]}')
    second = ask(device, f"{PATCH}2", b'{"a":{"b":null,"f":3},"none":null}')

    assert (first.topic, first.payload) == ("$iothub/twin/res/204/?$rid=1&$version=2", b"")
    assert second.topic == "$iothub/twin/res/204/?$rid=2&$version=3"
    section = reported(hub_process, device_id)
    metadata = section.pop("$metadata")
    assert section == {"a": {"c": 2, "f": 3}, "d": [1, {"e": 2}], "$version": 3}
    assert set(metadata) == {"$lastUpdated", "a", "d"}
    assert set(metadata["a"]) == {"$lastUpdated", "c", "f"}
    assert metadata["a"]["f"]["$lastUpdated"] > metadata["a"]["c"]["$lastUpdated"]


def test_the_reply_comes_without_subscription_and_with_qos_0(device: Any) -> None:
    device.send(publish(f"{GET}1", b" "))
    assert (reply := device.receive()).kind == PUBLISH
    assert reply.qos == 0

    device.subscribe(TWIN_REPLIES)
    assert ask(device, f"{GET}2").topic.endswith("$rid=2")


def test_requests_are_answered_in_their_order(device: Any) -> None:
    for n in range(50):
        device.send(publish(f"{PATCH}{n}", json.dumps({"n": n}).encode()))
    topics = [device.receive().topic for _ in range(50)]
    assert topics == [f"$iothub/twin/res/204/?$rid={n}&$version={n + 2}" for n in range(50)]


BAD_PATCHES = {
    "no JSON": (400006, b"hello"),
    "nothing": (400006, b""),
    "half an object": (400006, b'{"a":'),
    "an array": (400006, b"[1]"),
    "null": (400006, b"null"),
    "NaN": (400006, b'{"a":NaN}'),
    "a number beyond all numbers": (400006, b'{"a":-1e999}'),
    "half a surrogate pair": (400006, b'{"a":"\\udc00"}'),
    "half a surrogate pair as bytes": (400006, b'{"a":"\xed\xb0\x80"}'),
    "bytes that are not UTF-8": (400006, b'{"a":"\xff"}'),
    "ten thousand arrays": (400006, b'{"a":' + b"[" * 10_000 + b"]" * 9_999 + b"}"),
    "a key with a dollar sign": (400004, b'{"$version":7}'),
    "a key with a dot": (400004, b'{"a.b":1}'),
    "a key with a space": (400004, b'{"a":{"b c":null}}'),
    "a null in an array": (400004, b'{"a":[null]}'),
    "eleven levels": (400004, b'{"a":' * 11 + b'{"b":1}' + b"}" * 11),
    "an integer too large": (400004, b'{"a":4503599627370496}'),
    "a string too long": (400004, json.dumps({"a": "x" * 4097}).encode()),
    "a section too large": (400004, json.dumps({f"k{n}": "x" * 4000 for n in range(9)}).encode()),
}


@pytest.mark.parametrize("case", BAD_PATCHES)
def test_a_bad_patch_is_answered_with_400_and_changes_nothing(
    hub_process: HubProcess, device: Any, device_id: str, case: str
) -> None:
    code, payload = BAD_PATCHES[case]
    ask(device, f"{PATCH}1", b'{"a":1}')
    before = reported(hub_process, device_id)

    reply = ask(device, f"{PATCH}2", payload, packet_id=2)

    assert reply.topic == "$iothub/twin/res/400/?$rid=2"
    assert reply.content["errorCode"] == code
    assert reported(hub_process, device_id) == before
    assert ask(device, f"{PATCH}3", b'{"b":1}').topic.endswith("$version=3")


def test_only_the_device_counts_as_activity(
    hub_process: HubProcess, device_id: str, open_device: OpenDevice
) -> None:
    def last_activity() -> str:
        return str(call(hub_process, "GET", twin_path(device_id)).content["lastActivityTime"])

    device = open_device(device_id)
    change_desired(hub_process, device_id, {"a": 1})
    assert last_activity() == "0001-01-01T00:00:00Z"

    device.connected()
    connected = last_activity()
    assert connected > "2020"
    ask(device, f"{PATCH}1", b'{"a":1}')
    patched = last_activity()
    assert patched > connected
    change_desired(hub_process, device_id, {"a": 2})
    assert last_activity() == patched
