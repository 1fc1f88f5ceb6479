"""What jobs need of a hub, in this process and on a virtual clock, and requests for jobs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fwupdate_helpers.localhub.authentication import Authenticator
from fwupdate_helpers.localhub.database import Database
from fwupdate_helpers.localhub.device_connection import DeviceConnection
from fwupdate_helpers.localhub.device_endpoint import DeviceEndpoint
from fwupdate_helpers.localhub.fault_wire import WireFaults
from fwupdate_helpers.localhub.jobs.pace import Pace
from fwupdate_helpers.localhub.jobs.scheduler import JobLimits, JobScheduler
from fwupdate_helpers.localhub.jobs.store import JobStore
from fwupdate_helpers.localhub.jobs.work import Tools
from fwupdate_helpers.localhub.methods import DirectMethods
from fwupdate_helpers.localhub.sas import make_token, new_key
from fwupdate_helpers.localhub.store import Store
from fwupdate_helpers.localhub.wiretrace import WireTrace
from tests.raw_mqtt import METHODS, connect, publish, subscribe
from tests.virtual_time import VirtualLoop, run

Json = dict[str, Any]

METHOD_JOB: Json = {
    "type": "scheduleDeviceMethod",
    "queryCondition": "*",
    "cloudToDeviceMethod": {"methodName": "firmwareUpdate", "payload": {"a": 1}},
}
TWIN_JOB: Json = {
    "type": "scheduleUpdateTwin",
    "queryCondition": "*",
    "updateTwin": {"etag": "*", "tags": {"site": "A"}, "properties": {"desired": {"x": 1}}},
}


HOST = "127.0.0.1"
KEY = new_key()


class Wire(asyncio.Transport):
    """A device's connection without a socket.

    Attributes:
        sent: What the hub sent, write by write.
    """

    def __init__(self, connection: DeviceConnection) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self._connection = connection
        connection.connection_made(self)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Take all that comes."""

    def write(self, data: Any) -> None:
        self.sent.append(bytes(data))

    def close(self) -> None:
        asyncio.get_running_loop().call_soon(self._connection.connection_lost, None)

    def send(self, *packets: bytes) -> None:
        self._connection.data_received(b"".join(packets))

    def answer(self, status: int = 200) -> None:
        """Answer the last method."""
        rid = self.sent[-1].partition(b"$rid=")[2][:16].decode()
        self.send(publish(f"$iothub/methods/res/{status}/?$rid={rid}", b'"done"'))


class Bench:
    """All parts of a hub that jobs need, on a virtual clock, and devices without sockets."""

    def __init__(self, file: Path) -> None:
        self.loop = VirtualLoop()
        self._file = file
        self.database = Database(file, self.loop.clock)
        self.store = Store(self.database)

    def scheduler(self, **limits: Any) -> JobScheduler:
        """Return what a hub that starts now works with."""
        methods, clock, store = DirectMethods(), self.loop.clock, self.store
        self.devices = DeviceEndpoint(
            store,
            Authenticator({}, host_names=frozenset({HOST}), store=store, clock=clock),
            methods,
            clock,
            WireTrace(clock, defer=lambda call: None, on=False),
            WireFaults(clock),
        )
        given = JobLimits(**limits)
        tools = Tools(
            self.database,
            JobStore(self.database),
            store,
            self.devices,
            methods,
            Pace(given.devices_per_second),
        )
        self.jobs = JobScheduler(tools, given, clock)
        self.jobs.resume()
        return self.jobs

    def add_devices(self, *device_ids: str) -> None:
        keys = {"primaryKey": KEY, "secondaryKey": KEY}
        for device_id in device_ids:
            self.store.create(
                device_id,
                status="enabled",
                status_reason=None,
                authentication={"type": "sas", "symmetricKey": keys},
                capabilities={},
            )

    def switch_on(self, device_id: str) -> Wire:
        """Connect a device that takes methods."""
        wire = Wire(self.devices.new_connection())
        expiry = int(self.loop.clock().timestamp()) + 86400
        password = make_token(f"{HOST}/devices/{device_id}", KEY, expiry)
        user = f"{HOST}/{device_id}/?api-version=2019-10-01"
        wire.send(connect(device_id, user, password, keep_alive=0), subscribe(1, (METHODS, 0)))
        assert len(wire.sent) == 2, "CONNACK and SUBACK"
        wire.sent.clear()
        return wire

    def status(self, job_id: str) -> str:
        return self.jobs.jobs.get(job_id).status

    def counts(self, job_id: str) -> Json:
        return dict(self.jobs.jobs.counts(job_id))

    def rows(self, job_id: str) -> dict[str, Json]:
        """Return a job's parts by device."""
        rows = self.database.connection.execute(
            "SELECT * FROM device_jobs WHERE job_id = ?", (job_id,)
        )
        return {row["device_id"]: dict(row) for row in rows}

    def error(self, job_id: str, device_id: str) -> Json:
        return dict(json.loads(self.rows(job_id)[device_id]["error"]))

    def run(self, story: Callable[[], Awaitable[Any]]) -> None:
        """Run a test's story, and end the hub."""

        async def whole() -> None:
            try:
                await story()
            finally:
                await self.jobs.close()

        run(self.loop, whole())
