"""Direct methods, credentials and telemetry with the unmodified SDKs, over real sockets."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from azure.iot.device import Message
from azure.iot.device.exceptions import CredentialError
from azure.iot.hub.models import CloudToDeviceMethod

from fwupdate_helpers.localhub.sas import new_key
from tests.rest import telemetry_count
from tests.sdk import Connect, answer_methods, refusal
from tests.support import HubProcess, device_connection_string

# -- direct methods -----------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [None, {"a": [1, "ü"]}, "text", 0, [None], False])
def test_a_method_call_goes_round(
    registry: Any,
    new_device: Callable[[str], str],
    connect: Connect,
    device_id: str,
    payload: Any,
) -> None:
    client = connect(new_device(device_id))
    answer_methods(client, lambda request: (500, [request.name, request.payload]))

    result = registry.invoke_device_method(
        device_id, CloudToDeviceMethod(method_name="echo", payload=payload)
    )

    # A device's 500 is an answer like any other; the SDK sends "" for None.
    assert result.status == 500
    assert result.payload == ["echo", "" if payload is None else payload]


def test_many_devices_answer_at_the_same_time(
    hub_process: HubProcess,
    new_device: Callable[[str], str],
    connect: Connect,
    device_id: str,
) -> None:
    ids = [f"{device_id}-{n}" for n in range(5)]
    for one in ids:
        answer_methods(connect(new_device(one)), lambda request, one=one: (200, one))

    def invoke(one: str) -> Any:
        method = CloudToDeviceMethod(method_name="who")
        return hub_process.registry().invoke_device_method(one, method).payload

    with ThreadPoolExecutor(5) as pool:
        assert list(pool.map(invoke, ids * 4)) == ids * 4


def test_a_method_call_that_cannot_be_made_is_refused(
    registry: Any, new_device: Callable[[str], str], connect: Connect, device_id: str
) -> None:
    method = CloudToDeviceMethod(method_name="m")

    def invoke() -> Any:
        return registry.invoke_device_method(device_id, method)

    assert refusal(invoke) == (404, "DeviceNotFound")
    string = new_device(device_id)
    assert refusal(invoke) == (404, "DeviceNotOnline")
    client = connect(string)
    assert refusal(invoke) == (404, "DeviceNotOnline")
    answer_methods(client, lambda request: (200, None))
    assert invoke().status == 200
    client.disconnect()
    assert refusal(invoke) == (404, "DeviceNotOnline")


def test_a_device_that_does_not_answer_in_time_is_a_gateway_timeout(
    registry: Any, new_device: Callable[[str], str], connect: Connect, device_id: str
) -> None:
    client = connect(new_device(device_id))
    let_go = threading.Event()
    answer_methods(client, lambda request: (200, let_go.wait(30)))

    method = CloudToDeviceMethod(method_name="slow", response_timeout_in_seconds=5)
    assert refusal(registry.invoke_device_method, device_id, method) == (
        504,
        "GatewayTimeout",
    )

    let_go.set()  # the late answer does no harm
    assert registry.invoke_device_method(device_id, method).status == 200


def test_a_call_waits_for_an_offline_device_up_to_the_connect_timeout(
    hub_process: HubProcess,
    registry: Any,
    new_device: Callable[[str], str],
    connect: Connect,
    device_id: str,
) -> None:
    string = new_device(device_id)
    patient = CloudToDeviceMethod(method_name="m", connect_timeout_in_seconds=20)
    hasty = CloudToDeviceMethod(method_name="m", connect_timeout_in_seconds=1)
    assert refusal(registry.invoke_device_method, device_id, hasty) == (
        404,
        "DeviceNotOnline",
    )

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(hub_process.registry().invoke_device_method, device_id, patient)
        answer_methods(connect(string), lambda request: (200, "here"))
        assert waiting.result(20).payload == "here"


# -- devices ------------------------------------------------------------------------------------


def test_a_device_with_a_wrong_key_or_unknown_gets_a_credential_error(
    hub_process: HubProcess,
    new_device: Callable[[str], str],
    connect: Connect,
    device_id: str,
) -> None:
    good = new_device(device_id)
    wrong_key = f"{good.split(';SharedAccessKey=')[0]};SharedAccessKey={new_key()}"
    for string in (wrong_key, good.replace(device_id, f"{device_id}-unknown")):
        with pytest.raises(CredentialError):
            connect(string)
    assert connect(good).connected


@pytest.mark.parametrize("suffix", ["%", "%41", "%2F", "=", "-._*?!(),:@$'"])
def test_a_device_id_of_odd_characters_works_on_both_sides(
    hub_process: HubProcess,
    registry: Any,
    connect: Connect,
    device_id: str,
    suffix: str,
) -> None:
    name = f"{device_id}{suffix}"
    client = connect(device_connection_string(hub_process, name))
    answer_methods(client, lambda request: (200, "odd"))

    client.patch_twin_reported_properties({"a": 1})
    client.send_message("telemetry")

    assert registry.get_twin(name).properties.reported["a"] == 1
    method = CloudToDeviceMethod(method_name="m")
    assert registry.invoke_device_method(name, method).payload == "odd"
    assert telemetry_count(hub_process, name) == 1


def test_telemetry_is_accepted(
    hub_process: HubProcess, new_device: Callable[[str], str], connect: Connect, device_id: str
) -> None:
    client = connect(new_device(device_id))
    message = Message('{"t":21.5}', message_id="1", content_encoding="utf-8")
    message.content_type = "application/json"
    message.custom_properties["größe & ort"] = "a/b?c=d#+"

    client.send_message(message)
    client.send_message("text")

    assert telemetry_count(hub_process, device_id) == 2
