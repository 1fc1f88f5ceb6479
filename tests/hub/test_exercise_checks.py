"""Checks of exercises and a real hub: what a notebook that is run in its order does not meet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fwupdate_helpers.device import SimulatedDevice
from fwupdate_helpers.exercises import Outcome, check
from fwupdate_helpers.hub import Hub
from tests.images import hub_of
from tests.support import HubProcess
from tests.unruly_hub import Fault, UnrulyHub

NewDevice = Callable[..., SimulatedDevice]


@pytest.fixture
def hub(hub_process: HubProcess) -> Iterator[Hub]:
    with hub_of(hub_process) as hub:
        yield hub


def test_the_first_update_of_a_device_is_enough_to_tell_whether_it_was_heard(
    hub: Hub, make: NewDevice
) -> None:
    thermostat = make().start()

    def was_heard(update_id: str) -> Any:
        twin = hub.registry.get_twin(thermostat.device_id)
        return twin.properties.reported["firmwareUpdate"]["updateId"] == update_id

    names = {"hub": hub, "thermostat": thermostat, "uris": {"1.0.0": "test.com"}}
    card = check("03-b", {**names, "was_heard": was_heard})
    assert card.outcome is Outcome.CORRECT, card

    card = check("03-b", {**names, "was_heard": lambda update_id: None})
    assert card.outcome is Outcome.INCORRECT and "was_heard returned nothing" in card.seen
    assert "The return" in card.look


def test_a_method_that_does_not_answer_is_a_mistake_and_its_card_says_where_to_look(
    hub_process: HubProcess, device_id: str
) -> None:
    with UnrulyHub(hub_process) as unruly:
        # What the hub says after the five seconds of IoT Hub's shortest limit.
        unruly.faults = [Fault(504, "GatewayTimeout")]
        string, ca_file = unruly.connection_string, Path(hub_process.ca_file)
        hub = Hub(kind="local", connection_string=string, ca_file=ca_file)
        names = {"hub": hub, "device_id": device_id, "on_method": print, "set_speed": print}
        card = check("01-b", names)
    assert card.outcome is Outcome.INCORRECT and "setSpeed 1500 got no answer" in card.seen
    assert "a handler that raises gives no answer at all" in card.look
