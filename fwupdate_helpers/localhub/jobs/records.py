"""What is kept of a job and of its work on each device, and how the REST API shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from fwupdate_helpers.localhub.errors import JOB_PRECONDITION_FAILED, NAMES, HubError
from fwupdate_helpers.localhub.jobs.specification import CONTENT, JobSpecification
from fwupdate_helpers.localhub.jsontext import timestamp

Json = dict[str, Any]

SCHEDULED: Final = "scheduled"
QUEUED: Final = "queued"
RUNNING: Final = "running"
COMPLETED: Final = "completed"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
"""Of a job, as the service API spells it."""
PENDING: Final = "pending"
CANCELED: Final = "canceled"
"""Of a device's part in a job, as the query language spells it."""

UNFINISHED: Final = (RUNNING, QUEUED, SCHEDULED)
JOB_STATUSES: Final = frozenset((*UNFINISHED, COMPLETED, FAILED, CANCELLED, "unknown", "enqueued"))
"""All that the service API knows; the last two occur on Azure alone."""


@dataclass(frozen=True)
class Job:
    """A job.

    Attributes:
        created: UTC.
        ended: When it completed, failed or was cancelled, as the wire shows it.
        failure_reason: Why it never started.
    """

    specification: JobSpecification
    status: str
    created: datetime
    ended: str | None = None
    failure_reason: str | None = None

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.specification.job_id

    @property
    def is_over(self) -> bool:
        """Whether nothing more will begin."""
        return self.status not in UNFINISHED

    @property
    def window_end(self) -> datetime:
        """Until when its devices may begin."""
        return self.specification.window_end(self.created)

    def to_json(self, counts: Mapping[str, int]) -> Json:
        """Return the job as the REST API shows it.

        Args:
            counts: Devices by status.
        """
        told = self.specification
        content: Json = {
            "jobId": told.job_id,
            "type": told.job_type,
            "status": self.status,
            "queryCondition": told.condition,
            "createdTime": timestamp(self.created),
            "startTime": timestamp(told.start),
            "maxExecutionTimeInSeconds": told.seconds,
            CONTENT[told.job_type]: told.content,
            "deviceJobStatistics": statistics(counts),
        }
        if self.ended is not None:
            content["endTime"] = self.ended
        if self.failure_reason is not None:
            content |= {"failureReason": self.failure_reason, "statusMessage": self.failure_reason}
        return content


def statistics(counts: Mapping[str, int]) -> Json:
    """Return ``deviceJobStatistics`` of so many devices by status; a canceled one counts only
    among all."""
    return {
        "deviceCount": sum(counts.values()),
        "failedCount": counts.get(FAILED, 0),
        "succeededCount": counts.get(COMPLETED, 0),
        "runningCount": counts.get(RUNNING, 0),
        "pendingCount": counts.get(PENDING, 0),
    }


@dataclass(frozen=True)
class DeviceResult:
    """How a device's part in a job ended.

    Attributes:
        status: `COMPLETED`, `FAILED` or `CANCELED`.
        outcome: What the device answered.
        error: Why it failed: ``{"code", "description"}``.
    """

    status: str
    outcome: Json | None = None
    error: Json | None = None


def answered(answer: Json) -> DeviceResult:
    """Return the result of a method that the device answered, be it with a status of failure."""
    return DeviceResult(COMPLETED, outcome={"deviceMethodResponse": answer})


def failed(error: HubError) -> DeviceResult:
    """Return the result of what the hub could not do."""
    return DeviceResult(FAILED, error={"code": error.name, "description": error.message})


TWIN_CHANGED: Final = DeviceResult(COMPLETED, outcome={"deviceMethodResponse": None})
WAS_CANCELED: Final = DeviceResult(CANCELED)
DID_NOT_START: Final = DeviceResult(
    FAILED,
    error={
        "code": NAMES[JOB_PRECONDITION_FAILED],
        "description": "The job did not start within specified period: either device did not "
        "come online or invalid endTime specified.",
    },
)
"""As seen in public captures."""
