"""The service side without a hub: error codes, and when an update has ended.

The stand-in for the registry only hands out prepared twins; the calls themselves are tested
against the local hub in tests/hub.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from itertools import accumulate
from typing import Any

import pytest
import requests
from azure.iot.hub.models import (
    CloudToDeviceMethod,
    CloudToDeviceMethodResult,
    Twin,
    TwinProperties,
)
from msrest.exceptions import ClientRequestError

from fwupdate_helpers import contract
from fwupdate_helpers.errors import (
    HubUnavailable,
    UpdateFailed,
    UpdateRejected,
    UpdateTimeout,
)
from fwupdate_helpers.localhub.twins import merge
from fwupdate_helpers.retries import RetryPolicy
from fwupdate_helpers.service import (
    invoke_firmware_update,
    update_failure,
    wait_for_update,
    watch_update,
)

Json = dict[str, Any]
BEGIN = datetime(2026, 5, 4, 12, 30, tzinfo=timezone.utc)
SECRET = "SharedAccessSignature sr=hub&sig=c2VjcmV0&se=1&skn=service"


# --- invoking ---


class OneAnswer:
    """A registry whose device gives one answer."""

    def __init__(self, status: int, payload: Any) -> None:
        self.answer = CloudToDeviceMethodResult(status=status, payload=payload)
        self.sent: CloudToDeviceMethod = None

    def invoke_device_method(self, device_id: str, method: CloudToDeviceMethod) -> Any:
        self.sent = method
        return self.answer


def test_the_invoked_method_is_the_tutorials_with_an_update_id() -> None:
    registry = OneAnswer(200, contract.RESPONSE_STARTED)
    update = invoke_firmware_update(registry, "device-01")
    assert registry.sent.as_dict() == {
        "method_name": "firmwareUpdate",
        "payload": {"fwPackageUri": "test.com", "updateId": update.update_id},
        "response_timeout_in_seconds": 60,
        "connect_timeout_in_seconds": 0,
    }
    assert len(update.update_id) == 32
    assert update.update_id != invoke_firmware_update(registry, "device-01").update_id
    assert (update.device_id, update.status) == ("device-01", 200)
    assert update.payload == {"Response": "Firmware update started"}


def test_an_update_id_and_a_version_are_sent_as_given() -> None:
    registry = OneAnswer(200, None)
    options = {"update_id": "u", "version": "1.1.0", "package_uri": "https://host/a.bin"}
    assert invoke_firmware_update(registry, "device-01", **options).update_id == "u"
    assert registry.sent.payload == {
        "fwPackageUri": "https://host/a.bin",
        "updateId": "u",
        "version": "1.1.0",
    }


@pytest.mark.parametrize(
    ("status", "says"),
    [(409, "running already"), (400, "URI"), (404, "no direct method"), (500, "payload")],
)
def test_a_rejected_update_keeps_status_and_payload(status: int, says: str) -> None:
    with pytest.raises(UpdateRejected, match=says) as caught:
        invoke_firmware_update(OneAnswer(status, {"why": SECRET}), "device-01")
    assert (caught.value.status, caught.value.payload) == (status, {"why": SECRET})
    assert SECRET not in str(caught.value)


# --- watching ---


def at(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


def states(*patches: Json) -> list[Json]:
    """The reported properties after each of the patches."""
    empty: Json = {}
    return list(accumulate(patches, merge, initial=empty))[1:]


class Looks:
    """A registry that hands out one prepared state a look, then the last one for ever."""

    def __init__(self, *reported: Json | None) -> None:
        self.reported = list(reported)
        self.looks = 0
        self.now = 0.0

    def get_twin(self, device_id: str) -> Twin:
        state = self.reported[min(self.looks, len(self.reported) - 1)]
        self.looks += 1
        return Twin(device_id=device_id, properties=TwinProperties(reported=state))

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def watch(self, update_id: str | None = "u1", **options: Any) -> Iterator[Twin]:
        options = {"timeout": 60, "clock": self.clock, "sleep": self.sleep} | options
        return watch_update(self, "device-01", update_id=update_id, **options)

    def statuses(self, update_id: str | None = "u1", **options: Any) -> list[str | None]:
        reported = (twin.properties.reported or {} for twin in self.watch(update_id, **options))
        return [state.get("firmwareStatus") for state in reported]


def walk(update_id: str = "u1", start: float = 0) -> list[Json]:
    return [
        contract.opening_patch(update_id, at(start), "1.1.0"),
        contract.stage_patch(at(start + 5), contract.WAITING, contract.DOWNLOADING),
        contract.stage_patch(at(start + 10), contract.DOWNLOADING, contract.APPLYING),
        contract.completed_patch(at(start + 15)),
    ]


ALL_FOUR = ["standBy", "downloading", "applying", "completed"]
TUTORIAL = [
    {"firmwareStatus": "standBy", "logTime": "2018-05-04T12:29:45"},
    {"firmwareStatus": "downloading", "downloadComplete": "2018-05-04T12:30:00"},
    {"firmwareStatus": "applying", "startedApplyingImage": "2018-05-04T12:30:15"},
    {"firmwareStatus": "completed", "lastFirmwareUpdate": "2018-05-04T12:30:30"},
]


def test_every_change_is_yielded_once_and_the_end_ends_it() -> None:
    a, b, c, d = states(*walk())
    registry = Looks(a, a, b, b, b, c, d)
    assert registry.statuses() == ALL_FOUR
    assert registry.looks == 7
    assert registry.now == pytest.approx(6 * 0.5)


def test_the_first_twin_comes_at_once_even_when_nothing_is_reported() -> None:
    registry = Looks(None)
    assert next(registry.watch()).device_id == "device-01"
    assert registry.now == 0


def test_an_update_that_has_ended_already_is_yielded_and_ends() -> None:
    assert Looks(states(*walk())[-1]).statuses() == ["completed"]


def test_the_end_of_the_update_before_does_not_count() -> None:
    before, *later = states(*walk("u0")[:1], *walk("u0")[1:], *walk("u1", 60))[3:]
    assert Looks(before, before, *later).statuses() == ["completed", *ALL_FOUR]


@pytest.mark.parametrize("status", ["error", "rolledback"])
def test_an_error_and_a_rollback_end_it(status: str) -> None:
    failed = contract.error_patch(at(7), contract.DOWNLOADING, "hash_mismatch", "text")
    looks = states(*walk()[:2], {**failed, "firmwareStatus": status})
    assert Looks(*looks).statuses() == ["standBy", "downloading", status]


INTERRUPTED = {
    **contract.error_patch(
        at(30), contract.DOWNLOADING, contract.CODE_INTERRUPTED, "It restarted."
    ),
    "firmwareStatus": "standBy",
}


@pytest.mark.parametrize("update_id", ["u1", None])
def test_an_interrupted_update_ends_although_the_device_stands_by(update_id: str | None) -> None:
    looks = states(*walk()[:2], contract.stand_by_patch(at(29)), INTERRUPTED)
    assert Looks(*looks).statuses(update_id) == ["standBy", "downloading", "standBy", "standBy"]


def test_a_completed_update_ends_it_even_when_the_device_has_restarted_since() -> None:
    looks = states(*walk(), contract.stand_by_patch(at(99)))
    assert Looks(looks[1], looks[-1]).statuses() == ["downloading", "standBy"]


def test_another_update_that_begins_meanwhile_supersedes_this_one() -> None:
    looks = states(*walk()[:2], *walk("u2", 20))
    with pytest.raises(UpdateFailed, match="no longer tells of u1") as caught:
        Looks(*looks).statuses()
    assert caught.value.code == "superseded"


def test_without_an_update_id_the_first_final_status_ends_it() -> None:
    assert Looks(*states(*walk())).statuses(None) == ALL_FOUR
    assert Looks(*states(*TUTORIAL)).statuses(None) == ALL_FOUR
    assert Looks(states(*TUTORIAL)[-1]).statuses(None) == ["completed"]


def test_without_an_update_id_a_device_that_stands_by_is_waited_for() -> None:
    idle = states(*walk("u0"), contract.stand_by_patch(at(50)), *walk("u1", 60))[4:]
    assert Looks(*idle).statuses(None) == ["standBy", *ALL_FOUR]


def test_the_tutorials_device_knows_no_update_id_and_is_watched_by_status() -> None:
    assert Looks(*states(*TUTORIAL)).statuses("u1") == ALL_FOUR


def test_the_tutorials_device_still_tells_of_its_last_update_at_first() -> None:
    again = {**TUTORIAL[1], "downloadComplete": "2018-05-04T13:00:00"}
    end = {**TUTORIAL[3], "lastFirmwareUpdate": "2018-05-04T13:00:30"}
    looks = states(*TUTORIAL, again, TUTORIAL[2], end)[3:]
    assert Looks(looks[0], *looks).statuses("u1") == ["completed", *ALL_FOUR[1:]]
    assert Looks(looks[0], looks[0], looks[-1]).statuses("u1") == ["completed", "completed"]


def test_the_tutorials_device_on_an_id_that_a_device_of_ours_had_is_watched_by_status() -> None:
    left = walk("of-an-older-device")[-1]
    looks = [merge(left, {"firmwareStatus": "standBy"})]
    for patch in TUTORIAL[1:]:
        looks.append(merge(looks[-1], patch))
    assert Looks(*looks).statuses("u1") == ALL_FOUR


def test_an_update_of_somebody_else_that_begins_while_ours_is_not_seen_supersedes_it() -> None:
    with pytest.raises(UpdateFailed) as caught:
        Looks(walk("older")[-1], *walk("newer", start=60)).statuses("u1")
    assert caught.value.code == "superseded"


def test_a_watch_that_takes_too_long_says_where_the_device_stopped() -> None:
    registry = Looks(*states(*walk()[:2]))
    with pytest.raises(UpdateTimeout, match="last reported downloading"):
        registry.statuses(timeout=1.2)
    assert registry.now == pytest.approx(1.2)
    assert registry.looks == 4, "at 0, 0.5, 1.0 and once more at the end"


def test_a_watch_without_a_timeout_and_an_interval_goes_on() -> None:
    a, b, c, d = states(*walk())
    assert Looks(a, a, b, c, d).statuses(timeout=None, interval=0) == ALL_FOUR


def test_a_hub_error_ends_the_watch_as_a_typed_error() -> None:
    class NoHub:
        def get_twin(self, device_id: str) -> Twin:
            raise ClientRequestError("Error", requests.ConnectionError())

    with pytest.raises(HubUnavailable):
        next(watch_update(NoHub(), "device-01", policy=RetryPolicy.none()))


# --- waiting ---


def test_waiting_returns_the_last_twin_and_calls_back_on_every_change() -> None:
    seen: list[Twin] = []
    on_change: Callable[[Twin], None] = seen.append
    registry = Looks(*states(*walk()))
    twin = wait_for_update(registry, "device-01", "u1", interval=0, on_change=on_change)
    assert twin is seen[-1]
    assert [t.properties.reported["firmwareStatus"] for t in seen] == ALL_FOUR


@pytest.mark.parametrize(
    ("patch", "code", "says"),
    [
        (
            contract.error_patch(at(7), contract.DOWNLOADING, "hash_mismatch", "The hash differs."),
            "hash_mismatch",
            r"device-01 failed: hash_mismatch\. The hash differs\.",
        ),
        ({"firmwareStatus": "rolledback"}, "rolledback", "was rolled back"),
        (INTERRUPTED, "interrupted", "failed: interrupted"),
    ],
)
def test_waiting_raises_when_the_update_did_not_complete(patch: Json, code: str, says: str) -> None:
    with pytest.raises(UpdateFailed, match=says) as caught:
        wait_for_update(Looks(*states(*walk()[:2], patch)), "device-01", "u1", interval=0)
    assert caught.value.code == code
    assert caught.value.device_id == "device-01"


def test_waiting_gives_up_after_its_timeout() -> None:
    with pytest.raises(UpdateTimeout):
        wait_for_update(Looks(*states(*walk()[:1])), "device-01", "u1", interval=0, timeout=0.01)


def test_an_update_that_completed_or_still_runs_has_no_failure() -> None:
    for reported in (*states(*walk()), {}):
        assert update_failure("device-01", reported) is None
