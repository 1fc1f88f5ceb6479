"""Jobs and their devices' parts, as the hub's database keeps them.

What a method returns has been committed, or is with the transaction around the call.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from fwupdate_helpers.localhub.database import Database
from fwupdate_helpers.localhub.errors import (
    GATEWAY_TIMEOUT,
    JOB_ALREADY_EXISTS,
    JOB_NOT_FOUND,
    HubError,
)
from fwupdate_helpers.localhub.jobs.records import (
    CANCELLED,
    PENDING,
    QUEUED,
    RUNNING,
    UNFINISHED,
    DeviceResult,
    Job,
    failed,
)
from fwupdate_helpers.localhub.jobs.specification import JobSpecification
from fwupdate_helpers.localhub.jsontext import dumps, read_timestamp, timestamp

Json = dict[str, Any]

_INTERRUPTED = failed(
    HubError(
        GATEWAY_TIMEOUT,
        "The hub ended while the method was under way; the device may have run it.",
    )
)


class JobStore:
    """Jobs in the hub's database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection = database.connection

    # -- jobs ---------------------------------------------------------------------------------

    def create(self, job: Job) -> None:
        """Add a job; raise `HubError` 409104 when its id is taken."""
        told = job.specification
        with self._database.transaction() as connection:
            try:
                connection.execute(
                    "INSERT INTO jobs (job_id, job_type, status, specification, created_time, "
                    "start_time) VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        told.job_id,
                        told.job_type,
                        job.status,
                        _specification(told),
                        timestamp(job.created),
                        timestamp(told.start),
                    ),
                )
            except sqlite3.IntegrityError as error:
                raise HubError(
                    JOB_ALREADY_EXISTS,
                    f"A job with ID '{told.job_id}' exists already. Take another id: the hub "
                    "keeps a job for 30 days after its end.",
                ) from error

    def find(self, job_id: str) -> Job | None:
        """Return a job, or None when there is no such job."""
        row = self._connection.execute("SELECT * FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
        return _job(row) if row else None

    def get(self, job_id: str) -> Job:
        """Return a job; raise `HubError` 404002 when there is no such job."""
        job = self.find(job_id)
        if job is None:
            raise HubError(JOB_NOT_FOUND, f"There is no job with ID '{job_id}'.")
        return job

    def unfinished(self) -> list[Job]:
        """Return the jobs that are not over: first those that run, then by their start."""
        rows = self._connection.execute(
            "SELECT * FROM jobs WHERE status IN (?, ?, ?) "
            "ORDER BY status <> ?, start_time, created_time, job_id",
            (*UNFINISHED, RUNNING),
        )
        return [_job(row) for row in rows]

    def page(
        self, *, job_type: str | None, status: str | None, size: int, after: tuple[str, ...] = ()
    ) -> tuple[list[Job], tuple[str, ...]]:
        """Return a page of jobs, the newest first.

        Args:
            size: Jobs on the page.
            after: The key of the last job of the page before.

        Returns:
            The jobs, and the key of the last one; an empty key when no more follow.
        """
        created, job_id = after if len(after) == 2 else (None, None)
        rows = self._connection.execute(
            "SELECT * FROM jobs WHERE (:type IS NULL OR job_type = :type) "
            "AND (:status IS NULL OR status = :status) "
            "AND (:created IS NULL OR (created_time, job_id) < (:created, :job_id)) "
            "ORDER BY created_time DESC, job_id DESC LIMIT :limit",
            {
                "type": job_type,
                "status": status,
                "created": created,
                "job_id": job_id,
                "limit": size + 1,
            },
        ).fetchall()
        shown = rows[:size]
        last = (shown[-1]["created_time"], shown[-1]["job_id"]) if rows[size:] else ()
        return [_job(row) for row in shown], last

    def counts(self, job_id: str) -> Mapping[str, int]:
        """Return how many of a job's devices there are by status."""
        return dict(
            self._connection.execute(
                "SELECT status, count(*) FROM device_jobs WHERE job_id = ? GROUP BY status",
                (job_id,),
            ).fetchall()
        )

    def queue(self, job_id: str) -> None:
        """Note that a job waits for others to end."""
        self._set_status(job_id, QUEUED)

    def start(self, job_id: str, device_ids: Iterable[str]) -> None:
        """Note that a job runs, and freeze its target set."""
        now = self._database.now()
        with self._database.transaction() as connection:
            self._set_status(job_id, RUNNING)
            connection.executemany(
                "INSERT INTO device_jobs (job_id, device_id, status, created_time, "
                "last_updated_time) VALUES (?, ?, ?, ?, ?)",
                ((job_id, device_id, PENDING, now, now) for device_id in device_ids),
            )

    def finish(self, job_id: str, status: str, reason: str | None = None) -> None:
        """Note the end of a job, unless it has been cancelled."""
        self._set_status(job_id, status, ended=self._database.now(), reason=reason)

    def cancel(self, job_id: str, waiting: DeviceResult) -> None:
        """Note that a job is cancelled, and give devices that have not begun their result."""
        with self._database.transaction():
            self.end_waiting(job_id, waiting)
            self.finish(job_id, CANCELLED)

    def _set_status(
        self, job_id: str, status: str, *, ended: str | None = None, reason: str | None = None
    ) -> None:
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE jobs SET status = ?, end_time = ?, failure_reason = ? "
                "WHERE job_id = ? AND status IN (?, ?, ?)",
                (status, ended, reason, job_id, *UNFINISHED),
            )

    def prune(self, ended_before: datetime) -> None:
        """Forget jobs that ended before a time, with their devices' parts."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM jobs WHERE end_time < ?", (timestamp(ended_before),))

    # -- their work on devices ----------------------------------------------------------------

    def waiting(self, job_id: str) -> list[str]:
        """Return the devices that have not begun."""
        rows = self._connection.execute(
            "SELECT device_id FROM device_jobs WHERE job_id = ? AND status = ? ORDER BY device_id",
            (job_id, PENDING),
        )
        return [row["device_id"] for row in rows]

    def begin(self, job_id: str, device_id: str) -> bool:
        """Note that a device begins; False when it may not, because it has ended."""
        now = self._database.now()
        with self._database.transaction() as connection:
            changed = connection.execute(
                "UPDATE device_jobs SET status = ?, start_time = ?, last_updated_time = ? "
                "WHERE job_id = ? AND device_id = ? AND status = ?",
                (RUNNING, now, now, job_id, device_id, PENDING),
            )
            return changed.rowcount == 1

    def end(self, job_id: str, device_id: str, result: DeviceResult) -> None:
        """Note how a device's part ended, unless it has ended before."""
        unfinished = "job_id = ? AND device_id = ? AND status IN (?, ?)"
        self._end(result, unfinished, job_id, device_id, PENDING, RUNNING)

    def end_waiting(self, job_id: str, result: DeviceResult) -> None:
        """Give all devices that have not begun one result."""
        self._end(result, "job_id = ? AND status = ?", job_id, PENDING)

    def fail_interrupted(self) -> None:
        """Fail what was under way when the hub died: nobody knows whether the devices did it."""
        self._end(_INTERRUPTED, "status = ?", RUNNING)

    def _end(self, result: DeviceResult, which: str, *values: str) -> None:
        now = self._database.now()
        outcome, error = (one and dumps(one) for one in (result.outcome, result.error))
        changes = "status = ?, end_time = ?, last_updated_time = ?, outcome = ?, error = ?"
        with self._database.transaction() as connection:
            connection.execute(
                f"UPDATE device_jobs SET {changes} WHERE {which}",  # noqa: S608
                (result.status, now, now, outcome, error, *values),
            )


def _specification(told: JobSpecification) -> str:
    return dumps(
        {
            "queryCondition": told.condition,
            "maxExecutionTimeInSeconds": told.seconds,
            "content": told.content,
        }
    )


def _job(row: sqlite3.Row) -> Job:
    told = json.loads(row["specification"])
    return Job(
        specification=JobSpecification(
            job_id=row["job_id"],
            job_type=row["job_type"],
            condition=told["queryCondition"],
            start=_time(row["start_time"]),
            seconds=told["maxExecutionTimeInSeconds"],
            content=told["content"],
        ),
        status=row["status"],
        created=_time(row["created_time"]),
        ended=row["end_time"],
        failure_reason=row["failure_reason"],
    )


def _time(text: str) -> datetime:
    moment = read_timestamp(text)
    if moment is None:
        raise ValueError(f"the database holds the time {text!r}")
    return moment
