"""Seam until the branch `query` is merged: two shapes of conditions."""

from __future__ import annotations

import re

from fwupdate_helpers.localhub.database import Database
from fwupdate_helpers.localhub.errors import ARGUMENT_INVALID, HubError

_CONDITION = re.compile(r"\s*(?:\*|(deviceId\s*(?:=|IN)\s*.*)|(tags\.\w+\s*=\s*'[^']*'))\s*")


def check_condition(condition: str) -> None:
    if not _CONDITION.fullmatch(condition):
        raise HubError(ARGUMENT_INVALID, "line 1, column 1")


def device_ids(database: Database, condition: str) -> list[str]:
    check_condition(condition)
    everything = "SELECT device_id FROM devices WHERE "
    words = re.findall(r"'([^']*)'", condition)
    if condition.strip() == "*":
        rows = database.connection.execute(everything + "1 ORDER BY device_id")
    elif condition.strip().startswith("tags"):
        name = condition.strip()[5:].partition("=")[0].strip()
        rows = database.connection.execute(
            everything + "tags ->> ? = ? ORDER BY device_id", (name, words[0])
        )
    else:
        marks = ", ".join("?" for _ in words)
        rows = database.connection.execute(
            everything + f"device_id IN ({marks}) ORDER BY device_id", words
        )
    return [row[0] for row in rows]
