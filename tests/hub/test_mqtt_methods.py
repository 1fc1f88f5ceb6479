"""The device's side of direct methods, in bare MQTT."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.raw_mqtt import METHODS, PUBACK, SUBACK, OpenDevice, publish, subscribe
from tests.rest import call, twin_path
from tests.support import HubProcess


class MethodCall(threading.Thread):
    """A service that calls a method and waits for the reply."""

    def __init__(self, hub: HubProcess, device_id: str, **fields: Any) -> None:
        super().__init__(name="method-call", daemon=True)
        self._hub = hub
        self._path = f"{twin_path(device_id)}/methods"
        self._body = {"methodName": "firmwareUpdate", "responseTimeoutInSeconds": 10, **fields}
        self.start()

    def run(self) -> None:
        self._reply = call(self._hub, "POST", self._path, self._body)

    def result(self) -> tuple[int, Any]:
        self.join(timeout=20)
        return self._reply.status, self._reply.content


@pytest.mark.parametrize(
    ("sent", "received"),
    [({"payload": {"a": [1, None]}}, b'{"a":[1,null]}'), ({"payload": None}, b"null"), ({}, b"")],
)
def test_a_method_call_reaches_the_device_as_json(
    hub_process: HubProcess, open_device: OpenDevice, device_id: str, sent: Any, received: bytes
) -> None:
    device = open_device(device_id).connected()
    device.subscribe(METHODS, 0)
    service = MethodCall(hub_process, device_id, **sent)

    request = device.receive()
    topic, rid = request.topic.split("?$rid=")
    assert (request.qos, topic) == (0, "$iothub/methods/POST/firmwareUpdate/")
    assert request.payload == received

    device.send(publish(f"$iothub/methods/res/207/?$rid={rid}", b'{"ok":"\xc3\xbc"}', packet_id=1))
    assert service.result() == (200, {"status": 207, "payload": {"ok": "ü"}})
    acknowledged = device.receive()
    assert (acknowledged.kind, acknowledged.packet_id) == (PUBACK, 1)


@pytest.mark.parametrize(
    ("status", "payload", "result"),
    [
        ("200", b"", (200, {"status": 200, "payload": None})),
        ("500", b'"broken"', (200, {"status": 500, "payload": "broken"})),
        ("-1", b"null", (200, {"status": -1, "payload": None})),
        ("200", b"no json", 400),
        ("200", b'"' + b"x" * 128 * 1024 + b'"', 400),
    ],
    ids=["nothing", "500", "-1", "no JSON", "too large"],
)
def test_the_service_gets_what_the_device_answers(
    hub_process: HubProcess,
    open_device: OpenDevice,
    device_id: str,
    status: str,
    payload: bytes,
    result: Any,
) -> None:
    device = open_device(device_id).connected()
    device.subscribe(METHODS)
    service = MethodCall(hub_process, device_id)
    rid = device.receive().topic.split("$rid=")[1]

    device.send(publish(f"$iothub/methods/res/{status}/?$rid={rid}", payload))

    assert (
        service.result() == result if isinstance(result, tuple) else service.result()[0] == result
    )
    assert device.answers_ping()


def test_only_the_device_that_was_called_can_answer(
    hub_process: HubProcess, open_device: OpenDevice, device_id: str
) -> None:
    device, other = open_device(device_id), open_device(f"{device_id}-2").connected()
    device.connected().subscribe(METHODS)
    service = MethodCall(hub_process, device_id)
    rid = device.receive().topic.split("$rid=")[1]

    other.send(publish(f"$iothub/methods/res/200/?$rid={rid}", b'"from another"'))
    device.send(publish("$iothub/methods/res/200/?$rid=unknown", b'"to nobody"'))
    assert other.answers_ping()
    device.send(publish(f"$iothub/methods/res/200/?$rid={rid}", b'"mine"'))
    device.send(publish(f"$iothub/methods/res/200/?$rid={rid}", b'"twice"'))

    assert service.result()[1]["payload"] == "mine"
    assert device.answers_ping()


def test_a_device_that_drops_out_can_answer_when_it_is_back(
    hub_process: HubProcess, open_device: OpenDevice, device_id: str
) -> None:
    device = open_device(device_id).connected()
    device.subscribe(METHODS)
    service = MethodCall(hub_process, device_id)
    rid = device.receive().topic.split("$rid=")[1]
    device.socket.close()

    back = open_device(device_id).connected()
    back.send(publish(f"$iothub/methods/res/200/?$rid={rid}", b"1"))

    assert service.result() == (200, {"status": 200, "payload": 1})


def test_a_call_waits_for_the_subscription_up_to_the_connect_timeout(
    hub_process: HubProcess, open_device: OpenDevice, device_id: str
) -> None:
    device = open_device(device_id)
    service = MethodCall(hub_process, device_id, connectTimeoutInSeconds=20)
    device.connected()
    assert device.is_silent(0.3), "connected is not enough"

    device.send(subscribe(1, (METHODS, 0)))
    assert device.receive().kind == SUBACK
    rid = device.receive().topic.split("$rid=")[1]
    device.send(publish(f"$iothub/methods/res/200/?$rid={rid}", b"1"))

    assert service.result()[0] == 200


def test_calls_to_one_device_are_limited(
    hub_process: HubProcess, open_device: OpenDevice, device_id: str
) -> None:
    limit = 100
    device = open_device(device_id).connected()
    device.subscribe(METHODS)
    services = [MethodCall(hub_process, device_id) for _ in range(limit)]
    rids = [device.receive(20).topic.split("$rid=")[1] for _ in range(limit)]

    status, content = MethodCall(hub_process, device_id).result()
    assert (status, '"errorCode":403800' in content["Message"]) == (403, True)

    for rid in rids:
        device.send(publish(f"$iothub/methods/res/200/?$rid={rid}", b"1"))
    assert {service.result()[0] for service in services} == {200}
