"""Registry, twins and MQTT sessions in one SQLite file.

What a method returns has been committed. In WAL mode a commit survives the death of the process
(``kill -9``); after a loss of power the last commits may be missing, the file is never damaged.
"""

from __future__ import annotations

import base64
import json
import logging
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from fwupdate_helpers.localhub.errors import (
    DEVICE_ALREADY_EXISTS,
    DEVICE_NOT_FOUND,
    HubError,
    LocalHubError,
)
from fwupdate_helpers.localhub.jsontext import NEVER, dumps, timestamp
from fwupdate_helpers.localhub.twins import Section, Twin, new_twin

logger = logging.getLogger(__name__)

_SCHEMA_VERSION = 1
_SCHEMA = """
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


@dataclass(frozen=True)
class Identity:
    """A device identity as the registry keeps it."""

    device_id: str
    generation_id: str
    etag: str
    status: str
    status_reason: str | None
    status_updated_time: str
    connection_state: str
    connection_state_updated_time: str
    last_activity_time: str
    authentication: dict[str, Any]
    capabilities: dict[str, Any]
    telemetry_count: int

    @property
    def enabled(self) -> bool:
        """Whether the device may use the hub."""
        return self.status == "enabled"

    @property
    def keys(self) -> list[str]:
        """The device's symmetric keys; empty for other kinds of authentication."""
        if self.authentication["type"] != "sas":
            return []
        return list(self.authentication["symmetricKey"].values())


class Store:
    """The hub's database. Every method runs in one transaction."""

    def __init__(self, file: Path, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        try:
            self._database, self.journal_mode = _open(file)
            self._prepare()
        except sqlite3.DatabaseError as error:
            raise LocalHubError(
                f"The local hub's {file} is damaged or cannot be written ({error}). Delete what "
                "the hub keeps with 'python -m fwupdate_helpers.localhub reset' and start again."
            ) from error

    def _prepare(self) -> None:
        if self._database.execute("PRAGMA user_version").fetchone()[0] == 0:
            self._database.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;"
            )
        # Nobody is connected to a hub that has just started.
        self._database.execute("UPDATE devices SET connection_state = 'Disconnected'")

    def close(self) -> None:
        """Close the file; later calls fail."""
        self._database.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit what the block writes, or nothing of it; a nested block joins the outer one."""
        nested = self._database.in_transaction
        if nested:
            yield self._database
            return
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield self._database
            self._database.execute("COMMIT")
        finally:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")

    def now(self) -> str:
        """Return the hub's clock as it writes times."""
        return timestamp(self._clock())

    # -- identities ---------------------------------------------------------------------------

    def find(self, device_id: str) -> Identity | None:
        """Return an identity, or None when there is no such device."""
        row = self._database.execute(
            "SELECT * FROM devices WHERE device_id = ?", (device_id,)
        ).fetchone()
        return _identity(row) if row else None

    def get(self, device_id: str) -> Identity:
        """Return an identity; raise `HubError` 404001 when there is no such device."""
        identity = self.find(device_id)
        if identity is None:
            raise HubError(DEVICE_NOT_FOUND, device_id)
        return identity

    def list(self, limit: int) -> list[Identity]:
        """Return at most `limit` identities, ordered by id."""
        rows = self._database.execute("SELECT * FROM devices ORDER BY device_id LIMIT ?", (limit,))
        return [_identity(row) for row in rows]

    def count_by_status(self) -> dict[str, int]:
        """Return how many identities have a status; one that none has is left out."""
        rows = self._database.execute("SELECT status, count(*) FROM devices GROUP BY status")
        return dict(rows.fetchall())

    def create(
        self,
        device_id: str,
        *,
        status: str,
        status_reason: str | None,
        authentication: dict[str, Any],
        capabilities: dict[str, Any],
    ) -> Identity:
        """Add an identity with an empty twin; raise `HubError` 409001 when the id is taken."""
        twin = new_twin(self.now())
        values = {
            "device_id": device_id,
            "generation_id": str(secrets.randbelow(9 * 10**17) + 10**17),
            "etag": _new_etag(),
            "status": status,
            "status_reason": status_reason,
            "status_updated_time": NEVER,
            "connection_state": "Disconnected",
            "connection_state_updated_time": NEVER,
            "last_activity_time": NEVER,
            "authentication": dumps(authentication),
            "capabilities": dumps(capabilities),
            **_twin_columns(twin),
        }
        names, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
        with self.transaction() as database:
            try:
                database.execute(f"INSERT INTO devices ({names}) VALUES ({marks})", values)  # noqa: S608
            except sqlite3.IntegrityError as error:
                raise HubError(
                    DEVICE_ALREADY_EXISTS,
                    f"A device with ID '{device_id}' is already registered.",
                ) from error
        return self.get(device_id)

    def update(
        self,
        device_id: str,
        *,
        status: str,
        status_reason: str | None,
        authentication: dict[str, Any],
        capabilities: dict[str, Any],
    ) -> Identity:
        """Change an identity; its generation, connection and twin stay."""
        before = self.get(device_id)
        changed = self.now() if status != before.status else before.status_updated_time
        with self.transaction() as database:
            database.execute(
                "UPDATE devices SET status = ?, status_reason = ?, status_updated_time = ?, "
                "authentication = ?, capabilities = ?, etag = ? WHERE device_id = ?",
                (
                    status,
                    status_reason,
                    changed,
                    dumps(authentication),
                    dumps(capabilities),
                    _new_etag(),
                    device_id,
                ),
            )
        return self.get(device_id)

    def delete(self, device_id: str) -> None:
        """Delete an identity with its twin and its session."""
        with self.transaction() as database:
            database.execute("DELETE FROM devices WHERE device_id = ?", (device_id,))

    def set_connected(self, device_id: str, connected: bool) -> None:
        """Record that a device connected or disconnected."""
        state, now = ("Connected" if connected else "Disconnected"), self.now()
        with self.transaction() as database:
            database.execute(
                "UPDATE devices SET connection_state = ?, connection_state_updated_time = ?, "
                "last_activity_time = ? WHERE device_id = ?",
                (state, now, now, device_id),
            )

    def count_telemetry(self, device_id: str) -> None:
        """Count one device-to-cloud message."""
        with self.transaction() as database:
            database.execute(
                "UPDATE devices SET telemetry_count = telemetry_count + 1, last_activity_time = ? "
                "WHERE device_id = ?",
                (self.now(), device_id),
            )

    def telemetry_count(self) -> int:
        """Return how many device-to-cloud messages all devices have sent."""
        query = "SELECT coalesce(sum(telemetry_count), 0) FROM devices"
        return int(self._database.execute(query).fetchone()[0])

    # -- twins --------------------------------------------------------------------------------

    def twin(self, device_id: str) -> Twin:
        """Return a device twin; raise `HubError` 404001 when there is no such device."""
        row = self._database.execute(
            "SELECT * FROM devices WHERE device_id = ?", (device_id,)
        ).fetchone()
        if row is None:
            raise HubError(DEVICE_NOT_FOUND, device_id)
        return Twin(
            tags=json.loads(row["tags"]),
            desired=_section(row, "desired"),
            reported=_section(row, "reported"),
            version=row["twin_version"],
        )

    def save_twin(self, device_id: str, twin: Twin, *, by_device: bool = False) -> None:
        """Write a twin; the device's own writes count as its activity."""
        columns = _twin_columns(twin)
        if by_device:
            columns["last_activity_time"] = self.now()
        changes = ", ".join(f"{name} = :{name}" for name in columns)
        with self.transaction() as database:
            database.execute(
                f"UPDATE devices SET {changes} WHERE device_id = :device_id",  # noqa: S608
                {**columns, "device_id": device_id},
            )

    # -- MQTT sessions ------------------------------------------------------------------------

    def sessions(self) -> dict[str, dict[str, int]]:
        """Return the subscriptions (topic filter to QoS) of every device with a session."""
        rows = self._database.execute("SELECT device_id, subscriptions FROM sessions")
        return {row["device_id"]: json.loads(row["subscriptions"]) for row in rows}

    def save_session(self, device_id: str, subscriptions: dict[str, int]) -> None:
        """Keep a device's subscriptions for its next connection."""
        with self.transaction() as database:
            database.execute(
                "INSERT INTO sessions VALUES (?, ?) "
                "ON CONFLICT (device_id) DO UPDATE SET subscriptions = excluded.subscriptions",
                (device_id, dumps(subscriptions)),
            )

    def delete_session(self, device_id: str) -> None:
        """Forget a device's session."""
        with self.transaction() as database:
            database.execute("DELETE FROM sessions WHERE device_id = ?", (device_id,))


