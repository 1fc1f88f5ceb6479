"""Shared access signatures: how IoT Hub's clients prove that they hold a key.

A token is ``SharedAccessSignature sr={resource}&sig={signature}&se={expiry}[&skn={policy}]``, its
fields in any order. The signature is the HMAC-SHA256, under the base64-decoded key, of the
URL-encoded resource exactly as sent, a line feed and the expiry in Unix seconds.
Source: Microsoft's "Control access to IoT Hub with shared access signatures"
(authenticate-authorize-sas.md).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

_PREFIX = "SharedAccessSignature "


class SasError(Exception):
    """A token that cannot be accepted; the message never holds the token."""


@dataclass(frozen=True)
class SasToken:
    """A parsed token.

    Attributes:
        resource: What the token is for, decoded, for example ``127.0.0.1/devices/d1``.
        expiry: Unix seconds.
        policy: The name of a shared access policy; None when a device's own key signed.
    """

    resource: str
    expiry: int
    policy: str | None
    signed_text: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> SasToken:
        """Read a token; raise `SasError` when a field is missing, doubled or malformed."""
        if not (text.startswith(_PREFIX) and text.isascii()):
            raise SasError("the token is not ASCII that starts with 'SharedAccessSignature '")
        pairs = [part.partition("=") for part in text[len(_PREFIX) :].split("&")]
        fields = {name.strip(): value.strip() for name, _, value in pairs}
        if len(fields) != len(pairs) or not {"sr", "sig", "se"} <= fields.keys():
            raise SasError("the token needs sr, sig and se, each once")
        expiry = fields["se"]
        if not (expiry.isascii() and expiry.isdigit() and len(expiry) <= 15):
            raise SasError("the token's expiry is not a number of seconds")
        try:
            signature = base64.b64decode(unquote(fields["sig"]), validate=True)
        except (binascii.Error, ValueError) as error:
            raise SasError("the token's signature is not base64") from error
        return cls(
            resource=unquote(fields["sr"]),
            expiry=int(expiry),
            policy=unquote(fields["skn"]) if fields.get("skn") else None,
            signed_text=f"{fields['sr']}\n{expiry}".encode(),
            signature=signature,
        )

    def covers(self, target: str) -> bool:
        """Tell whether the token's resource is `target` or a parent of it by whole segments.

        The host is compared without regard to case, the path exactly.
        """
        mine, theirs = self.resource.rstrip("/").split("/"), target.rstrip("/").split("/")
        same_host = mine[0].lower() == theirs[0].lower()
        return same_host and mine[1:] == theirs[1 : len(mine)]

    def signed_by(self, keys: Iterable[str]) -> bool:
        """Tell, in constant time, whether one of the base64 keys made the signature."""
        matches = [
            hmac.compare_digest(self.signature, _signature(key, self.signed_text)) for key in keys
        ]
        return any(matches)


def _signature(key: str, text: bytes) -> bytes:
    return hmac.new(base64.b64decode(key), text, hashlib.sha256).digest()


def make_token(resource: str, key: str, expiry: int, policy: str | None = None) -> str:
    """Sign a token for `resource` (not encoded yet) that is good until `expiry` (Unix seconds)."""
    encoded = quote(resource, safe="")
    signature = base64.b64encode(_signature(key, f"{encoded}\n{expiry}".encode())).decode()
    token = f"{_PREFIX}sr={encoded}&sig={quote(signature, safe='')}&se={expiry}"
    return f"{token}&skn={quote(policy, safe='')}" if policy else token


def new_key() -> str:
    """Return a fresh random key: 32 bytes, base64, as IoT Hub generates them."""
    return base64.b64encode(secrets.token_bytes(32)).decode()


def is_key(text: object) -> bool:
    """Tell whether `text` is base64 of 16 to 64 bytes, as IoT Hub demands of a given key."""
    if not isinstance(text, str):
        return False
    try:
        return 16 <= len(base64.b64decode(text, validate=True)) <= 64
    except (binascii.Error, ValueError):
        return False
