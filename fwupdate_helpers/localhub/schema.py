"""The tables of the hub's database, and the way from each version to the next.

A change of a table is a new version: append it, never edit one that users have on their disks.
"""

from __future__ import annotations

from typing import Final

_REGISTRY = """
CREATE TABLE devices (
    device_id TEXT PRIMARY KEY,
    generation_id TEXT NOT NULL,
    etag TEXT NOT NULL,
    status TEXT NOT NULL,
    status_reason TEXT,
    status_updated_time TEXT NOT NULL,
    connection_state TEXT NOT NULL,
    connection_state_updated_time TEXT NOT NULL,
    last_activity_time TEXT NOT NULL,
    authentication TEXT NOT NULL,
    capabilities TEXT NOT NULL,
    tags TEXT NOT NULL,
    desired TEXT NOT NULL,
    desired_metadata TEXT NOT NULL,
    desired_version INTEGER NOT NULL,
    reported TEXT NOT NULL,
    reported_metadata TEXT NOT NULL,
    reported_version INTEGER NOT NULL,
    twin_version INTEGER NOT NULL,
    telemetry_count INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE sessions (
    device_id TEXT PRIMARY KEY REFERENCES devices (device_id) ON DELETE CASCADE,
    subscriptions TEXT NOT NULL
) WITHOUT ROWID;
"""

_FLEET = """
ALTER TABLE devices ADD COLUMN configurations TEXT NOT NULL DEFAULT '{}';
CREATE TABLE jobs (
    job_id TEXT PRIMARY KEY,
    job_type TEXT NOT NULL,
    status TEXT NOT NULL,
    specification TEXT NOT NULL,
    created_time TEXT NOT NULL,
    start_time TEXT NOT NULL,
    end_time TEXT,
    failure_reason TEXT
) WITHOUT ROWID;
CREATE TABLE device_jobs (
    job_id TEXT NOT NULL REFERENCES jobs (job_id) ON DELETE CASCADE,
    device_id TEXT NOT NULL,
    status TEXT NOT NULL,
    start_time TEXT,
    end_time TEXT,
    created_time TEXT NOT NULL,
    last_updated_time TEXT NOT NULL,
    outcome TEXT,
    error TEXT,
    PRIMARY KEY (job_id, device_id)
) WITHOUT ROWID;
CREATE TABLE configurations (
    configuration_id TEXT PRIMARY KEY,
    etag TEXT NOT NULL,
    specification TEXT NOT NULL,
    results TEXT NOT NULL,
    created_time TEXT NOT NULL,
    last_updated_time TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE written_configurations (
    device_id TEXT NOT NULL REFERENCES devices (device_id) ON DELETE CASCADE,
    configuration_id TEXT NOT NULL,
    properties TEXT NOT NULL,
    PRIMARY KEY (device_id, configuration_id)
) WITHOUT ROWID;
"""

_TIERS = """
CREATE TABLE daily_messages (
    day TEXT PRIMARY KEY,
    messages INTEGER NOT NULL
) WITHOUT ROWID;
"""

VERSIONS: Final = (_REGISTRY, _FLEET, _TIERS)
"""The SQL that leads from version n to n + 1; a new database takes all of them."""
