"""Scheduled jobs with the unmodified SDK's job manager, on a hub that runs, stops and crashes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any

import pytest
from azure.iot.hub import IoTHubJobManager
from azure.iot.hub.models import CloudToDeviceMethod, Twin, TwinProperties
from azure.iot.hub.protocol.models import JobRequest
from msrest.exceptions import HttpOperationError

from fwupdate_helpers.hub import Hub, connect_hub
from tests.raw_mqtt import DESIRED, METHODS, OpenDevice, RawDevice, publish
from tests.rest import assert_error, call, create_device, wait_for
from tests.sdk import Connect, answer_methods, refusal
from tests.support import HubProcess

Json = dict[str, Any]

OVER = ("completed", "failed", "cancelled")


@pytest.fixture
def jobs(hub_process: HubProcess) -> Iterator[IoTHubJobManager]:
    """Return a job manager of `hub_process`."""
    manager = hub_process.jobs()
    yield manager
    manager.protocol.close()


def these(*device_ids: str) -> str:
    return f"deviceId IN {json.dumps(device_ids)}"


def method_job(*device_ids: str, name: str = "firmwareUpdate", **fields: Any) -> JobRequest:
    fields.setdefault("max_execution_time_in_seconds", 60)
    method = CloudToDeviceMethod(
        method_name=name, payload={"version": "2.0.0"}, response_timeout_in_seconds=30
    )
    return JobRequest(
        type="scheduleDeviceMethod",
        cloud_to_device_method=method,
        query_condition=these(*device_ids),
        **fields,
    )


def twin_job(condition: str, **fields: Any) -> JobRequest:
    twin = Twin(
        etag="*", tags={"wave": 1}, properties=TwinProperties(desired={"fw": {"v": "2.0.0"}})
    )
    return JobRequest(
        type="scheduleUpdateTwin", update_twin=twin, query_condition=condition, **fields
    )


def device_jobs(hub: HubProcess, job_id: str) -> dict[str, Json]:
    """Return a job's parts by device, as the query language shows them."""
    query = f"SELECT * FROM devices.jobs WHERE devices.jobs.jobId = '{job_id}'"
    reply = call(hub, "POST", "/devices/query", {"query": query})
    assert reply.status == 200, reply.text
    return {row["deviceId"]: row for row in reply.content}


def states(hub: HubProcess, job_id: str) -> dict[str, str]:
    return {device_id: row["status"] for device_id, row in device_jobs(hub, job_id).items()}


def error_code(hub: HubProcess, job_id: str, device_id: str) -> str:
    return str(device_jobs(hub, job_id)[device_id]["error"]["code"])


def ended(jobs: IoTHubJobManager, job_id: str) -> Any:
    """Wait for a job's end and return it."""
    wait_for(lambda: jobs.get_scheduled_job(job_id).status in OVER, seconds=30)
    return jobs.get_scheduled_job(job_id)


def counts(job: Any) -> Json:
    """Return a job's statistics without what is 0."""
    return {name: count for name, count in job.device_job_statistics.as_dict().items() if count}


def answer(device: RawDevice, status: int = 200, payload: Any = "started") -> Json:
    """Wait for a method, answer it and return what it carried."""
    request = device.receive(timeout=30)
    rid = request.topic.split("?$rid=")[1]
    device.send(publish(f"$iothub/methods/res/{status}/?$rid={rid}", json.dumps(payload).encode()))
    return dict(request.content)


def takes_methods(device: RawDevice) -> RawDevice:
    device.connected().subscribe(METHODS, 0)
    return device


# -- life cycles --------------------------------------------------------------------------------


