"""Who may connect as a device, in bare MQTT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fwupdate_helpers.localhub.sas import new_key
from tests.raw_mqtt import OpenDevice, RawDevice
from tests.rest import create_device, policy_key
from tests.support import HubProcess


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
