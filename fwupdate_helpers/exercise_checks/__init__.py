"""The checks behind the notebooks' exercises: one module a notebook, and what they are made of.

To add the exercises of notebook 07, write ``nb07.py`` in this folder; it is found by its name::

    from fwupdate_helpers.exercise_checks import Incorrect, Learner, exercise

    @exercise("07-a", answer="my_patch", needs={"hub": 1, "device_id": 2})
    def the_colour_is_in_the_twin(learner: Learner) -> str:
        colour = learner.reported(learner["device_id"]).get("colour")
        if colour != "blue":
            raise Incorrect(
                f"The twin says colour {colour!r}.",
                expected="The colour 'blue'.",
                look="Does the cell hand your patch to report()?",
            )
        return "The hub has the colour."

`answer` is the name that the stub's cell defines. As long as it is ``...``, or a function with a
``...`` in it, the exercise counts as not attempted and the function is not called. `needs` are the
names that the check reads, each with the step that makes it: a missing one makes the exercise not
checkable, and the card names the step. Every `FirmwareUpdateError`, such as a hub that does not
answer, makes it not checkable, too.

Beside it belong: a cell ``exercise-07-a`` and a cell ``check-07-a`` in the notebook, the text of
the solved cell in ``notebooks/solutions/07-a.py``, and two wrong ones in
``tests/notebooks/wrong_answers/07-a-*.py``. The tests find them all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from fwupdate_helpers.errors import FirmwareUpdateError
from fwupdate_helpers.sdk_errors import hub_errors

Json = dict[str, Any]

ANSWER_SECONDS: Final = 5
"""How long a check waits for a direct method's answer: the least that IoT Hub accepts."""
POLL_SECONDS: Final = 0.03


class Incorrect(FirmwareUpdateError):
    """The learner's answer does something else than the exercise asks for.

    Args:
        seen: What the check saw, as a sentence.
        expected: What it expected.
        look: Where to look.
    """

    def __init__(self, seen: str, *, expected: str, look: str) -> None:
        super().__init__(f"Seen: {seen}\nExpected: {expected}\nWhere to look: {look}")


class NotCheckable(FirmwareUpdateError):
    """The check cannot tell: something has to be done first, which the message says."""


@dataclass(frozen=True)
class Exercise:
    """An exercise and its check.

    Attributes:
        id: The notebook's number and a letter, such as ``02-a``.
        answer: The name that the cell of the exercise defines.
        needs: The names that the check reads, each with the step of the notebook that makes it.
        look: The check: returns a sentence when the answer is correct, and raises otherwise.
    """

    id: str
    answer: str
    needs: Mapping[str, int]
    look: Callable[[Learner], str]


registered: Final[dict[str, Exercise]] = {}
"""The exercises of the modules that were imported so far, by their ids."""


def exercise(
    exercise_id: str, *, answer: str, needs: Mapping[str, int]
) -> Callable[[Callable[[Learner], str]], Callable[[Learner], str]]:
    """Register a function as the check of an exercise; see `Exercise` for the arguments."""

    def register(look: Callable[[Learner], str]) -> Callable[[Learner], str]:
        registered[exercise_id] = Exercise(exercise_id, answer, needs, look)
        return look

    return register


class Learner:
    """What a check may look at: the learner's names, their devices' twins, and the hub's answers.

    Args:
        namespace: The names of the notebook, or of a test. One of them must be ``hub``.
        say: Shows a line while the check runs.
    """

    def __init__(
        self, namespace: MutableMapping[str, Any], say: Callable[[str], None] | None = None
    ) -> None:
        self._namespace = namespace
        self.say = say or (lambda text: None)

    def __contains__(self, name: str) -> bool:
        return name in self._namespace

    def __getitem__(self, name: str) -> Any:
        return self._namespace[name]

    def reported(self, device_id: str) -> Json:
        """Return the reported properties that the hub has of a device.

        Raises:
            FirmwareUpdateError: As `hub_errors`.
        """
        with hub_errors(device_id):
            found: Json = self["hub"].registry.get_twin(device_id).properties.reported
        return found

    def desired(self, device_id: str) -> Json:
        """Return the desired properties that the hub has of a device; errors as `reported`."""
        with hub_errors(device_id):
            found: Json = self["hub"].registry.get_twin(device_id).properties.desired
        return found

    def call(
        self, device_id: str, method: str, payload: Any, *, seconds: int = ANSWER_SECONDS
    ) -> Any:
        """Invoke a direct method through the hub; return the answer with `status` and `payload`.

        Raises:
            UpdateTimeout: The device did not answer in this many seconds.
            FirmwareUpdateError: As `hub_errors`.
        """
        from azure.iot.hub.models import CloudToDeviceMethod

        order = CloudToDeviceMethod(
            method_name=method, payload=payload, response_timeout_in_seconds=seconds
        )
        with hub_errors(device_id):
            return self["hub"].registry.invoke_device_method(device_id, order)

    def watch(self, device_id: str, *, seconds: float) -> Iterator[Json]:
        """Yield the reported properties again and again for so many seconds, and once more."""
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            yield self.reported(device_id)
            time.sleep(POLL_SECONDS)
        yield self.reported(device_id)

    @contextmanager
    def with_names(self, **values: Any) -> Iterator[None]:
        """Give names of the notebook other values for a moment, such as a quicker pace."""
        before = {name: self._namespace[name] for name in values if name in self._namespace}
        self._namespace.update(values)
        try:
            yield
        finally:
            for name in values:
                self._namespace.pop(name, None)
            self._namespace.update(before)


def threads_named(name: str) -> list[threading.Thread]:
    """Return the learner's running threads of this name."""
    return [thread for thread in threading.enumerate() if thread.name == name]
