"""The service endpoint, spoken to with bare HTTPS requests."""

from __future__ import annotations

import inspect
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from azure.iot.hub.protocol import operations

from fwupdate_helpers.localhub.sas import make_token, new_key
from tests.rest import (
    assert_error,
    call,
    create_device,
    device_path,
    policy_key,
    service_host,
    token,
    twin_path,
)
from tests.support import HubProcess

READ, WRITE, SERVICE = "RegistryRead", "RegistryWrite", "ServiceConnect"
GRANTED = {
    "iothubowner": {READ, WRITE, SERVICE},
    "service": {SERVICE},
    "device": set(),
    "registryRead": {READ},
    "registryReadWrite": {READ, WRITE},
}
OPERATIONS = {
    "list devices": ("GET", "/devices", None, READ),
    "read a device": ("GET", "/devices/nobody", None, READ),
    "write a device": ("PUT", "/devices/nobody", b"no json", WRITE),
    "delete a device": ("DELETE", "/devices/nobody", None, WRITE),
    "read a twin": ("GET", "/twins/nobody", None, SERVICE),
    "change a twin": ("PATCH", "/twins/nobody", {}, SERVICE),
    "replace a twin": ("PUT", "/twins/nobody", {}, SERVICE),
    "call a method": ("POST", "/twins/nobody/methods", {"methodName": "m"}, SERVICE),
    "write many devices": ("POST", "/devices", b"no json", WRITE),
    "count the devices": ("GET", "/statistics/devices", None, READ),
    "count the connections": ("GET", "/statistics/service", None, SERVICE),
    "list configurations": ("GET", "/configurations", None, SERVICE),
    "write a configuration": ("PUT", "/configurations/nobody", b"no json", SERVICE),
    "delete a configuration": ("DELETE", "/configurations/nobody", None, SERVICE),
    "query": ("POST", "/devices/query", {"query": "SELECT * FROM devices"}, SERVICE),
    "look at the hub": ("GET", "/$localhub/status", None, SERVICE),
}


# -- who may do what ----------------------------------------------------------------------------


@pytest.mark.parametrize("policy", GRANTED)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_policy_may_do_what_it_grants_and_nothing_else(
    hub_process: HubProcess, policy: str, operation: str
) -> None:
    method, path, body, permission = OPERATIONS[operation]

    reply = call(hub_process, method, path, body, policy=policy)

    if permission in GRANTED[policy]:
        assert reply.status in (200, 400, 404, 501), reply.text
    else:
        assert_error(reply, 401002, "IotHubUnauthorizedAccess")


def test_stopping_the_hub_needs_registry_write(hub_process: HubProcess) -> None:
    for policy in ("service", "device", "registryRead"):
        reply = call(hub_process, "POST", "/$localhub/stop", policy=policy)
        assert_error(reply, 401002, "IotHubUnauthorizedAccess")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_without_a_good_token_nothing_works(hub_process: HubProcess, operation: str) -> None:
    method, path, body, _ = OPERATIONS[operation]
    hub, host = hub_process, service_host(hub_process)
    for bad in (
        "",
        "Bearer abc",
        "SharedAccessSignature sr=%FF&sig=%FF&se=9999999999&skn=iothubowner",
        "SharedAccessSignature sr=\xff&sig=\xff&se=9999999999&skn=iothubowner",
        token(hub, key=new_key()),
        token(hub, key=policy_key(hub, "registryRead")),
        token(hub, "nobody", key=policy_key(hub, "iothubowner")),
        token(hub, valid=0),
        token(hub, valid=-3600),
        token(hub, resource="127.0.0.250:8443"),
        token(hub, resource="example.azure-devices.net"),
        token(hub, resource=f"{host}/other"),
        token(hub, resource=host[:-1]),
        make_token(host, policy_key(hub, "iothubowner"), int(time.time()) + 600),
    ):
        reply = call(hub, method, path, body, authorization=bad)
        assert_error(reply, 401003, "IotHubUnauthorized")
        assert "sig=" not in reply.text


