"""What the service endpoint takes and refuses: ETags, bodies, twins, direct methods."""

from __future__ import annotations

from typing import Any

import pytest

from tests.rest import (
    assert_error,
    assert_method_error,
    call,
    create_device,
    device_path,
    twin_path,
)
from tests.support import HubProcess

# -- If-Match -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ['"*"', "*", '"{etag}"', "{etag}"])
def test_every_form_of_if_match_is_understood(
    hub_process: HubProcess, device_id: str, form: str
) -> None:
    create_device(hub_process, device_id)
    for method, path, body, status in (
        ("PATCH", twin_path(device_id), {"tags": {"a": 1}}, 200),
        ("PUT", twin_path(device_id), {"tags": {"a": 2}}, 200),
        ("PUT", device_path(device_id), {"status": "enabled"}, 200),
        ("DELETE", device_path(device_id), None, 204),
    ):
        etag = call(hub_process, "GET", path).content["etag"]
        for wrong in ('"AAAAAAAAAP8="', "AAAAAAAAAP8=", '""'):
            reply = call(hub_process, method, path, body, headers={"If-Match": wrong})
            assert_error(reply, 412001, "PreconditionFailed")

        good = {"If-Match": form.format(etag=etag)}
        assert call(hub_process, method, path, body, headers=good).status == status


def test_an_etag_is_good_for_one_change(hub_process: HubProcess, device_id: str) -> None:
    create_device(hub_process, device_id)
    for method, path in (("PATCH", twin_path(device_id)), ("PUT", device_path(device_id))):
        etag = call(hub_process, "GET", path).content["etag"]
        replies = [
            call(hub_process, method, path, {}, headers={"If-Match": f'"{etag}"'}) for _ in range(2)
        ]
        assert [reply.status for reply in replies] == [200, 412]
        assert replies[0].content["etag"] != etag


def test_changing_a_device_that_is_not_there_is_no_creation(
    hub_process: HubProcess, device_id: str
) -> None:
    reply = call(hub_process, "PUT", device_path(device_id), {}, headers={"If-Match": '"*"'})
    assert_error(reply, 404001, "DeviceNotFound")


# -- bodies -------------------------------------------------------------------------------------

