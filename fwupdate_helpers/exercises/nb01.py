"""Checks of notebook 01."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from fwupdate_helpers.exercises import wire
from fwupdate_helpers.exercises.card import Card, correct, incorrect, short
from fwupdate_helpers.exercises.learner import Learner, MethodAnswer

if TYPE_CHECKING:
    from fwupdate_helpers.trace import Trace

_AWAY_SECONDS, _LONGEST_AWAY, _LOOK_SECONDS = 1.0, 10.0, 0.1
_AWAY_UNSEEN = 3.0
"""Seconds on Azure, which does not show when the call has come there."""
_CONNECT_SECONDS: Final = 20
_REBOOT_NAME: Final = "pump-reboot"
_GOOD_BATTERY: Final = {"percent": 84, "volts": 3.7}
_GOOD_SPEEDS: Final = (1500, 0, 3000)
_BAD_SPEEDS: Final = (-1, 3001, "fast", "1500", None, 2.5, True)
_THE_TEST: Final = "The test of the payload. For Python, True is an int, and its type is bool."
_WHAT_A_STATUS_TELLS: Final = {
    None: "An error in set_speed: a handler that raises gives no answer at all.",
    404: "Does the exercise's cell put set_speed into methods? Run it, then step 6.",
    501: "set_speed returned nothing: is there a return for each case?",
}


def one_patch(learner: Learner) -> Card:
    """01-a: set two values and forget a third."""
    learner.hub()
    device_id = learner.need("device_id", 2)
    patch = learner.attempt("patch", todo="Put a dictionary in the place of the three dots.")
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
    if not _does_it(patch):  # an earlier one has
        return incorrect(
            f"The twin is as it should be, and patch is {short(patch)} now.",
            expected="One patch that sets both values and deletes firmware.",
            look="What stands in the exercise's cell: one dictionary for all of it.",
        )
    return correct("Two values set, one forgotten.")


def _does_it(patch: Any) -> bool:
    """Tell whether one patch does the whole of 01-a."""
    if not isinstance(patch, dict) or patch.get("firmware", ...) is not None:
        return False
    battery = patch.get("battery")
    return isinstance(battery, dict) and battery | _GOOD_BATTERY == battery


def says_no(learner: Learner) -> Card:
    """01-b: a method that refuses what it cannot do."""
    learner.hub()
    device_id = learner.need("device_id", 2)
    learner.need("on_method", 6)
    learner.attempt("set_speed", todo="Write the body of set_speed, then run its cell.")
    for good in _GOOD_SPEEDS:
        answer = learner.call(device_id, "setSpeed", good)
        if answer.status != 200:
            return _speed_answer(good, answer, 200)
        speed = learner.reported(device_id).get("speed")
        if isinstance(speed, bool) or speed != good:
            return incorrect(
                f"setSpeed {good} got status 200, and the twin's speed is {short(speed)}.",
                expected=f"speed is {good} when the answer comes.",
                look="The patch, which step 4 has, too.",
            )
    return _refusals(learner, device_id, _GOOD_SPEEDS[-1])


def _refusals(learner: Learner, device_id: str, before: int) -> Card:
    for bad in _BAD_SPEEDS:
        answer = learner.call(device_id, "setSpeed", bad)
        if answer.status != 400:
            return _speed_answer(bad, answer, 400)
        speed = learner.reported(device_id).get("speed")
        if speed != before:
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
        look=_WHAT_A_STATUS_TELLS.get(answer.status, _THE_TEST),
    )


def waits(learner: Learner) -> Card:
    """01-c: the hub waits for a device that is away."""
    hub = learner.hub()
    device_id, client = learner.need("device_id", 2), learner.need("client", 2)
    learner.need("on_method", 6)
    todo = "Write the body of call_when_back, then run its cell."
    call = learner.attempt("call_when_back", todo=todo)
    learner.reported(device_id)  # a hub that is away is not the answer's fault
    mark = learner.wire(device_id).last
    # Nobody can know this method, or what it answers, before it is called.
    longest = _AWAY_UNSEEN if hub.kind == "azure" else _LONGEST_AWAY
    name, word = f"areYouBack{secrets.token_hex(3)}", secrets.token_hex(8)
    away = _Away(client, lambda: wire.calls(learner.wire(device_id, after=mark)), longest)
    with _one_more_method(learner, name, word), away:
        told = _told(call, name)
    if isinstance(told, Exception):
        status = getattr(getattr(told, "response", None), "status_code", None)
        return incorrect(
            f"The call ended with {type(told).__name__}" + (f", HTTP {status}." if status else "."),
            expected="An answer, when the pump is back after a second.",
            look="The second time limit of CloudToDeviceMethod.",
        )
    if (getattr(told, "status", None), getattr(told, "payload", None)) != (200, word):
        return incorrect(
            f"The call returned {_described(told)}.",
            expected="What invoke_device_method returns, for the method that was named.",
            look="The name of the method, which is the argument; and the return.",
        )
    return _judge_wait(learner.wire(device_id, after=mark), name)


class _Away:
    """Takes a device off the hub until a call for it waits there, and for a second at least."""

    def __init__(self, client: Any, calls: Callable[[], list[wire.Call]], longest: float) -> None:
        self._client, self._calls, self._longest = client, calls, longest
        self._is_over = threading.Event()
        self._back = threading.Thread(target=self._come_back, name="check-01-c", daemon=True)

    def __enter__(self) -> None:
        for thread in threading.enumerate():
            if thread.name == _REBOOT_NAME:  # its last report would connect the pump again
                thread.join()
        self._client.disconnect()
        self._back.start()

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._back.join()

    def _come_back(self) -> None:
        try:
            is_over, waited = self._is_over.wait(_AWAY_SECONDS), _AWAY_SECONDS
            while not is_over and not self._calls() and waited < self._longest:
                is_over, waited = self._is_over.wait(_LOOK_SECONDS), waited + _LOOK_SECONDS
        finally:
            self._client.connect()


@contextmanager
def _one_more_method(learner: Learner, name: str, word: str) -> Iterator[None]:
    """Give the pump a method for a while."""
    methods = learner.need("methods", 6)
    methods[name] = lambda payload: (200, word)
    try:
        yield
    finally:
        methods.pop(name, None)


def _judge_wait(rows: Trace, name: str) -> Card:
    """Look at the order on the wire: the call that was answered, and the pump that came back."""
    back = min(wire.connects(rows), default=None)
    answered = [call for call in wire.calls(rows) if call.name == name and call.status == 200]
    if back is None or not answered:  # on Azure, nothing is to be seen
        return correct("The pump has answered the call.")
    if answered[0].number > back:
        return incorrect(
            "The call that was answered came when the pump was back already.",
            expected="One call, made while the pump is away; the hub keeps it until it is back.",
            look="The second time limit of CloudToDeviceMethod: no pause and no second try.",
        )
    if answered[0].connect_seconds != _CONNECT_SECONDS:
        return incorrect(
            f"The hub was to wait up to {answered[0].connect_seconds} s for the pump.",
            expected=f"Up to {_CONNECT_SECONDS} seconds.",
            look="The second time limit of CloudToDeviceMethod.",
        )
    return correct("The hub has kept the call until the pump was back.")


def _described(told: Any) -> str:
    kind = type(told).__name__
    return f"{kind} with status {told.status}" if hasattr(told, "status") else kind


def _told(call: Any, name: str) -> Any:
    try:
        return call(name)
    except Exception as error:
        return error


CHECKS: Final = {"01-a": one_patch, "01-b": says_no, "01-c": waits}
