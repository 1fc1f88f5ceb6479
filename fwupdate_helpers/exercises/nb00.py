"""Checks of notebook 00."""

from __future__ import annotations

from typing import Final

from fwupdate_helpers.errors import DeviceNotFound
from fwupdate_helpers.exercises.card import Card, correct, incorrect, not_attempted, short
from fwupdate_helpers.exercises.learner import Learner
from fwupdate_helpers.sdk_errors import hub_errors


def name_in_the_twin(learner: Learner) -> Card:
    """00-a: the twin says who has set the device up."""
    learner.hub(step=2)
    device_id = learner.need("device_id", 3)
    learner.need("client", 4)
    todo = "Put your first name in the place of the three dots."
    name = learner.attempt("set_up_by", todo=todo)
    told = learner.reported(device_id).get("setUpBy")
    expected, look = "Your first name, a text, in the twin's setUpBy.", "The quotation marks."
    if told is None:
        look = "Was the cell run after you changed it? Is the client of step 4 connected?"
        return incorrect("The twin has no setUpBy.", expected=expected, look=look)
    if not isinstance(told, str) or not told.strip():
        return incorrect(f"setUpBy is {short(told)}.", expected=expected, look=look)
    if told != name:
        seen = f"setUpBy is {short(told)} in the twin and {short(name)} here."
        return incorrect(seen, expected=expected, look="Was the cell run after you changed it?")
    return correct(f"The hub knows that {told} has set this device up.")


def locked_out(learner: Learner) -> Card:
    """00-b: a second identity that is disabled."""
    hub = learner.hub(step=2)
    second_id = hub.device_id("second")
    expected = f"An identity {second_id} whose status is disabled."
    try:
        with hub_errors(second_id):
            status = hub.registry.get_device(second_id).status
    except DeviceNotFound:
        if learner.get("second") in (None, ...):
            return not_attempted("Put the call that creates the identity after second =.")
        look = "The id: is it second_id?"
        return incorrect(f"The hub has no {second_id}.", expected=expected, look=look)
    if status != "disabled":
        look = "The last argument of create_device_with_sas."
        return incorrect(f"It is there, and its status is {status}.", expected=expected, look=look)
    return correct(f"{second_id} exists, and the hub lets no one in with its key.")


CHECKS: Final = {"00-a": name_in_the_twin, "00-b": locked_out}
