"""What a query reads: a table with the fields that its rows have to a service."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fwupdate_helpers.localhub.query.nodes import Path
from fwupdate_helpers.localhub.query.values import Bind, Value

Json = dict[str, Any]


@dataclass(frozen=True)
class Collection:
    """A collection that ``FROM`` names.

    Attributes:
        table: SQL for the table, or the tables joined.
        key: The columns that name a row, in the order in which rows are handed out.
        everything: SQL for the columns that `to_json` needs.
        locate: Returns SQL for what a path leads to.
        name: Returns the name that a path's value has in a row of the result.
        to_json: Makes the row of ``SELECT *``.
        item_type: What ``x-ms-item-type`` says of those rows.
    """

    table: str
    key: tuple[str, ...]
    everything: str
    locate: Callable[[Path, Bind], Value]
    name: Callable[[Path], str]
    to_json: Callable[[sqlite3.Row], Json]
    item_type: str
