"""The patches of an update, and what a twin is after them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from fwupdate_helpers import contract
from fwupdate_helpers.contract import APPLYING, DOWNLOADING, WAITING, UpdateOrder
from fwupdate_helpers.localhub.twins import check_keys, merge

Json = dict[str, Any]
BEGIN = datetime(2026, 5, 4, 12, 30, tzinfo=timezone.utc)


def at(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


def wire(seconds: float) -> str:
    return contract.to_wire(at(seconds))


def after(*patches: Json) -> Json:
    reported: Json = {}
    for patch in patches:
        reported = merge(reported, patch)
    return reported


def walk(update_id: str, begin: float, version: str | None = None) -> list[Json]:
    return [
        contract.opening_patch(update_id, at(begin), version),
        contract.stage_patch(at(begin + 1), WAITING, DOWNLOADING),
        contract.progress_patch(0.25),
        contract.stage_patch(at(begin + 2), DOWNLOADING, APPLYING),
        contract.completed_patch(at(begin + 3)),
    ]


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (BEGIN, "2026-05-04T12:30:00.000Z"),
        (BEGIN + timedelta(microseconds=999_999), "2026-05-04T12:30:00.999Z"),
        (BEGIN.astimezone(timezone(timedelta(hours=-7))), "2026-05-04T12:30:00.000Z"),
    ],
)
def test_times_are_iso_8601_utc_with_milliseconds(moment: datetime, text: str) -> None:
    assert contract.to_wire(moment) == text


def test_the_opening_patch_has_an_explicit_null_for_all_but_the_last_update() -> None:
    assert contract.opening_patch("u2", at(0)) == {
        "firmwareStatus": "standBy",
        "logTime": "2026-05-04T12:30:00.000Z",
        "downloadComplete": None,
        "startedApplyingImage": None,
        "firmwareUpdate": {
            "updateId": "u2",
            "version": None,
            "progress": 0,
            "receivedBytes": None,
            "totalBytes": None,
            "recovery": None,
            "outcome": None,
            "error": None,
            "stages": {
                "waiting": {"startedAt": "2026-05-04T12:30:00.000Z", "endedAt": None},
                "downloading": None,
                "verifying": None,
                "applying": None,
                "rebooting": None,
            },
        },
    }


def test_a_completed_update_tells_of_every_stage() -> None:
    assert after(*walk("u1", 0, "1.2.0")) == {
        "firmwareStatus": "completed",
        "logTime": wire(0),
        "downloadComplete": wire(2),
        "startedApplyingImage": wire(2),
        "lastFirmwareUpdate": wire(3),
        "firmwareUpdate": {
            "updateId": "u1",
            "version": "1.2.0",
            "progress": 1,
            "outcome": "completed",
            "stages": {
                "waiting": {"startedAt": wire(0), "endedAt": wire(1)},
                "downloading": {"startedAt": wire(1), "endedAt": wire(2)},
                "applying": {"startedAt": wire(2), "endedAt": wire(3)},
            },
        },
    }


@pytest.mark.parametrize("ended", [None, WAITING, DOWNLOADING, APPLYING])
def test_the_opening_patch_leaves_no_trace_of_a_finished_update(ended: str | None) -> None:
    patches = walk("u1", 0, "1.2.0")
    if ended is not None:  # it failed in that stage
        patches = [
            *patches[: {WAITING: 1, DOWNLOADING: 3, APPLYING: 4}[ended]],
            contract.error_patch(at(9), ended, "internal", "It failed."),
        ]
    opening = contract.opening_patch("u2", at(10))
    fresh = after(opening)
    second = merge(after(*patches), opening)
    if ended is None:
        assert second.pop("lastFirmwareUpdate") == wire(3)
    assert second == fresh


def test_an_error_ends_its_stage_and_says_why() -> None:
    failed = after(*walk("u1", 0)[:3], contract.error_patch(at(5), DOWNLOADING, "hash", "Wrong."))
    assert failed["firmwareStatus"] == "error"
    assert failed["firmwareUpdate"]["error"] == {"code": "hash", "message": "Wrong."}
    assert failed["firmwareUpdate"]["stages"]["downloading"]["endedAt"] == wire(5)
    assert contract.open_stage(failed) is None
    assert "lastFirmwareUpdate" not in failed


@pytest.mark.parametrize(
    ("patches", "stage"), [(0, None), (1, WAITING), (2, DOWNLOADING), (4, APPLYING), (5, None)]
)
def test_a_start_closes_the_stage_that_the_last_run_left_open(
    patches: int, stage: str | None
) -> None:
    left = after(*walk("u1", 0)[:patches])
    assert contract.open_stage(left) == stage
    patch = contract.started_patch(at(60), left)
    started = merge(left, patch)
    assert contract.open_stage(started) is None
    assert (started["firmwareStatus"], started["logTime"]) == ("standBy", wire(60))
    if stage is None:
        assert patch == contract.stand_by_patch(at(60))
    else:
        update = started["firmwareUpdate"]
        assert update["error"]["code"] == "interrupted"
        assert stage in update["error"]["message"]
        assert update["stages"][stage]["endedAt"] == wire(60)
        assert update["updateId"] == "u1"


@pytest.mark.parametrize("reported", [{}, {"firmwareUpdate": None}, {"firmwareUpdate": {}}])
def test_a_twin_that_tells_of_no_update_has_no_open_stage(reported: Json) -> None:
    assert contract.open_stage(reported) is None


def test_every_patch_keeps_to_the_rules_of_a_twin() -> None:
    for patch in (*walk("u1", 0), contract.error_patch(at(1), WAITING, "code", "message")):
        check_keys("reported", patch)


def test_an_order_is_read_from_a_payload() -> None:
    payload = {"fwPackageUri": " test.com ", "updateId": "u1", "version": "1.2.0", "more": 1}
    assert UpdateOrder.from_payload(payload) == UpdateOrder("test.com", "u1", "1.2.0")
    first, second = (UpdateOrder.from_payload({"fwPackageUri": "a"}) for _ in range(2))
    assert first.update_id != second.update_id
    assert first.version is None


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ([], "must be an object"),
        ({"updateId": "u1"}, "needs 'fwPackageUri'"),
        ({"fwPackageUri": " "}, "not empty"),
        ({"fwPackageUri": "a" * 2049}, "2048 characters"),
        ({"fwPackageUri": "a", "version": "\x1b[31m"}, "'version'"),
    ],
)
def test_an_order_that_is_not_usable_is_refused_in_a_sentence(payload: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        UpdateOrder.from_payload(payload)
    assert str(refused.value).endswith(".")