def test_a_method_job_reaches_devices_now_and_those_that_come_later(
    hub_process: HubProcess, jobs: IoTHubJobManager, open_device: OpenDevice, device_id: str
) -> None:
    here, refuses, away = (f"{device_id}-{name}" for name in ("here", "refuses", "away"))
    devices = [takes_methods(open_device(one)) for one in (here, refuses)]
    key = create_device(hub_process, away)
    job = jobs.create_scheduled_job(device_id, method_job(here, refuses, away))
    assert (job.job_id, job.type, job.status) == (device_id, "scheduleDeviceMethod", "queued")
    assert job.cloud_to_device_method.payload == {"version": "2.0.0"}
    assert job.end_time is None

    assert answer(devices[0]) == {"version": "2.0.0"}
    wait_for(lambda: states(hub_process, device_id).get(here) == "completed")
    running = jobs.get_scheduled_job(device_id)
    assert running.status == "running"
    assert counts(running) == {
        "device_count": 3,
        "succeeded_count": 1,
        "running_count": 1,
        "pending_count": 1,
    }
    answer(devices[1], 404, {"why": "no such method"})
    with RawDevice(hub_process, away, key) as late:
        answer(takes_methods(late))

    job = ended(jobs, device_id)
    assert job.status == "completed"
    assert counts(job) == {"device_count": 3, "succeeded_count": 3}
    assert job.created_time <= job.start_time <= job.end_time
    row = device_jobs(hub_process, device_id)[refuses]
    response = {"status": 404, "payload": {"why": "no such method"}}
    assert row["outcome"] == {"deviceMethodResponse": response}
    assert (row["jobId"], row["jobType"]) == (device_id, "scheduleDeviceMethod")
    assert row["createdDateTimeUtc"] < row["startTimeUtc"] < row["endTimeUtc"]
    assert row["lastUpdatedDateTimeUtc"] == row["endTimeUtc"]


def test_a_device_of_the_sdk_takes_part(
    jobs: IoTHubJobManager, new_device: Callable[[str], str], connect: Connect, device_id: str
) -> None:
    client = connect(new_device(device_id))
    patches: list[Json] = []
    answer_methods(client, lambda request: (200, [request.name, request.payload]))
    client.on_twin_desired_properties_patch_received = patches.append

    jobs.create_scheduled_job(f"{device_id}-m", method_job(device_id))
    jobs.create_scheduled_job(f"{device_id}-t", twin_job(these(device_id)))

    for kind in ("m", "t"):
        assert counts(ended(jobs, f"{device_id}-{kind}")) == {
            "device_count": 1,
            "succeeded_count": 1,
        }
    wait_for(lambda: any(patch.get("fw") == {"v": "2.0.0"} for patch in patches))


def test_a_twin_job_reaches_devices_that_are_offline_at_once(
    hub_process: HubProcess,
    registry: Any,
    jobs: IoTHubJobManager,
    open_device: OpenDevice,
    device_id: str,
) -> None:
    online, offline = f"{device_id}-on", f"{device_id}-off"
    device = open_device(online).connected()
    device.subscribe(DESIRED)
    create_device(hub_process, offline)
    create_device(hub_process, f"{device_id}-other")

    jobs.create_scheduled_job(device_id, twin_job(these(online, offline, "nobody")))

    job = ended(jobs, device_id)
    assert job.status == "completed"
    assert counts(job) == {"device_count": 2, "succeeded_count": 2}
    assert device.receive(timeout=30).content == {"fw": {"v": "2.0.0"}, "$version": 2}
    for one, tags in ((online, {"wave": 1}), (offline, {"wave": 1}), (f"{device_id}-other", None)):
        assert (registry.get_twin(one).tags or None) == tags
    assert states(hub_process, device_id) == {online: "completed", offline: "completed"}


def test_a_device_that_stays_away_fails_at_the_end_of_the_window(
    hub_process: HubProcess, jobs: IoTHubJobManager, open_device: OpenDevice, device_id: str
) -> None:
    deaf, away = f"{device_id}-deaf", f"{device_id}-away"
    open_device(deaf).connected()  # online, and takes no methods
    create_device(hub_process, away)
    jobs.create_scheduled_job(device_id, method_job(deaf, away, max_execution_time_in_seconds=1))

    job = ended(jobs, device_id)
    assert job.status == "completed"
    assert counts(job) == {"device_count": 2, "failed_count": 2}
    for one in (deaf, away):
        assert error_code(hub_process, device_id, one) == "JobRunPreconditionFailed"
    assert (job.end_time - job.start_time).total_seconds() >= 1


def test_a_job_starts_when_it_is_told_to(
    hub_process: HubProcess, jobs: IoTHubJobManager, device_id: str
) -> None:
    create_device(hub_process, device_id)
    start = datetime.now(timezone.utc) + timedelta(seconds=1)
    naive = start.replace(tzinfo=None)
    job = jobs.create_scheduled_job(device_id, twin_job(these(device_id), start_time=naive))
    assert abs(job.start_time - start) < timedelta(milliseconds=1)

    job = ended(jobs, device_id)
    assert (job.status, job.end_time >= start) == ("completed", True)


