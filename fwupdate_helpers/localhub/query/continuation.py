"""Continuation tokens: where the next page of a query begins."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from fwupdate_helpers.localhub.errors import ARGUMENT_INVALID, HubError
from fwupdate_helpers.localhub.jsontext import dumps

_MAX_TOKEN = 4096


@dataclass(frozen=True)
class Position:
    """How far the pages of a query have come.

    Attributes:
        given: How many rows the pages before have had.
        after: The key of the last one; empty at the beginning, and where rows have no key.
    """

    given: int = 0
    after: tuple[str, ...] = ()


def write(position: Position, text: str) -> str:
    """Return a token for the pages behind a position, for a query with this text alone."""
    content = dumps([_mark(text), position.given, *position.after])
    return base64.urlsafe_b64encode(content.encode()).decode()


def read(token: str | None, text: str) -> Position:
    """Return the position of a token; without one, the beginning.

    Raises:
        HubError: 400004, the token is none of this hub, or belongs to another query.
    """
    if not token:
        return Position()
    content = _content(token)
    if content is None:
        raise HubError(
            ARGUMENT_INVALID,
            "The continuation token is none that this hub has given. Ask without one for the "
            "first page.",
        )
    mark, given, *after = content
    if mark != _mark(text):
        raise HubError(
            ARGUMENT_INVALID,
            "The continuation token belongs to a query with another text. Repeat the query that "
            "it came with, or ask without a token.",
        )
    return Position(given, tuple(after))


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _content(token: str) -> list[Any] | None:
    if len(token) > _MAX_TOKEN:
        return None
    try:
        content = json.loads(base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, list) or len(content) < 2 or type(content[1]) is not int:
        return None
    texts = [content[0], *content[2:]]
    is_ours = all(isinstance(one, str) for one in texts) and 0 <= content[1] < 2**53
    return content if is_ours else None
