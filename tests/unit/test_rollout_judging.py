"""How an update ended on a device, and what that means for the next wave."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from fwupdate_helpers import contract
from fwupdate_helpers.contract_firmware import desired_update_id
from fwupdate_helpers.errors import (
    DeviceNotFound,
    DeviceOffline,
    FirmwareUpdateError,
    HubThrottled,
    UpdateRejected,
    UpdateTimeout,
)
from fwupdate_helpers.fleet_view import FleetRow
from fwupdate_helpers.localhub.twins import merge
from fwupdate_helpers.rollout.job_orders import answer_of_job
from fwupdate_helpers.rollout.judging import Answer, Followed, Reply
from fwupdate_helpers.rollout.orders import answer_of_error
from fwupdate_helpers.rollout.outcomes import Outcome, Result, Threshold

NOW = datetime(2026, 5, 4, 12, 30, tzinfo=timezone.utc)
OURS = "fw-2-0-0.0123abcd"


def row(update_id: str | None = OURS, *patches: contract.Json) -> FleetRow:
    """Return what a device shows whose last update has this id."""
    reported = {} if update_id is None else contract.opening_patch(update_id, NOW)
    for patch in patches:
        reported = merge(reported, patch)
    return FleetRow.from_twin({"deviceId": "device-01", "properties": {"reported": reported}})


def failed(status: str = contract.ERROR, code: str = "downloadFailed") -> contract.Json:
    return contract.error_patch(NOW, contract.WAITING, code, "It failed.", status)


COMPLETED = contract.completed_patch(NOW, contract.WAITING)
WAIT = (False, False)
REACH_OVER = (True, False)
ALL_OVER = (True, True)


@pytest.mark.parametrize(
    ("shown", "reply", "over", "result"),
    [
        (row(OURS, COMPLETED), Reply.STARTED, WAIT, Result(Outcome.COMPLETED)),
        (row(OURS, COMPLETED), None, ALL_OVER, Result(Outcome.COMPLETED)),
        (row(OURS, failed()), Reply.SENT, WAIT, Result(Outcome.FAILED, "downloadFailed")),
        (
            row(OURS, failed("rolledback", "selfTestFailed")),
            Reply.STARTED,
            WAIT,
            Result(Outcome.FAILED, "selfTestFailed"),
        ),
        (row(), Reply.STARTED, REACH_OVER, None),
        (row(), Reply.STARTED, ALL_OVER, Result(Outcome.LATE)),
        # What is left of an earlier update says nothing.
        (row("old", COMPLETED), None, WAIT, None),
        (row("old", failed()), Reply.STARTED, REACH_OVER, None),
        (row("old", COMPLETED), None, REACH_OVER, Result(Outcome.NOT_REACHED)),
        (row("old", COMPLETED), Reply.STARTED, ALL_OVER, Result(Outcome.LATE)),
        (row(None), Reply.UP_TO_DATE, WAIT, Result(Outcome.UP_TO_DATE)),
        (row(None), Reply.REFUSED, WAIT, Result(Outcome.FAILED)),
        (row(None), Reply.UNREACHED, WAIT, None),
        (row(None), Reply.UNREACHED, REACH_OVER, Result(Outcome.NOT_REACHED)),
        (row(None), Reply.WITHDRAWN, WAIT, Result(Outcome.NOT_REACHED)),
        # An order that is on its way may have begun an update.
        (row(None), Reply.SENT, REACH_OVER, None),
        (row(None), Reply.SENT, ALL_OVER, Result(Outcome.LATE)),
        (None, Reply.GONE, WAIT, Result(Outcome.GONE)),
        (None, None, WAIT, None),
    ],
)
def test_the_end_on_a_device(
    shown: FleetRow | None, reply: Reply | None, over: tuple[bool, bool], result: Result | None
) -> None:
    followed = Followed(Answer(reply) if reply else None)
    judged = followed.judge(shown, OURS, reach_is_over=over[0], wave_is_over=over[1])
    assert judged == result


def test_an_update_that_takes_the_place_of_ours_is_told() -> None:
    followed = Followed(Answer(Reply.STARTED))
    assert followed.judge(row(), OURS, reach_is_over=False, wave_is_over=False) is None
    result = followed.judge(row("newer"), OURS, reach_is_over=False, wave_is_over=False)
    assert result == Result(Outcome.FAILED, "superseded")


def outcomes(**counts: int) -> list[Result]:
    return [Result(Outcome[name]) for name, count in counts.items() for _ in range(count)]


@pytest.mark.parametrize(
    ("abort_at", "results", "objection"),
    [
        (0.1, outcomes(COMPLETED=10), None),
        (0.1, outcomes(COMPLETED=9, FAILED=1), None),  # as much as it may be
        (0.1, outcomes(COMPLETED=8, FAILED=1), "1 of 9 updates failed, more than 10 %"),
        (0.1, outcomes(COMPLETED=8, LATE=1), "1 of 9 updates failed, more than 10 %"),
        (0.29, outcomes(UP_TO_DATE=71, FAILED=29), None),  # 0.29 * 100 is less than 29
        (0, outcomes(COMPLETED=999, FAILED=1), "1 of 1,000 updates failed, more than 0 %"),
        (1, outcomes(FAILED=3), None),
        (0.1, outcomes(UP_TO_DATE=1, NOT_REACHED=500, GONE=3), None),
        (0.1, outcomes(NOT_REACHED=1), "no device was reached"),
        (0.1, [], "no device was reached"),
    ],
)
def test_what_speaks_against_the_next_wave(
    abort_at: float, results: list[Result], objection: str | None
) -> None:
    found = Threshold(abort_at).objection(results)
    assert found == objection or (found and objection and found.startswith(objection))


def test_a_wave_is_hopeless_when_the_rest_cannot_save_it() -> None:
    threshold = Threshold(0.1)
    assert not threshold.is_hopeless(outcomes(FAILED=2), 20)
    assert threshold.is_hopeless(outcomes(FAILED=3), 20)


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (DeviceNotFound("d", "no"), Answer(Reply.GONE)),
        (DeviceOffline("d", "no"), Answer(Reply.UNREACHED, "offline")),
        (HubThrottled("no", status=429, code=429001), Answer(Reply.UNREACHED, "429001")),
        (UpdateTimeout("d", "no", code=504101), Answer(Reply.SENT, "504101")),
        (
            UpdateRejected("d", "no", status=409, payload={"error": {"code": "busy"}}),
            Answer(Reply.UNREACHED, "busy"),
        ),
        (
            UpdateRejected("d", "no", status=400, payload={"error": {"code": "noBoard"}}),
            Answer(Reply.REFUSED, "noBoard"),
        ),
        (UpdateRejected("d", "no", status=404, payload=None), Answer(Reply.REFUSED, "404")),
    ],
)
def test_what_an_order_that_came_to_nothing_means(
    error: FirmwareUpdateError, answer: Answer
) -> None:
    assert answer_of_error(error) == answer


def job_row(status: str, **fields: object) -> contract.Json:
    return {"status": status, **fields}


def answered(status: int, payload: object) -> contract.Json:
    response = {"status": status, "payload": payload}
    return job_row("completed", outcome={"deviceMethodResponse": response})


@pytest.mark.parametrize(
    ("told", "answer"),
    [
        (job_row("pending"), Answer(Reply.SENT)),
        (job_row("running"), Answer(Reply.SENT)),
        (answered(200, contract.RESPONSE_STARTED), Answer(Reply.STARTED)),
        (answered(200, contract.RESPONSE_REPEATED), Answer(Reply.STARTED)),
        (answered(200, contract.RESPONSE_UP_TO_DATE), Answer(Reply.UP_TO_DATE)),
        (answered(409, {"error": {"code": "busy"}}), Answer(Reply.UNREACHED, "busy")),
        (answered(400, {"error": {"code": "noBoard"}}), Answer(Reply.REFUSED, "noBoard")),
        (answered(404, None), Answer(Reply.REFUSED, "404")),
        (
            job_row("failed", error={"code": "JobRunPreconditionFailed"}),
            Answer(Reply.WITHDRAWN, "offline"),
        ),
        (job_row("failed", error={"code": "DeviceNotFound"}), Answer(Reply.GONE)),
        (job_row("failed", error={"code": "GatewayTimeout"}), Answer(Reply.SENT, "GatewayTimeout")),
        (job_row("failed"), Answer(Reply.SENT, "unknown")),
        (job_row("canceled"), Answer(Reply.WITHDRAWN)),
    ],
)
def test_what_a_job_tells_of_a_device(told: contract.Json, answer: Answer) -> None:
    assert answer_of_job(told) == answer


def test_the_id_of_a_desired_update_is_of_one_rollout_alone() -> None:
    content = {"fwVersion": "2.0.0", "fwPackageURI": "test.com"}
    ids = {desired_update_id({**content, "rollout": run}) for run in ("a.1", "a.2", "b.1")}
    assert len(ids | {desired_update_id(content)}) == 4
