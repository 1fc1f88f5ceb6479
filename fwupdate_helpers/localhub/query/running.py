"""Runs queries on the hub's database, a page at a time and with bounds on time and memory."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from fwupdate_helpers.localhub.errors import ARGUMENT_INVALID, HubError
from fwupdate_helpers.localhub.jsontext import dumps
from fwupdate_helpers.localhub.query import continuation as tokens
from fwupdate_helpers.localhub.query.conditions import MODULO, Parameters, Translator
from fwupdate_helpers.localhub.query.continuation import Position
from fwupdate_helpers.localhub.query.device_jobs import DEVICE_JOBS
from fwupdate_helpers.localhub.query.devices import DEVICES
from fwupdate_helpers.localhub.query.errors import QuerySyntaxError
from fwupdate_helpers.localhub.query.statements import Statement, statement
from fwupdate_helpers.localhub.query.syntax import parse, parse_condition
from fwupdate_helpers.localhub.query.twin_fields import ETAG_FUNCTION
from fwupdate_helpers.localhub.twins import Twin

Json = dict[str, Any]

MAX_PAGE: Final = 1000
DEFAULT_PAGE: Final = 100
MAX_PAGE_CHARACTERS: Final = 4 * 1024 * 1024
"""A page with more ends early, after one item at least."""
MAX_SECONDS: Final = 5.0
"""How long a query may keep the hub from all other work."""
_STEPS: Final = 1000
"""How many of SQLite's steps pass between two looks at the clock."""

_COLLECTIONS: Final = {"devices": DEVICES, "devices.jobs": DEVICE_JOBS}


class Reads(Protocol):
    """What queries need of the hub's database."""

    @property
    def connection(self) -> sqlite3.Connection: ...


@dataclass(frozen=True)
class Page:
    """One page of the answer to a query.

    Attributes:
        items: Twins, jobs of devices, or objects with the columns of the query.
        item_type: ``twin``, ``deviceJob`` or ``raw``.
        continuation: The token that asks for the next page; None on the last.
    """

    items: list[Json]
    item_type: str
    continuation: str | None


def run(
    database: Reads,
    text: str,
    *,
    page_size: int = DEFAULT_PAGE,
    continuation: str | None = None,
    seconds: float = MAX_SECONDS,
) -> Page:
    """Answer a query with one page.

    Example::

        page = run(database, "SELECT deviceId FROM devices WHERE tags.site = 'A'", page_size=10)

    Args:
        page_size: How many items a page has at most, 1 to 1000; a page may have fewer.
        continuation: The token of the page before; None asks for the first page.
        seconds: How long it may take.

    Raises:
        QuerySyntaxError: 400004, the query cannot be understood; the message tells where.
        HubError: 400004, a token of another query, or too much work; 501000, what is not offered.
    """
    query = parse(text)
    position = tokens.read(continuation, text)
    left = math.inf if query.top is None else max(query.top - position.given, 0)
    wanted = int(min(page_size, left))
    # One more than wanted tells whether there is another page.
    translated = statement(
        query,
        _COLLECTIONS[query.collection],
        position=position,
        limit=int(min(page_size + 1, left)),
    )
    items, after, is_last = _fetch(database.connection, translated, wanted, seconds)
    reached = Position(position.given + len(items), after)
    return Page(items, translated.item_type, None if is_last else tokens.write(reached, text))


def device_ids(database: Reads, condition: str) -> list[str]:
    """Return the ids, sorted, of the devices that fulfil a condition.

    Example::

        device_ids(database, "tags.site = 'A' AND properties.reported.battery > 20")

    Args:
        condition: What may stand behind WHERE, without that word; ``*`` for all devices.

    Raises:
        QuerySyntaxError: 400004, the condition cannot be understood; the message tells where.
        HubError: 400004, it takes too much work.
    """
    parameters = Parameters()
    where = _where(condition, parameters)
    sql = f"SELECT device_id FROM devices WHERE {where} ORDER BY device_id"  # noqa: S608
    with _bounded(database.connection, MAX_SECONDS):
        rows = database.connection.execute(sql, parameters.values)
        return [str(row[0]) for row in rows]


def check_condition(condition: str) -> None:
    """Check that a condition can be understood.

    Example::

        check_condition("tags.site = 'A'")

    Raises:
        QuerySyntaxError: 400004, it cannot; the message tells where and why.
    """
    _where(condition, Parameters())


def _where(condition: str, parameters: Parameters) -> str:
    tree = parse_condition(condition)
    if tree is None:
        return "1"
    return Translator(DEVICES.locate, parameters.bind).condition(tree)


def _fetch(
    connection: sqlite3.Connection, translated: Statement, wanted: int, seconds: float
) -> tuple[list[Json], tuple[str, ...], bool]:
    """Return the items of a page, the key of the last, and whether no more follow."""
    items: list[Json] = []
    after: tuple[str, ...] = ()
    room = MAX_PAGE_CHARACTERS
    with _bounded(connection, seconds):
        for row in connection.execute(translated.sql, translated.parameters):
            if len(items) == wanted or room <= 0:
                return items, after, False
            items.append(translated.item(row))
            after = translated.key(row)
            room -= len(dumps(items[-1]))
    return items, after, True


@contextmanager
def _bounded(connection: sqlite3.Connection, seconds: float) -> Iterator[None]:
    """Stop a query of the block that takes too long, and give it the functions it may call."""
    connection.create_function(MODULO, 2, _modulo, deterministic=True)
    connection.create_function(ETAG_FUNCTION, 1, _etag, deterministic=True)
    deadline = time.monotonic() + seconds
    connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
    try:
        yield
    except sqlite3.OperationalError as error:
        raise _too_much(error, seconds) from error
    finally:
        connection.set_progress_handler(None, 0)


def _too_much(error: sqlite3.OperationalError, seconds: float) -> Exception:
    reason = str(error)
    if reason == "interrupted":
        return HubError(
            ARGUMENT_INVALID,
            f"The query takes more than {seconds:g} s and was stopped. Ask for less at once: "
            "fewer properties, or a condition on tags.",
        )
    if "too large" in reason or "overflow" in reason or "too many" in reason:
        return QuerySyntaxError("it is too complicated; split it into several.")
    return error


def _modulo(dividend: float | None, divisor: float | None) -> float | None:
    if dividend is None or not divisor or math.isinf(dividend):
        return None
    return math.fmod(dividend, divisor)


def _etag(version: int) -> str:
    return Twin(version=version).etag
