"""Identities and twins with the unmodified SDKs on both sides, over real sockets."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

import pytest
from azure.iot.device.exceptions import ClientError, ConnectionFailedError, CredentialError
from azure.iot.hub.models import Twin, TwinProperties
from msrest.exceptions import HttpOperationError

from fwupdate_helpers.localhub.sas import new_key
from tests.rest import wait_for
from tests.sdk import Connect, refusal

Json = dict[str, Any]

# -- identities ---------------------------------------------------------------------------------


def test_an_identity_keeps_the_keys_that_it_was_given(registry: Any, device_id: str) -> None:
    keys = [new_key(), new_key()]
    created = registry.create_device_with_sas(device_id, *keys, "enabled")

    read = registry.get_device(device_id)
    assert read == created
    pair = read.authentication.symmetric_key
    assert [pair.primary_key, pair.secondary_key] == keys


def test_an_identity_without_keys_gets_some(registry: Any, device_id: str) -> None:
    pair = registry.create_device_with_sas(device_id, None, None, "enabled")
    pair = pair.authentication.symmetric_key

    assert len(pair.primary_key) == len(pair.secondary_key) == 44
    assert pair.primary_key != pair.secondary_key


def test_other_kinds_of_identities_can_be_kept(registry: Any, device_id: str) -> None:
    registry.create_device_with_x509(device_id, "A" * 40, "B" * 40, "disabled")
    registry.create_device_with_certificate_authority(f"{device_id}-ca", "enabled")

    with_x509 = registry.get_device(device_id)
    assert (with_x509.status, with_x509.authentication.type) == ("disabled", "selfSigned")
    assert with_x509.authentication.x509_thumbprint.primary_thumbprint == "A" * 40
    assert registry.get_twin(f"{device_id}-ca").authentication_type == "certificateAuthority"


def test_an_identity_is_updated_with_its_etag(registry: Any, device_id: str) -> None:
    first = registry.create_device_with_sas(device_id, None, None, "enabled")
    keys = [new_key(), new_key()]

    second = registry.update_device_with_sas(
        device_id, first.etag, *keys, "disabled", status_reason="broken"
    )

    assert (second.status, second.status_reason) == ("disabled", "broken")
    assert second.generation_id == first.generation_id
    assert second.status_updated_time > first.status_updated_time
    assert second.authentication.symmetric_key.secondary_key == keys[1]
    conflict = (412, "PreconditionFailed")
    update = registry.update_device_with_sas
    assert refusal(update, device_id, first.etag, *keys, "enabled") == conflict
    assert refusal(registry.delete_device, device_id, first.etag) == conflict
    registry.delete_device(device_id, second.etag)


def test_identities_are_listed(registry: Any, device_id: str) -> None:
    for suffix in "ab":
        registry.create_device_with_sas(f"{device_id}-{suffix}", None, None, "enabled")

    listed = {device.device_id for device in registry.get_devices()}

    assert {f"{device_id}-a", f"{device_id}-b"} <= listed
    assert len(registry.get_devices(max_number_of_devices=1)) == 1


def test_errors_of_the_registry_are_those_of_iot_hub(registry: Any, device_id: str) -> None:
    for call in (registry.get_device, registry.delete_device, registry.get_twin):
        assert refusal(call, device_id) == (404, "DeviceNotFound")
    new = (device_id, None, None, "enabled")
    registry.create_device_with_sas(*new)
    assert refusal(registry.create_device_with_sas, *new) == (409, "DeviceAlreadyExists")
    with pytest.raises(HttpOperationError, match="Not Implemented"):
        registry.get_modules(device_id)


def test_disabling_a_device_ends_its_link_and_enabling_lets_it_back(
    registry: Any, new_device: Callable[[str], str], connect: Connect, device_id: str
) -> None:
    string = new_device(device_id)
    client = connect(string)
    pair = registry.get_device(device_id).authentication.symmetric_key

    def set_status(status: str) -> None:
        keys = (pair.primary_key, pair.secondary_key)
        registry.update_device_with_sas(device_id, None, *keys, status)

    set_status("disabled")
    wait_for(lambda: not client.connected)
    with pytest.raises(ConnectionFailedError):
        connect(string)
    set_status("enabled")
    connect(string)  # so does the first client, by itself: the later one has the connection
    wait_for(lambda: registry.get_device(device_id).connection_state == "Connected", seconds=60)


def test_deleting_a_device_ends_its_link_and_forgets_it(
    registry: Any, new_device: Callable[[str], str], connect: Connect, device_id: str
) -> None:
    string = new_device(device_id)
    client = connect(string)
    client.patch_twin_reported_properties({"a": 1})

    registry.delete_device(device_id)

    wait_for(lambda: not client.connected)
    with pytest.raises(CredentialError):
        connect(string)
    new_device(device_id)
    assert "a" not in registry.get_twin(device_id).properties.reported


# -- twins --------------------------------------------------------------------------------------


def test_a_twin_goes_round(
    registry: Any, new_device: Callable[[str], str], connect: Connect, device_id: str
) -> None:
    client = connect(new_device(device_id))
    desired = {"fw": {"version": "1.1", "none": None}}
    registry.update_twin(
        device_id, Twin(tags={"site": "Köln"}, properties=TwinProperties(desired=desired))
    )
    client.patch_twin_reported_properties({"fw": {"version": "1.0", "slots": ["a", "b"]}})

    seen_by_device = client.get_twin()
    seen_by_service = registry.get_twin(device_id)

    assert seen_by_device == {
        "desired": {"fw": {"version": "1.1"}, "$version": 2},
        "reported": {"fw": {"version": "1.0", "slots": ["a", "b"]}, "$version": 2},
    }
    assert seen_by_service.tags == {"site": "Köln"}
    assert seen_by_service.properties.desired["fw"] == {"version": "1.1"}
    assert seen_by_service.properties.reported["fw"]["slots"] == ["a", "b"]
    assert seen_by_service.connection_state == "Connected"
    metadata = seen_by_service.properties.desired["$metadata"]["fw"]["version"]
    assert metadata["$lastUpdatedVersion"] == 2


def test_a_twin_that_was_read_can_be_written_back(registry: Any, device_id: str) -> None:
    registry.create_device_with_sas(device_id, None, None, "enabled")
    registry.update_twin(device_id, Twin(tags={"a": 1, "b": 2}))
    twin = registry.get_twin(device_id)
    del twin.tags["a"]
    twin.properties.desired["c"] = {"d": 3}

    replaced = registry.replace_twin(device_id, twin, twin.etag)

    assert replaced.tags == {"b": 2}
    assert replaced.properties.desired["c"] == {"d": 3}
    assert replaced.version == twin.version + 1


def test_a_twin_that_somebody_else_changed_is_not_overwritten(
    registry: Any, device_id: str
) -> None:
    registry.create_device_with_sas(device_id, None, None, "enabled")
    twin = registry.get_twin(device_id)
    registry.update_twin(device_id, Twin(tags={"by": "somebody else"}), twin.etag)

    patch = Twin(tags={"by": "me"})
    for write in (registry.update_twin, registry.replace_twin):
        assert refusal(write, device_id, patch, twin.etag) == (412, "PreconditionFailed")
    assert registry.get_twin(device_id).tags == {"by": "somebody else"}


def test_desired_changes_reach_the_handler(
    registry: Any, new_device: Callable[[str], str], connect: Connect, device_id: str
) -> None:
    client = connect(new_device(device_id))
    patches: queue.Queue[Json] = queue.Queue()
    client.on_twin_desired_properties_patch_received = patches.put

    for desired in ({"a": {"b": 1}}, {"a": {"b": None}}):
        registry.update_twin(device_id, Twin(properties=TwinProperties(desired=desired)))

    assert patches.get(timeout=10) == {"a": {"b": 1}, "$version": 2}
    assert patches.get(timeout=10) == {"a": {"b": None}, "$version": 3}


def test_a_twin_too_large_is_refused_on_both_sides(
    registry: Any, new_device: Callable[[str], str], connect: Connect, device_id: str
) -> None:
    client = connect(new_device(device_id))
    large = {f"k{n}": "x" * 4000 for n in range(9)}

    patch = Twin(properties=TwinProperties(desired=large))
    assert refusal(registry.update_twin, device_id, patch) == (400, "ArgumentInvalid")
    with pytest.raises(ClientError) as error:
        client.patch_twin_reported_properties(large)
    assert "status 400" in str(error.value.__cause__)
    client.patch_twin_reported_properties({"small": 1})
    assert "k0" not in client.get_twin()["reported"]
