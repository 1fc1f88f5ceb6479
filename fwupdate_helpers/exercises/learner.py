"""What a check may look at: the learner's names, the device twin, the device's methods."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fwupdate_helpers.errors import FirmwareUpdateError, UpdateTimeout
from fwupdate_helpers.sdk_errors import hub_errors

if TYPE_CHECKING:
    from fwupdate_helpers.hub import Hub
    from fwupdate_helpers.trace import Trace

Json = dict[str, Any]

ANSWER_SECONDS: Final = 5
"""How long a method may take; IoT Hub takes no shorter limit."""


class StepMissing(FirmwareUpdateError):
    """A step that an exercise stands on has not been run."""


class NotAttempted(FirmwareUpdateError):
    """The exercise is as it was; the message says what to do."""


@dataclass(frozen=True)
class MethodAnswer:
    """What a device answered to a direct method, or that it did not.

    Attributes:
        status: The device's status; None when no answer came.
        payload: The device's payload.
        error: Why no answer came, in words.
    """

    status: int | None
    payload: Any = None
    error: str = ""

    def __str__(self) -> str:
        return f"no answer ({self.error})" if self.status is None else f"status {self.status}"


class Learner:
    """A learner's kernel and hub, as a check sees them.

    Args:
        names: The names of the learner's kernel.
    """

    def __init__(self, names: MutableMapping[str, Any]) -> None:
        self._names = names

    def get(self, name: str) -> Any:
        """Return a name of the learner's; None when there is none."""
        return self._names.get(name)

    def need(self, name: str, step: int) -> Any:
        """Return a name that a step of the notebook has made.

        Raises:
            StepMissing: The step was not run.
        """
        if name not in self._names:
            raise StepMissing(f"Step {step} makes {name!r}. Run step {step} first, then this cell.")
        return self._names[name]

    def attempt(self, name: str, *, todo: str) -> Any:
        """Return what the exercise's own cell has made, which is the learner's answer.

        Args:
            name: The name that the cell defines.
            todo: What to do, in a sentence.

        Raises:
            NotAttempted: It is the stub: three dots, or something with three dots in it.
            StepMissing: The cell was not run.
        """
        if name not in self._names:
            raise StepMissing("The exercise's own cell has not been run. Run it, then this cell.")
        answer = self._names[name]
        if is_stub(answer):
            raise NotAttempted(todo)
        return answer

    def hub(self, step: int = 1) -> Hub:
        """Return the learner's hub, which `step` connects to."""
        hub: Hub = self.need("hub", step)
        return hub

    def reported(self, device_id: str) -> Json:
        """Return the reported properties of a device, without what the hub adds.

        Raises:
            FirmwareUpdateError: The hub was not reached, or has no such device.
        """
        with hub_errors(device_id):
            twin = self.hub().registry.get_twin(device_id)
        found = dict(twin.properties.reported or {})
        return {name: value for name, value in found.items() if not name.startswith("$")}

    def wire(self, device_id: str, *, after: int = 0) -> Trace:
        """Return the messages of a device after the one with this number; none on Azure.

        Raises:
            FirmwareUpdateError: The hub was not reached.
        """
        return self.hub().trace(device_id, after=after)

    def call(self, device_id: str, method: str, payload: Any = None) -> MethodAnswer:
        """Invoke a direct method of the learner's device through the hub.

        Raises:
            FirmwareUpdateError: The hub was not reached, or the device is not connected. A device
                that does not answer in time raises nothing: that is an answer of its kind.
        """
        from azure.iot.hub.models import CloudToDeviceMethod

        request = CloudToDeviceMethod(
            method_name=method, payload=payload, response_timeout_in_seconds=ANSWER_SECONDS
        )
        try:
            with hub_errors(device_id):
                answer = self.hub().registry.invoke_device_method(device_id, request)
        except UpdateTimeout as error:
            return MethodAnswer(None, error=str(error))
        return MethodAnswer(answer.status, answer.payload)

    @contextmanager
    def changed(self, **names: Any) -> Iterator[None]:
        """Give names of the learner's other values for a while."""
        before = {name: self._names[name] for name in names if name in self._names}
        self._names.update(names)
        try:
            yield
        finally:
            for name in names:
                self._names.pop(name, None)
            self._names.update(before)


def is_stub(answer: Any) -> bool:
    """Tell whether an answer still has the three dots of its stub in it.

    >>> is_stub({"speed": ...}), is_stub({"speed": 3})
    (True, False)
    """
    if isinstance(answer, dict):
        return any(is_stub(value) for value in answer.values())
    return answer is ... or (inspect.isfunction(answer) and _has_dots(answer))


def _has_dots(function: Any) -> bool:
    # Dots that stand alone are not in the compiled function, only in its source.
    if function.__code__.co_filename == "<string>":  # from Python 3.13 on its source is that of -c
        return ... in function.__code__.co_consts
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError):  # a function that is in no cell and no file
        return ... in function.__code__.co_consts
    body = getattr(tree.body[0], "body", tree.body)
    nodes = [node for line in body for node in ast.walk(line)]
    return any(isinstance(node, ast.Constant) and node.value is ... for node in nodes)
