"""What a job is told to do: the request as the REST API takes it, checked.

Pure functions: no I/O, and the time is handed in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from fwupdate_helpers.localhub.errors import ARGUMENT_INVALID, HubError
from fwupdate_helpers.localhub.jsontext import read_timestamp, timestamp
from fwupdate_helpers.localhub.methods import MethodRequest
from fwupdate_helpers.localhub.twins import desired_patch, new_twin, patch_by_service

Json = dict[str, Any]

METHOD: Final = "scheduleDeviceMethod"
TWIN: Final = "scheduleUpdateTwin"
CONTENT: Final = {METHOD: "cloudToDeviceMethod", TWIN: "updateTwin"}
"""The types of jobs, and the field of the request that says what to do."""

DEFAULT_SECONDS: Final = 3600
"""How long a job may wait for its devices when it does not say; as azure-iothub for Node.js."""
MAX_SECONDS: Final = 30 * 24 * 3600
MAX_AHEAD: Final = timedelta(days=3660)
"""How far ahead a start may lie: what is beyond is a slip of the pen."""
_JOB_ID: Final = re.compile(r"[A-Za-z0-9\-.%_*?!(),:=@$']{1,128}")


@dataclass(frozen=True)
class JobSpecification:
    """A checked request.

    Attributes:
        job_type: `METHOD` or `TWIN`.
        condition: The WHERE expression that the devices must satisfy, or ``*``.
        start: When the job may start, UTC.
        seconds: How long after its start devices may begin.
        content: The method's call, or the twin patch with its ETag, as given.
    """

    job_id: str
    job_type: str
    condition: str
    start: datetime
    seconds: int
    content: Json

    @classmethod
    def from_json(cls, job_id: str, body: Json, now: datetime) -> JobSpecification:
        """Check a request; raise `HubError` 400004 for a bad one.

        The condition is checked to be a text; whether it is a query is not known here.

        Args:
            now: The start of a job that names none.
        """
        _check_job_id(job_id, body)
        job_type = body.get("type")
        if not isinstance(job_type, str) or job_type not in CONTENT:
            raise _invalid(f"type must be one of {', '.join(CONTENT)}")
        specification = cls(
            job_id=job_id,
            job_type=job_type,
            condition=_condition(body),
            start=_start(body.get("startTime"), now),
            seconds=_seconds(body.get("maxExecutionTimeInSeconds")),
            content=_content(job_type, body),
        )
        specification.check_content(now)
        return specification

    def check_content(self, now: datetime) -> None:
        """Hold the method's call or the patch against its own rules."""
        if self.job_type == METHOD:
            self.method()
            return
        patch_by_service(new_twin(timestamp(now)), self.content, timestamp(now))
        if self.content.get("tags") is None and desired_patch(self.content) is None:
            raise _invalid("updateTwin must hold 'tags' or 'properties.desired'")
        if not isinstance(self.content.get("etag"), str):
            raise _invalid("updateTwin must hold an 'etag', as a rule '*'")

    def method(self) -> MethodRequest:
        """Return the method's call; instead of its connect timeout, the job's window counts."""
        return MethodRequest.from_json(self.content)

    @property
    def etag(self) -> str | None:
        """The ETag that a twin must have to be changed; None for any."""
        etag = str(self.content.get("etag", "*")).strip('"')
        return None if etag == "*" else etag

    def window_end(self, created: datetime) -> datetime:
        """Return until when devices may begin."""
        return max(self.start, created) + timedelta(seconds=self.seconds)


def _check_job_id(job_id: str, body: Json) -> None:
    if not _JOB_ID.fullmatch(job_id):
        raise _invalid("A job id has 1 to 128 ASCII letters, digits and - . % _ * ? ! ( ) , : = @")
    if body.get("jobId") not in (None, job_id):
        raise _invalid("The jobId of the body is not that of the path")


def _condition(body: Json) -> str:
    condition = body.get("queryCondition")
    if not isinstance(condition, str) or not condition.strip():
        raise _invalid("queryCondition must be a WHERE expression without the word WHERE, or '*'")
    return condition


def _start(given: Any, now: datetime) -> datetime:
    if given is None:
        return now
    start = read_timestamp(given) if isinstance(given, str) else None
    if start is None:
        raise _invalid("startTime must be an ISO 8601 time such as 2030-01-31T09:00:00Z (UTC)")
    if start > now + MAX_AHEAD:
        raise _invalid(f"startTime must be within {MAX_AHEAD.days} days from now")
    return start


def _seconds(given: Any) -> int:
    if given is None:
        return DEFAULT_SECONDS
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= MAX_SECONDS:
        raise _invalid(f"maxExecutionTimeInSeconds must be within [1; {MAX_SECONDS}]")
    return given


def _content(job_type: str, body: Json) -> Json:
    content = body.get(CONTENT[job_type])
    if not isinstance(content, dict):
        raise _invalid(f"A job of type {job_type} needs the object {CONTENT[job_type]}")
    return content


def _invalid(problem: str) -> HubError:
    return HubError(ARGUMENT_INVALID, f"{problem}.")