def test_the_secondary_key_of_a_policy_is_as_good(hub_process: HubProcess) -> None:
    second = policy_key(hub_process, "iothubowner", 1)
    reply = call(hub_process, "GET", "/devices", authorization=token(hub_process, key=second))
    assert reply.status == 200


def test_a_token_may_name_the_host_without_port_and_in_capitals(hub_process: HubProcess) -> None:
    for resource in (hub_process.ready["device_host"], "LocalHost"):
        good = token(hub_process, resource=resource)
        assert call(hub_process, "GET", "/devices", authorization=good).status == 200


def test_a_device_key_opens_no_service_door(hub_process: HubProcess, device_id: str) -> None:
    key = create_device(hub_process, device_id)
    resource = f"{service_host(hub_process)}/devices/{device_id}"
    device_token = make_token(resource, key, int(time.time()) + 600)

    reply = call(hub_process, "GET", device_path(device_id), authorization=device_token)

    assert_error(reply, 401003, "IotHubUnauthorized")


def test_a_token_with_a_narrow_scope_reaches_no_further(
    hub_process: HubProcess, device_id: str
) -> None:
    create_device(hub_process, device_id)
    create_device(hub_process, f"{device_id}-2")
    narrow = token(hub_process, resource=f"{service_host(hub_process)}/devices/{device_id}")

    def status(path: str) -> int:
        return call(hub_process, "GET", path, authorization=narrow).status

    assert status(device_path(device_id)) == 200
    assert status(device_path(f"{device_id}-2")) == 401
    assert status("/devices") == 401
    assert status(twin_path(device_id)) == 401


# -- routes -------------------------------------------------------------------------------------

BUILT = {
    ("GET", "/devices"),
    ("GET", "/devices/{id}"),
    ("PUT", "/devices/{id}"),
    ("DELETE", "/devices/{id}"),
    ("GET", "/twins/{id}"),
    ("PATCH", "/twins/{id}"),
    ("PUT", "/twins/{id}"),
    ("POST", "/devices/query"),
    ("POST", "/twins/{deviceId}/methods"),
    ("POST", "/devices"),
    ("GET", "/statistics/devices"),
    ("GET", "/statistics/service"),
    ("GET", "/jobs/v2/query"),
    ("GET", "/jobs/v2/{id}"),
    ("PUT", "/jobs/v2/{id}"),
    ("POST", "/jobs/v2/{id}/cancel"),
    ("GET", "/configurations"),
    ("GET", "/configurations/{id}"),
    ("PUT", "/configurations/{id}"),
    ("DELETE", "/configurations/{id}"),
    ("POST", "/configurations/testQueries"),
}


def sdk_routes() -> Iterator[tuple[str, str]]:
    """Every method and URL that azure-iot-hub can call, read from its generated operations."""
    for group in vars(operations).values():
        for operation in vars(group).values() if inspect.isclass(group) else ():
            if url := getattr(operation, "metadata", {}).get("url"):
                source = inspect.getsource(operation)
                method = re.search(r"request = self\._client\.(\w+)\(url", source)
                assert method, f"{operation} has no request that this test understands"
                yield method[1].upper(), url


def test_the_sdk_has_the_routes_that_this_test_expects() -> None:
    routes = set(sdk_routes())
    assert len(routes) >= 40
    assert routes >= BUILT


