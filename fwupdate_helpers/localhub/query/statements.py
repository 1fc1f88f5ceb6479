"""Translates a query to one SQL statement, and its rows to the items of the answer."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from fwupdate_helpers.localhub.query.collection import Collection
from fwupdate_helpers.localhub.query.conditions import Parameters, Translator
from fwupdate_helpers.localhub.query.continuation import Position
from fwupdate_helpers.localhub.query.errors import QuerySyntaxError
from fwupdate_helpers.localhub.query.nodes import Aggregate, Column, Path, Query
from fwupdate_helpers.localhub.query.values import ARRAY, BOOLEAN, NUMBER, OBJECT, STRING

Json = dict[str, Any]
RAW: Final = "raw"
_MAX_INTEGER: Final = 2**53


@dataclass(frozen=True)
class Statement:
    """SQL with its parameters.

    Attributes:
        item: Makes an item of the answer of a row.
        key: Returns the key of a row; empty where rows have none.
    """

    sql: str
    parameters: Json
    item_type: str
    item: Callable[[sqlite3.Row], Json]
    key: Callable[[sqlite3.Row], tuple[str, ...]]


def statement(query: Query, collection: Collection, *, position: Position, limit: int) -> Statement:
    """Translate a query.

    Args:
        position: Where the rows begin.
        limit: How many rows there are at most.

    Raises:
        QuerySyntaxError: 400004, a path leads nowhere, or a column cannot be in a group.
    """
    writer = _Writer(query, collection, position)
    return writer.groups(limit) if query.is_grouped else writer.rows(limit)


class _Writer:
    def __init__(self, query: Query, collection: Collection, position: Position) -> None:
        self._query = query
        self._collection = collection
        self._position = position
        self._parameters = Parameters()
        self._bind = self._parameters.bind

    def rows(self, limit: int) -> Statement:
        query, collection = self._query, self._collection
        shown = [f"{column} AS key_{n}" for n, column in enumerate(collection.key)]
        columns = query.columns
        if columns is None:
            shown.append(collection.everything)
        else:
            shown += [self._value(column.source) for column in columns]
        order = ", ".join(collection.key)
        sql = (
            f"SELECT {', '.join(shown)} FROM {collection.table} WHERE {self._where(order)} "  # noqa: S608
            f"ORDER BY {order} LIMIT {self._bind(limit)}"
        )
        keys, names = len(collection.key), self._names(columns or ())
        return Statement(
            sql,
            self._parameters.values,
            collection.item_type if columns is None else RAW,
            collection.to_json if columns is None else lambda row: _item(names, tuple(row)[keys:]),
            lambda row: tuple(row)[:keys],
        )

    def groups(self, limit: int) -> Statement:
        query = self._query
        if query.columns is None:
            raise QuerySyntaxError("SELECT * cannot be grouped: name the columns.", self._place())
        for column in query.columns:
            if isinstance(column.source, Path) and column.source not in query.groups:
                raise QuerySyntaxError(
                    f"'{'.'.join(column.source.names)[:80]}' is neither in GROUP BY nor in an "
                    "aggregate.",
                    column.source.place,
                )
        groups = [self._value(path) for path in query.groups]
        ordinals = ", ".join(str(n + 1) for n in range(2 * len(groups)))
        shown = ", ".join([*groups, *(self._value(column.source) for column in query.columns)])
        sql = f"SELECT {shown} FROM {self._collection.table} WHERE {self._where()}"  # noqa: S608
        if groups:
            sql += f" GROUP BY {ordinals} ORDER BY {ordinals}"
        sql += f" LIMIT {self._bind(limit)} OFFSET {self._bind(self._position.given)}"
        names, skipped = self._names(query.columns), 2 * len(groups)
        return Statement(
            sql,
            self._parameters.values,
            RAW,
            lambda row: _item(names, tuple(row)[skipped:]),
            lambda row: (),
        )

    def _where(self, order: str = "") -> str:
        tests = []
        after = self._position.after
        if after:
            tests.append(f"({order}) > ({', '.join(map(self._bind, after))})")
        if self._query.condition is not None:
            translator = Translator(self._collection.locate, self._bind)
            tests.append(translator.condition(self._query.condition))
        return " AND ".join(tests) or "1"

    def _value(self, source: Path | Aggregate) -> str:
        """Return SQL for two columns: the kind of a value, and the value."""
        if isinstance(source, Path):
            value = self._collection.locate(source, self._bind)
            return f"{value.kind}, {value.sql}"
        if source.path is None:
            return "'number', count(*)"
        value = self._collection.locate(source.path, self._bind)
        number = value.of_kind(NUMBER)
        if source.function == "AVG":
            return f"'number', avg({number})"
        if source.function == "SUM":
            return f"'number', total({number})"
        function = source.function.lower()
        best = f"coalesce({function}({number}), {function}({value.of_kind(STRING)}))"
        return f"'{STRING}', {best}"

    def _names(self, columns: tuple[Column, ...]) -> list[str]:
        names: list[str] = []
        for place, column in enumerate(columns, start=1):
            name = column.alias or (
                self._collection.name(column.source)
                if isinstance(column.source, Path)
                else f"${place}"
            )
            if name in names:
                raise QuerySyntaxError(
                    f"two columns are named '{name[:80]}': give one another name with AS.",
                    column.source.place,
                )
            names.append(name)
        return names

    def _place(self) -> Any:
        return self._query.groups[0].place


def _item(names: list[str], values: tuple[Any, ...]) -> Json:
    """Make an item of kinds and values, in turn; what is undefined is left out."""
    item = {}
    for name, kind, value in zip(names, values[::2], values[1::2], strict=True):
        if kind is not None and (value is not None or kind == "null"):
            item[name] = _value(kind, value)
    return {name: value for name, value in item.items() if value is not _NO_NUMBER}


_NO_NUMBER: Final = object()


def _value(kind: str, value: Any) -> Any:
    if kind in (OBJECT, ARRAY):
        return json.loads(value)
    if kind == BOOLEAN:
        return bool(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return _NO_NUMBER  # JSON cannot write it
        if value.is_integer() and abs(value) < _MAX_INTEGER:
            return int(value)
    return value