# -- cancelling ---------------------------------------------------------------------------------


def test_a_cancel_spares_who_waits_and_lets_finish_who_has_begun(
    hub_process: HubProcess, jobs: IoTHubJobManager, open_device: OpenDevice, device_id: str
) -> None:
    begun, waits = f"{device_id}-begun", f"{device_id}-waits"
    device = takes_methods(open_device(begun))
    key = create_device(hub_process, waits)
    jobs.create_scheduled_job(device_id, method_job(begun, waits))
    request = device.receive(timeout=30)

    job = jobs.cancel_scheduled_job(device_id)
    assert job.status == "cancelled"
    assert job.end_time is not None
    assert counts(job) == {"device_count": 2, "running_count": 1}
    assert states(hub_process, device_id) == {begun: "running", waits: "canceled"}

    late = takes_methods(RawDevice(hub_process, waits, key))
    rid = request.topic.split("?$rid=")[1]
    device.send(publish(f"$iothub/methods/res/200/?$rid={rid}", b"1"))
    wait_for(lambda: states(hub_process, device_id)[begun] == "completed")
    job = jobs.get_scheduled_job(device_id)
    assert job.status == "cancelled"
    assert counts(job) == {"device_count": 2, "succeeded_count": 1}
    with late:
        assert late.answers_ping(), "nothing else was sent to it"


def test_a_job_that_is_scheduled_is_cancelled_and_one_that_is_over_is_not(
    hub_process: HubProcess, jobs: IoTHubJobManager, device_id: str
) -> None:
    tomorrow = datetime.now(timezone.utc) + timedelta(days=1)
    jobs.create_scheduled_job(device_id, twin_job("*", start_time=tomorrow))
    assert jobs.cancel_scheduled_job(device_id).status == "cancelled"
    assert jobs.cancel_scheduled_job(device_id).status == "cancelled"

    done = f"{device_id}-done"
    jobs.create_scheduled_job(done, twin_job(these(device_id)))
    assert ended(jobs, done).status == "completed"
    assert refusal(jobs.cancel_scheduled_job, done) == (400, "InvalidOperation")


# -- refusals -----------------------------------------------------------------------------------


def test_refusals_name_what_is_wrong(
    hub_process: HubProcess, jobs: IoTHubJobManager, device_id: str
) -> None:
    tomorrow = datetime.now(timezone.utc) + timedelta(days=1)
    later = partial(twin_job, start_time=tomorrow)
    jobs.create_scheduled_job(device_id, later("*"))
    create = jobs.create_scheduled_job
    assert refusal(create, device_id, later("*")) == (409, "JobAlreadyExists")
    assert refusal(create, f"{device_id}-2", later("tags.=1")) == (400, "ArgumentInvalid")
    assert refusal(create, f"{device_id}-2", JobRequest(type="export")) == (400, "ArgumentInvalid")
    assert refusal(jobs.get_scheduled_job, f"{device_id}-2") == (404, "JobNotFound")
    assert refusal(jobs.cancel_scheduled_job, f"{device_id}-2") == (404, "JobNotFound")
    assert refusal(jobs.query_scheduled_jobs, "export", None) == (400, "ArgumentInvalid")
    assert refusal(jobs.query_scheduled_jobs, None, "done") == (400, "ArgumentInvalid")
    with pytest.raises(HttpOperationError) as error:
        create(f"{device_id}-2", later("WHERE tags.a = 1"))
    assert "WHERE" in error.value.response.text
    jobs.cancel_scheduled_job(device_id)


@pytest.mark.parametrize(
    ("body", "code", "name"),
    [
        (b"{", 400006, "IotHubFormatError"),
        (b"[]", 400006, "IotHubFormatError"),
        (b"", 400006, "IotHubFormatError"),
        ({}, 400004, "ArgumentInvalid"),
        (b'{"type":{"a":1}}', 400004, "ArgumentInvalid"),
        (b"x" * (1024 * 1024 + 1), 413001, "MessageTooLarge"),
    ],
)
def test_a_body_that_is_no_job_is_refused(
    hub_process: HubProcess, device_id: str, body: Any, code: int, name: str
) -> None:
    assert_error(call(hub_process, "PUT", f"/jobs/v2/{device_id}", body), code, name)


