"""What the local hub's log, status and wire trace never show."""

from __future__ import annotations

import json

import pytest

from fwupdate_helpers.localhub.redaction import MAX_BODY, mask_address, mask_body, mask_text


@pytest.mark.parametrize(
    "secret",
    [
        "SharedAccessKey=ab/cd+ef/gh==",
        "sig=ab%2Fcd/ef",
        "SharedAccessSignature sr=h/devices/d",
        "/firmware/AbCdEf-GhIjKl_MnOpQrSt",
        "/$localhub/images/AbCdEf-GhIjKl_MnOpQrSt",
    ],
)
def test_a_secret_is_masked_to_its_end(secret: str) -> None:
    shown = mask_text(f"GET {secret} HTTP/1.1")
    assert shown.startswith("GET ")
    assert shown.endswith("*** HTTP/1.1")
    assert not any(part in shown for part in ("cd", "gh", "ef", "h/dev", "GhIjKl", "QrSt"))


def test_the_values_of_names_that_tell_of_a_secret_are_not_kept_at_any_depth() -> None:
    body = b"""{"authentication": {"symmetricKey": {"primaryKey": "a1", "secondaryKey": "b2"}},
        "x509Thumbprint": {"primaryThumbprint": "c3"}, "list": [{"sasToken": "d4"}], "n": 1}"""
    shown = mask_body(body)
    assert not any(secret in shown for secret in ("a1", "b2", "c3", "d4"))
    assert '"n":1' in shown and '"symmetricKey":"***"' in shown


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


def test_what_is_no_json_is_counted_and_not_shown() -> None:
    assert mask_body(b'{"primaryKey": "AbCdEf') == "(22 bytes that are no JSON)"
    assert mask_body(b" ") == mask_body(b"") == ""


def test_a_long_body_is_cut_and_says_how_long_it_was() -> None:
    shown = mask_body(json.dumps({"text": "x " * MAX_BODY}).encode())
    assert len(shown) < MAX_BODY + 40 and shown.endswith("characters)")
    assert mask_body(b"[" + b"1," * 60_000 + b"1]").startswith("(120003 bytes, too many")


def test_of_a_query_only_what_is_known_to_be_harmless_is_kept() -> None:
    topic = "$iothub/twin/res/204/?$rid=7&$version=3"
    assert mask_address(topic) == topic
    assert mask_address("/twins/d?api-version=2021-04-12") == "/twins/d"
    assert mask_address("/firmware/AbCdEfGh/2.img?token=x") == "/firmware/***/2.img"
