"""What may be kept of a message: secrets are taken out before it enters the wire trace or a log.

What is kept of a body is chosen, not what is left out: of a device identity the fields that are
known, of other JSON all but the values of names that tell of a secret and the texts that look like
one, and of what is no JSON its size. Whoever writes a device twin may put a key anywhere.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from itertools import takewhile
from typing import Any, Final
from urllib.parse import quote, unquote

MAX_BODY: Final = 2048
"""Characters that are kept of a body."""
MAX_PARSED: Final = 16 * 1024
"""Bytes of a body that is looked into at all."""
_DEEPEST: Final = 100
"""Levels of a body that are looked into; a twin has at most ten."""
_MAX_TEXT: Final = 1024
"""A longer text in a body is only counted: masked piece by piece it could show half a key."""
MAX_ADDRESS: Final = 400
"""Characters that are kept of a path or a topic."""
HIDDEN: Final = "***"

IDENTITY_FIELDS: Final = frozenset(
    (
        *("deviceId", "generationId", "etag", "status", "statusReason", "statusUpdatedTime"),
        *("connectionState", "connectionStateUpdatedTime", "lastActivityTime"),
        *("cloudToDeviceMessageCount", "capabilities", "iotEdge", "authentication", "type"),
        *("Message", "ExceptionMessage"),  # of an error
    )
)
"""What is kept of a device identity."""

_SECRET_NAME: Final = re.compile(
    r"key|token|secret|passw|passcode|passphrase|pwd|signature|thumbprint|credential"
    r"|connection_?string|authoriz|certificate|\bsas|sas\b|sig\b|x509",
    re.IGNORECASE,
)
_SHORT_NAMES: Final = frozenset(("auth", "otp", "pass", "pin", "psk", "pw"))
"""Secrets where they are a word of their own in a name: not in pinned, passed or author."""
_SHORT_NAME: Final = re.compile("|".join(_SHORT_NAMES), re.IGNORECASE)
_WORD_OF_A_NAME: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_EQUALS: Final = r"(?:=|%(?:25)*3D)"
_SECRET_TEXT: Final = re.compile(
    rf"((?:key|sig|skn|token|secret|password|pwd|signature){_EQUALS}"
    r"|(?:SharedAccessSignature|Bearer)(?:\s|%(?:25)*20)"
    rf"|(?<![A-Za-z])(?:{'|'.join(sorted(_SHORT_NAMES))}){_EQUALS}"
    rf"|(?:[?&]|%(?:25)*(?:3F|26))code{_EQUALS}"  # a key of Azure Functions, or of a sign-in
    r"|(?:password|passwd|passcode|passphrase|pwd|secret|token|api.?key|(?<![A-Za-z])"
    rf"(?:{'|'.join(sorted(_SHORT_NAMES))}))['\"]?\s*:\s*['\"]?"
    r")[^\s;&'\"]+"
    r"|((?:/|%(?:25)*2F)(?:firmware|images)(?:/|%(?:25)*2F))[^/\s'\"?]+"  # its token
    r"|(://)[^\s/@'\"]{1,512}(?=@)"  # a user's name and password
    # A key of 16 to 64 bytes, or a signature: base64, also as it stands in an address.
    r"|()(?<![A-Za-z0-9+/])(?:[A-Za-z0-9+/]|%(?:25)*2[BF]){20,100}"
    rf"{_EQUALS}{{1,2}}(?![A-Za-z0-9=])",
    re.IGNORECASE,
)
_BASIC: Final = re.compile(
    r"(\bBasic(?:\s|%(?:25)*20)+)((?:[A-Za-z0-9+/_-]|%(?:25)*2[BF])+)(?:=|%(?:25)*3D)*",
    re.IGNORECASE,
)
_WORD: Final = re.compile(r"[A-Za-z0-9+/_%-]{20,}")
_LIKE_A_SECRET: Final = re.compile(r"(?=.*[A-Z].*[A-Z])(?=.*[a-z])(?=.*(?:[0-9]|[A-Z]{2}))")
_MAX_ID: Final = 128
_PART_OF_AN_ADDRESS: Final = re.compile(
    r"devices|twins|methods|query|firmware|jobs|v2|configurations|modules|[$]iothub|twin|GET|POST"
    r"|PATCH|res|properties|reported|desired|messages|events|devicebound|#|-?[0-9]{0,10}"
)
_SIGNS: Final = (_SECRET_NAME, _SHORT_NAME, _SECRET_TEXT, _BASIC)
_SHOWN_IN_A_QUERY: Final = ("$rid", "$version", "top")


def mask_text(text: str) -> str:
    """Replace what has the shape of a key, a signature, a password or an image's address."""
    return _BASIC.sub(_without_basic, _SECRET_TEXT.sub(_without_secret, text))


def _without_basic(found: re.Match[str]) -> str:
    """Mask a user's name and password as HTTP sends them, and no word that follows "basic"."""
    text = unquote(unquote(found[2])).translate(str.maketrans("-_", "+/"))
    try:
        pair = b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        return found[0]
    return found[1] + HIDDEN if b":" in pair else found[0]


