"""Translates a condition to SQL.

Everything of the query's text becomes a parameter, the names in its paths too. Every condition
yields 1 or 0, never NULL: a comparison of different kinds is false, and what is not true is false.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from fwupdate_helpers.localhub.query.nodes import (
    UNDEFINED,
    Chain,
    Comparison,
    Constant,
    Expression,
    IsDefined,
    Joined,
    ListOf,
    Literal,
    Membership,
    Minus,
    Not,
    Path,
    StartsWith,
)
from fwupdate_helpers.localhub.query.values import (
    ARRAY,
    BOOLEAN,
    NOWHERE,
    NULL,
    NUMBER,
    STRING,
    Bind,
    Value,
    column,
)

MODULO: Final = "query_modulo"
_LONGEST_JOIN: Final = 16
"""Terms joined without parentheses: SQLite's trees grow one level with each."""
_PRIMITIVES: Final = (NUMBER, STRING, BOOLEAN)

Locate = Callable[[Path, Bind], Value]
"""Returns SQL for what a path leads to."""


class Parameters:
    """The parameters of a statement; equal ones are bound once."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self._names: dict[tuple[type, Any], str] = {}

    def bind(self, value: Any) -> str:
        """Add a parameter; return its placeholder."""
        name = self._names.setdefault((type(value), value), f"p{len(self._names)}")
        self.values[name] = value
        return f":{name}"


class Translator:
    """Translates conditions over one collection.

    Args:
        locate: Returns SQL for what a path leads to.
        bind: Adds a parameter and returns its placeholder.
    """

    def __init__(self, locate: Locate, bind: Bind) -> None:
        self._locate = locate
        self._bind = bind

    def condition(self, node: Expression) -> str:
        """Return SQL that yields 1 where a condition is true, else 0."""
        if isinstance(node, Joined):
            return _join([self.condition(term) for term in node.terms], node.operator)
        if isinstance(node, Not):
            return f"NOT {self.condition(node.operand)}"
        if isinstance(node, Comparison):
            return self._comparison(node)
        if isinstance(node, Membership):
            return self._membership(node)
        if isinstance(node, IsDefined):
            return f"({self._locate(node.path, self._bind).is_defined})"
        if isinstance(node, StartsWith):
            text, prefix = self.value(node.text), self.value(node.prefix)
            return f"coalesce(instr({text.of_kind(STRING)}, {prefix.of_kind(STRING)}) = 1, 0)"
        return f"coalesce({self.value(node).of_kind(BOOLEAN)}, 0)"

    def value(self, node: Expression) -> Value:
        """Return SQL for the value of an expression."""
        if isinstance(node, Path):
            return self._locate(node, self._bind)
        if isinstance(node, Literal):
            return self._literal(node.value)
        if isinstance(node, ListOf):
            return column("1", ARRAY)
        if isinstance(node, Minus):
            return column(f"-({self._number(node.operand)})", NUMBER)
        if isinstance(node, Chain):
            return column(self._chain(node), NUMBER)
        return column(f"({self.condition(node)})", BOOLEAN)

    def _literal(self, value: Constant) -> Value:
        if value is UNDEFINED:
            return NOWHERE
        if value is None:
            return column("NULL", NULL)
        if isinstance(value, bool):
            return column(str(int(value)), BOOLEAN)
        return column(self._bind(value), STRING if isinstance(value, str) else NUMBER)

    def _number(self, node: Expression) -> str:
        sql = self.value(node).of_kind(NUMBER)
        # JSON has one kind of number: 7 / 2 is 3.5. What has been calculated is REAL already.
        return f"CAST({sql} AS REAL)" if isinstance(node, Path) else sql

    def _chain(self, node: Chain) -> str:
        sql = self._number(node.first)
        is_call = False
        for operator, operand in node.rest:
            number, is_call = self._number(operand), operator == "%"
            sql = f"{MODULO}({sql}, {number})" if is_call else f"{sql} {operator} {number}"
        return sql if is_call else f"({sql})"

    def _comparison(self, node: Comparison) -> str:
        left, right = self.value(node.left), self.value(node.right)
        both = left.kinds & right.kinds
        tests = [
            f"{left.of_kind(kind)} {node.operator} {right.of_kind(kind)}"
            for kind in _PRIMITIVES
            if kind in both
        ]
        if NULL in both and node.operator == "=":
            tests.append(f"({left.is_null}) AND ({right.is_null})")
        return _first_known(tests)

    def _membership(self, node: Membership) -> str:
        value = self.value(node.operand)
        tests = []
        for kind in _PRIMITIVES:
            listed = [one.sql for one in map(self._literal, node.values) if kind in one.kinds]
            if kind in value.kinds and (listed or node.negated):
                tests.append(_among(value.of_kind(kind), listed, negated=node.negated))
        if NULL in value.kinds and (None in node.values) != node.negated:
            tests.append(f"CASE WHEN {value.is_null} THEN 1 END")
        return _first_known(tests)


def _among(sql: str, listed: Sequence[str], *, negated: bool) -> str:
    if not listed:
        return f"CASE WHEN {sql} IS NOT NULL THEN 1 END"
    return f"{sql} {'NOT IN' if negated else 'IN'} ({', '.join(listed)})"


def _first_known(tests: Sequence[str]) -> str:
    return f"coalesce({', '.join(tests)}, 0)" if tests else "0"


def _join(terms: Sequence[str], operator: str) -> str:
    parts = list(terms)
    while True:
        chunks = [parts[at : at + _LONGEST_JOIN] for at in range(0, len(parts), _LONGEST_JOIN)]
        parts = [f"({f' {operator} '.join(chunk)})" for chunk in chunks]
        if len(parts) == 1:
            return parts[0]
