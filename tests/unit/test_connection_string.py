"""Connection strings are read strictly and never shown with their key."""

from __future__ import annotations

import base64
import copy
import json
import pickle
from types import SimpleNamespace
from typing import Any

import pytest

from fwupdate_helpers.connection_string import (
    Secret,
    mask,
    read_device_key,
    read_device_string,
    read_service_string,
)
from fwupdate_helpers.errors import InvalidConnectionString

KEY = base64.b64encode(b"thirty-two bytes of a secret key").decode()
SERVICE = f"HostName=127.0.0.1:8443;SharedAccessKeyName=iothubowner;SharedAccessKey={KEY}"
DEVICE = f"HostName=127.0.0.1;DeviceId=d1;SharedAccessKey={KEY}"


def test_good_strings_are_read() -> None:
    assert read_service_string(SERVICE) == "127.0.0.1:8443"
    assert read_device_string(DEVICE) == "d1"


def test_the_order_of_parts_blanks_and_a_last_semicolon_do_not_matter() -> None:
    shuffled = f" SharedAccessKey={KEY} ; DeviceId = d=1;HostName=hub.azure-devices.net;\n"
    assert read_device_string(shuffled) == "d=1"
    assert read_device_string(Secret(shuffled)) == "d=1"


@pytest.mark.parametrize(
    ("text", "part", "words"),
    [
        ("", "HostName", "has no HostName"),
        ("HostName=h", "DeviceId", "has no DeviceId"),
        ("HostName=h;DeviceId=d1", "SharedAccessKey", "has no SharedAccessKey"),
        ("HostName=;DeviceId=d1;SharedAccessKey=AAAA", "HostName", "has no HostName"),
        ("HostName=https://h;DeviceId=d1;SharedAccessKey=AAAA", "HostName", "no host name"),
        ("HostName=a b;DeviceId=d1;SharedAccessKey=AAAA", "HostName", "no host name"),
        ("HostName=h:port;DeviceId=d1;SharedAccessKey=AAAA", "HostName", "no host name"),
        (DEVICE[:-2], "SharedAccessKey", "not base64"),
        (DEVICE + "ä", "SharedAccessKey", "not base64"),
        (SERVICE, "DeviceId", "connection string of a service"),
    ],
)
def test_a_bad_device_string_gets_an_error_with_its_part(text: str, part: str, words: str) -> None:
    with pytest.raises(InvalidConnectionString, match=words) as refused:
        read_device_string(text)
    assert refused.value.part == part
    assert KEY[:6] not in repr(refused.value)
    assert refused.value.__cause__ is None


def test_a_device_string_in_place_of_a_service_string_is_told() -> None:
    with pytest.raises(InvalidConnectionString, match="of a device") as refused:
        read_service_string(DEVICE)
    assert refused.value.part == "SharedAccessKeyName"


def test_a_secret_is_masked_wherever_it_is_shown() -> None:
    secret = Secret(DEVICE)
    shown = [
        *(str(secret), repr(secret), f"{secret}", f"{secret:>90}", f"{secret!r}"),
        *("%s" % secret, "%r" % secret, "{}".format(secret)),  # noqa: UP031, UP032
        *(repr([secret]), repr({"a": secret}), repr(Secret(secret)), ascii(secret)),
    ]
    assert all(KEY not in text and "***" in text for text in shown)
    assert "DeviceId=d1" in str(secret)


def test_a_secret_is_the_full_text_for_everything_else() -> None:
    secret = Secret(DEVICE)
    assert secret == DEVICE
    assert secret.split(";")[2] == f"SharedAccessKey={KEY}"
    assert "".join([secret]) == DEVICE
    assert json.loads(json.dumps(secret)) == DEVICE
    for copied in (Secret(secret), copy.deepcopy(secret), pickle.loads(pickle.dumps(secret))):
        assert isinstance(copied, Secret)
        assert copied == DEVICE


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (DEVICE, "HostName=127.0.0.1;DeviceId=d1;SharedAccessKey=***"),
        ("sharedaccesskey = abc;HostName=h", "sharedaccesskey = ***;HostName=h"),
        ("SharedAccessKeyName=iothubowner", "SharedAccessKeyName=iothubowner"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_mask_hides_the_key_and_nothing_else(text: str, masked: str) -> None:
    assert mask(text) == masked


def _identity(authentication: Any) -> Any:
    return SimpleNamespace(device_id="d1", authentication=authentication)


def test_the_primary_key_of_an_identity_is_read() -> None:
    keys = SimpleNamespace(primary_key=KEY, secondary_key="other")
    assert read_device_key(_identity(SimpleNamespace(symmetric_key=keys))) == KEY


@pytest.mark.parametrize(
    "authentication",
    [
        None,
        SimpleNamespace(symmetric_key=None),
        SimpleNamespace(symmetric_key=SimpleNamespace(primary_key=None)),
    ],
)
def test_an_identity_without_a_key_gets_an_error_with_its_id(authentication: Any) -> None:
    with pytest.raises(InvalidConnectionString, match="d1") as refused:
        read_device_key(_identity(authentication))
    assert refused.value.part == "SharedAccessKey"
