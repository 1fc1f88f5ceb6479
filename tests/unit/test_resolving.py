"""What the reported properties tell of a direct method whose answer is lost."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from azure.iot.hub.models import Twin, TwinProperties

from fwupdate_helpers import contract
from fwupdate_helpers.localhub.twins import merge
from fwupdate_helpers.resolving import has_begun, knows_ids, look_for, was_cancelled
from fwupdate_helpers.retries import CannotTell, RetryPolicy

Json = dict[str, Any]
NOW = datetime(2026, 5, 4, 12, 30, tzinfo=timezone.utc)

TUTORIAL = contract.stand_by_patch(NOW)
OPENED = contract.opening_patch("ours", NOW)
AT_WORK = merge(OPENED, contract.stage_patch(NOW, contract.WAITING, contract.DOWNLOADING))
CANCELLED = merge(
    AT_WORK, contract.error_patch(NOW, contract.DOWNLOADING, contract.CODE_CANCELLED, "It was.")
)
LEFT_BEHIND = merge(CANCELLED, {contract.STATUS: contract.DOWNLOADING})
NEVER_UPDATED = contract.firmware_patch("1.0.0", None, "a", {"a": "1.0.0", "b": None})


@pytest.mark.parametrize(
    ("reported", "knows"),
    [
        ({}, False),
        (TUTORIAL, False),
        ({**TUTORIAL, contract.STATUS: contract.DOWNLOADING}, False),
        (merge(TUTORIAL, NEVER_UPDATED), True),
        (OPENED, True),
        (AT_WORK, True),
        (CANCELLED, True),
        (LEFT_BEHIND, False),
    ],
)
def test_devices_that_know_update_ids_are_told_from_the_tutorials(
    reported: Json, knows: bool
) -> None:
    assert knows_ids(reported) is knows


def test_only_the_id_that_is_meant_counts() -> None:
    assert has_begun(AT_WORK, "ours")
    assert not has_begun(AT_WORK, "another")
    assert not has_begun(TUTORIAL, "ours")
    assert was_cancelled(CANCELLED, "ours")
    assert not was_cancelled(CANCELLED, "another")
    assert not was_cancelled(AT_WORK, "ours")


class Looks:
    """A registry that hands out one state a look, then the last one for ever."""

    def __init__(self, *states: Json) -> None:
        self.states, self.looks, self.seconds = states, 0, 0.0

    def get_twin(self, device_id: str) -> Twin:
        state = self.states[min(self.looks, len(self.states) - 1)]
        self.looks += 1
        return Twin(device_id=device_id, properties=TwinProperties(reported=state))

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def resolve(self, settle_seconds: float) -> str | None:
        policy = RetryPolicy(
            settle_seconds=settle_seconds, clock=lambda: self.seconds, sleep=self.sleep
        )

        def found(reported: Json) -> str | None:
            return "begun" if has_begun(reported, "ours") else None

        return look_for(self, "device-01", found=found)(policy)


def test_a_report_that_comes_a_little_later_is_seen() -> None:
    registry = Looks(NEVER_UPDATED, NEVER_UPDATED, AT_WORK)
    assert registry.resolve(2.0) == "begun"
    assert (registry.looks, registry.seconds) == (3, 0.5)


def test_after_the_settling_time_nothing_is_there_or_nothing_can_be_told() -> None:
    ours, tutorials = Looks(NEVER_UPDATED), Looks(TUTORIAL)
    assert ours.resolve(0.6) is None
    assert (ours.looks, ours.seconds) == (4, pytest.approx(0.6))
    with pytest.raises(CannotTell):
        tutorials.resolve(0)
    assert tutorials.looks == 1
