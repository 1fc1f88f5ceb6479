"""The life of one job, from its creation or the hub's start to its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Final

from fwupdate_helpers.localhub.errors import SERVER_ERROR, HubError
from fwupdate_helpers.localhub.jobs.records import (
    COMPLETED,
    DID_NOT_START,
    FAILED,
    RUNNING,
    SCHEDULED,
    Job,
    failed,
)
from fwupdate_helpers.localhub.jobs.work import DeviceWork, Tools

logger = logging.getLogger(__name__)

Clock = Callable[[], datetime]
Targets = Callable[[str], list[str]]
"""Tells which devices satisfy a condition."""

_RECHECK: Final = 60.0
"""Seconds after which the clock is looked at again: a laptop that sleeps stops its timers."""
_FAILED: Final = "The local hub failed; its log tells why."


class JobRun:
    """One job that is not over.

    Args:
        job: As it is stored.
        slots: One for each job that may be active.

    Attributes:
        is_active: Whether it counts against the limit: it runs, or waits for others to end.
    """

    def __init__(
        self, job: Job, tools: Tools, *, slots: asyncio.Semaphore, targets: Targets, clock: Clock
    ) -> None:
        self._job = job
        self._id = job.job_id
        self._tools = tools
        self._jobs = tools.jobs
        self._slots = slots
        self._targets = targets
        self._clock = clock
        self._works = False
        self._waiting: set[asyncio.Task[None]] = set()
        self._under_way: set[asyncio.Task[None]] = set()
        self.is_active = job.status != SCHEDULED
        self.task = asyncio.get_running_loop().create_task(self._live(), name=f"job {self._id}")

    def stop(self) -> None:
        """Begin nothing more: the job was cancelled. What devices have begun they may finish."""
        if self._works:
            self._stop_waiting()
        else:
            self.task.cancel()

    async def _live(self) -> None:
        try:
            await self._wait_for_start()
            if await self._take_slot():
                try:
                    await self._run()
                finally:
                    self._slots.release()
        except HubError as error:
            self._jobs.finish(self._id, FAILED, error.message)
        except Exception:
            logger.exception("job %r could not be carried out", self._id)
            self._jobs.finish(self._id, FAILED, _FAILED)

    async def _wait_for_start(self) -> None:
        while (left := self._seconds_until(self._job.specification.start)) > 0:
            await asyncio.sleep(min(left, _RECHECK))
        if self._job.status == SCHEDULED:
            self._jobs.queue(self._id)
        self.is_active = True

    async def _take_slot(self) -> bool:
        """Wait until there are few enough active jobs; False when the window ends before."""
        if self._job.status == RUNNING:
            await self._slots.acquire()
            return True
        while (left := self._seconds_until(self._job.window_end)) > 0:
            try:
                await asyncio.wait_for(self._slots.acquire(), min(left, _RECHECK))
            except asyncio.TimeoutError:
                continue
            return True
        reason = (
            "The job did not start within its window: the hub did not run, or other jobs were "
            "active all the time."
        )
        self._jobs.finish(self._id, FAILED, reason)
        return False

    async def _run(self) -> None:
        if self._job.status != RUNNING:
            self._jobs.start(self._id, self._targets(self._job.specification.condition))
            logger.info("job %r runs", self._id)
        self._works = True
        await self._work_on(self._jobs.waiting(self._id))
        self._jobs.finish(self._id, COMPLETED)

    async def _work_on(self, device_ids: list[str]) -> None:
        work = self._tools.work(self._job.specification)
        self._waiting = {asyncio.create_task(self._one(work, one)) for one in device_ids}
        for task in self._waiting:
            task.add_done_callback(self._ended)
        try:
            while self._waiting and (left := self._seconds_until(self._job.window_end)) > 0:
                await asyncio.wait(self._waiting, timeout=min(left, _RECHECK))
            self._jobs.end_waiting(self._id, DID_NOT_START)
            self._stop_waiting()
            if self._under_way:
                await asyncio.wait(self._under_way)
        finally:
            # There are none, unless the hub ends.
            left_over = self._waiting | self._under_way
            for task in left_over:
                task.cancel()
            await asyncio.gather(*left_over, return_exceptions=True)

    async def _one(self, work: DeviceWork, device_id: str) -> None:
        try:
            await work.get_ready(device_id)
            self._goes_on()
            await work.carry_out(device_id)
        except HubError as error:
            self._jobs.end(self._id, device_id, failed(error))
        except Exception:
            logger.exception("job %r: device %r failed", self._id, device_id)
            self._jobs.end(self._id, device_id, failed(HubError(SERVER_ERROR, _FAILED)))

    def _goes_on(self) -> None:
        """Note that the current task is not cancelled any more."""
        if task := asyncio.current_task():
            self._waiting.discard(task)
            self._under_way.add(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._waiting.discard(task)
        self._under_way.discard(task)

    def _stop_waiting(self) -> None:
        while self._waiting:
            self._waiting.pop().cancel()

    def _seconds_until(self, moment: datetime) -> float:
        return (moment - self._clock()).total_seconds()
