"""Checks of notebook 02."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from fwupdate_helpers import contract
from fwupdate_helpers.exercises.card import Card, correct, incorrect, short
from fwupdate_helpers.exercises.learner import Json, Learner

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
    patch = learner.attempt("version_patch", todo="Put a patch in the place of the three dots.")
    told = learner.reported(device_id).get("fwVersion")
    own = patch.get("fwVersion") if isinstance(patch, dict) else None
    if own is None or told != own:
        return incorrect(
            f"fwVersion is {short(told)} in the twin, and the patch is {short(patch)}.",
            expected="A dictionary with the key fwVersion, and the same value in the twin.",
            look="The spelling of the key, and whether the cell was run after the change.",
        )
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
    learner.need("on_method", 5)
    todo = "Put the report that belongs there in the place of the three dots."
    learner.attempt("honest_walk", todo=todo)
    _wait_for_walks()
    with learner.changed(stage_seconds=_QUICK_SECONDS):
        answer = learner.call(device_id, "honestUpdate", _URI)
        if answer.status != 200:
            return incorrect(
                f"honestUpdate got {answer}.",
                expected="Status 200, as from the method of step 5.",
                look="The exercise's cell, which must run after step 5: its last line is needed.",
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
        _moment(told.get(key)) for key in (contract.DOWNLOAD_COMPLETE, contract.STARTED_APPLYING)
    )
    if complete is None or applying is None:
        missing = contract.DOWNLOAD_COMPLETE if complete is None else contract.STARTED_APPLYING
        return incorrect(
            f"The walk completed, and {missing} is {short(told.get(missing))}.",
            expected="Both times of the tutorial: downloadComplete and startedApplyingImage.",
            look="What walk of step 4 reports when it begins to apply; each time is now().",
        )
    return _judge_times((applying - complete).total_seconds())


def _judge_times(early: float) -> Card:
    if early > _QUICK_SECONDS / 2:
        return incorrect(
            f"downloadComplete was written {early:.1f} s before the download was over.",
            expected="It is written after the pause that stands for the download.",
            look="Which report comes before that pause.",
        )
    if early < -_QUICK_SECONDS / 2:
        return incorrect(
            f"downloadComplete was written {-early:.1f} s after the device began to apply.",
            expected="It is written when the download is over, before anything else begins.",
            look="Which report comes after the last pause.",
        )
    return correct("downloadComplete is written when the download is complete.")


def _moment(text: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def _wait_for_walks() -> None:
    for thread in threading.enumerate():
        if thread.name == _WALK_NAME:
            thread.join(_WALK_SECONDS)


def waits_its_turn(learner: Learner) -> Card:
    """02-c: a service that meets a busy device comes back when it is free."""
    learner.hub()
    device = learner.need("device", 9)
    todo = "Write the body of update_when_free, and return the update."
    update_when_free = learner.attempt("update_when_free", todo=todo)
    learner.reported(device.device_id)  # a hub that is away is found out at once
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