def test_jobs_need_service_connect_or_the_permissions_of_the_registry(
    hub_process: HubProcess,
) -> None:
    for policy, reads, writes in (
        ("device", 401, 401),
        ("service", 404, 400),
        ("registryRead", 404, 401),
        ("registryReadWrite", 404, 400),
    ):
        assert call(hub_process, "GET", "/jobs/v2/none", policy=policy).status == reads
        assert call(hub_process, "PUT", "/jobs/v2/none", {}, policy=policy).status == writes
        cancel = call(hub_process, "POST", "/jobs/v2/none/cancel", policy=policy)
        assert cancel.status == (401 if writes == 401 else 404)


@pytest.mark.parametrize(
    "headers",
    [
        {"x-ms-max-item-count": "0"},
        {"x-ms-max-item-count": "-1"},
        {"x-ms-max-item-count": "ten"},
        {"x-ms-continuation": "bm9uZQ=="},
        {"x-ms-continuation": "%"},
    ],
)
def test_a_bad_page_is_refused(hub_process: HubProcess, headers: dict[str, str]) -> None:
    reply = call(hub_process, "GET", "/jobs/v2/query", headers=headers)
    assert_error(reply, 400004, "ArgumentInvalid")


# -- many, and across the end of the hub --------------------------------------------------------


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Return what closes the connections of a test at its end."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def job_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """Return a hub whose jobs are all these tests', with limits of its own."""
    limits = ("--active-jobs", "2", "--job-rate", "1000")
    with HubProcess(tmp_path_factory.mktemp("job-hub"), *limits) as hub:
        yield hub


def test_a_hundred_devices_take_part_in_one_job(job_hub: HubProcess, stack: ExitStack) -> None:
    jobs, registry = job_hub.jobs(), job_hub.registry()
    ids = [f"d{number:03}" for number in range(100)]
    made = [registry.create_device_with_sas(one, None, None, "enabled") for one in ids]
    jobs.create_scheduled_job("twins", twin_job("*"))
    assert counts(ended(jobs, "twins")) == {"device_count": 100, "succeeded_count": 100}

    devices = [
        stack.enter_context(
            RawDevice(job_hub, one.device_id, one.authentication.symmetric_key.primary_key)
        )
        for one in made[:25]
    ]
    for device in devices:
        device.connected().subscribe(METHODS, 0)
    job = method_job()
    job.query_condition = "tags.wave = 1"
    jobs.create_scheduled_job("methods", job)
    for device in devices:
        answer(device)
    wait_for(lambda: counts(jobs.get_scheduled_job("methods")).get("succeeded_count") == 25)
    job = jobs.cancel_scheduled_job("methods")
    assert counts(job) == {"device_count": 100, "succeeded_count": 25}


def test_one_active_job_too_many_is_refused(job_hub: HubProcess, device_id: str) -> None:
    create_device(job_hub, device_id)
    jobs = job_hub.jobs()
    for number in (1, 2):
        jobs.create_scheduled_job(f"active-{number}", method_job(device_id))
    too_many = (429, "ThrottlingMaxActiveJobCountExceeded")
    assert refusal(jobs.create_scheduled_job, "active-3", method_job(device_id)) == too_many
    jobs.cancel_scheduled_job("active-1")
    wait_for(lambda: accepts(jobs, "active-3", method_job(device_id)))
    for number in (2, 3):
        assert jobs.cancel_scheduled_job(f"active-{number}").status == "cancelled"


def accepts(jobs: IoTHubJobManager, job_id: str, request: JobRequest) -> bool:
    """Tell whether the hub takes a job, or finds it too many."""
    try:
        jobs.create_scheduled_job(job_id, request)
    except HttpOperationError as error:
        assert error.response.status_code == 429
        return False
    return True