def _is_secret_name(name: str) -> bool:
    """Tell whether a name tells of a secret.

    >>> [_is_secret_name(name) for name in ("primaryKey", "wifiPsk", "PIN", "pinned", "author")]
    [True, True, True, False, False]
    """
    if _SECRET_NAME.search(name):
        return True
    words = _WORD_OF_A_NAME.findall(name) if _SHORT_NAME.search(name) else ()
    return any(word.lower() in _SHORT_NAMES for word in words)


def _without_secret(found: re.Match[str]) -> str:
    return next((start for start in found.groups() if start), "") + HIDDEN


def mask_words(text: str, *, keep: str = "") -> str:
    """Replace, besides, each long word that is mixed as a token is: capitals, letters, digits.

    Args:
        keep: A text whose words stay: a device may be called what it wants.
    """
    return _WORD.sub(lambda word: _word(word[0], keep), mask_text(text))


def _word(word: str, keep: str) -> str:
    return HIDDEN if _LIKE_A_SECRET.match(word) and word not in keep else word


def mask_id(device_id: str) -> str:
    """Return a device's id, which anybody may make up before it is checked."""
    return mask_text(device_id) if len(device_id) <= _MAX_ID else HIDDEN


def mask_address(address: str, *, device_id: str = "") -> str:
    """Return a path or a topic with those of its parts that are known to tell nothing secret.

    Args:
        address: The path of a request, percent-encoded, or the topic of a packet.
        device_id: The device that it may name.
    """
    # IoT Hub's topics end in a slash before their query, and a device id may hold a ?.
    path, mark, query = address.partition("?" if address.startswith("/") else "/?")
    parts = path.split("/")
    own = (device_id, quote(device_id, safe=""))
    shown = "/".join(_mask_part(parts, place, own) for place in range(len(parts)))
    pairs = (pair for pair in query.split("&") if pair.partition("=")[0] in _SHOWN_IN_A_QUERY)
    kept = mask_words("&".join(pairs))
    end = mark if kept else mark.rstrip("?")
    return f"{shown}{end}{kept}"[:MAX_ADDRESS]


def _mask_part(parts: list[str], place: int, own: tuple[str, str]) -> str:
    part = parts[place]
    if _PART_OF_AN_ADDRESS.fullmatch(part):
        return part
    if part in own:
        return mask_id(part)
    is_method = parts[place - 1] == "POST"
    is_image = place == 3 and parts[1] == "firmware"
    return mask_words(part) if is_method or is_image else HIDDEN


def mask_body(body: bytes, *, fields: frozenset[str] | None = None, keep: str = "") -> str:
    """Return a body as text without secrets, cut where it is long; empty when there is none.

    Args:
        body: As it was on the wire.
        fields: The only names whose values are kept; None keeps all that tell of no secret.
        keep: A text whose words stay, such as the device's id.
    """
    if not body.strip():
        return ""
    if len(body) > MAX_PARSED:
        return f"({len(body)} bytes, too many to look into)"
    try:
        text = body.decode()
        content = json.loads(text)
        if fields is None and len(text) <= MAX_BODY and not _is_suspicious(text):
            return text
        masking = _Masking(fields, keep)
        shown = _dumps(masking.of(content))
    except RecursionError:
        return f"({len(body)} bytes, nested too deep to look into)"
    except ValueError:
        return f"({len(body)} bytes that are no JSON)"
    if masking.room > 0 and len(shown) <= MAX_BODY:
        return shown
    return f"{shown[:MAX_BODY]}… ({len(text)} characters)"


def _is_suspicious(text: str) -> bool:
    if "\\" in text or any(sign.search(text) for sign in _SIGNS):
        return True  # behind a backslash a name may hide: \u004b is a K
    return any(_LIKE_A_SECRET.match(word) for word in _WORD.findall(text))


def _dumps(content: Any) -> str:
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    return text.encode(errors="replace").decode()  # half a surrogate pair is no UTF-8


class _Masking:
    """A walk through the content of a body, no further than what is kept of it.

    Attributes:
        room: How many characters may still come.
    """

    def __init__(self, fields: frozenset[str] | None, keep: str) -> None:
        self.room = MAX_BODY
        self._fields = fields
        self._keep = keep

    def of(self, content: Any, depth: int = 0) -> Any:
        if depth > _DEEPEST:  # how deep Python itself would go depends on its version and its stack
            raise RecursionError
        if isinstance(content, dict):
            pairs = takewhile(lambda _: self.room > 0, content.items())
            return {self._text(name, depth): self._value(name, v, depth) for name, v in pairs}
        if isinstance(content, list):
            return [self.of(one, depth + 1) for one in takewhile(lambda _: self.room > 0, content)]
        if isinstance(content, str):
            return self._text(content, depth)
        self.room -= 1
        return content

    def _value(self, name: str, value: Any, depth: int) -> Any:
        named = _is_secret_name(name) if self._fields is None else name not in self._fields
        return HIDDEN if named and value else self.of(value, depth + 1)

    def _text(self, text: str, depth: int) -> str:
        if len(text) > _MAX_TEXT:
            return f"({len(text)} characters)"
        self.room -= len(text)
        if text.lstrip()[:1] in ("{", "["):  # JSON in a text, as in an error of a direct method
            try:
                return _dumps(self.of(json.loads(text), depth + 1))
            except ValueError:
                pass
        return mask_words(text, keep=self._keep)
