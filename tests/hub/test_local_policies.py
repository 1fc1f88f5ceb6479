"""The local hub with the rights of its other policies: what exercise 05-b stands on."""

from __future__ import annotations

from typing import Any

import pytest
from msrest.exceptions import HttpOperationError

from fwupdate_helpers import connect_hub
from fwupdate_helpers.errors import FirmwareUpdateError
from fwupdate_helpers.exercises import Outcome, check
from fwupdate_helpers.hub import Hub
from fwupdate_helpers.local_policies import SMALLEST_POLICY, with_policy

AZURE = Hub(
    kind="azure",
    connection_string="HostName=a.azure-devices.net;SharedAccessKeyName=fw;SharedAccessKey=a2V5",
)
RIGHT = {
    "read an identity": "RegistryRead",
    "create an identity": "RegistryWrite",
    "write a desired property": "ServiceConnect",
    "invoke a direct method": "ServiceConnect",
}


def status_of(registry: Any, call: str, device_id: str) -> int:
    try:
        getattr(registry, call)(device_id)
    except HttpOperationError as error:
        return int(error.response.status_code)
    return 200


@pytest.mark.parametrize(
    ("policy", "identity", "twin"),
    [
        ("iothubowner", 200, 200),
        ("registryRead", 200, 401),
        ("registryReadWrite", 200, 401),
        ("service", 401, 200),
        ("device", 401, 401),
    ],
)
def test_a_policy_opens_what_it_grants_and_nothing_else(
    policy: str, identity: int, twin: int, device_id: str
) -> None:
    with connect_hub() as hub, with_policy(hub, policy) as other:
        hub.device_connection_string(device_id)
        assert status_of(other.registry, "get_device", device_id) == identity
        assert status_of(other.registry, "get_twin", device_id) == twin
        assert policy in other.masked_connection_string
        assert "SharedAccessKey=***" in other.masked_connection_string
        hub.delete_device(device_id)


def test_a_policy_that_there_is_not_is_named_with_those_that_there_are() -> None:
    with connect_hub() as hub, pytest.raises(FirmwareUpdateError, match=r"'boss'.*registryRead"):
        with_policy(hub, "boss")


def test_on_azure_the_kit_asks_for_no_other_key() -> None:
    with pytest.raises(FirmwareUpdateError, match="az iot hub connection-string show"):
        with_policy(AZURE, "service")


@pytest.mark.parametrize("call", RIGHT)
@pytest.mark.parametrize("word", SMALLEST_POLICY)
def test_of_all_permissions_the_check_takes_the_smallest_alone_and_leaves_no_identity(
    call: str, word: str
) -> None:
    with connect_hub() as hub:
        names = {"hub": hub, "with_policy": with_policy, "permission": {**RIGHT, call: word}}
        card = check("05-b", names)
        assert (card.outcome is Outcome.CORRECT) == (word == RIGHT[call]), card
        assert card.outcome in (Outcome.CORRECT, Outcome.INCORRECT), card
        assert hub.device_id("permission-check") not in {
            device.device_id for device in hub.registry.get_devices()
        }


def test_on_azure_the_check_knows_what_is_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    with connect_hub() as hub:
        monkeypatch.setattr(hub, "kind", "azure")
        names = {"hub": hub, "with_policy": with_policy}
        assert check("05-b", {**names, "permission": RIGHT}).outcome is Outcome.CORRECT
        for call in RIGHT:
            card = check("05-b", {**names, "permission": {**RIGHT, call: "DeviceConnect"}})
            assert card.outcome is Outcome.INCORRECT and call in card.seen