def test_jobs_are_listed_in_pages(job_hub: HubProcess) -> None:
    jobs = job_hub.jobs()
    tomorrow = datetime.now(timezone.utc) + timedelta(days=1)
    for number in range(5):
        jobs.create_scheduled_job(f"later-{number}", twin_job("*", start_time=tomorrow))
    jobs.create_scheduled_job("method", method_job("nobody"))
    ended(jobs, "method")

    everything = jobs.query_scheduled_jobs(None, None)
    assert (everything.type, everything.continuation_token) == ("jobResponse", None)
    order = ["method", *(f"later-{number}" for number in (4, 3, 2, 1, 0))]
    assert [item["jobId"] for item in everything.items][:6] == order
    assert everything.items[0]["deviceJobStatistics"]["deviceCount"] == 0
    found = jobs.query_scheduled_jobs("scheduleDeviceMethod", "completed").items
    assert [item["jobId"] for item in found] == ["method"]
    assert jobs.query_scheduled_jobs("scheduleUpdateTwin", "running").items == []

    seen, headers = list[str](), {"x-ms-max-item-count": "2"}
    while headers.get("x-ms-continuation") != "":
        page = jobs.protocol.jobs.query_scheduled_jobs(None, "scheduled", custom_headers=headers)
        seen += [item["jobId"] for item in page.items]
        headers["x-ms-continuation"] = page.continuation_token or ""
    assert seen == order[1:]


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_jobs_of_every_state_outlive_the_hub(
    own_hub_process: HubProcess, stack: ExitStack, end: str
) -> None:
    hub, jobs = own_hub_process, own_hub_process.jobs()
    keys = {one: create_device(hub, one) for one in ("done", "begun", "away")}

    def connected(device_id: str) -> RawDevice:
        device = RawDevice(hub, device_id, keys[device_id])
        return takes_methods(stack.enter_context(device))

    tomorrow = datetime.now(timezone.utc) + timedelta(days=1)
    jobs.create_scheduled_job("scheduled", twin_job("*", start_time=tomorrow))
    jobs.create_scheduled_job("completed", twin_job("*"))
    completed = ended(jobs, "completed").as_dict()
    jobs.create_scheduled_job("running", method_job(*keys, max_execution_time_in_seconds=600))
    answer(connected("done"))
    connected("begun").receive(timeout=30)
    before = {"done": "completed", "begun": "running", "away": "pending"}
    wait_for(lambda: states(hub, "running") == before)
    finished = device_jobs(hub, "running")["done"]

    getattr(hub, end)()
    hub.start()

    # The handle of the service side, opened before.
    assert jobs.get_scheduled_job("running").status == "running"
    assert jobs.get_scheduled_job("completed").as_dict() == completed
    assert states(hub, "running") == {**before, "begun": "failed"}
    assert error_code(hub, "running", "begun") == "GatewayTimeout"
    again = [connected(one) for one in ("done", "begun")]
    answer(connected("away"))
    job = ended(jobs, "running")
    assert job.status == "completed"
    assert counts(job) == {"device_count": 3, "succeeded_count": 2, "failed_count": 1}
    assert device_jobs(hub, "running")["done"] == finished
    assert all(device.answers_ping() for device in again), "no method was sent to them again"
    assert jobs.get_scheduled_job("scheduled").status == "scheduled"
    assert jobs.cancel_scheduled_job("scheduled").status == "cancelled"


# -- the kit's own handle -----------------------------------------------------------------------


def test_a_hub_hands_out_a_job_manager_and_closes_it() -> None:
    with connect_hub() as hub:
        device_id = hub.device_id("jobs")
        hub.device_connection_string(device_id)
        config = hub.jobs.protocol.config
        assert hub.jobs is hub.jobs
        assert (config.keep_alive, config.retry_policy.policy.total) == (True, 0)
        job_id = f"{device_id}-{datetime.now(timezone.utc):%H%M%S%f}"
        hub.jobs.create_scheduled_job(job_id, twin_job(these(device_id)))
        assert counts(ended(hub.jobs, job_id)) == {"device_count": 1, "succeeded_count": 1}
        first = hub.jobs
        hub.close()
        assert hub.jobs is not first  # one that is closed opens again when it is asked
        hub.delete_device(device_id)


def test_a_job_manager_for_azure_trusts_the_public_roots() -> None:
    key = "bm90IGEga2V5IG9mIGFueSBodWIgaW4gdGhlIHdvcmxk"
    string = f"HostName=example.azure-devices.net;SharedAccessKeyName=service;SharedAccessKey={key}"
    with Hub(kind="azure", connection_string=string) as hub:
        assert isinstance(hub.jobs, IoTHubJobManager)
        assert hub.jobs.protocol.config.connection.verify is True
        assert hub.jobs.protocol.config.keep_alive is True
