"""Checks of notebook 02."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from fwupdate_helpers import contract
from fwupdate_helpers.exercises import wire
from fwupdate_helpers.exercises.card import Card, correct, incorrect, short
from fwupdate_helpers.exercises.learner import Json, Learner

if TYPE_CHECKING:
    from fwupdate_helpers.device import SimulatedDevice
    from fwupdate_helpers.trace import Trace

_WALK_STAGE: Final = 0.4
"""How long a stage takes while a check walks an update: long enough to tell one from two."""
_QUICK_STAGE: Final = 0.2
_WALK_NAME: Final = "firmware-update"
_WALK_SECONDS: Final = 30.0
_TIMES: Final = (
    contract.LOG_TIME,
    contract.DOWNLOAD_COMPLETE,
    contract.STARTED_APPLYING,
    contract.LAST_UPDATE,
)
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
    learner.reported(device_id)  # a hub that is away is not the answer's fault
    _wait_for_walks()
    mark = learner.wire(device_id).last
    with learner.changed(stage_seconds=_WALK_STAGE):
        answer = learner.call(device_id, "honestUpdate", _URI)
        if answer.status != 200:
            return incorrect(
                f"honestUpdate got {answer}.",
                expected="Status 200, as from the method of step 5.",
                look="The exercise's cell, which must run after step 5: its last line is needed.",
            )
        _wait_for_walks()
    reports = wire.reports(learner.wire(device_id, after=mark))
    return _judge_walk(learner.reported(device_id), [one.get(contract.STATUS) for one in reports])


def _judge_walk(told: Json, statuses: list[Any]) -> Card:
    if told.get(contract.STATUS) != contract.COMPLETED:
        return incorrect(
            f"The walk stopped at {short(told.get(contract.STATUS))}.",
            expected="It ends with completed.",
            look="An error in honest_walk: call it yourself in a cell, and read what it says.",
        )
    moments = {name: _moment(told.get(name)) for name in _TIMES}
    for name, moment in moments.items():
        if moment is None:
            return incorrect(
                f"The walk completed, and {name} is {short(told.get(name))}.",
                expected=f"The times of the tutorial: {', '.join(_TIMES[1:])}.",
                look="What walk of step 4 reports when it begins to apply; each time is now().",
            )
    # On Azure there is no trace, and the twin tells the last status alone.
    if statuses and contract.APPLYING not in statuses:
        return incorrect(
            "The walk completed, and no report said that the device was applying.",
            expected="firmwareStatus is applying while the image is written.",
            look="The first key of the report in walk of step 4, at the same place.",
        )
    return _judge_times(*(moment.timestamp() for moment in moments.values() if moment))


def _judge_times(called: float, complete: float, applying: float, end: float) -> Card:
    """Compare what lies before each moment (two pauses) with what lies after it (one)."""
    if applying - complete > _WALK_STAGE / 2 or complete - called < end - complete:
        return incorrect(
            f"downloadComplete was written {_WALK_STAGE:.1f} s before the download was over.",
            expected="It is written after the pause that stands for the download.",
            look="Which report comes before that pause.",
        )
    if end - complete < _WALK_STAGE / 2:
        return incorrect(
            f"downloadComplete was written {complete - applying:.1f} s after the device began to "
            "apply.",
            expected="It is written when the download is over, before anything else begins.",
            look="Which report comes after the last pause.",
        )
    if applying - called < end - applying:
        return incorrect(
            "startedApplyingImage was written before the download was over.",
            expected="Applying begins when the download is complete.",
            look="Which report comes before the pause that stands for the download.",
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
        mark = learner.wire(device.device_id).last
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
        card = _judge_second(first, getattr(second, "update_id", second), told)
        return card or _judge_patience(device, learner.wire(device.device_id, after=mark))


def _judge_second(first: str, second: Any, told: Json) -> Card | None:
    if second == told[contract.UPDATE_ID] != first:
        return None
    seen = f"The function returned {short(second)}; the device does another update."
    if told[contract.UPDATE_ID] == first:
        seen = "The function returned, and the device is still at the first update."
    return incorrect(
        seen,
        expected="The update that was invoked second, from invoke_firmware_update.",
        look="What happens after the waiting: the call must be made again.",
    )


def _judge_patience(device: SimulatedDevice, rows: Trace) -> Card:
    """Look at what happened between the two updates: the first had its end, and was watched."""
    if contract.COMPLETED not in [event.kind for event in device.events]:
        return incorrect(
            "The first update was ended before its time.",
            expected="It goes on to its end, and the second one begins after that.",
            look="What is done about the update that runs: only waited for.",
        )
    asked = [call.number for call in wire.calls(rows)]
    # Whoever calls again and again until the device is free sees the end, too.
    slept = len(asked) == 2 and not [n for n in wire.reads(rows) if asked[0] < n < asked[1]]
    if slept:
        return incorrect(
            "Between the refusal and the second call, nobody looked whether the device was free.",
            expected="The twin is watched until the first update has ended, however long it takes.",
            look="watch_update, instead of a pause.",
        )
    return correct("The second update began when the first one had ended.")


@contextmanager
def _busy_device(learner: Learner) -> Iterator[tuple[SimulatedDevice, str]]:
    """Run a quick device of the check's own, in the middle of an update; yield both."""
    from fwupdate_helpers.device import SimulatedDevice
    from fwupdate_helpers.service import invoke_firmware_update

    hub = learner.hub()
    device_id = hub.device_id("check")
    device = SimulatedDevice(
        hub.device_connection_string(device_id), stage_seconds=_QUICK_STAGE, **hub.device_options
    )
    try:
        device.start()
        yield device, invoke_firmware_update(hub.registry, device_id).update_id
    finally:
        device.stop()
        hub.delete_device(device_id)


CHECKS: Final = {"02-a": version_in_the_twin, "02-b": honest_walk, "02-c": waits_its_turn}
