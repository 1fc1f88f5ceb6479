"""Checks of notebook 02."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from fwupdate_helpers import contract
from fwupdate_helpers.exercises.card import Card, correct, incorrect, not_attempted, short
from fwupdate_helpers.exercises.learner import Json, Learner, StepMissing

if TYPE_CHECKING:
    from fwupdate_helpers.device import SimulatedDevice

_QUICK_SECONDS: Final = 0.4
"""How long a stage takes while a check walks an update."""
_WALK_NAME: Final = "firmware-update"
_WALK_SECONDS: Final = 30.0
_URI: Final = {contract.PACKAGE_URI: "test.com"}


def version_in_the_twin(learner: Learner) -> Card:
    """02-a: one more reported property."""
    learner.hub()
    device_id = learner.need("device_id", 2)
    learner.need("report", 3)
    told = learner.reported(device_id).get("fwVersion")
    if told is None:
        return not_attempted("Call report with a patch that has the key fwVersion.")
    if told != "1.0.0":
        return incorrect(
            f"fwVersion is {short(told)}.",
            expected="fwVersion is '1.0.0', a text.",
            look="The quotation marks, and the three numbers.",
        )
    return correct("The twin tells which firmware the device runs.")


def honest_walk(learner: Learner) -> Card:
    """02-b: downloadComplete is written when the download is complete."""
    learner.hub()
    device_id = learner.need("device_id", 2)
    methods = learner.need("methods", 5)
    if "honestUpdate" not in methods:
        raise StepMissing("The exercise's own cell has not been run. Run it, then this cell.")
    _wait_for_walks()
    with learner.changed(stage_seconds=_QUICK_SECONDS):
        answer = learner.call(device_id, "honestUpdate", _URI)
        if answer.status != 200:
            return incorrect(
                f"honestUpdate got {answer}.",
                expected="Status 200, as from the method of step 5.",
                look="The client of step 2 and the handler of step 5: do they run?",
            )
        _wait_for_walks()
    return _judge_walk(learner.reported(device_id))


def _judge_walk(told: Json) -> Card:
    if told.get(contract.STATUS) != contract.COMPLETED:
        return incorrect(
            f"The walk stopped at {short(told.get(contract.STATUS))}.",
            expected="It ends with completed.",
            look="An error in honest_walk: call it yourself in a cell, and read what it says.",
        )
    complete, applying = (
        told.get(key) for key in (contract.DOWNLOAD_COMPLETE, contract.STARTED_APPLYING)
    )
    if complete is None and applying is None:
        return not_attempted("Put the report that belongs there in the place of the three dots.")
    if complete is None or applying is None:
        missing = contract.DOWNLOAD_COMPLETE if complete is None else contract.STARTED_APPLYING
        return incorrect(
            f"The walk completed without {missing}.",
            expected="Both times of the tutorial: downloadComplete and startedApplyingImage.",
            look="What walk of step 4 reports when it begins to apply.",
        )
    early = (_moment(applying) - _moment(complete)).total_seconds()
    if early > _QUICK_SECONDS / 2:
        return incorrect(
            f"downloadComplete was written {early:.1f} s before the download was over.",
            expected="It is written after the pause that stands for the download.",
            look="Which report comes before that pause.",
        )
    return correct("downloadComplete is written when the download is complete.")


def _moment(text: Any) -> datetime:
    return datetime.fromisoformat(str(text).replace("Z", "+00:00"))


def _wait_for_walks() -> None:
    for thread in threading.enumerate():
        if thread.name == _WALK_NAME:
            thread.join(_WALK_SECONDS)


def waits_its_turn(learner: Learner) -> Card:
    """02-c: a service that meets a busy device comes back when it is free."""
    learner.hub()
    update_when_free = learner.need("update_when_free", 10)
    with _busy_device(learner) as (device, first):
        try:
            second = update_when_free(device.device_id)
        except Exception as error:
            status = getattr(error, "status", None)
            return incorrect(
                f"The call ended with {type(error).__name__}" + (f" {status}." if status else "."),
                expected="No error: the device is busy, and will be free.",
                look="Which exception step 9 catches, and what its status is.",
            )
        if second is None:
            return not_attempted("Write the body of update_when_free, and return the update.")
        told = learner.reported(device.device_id)[contract.UPDATE]
    return _judge_second(first, getattr(second, "update_id", second), told)


def _judge_second(first: str, second: Any, told: Json) -> Card:
    if second == told[contract.UPDATE_ID] != first:
        return correct("The second update began when the first one had ended.")
    seen = f"The function returned {short(second)}; the device does another update."
    if told[contract.UPDATE_ID] == first:
        seen = "The function returned, and the device is still at the first update."
    return incorrect(
        seen,
        expected="The update that was invoked second, from invoke_firmware_update.",
        look="What happens after the waiting: the call must be made again.",
    )


@contextmanager
def _busy_device(learner: Learner) -> Iterator[tuple[SimulatedDevice, str]]:
    """Run a quick device of the check's own, in the middle of an update; yield both."""
    from fwupdate_helpers.device import SimulatedDevice
    from fwupdate_helpers.service import invoke_firmware_update

    hub = learner.hub()
    device_id = hub.device_id("check")
    device = SimulatedDevice(
        hub.device_connection_string(device_id), stage_seconds=_QUICK_SECONDS, **hub.device_options
    )
    try:
        device.start()
        yield device, invoke_firmware_update(hub.registry, device_id).update_id
    finally:
        device.stop()
        hub.delete_device(device_id)


CHECKS: Final = {"02-a": version_in_the_twin, "02-b": honest_walk, "02-c": waits_its_turn}
