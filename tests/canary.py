"""Secrets that are looked for in everything that a program tells: its canaries."""

from __future__ import annotations

import base64
import pickle
import re
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

TESTS = str(Path(__file__).parent)
_SIGNATURE = re.compile(
    r"(?:sig(?:=|%3D)|SharedAccessSignature sr)(?!\*)[^\s'\"]{12,}", re.IGNORECASE
)
"""Of any token: they are made anew for each request, so no list of them can be complete."""


def forms_of(secret: str) -> set[str]:
    """Return how a secret may look: as it is, as bytes, in an address, and in base64.

    The first and the last letters of a base64 text depend on what stands beside it, so that part
    is looked for which does not.
    """
    once = quote(secret, safe="")
    forms = {secret, once, quote(once, safe=""), secret.replace("+", " ")}
    for shift in range(3):
        coded = base64.b64encode(b"x" * shift + secret.encode()).decode()
        forms.add(coded[4:-4])
    return forms


def found_in(text: str, secrets: Iterable[str]) -> list[str]:
    """Return which secrets, in any form, and which signatures a text holds."""
    held = [form for secret in secrets for form in forms_of(secret) if form in text]
    return held + [found[0] for found in _SIGNATURE.finditer(text)]


def told_by(error: BaseException) -> str:
    """Return all that an error can tell: its texts and attributes, those of its causes, tracebacks
    with the values of all variables (but those of the tests), and its pickled form."""
    parts = [repr(pickle.dumps(str(error)))]
    for link in chain_of(error):
        parts += [str(link), repr(link), repr(link.args), repr(vars(link))]
        parts += frames_of(link)
    return "\n".join(parts)


def frames_of(error: BaseException) -> Iterator[str]:
    """Yield the values of all variables in the traceback of an error, without those of tests."""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if not frame.f_code.co_filename.startswith(TESTS):
            values = {name: _shown(value) for name, value in frame.f_locals.items()}
            yield f"{frame.f_code.co_filename}:{line} {values}"


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:  # of an object that is half made
        return f"no repr: {error!r}"


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
