"""Scheduled jobs without a wire: what a request may hold, what is kept, and when what happens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fwupdate_helpers.localhub.__main__ import main
from fwupdate_helpers.localhub.authentication import Authenticator
from fwupdate_helpers.localhub.database import Database
from fwupdate_helpers.localhub.device_connection import DeviceConnection
from fwupdate_helpers.localhub.device_endpoint import DeviceEndpoint
from fwupdate_helpers.localhub.errors import HubError
from fwupdate_helpers.localhub.fault_wire import WireFaults
from fwupdate_helpers.localhub.jobs.pace import Pace
from fwupdate_helpers.localhub.jobs.records import statistics
from fwupdate_helpers.localhub.jobs.scheduler import JobLimits, JobScheduler
from fwupdate_helpers.localhub.jobs.specification import JobSpecification
from fwupdate_helpers.localhub.jobs.store import JobStore
from fwupdate_helpers.localhub.jobs.work import Tools
from fwupdate_helpers.localhub.jsontext import read_timestamp
from fwupdate_helpers.localhub.methods import DirectMethods
from fwupdate_helpers.localhub.sas import make_token, new_key
from fwupdate_helpers.localhub.store import Store
from fwupdate_helpers.localhub.wiretrace import WireTrace
from tests.raw_mqtt import DISCONNECT, METHODS, connect, publish, subscribe
from tests.virtual_time import START, VirtualLoop, run

Json = dict[str, Any]

METHOD: Json = {
    "type": "scheduleDeviceMethod",
    "queryCondition": "*",
    "cloudToDeviceMethod": {"methodName": "firmwareUpdate", "payload": {"a": 1}},
}
TWIN: Json = {
    "type": "scheduleUpdateTwin",
    "queryCondition": "*",
    "updateTwin": {"etag": "*", "tags": {"site": "A"}, "properties": {"desired": {"x": 1}}},
}


# -- requests -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2030-01-31T09:00:00Z", 0),
        ("2030-01-31T09:00:00", 0),  # naive: UTC
        ("2030-01-31T09:00:00.5", 0.5),
        ("2030-01-31T09:00:00.1234567Z", 0.123456),
        ("2030-01-31T09:00:00.123456789Z", 0.123456),
        ("2030-01-31T10:00:00+01:00", 0),
        ("2030-01-31T03:30:00-05:30", 0),
        ("2030-01-31T09:00", None),
        ("2030-01-31", None),
        ("2030-02-30T09:00:00Z", None),
        ("2030-01-31T24:01:00Z", None),
        ("2030-01-31T09:00:00+25:00", None),
        ("0001-01-01T00:00:00+10:00", None),
        ("tomorrow", None),
        ("", None),
        ("2030-01-31T09:00:00Z\n", None),
        ("٢٠٣٠-01-31T09:00:00Z", None),
    ],
)
def test_a_time_is_read_as_utc_or_not_at_all(text: str, seconds: float | None) -> None:
    expected = None if seconds is None else START + timedelta(seconds=seconds)
    assert read_timestamp(text) == expected


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"type": None}, "type must be one of scheduleDeviceMethod, scheduleUpdateTwin"),
        ({"type": "export"}, "type must be one of"),
        ({"type": ["scheduleDeviceMethod"]}, "type must be one of"),
        ({"jobId": "other"}, "jobId of the body"),
        ({"queryCondition": None}, "queryCondition must be"),
        ({"queryCondition": " "}, "queryCondition must be"),
        ({"queryCondition": ["*"]}, "queryCondition must be"),
        ({"startTime": "soon"}, "startTime must be an ISO 8601 time"),
        ({"startTime": 1890000000}, "startTime must be an ISO 8601 time"),
        ({"startTime": "2230-01-31T09:00:00Z"}, "within 3660 days"),
        ({"maxExecutionTimeInSeconds": 0}, r"within \[1; 2592000\]"),
        ({"maxExecutionTimeInSeconds": -1}, r"within \[1; 2592000\]"),
        ({"maxExecutionTimeInSeconds": 2592001}, r"within \[1; 2592000\]"),
        ({"maxExecutionTimeInSeconds": 1.5}, r"within \[1; 2592000\]"),
        ({"maxExecutionTimeInSeconds": True}, r"within \[1; 2592000\]"),
        ({"maxExecutionTimeInSeconds": "60"}, r"within \[1; 2592000\]"),
        ({"cloudToDeviceMethod": None}, "needs the object cloudToDeviceMethod"),
        ({"cloudToDeviceMethod": "reboot"}, "needs the object cloudToDeviceMethod"),
        ({"cloudToDeviceMethod": {}}, "methodName must be"),
        ({"cloudToDeviceMethod": {"methodName": "a b"}}, "methodName must be"),
        (
            {"cloudToDeviceMethod": {"methodName": "m", "responseTimeoutInSeconds": 1}},
            r"responseTimeoutInSeconds must be within \[5; 300\]",
        ),
    ],
)
def test_a_bad_request_is_refused_with_what_is_wrong(changes: Json, told: str) -> None:
    with pytest.raises(HubError, match=told) as error:
        JobSpecification.from_json("job", {**METHOD, **changes}, START)
    assert error.value.code == 400004


@pytest.mark.parametrize(
    ("patch", "told"),
    [
        (None, "needs the object updateTwin"),
        ({"etag": "*"}, "'tags' or 'properties.desired'"),
        ({"etag": "*", "properties": {"reported": {"x": 1}}}, "'tags' or 'properties.desired'"),
        ({"tags": {"a": 1}}, "'etag'"),
        ({"etag": 1, "tags": {"a": 1}}, "'etag'"),
        ({"etag": "*", "tags": ["a"]}, "'tags' of a twin must be an object"),
        ({"etag": "*", "tags": {"a.b": 1}}, "tags section of the twin has the key"),
        ({"etag": "*", "properties": {"desired": {"x": "y" * 5000}}}, "string of over 4096 bytes"),
    ],
)
def test_a_bad_twin_patch_is_refused_before_it_meets_a_device(patch: Any, told: str) -> None:
    with pytest.raises(HubError, match=told) as error:
        JobSpecification.from_json("job", {**TWIN, "updateTwin": patch}, START)
    assert error.value.code == 400004


@pytest.mark.parametrize("job_id", ["", "a/b", "ä", "a b", "x" * 129])
def test_a_job_id_is_that_of_a_url(job_id: str) -> None:
    with pytest.raises(HubError, match="A job id has 1 to 128"):
        JobSpecification.from_json(job_id, METHOD, START)


@pytest.mark.parametrize(
    ("given", "start", "window_end"),
    [
        ({}, 0, 3600),
        ({"startTime": None, "maxExecutionTimeInSeconds": None}, 0, 3600),
        ({"maxExecutionTimeInSeconds": 60}, 0, 60),
        ({"startTime": "2030-01-31T09:01:00", "maxExecutionTimeInSeconds": 10}, 60, 70),
        # A clock that is slow, or a start that has passed: the window is not shorter for that.
        ({"startTime": "2030-01-31T08:00:00Z", "maxExecutionTimeInSeconds": 10}, -3600, 10),
    ],
)
def test_the_window_begins_at_the_start_or_at_the_creation(
    given: Json, start: int, window_end: int
) -> None:
    job = JobSpecification.from_json("job", {**METHOD, "updateTwin": None, **given}, START)
    assert (job.start - START).total_seconds() == start
    assert (job.window_end(START) - START).total_seconds() == window_end


def test_statistics_count_a_canceled_device_among_all_only() -> None:
    counts = {"completed": 5, "failed": 4, "running": 3, "pending": 2, "canceled": 1}
    assert statistics(counts) == {
        "deviceCount": 15,
        "succeededCount": 5,
        "failedCount": 4,
        "runningCount": 3,
        "pendingCount": 2,
    }


# -- a hub without a wire -----------------------------------------------------------------------


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


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "hub.db")
    bench.add_devices("d1", "d2", "d3")
    yield bench
    bench.database.close()
    bench.loop.close()


def in_seconds(seconds: float) -> str:
    return (START + timedelta(seconds=seconds)).isoformat()


def test_a_job_waits_for_its_start_and_takes_the_devices_of_that_moment(bench: Bench) -> None:
    async def story() -> None:
        jobs = bench.scheduler()
        created = jobs.create("later", {**TWIN, "startTime": in_seconds(3 * 86400)})
        assert created.status == "scheduled"
        await asyncio.sleep(3 * 86400 - 1)
        assert bench.status("later") == "scheduled"
        assert bench.store.twin("d1").tags == {}
        bench.add_devices("d4")  # matches by now, so it takes part
        await asyncio.sleep(2)
        assert bench.status("later") == "completed"
        assert bench.counts("later") == {"completed": 4}
        bench.add_devices("d5")  # too late
        await asyncio.sleep(2)
        assert bench.store.twin("d4").tags == {"site": "A"}
        assert bench.store.twin("d5").tags == {}

    bench.run(story)


def test_a_start_is_met_after_the_machine_slept(bench: Bench) -> None:
    async def story() -> None:
        jobs = bench.scheduler()
        jobs.create("later", {**TWIN, "startTime": in_seconds(8 * 3600)})
        await asyncio.sleep(1)
        bench.loop.skew = timedelta(hours=8)  # timers stood still meanwhile
        await asyncio.sleep(61)
        assert bench.status("later") == "completed"

    bench.run(story)


def test_devices_that_stay_offline_fail_at_the_end_of_the_window(bench: Bench) -> None:
    async def story() -> None:
        jobs = bench.scheduler()
        jobs.create("job", {**METHOD, "maxExecutionTimeInSeconds": 600})
        await asyncio.sleep(599)
        assert (bench.status("job"), bench.counts("job")) == ("running", {"pending": 3})
        await asyncio.sleep(2)
        assert (bench.status("job"), bench.counts("job")) == ("completed", {"failed": 3})
        assert bench.error("job", "d1")["code"] == "JobRunPreconditionFailed"
        assert "did not start within specified period" in bench.error("job", "d1")["description"]
        assert bench.rows("job")["d1"]["start_time"] is None

    bench.run(story)


def test_a_device_that_had_begun_may_finish_after_the_window(bench: Bench) -> None:
    async def story() -> None:
        jobs = bench.scheduler()
        method = {"methodName": "m", "responseTimeoutInSeconds": 300}
        jobs.create(
            "job", {**METHOD, "cloudToDeviceMethod": method, "maxExecutionTimeInSeconds": 60}
        )
        answers, silent = bench.switch_on("d1"), bench.switch_on("d2")
        await asyncio.sleep(120)
        assert bench.counts("job") == {"running": 2, "failed": 1}
        answers.answer(status=500)  # it answered: that is all that counts
        await asyncio.sleep(1)
        assert (bench.status("job"), bench.counts("job")) == (
            "running",
            {"completed": 1, "running": 1, "failed": 1},
        )
        await asyncio.sleep(200)
        assert (bench.status("job"), bench.counts("job")) == (
            "completed",
            {"completed": 1, "failed": 2},
        )
        assert len(silent.sent) == 1
        assert bench.error("job", "d2")["code"] == "GatewayTimeout"
        assert json.loads(bench.rows("job")["d1"]["outcome"]) == {
            "deviceMethodResponse": {"status": 500, "payload": "done"}
        }

    bench.run(story)


def test_a_device_that_leaves_before_its_turn_is_waited_for_again(bench: Bench) -> None:
    async def story() -> None:
        jobs = bench.scheduler(devices_per_second=0.1)
        first, second = bench.switch_on("d1"), bench.switch_on("d2")
        jobs.create("job", METHOD)
        await asyncio.sleep(1)  # the turn of d1; that of d2 comes in nine seconds
        first.answer()
        second.send(DISCONNECT)
        await asyncio.sleep(60)
        assert (bench.counts("job"), second.sent) == ({"completed": 1, "pending": 2}, [])
        back = bench.switch_on("d2")
        await asyncio.sleep(30)
        back.answer()
        await asyncio.sleep(1)
        assert bench.counts("job") == {"completed": 2, "pending": 1}

    bench.run(story)


def test_a_method_under_way_at_the_end_of_the_hub_is_failed_and_not_sent_again(
    bench: Bench,
) -> None:
    async def story() -> None:
        jobs = bench.scheduler()
        jobs.create("job", {**METHOD, "queryCondition": "deviceId = 'd1'"})
        before = bench.switch_on("d1")
        await asyncio.sleep(1)
        assert len(before.sent) == 1
        await jobs.close()
        assert bench.counts("job") == {"running": 1}
        bench.scheduler()
        after = bench.switch_on("d1")
        await asyncio.sleep(60)
        assert (bench.status("job"), bench.counts("job")) == ("completed", {"failed": 1})
        assert after.sent == []
        assert "may have run it" in bench.error("job", "d1")["description"]

    bench.run(story)


def test_a_deleted_device_fails_at_once_and_the_others_wait_on(bench: Bench) -> None:
    async def story() -> None:
        jobs = bench.scheduler()
        jobs.create("job", METHOD)
        await asyncio.sleep(1)
        bench.devices.forget("d2")
        bench.store.delete("d2")
        await asyncio.sleep(1)
        assert bench.counts("job") == {"pending": 2, "failed": 1}
        assert bench.error("job", "d2") == {"code": "DeviceNotFound", "description": "d2"}

    bench.run(story)


def test_all_jobs_together_keep_the_pace(bench: Bench) -> None:
    bench.add_devices(*(f"e{number}" for number in range(97)))

    async def story() -> None:
        jobs = bench.scheduler(devices_per_second=10)
        jobs.create("one", TWIN)
        jobs.create("two", TWIN)
        await asyncio.sleep(5.05)
        assert bench.counts("one") == {"completed": 51, "pending": 49}
        jobs.cancel("one")  # takes no turns any more
        await asyncio.sleep(5)
        assert bench.counts("two") == {"completed": 50, "pending": 50}
        await asyncio.sleep(5)
        assert bench.counts("two") == {"completed": 100}
        assert bench.status("one") == "cancelled"
        assert bench.counts("one") == {"completed": 51, "canceled": 49}

    bench.run(story)


def test_a_twin_job_that_is_out_of_time_fails_on_the_rest(bench: Bench) -> None:
    async def story() -> None:
        jobs = bench.scheduler(devices_per_second=0.5)
        jobs.create("job", {**TWIN, "maxExecutionTimeInSeconds": 3})
        await asyncio.sleep(4)
        assert bench.status("job") == "completed"
        assert bench.counts("job") == {"completed": 2, "failed": 1}
        assert bench.store.twin("d3").tags == {}

    bench.run(story)


def test_one_job_too_many_is_refused_and_a_scheduled_one_waits(bench: Bench) -> None:
    async def story() -> None:
        jobs = bench.scheduler(active=1)
        jobs.create("active", {**METHOD, "maxExecutionTimeInSeconds": 100})
        jobs.create("waits", {**TWIN, "startTime": in_seconds(10)})
        jobs.create(
            "in-vain",
            {**TWIN, "startTime": in_seconds(20), "maxExecutionTimeInSeconds": 30},
        )
        with pytest.raises(HubError) as error:
            jobs.create("one-too-many", TWIN)
        assert (error.value.code, error.value.name) == (
            429004,
            "ThrottlingMaxActiveJobCountExceeded",
        )
        with pytest.raises(HubError) as error:  # the id is the nearer trouble
            jobs.create("active", TWIN)
        assert error.value.code == 409104
        await asyncio.sleep(60)
        assert bench.status("waits") == "queued"
        assert bench.status("in-vain") == "failed"
        assert "did not start within its window" in str(jobs.jobs.get("in-vain").failure_reason)
        await asyncio.sleep(45)
        assert [bench.status(job) for job in ("active", "waits")] == ["completed"] * 2
        jobs.create("free-again", TWIN)

    bench.run(story)


@pytest.mark.parametrize("state", ["scheduled", "queued"])
def test_a_job_that_has_not_begun_is_cancelled_whole(bench: Bench, state: str) -> None:
    async def story() -> None:
        jobs = bench.scheduler(active=1)
        jobs.create("other", METHOD)
        jobs.create("job", {**TWIN, "startTime": in_seconds(10)})
        await asyncio.sleep(5 if state == "scheduled" else 15)
        assert bench.status("job") == state
        assert jobs.cancel("job").status == "cancelled"
        assert jobs.cancel("job").status == "cancelled"  # twice does no harm
        jobs.cancel("other")
        await asyncio.sleep(60)
        assert (bench.status("job"), bench.counts("job")) == ("cancelled", {})
        assert bench.counts("other") == {"canceled": 3}
        jobs.create("slot-is-free", TWIN)

    bench.run(story)


def test_what_has_ended_cannot_be_cancelled(bench: Bench) -> None:
    async def story() -> None:
        jobs = bench.scheduler()
        jobs.create("job", TWIN)
        await asyncio.sleep(1)
        with pytest.raises(HubError, match="has completed") as error:
            jobs.cancel("job")
        assert error.value.code == 400003
        with pytest.raises(HubError) as error:
            jobs.cancel("none")
        assert error.value.code == 404002

    bench.run(story)


def test_a_condition_that_is_none_is_refused_and_no_job_is_made(bench: Bench) -> None:
    async def story() -> None:
        jobs = bench.scheduler()
        with pytest.raises(HubError) as error:
            jobs.create("job", {**TWIN, "queryCondition": "SELECT * FROM devices"})
        assert error.value.code == 400004
        assert jobs.jobs.find("job") is None

    bench.run(story)


def test_a_job_for_no_device_completes(bench: Bench) -> None:
    async def story() -> None:
        jobs = bench.scheduler()
        jobs.create("job", {**METHOD, "queryCondition": "deviceId = 'nobody'"})
        await asyncio.sleep(1)
        assert (bench.status("job"), bench.counts("job")) == ("completed", {})

    bench.run(story)


def test_an_etag_lets_only_the_twins_through_that_have_it(bench: Bench) -> None:
    async def story() -> None:
        jobs = bench.scheduler()
        jobs.create("one", {**TWIN, "queryCondition": "deviceId = 'd1'"})
        await asyncio.sleep(1)
        etag = bench.store.twin("d1").etag
        jobs.create("two", {**TWIN, "updateTwin": {"etag": f'"{etag}"', "tags": {"n": 2}}})
        await asyncio.sleep(1)
        assert bench.counts("two") == {"completed": 1, "failed": 2}
        assert bench.store.twin("d1").tags == {"site": "A", "n": 2}
        assert bench.store.twin("d2").tags == {}
        assert bench.error("two", "d2")["code"] == "PreconditionFailed"

    bench.run(story)


def test_a_twin_that_would_grow_too_large_fails_alone(bench: Bench) -> None:
    async def story() -> None:
        jobs = bench.scheduler()
        long = "x" * 4000  # three of them are more than the tags of a twin may hold
        full = {"updateTwin": {"etag": "*", "tags": {"a": long, "b": long}}}
        jobs.create("fill", {**TWIN, "queryCondition": "deviceId = 'd2'", **full})
        await asyncio.sleep(1)
        jobs.create("job", {**TWIN, "updateTwin": {"etag": "*", "tags": {"c": long}}})
        await asyncio.sleep(1)
        assert bench.counts("job") == {"completed": 2, "failed": 1}
        assert bench.error("job", "d2")["code"] == "ArgumentInvalid"

    bench.run(story)


@pytest.mark.parametrize(
    "option",
    [
        ("--active-jobs", "0"),
        ("--active-jobs", "-1"),
        ("--active-jobs", "many"),
        ("--job-rate", "0"),
        ("--job-rate", "nan"),
        ("--job-rate", "inf"),
        ("--job-rate", "fast"),
    ],
)
def test_a_limit_that_is_none_is_refused_on_the_command_line(
    option: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--state-dir", str(tmp_path), *option])
    assert f"argument {option[0]}: {option[1]!r} is no number from" in capsys.readouterr().err


# -- from one hub to the next -------------------------------------------------------------------


def test_jobs_of_every_state_go_on_with_the_next_hub(bench: Bench) -> None:
    async def story() -> None:
        jobs = bench.scheduler(active=1, devices_per_second=1)
        jobs.create("running", {**TWIN, "maxExecutionTimeInSeconds": 60})
        jobs.create("queued", {**TWIN, "startTime": in_seconds(0.5)})
        jobs.create("scheduled", {**TWIN, "startTime": in_seconds(1000)})
        jobs.create("missed", {**TWIN, "startTime": in_seconds(4), "maxExecutionTimeInSeconds": 9})
        await asyncio.sleep(1.5)
        assert bench.counts("running") == {"completed": 2, "pending": 1}
        version = bench.store.twin("d1").version
        await jobs.close()
        bench.loop.skew = timedelta(seconds=30)  # nobody runs the hub
        bench.scheduler(active=1, devices_per_second=1)
        assert bench.status("running") == "running"
        await asyncio.sleep(10)
        assert (bench.status("running"), bench.counts("running")) == (
            "completed",
            {"completed": 3},
        )
        assert (bench.status("queued"), bench.status("missed")) == ("completed", "failed")
        assert bench.status("scheduled") == "scheduled"
        assert bench.store.twin("d1").version == version + 1  # by the second job alone
        await asyncio.sleep(1000)
        assert bench.counts("scheduled") == {"completed": 3}

    bench.run(story)


def test_a_window_that_ended_between_two_hubs_ends_the_job(bench: Bench) -> None:
    async def story() -> None:
        jobs = bench.scheduler()
        jobs.create("job", {**METHOD, "maxExecutionTimeInSeconds": 60})
        await asyncio.sleep(1)
        await jobs.close()
        bench.loop.skew = timedelta(days=1)
        bench.scheduler()
        await asyncio.sleep(1)
        assert (bench.status("job"), bench.counts("job")) == ("completed", {"failed": 3})

    bench.run(story)


def test_a_job_is_kept_for_thirty_days_after_its_end(bench: Bench) -> None:
    async def story() -> None:
        jobs = bench.scheduler()
        jobs.create("job", TWIN)
        jobs.create("open", {**TWIN, "startTime": in_seconds(90 * 86400)})
        await asyncio.sleep(1)
        bench.loop.skew = timedelta(days=29)
        jobs.create("another", TWIN)
        assert bench.counts("job") == {"completed": 3}
        bench.loop.skew = timedelta(days=30)
        jobs.create("job", TWIN)  # its id is free again
        await asyncio.sleep(1)
        assert bench.counts("job") == {"completed": 3}
        await jobs.close()
        bench.loop.skew = timedelta(days=61)
        jobs = bench.scheduler()
        assert [job.job_id for job in jobs.jobs.page(**EVERYTHING)[0]] == ["open"]
        assert bench.rows("job") == {}

    bench.run(story)


EVERYTHING: Json = {"job_type": None, "status": None, "size": 100}


def test_pages_hold_each_job_once_though_new_ones_come(bench: Bench) -> None:
    async def story() -> None:
        jobs = bench.scheduler()
        for number in range(5):
            jobs.create(f"t{number}", TWIN)  # all at one moment
        jobs.create("m", METHOD)
        await asyncio.sleep(1)
        seen, after = list[str](), tuple[str, ...]()
        while True:
            page, after = jobs.jobs.page(job_type=None, status=None, size=2, after=after)
            seen += [job.job_id for job in page]
            jobs.create(f"new{len(seen)}", TWIN)
            if not after:
                break
        assert seen == ["t4", "t3", "t2", "t1", "t0", "m"]

        def ids(**wanted: str) -> set[str]:
            return {job.job_id for job in jobs.jobs.page(**{**EVERYTHING, **wanted})[0]}

        assert ids(job_type="scheduleDeviceMethod") == {"m"} == ids(status="running")
        assert ids(job_type="scheduleUpdateTwin", status="running") == set()

    bench.run(story)


def test_what_is_to_follow_a_commit_does_not_follow_a_rollback(bench: Bench) -> None:
    calls: list[str] = []
    with bench.database.transaction():
        bench.database.after_commit(lambda: calls.append("outer"))
        with bench.database.transaction():
            bench.database.after_commit(lambda: calls.append("inner"))
        assert calls == []
    assert calls == ["outer", "inner"]
    with pytest.raises(ZeroDivisionError), bench.database.transaction():
        bench.database.after_commit(lambda: calls.append("never"))
        raise ZeroDivisionError
    bench.database.after_commit(lambda: calls.append("at once"))
    assert calls == ["outer", "inner", "at once"]
