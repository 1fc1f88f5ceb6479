"""Scheduled jobs without a wire: what is kept, and when what happens, on a virtual clock."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from fwupdate_helpers.localhub.__main__ import main
from fwupdate_helpers.localhub.errors import HubError
from tests.job_bench import METHOD_JOB, TWIN_JOB, Bench, Json
from tests.raw_mqtt import DESIRED, DISCONNECT, subscribe
from tests.virtual_time import START


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
        created = jobs.create("later", {**TWIN_JOB, "startTime": in_seconds(3 * 86400)})
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
        jobs.create("later", {**TWIN_JOB, "startTime": in_seconds(8 * 3600)})
        await asyncio.sleep(1)
        bench.loop.skew = timedelta(hours=8)  # timers stood still meanwhile
        await asyncio.sleep(61)
        assert bench.status("later") == "completed"

    bench.run(story)


def test_devices_that_stay_offline_fail_at_the_end_of_the_window(bench: Bench) -> None:
    async def story() -> None:
        jobs = bench.scheduler()
        jobs.create("job", {**METHOD_JOB, "maxExecutionTimeInSeconds": 600})
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
            "job", {**METHOD_JOB, "cloudToDeviceMethod": method, "maxExecutionTimeInSeconds": 60}
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
        jobs.create("job", METHOD_JOB)
        await asyncio.sleep(1)  # the turn of d1; that of d2 comes in nine seconds
        first.answer()
        second.send(DISCONNECT)
        await asyncio.sleep(60)
        assert (bench.counts("job"), second.sent) == ({"completed": 1, "pending": 2}, [])
        back = bench.switch_on("d2")
        await asyncio.sleep(20)  # its turn comes at the latest after ten, its answer is in time
        back.answer()
        await asyncio.sleep(1)
        assert bench.counts("job") == {"completed": 2, "pending": 1}

    bench.run(story)


def test_a_method_under_way_at_the_end_of_the_hub_is_failed_and_not_sent_again(
    bench: Bench,
) -> None:
    async def story() -> None:
        jobs = bench.scheduler()
        jobs.create("job", {**METHOD_JOB, "queryCondition": "deviceId = 'd1'"})
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
        jobs.create("job", METHOD_JOB)
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
        jobs.create("one", TWIN_JOB)
        jobs.create("two", TWIN_JOB)
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
        jobs.create("job", {**TWIN_JOB, "maxExecutionTimeInSeconds": 3})
        await asyncio.sleep(4)
        assert bench.status("job") == "completed"
        assert bench.counts("job") == {"completed": 2, "failed": 1}
        assert bench.store.twin("d3").tags == {}

    bench.run(story)


def test_one_job_too_many_is_refused_and_a_scheduled_one_waits(bench: Bench) -> None:
    async def story() -> None:
        jobs = bench.scheduler(active=1)
        jobs.create("active", {**METHOD_JOB, "maxExecutionTimeInSeconds": 100})
        jobs.create("waits", {**TWIN_JOB, "startTime": in_seconds(10)})
        jobs.create(
            "in-vain",
            {**TWIN_JOB, "startTime": in_seconds(20), "maxExecutionTimeInSeconds": 30},
        )
        with pytest.raises(HubError) as error:
            jobs.create("one-too-many", TWIN_JOB)
        assert (error.value.code, error.value.name) == (
            429004,
            "ThrottlingMaxActiveJobCountExceeded",
        )
        with pytest.raises(HubError) as error:  # the id is the nearer trouble
            jobs.create("active", TWIN_JOB)
        assert error.value.code == 409104
        await asyncio.sleep(60)
        assert bench.status("waits") == "queued"
        assert bench.status("in-vain") == "failed"
        assert "did not start within its window" in str(jobs.jobs.get("in-vain").failure_reason)
        await asyncio.sleep(45)
        assert [bench.status(job) for job in ("active", "waits")] == ["completed"] * 2
        jobs.create("free-again", TWIN_JOB)

    bench.run(story)


@pytest.mark.parametrize("state", ["scheduled", "queued"])
def test_a_job_that_has_not_begun_is_cancelled_whole(bench: Bench, state: str) -> None:
    async def story() -> None:
        jobs = bench.scheduler(active=1)
        jobs.create("other", METHOD_JOB)
        jobs.create("job", {**TWIN_JOB, "startTime": in_seconds(10)})
        await asyncio.sleep(5 if state == "scheduled" else 15)
        assert bench.status("job") == state
        assert jobs.cancel("job").status == "cancelled"
        assert jobs.cancel("job").status == "cancelled"  # twice does no harm
        jobs.cancel("other")
        await asyncio.sleep(60)
        assert (bench.status("job"), bench.counts("job")) == ("cancelled", {})
        assert bench.counts("other") == {"canceled": 3}
        jobs.create("slot-is-free", TWIN_JOB)

    bench.run(story)


def test_what_has_ended_cannot_be_cancelled(bench: Bench) -> None:
    async def story() -> None:
        jobs = bench.scheduler()
        jobs.create("job", TWIN_JOB)
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
            jobs.create("job", {**TWIN_JOB, "queryCondition": "SELECT * FROM devices"})
        assert error.value.code == 400004
        assert jobs.jobs.find("job") is None

    bench.run(story)


def test_a_job_for_no_device_completes(bench: Bench) -> None:
    async def story() -> None:
        jobs = bench.scheduler()
        jobs.create("job", {**METHOD_JOB, "queryCondition": "deviceId = 'nobody'"})
        await asyncio.sleep(1)
        assert (bench.status("job"), bench.counts("job")) == ("completed", {})

    bench.run(story)


def test_an_etag_lets_only_the_twins_through_that_have_it(bench: Bench) -> None:
    async def story() -> None:
        jobs = bench.scheduler()
        jobs.create("one", {**TWIN_JOB, "queryCondition": "deviceId = 'd1'"})
        await asyncio.sleep(1)
        etag = bench.store.twin("d1").etag
        jobs.create("two", {**TWIN_JOB, "updateTwin": {"etag": f'"{etag}"', "tags": {"n": 2}}})
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
        jobs.create("fill", {**TWIN_JOB, "queryCondition": "deviceId = 'd2'", **full})
        await asyncio.sleep(1)
        jobs.create("job", {**TWIN_JOB, "updateTwin": {"etag": "*", "tags": {"c": long}}})
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


def test_a_twin_is_not_changed_without_the_record_of_it(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        jobs = bench.scheduler()
        device = bench.switch_on("d1")
        device.send(subscribe(2, (DESIRED, 0)))
        device.sent.clear()
        bench.database.connection.execute(
            "CREATE TEMP TRIGGER full BEFORE UPDATE ON device_jobs WHEN new.status = 'completed' "
            "BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
        )
        jobs.create("job", {**TWIN_JOB, "queryCondition": "deviceId = 'd1'"})
        await asyncio.sleep(1)
        assert bench.error("job", "d1")["code"] == "ServerError"
        assert (bench.store.twin("d1").tags, device.sent) == ({}, [])
        bench.database.connection.execute("DROP TRIGGER full")
        jobs.create("again", TWIN_JOB)
        await asyncio.sleep(1)
        assert (bench.store.twin("d1").tags, len(device.sent)) == ({"site": "A"}, 1)

    bench.run(story)
    assert "the disk is full" in caplog.text


# -- from one hub to the next -------------------------------------------------------------------


def test_jobs_of_every_state_go_on_with_the_next_hub(bench: Bench) -> None:
    async def story() -> None:
        jobs = bench.scheduler(active=1, devices_per_second=1)
        jobs.create("running", {**TWIN_JOB, "maxExecutionTimeInSeconds": 60})
        jobs.create("queued", {**TWIN_JOB, "startTime": in_seconds(0.5)})
        jobs.create("scheduled", {**TWIN_JOB, "startTime": in_seconds(1000)})
        jobs.create(
            "missed", {**TWIN_JOB, "startTime": in_seconds(4), "maxExecutionTimeInSeconds": 9}
        )
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
        jobs.create("job", {**METHOD_JOB, "maxExecutionTimeInSeconds": 60})
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
        jobs.create("job", TWIN_JOB)
        jobs.create("open", {**TWIN_JOB, "startTime": in_seconds(90 * 86400)})
        await asyncio.sleep(1)
        bench.loop.skew = timedelta(days=29)
        jobs.create("another", TWIN_JOB)
        assert bench.counts("job") == {"completed": 3}
        bench.loop.skew = timedelta(days=30)
        jobs.create("job", TWIN_JOB)  # its id is free again
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
            jobs.create(f"t{number}", TWIN_JOB)  # all at one moment
        jobs.create("m", METHOD_JOB)
        await asyncio.sleep(1)
        seen, after = list[str](), tuple[str, ...]()
        while True:
            page, after = jobs.jobs.page(job_type=None, status=None, size=2, after=after)
            seen += [job.job_id for job in page]
            jobs.create(f"new{len(seen)}", TWIN_JOB)
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