def _open(file: Path) -> tuple[sqlite3.Connection, str]:
    """Open the database in WAL mode, or in another one where the file system refuses that."""
    database = _connect(file)
    try:
        mode = str(database.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        if mode == "wal":
            # Only a transaction maps the memory that WAL shares between processes.
            database.executescript("BEGIN IMMEDIATE; COMMIT; PRAGMA synchronous = NORMAL;")
            return database, mode
        reason = "no shared memory"
    except sqlite3.OperationalError as error:
        reason = str(error)
    database.close()
    database = _connect(file)
    # Whoever has the file alone needs no shared memory, not even to leave WAL mode.
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    mode = str(database.execute("PRAGMA journal_mode = DELETE").fetchone()[0])
    database.execute("PRAGMA synchronous = FULL")
    logger.warning(
        "SQLite refuses WAL here (%s; a network drive?); falling back to journal mode %s, which "
        "is slower and as safe",
        reason,
        mode,
    )
    return database, mode


def _connect(file: Path) -> sqlite3.Connection:
    database = sqlite3.connect(file, isolation_level=None, timeout=5)
    database.row_factory = sqlite3.Row
    database.execute("PRAGMA foreign_keys = ON")
    return database


def _new_etag() -> str:
    return base64.b64encode(str(secrets.randbelow(9 * 10**8) + 10**8).encode()).decode()


def _identity(row: sqlite3.Row) -> Identity:
    values = {name: row[name] for name in Identity.__dataclass_fields__}
    values["authentication"] = json.loads(row["authentication"])
    values["capabilities"] = json.loads(row["capabilities"])
    return Identity(**values)


def _section(row: sqlite3.Row, name: str) -> Section:
    return Section(
        properties=json.loads(row[name]),
        metadata=json.loads(row[f"{name}_metadata"]),
        version=row[f"{name}_version"],
    )


def _twin_columns(twin: Twin) -> dict[str, Any]:
    return {
        "tags": dumps(twin.tags),
        "desired": dumps(twin.desired.properties),
        "desired_metadata": dumps(twin.desired.metadata),
        "desired_version": twin.desired.version,
        "reported": dumps(twin.reported.properties),
        "reported_metadata": dumps(twin.reported.metadata),
        "reported_version": twin.reported.version,
        "twin_version": twin.version,
    }
