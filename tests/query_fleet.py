"""A small fleet in a database, for tests of queries: every kind of value, and what is missing."""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from fwupdate_helpers.localhub.database import Database
from fwupdate_helpers.localhub.jsontext import dumps
from fwupdate_helpers.localhub.store import Store
from fwupdate_helpers.localhub.twins import patch_by_service, patch_reported

Json = dict[str, Any]
START = datetime(2026, 5, 4, 12, 0, 0, tzinfo=timezone.utc)
NEVER = "0001-01-01T00:00:00Z"

TWINS: dict[str, tuple[Json, Json, Json]] = {
    # device: tags, desired, reported
    "d1": (
        {
            "site": "A",
            "floor": 1,
            "active": True,
            "model": "X1",
            "group": "red",
            "my-tag": "m",
            "note": "it's",
            "word": "naïve 😀",
        },
        {"fw": {"version": "2.0"}, "speed": 5},
        {
            "fw": {"version": "2.0", "status": "Current", "lastUpdate": "2026-05-01T10:00:00Z"},
            "battery": 90,
            "ratio": 0.5,
            "list": [1, 2],
            "online": True,
            "connectivity": "wifi",
        },
    ),
    "d2": (
        {"site": "A", "floor": 2, "active": False, "model": "X2", "group": "blue"},
        {"fw": {"version": "2.0"}},
        {
            "fw": {"version": "1.0", "status": "Downloading", "lastUpdate": "2026-04-01T10:00:00Z"},
            "battery": 40,
            "ratio": 1.5,
            "connectivity": "wired",
        },
    ),
    "d3": (
        {"site": "B", "floor": "2", "model": "X1", "active": "true"},
        {},
        {
            "fw": {"version": "1.0", "status": "Current"},
            "battery": "90",
            "connectivity": "cellular",
        },
    ),
    "d4": ({"site": "B", "model": "X10"}, {}, {"battery": 15.5, "limit": 15.5}),
    "d5": (
        {"site": "C", "floor": -1, "location": {"region": "US", "plant": "Redmond43"}},
        {"telemetryConfig": {"sendFrequencyInSecs": 60}},
        {"telemetryConfig": {"status": "Success", "sendFrequencyInSecs": 60}},
    ),
    "d6": ({}, {}, {}),
    "d7": (
        {
            "location": {"region": "US", "plant": "Plant 2"},
            'qu"ote': {"in\\side": {"x": 7}},
            "site": {"name": "A"},
            "count": 3,
        },
        {},
        {"telemetryConfig": {"status": "Failure", "sendFrequencyInSecs": 3600}},
    ),
}
CONFIGURATIONS = {
    "d1": {"cfg-1": {"status": "Applied"}},
    "d3": {"cfg-1": {"status": "Applied"}, "cfg-2": {"status": "Targeted"}},
}
X509 = {
    "type": "selfSigned",
    "symmetricKey": {"primaryKey": None, "secondaryKey": None},
    "x509Thumbprint": {"primaryThumbprint": "AB" * 20, "secondaryThumbprint": None},
}
SAS = {
    "type": "sas",
    "symmetricKey": {"primaryKey": "not to be seen", "secondaryKey": None},
    "x509Thumbprint": {"primaryThumbprint": None, "secondaryThumbprint": None},
}
JOBS = {
    # job, device: type, status, outcome, error
    ("job-1", "d1"): ("scheduleDeviceMethod", "completed", {"status": 200, "payload": "ok"}, None),
    ("job-1", "d2"): ("scheduleDeviceMethod", "failed", None, {"code": "JobRunPreconditionFailed"}),
    ("job-2", "d1"): ("scheduleUpdateTwin", "completed", None, None),
    ("job-2", "d3"): ("scheduleUpdateTwin", "pending", None, None),
}


def make_database(file: Path) -> Database:
    """Return a database with the fleet; each step of the clock is a second."""
    moments = (START + timedelta(seconds=count) for count in range(10_000))
    database = Database(file, lambda: next(moments))
    store = Store(database)
    with database.transaction() as connection:
        for device_id, parts in TWINS.items():
            _create(store, device_id, *parts)
        store.set_connected("d1", True)
        for device_id, applied in CONFIGURATIONS.items():
            connection.execute(
                "UPDATE devices SET configurations = ? WHERE device_id = ?",
                (dumps(applied), device_id),
            )
        # A twin that the hub writes holds no null; a stored one is told from what is missing.
        connection.execute("UPDATE devices SET tags = '{\"nothing\":null}' WHERE device_id = 'd6'")
        _add_jobs(connection)
    return database


def _create(store: Store, device_id: str, tags: Json, desired: Json, reported: Json) -> None:
    store.create(
        device_id,
        status="disabled" if device_id == "d4" else "enabled",
        status_reason="broken" if device_id == "d4" else None,
        authentication=X509 if device_id == "d5" else SAS,
        capabilities={"iotEdge": device_id == "d5"},
    )
    twin = store.twin(device_id)
    if tags or desired:
        patch = {"tags": tags, "properties": {"desired": desired}}
        twin = patch_by_service(twin, patch, store.now())
    if reported:
        twin = patch_reported(twin, reported, store.now())
    store.save_twin(device_id, twin)


def _add_jobs(connection: sqlite3.Connection) -> None:
    for (job_id, device_id), (job_type, status, answer, error) in JOBS.items():
        connection.execute(
            "INSERT OR IGNORE INTO jobs (job_id, job_type, status, specification, created_time, "
            "start_time) VALUES (?, ?, 'running', '{}', ?, ?)",
            (job_id, job_type, NEVER, NEVER),
        )
        is_over = status in ("completed", "failed")
        connection.execute(
            "INSERT INTO device_jobs (job_id, device_id, status, start_time, end_time, "
            "created_time, last_updated_time, outcome, error) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                job_id,
                device_id,
                status,
                "2026-05-04T12:00:01Z" if is_over else None,
                "2026-05-04T12:00:02Z" if is_over else None,
                f"2026-05-0{job_id[-1]}T12:00:00Z",
                "2026-05-04T12:00:02Z",
                dumps({"deviceMethodResponse": answer}) if status == "completed" else None,
                dumps(error) if error else None,
            ),
        )
