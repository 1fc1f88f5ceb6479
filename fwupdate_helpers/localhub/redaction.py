"""What may be kept of a message: secrets are taken out before it enters the wire trace or a log.

What is kept of a body is chosen, not what is left out: JSON is kept, without the values of names
that tell of a key or a token; all else is only counted.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

MAX_BODY: Final = 2048
"""Characters that are kept of a body."""
MAX_PARSED: Final = 16 * 1024
"""Bytes of a body that is looked into at all."""
HIDDEN: Final = "***"

_SECRET_NAME: Final = re.compile(
    r"key|token|secret|passw|signature|thumbprint|credential|connection_?string|\bsas|\bsig\b|x509",
    re.IGNORECASE,
)
_SECRET_TEXT: Final = re.compile(
    r"(SharedAccessKey=|sig=|skn=|SharedAccessSignature )[^\s;&'\"]+"
    r"|(/firmware/|/images/)[^/\s'\"?]+"  # an image's address holds a token
    r"|()(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{43}=",  # 32 bytes in base64: a key or a signature
    re.IGNORECASE,
)
_SHOWN_IN_A_QUERY: Final = ("$rid", "$version", "top")


def mask_text(text: str) -> str:
    """Replace what looks like a key, a signature or the token of an image's address."""
    return _SECRET_TEXT.sub(lambda found: (found[1] or found[2] or "") + HIDDEN, text)


def mask_address(address: str) -> str:
    """Return a path or topic with those parts of its query that tell nothing secret."""
    path, mark, query = address.partition("?")
    if not query:
        return mask_text(path)
    parts = (part for part in query.split("&") if part.partition("=")[0] in _SHOWN_IN_A_QUERY)
    kept = "&".join(parts)
    return mask_text(path + (mark + kept if kept else ""))


def mask_body(body: bytes) -> str:
    """Return a body as text without secrets, cut where it is long; empty when there is none."""
    if not body.strip():
        return ""
    if len(body) > MAX_PARSED:
        return f"({len(body)} bytes, too many to look into)"
    try:
        content = json.loads(body.decode())
    except (ValueError, RecursionError):
        return f"({len(body)} bytes that are no JSON)"
    text = body.decode()
    # Behind an escape such as \\u004b a name may hide.
    if "\\" in text or _SECRET_NAME.search(text) or _SECRET_TEXT.search(text):
        text = json.dumps(_masked(content), separators=(",", ":"), ensure_ascii=False)
    return text if len(text) <= MAX_BODY else f"{text[:MAX_BODY]}… ({len(text)} characters)"


def _masked(content: Any) -> Any:
    if isinstance(content, dict):
        return {
            mask_text(name): HIDDEN if value and _SECRET_NAME.search(name) else _masked(value)
            for name, value in content.items()
        }
    if isinstance(content, list):
        return [_masked(one) for one in content]
    return mask_text(content) if isinstance(content, str) else content
