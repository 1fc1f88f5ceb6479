"""Checks of notebook 01."""

from __future__ import annotations

import threading
from typing import Any, Final

from fwupdate_helpers.exercises.card import Card, correct, incorrect, short
from fwupdate_helpers.exercises.learner import Learner, MethodAnswer

_AWAY_SECONDS: Final = 2.0
_CALL_SECONDS: Final = 40.0
_GOOD_BATTERY: Final = {"percent": 84, "volts": 3.7}
_GOOD_SPEED: Final = 1500
_BAD_SPEEDS: Final = (-1, 3001, "fast", None)
_WHAT_A_STATUS_TELLS: Final = {
    None: "An error in set_speed: a handler that raises gives no answer at all.",
    404: "Does the exercise's cell put set_speed into methods? Run it, then step 6.",
    501: "set_speed returned nothing: is there a return for each case?",
}


def one_patch(learner: Learner) -> Card:
    """01-a: set two values and forget a third."""
    learner.hub()
    device_id = learner.need("device_id", 2)
    learner.attempt("patch", todo="Put a dictionary in the place of the three dots.")
    reported = learner.reported(device_id)
    battery = reported.get("battery")
    # Who has skipped the cell before may still have `charging` there, which was not the task.
    if not isinstance(battery, dict) or battery | _GOOD_BATTERY != battery:
        return incorrect(
            f"battery is {short(battery)}.",
            expected="battery has 84 as its percent and 3.7 as its volts.",
            look="The names inside battery, numbers and not texts, and whether the cell was run.",
        )
    if "firmware" in reported:
        return incorrect(
            f"battery is right, and firmware is still {short(reported['firmware'])}.",
            expected="No firmware in the twin.",
            look="What a patch must say about a key that is to go: leaving it out keeps it.",
        )
    return correct("Two values set, one forgotten.")


def says_no(learner: Learner) -> Card:
    """01-b: a method that refuses what it cannot do."""
    learner.hub()
    device_id = learner.need("device_id", 2)
    learner.need("on_method", 6)
    learner.attempt("set_speed", todo="Write the body of set_speed, then run its cell.")
    answer = learner.call(device_id, "setSpeed", _GOOD_SPEED)
    if answer.status != 200:
        return _speed_answer(_GOOD_SPEED, answer, 200)
    speed = learner.reported(device_id).get("speed")
    if speed != _GOOD_SPEED:
        return incorrect(
            f"setSpeed {_GOOD_SPEED} got status 200, and the twin's speed is {short(speed)}.",
            expected=f"speed is {_GOOD_SPEED} when the answer comes.",
            look="The patch, which step 4 has, too.",
        )
    return _refusals(learner, device_id)


def _refusals(learner: Learner, device_id: str) -> Card:
    for bad in _BAD_SPEEDS:
        answer = learner.call(device_id, "setSpeed", bad)
        if answer.status != 400:
            return _speed_answer(bad, answer, 400)
        speed = learner.reported(device_id).get("speed")
        if speed != _GOOD_SPEED:
            return incorrect(
                f"setSpeed {short(bad)} was refused, and the twin's speed became {short(speed)}.",
                expected="A refused payload reports nothing.",
                look="The order: first the test, then the patch.",
            )
    return correct("A good speed is reported; a bad one is refused and leaves no trace.")


def _speed_answer(payload: Any, answer: MethodAnswer, expected: int) -> Card:
    return incorrect(
        f"setSpeed {short(payload)} got {answer}.",
        expected=f"Status {expected}.",
        look=_WHAT_A_STATUS_TELLS.get(answer.status, "The test of the payload."),
    )


def waits(learner: Learner) -> Card:
    """01-c: the hub waits for a device that is away."""
    learner.hub()
    device_id, client = learner.need("device_id", 2), learner.need("client", 2)
    learner.need("on_method", 6)
    todo = "Write the body of call_when_back, then run its cell."
    call = learner.attempt("call_when_back", todo=todo)
    learner.reported(device_id)  # a hub that is away is not the answer's fault
    client.disconnect()
    back = threading.Timer(_AWAY_SECONDS, client.connect)
    back.start()
    try:
        told = _told(call)
    finally:
        back.join(_CALL_SECONDS)
    if isinstance(told, Exception):
        status = getattr(getattr(told, "response", None), "status_code", None)
        return incorrect(
            f"The call ended with {type(told).__name__}" + (f", HTTP {status}." if status else "."),
            expected="An answer, when the pump is back after two seconds.",
            look="The second time limit of CloudToDeviceMethod.",
        )
    if getattr(told, "status", None) != 404:  # `areYouBack` is no method of the pump
        return incorrect(
            f"The call returned {_described(told)}.",
            expected="What invoke_device_method returns, for the method that was named.",
            look="The name of the method, and the return.",
        )
    return correct("The hub has kept the call until the pump was back.")


def _described(told: Any) -> str:
    kind = type(told).__name__
    return f"{kind} with status {told.status}" if hasattr(told, "status") else kind


def _told(call: Any) -> Any:
    try:
        return call("areYouBack")
    except Exception as error:
        return error


CHECKS: Final = {"01-a": one_patch, "01-b": says_no, "01-c": waits}
