"""Give the orders by a scheduled job for each wave: the hub calls the devices.

Source: "Schedule jobs on multiple devices" (IoT Hub developer guide) and the SDK's job operations.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import TYPE_CHECKING, Any, Final, TypeVar

from fwupdate_helpers import contract
from fwupdate_helpers.contract import Json
from fwupdate_helpers.errors import DeviceNotFound, HubRequestError, HubThrottled
from fwupdate_helpers.hub_requests import retried
from fwupdate_helpers.queries import query_twins
from fwupdate_helpers.reported import section
from fwupdate_helpers.retries import OnRetry, RetryPolicy
from fwupdate_helpers.rollout.judging import Answer, Reply
from fwupdate_helpers.rollout.orders import (
    OFFLINE,
    answer_of_payload,
    answer_of_refusal,
    is_missing,
)
from fwupdate_helpers.rollout.terms import Terms

if TYPE_CHECKING:
    from azure.iot.hub import IoTHubRegistryManager
    from azure.iot.hub.models import JobRequest

    from fwupdate_helpers.hub import Hub

T = TypeVar("T")

_OF_JOB: Final = "SELECT * FROM devices.jobs WHERE devices.jobs.jobId ="
_ANSWER_SECONDS: Final = 30
_OVER: Final = ("completed", "failed", "cancelled", "canceled")
_JOB_QUOTA: Final = 403003
_NOT_STARTED: Final = "JobRunPreconditionFailed"
"""The hub did not reach the device within the job's window (documentation: 412003)."""