@pytest.mark.parametrize(("method", "url"), sorted(set(sdk_routes())))
def test_a_route_of_the_sdk_is_built_or_says_that_it_is_not(
    hub_process: HubProcess, method: str, url: str
) -> None:
    path = re.sub(r"\{\w+\}", "x", url)

    reply = call(hub_process, method, path, {})

    if (method, url) in BUILT:
        assert reply.status != 501
        assert reply.error != "NotFound"
    else:
        assert_error(reply, 501000, "NotImplemented")
        assert f"({method} {path})" in reply.content["Message"]


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("POST", "/devices/x/files", "file uploads"),
        ("POST", "/devices/x/files/notifications", "file uploads"),
        ("POST", "/devices/x/messages/events", "messages over HTTPS"),
        ("GET", "/devices/x/messages/deviceBound", "messages over HTTPS"),
        ("DELETE", "/devices/x/commands", "cloud-to-device messages"),
        ("GET", "/devices/x/modules", "modules"),
        ("POST", "/devices/x/applyConfigurationContent", "edge configurations"),
    ],
)
def test_what_the_local_hub_leaves_out_is_refused_by_name(
    hub_process: HubProcess, method: str, path: str, name: str
) -> None:
    reply = call(hub_process, method, path, {})

    assert_error(reply, 501000, "NotImplemented")
    assert f"does not offer {name} ({method} {path})" in reply.content["Message"]


def test_a_route_that_iot_hub_does_not_have_is_said_to_be_none(hub_process: HubProcess) -> None:
    for method, path in (("GET", "/nothing"), ("PATCH", "/devices/x"), ("GET", "/")):
        reply = call(hub_process, method, path)
        assert_error(reply, 404000, "NotFound")
        assert f"{method} {path}" in reply.content["Message"]
        assert call(hub_process, method, path, authorization="").status == 401


@pytest.mark.parametrize("query", ["", "api-version=", "other=1"])
def test_a_request_without_api_version_is_refused(hub_process: HubProcess, query: str) -> None:
    for path in ("/devices", "/twins/nobody"):
        reply = call(hub_process, "GET", path, query=query)
        assert_error(reply, 400001, "InvalidProtocolVersion")


# -- identities ---------------------------------------------------------------------------------


def test_json_is_compact_and_not_escaped(hub_process: HubProcess, device_id: str) -> None:
    create_device(hub_process, device_id, statusReason="größer")
    call(hub_process, "PATCH", twin_path(device_id), {"tags": {"größe": [1, {"b": 2}]}})
    for path in (device_path(device_id), twin_path(device_id), "/devices"):
        reply = call(hub_process, "GET", path)
        assert reply.headers["Content-Type"] == "application/json; charset=utf-8"
        assert "größ" in reply.text
        assert reply.text == json.dumps(reply.content, separators=(",", ":"), ensure_ascii=False)


def test_an_identity_has_the_fields_of_iot_hub(hub_process: HubProcess, device_id: str) -> None:
    reply = call(hub_process, "PUT", device_path(device_id), {})

    identity = reply.content
    assert reply.status == 200
    assert set(identity) == {
        *("deviceId", "generationId", "etag", "connectionState", "status", "statusReason"),
        *("connectionStateUpdatedTime", "statusUpdatedTime", "lastActivityTime"),
        *("cloudToDeviceMessageCount", "authentication", "capabilities"),
    }
    assert identity["deviceId"] == device_id
    assert (identity["status"], identity["connectionState"]) == ("enabled", "Disconnected")
    assert identity["lastActivityTime"] == "0001-01-01T00:00:00Z"
    assert identity["authentication"]["type"] == "sas"


@pytest.mark.parametrize(
    "suffix",
    ["-._", "%", "%41", "%2F", "%25", "*?!", "(),", ":=@$'", "-.%_*?!(),:=@$'", "A", "a"],
)
def test_every_allowed_character_makes_a_device_id(
    hub_process: HubProcess, device_id: str, suffix: str
) -> None:
    name = f"{device_id}{suffix}"
    create_device(hub_process, name)

    assert call(hub_process, "GET", device_path(name)).content["deviceId"] == name
    assert call(hub_process, "GET", twin_path(name)).content["deviceId"] == name
    assert call(hub_process, "DELETE", device_path(name)).status == 204
    assert_error(call(hub_process, "GET", device_path(name)), 404001, "DeviceNotFound")


