"""What the request for a scheduled job may hold."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from fwupdate_helpers.localhub.errors import HubError
from fwupdate_helpers.localhub.jobs.records import statistics
from fwupdate_helpers.localhub.jobs.specification import JobSpecification
from fwupdate_helpers.localhub.jsontext import read_timestamp
from tests.job_bench import METHOD_JOB, TWIN_JOB, Json
from tests.virtual_time import START


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
        JobSpecification.from_json("job", {**METHOD_JOB, **changes}, START)
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
        JobSpecification.from_json("job", {**TWIN_JOB, "updateTwin": patch}, START)
    assert error.value.code == 400004


@pytest.mark.parametrize("job_id", ["", "a/b", "ä", "a b", "x" * 129])
def test_a_job_id_is_that_of_a_url(job_id: str) -> None:
    with pytest.raises(HubError, match="A job id has 1 to 128"):
        JobSpecification.from_json(job_id, METHOD_JOB, START)


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
    job = JobSpecification.from_json("job", {**METHOD_JOB, "updateTwin": None, **given}, START)
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
