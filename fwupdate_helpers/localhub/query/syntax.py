"""Reads the text of a query or of a condition into its tree.

The parser is a table-driven one (LALR): neither its time nor its stack grows with how a text nests.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, cast

from fwupdate_helpers.localhub.query.limits import check_length, check_limits
from fwupdate_helpers.localhub.query.mistakes import unexpected
from fwupdate_helpers.localhub.query.nodes import Expression, Query

if TYPE_CHECKING:
    from lark import Lark

_QUERY: Final = "query"
_CONDITION: Final = "condition"


def parse(text: str) -> Query:
    """Read a query.

    Example::

        parse("SELECT deviceId FROM devices WHERE tags.site = 'A'").condition

    Raises:
        QuerySyntaxError: 400004, the text is none, is too long or nests too deep.
        HubError: 501000, it asks for what the local hub does not offer.
    """
    query = cast(Query, _read(text, _QUERY))
    check_limits(query)
    return query


def parse_condition(text: str) -> Expression | None:
    """Read what may stand behind WHERE; ``*`` gives None, which all devices fulfil.

    Raises:
        QuerySyntaxError: 400004, the text is none, is too long or nests too deep.
    """
    check_length(text)
    if text.strip() == "*":
        return None
    condition = cast(Expression, _read(text, _CONDITION))
    check_limits(condition)
    return condition


@cache
def _parser() -> Lark:
    # Only who asks a query pays for the tables: 50 ms.
    from lark import Lark

    from fwupdate_helpers.localhub.query.building import Builder

    grammar = files(__package__).joinpath("grammar.lark").read_text(encoding="utf-8")
    return Lark(
        grammar,
        parser="lalr",
        lexer="basic",
        start=[_QUERY, _CONDITION],
        transformer=Builder(),
        maybe_placeholders=True,
    )


def _read(text: str, start: str) -> Any:
    from lark.exceptions import UnexpectedCharacters, UnexpectedToken

    check_length(text)
    try:
        return _parser().parse(text, start=start)
    except UnexpectedCharacters as error:
        at = cast(int, error.pos_in_stream)
        raise unexpected(text, at, at + 1, "", expected=_allowed_at(text[:at], start)) from error
    except UnexpectedToken as error:
        token = error.token
        if token.type == "$END":
            at = len(text.rstrip())
            raise unexpected(text, at, at, "$END", expected=error.accepts) from error
        raise unexpected(
            text, token.start_pos, token.end_pos, token.type, expected=error.accepts
        ) from error


def _allowed_at(before: str, start: str) -> set[str]:
    """Return the terminals that may follow the beginning of a text."""
    from lark.exceptions import UnexpectedToken

    parser = _parser().parse_interactive(before, start=start)
    try:
        parser.exhaust_lexer()
    except UnexpectedToken as error:
        # The text is wrong already before the character that begins no token.
        token = error.token
        raise unexpected(
            before, token.start_pos, token.end_pos, token.type, expected=error.accepts
        ) from error
    return set(parser.accepts())  # type: ignore[no-untyped-call]
