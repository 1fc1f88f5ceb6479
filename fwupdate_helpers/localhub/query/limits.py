"""What bounds a query: its length, how it nests and how much work it makes for a device.

With these limits the SQL of every query stays inside SQLite's own limits (a stack of 100 symbols in
its parser, a depth of 1,000 in its trees).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fwupdate_helpers.localhub.query.errors import QuerySyntaxError
from fwupdate_helpers.localhub.query.nodes import (
    Chain,
    Comparison,
    Expression,
    IsDefined,
    Joined,
    Membership,
    Minus,
    Not,
    Path,
    Query,
    StartsWith,
)

MAX_LENGTH: Final = 8192
"""Characters of a query. Source: iot-hub-devguide-query-language.md."""
MAX_NESTING: Final = 10
"""Operators inside one another; AND, OR and sums count once, however long they are."""
MAX_ARITHMETIC: Final = 100
MAX_PATHS: Final = 500
MAX_NAMES: Final = 24
"""Names in a path: twins nest 10 levels, arrays and metadata included."""


def check_length(text: str) -> None:
    """Refuse a text that is too long, or that no JSON in UTF-8 can hold."""
    if len(text) > MAX_LENGTH:
        raise QuerySyntaxError(f"it has {len(text):,} characters; {MAX_LENGTH:,} are allowed.")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise QuerySyntaxError("it holds half a surrogate pair.")


def check_limits(root: Query | Expression) -> None:
    """Refuse a query that nests too deep or asks for too much of each device."""
    paths = arithmetic = 0
    for node, depth in _walk(root):
        place = node.place if isinstance(node, Path) else None
        if depth > MAX_NESTING:
            raise QuerySyntaxError(f"it nests deeper than {MAX_NESTING} levels.", place)
        paths += isinstance(node, Path)
        arithmetic += len(node.rest) if isinstance(node, Chain) else isinstance(node, Minus)
        if isinstance(node, Path) and len(node.names) > MAX_NAMES:
            raise QuerySyntaxError(f"the path has more than {MAX_NAMES} names.", place)
    if paths > MAX_PATHS:
        raise QuerySyntaxError(f"it names {paths} properties; {MAX_PATHS} are allowed.")
    if arithmetic > MAX_ARITHMETIC:
        raise QuerySyntaxError(f"it calculates {arithmetic} times; {MAX_ARITHMETIC} are allowed.")


def _walk(root: Query | Expression) -> Iterator[tuple[Expression, int]]:
    # With a stack of its own: a text may nest deeper than Python's.
    left: list[tuple[Expression, int]] = (
        [(node, 0) for node in _roots(root)] if isinstance(root, Query) else [(root, 0)]
    )
    while left:
        node, depth = left.pop()
        yield node, depth
        left.extend((child, depth + 1) for child in _children(node))


def _roots(query: Query) -> Iterator[Expression]:
    sources = [column.source for column in query.columns or ()]
    for source in (*sources, *query.groups):
        path = source if isinstance(source, Path) else source.path
        if path is not None:
            yield path
    if query.condition is not None:
        yield query.condition


def _children(node: Expression) -> tuple[Expression, ...]:
    if isinstance(node, (Minus, Not, Membership)):
        return (node.operand,)
    if isinstance(node, Chain):
        return (node.first, *(operand for _, operand in node.rest))
    if isinstance(node, Comparison):
        return (node.left, node.right)
    if isinstance(node, Joined):
        return node.terms
    if isinstance(node, StartsWith):
        return (node.text, node.prefix)
    return (node.path,) if isinstance(node, IsDefined) else ()
