"""The collection ``devices``: device twins."""

from __future__ import annotations

import json
import sqlite3
from typing import Any, Final

from fwupdate_helpers.localhub.identities import twin_json
from fwupdate_helpers.localhub.query.collection import Collection
from fwupdate_helpers.localhub.query.twin_fields import field_name, twin_value
from fwupdate_helpers.localhub.store import identity_of, twin_of

Json = dict[str, Any]


def _twin(row: sqlite3.Row) -> Json:
    content = twin_json(identity_of(row), twin_of(row))
    configurations = json.loads(row["configurations"])
    return {**content, "configurations": configurations} if configurations else content


DEVICES: Final = Collection(
    table="devices",
    key=("device_id",),
    everything="devices.*",
    locate=twin_value,
    name=field_name,
    to_json=_twin,
    item_type="twin",
)