class JobOrders:
    """Orders by scheduled jobs, one for each wave; a job of a wave is found again by its id.

    Args:
        hub: The hub.
        registry: The service client, for queries.
        terms: What the rollout is to do.
        settle_seconds: How long the job waits for the hub's queries to show all devices of the
            wave: the job itself finds them by a query when it begins.
        policy: How often and how long each call is tried.
        on_retry: Called with a `Retry` before each further try.
    """

    def __init__(
        self,
        hub: Hub,
        registry: IoTHubRegistryManager,
        terms: Terms,
        *,
        settle_seconds: float,
        policy: RetryPolicy,
        on_retry: OnRetry | None = None,
    ) -> None:
        self._hub, self._registry, self._terms = hub, registry, terms
        self._settle_seconds = settle_seconds
        self._policy, self._on_retry = policy, on_retry
        self._job_id: str | None = None
        self._wave = 0
        self._device_ids: frozenset[str] = frozenset()
        self._unseen: set[str] = set()
        self._settled_at = 0.0
        self._is_open = False

    def begin(self, wave: int, device_ids: Iterable[str]) -> None:
        """Get ready; the job begins when a query shows all its devices."""
        self._wave, self._device_ids = wave, frozenset(device_ids)
        self._unseen = set(self._device_ids)
        self._settled_at = time.monotonic() + self._settle_seconds
        self._job_id, self._is_open = None, True

    def seen(self, device_id: str, reported: Json) -> None:
        """Note that queries find the device."""
        self._unseen.discard(device_id)

    def answers(self) -> dict[str, Answer]:
        """Return what the job tells of each device; begin the job when it is time."""
        if self._job_id is None and self._is_open:
            self._begin_when_seen()
        if self._job_id is None:
            return {}
        query = f"{_OF_JOB} '{self._job_id}'"
        rows = query_twins(self._registry, query, policy=self._policy, on_retry=self._on_retry)
        found = {row.device_id: answer_of_job(_fields(row)) for row in rows}
        left = self._device_ids - found.keys()
        if left and self._status(self._job_id) in _OVER:
            found |= dict.fromkeys(left, Answer(Reply.WITHDRAWN))
        return found

    def stop_trying(self) -> None:
        """Nothing to do: the job's own window ends. A job that has not begun never does."""
        self._is_open = False

    def withdraw(self) -> None:
        """Cancel the job: devices that it has not called are not called any more."""
        self._is_open = False
        if self._job_id is not None and self._status(self._job_id) not in _OVER:
            self._cancel(self._job_id)

    def end(self) -> None:
        """End the wave's job, which has nothing left to do, as few may be active at a time."""
        self.withdraw()
        self._job_id = None

    def give_up(self, wave: int) -> None:
        """Cancel the wave's job, also when another kernel has begun it."""
        self._wave, self._is_open = wave, False
        for job_id in self._names():
            status = self._status(job_id)
            if status is None:
                return
            if status not in _OVER:
                self._cancel(job_id)

    def _begin_when_seen(self) -> None:
        if self._unseen and time.monotonic() < self._settled_at:
            return
        next(job_id for job_id in self._names() if self._begin_or_join(job_id))

    def _names(self) -> Iterator[str]:
        """Yield the ids of the wave's jobs: each kernel that goes on with the wave may need one."""
        name = f"{self._terms.rollout_id}-{self._terms.run}-wave-{self._wave}"
        yield from (f"{name}-{number}" for number in count(1))

    def _begin_or_join(self, job_id: str) -> bool:
        """Begin a job, or go on with the one of an earlier kernel; False when that one is over."""
        try:
            self._call(lambda: self._hub.jobs.create_scheduled_job(job_id, self._request()))
        except HubRequestError as error:
            if too_many_jobs(error):  # the next look tries again
                return True
            if error.status != 409:
                raise
            if self._status(job_id) in _OVER:
                return False
        self._job_id = job_id
        return True

    def _request(self) -> JobRequest:
        from azure.iot.hub.models import CloudToDeviceMethod
        from azure.iot.hub.protocol.models import JobRequest

        method = CloudToDeviceMethod(
            method_name=contract.METHOD,
            payload=self._terms.payload(),
            response_timeout_in_seconds=_ANSWER_SECONDS,
        )
        return JobRequest(
            type="scheduleDeviceMethod",
            cloud_to_device_method=method,
            query_condition=self._terms.condition(self._wave),
            max_execution_time_in_seconds=max(1, round(self._terms.limits.reach_seconds)),
        )

    def _status(self, job_id: str) -> str | None:
        try:
            return str(self._call(lambda: self._hub.jobs.get_scheduled_job(job_id)).status)
        except (HubRequestError, DeviceNotFound) as error:
            if not is_missing(error):
                raise
            return None

    def _cancel(self, job_id: str) -> None:
        try:
            self._call(lambda: self._hub.jobs.cancel_scheduled_job(job_id))
        except HubRequestError as error:
            if error.status not in (400, 404, 409):  # it has ended by itself meanwhile
                raise

    def _call(self, request: Callable[[], T]) -> T:
        return retried(request, policy=self._policy, on_retry=self._on_retry)


def too_many_jobs(error: HubRequestError) -> bool:
    """Tell whether a job was refused because others are active, which passes.

    Source: 403003 and 429004 in Microsoft's "Understand and resolve Azure IoT Hub errors".
    """
    return isinstance(error, HubThrottled) or error.code == _JOB_QUOTA


def _fields(row: Any) -> Json:
    """Return a row of ``devices.jobs``, of which the SDK has made a Twin."""
    return {**(row.additional_properties or {}), "status": row.status}


def answer_of_job(row: Json) -> Answer:
    """Return what a job tells of one device, which it may yet call until its window ends.

    Args:
        row: A row of ``devices.jobs``.
    """
    status = row.get("status")
    if status == "completed":
        answer = section(row, "outcome", "deviceMethodResponse")
        code, payload = answer.get("status"), answer.get("payload")
        return answer_of_payload(payload) if code == 200 else answer_of_refusal(code or 0, payload)
    if status == "failed":
        code = str(section(row, "error").get("code") or "unknown")
        if code == "DeviceNotFound":
            return Answer(Reply.GONE)
        is_unreached = code == _NOT_STARTED
        return Answer(Reply.WITHDRAWN, OFFLINE) if is_unreached else Answer(Reply.SENT, code)
    return Answer(Reply.WITHDRAWN if status == "canceled" else Reply.SENT)
