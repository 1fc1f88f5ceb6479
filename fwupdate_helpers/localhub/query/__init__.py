"""IoT Hub's query language on the hub's database.

A query is read into a tree (`syntax`, `building`), the tree is translated to one SQL statement
over SQLite's JSON functions (`conditions`, `statements`), and the statement is run with bounds on
time and memory (`running`). No text of a query ever becomes part of the SQL.

What Microsoft's documentation leaves open is decided here as follows:

- A comparison is of two primitives of one kind; of different kinds, of arrays and objects, and of
  what is not there it is false, also with ``!=``. ``NOT`` turns what is not true into true.
  ``undefined`` therefore equals nothing: ask with ``IS_DEFINED``. ``null`` equals ``null`` only.
- ``NIN`` is true of a primitive that is not in the list, of whatever kind; not of what is missing.
- Arithmetic with something else than numbers, and division by zero, gives ``undefined``.
- ``SUM``, ``AVG`` pass over what is no number. ``MIN`` and ``MAX`` are those of the numbers, or of
  the texts (times are such) where there is no number.
- A column that is ``undefined`` is left out of its row. A column without an alias is named as the
  last name of its path; an aggregate ``$1``, ``$2`` … by its place.
- An aggregate without ``GROUP BY`` on no rows gives one row: ``COUNT`` and ``SUM`` are 0, the
  others are left out. With ``GROUP BY``, no rows give none.
- A name at the root that no twin has is an error: mostly quotes or ``tags.`` were forgotten.

Source: Microsoft's "IoT Hub query language" (iot-hub-devguide-query-language.md), query-twins.md,
query-jobs.md.
"""

from fwupdate_helpers.localhub.query.errors import QuerySyntaxError
from fwupdate_helpers.localhub.query.nodes import Query
from fwupdate_helpers.localhub.query.running import (
    DEFAULT_PAGE,
    MAX_PAGE,
    Page,
    check_condition,
    device_ids,
    run,
)
from fwupdate_helpers.localhub.query.syntax import parse

__all__ = [
    "DEFAULT_PAGE",
    "MAX_PAGE",
    "Page",
    "Query",
    "QuerySyntaxError",
    "check_condition",
    "device_ids",
    "parse",
    "run",
]
