"""The collection ``devices.jobs``: what each job did, or is to do, on each device.

Source: Microsoft's "Queries for IoT Hub jobs" (query-jobs.md).
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any, Final

from fwupdate_helpers.localhub.query.collection import Collection
from fwupdate_helpers.localhub.query.errors import QuerySyntaxError
from fwupdate_helpers.localhub.query.nodes import Path
from fwupdate_helpers.localhub.query.values import (
    NOWHERE,
    OBJECT,
    STRING,
    Bind,
    Value,
    column,
    in_json,
)

Json = dict[str, Any]

_COLUMNS: Final = {
    "deviceId": "device_jobs.device_id",
    "jobId": "device_jobs.job_id",
    "jobType": "jobs.job_type",
    "status": "device_jobs.status",
    "startTimeUtc": "device_jobs.start_time",
    "endTimeUtc": "device_jobs.end_time",
    "createdDateTimeUtc": "device_jobs.created_time",
    "lastUpdatedDateTimeUtc": "device_jobs.last_updated_time",
}
_DOCUMENTS: Final = {"outcome": "device_jobs.outcome", "error": "device_jobs.error"}
_SAMPLES: Final = {"createdTimeUtc": "device_jobs.created_time"}
"""What a documented sample calls a column that rows name otherwise."""
_FIELDS: Final = {
    name.lower(): sql for name, sql in (*_COLUMNS.items(), *_DOCUMENTS.items(), *_SAMPLES.items())
}


def job_value(path: Path, bind: Bind) -> Value:
    """Return SQL for what a path leads to, with or without ``devices.jobs.`` before it.

    Raises:
        QuerySyntaxError: 400004, a job has no such field.
    """
    names = path.names
    if [name.lower() for name in names[:2]] == ["devices", "jobs"] and len(names) > 2:
        names = names[2:]
    sql, below = _FIELDS.get(names[0].lower()), names[1:]
    if sql is None:
        raise QuerySyntaxError(
            f"devices.jobs has no '{names[0][:40]}'. Its conditions are on {', '.join(_COLUMNS)}, "
            "outcome and error; not on the device twin. A text needs quotes.",
            path.place,
        )
    if sql not in _DOCUMENTS.values():
        return NOWHERE if below else column(sql, STRING)
    return in_json(sql, below, bind) if below else column(sql, OBJECT)


def _name(path: Path) -> str:
    return path.names[-1]


def _row(row: sqlite3.Row) -> Json:
    texts = {name: row[name] for name in _COLUMNS}
    documents = {name: row[name] and json.loads(row[name]) for name in _DOCUMENTS}
    return {name: one for name, one in {**texts, **documents}.items() if one is not None}


DEVICE_JOBS: Final = Collection(
    table="device_jobs JOIN jobs ON jobs.job_id = device_jobs.job_id",
    key=("device_jobs.job_id", "device_jobs.device_id"),
    everything=", ".join(f"{sql} AS {name}" for name, sql in {**_COLUMNS, **_DOCUMENTS}.items()),
    locate=job_value,
    name=_name,
    to_json=_row,
    item_type="deviceJob",
)