@pytest.mark.parametrize(
    "device_id", [" ", "a b", "a+b", "a#b", "a/b", "é", "a\x00b", "a&b", "a;b", "{a}", "x" * 129]
)
def test_another_character_or_too_many_make_none(hub_process: HubProcess, device_id: str) -> None:
    for method, path, body in (
        ("PUT", device_path(device_id), {}),
        ("GET", device_path(device_id), None),
        ("GET", twin_path(device_id), None),
    ):
        reply = call(hub_process, method, path, body)
        assert reply.error in ("ArgumentInvalid", "NotFound"), reply.text


def test_a_device_id_may_have_128_characters(hub_process: HubProcess, device_id: str) -> None:
    assert create_device(hub_process, device_id.ljust(128, "x"))


def test_device_ids_are_case_sensitive(hub_process: HubProcess, device_id: str) -> None:
    create_device(hub_process, device_id)
    reply = call(hub_process, "GET", device_path(device_id.upper()))
    assert_error(reply, 404001, "DeviceNotFound")


def test_an_id_that_is_taken_cannot_be_created_again(
    hub_process: HubProcess, device_id: str
) -> None:
    create_device(hub_process, device_id)
    reply = call(hub_process, "PUT", device_path(device_id), {})
    assert_error(reply, 409001, "DeviceAlreadyExists")
    assert "already registered" in reply.content["Message"]


def test_an_id_that_is_created_again_has_a_new_generation(
    hub_process: HubProcess, device_id: str
) -> None:
    create_device(hub_process, device_id)
    first = call(hub_process, "GET", device_path(device_id)).content
    call(hub_process, "PATCH", twin_path(device_id), {"tags": {"a": 1}})
    call(hub_process, "DELETE", device_path(device_id))
    create_device(hub_process, device_id)

    second = call(hub_process, "GET", device_path(device_id)).content
    assert second["generationId"] != first["generationId"]
    assert second["authentication"] != first["authentication"]
    assert call(hub_process, "GET", twin_path(device_id)).content["tags"] == {}


def test_a_list_has_at_most_top_devices(hub_process: HubProcess, device_id: str) -> None:
    for n in range(3):
        create_device(hub_process, f"{device_id}-{n}")

    def count(top: str) -> int:
        return len(call(hub_process, "GET", "/devices", query=f"api-version=1&top={top}").content)

    everything = count("1000")
    assert everything >= 3
    assert (count("1"), count("2")) == (1, 2)
    assert {count(top) for top in ("", "0", "-1", "1001", "99999", "many", "2.5")} == {everything}


WRONG_DEVICES: dict[str, Any] = {
    "another id": {"deviceId": "another"},
    "a status that is none": {"status": "resting"},
    "a status that is no text": {"status": 1},
    "a reason that is no text": {"statusReason": {"a": 1}},
    "a reason too long": {"statusReason": "x" * 129},
    "an authentication that is no object": {"authentication": "sas"},
    "an authentication type that is none": {"authentication": {"type": "magic"}},
    "an authentication type that is no text": {"authentication": {"type": ["sas"]}},
    "keys that are no object": {"authentication": {"symmetricKey": ["a", "b"]}},
    "a key that is no base64": {"authentication": {"symmetricKey": {"primaryKey": "key!"}}},
    "a key that is no text": {"authentication": {"symmetricKey": {"secondaryKey": 7}}},
    "a key too short": {"authentication": {"symmetricKey": {"primaryKey": "c2hvcnQ="}}},
    "thumbprints that are no object": {"authentication": {"x509Thumbprint": "abc"}},
    "a thumbprint that is no text": {
        "authentication": {"x509Thumbprint": {"primaryThumbprint": {"a": 1}}}
    },
}


@pytest.mark.parametrize("body", WRONG_DEVICES.values(), ids=WRONG_DEVICES)
def test_a_device_with_a_wrong_field_is_refused(
    hub_process: HubProcess, device_id: str, body: Any
) -> None:
    reply = call(hub_process, "PUT", device_path(device_id), body)
    assert_error(reply, 400004, "ArgumentInvalid")
    assert call(hub_process, "GET", device_path(device_id)).status == 404
