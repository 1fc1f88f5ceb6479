"""Configurations in the hub's database, and what each of them has written to which device."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from fwupdate_helpers.localhub.configurations.specification import Configuration, Specification
from fwupdate_helpers.localhub.database import Database
from fwupdate_helpers.localhub.errors import (
    CONFIGURATION_ALREADY_EXISTS,
    CONFIGURATION_NOT_FOUND,
    TOO_MANY_CONFIGURATIONS,
    HubError,
)
from fwupdate_helpers.localhub.etags import new_etag
from fwupdate_helpers.localhub.jsontext import dumps

Json = dict[str, Any]

MAX_CONFIGURATIONS: Final = 100


class ConfigurationStore:
    """Keeps configurations. Every method runs in one transaction.

    Args:
        database: Where they are kept.
        most: How many there may be; a tier may have fewer than other hubs.

    Attributes:
        database: Where they are kept.
    """

    def __init__(self, database: Database, *, most: int = MAX_CONFIGURATIONS) -> None:
        self.database = database
        self._most = most
        self._connection = database.connection

    def all(self) -> list[Configuration]:
        """Return the configurations, ordered by id."""
        rows = self._connection.execute("SELECT * FROM configurations ORDER BY configuration_id")
        return [_configuration(row) for row in rows]

    def get(self, configuration_id: str) -> Configuration:
        """Return a configuration; raise `HubError` 404301 when there is no such one."""
        row = self._connection.execute(
            "SELECT * FROM configurations WHERE configuration_id = ?", (configuration_id,)
        ).fetchone()
        if row is None:
            raise HubError(
                CONFIGURATION_NOT_FOUND, f"There is no configuration '{configuration_id}'."
            )
        return _configuration(row)

    def create(self, configuration_id: str, specification: Specification) -> Configuration:
        """Add a configuration; raise `HubError` 409401, or 413101 when there are too many."""
        now = self.database.now()
        with self.database.transaction() as connection:
            self._check_room(connection, configuration_id)
            connection.execute(
                "INSERT INTO configurations (configuration_id, etag, specification, results, "
                "created_time, last_updated_time) VALUES (?, ?, ?, '{}', ?, ?)",
                (configuration_id, new_etag(), dumps(asdict(specification)), now, now),
            )
        return self.get(configuration_id)

    def _check_room(self, connection: sqlite3.Connection, configuration_id: str) -> None:
        ids = {row[0] for row in connection.execute("SELECT configuration_id FROM configurations")}
        if configuration_id in ids:
            raise HubError(
                CONFIGURATION_ALREADY_EXISTS,
                f"A configuration '{configuration_id}' is there already; an update needs its ETag.",
            )
        if len(ids) >= self._most:
            raise HubError(
                TOO_MANY_CONFIGURATIONS,
                f"This hub has at most {self._most} configurations; delete one first.",
            )

    def update(self, configuration_id: str, specification: Specification) -> Configuration:
        """Change what a configuration says; its creation time stays."""
        with self.database.transaction() as connection:
            connection.execute(
                "UPDATE configurations SET etag = ?, specification = ?, last_updated_time = ? "
                "WHERE configuration_id = ?",
                (new_etag(), dumps(asdict(specification)), self.database.now(), configuration_id),
            )
        return self.get(configuration_id)

    def delete(self, configuration_id: str) -> None:
        """Delete a configuration. What it has written is kept on record, until it is removed."""
        with self.database.transaction() as connection:
            connection.execute(
                "DELETE FROM configurations WHERE configuration_id = ?", (configuration_id,)
            )

    def save_results(self, results: Mapping[str, Json]) -> None:
        """Keep the counts of metrics by configuration id; who is gone is passed over."""
        with self.database.transaction() as connection:
            connection.executemany(
                "UPDATE configurations SET results = ? WHERE configuration_id = ?",
                [(dumps(counts), name) for name, counts in results.items()],
            )

    # -- what was written -----------------------------------------------------------------------

    def marked_devices(self) -> list[str]:
        """Return the devices that configurations have written to, or that tell of some."""
        rows = self._connection.execute(
            "SELECT device_id FROM written_configurations "
            "UNION SELECT device_id FROM devices WHERE configurations != '{}'"
        )
        return [row[0] for row in rows]

    def devices_of(self, configuration_id: str) -> list[str]:
        """Return the devices whose twins tell that a configuration targets them."""
        rows = self._connection.execute(
            "SELECT device_id FROM devices, json_each(devices.configurations) AS one "
            "WHERE one.key = ?",
            (configuration_id,),
        )
        return [row[0] for row in rows]

    def applied_counts(self) -> dict[str, int]:
        """Return to how many devices each configuration has written; none is left out."""
        rows = self._connection.execute(
            "SELECT configuration_id, count(*) FROM written_configurations GROUP BY 1"
        )
        return dict(rows.fetchall())

    def written(self, device_ids: Sequence[str]) -> dict[str, dict[str, Json]]:
        """Return what configurations wrote: device id to configuration id to properties."""
        found: dict[str, dict[str, Json]] = {}
        rows = self._connection.execute(
            "SELECT device_id, configuration_id, properties FROM written_configurations "
            "WHERE device_id IN (SELECT value FROM json_each(?))",
            (dumps(device_ids),),
        )
        for device_id, configuration_id, properties in rows:
            found.setdefault(device_id, {})[configuration_id] = json.loads(properties)
        return found

    def save_written(self, device_id: str, written: Mapping[str, Json]) -> None:
        """Keep on record what configurations have written to a device."""
        with self.database.transaction() as connection:
            connection.execute(
                "DELETE FROM written_configurations WHERE device_id = ?", (device_id,)
            )
            connection.executemany(
                "INSERT INTO written_configurations VALUES (?, ?, ?)",
                [(device_id, name, dumps(part)) for name, part in written.items()],
            )


def _configuration(row: sqlite3.Row) -> Configuration:
    return Configuration(
        configuration_id=row["configuration_id"],
        specification=Specification(**json.loads(row["specification"])),
        etag=row["etag"],
        created_time=row["created_time"],
        last_updated_time=row["last_updated_time"],
        results=json.loads(row["results"]),
    )
