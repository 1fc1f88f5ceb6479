"""The hub's SQLite file: how it is opened, brought up to date, and written.

In WAL mode a commit survives the death of the process (``kill -9``); after a loss of power the
last commits may be missing, the file is never damaged.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from fwupdate_helpers.localhub.errors import LocalHubError
from fwupdate_helpers.localhub.jsontext import timestamp
from fwupdate_helpers.localhub.schema import VERSIONS

logger = logging.getLogger(__name__)

_RESET = (
    "Delete what the hub keeps with 'python -m fwupdate_helpers.localhub reset' and start again."
)


class Database:
    """One SQLite file, for one process and one thread.

    Args:
        file: Made when there is none.
        clock: The hub's clock.

    Attributes:
        connection: For reading; what is to be written goes through `transaction`.
        journal_mode: That of SQLite: ``wal``, or ``delete`` where the file system refuses it.

    Raises:
        LocalHubError: The file is damaged, cannot be written, or is of a newer kit.
    """

    def __init__(self, file: Path, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._after_commit: list[Callable[[], None]] = []
        try:
            self.connection, self.journal_mode = _open(file)
            self._bring_up_to_date(file)
        except sqlite3.DatabaseError as error:
            raise LocalHubError(
                f"The local hub's {file} is damaged or cannot be written ({error}).", _RESET
            ) from error

    def _bring_up_to_date(self, file: Path) -> None:
        version = self.connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(VERSIONS):
            self.close()
            raise LocalHubError(
                f"The local hub's {file} was written by a newer version of this kit.",
                f"Update the kit. Or: {_RESET}",
            )
        for number in range(version, len(VERSIONS)):
            self.connection.executescript(
                f"BEGIN; {VERSIONS[number]} PRAGMA user_version = {number + 1}; COMMIT;"
            )

    def close(self) -> None:
        """Close the file; later calls fail."""
        self.connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit what the block writes, all or nothing; inside another one, with that one."""
        connection = self.connection
        if connection.in_transaction:
            yield connection
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            self._after_commit.clear()
            connection.rollback()
            raise
        calls, self._after_commit = self._after_commit, []
        for call in calls:
            call()

    def after_commit(self, call: Callable[[], None]) -> None:
        """Call when what is written now is committed: at once, if there is no transaction.

        After a rollback it is not called.
        """
        if self.connection.in_transaction:
            self._after_commit.append(call)
        else:
            call()

    def now(self) -> str:
        """Return the hub's clock as it writes times."""
        return timestamp(self._clock())


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
