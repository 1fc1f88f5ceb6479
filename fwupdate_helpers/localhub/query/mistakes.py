"""What is wrong with a text that does not parse, in words: what was found, expected, meant."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from fwupdate_helpers.localhub.query.errors import QuerySyntaxError
from fwupdate_helpers.localhub.query.nodes import Place

_SHOWN: Final = 40
_OPERATORS: Final = frozenset(("COMPARE", "IN", "NIN", "PLUS", "MINUS", "STAR", "SLASH", "PERCENT"))
_WORDS: Final[tuple[tuple[frozenset[str], str], ...]] = (
    (frozenset(("STRING", "NUMBER", "TRUE")), "a constant"),
    (frozenset(("STRING",)), "a text in quotes"),
    (frozenset(("NUMBER",)), "a number"),
    (frozenset(("NAME", "DOT")), "a path"),
    (frozenset(("NAME",)), "a name such as tags.site"),
    (frozenset(("AGGREGATE",)), "an aggregate such as COUNT()"),
    (frozenset(("STAR",)), "'*'"),
    (frozenset(("COMPARE",)), "a comparison such as ="),
    (frozenset(("SELECT",)), "SELECT"),
    (frozenset(("TOP",)), "TOP"),
    (frozenset(("AS",)), "AS"),
    (frozenset(("FROM",)), "FROM"),
    (frozenset(("WHERE",)), "WHERE"),
    (frozenset(("AND",)), "AND"),
    (frozenset(("OR",)), "OR"),
    (frozenset(("GROUP",)), "GROUP BY"),
    (frozenset(("BY",)), "BY"),
    (frozenset(("LPAR",)), "'('"),
    (frozenset(("RPAR",)), "')'"),
    (frozenset(("LSQB",)), "a list in square brackets"),
    (frozenset(("RSQB",)), "']'"),
    (frozenset(("COMMA",)), "','"),
    (frozenset(("$END",)), "the end of the query"),
)
_NOT_IN_IOT_HUB: Final = {
    "ORDER": "IoT Hub has no ORDER BY: sort the rows when they are there.",
    "JOIN": "IoT Hub has no JOIN: a query reads devices or devices.jobs.",
    "HAVING": "IoT Hub has no HAVING: filter the groups when they are there.",
    "LIMIT": "IoT Hub has no LIMIT: write SELECT TOP n.",
    "OFFSET": "IoT Hub has no OFFSET: it hands out pages, with a continuation token.",
    "DISTINCT": "IoT Hub has no DISTINCT: use GROUP BY.",
    "LIKE": "IoT Hub has no LIKE: use STARTSWITH(path, 'prefix').",
    "BETWEEN": "IoT Hub has no BETWEEN: write >= … AND <= ….",
    "IS": "IoT Hub has no IS: use IS_DEFINED(path) or NOT IS_DEFINED(path).",
    "UNION": "IoT Hub has no UNION: ask twice.",
}
_FUNCTIONS: Final = {
    "STARTS_WITH": "Write STARTSWITH, without the underscore.",
    "CONTAINS": "Queries of twins have STARTSWITH only; CONTAINS is for message routes.",
}
_FUNCTION_HELP: Final = (
    "The functions are IS_DEFINED, STARTSWITH and the aggregates COUNT, AVG, SUM, MIN and MAX."
)
_CHARACTERS: Final = {
    "&": "Write AND.",
    "|": "Write OR.",
    "!": "Write NOT, or != to compare.",
    ";": "A query ends without a semicolon.",
    "`": "Names need no quotes; odd ones are written [[so]].",
    "‘": "Texts take straight quotes: 'so'.",
    "’": "Texts take straight quotes: 'so'.",
    "“": 'Texts take straight quotes: "so".',
    "”": 'Texts take straight quotes: "so".',
    "{": "IoT Hub's queries have no objects.",
}
_KEYWORD: Final = re.compile(
    r"SELECT|TOP|FROM|WHERE|GROUP|BY|AS|AND|OR|NOT|IN|NIN|TRUE|FALSE|NULL|UNDEFINED", re.IGNORECASE
)
_NAME: Final = re.compile(r"[\w$]+")
_CALLED: Final = re.compile(
    r"(?<![\w$.])(?!N?IN\b|FROM\b|DEVICES\b|TOP\b)([^\W\d]\w*)\s*$", re.IGNORECASE
)


def unexpected(
    text: str, start: int, end: int, kind: str, *, expected: Iterable[str]
) -> QuerySyntaxError:
    """Return the error for a token that no rule allows.

    Args:
        text: The query.
        start: Where the token begins in the text.
        end: Where it ends; no greater than `start` at the end of the text.
        kind: The name of its terminal in the grammar; empty for a character that begins none.
        expected: The names of the terminals that are allowed here.
    """
    if kind == "LPAR" and (called := _CALLED.search(text[:start])):
        return _no_function(called[1], place_of(text, called.start(1)))
    found = text[start:end]
    hint = _hint(text[:start], found, kind, text[end:]) or ""
    shown = f"'{found[:_SHOWN]}'" if found else "the end"
    problem = f"found {shown}, expected {_describe(set(expected))}. {hint}"
    return QuerySyntaxError(problem.rstrip(), place_of(text, start))


def place_of(text: str, position: int) -> Place:
    """Return the line and the column of a position in a text."""
    before = text[:position]
    return Place(before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)


def _no_function(name: str, place: Place) -> QuerySyntaxError:
    instead = _FUNCTIONS.get(name.upper(), _FUNCTION_HELP)
    return QuerySyntaxError(f"IoT Hub has no function '{name[:_SHOWN]}'. {instead}", place)


def _hint(before: str, found: str, kind: str, after: str) -> str | None:
    word = found.upper()
    last = before.rstrip()
    if word == "NOT" and after.lstrip()[:3].upper() == "IN ":
        return "Write NIN for 'not in'."
    if last.endswith(".") and _KEYWORD.fullmatch(found):
        return f"'{found}' is a reserved word: write [[{found}]]."
    if not kind:
        return _hint_of_character(found, after)
    if found == "=" and before.endswith(("=", "!", "<", ">")):
        return "IoT Hub compares with a single '='."
    last_word = _NAME.findall(last[-_SHOWN:])[-1:]
    meant = next((one for one in (word, *last_word) if one.upper() in _NOT_IN_IOT_HUB), "")
    return _hint_of_place(last, found, kind, after) or _NOT_IN_IOT_HUB.get(meant.upper())


def _hint_of_character(found: str, after: str) -> str | None:
    if found in ("'", '"'):
        return f"The text that begins here has no closing {found}."
    if found == "[" and after.startswith("["):
        return "An escaped name is written [[so]]."
    return _CHARACTERS.get(found)


def _hint_of_place(last: str, found: str, kind: str, after: str) -> str | None:
    if kind == "LPAR" and re.search(r"(?i)\bN?IN$", last):
        return "IN and NIN take a list in square brackets: ['a', 'b']."
    if kind == "RPAR" and not last.endswith((",", "(")):
        return "No '(' is open here."
    if re.search(r"(?i)\bCOUNT\s*\($", last):
        return "COUNT takes nothing between its parentheses."
    if kind == "STRING" and re.search(r"""['"]$""", last):
        return r"A quote inside a text is written \' or " + r"\"."
    if kind == "MINUS" and _NAME.search(last[-1:]):
        return "A name with a '-' is written in brackets: [[my-name]]."
    if kind == "NUMBER" and last.endswith("."):
        name = (found + re.match(r"[\w$-]*", after)[0])[:_SHOWN]  # type: ignore[index]
        return f"A name that begins with a digit is written in brackets: [[{name}]]."
    if kind == "AGGREGATE":
        return f"{found.upper()} is for the columns, not for a condition."
    is_alias = kind == "NAME" and re.search(r"(?i)\bFROM\s+[\w.]+$", last)
    if is_alias and found.upper() not in _NOT_IN_IOT_HUB:
        return "A collection takes no other name here."
    return None


def _describe(expected: set[str]) -> str:
    if "FROM" in expected and "COMMA" in expected:
        expected = expected - {"DOT"}
    words: list[str] = []
    left = expected | ({"NAME"} if "ESCAPED" in expected else set())
    if {"STRING", "NAME"} <= left:
        value = "a path such as tags.site, a constant"
        return f"a condition: {value}, NOT or '('" if "NOT" in left else f"a value: {value} or '('"
    if {"COMPARE", "PLUS"} <= left:
        words.append("an operator such as =")
        left -= _OPERATORS
    elif "PLUS" in left:
        left -= _OPERATORS
    for terminals, word in _WORDS:
        if terminals <= left:
            words.append(word)
            left -= terminals
    if "DOT" in left and not words:
        words.append("'.'")
    if len(words) < 2:
        return "".join(words) or "something else"
    return f"{', '.join(words[:-1])} or {words[-1]}"
