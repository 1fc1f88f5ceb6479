"""SQL for values whose kind is known only when a device is looked at.

SQLite would compare a number with a text, and tells true from 1 by the kind alone. So every value
goes with SQL for its kind, and is compared as one kind at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

NUMBER: Final = "number"
STRING: Final = "string"
BOOLEAN: Final = "boolean"
NULL: Final = "null"
OBJECT: Final = "object"
ARRAY: Final = "array"

Bind = Callable[[Any], str]
"""Adds a parameter to a statement and returns its placeholder."""

_JSON_TYPES: Final = {
    NUMBER: "IN ('integer', 'real')",
    STRING: "= 'text'",
    BOOLEAN: "IN ('true', 'false')",
    NULL: "= 'null'",
    OBJECT: "= 'object'",
    ARRAY: "= 'array'",
}
_KIND_OF_TYPE: Final = (
    "WHEN 'integer' THEN 'number' WHEN 'real' THEN 'number' WHEN 'text' THEN 'string' "
    "WHEN 'true' THEN 'boolean' WHEN 'false' THEN 'boolean' "
    "WHEN 'null' THEN 'null' WHEN 'object' THEN 'object' WHEN 'array' THEN 'array'"
)


@dataclass(frozen=True)
class Value:
    """SQL for a value.

    Attributes:
        kinds: The kinds that it may have.
        sql: Yields the value, and NULL when there is none.
        json_type: Yields its type as SQLite's ``json_type`` names it, where there are several
            kinds; NULL when there is no value.
    """

    kinds: frozenset[str]
    sql: str
    json_type: str = ""

    def of_kind(self, kind: str) -> str:
        """Return SQL that yields the value when it is of a kind, else NULL."""
        if kind not in self.kinds:
            return "NULL"
        if not self.json_type:
            return self.sql
        return f"CASE WHEN {self.json_type} {_JSON_TYPES[kind]} THEN {self.sql} END"

    @property
    def is_null(self) -> str:
        """SQL that tells whether the value is the constant ``null``; 1, or else 0 or NULL."""
        if NULL not in self.kinds:
            return "0"
        return f"{self.json_type} = 'null'" if self.json_type else "1"

    @property
    def is_defined(self) -> str:
        """SQL that tells whether there is a value."""
        return f"{self.json_type or self.sql} IS NOT NULL"

    @property
    def kind(self) -> str:
        """SQL that yields the kind, NULL when there is no value."""
        if self.json_type:
            return f"CASE {self.json_type} {_KIND_OF_TYPE} END"
        # Where there are not several kinds, there is one or none.
        return "".join(f"CASE WHEN {self.sql} IS NOT NULL THEN '{kind}' END" for kind in self.kinds)


def column(sql: str, kind: str) -> Value:
    """Return a column that holds values of one kind; NULL stands for none."""
    return Value(frozenset((kind,)), sql)


NOWHERE: Final = Value(frozenset(), "NULL", "NULL")
"""A value that is never there."""


def in_json(document: str, keys: tuple[str, ...], bind: Bind) -> Value:
    """Return what a JSON document, a column, holds under some keys."""
    every = frozenset(_JSON_TYPES)
    if not any('"' in key or "\\" in key for key in keys):
        place = bind("$" + "".join(f'."{key}"' for key in keys))
        return Value(every, f"json_extract({document}, {place})", f"json_type({document}, {place})")
    # SQLite's paths cannot spell these, in some versions; keys that it hands out are compared.
    return Value(
        every, _in_steps(document, keys, bind, "value"), _in_steps(document, keys, bind, "type")
    )


def _in_steps(document: str, keys: tuple[str, ...], bind: Bind, wanted: str) -> str:
    tables, conditions, inner = [], [], document
    for number, key in enumerate(keys):
        tables.append(f"json_each({inner}) AS e{number}")
        conditions.append(f"e{number}.key = {bind(key)}")
        inner = f"CASE WHEN e{number}.type = 'object' THEN e{number}.value END"
    last = f"e{len(keys) - 1}.{wanted}"
    return f"(SELECT {last} FROM {', '.join(tables)} WHERE {' AND '.join(conditions)})"  # noqa: S608
