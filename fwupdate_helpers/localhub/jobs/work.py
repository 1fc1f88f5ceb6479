"""What a job does on one device: call a direct method, or change the twin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from fwupdate_helpers.localhub.database import Database
from fwupdate_helpers.localhub.device_endpoint import DeviceEndpoint
from fwupdate_helpers.localhub.errors import PRECONDITION_FAILED, HubError
from fwupdate_helpers.localhub.jobs.pace import Pace
from fwupdate_helpers.localhub.jobs.records import TWIN_CHANGED, answered, failed
from fwupdate_helpers.localhub.jobs.specification import METHOD, JobSpecification
from fwupdate_helpers.localhub.jobs.store import JobStore
from fwupdate_helpers.localhub.methods import DirectMethods
from fwupdate_helpers.localhub.store import Store
from fwupdate_helpers.localhub.twin_changes import TwinChanges

_LONG: Final = 3600.0


class DeviceWork(Protocol):
    """The work of one job, device by device."""

    async def get_ready(self, device_id: str) -> None:
        """Wait until the work may begin; it must begin before anything else happens.

        Raises:
            HubError: It never can.
        """

    async def carry_out(self, device_id: str) -> None:
        """Begin, do it and record the result, unless the device's part has ended before."""


@dataclass(frozen=True)
class Tools:
    """What all jobs of a hub work with."""

    database: Database
    jobs: JobStore
    store: Store
    devices: DeviceEndpoint
    methods: DirectMethods
    pace: Pace

    def work(self, told: JobSpecification) -> DeviceWork:
        """Return the work of a job."""
        return MethodWork(self, told) if told.job_type == METHOD else TwinWork(self, told)


class MethodWork:
    """Calls a direct method on each device, once it is online.

    What is under way when the hub dies is not sent again: see `JobStore.fail_interrupted`.
    """

    def __init__(self, tools: Tools, told: JobSpecification) -> None:
        self._tools = tools
        self._job_id = told.job_id
        self._method = told.method()

    async def get_ready(self, device_id: str) -> None:
        """Wait until the device takes methods, and for its turn."""
        devices = self._tools.devices
        while True:
            self._tools.store.get(device_id)
            if await devices.wait_for_methods(device_id, _LONG):
                self._tools.store.get(device_id)
                await self._tools.pace.turn()
                if devices.takes_methods(device_id):
                    return

    async def carry_out(self, device_id: str) -> None:
        """Call the method; a device that answers has completed its part, whatever it answers."""
        tools = self._tools
        if not tools.jobs.begin(self._job_id, device_id):
            return
        try:
            result = answered(await tools.methods.invoke(tools.devices, device_id, self._method))
        except HubError as error:
            result = failed(error)
        tools.jobs.end(self._job_id, device_id, result)


class TwinWork:
    """Changes each device's twin, online or not, in one transaction with the record of it."""

    def __init__(self, tools: Tools, told: JobSpecification) -> None:
        self._tools = tools
        self._told = told
        self._twins = TwinChanges(tools.store, tools.devices)

    async def get_ready(self, device_id: str) -> None:
        """Wait for the device's turn."""
        await self._tools.pace.turn()

    async def carry_out(self, device_id: str) -> None:
        """Merge the patch into the twin."""
        jobs, job_id = self._tools.jobs, self._told.job_id
        with self._tools.database.transaction():
            if not jobs.begin(job_id, device_id):
                return
            try:
                self._change(device_id)
                result = TWIN_CHANGED
            except HubError as error:
                result = failed(error)
            jobs.end(job_id, device_id, result)

    def _change(self, device_id: str) -> None:
        etag = self._told.etag
        if etag not in (None, self._tools.store.twin(device_id).etag):
            raise HubError(
                PRECONDITION_FAILED, "Precondition failed: the ETag is not that of the twin."
            )
        self._twins.patch(device_id, self._told.content)
