"""Connection strings: read without ever showing the key.

Each function first makes a `Secret` of what it is given: there are tools that show a traceback with
the values of all variables.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

from fwupdate_helpers.errors import InvalidConnectionString

_KEY = re.compile(r"(SharedAccessKey\s*=\s*)[^;]+", re.IGNORECASE)
_LIKE_A_KEY = re.compile(r"[A-Za-z0-9+/]{20,}={1,2}(?![A-Za-z0-9])")
"""Base64 in a place where no key belongs."""
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?")
_PARTS = {
    "HostName": _HOST,
    "DeviceId": re.compile(r".*"),
    "SharedAccessKeyName": re.compile(r"[A-Za-z0-9._-]*"),
    "SharedAccessKey": re.compile(r"(?!)"),
}
"""What is read of a connection string, and how a value looks that surely is no key."""
_DEVICE_EXAMPLE = "HostName=…;DeviceId=…;SharedAccessKey=…"
_EXAMPLE = "HostName=…;SharedAccessKeyName=…;SharedAccessKey=…"


class Secret(str):
    """A connection string that shows its key masked when it is printed, formatted or displayed.

    One in which no key is recognised, a bare key for example, is masked as a whole. It is the full
    text for everything else, so it can be handed to the SDK or written to a file.
    """

    def __new__(cls, text: str) -> Secret:
        # str.__new__ would ask a Secret for its masked text.
        return super().__new__(cls, str.__str__(text))

    def __repr__(self) -> str:
        return repr(str(self))

    def __str__(self) -> str:
        masked = _LIKE_A_KEY.sub("***", mask(self))
        return masked if masked != str.__str__(self) or not masked else "***"

    def __format__(self, specification: str) -> str:
        return format(str(self), specification)


def mask(connection_string: str) -> str:
    """Return a connection string with its key replaced by ``***``.

    >>> mask("HostName=h;DeviceId=d;SharedAccessKey=c2VjcmV0")
    'HostName=h;DeviceId=d;SharedAccessKey=***'
    """
    return _KEY.sub(r"\1***", str.__str__(connection_string))


def read_service_string(connection_string: str) -> str:
    """Check a service connection string and return its host name.

    Raises:
        InvalidConnectionString: A part is missing or malformed, or it is a device's string.
    """
    connection_string = Secret(connection_string)
    parts = _read(connection_string, "SharedAccessKeyName", _EXAMPLE)
    return parts["HostName"]


def read_service_key(connection_string: str) -> bytes:
    """Return the key in a service connection string; raises as `read_service_string`."""
    connection_string = Secret(connection_string)
    parts = _read(connection_string, "SharedAccessKeyName", _EXAMPLE)
    return base64.b64decode(parts["SharedAccessKey"])


def read_policy(connection_string: str) -> tuple[str, str]:
    """Return the policy's name and key, which is shown masked; raises as `read_service_string`."""
    connection_string = Secret(connection_string)
    parts = _read(connection_string, "SharedAccessKeyName", _EXAMPLE)
    return parts["SharedAccessKeyName"], parts["SharedAccessKey"]


def read_device_string(connection_string: str) -> str:
    """Check a device connection string and return its device id.

    Raises:
        InvalidConnectionString: A part is missing or malformed, or it is a service's string.
    """
    connection_string = Secret(connection_string)
    return _read(connection_string, "DeviceId", _DEVICE_EXAMPLE)["DeviceId"]


def read_device_host(connection_string: str) -> str:
    """Return the host name in a device connection string; raises as `read_device_string`."""
    connection_string = Secret(connection_string)
    return _read(connection_string, "DeviceId", _DEVICE_EXAMPLE)["HostName"]


def read_device_key(device: Any) -> str:
    """Return the primary key of a device identity; it is shown masked when it is printed.

    Raises:
        InvalidConnectionString: The identity authenticates by certificate and has no key.
    """
    keys = device.authentication.symmetric_key if device.authentication else None
    if keys is None or not keys.primary_key:
        raise InvalidConnectionString(
            "SharedAccessKey",
            f"The device {device.device_id} has no symmetric key (it authenticates by "
            "certificate). Choose another device id.",
        )
    return Secret(keys.primary_key)


def _read(connection_string: str, name_part: str, example: str) -> dict[str, str]:
    parts = _parts(connection_string)
    for part in ("HostName", name_part, "SharedAccessKey"):
        if not parts.get(part):
            raise InvalidConnectionString(part, _missing(part, parts, example))
    if not _HOST.fullmatch(parts["HostName"]):
        raise InvalidConnectionString(
            "HostName", f"The connection string's HostName is no host name. Expected: {example}"
        )
    if not _is_base64(parts["SharedAccessKey"]):
        raise InvalidConnectionString(
            "SharedAccessKey",
            "The connection string's SharedAccessKey is not base64; part of it may be missing. "
            "Copy the whole string again.",
        )
    return parts


def _parts(connection_string: str) -> dict[str, str]:
    """Return the parts that are read here; what may be a key is shown masked."""
    pairs = [part.partition("=") for part in connection_string.split(";")]
    given = {name.strip(): value.strip() for name, _, value in pairs}
    return {
        name: given[name] if plain.fullmatch(given[name]) else Secret(given[name])
        for name, plain in _PARTS.items()
        if name in given
    }


def _is_base64(key: str) -> bool:
    try:
        base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


def _missing(part: str, parts: dict[str, str], example: str) -> str:
    if part == "SharedAccessKeyName" and "DeviceId" in parts:
        return (
            "This is the connection string of a device. The service needs that of a shared access "
            f"policy: {example}"
        )
    if part == "DeviceId" and "SharedAccessKeyName" in parts:
        return "This is the connection string of a service. A device needs its own: " + example
    return f"The connection string has no {part}. Expected: {example}"