BAD_JSON = {
    "nothing": b"",
    "half an object": b'{"tags":',
    "two objects": b"{}{}",
    "an array": b"[]",
    "a text": b'"text"',
    "a number": b"1",
    "null": b"null",
    "NaN": b'{"payload":NaN}',
    "Infinity": b'{"payload":-Infinity}',
    "a number beyond all numbers": b'{"payload":1e999}',
    "half a surrogate pair": b'{"payload":"\\ud83d"}',
    "half a surrogate pair in a key": b'{"\\uD83D":1}',
    "half a surrogate pair as bytes": b'{"payload":"\xed\xa0\xbd"}',
    "bytes that are not UTF-8": b'{"payload":"\xff"}',
    "UTF-16": '{"payload":"x"}'.encode("utf-16"),
    "a hundred thousand arrays inside one another": b'{"payload":' + b"[" * 100_000,
    "a hundred thousand objects inside one another": b'{"a":' * 100_000,
    "closed arrays, too many": b'{"payload":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "an integer of ten thousand digits": b'{"payload":' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("body", BAD_JSON.values(), ids=BAD_JSON)
def test_a_body_that_is_no_json_object_is_refused(
    hub_process: HubProcess, device_id: str, body: bytes
) -> None:
    create_device(hub_process, device_id)

    for method, path in (
        ("PUT", device_path(f"{device_id}-2")),
        ("PATCH", twin_path(device_id)),
        ("PUT", twin_path(device_id)),
    ):
        assert_error(call(hub_process, method, path, body), 400006, "IotHubFormatError")
    reply = call(hub_process, "POST", f"{twin_path(device_id)}/methods", body)
    assert_method_error(reply, 400006, "IotHubFormatError")


def test_whatever_the_nesting_the_hub_does_not_fail(
    hub_process: HubProcess, device_id: str
) -> None:
    create_device(hub_process, device_id)
    for depth in (10, 50, 500, *range(940, 1000, 2), 1500, 3000, 9000):
        deep = b"[" * depth + b"]" * depth
        method = b'{"methodName":"m","payload":' + deep + b"}"
        for verb, path, body in (
            ("POST", f"{twin_path(device_id)}/methods", method),
            ("PUT", twin_path(device_id), b'{"tags":{"a":' + deep + b"}}"),
        ):
            reply = call(hub_process, verb, path, body)
            assert reply.status in (200, 400, 404), f"{depth}: {reply.text}"


def test_a_body_too_large_is_refused(hub_process: HubProcess, device_id: str) -> None:
    create_device(hub_process, device_id)
    large = b'{"tags":{"a":"' + b"x" * 1024 * 1024 + b'"}}'
    reply = call(hub_process, "PATCH", twin_path(device_id), large)
    assert_error(reply, 413001, "MessageTooLarge")


@pytest.mark.parametrize(
    "body",
    [
        {"tags": 1},
        {"tags": ["a"]},
        {"properties": "x"},
        {"properties": {"desired": [1]}},
        {"tags": {"a b": 1}},
        {"properties": {"desired": {"a": [None]}}},
        {"properties": {"desired": {"a": 2**52}}},
        {"properties": {"desired": {"a": "x" * 4097}}},
        {"tags": {f"k{n}": "x" * 4000 for n in range(3)}},
        {"properties": {"desired": {f"k{n}": "x" * 4000 for n in range(9)}}},
    ],
)
def test_a_twin_beyond_its_limits_is_refused_and_stays(
    hub_process: HubProcess, device_id: str, body: Any
) -> None:
    create_device(hub_process, device_id)
    before = call(hub_process, "GET", twin_path(device_id)).text

    for method in ("PATCH", "PUT"):
        reply = call(hub_process, method, twin_path(device_id), body)
        assert_error(reply, 400004, "ArgumentInvalid")

    assert call(hub_process, "GET", twin_path(device_id)).text == before


# -- direct methods -----------------------------------------------------------------------------

WRONG_METHODS: dict[str, Any] = {
    "no name": {},
    "an empty name": {"methodName": ""},
    "a name that is no text": {"methodName": 5},
    "a name with a space": {"methodName": "a b"},
    "a name with a slash": {"methodName": "a/b"},
    "a name with a bracket": {"methodName": "a{b"},
    "a name that is not ASCII": {"methodName": "größer"},
    "a name with a line feed": {"methodName": "a\n"},
    "a name with a hash": {"methodName": "a#"},
    "a name with a plus": {"methodName": "+"},
    "a name too long": {"methodName": "x" * 101},
    "a payload too large": {"payload": "x" * (128 * 1024)},
    "a response time-out too short": {"responseTimeoutInSeconds": 4},
    "a response time-out too long": {"responseTimeoutInSeconds": 301},
    "a response time-out as text": {"responseTimeoutInSeconds": "30"},
    "a response time-out of true": {"responseTimeoutInSeconds": True},
    "a response time-out with a fraction": {"responseTimeoutInSeconds": 5.5},
    "a connect time-out below zero": {"connectTimeoutInSeconds": -1},
    "a connect time-out too long": {"connectTimeoutInSeconds": 301},
    "a connect time-out of null": {"connectTimeoutInSeconds": None},
}


@pytest.mark.parametrize("fields", WRONG_METHODS.values(), ids=WRONG_METHODS)
def test_a_method_call_with_a_wrong_field_is_refused(
    hub_process: HubProcess, device_id: str, fields: Any
) -> None:
    create_device(hub_process, device_id)
    body = fields if not fields or "methodName" in fields else {"methodName": "m", **fields}

    reply = call(hub_process, "POST", f"{twin_path(device_id)}/methods", body)

    assert_method_error(reply, 400004, "ArgumentInvalid")


@pytest.mark.parametrize(
    "fields",
    [
        {"methodName": "m"},
        {"methodName": "firmwareUpdate-2.0_!"},
        {"methodName": "x" * 100},
        {"methodName": "m", "payload": "x" * (128 * 1024 - 2)},
        {"methodName": "m", "payload": None},
        {"methodName": "m", "payload": [1, {"a": 1.5}]},
        {"methodName": "m", "responseTimeoutInSeconds": 5, "connectTimeoutInSeconds": 0},
        {"methodName": "m", "responseTimeoutInSeconds": 300},
    ],
)
def test_a_good_method_call_to_an_offline_device_is_refused_for_that(
    hub_process: HubProcess, device_id: str, fields: Any
) -> None:
    create_device(hub_process, device_id)
    reply = call(hub_process, "POST", f"{twin_path(device_id)}/methods", fields)
    assert_method_error(reply, 404103, "DeviceNotOnline")


def test_a_method_of_a_device_that_is_unknown_or_disabled_is_not_found(
    hub_process: HubProcess, device_id: str
) -> None:
    path, body = f"{twin_path(device_id)}/methods", {"methodName": "m"}
    assert_method_error(call(hub_process, "POST", path, body), 404001, "DeviceNotFound")

    create_device(hub_process, device_id, status="disabled")
    assert_method_error(call(hub_process, "POST", path, body), 404001, "DeviceNotFound")
