"""Registry, twins and MQTT sessions, as the hub's database keeps them.

What a method returns has been committed, or is with the transaction around the call.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fwupdate_helpers.localhub.database import Database
from fwupdate_helpers.localhub.errors import (
    DEVICE_ALREADY_EXISTS,
    DEVICE_NOT_FOUND,
    TOO_MANY_DEVICES,
    HubError,
)
from fwupdate_helpers.localhub.etags import new_etag
from fwupdate_helpers.localhub.jsontext import NEVER, dumps
from fwupdate_helpers.localhub.twins import Section, Twin, new_twin


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
    """Identities, twins and sessions. Every method runs in one transaction.

    Args:
        database: Where they are kept.
        max_devices: How many identities there may be; None means as many as fit.

    Attributes:
        database: Where they are kept; for whoever makes one transaction of several calls.
    """

    def __init__(self, database: Database, *, max_devices: int | None = None) -> None:
        self.database = database
        self._max_devices = max_devices
        self._connection = database.connection
        # Nobody is connected to a hub that has just started.
        self._connection.execute("UPDATE devices SET connection_state = 'Disconnected'")

    def now(self) -> str:
        """Return the hub's clock as it writes times."""
        return self.database.now()

    def after_commit(self, call: Callable[[], None]) -> None:
        """Call when what is written now is committed; see `Database.after_commit`."""
        self.database.after_commit(call)

    # -- identities ---------------------------------------------------------------------------

    def find(self, device_id: str) -> Identity | None:
        """Return an identity, or None when there is no such device."""
        row = self._connection.execute(
            "SELECT * FROM devices WHERE device_id = ?", (device_id,)
        ).fetchone()
        return identity_of(row) if row else None

    def get(self, device_id: str) -> Identity:
        """Return an identity; raise `HubError` 404001 when there is no such device."""
        identity = self.find(device_id)
        if identity is None:
            raise HubError(DEVICE_NOT_FOUND, device_id)
        return identity

    def list(self, limit: int) -> list[Identity]:
        """Return at most `limit` identities, ordered by id."""
        rows = self._connection.execute(
            "SELECT * FROM devices ORDER BY device_id LIMIT ?", (limit,)
        )
        return [identity_of(row) for row in rows]

    def count_by_status(self) -> dict[str, int]:
        """Return how many identities have a status; one that none has is left out."""
        rows = self._connection.execute("SELECT status, count(*) FROM devices GROUP BY status")
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
        """Add an identity with an empty twin.

        Raises:
            HubError: 409001, the id is taken; 413002, there are as many as the hub's tier has.
        """
        twin = new_twin(self.now())
        values = {
            "device_id": device_id,
            "generation_id": str(secrets.randbelow(9 * 10**17) + 10**17),
            "etag": new_etag(),
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
        with self.database.transaction() as connection:
            self._check_room(device_id)
            try:
                connection.execute(f"INSERT INTO devices ({names}) VALUES ({marks})", values)  # noqa: S608
            except sqlite3.IntegrityError as error:
                raise HubError(
                    DEVICE_ALREADY_EXISTS,
                    f"A device with ID '{device_id}' is already registered.",
                ) from error
        return self.get(device_id)

    def _check_room(self, device_id: str) -> None:
        most = self._max_devices
        if most is None or self.find(device_id) is not None:
            return
        if self._connection.execute("SELECT count(*) FROM devices").fetchone()[0] >= most:
            raise HubError(
                TOO_MANY_DEVICES, f"A hub of this tier has at most {most} devices; delete some."
            )

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
        with self.database.transaction() as connection:
            connection.execute(
                "UPDATE devices SET status = ?, status_reason = ?, status_updated_time = ?, "
                "authentication = ?, capabilities = ?, etag = ? WHERE device_id = ?",
                (
                    status,
                    status_reason,
                    changed,
                    dumps(authentication),
                    dumps(capabilities),
                    new_etag(),
                    device_id,
                ),
            )
        return self.get(device_id)

    def delete(self, device_id: str) -> None:
        """Delete an identity with its twin and its session."""
        with self.database.transaction() as connection:
            connection.execute("DELETE FROM devices WHERE device_id = ?", (device_id,))

    def set_connected(self, device_id: str, connected: bool) -> None:
        """Record that a device connected or disconnected."""
        state, now = ("Connected" if connected else "Disconnected"), self.now()
        with self.database.transaction() as connection:
            connection.execute(
                "UPDATE devices SET connection_state = ?, connection_state_updated_time = ?, "
                "last_activity_time = ? WHERE device_id = ?",
                (state, now, now, device_id),
            )

    def count_telemetry(self, device_id: str) -> None:
        """Count one device-to-cloud message."""
        with self.database.transaction() as connection:
            connection.execute(
                "UPDATE devices SET telemetry_count = telemetry_count + 1, last_activity_time = ? "
                "WHERE device_id = ?",
                (self.now(), device_id),
            )

    def telemetry_count(self) -> int:
        """Return how many device-to-cloud messages all devices have sent."""
        query = "SELECT coalesce(sum(telemetry_count), 0) FROM devices"
        return int(self._connection.execute(query).fetchone()[0])

    # -- twins --------------------------------------------------------------------------------

    def twin(self, device_id: str) -> Twin:
        """Return a device twin; raise `HubError` 404001 when there is no such device."""
        row = self._connection.execute(
            "SELECT * FROM devices WHERE device_id = ?", (device_id,)
        ).fetchone()
        if row is None:
            raise HubError(DEVICE_NOT_FOUND, device_id)
        return twin_of(row)

    def save_twin(self, device_id: str, twin: Twin, *, by_device: bool = False) -> None:
        """Write a twin; the device's own writes count as its activity."""
        columns = _twin_columns(twin)
        if by_device:
            columns["last_activity_time"] = self.now()
        changes = ", ".join(f"{name} = :{name}" for name in columns)
        with self.database.transaction() as connection:
            connection.execute(
                f"UPDATE devices SET {changes} WHERE device_id = :device_id",  # noqa: S608
                {**columns, "device_id": device_id},
            )

    # -- MQTT sessions ------------------------------------------------------------------------

    def sessions(self) -> dict[str, dict[str, int]]:
        """Return the subscriptions (topic filter to QoS) of every device with a session."""
        rows = self._connection.execute("SELECT device_id, subscriptions FROM sessions")
        return {row["device_id"]: json.loads(row["subscriptions"]) for row in rows}

    def save_session(self, device_id: str, subscriptions: dict[str, int]) -> None:
        """Keep a device's subscriptions for its next connection."""
        with self.database.transaction() as connection:
            connection.execute(
                "INSERT INTO sessions VALUES (?, ?) "
                "ON CONFLICT (device_id) DO UPDATE SET subscriptions = excluded.subscriptions",
                (device_id, dumps(subscriptions)),
            )

    def delete_session(self, device_id: str) -> None:
        """Forget a device's session."""
        with self.database.transaction() as connection:
            connection.execute("DELETE FROM sessions WHERE device_id = ?", (device_id,))


def identity_of(row: sqlite3.Row) -> Identity:
    """Return the identity that a row of the table `devices` holds."""
    values = {name: row[name] for name in Identity.__dataclass_fields__}
    values["authentication"] = json.loads(row["authentication"])
    values["capabilities"] = json.loads(row["capabilities"])
    return Identity(**values)


def twin_of(row: sqlite3.Row) -> Twin:
    """Return the twin that a row of the table `devices` holds."""
    return Twin(
        tags=json.loads(row["tags"]),
        desired=_section(row, "desired"),
        reported=_section(row, "reported"),
        version=row["twin_version"],
        configurations=json.loads(row["configurations"]),
    )


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
        "configurations": dumps(twin.configurations),
    }
