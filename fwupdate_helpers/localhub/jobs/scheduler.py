"""All jobs of the hub that are not over, each in a task of its own, and how they begin and end."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from fwupdate_helpers.localhub import query
from fwupdate_helpers.localhub.errors import (
    INVALID_OPERATION,
    TOO_MANY_ACTIVE_JOBS,
    HubError,
)
from fwupdate_helpers.localhub.jobs.records import CANCELLED, QUEUED, SCHEDULED, WAS_CANCELED, Job
from fwupdate_helpers.localhub.jobs.run import Clock, JobRun
from fwupdate_helpers.localhub.jobs.specification import JobSpecification
from fwupdate_helpers.localhub.jobs.work import Tools
from fwupdate_helpers.localhub.tiers import Tier

Json = dict[str, Any]

HISTORY: Final = timedelta(days=30)
"""How long a job is kept after its end, as on Azure."""


@dataclass(frozen=True)
class JobLimits:
    """What a hub's jobs may use.

    Attributes:
        active: How many may be active at a time. Azure: 1 in the tiers F1 and S1, 5 in S2, 10 in
            S3.
        devices_per_second: On how many devices all jobs together begin. Azure: 10 in F1 and S1,
            and up to 50 for each unit of S3.

    Source: Microsoft's "IoT Hub quotas and throttling" (iot-hub-devguide-quotas-throttling.md).
    """

    active: int = 10
    devices_per_second: float = 100.0

    @classmethod
    def of(cls, tier: Tier | None) -> JobLimits:
        """Return the limits of a tier; without one, those that a class does not wait for."""
        return cls(tier.active_jobs, tier.job_devices_per_second) if tier else cls()


class JobScheduler:
    """Carries out jobs inside the hub's asyncio loop; it sleeps until something is to be done.

    Args:
        clock: The hub's clock.

    Attributes:
        jobs: Where all jobs are kept, those that are over too.
    """

    def __init__(self, tools: Tools, limits: JobLimits, clock: Clock) -> None:
        self._tools = tools
        self.jobs = tools.jobs
        self._limits = limits
        self._clock = clock
        self._slots = asyncio.Semaphore(limits.active)
        self._runs: dict[str, JobRun] = {}

    def resume(self) -> None:
        """Go on with the jobs that the last hub left; call it once, when the hub starts."""
        self._prune()
        self.jobs.fail_interrupted()
        for job in self.jobs.unfinished():
            self._launch(job)

    def create(self, job_id: str, body: Json) -> Job:
        """Check a request and take the job.

        Raises:
            HubError: 400004, a bad request; 409104, the id is taken; 429004, too many active jobs.
        """
        now = self._clock()
        told = JobSpecification.from_json(job_id, body, now)
        query.check_condition(told.condition)
        self._prune()
        starts_now = told.start <= now
        if self.jobs.find(job_id) is None and starts_now:
            self._check_limit()
        job = Job(told, QUEUED if starts_now else SCHEDULED, created=now)
        self.jobs.create(job)
        self._launch(job)
        return job

    def _check_limit(self) -> None:
        active = sum(run.is_active for run in self._runs.values())
        if active >= self._limits.active:
            raise HubError(
                TOO_MANY_ACTIVE_JOBS,
                f"{active} jobs are active, and this hub allows {self._limits.active}. Wait until "
                "one ends, cancel one, or give the job a later startTime.",
            )

    def cancel(self, job_id: str) -> Job:
        """Cancel a job; one that was cancelled before stays so.

        Raises:
            HubError: 404002, there is no such job; 400003, it has ended.
        """
        job = self.jobs.get(job_id)
        if job.status == CANCELLED:
            return job
        if job.is_over:
            raise HubError(
                INVALID_OPERATION,
                f"The job '{job_id}' has {job.status}; there is nothing to cancel.",
            )
        self.jobs.cancel(job_id, WAS_CANCELED)
        if run := self._runs.get(job_id):
            run.stop()
        return self.jobs.get(job_id)

    async def close(self) -> None:
        """Stop working; what is not over goes on with the next hub."""
        tasks = [run.task for run in self._runs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _launch(self, job: Job) -> None:
        run = JobRun(
            job, self._tools, slots=self._slots, targets=self._device_ids, clock=self._clock
        )
        self._runs[job.job_id] = run
        run.task.add_done_callback(lambda task: self._forget(job.job_id, run))

    def _forget(self, job_id: str, run: JobRun) -> None:
        if self._runs.get(job_id) is run:
            del self._runs[job_id]

    def _device_ids(self, condition: str) -> list[str]:
        return query.device_ids(self._tools.database, condition)

    def _prune(self) -> None:
        self.jobs.prune(self._clock() - HISTORY)
