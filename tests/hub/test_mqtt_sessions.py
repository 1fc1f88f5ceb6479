"""Subscriptions, sessions and what the hub pushes, in bare MQTT."""

from __future__ import annotations

import pytest

from tests.raw_mqtt import (
    DESIRED,
    METHODS,
    PINGREQ,
    PINGRESP,
    PUBACK,
    PUBLISH,
    TWIN_REPLIES,
    UNSUBACK,
    OpenDevice,
    RawDevice,
    puback,
    publish,
    subscribe,
    unsubscribe,
)
from tests.rest import (
    call,
    change_desired,
    create_device,
    telemetry_count,
    twin_path,
    wait_for,
)
from tests.support import HubProcess

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


# -- desired properties -------------------------------------------------------------------------


def test_a_desired_patch_is_pushed_with_its_nulls_and_version(
    hub_process: HubProcess, open_device: OpenDevice, device_id: str
) -> None:
    device = open_device(device_id).connected()
    device.subscribe(DESIRED, 0)

    version = change_desired(hub_process, device_id, {"a": None, "b": {"c": None, "d": "ü"}})

    push = device.receive()
    assert (push.kind, push.qos, push.packet_id) == (PUBLISH, 0, None)
    assert push.topic == f"$iothub/twin/PATCH/properties/desired/?$version={version}"
    assert push.content == {"a": None, "b": {"c": None, "d": "ü"}, "$version": version}


def test_replacing_pushes_what_changes(
    hub_process: HubProcess, open_device: OpenDevice, device_id: str
) -> None:
    device = open_device(device_id).connected()
    change_desired(hub_process, device_id, {"a": 1, "b": 2})
    device.subscribe(DESIRED, 0)

    replacement = {"properties": {"desired": {"b": True, "c": 3}}}
    call(hub_process, "PUT", twin_path(device_id), replacement)

    assert device.receive().content == {"a": None, "b": True, "c": 3, "$version": 3}


def test_tags_are_not_pushed(
    hub_process: HubProcess, open_device: OpenDevice, device_id: str
) -> None:
    device = open_device(device_id).connected()
    device.subscribe(DESIRED)
    for method in ("PATCH", "PUT"):
        call(hub_process, method, twin_path(device_id), {"tags": {"a": 1}})
    assert device.answers_ping()


def test_a_push_of_qos_1_that_is_not_acknowledged_comes_again(
    hub_process: HubProcess, open_device: OpenDevice, device_id: str
) -> None:
    first = open_device(device_id).connected()
    first.subscribe(DESIRED)
    for number in (1, 2):
        change_desired(hub_process, device_id, {"a": number})
    pushed = [first.receive(), first.receive()]
    assert [(push.qos, push.dup) for push in pushed] == [(1, False), (1, False)]
    assert pushed[0].packet_id != pushed[1].packet_id
    first.send(puback(pushed[0].packet_id or 0), PINGREQ)
    assert first.receive().kind == PINGRESP
    first.socket.close()

    second = open_device(device_id).connected()
    again = second.receive()
    assert (again.dup, again.qos, again.packet_id) == (True, 1, pushed[1].packet_id)
    assert (again.topic, again.payload) == (pushed[1].topic, pushed[1].payload)
    second.send(puback(again.packet_id or 0), PINGREQ)
    assert second.receive().kind == PINGRESP
    second.socket.close()

    assert open_device(device_id).connected().answers_ping(), "nothing is left to send again"


def test_an_offline_device_is_told_nothing_later(
    hub_process: HubProcess, open_device: OpenDevice, device_id: str
) -> None:
    device = open_device(device_id).connected()
    device.subscribe(DESIRED)
    device.send(b"\xe0\x00")  # DISCONNECT
    device.wait_until_closed()
    change_desired(hub_process, device_id, {"a": 1})

    assert open_device(device_id).connected().answers_ping()


# -- telemetry ----------------------------------------------------------------------------------


def test_telemetry_is_acknowledged_and_counted(
    hub_process: HubProcess, open_device: OpenDevice, device_id: str
) -> None:
    device = open_device(device_id).connected()
    topic = f"devices/{device_id}/messages/events/"

    device.send(publish(topic, b"\x00\xff"))
    device.send(publish(f"{topic}%24.ct=application%2Fjson&a%20b=c%2Fd", b"{}", packet_id=1))
    device.send(publish(topic.rstrip("/"), b"x" * 256 * 1024, packet_id=2))
    device.send(publish(topic, b"kept", packet_id=3, retain=True))
    device.send(publish(topic, b"again", packet_id=3, dup=True))

    answers = [device.receive() for _ in range(4)]
    assert [(one.kind, one.packet_id) for one in answers] == [(PUBACK, n) for n in (1, 2, 3, 3)]
    assert telemetry_count(hub_process, device_id) == 5


def test_a_will_is_sent_when_the_client_does_not_say_goodbye(
    hub_process: HubProcess, open_device: OpenDevice, device_id: str
) -> None:
    will = (f"devices/{device_id}/messages/events/", b"gone")
    polite = open_device(device_id).connected(will=will)
    polite.send(b"\xe0\x00")  # DISCONNECT
    polite.wait_until_closed()
    open_device(device_id).connected(will=will).socket.close()

    wait_for(lambda: telemetry_count(hub_process, device_id) > 0)
    assert telemetry_count(hub_process, device_id) == 1


def test_a_will_for_another_topic_is_refused(open_device: OpenDevice, device_id: str) -> None:
    device = open_device(device_id)
    with pytest.raises(ConnectionError):
        device.connect(will=("devices/other/messages/events/", b"x"))
