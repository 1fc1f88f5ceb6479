"""Shared access signatures: reading them, what they cover, who signed them."""

from __future__ import annotations

import base64
import itertools

import pytest

from fwupdate_helpers.localhub.sas import SasError, SasToken, is_key, make_token, new_key

KEY = base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
OTHER_KEY = base64.b64encode(b"another key of thirty-two bytes!").decode()

# Made by the command line, so that the test does not check the code against itself:
#   printf '127.0.0.9%%2Fdevices%%2Fd1\n1999999999' |
#   openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef -binary | base64
RESOURCE = "127.0.0.9%2Fdevices%2Fd1"
SIGNATURE = "bdVHgSlAe0qb+h2DuU8fprhd18aTudxjXxRKEqe+EHI="
# The same with %2f instead of %2F.
SIGNATURE_LOWER_CASE = "pHPb2mBPlVKN9jSk8+TI/oH+G3B4J+YOvxh6/vc3+CA="


def quoted(signature: str) -> str:
    return signature.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")


FIELDS = (f"sr={RESOURCE}", f"sig={quoted(SIGNATURE)}", "se=1999999999")
TOKEN = "SharedAccessSignature " + "&".join(FIELDS)


def test_a_token_of_openssl_is_accepted() -> None:
    token = SasToken.parse(TOKEN)

    assert token.resource == "127.0.0.9/devices/d1"
    assert token.expiry == 1999999999
    assert token.policy is None
    assert token.signed_by([KEY])


def test_our_own_tokens_are_those_of_openssl() -> None:
    assert make_token("127.0.0.9/devices/d1", KEY, 1999999999) == TOKEN


@pytest.mark.parametrize("order", list(itertools.permutations((*FIELDS, "skn=device"))))
def test_the_fields_may_come_in_any_order(order: tuple[str, ...]) -> None:
    token = SasToken.parse("SharedAccessSignature " + "&".join(order))

    assert (token.resource, token.policy) == ("127.0.0.9/devices/d1", "device")
    assert token.signed_by([KEY])


def test_the_signature_is_over_the_resource_as_it_was_sent() -> None:
    lower = TOKEN.replace("%2F", "%2f", 2)
    assert "sr=127.0.0.9%2fdevices%2fd1&" in lower
    assert not SasToken.parse(lower).signed_by([KEY])

    signed = lower.replace(quoted(SIGNATURE), quoted(SIGNATURE_LOWER_CASE))
    assert SasToken.parse(signed).resource == "127.0.0.9/devices/d1"
    assert SasToken.parse(signed).signed_by([KEY])


def test_a_signature_may_hold_bare_slashes_and_plus_signs() -> None:
    # azure-iot-hub leaves '/' as it is.
    for expiry in range(1999999999, 2000000100):
        token = make_token("host", KEY, expiry, "service")
        bare = token.replace("%2F", "/").replace("%2B", "+").replace("%3D", "=")
        assert SasToken.parse(bare).signed_by([KEY])


def test_one_of_several_keys_is_enough() -> None:
    token = SasToken.parse(TOKEN)

    assert token.signed_by([OTHER_KEY, KEY])
    assert not token.signed_by([OTHER_KEY])
    assert not token.signed_by([])


@pytest.mark.parametrize(
    "changed",
    [
        TOKEN.replace("d1", "d2"),
        TOKEN.replace("se=1999999999", "se=2999999999"),
        TOKEN.replace("se=1999999999", "se=01999999999"),
        TOKEN.replace(quoted(SIGNATURE), quoted(SIGNATURE_LOWER_CASE)),
        TOKEN.replace(quoted(SIGNATURE), quoted(SIGNATURE)[4:]),
        TOKEN.replace(quoted(SIGNATURE), ""),
    ],
)
def test_a_token_that_was_changed_is_not_signed(changed: str) -> None:
    assert changed != TOKEN
    assert not SasToken.parse(changed).signed_by([KEY])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SharedAccessSignature",
        "SharedAccessSignature ",
        "Bearer abc",
        TOKEN.lower(),
        TOKEN.replace("SharedAccessSignature ", ""),
        TOKEN.replace("sr=", "rs="),
        TOKEN.replace("&se=1999999999", ""),
        TOKEN.replace(f"sig={quoted(SIGNATURE)}&", ""),
        TOKEN + "&se=2999999999",
        TOKEN + "&sr=127.0.0.9",
        TOKEN.replace("se=1999999999", "se="),
        TOKEN.replace("se=1999999999", "se=soon"),
        TOKEN.replace("se=1999999999", "se=-1"),
        TOKEN.replace("se=1999999999", "se=1e9"),
        TOKEN.replace("se=1999999999", "se=1999999999.5"),
        TOKEN.replace("se=1999999999", "se=" + "9" * 16),
        TOKEN.replace("se=1999999999", "se=١٩٩٩"),
        TOKEN.replace(quoted(SIGNATURE), "not base64!"),
        TOKEN.replace(quoted(SIGNATURE), "abc"),
        TOKEN.replace(quoted(SIGNATURE), "é"),
        TOKEN.replace("%2Fd1", "%2Fd\udce9"),  # how a server hands on a byte that is not UTF-8
    ],
)
def test_a_malformed_token_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(SasError) as error:
        SasToken.parse(text)
    assert quoted(SIGNATURE) not in str(error.value)


def test_a_token_shows_no_signature_when_printed() -> None:
    assert SIGNATURE not in repr(SasToken.parse(TOKEN))
    assert str(base64.b64decode(SIGNATURE)) not in repr(SasToken.parse(TOKEN))


@pytest.mark.parametrize(
    ("resource", "target", "covered"),
    [
        ("host/devices/d1", "host/devices/d1", True),
        ("host/devices/d1/", "host/devices/d1", True),
        ("host/devices", "host/devices/d1", True),
        ("host", "host/devices/d1", True),
        ("HOST", "host/devices/d1", True),
        ("host/devices/d1", "HOST/devices/d1", True),
        ("host/devices/d", "host/devices/d1", False),
        ("host/devices/d1", "host/devices/d10", False),
        ("host/devices/D1", "host/devices/d1", False),
        ("host/Devices", "host/devices/d1", False),
        ("host/devices/d1", "host/devices", False),
        ("host/devices/d1", "host", False),
        ("hos", "host/devices/d1", False),
        ("host:8443", "host/devices/d1", False),
        ("", "host/devices/d1", False),
        ("/", "host/devices/d1", False),
        ("/devices/d1", "host/devices/d1", False),
        ("host//devices/d1", "host/devices/d1", False),
    ],
)
def test_a_token_covers_whole_segments_only(resource: str, target: str, covered: bool) -> None:
    token = SasToken.parse(make_token(resource, KEY, 1999999999))

    assert token.covers(target) is covered


def test_generated_keys_are_new_and_good() -> None:
    keys = {new_key() for _ in range(50)}

    assert len(keys) == 50
    assert all(is_key(key) and len(base64.b64decode(key)) == 32 for key in keys)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        (base64.b64encode(bytes(16)).decode(), True),
        (base64.b64encode(bytes(64)).decode(), True),
        (base64.b64encode(bytes(15)).decode(), False),
        (base64.b64encode(bytes(65)).decode(), False),
        ("key!" * 8, False),
        (KEY[:-1], False),
        ("é" * 40, False),
        (7, False),
        (None, False),
    ],
)
def test_a_given_key_must_be_base64_of_16_to_64_bytes(text: object, good: bool) -> None:
    assert is_key(text) is good
