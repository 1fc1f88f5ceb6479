"""What the local hub's log, status and wire trace never show."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwupdate_helpers.localhub.redaction import (
    IDENTITY_FIELDS,
    MAX_BODY,
    mask_address,
    mask_body,
    mask_text,
)
from fwupdate_helpers.localhub.wiretrace import DEVICE, HUB, Message, WireTrace


@pytest.mark.parametrize(
    "secret",
    [
        "SharedAccessKey=ab/cd+ef/gh==",
        "sig=ab%2Fcd/ef",
        "SharedAccessSignature sr=h/devices/d",
        "/firmware/AbCdEf-GhIjKl_MnOpQrSt",
        "/$localhub/images/AbCdEf-GhIjKl_MnOpQrSt",
        "Basic dXNlcjpwYXNzd29yZA==",
        "Basic%20dTpw",
        "password: cd/gh",
        "the dbPassword : 'cd",
        "pin: 4711cd",
        "auth=cdgh",
        "https://h.example/api?code=cd-gh",
        "https%3A%2F%2Fh.example%2Fapi%3Fcode%3Dcdgh",
    ],
)
def test_a_secret_is_masked_to_its_end(secret: str) -> None:
    shown = mask_text(f"GET {secret} HTTP/1.1")
    assert shown.startswith("GET ")
    assert shown.endswith("*** HTTP/1.1")
    assert not any(
        part in shown for part in ("cd", "gh", "ef", "h/dev", "GhIjKl", "QrSt", "dXNl", "dTpw")
    )


def test_the_values_of_names_that_tell_of_a_secret_are_not_kept_at_any_depth() -> None:
    body = b"""{"authentication": {"symmetricKey": {"primaryKey": "a1", "secondaryKey": "b2"}},
        "x509Thumbprint": {"primaryThumbprint": "c3"}, "list": [{"sasToken": "d4"}], "n": 1}"""
    shown = mask_body(body)
    assert not any(secret in shown for secret in ("a1", "b2", "c3", "d4"))
    assert '"n":1' in shown and '"symmetricKey":"***"' in shown


@pytest.mark.parametrize(
    "name",
    ["auth", "basicAuth", "pass", "db_pass", "wifiPsk", "PSK", "pin", "simPIN", "PIN2", "pw"],
)
def test_a_short_name_of_a_secret_is_known_as_a_word_of_its_own(name: str) -> None:
    assert mask_body(json.dumps({"a": {name: "4711"}}).encode()) == f'{{"a":{{"{name}":"***"}}}}'


@pytest.mark.parametrize(
    "name", ["pinned", "passed", "author", "spin", "opinion", "compass", "bypassed", "Pinot"]
)
def test_a_word_that_only_holds_such_a_name_hides_nothing(name: str) -> None:
    body = json.dumps({"a": {name: "4711"}}, separators=(",", ":"))
    assert mask_body(body.encode()) == body


@pytest.mark.parametrize(
    "secret",
    [
        "https://127.0.0.1:8443/firmware/AbCdEf-GhIjKl_MnOpQrSt/2.0.0.img",
        "https://store.blob.core.windows.net/images/x.img?sp=r&sig=AbCdEf%2BGhIjKl",
        "HostName=h;DeviceId=d;SharedAccessKey=AbCdEf/GhIjKl=",
        "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY=",
    ],
)
def test_a_secret_inside_a_text_of_a_body_is_masked(secret: str) -> None:
    shown = mask_body(json.dumps({"payload": {"fwPackageUri": secret}}).encode())
    assert "***" in shown
    assert not any(part in shown for part in ("AbCdEf", "GhIjKl", "QUJDREVG"))


def test_an_escape_hides_no_secret() -> None:
    for hidden in (
        rb'{"u": "\/firmware\/AbCdEfGh\/1.img"}',
        rb'{"primary\u004bey": "AbCdEfGh"}',
    ):
        assert "AbCdEfGh" not in mask_body(hidden)


def test_half_a_surrogate_pair_can_be_kept() -> None:
    assert mask_body(rb'{"a":"\udc00"}').encode() == b'{"a":"?"}'


def test_what_is_no_json_is_counted_and_not_shown() -> None:
    assert mask_body(b'{"primaryKey": "AbCdEf') == "(22 bytes that are no JSON)"
    assert mask_body(b" ") == mask_body(b"") == ""


def test_a_long_body_is_cut_and_says_how_long_it_was() -> None:
    long = json.dumps({f"name{n}": "x " * 40 for n in range(100)})
    shown = mask_body(long.encode())
    assert shown.startswith('{"name0":"x x') and shown.endswith(f"… ({len(long)} characters)")
    assert len(shown) < MAX_BODY + 40
    assert mask_body(json.dumps({"text": "x " * 1200}).encode()) == '{"text":"(2400 characters)"}'
    assert mask_body(b"[" + b"1," * 60_000 + b"1]").startswith("(120003 bytes, too many")


def test_of_a_query_only_what_is_known_to_be_harmless_is_kept() -> None:
    topic = "$iothub/twin/res/204/?$rid=7&$version=3"
    assert mask_address(topic) == topic
    assert mask_address("/twins/d?api-version=2021-04-12", device_id="d") == "/twins/d"
    assert mask_address("/firmware/AbCdEfGh/2.img?token=x") == "/firmware/***/2.img"
    assert mask_address("/twins/d?top=AbCdEfGhIjKl1234567890&code=x") == "/twins/***?top=***"


# -- a key may stand anywhere, and is masked to its last letter ----------------------------------

PLACES: dict[str, Callable[[str], Any]] = {
    "a value": lambda key: {"tags": {"note": key}},
    "a name": lambda key: {"tags": {key: 1}},
    "a list": lambda key: [[key], 1],
    "a bare text": lambda key: key,
    "a connection string": lambda key: f"HostName=h;DeviceId=d;SharedAccessKey={key}",
    "storage": lambda key: {"c": f"AccountName=a;AccountKey={key};EndpointSuffix=e"},
    "a token": lambda key: {"a": f"SharedAccessSignature sr=h&sig={quote(key, safe='')}&se=1"},
    "a signed address": lambda key: {"u": f"https://h.example/c/x.fw?sp=r&sig={quote(key)}&se=1"},
    "an address in an address": lambda key: {
        "u": "https://h.example/?u=" + quote(f"https://h/x?sig={quote(key, safe='')}", safe="")
    },
    "a user's password": lambda key: {"u": f"https://me:{quote(key, safe='')}@h.example/x.fw"},
    "a bearer": lambda key: {"head": f"Bearer {key}"},
    "JSON in a text": lambda key: {"t": json.dumps({"a": {"primaryKey": key}})},
    "prose": lambda key: {"t": f"use {key}, then restart"},
}


@given(
    place=st.sampled_from(list(PLACES)),
    size=st.sampled_from([16, 32, 33, 64]),
    seed=st.integers(0, 2**32),
)
def test_a_key_in_any_place_of_a_body_is_masked(place: str, size: int, seed: int) -> None:
    key = base64.b64encode(random.Random(seed).randbytes(size)).decode()
    shown = mask_body(json.dumps(PLACES[place](key)).encode())
    assert shown.startswith(("{", "[", '"')), "it is shown, and not left out as a whole"
    assert not fragments(key, shown)


@given(size=st.sampled_from([16, 32, 33, 64]), seed=st.integers(0, 2**32))
def test_a_key_in_an_address_is_masked(size: int, seed: int) -> None:
    key = base64.b64encode(random.Random(seed).randbytes(size)).decode()
    for path in (
        f"/devices/{quote(key, safe='')}?api-version=1",
        f"/nowhere/{quote(key, safe='')}",
        f"/twins/d?code={quote(key)}&top={quote(key)}",
        f"{key}/#",
        f"$iothub/methods/POST/{key.replace('/', '+')}/?$rid={key}",
        f"$iothub/twin/GET/?$rid={key}",
        f"devices/d/messages/events/a={quote(key)}",
    ):
        assert not fragments(key, mask_address(path, device_id="d")), path


def fragments(secret: str, shown: str) -> list[str]:
    """Return what is shown of a secret, as it is or encoded: seven letters tell too much."""
    forms = (secret, quote(secret, safe=""), quote(quote(secret, safe=""), safe=""))
    pieces = {form[n : n + 7] for form in forms for n in range(len(form) - 6)}
    return [piece for piece in pieces if piece in shown]


def test_of_an_identity_only_known_fields_are_kept() -> None:
    keys = {"primaryKey": "short", "secondaryKey": "also"}
    authentication = {"type": "sas", "symmetricKey": keys, "invented": "hidden"}
    body = json.dumps({"deviceId": "d", "authentication": authentication, "note": "hidden"})
    shown = json.loads(mask_body(body.encode(), fields=IDENTITY_FIELDS))
    assert shown["deviceId"] == "d" and shown["authentication"]["type"] == "sas"
    assert not any(word in json.dumps(shown) for word in ("short", "also", "hidden"))


@pytest.mark.parametrize(
    "text",
    [
        "Anna-Maria-01-twins-and-methods-thermostat",
        "2026-05-04T12:30:00.0000000Z",
        "404103 DeviceNotOnline: the operation failed",
        "8b1a9953c4611296a827abf8c47804d7e6c49c6b97b1a9953c4611296a827abf",
        "6f1c2d34-0a5b-4c6d-8e7f-9a0b1c2d3e4f",
        "DeviceMaximumInflightMethodExceeded",
        "firmwareUpdate.temperatureThreshold=5",
        "Basic functions were tested: all passed.",
        "Basic test",
        "The author: Ada, who has pinned it.",
        "https://h.example/errors?errorcode=5",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    body = json.dumps({"a": text})
    assert json.loads(
        mask_body(body.encode(), keep="Anna-Maria-01-twins-and-methods-thermostat")
    ) == {"a": text}


def test_a_body_that_nests_deep_is_counted() -> None:
    for levels in (101, 700, 7_000):
        deep = b'{"apiKey":"k","a":' + b"[" * levels + b"1" + b"]" * levels + b"}"
        assert mask_body(deep) == f"({len(deep)} bytes, nested too deep to look into)"
    in_a_text = json.dumps({"apiKey": "k", "Message": "[" * 99 + "]" * 99})
    assert mask_body(in_a_text.encode()).count("[") == 99


def test_an_image_that_somebody_takes_for_a_device_is_not_shown() -> None:
    trace = WireTrace(lambda: datetime(2026, 1, 1, tzinfo=timezone.utc))
    token = "abcdefghijklmnopqrstuv"  # nothing about it looks like a secret
    trace.hide_images(lambda text: token in text)
    for device_id in (token, f"my-{token}", "d"):
        for address in (f"/twins/{device_id}", f"devices/{device_id}/messages/events/"):
            trace.add(Message(device_id, "twin", DEVICE, HUB, "GET", address))
    rows = trace.rows()
    assert token not in json.dumps(rows)
    assert [row["device_id"] for row in rows] == ["***"] * 4 + ["d"] * 2
    assert rows[-1]["what"] == "GET devices/d/messages/events/"


def test_a_row_is_bounded_and_masked_whatever_a_client_says() -> None:
    trace = WireTrace(lambda: datetime(2026, 1, 1, tzinfo=timezone.utc))
    name = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY="
    for device_id in (name, f"HostName=h;SharedAccessKey={name}", name * 1000):
        trace.add(Message(device_id, "connection", DEVICE, HUB, "CONNECT", name * 1000))
    text = json.dumps(trace.rows())
    assert not fragments(name, text)
    assert len(text) < 3000
