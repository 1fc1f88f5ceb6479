"""Bulk registry calls and statistics, through the unmodified registry manager."""

from __future__ import annotations

from typing import Any

import pytest
from azure.iot.hub.models import (
    AuthenticationMechanism,
    ExportImportDevice,
    PropertyContainer,
    SymmetricKey,
)

from tests.raw_mqtt import DESIRED, OpenDevice
from tests.rest import assert_error, call
from tests.sdk import refusal
from tests.support import HubProcess

Json = dict[str, Any]
KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


def item(device_id: str, mode: str | None = "create", **fields: Any) -> ExportImportDevice:
    return ExportImportDevice(id=device_id, import_mode=mode, **fields)


def desired(properties: Json) -> PropertyContainer:
    return PropertyContainer(desired=properties)


def send(registry: Any, *items: ExportImportDevice) -> dict[str, str]:
    """Make a bulk call; return the names of the errors by device id."""
    result = registry.bulk_create_or_update_devices(list(items))
    assert result.is_successful is (not result.errors)
    assert result.warnings == []
    return {error.device_id: error.error_code for error in result.errors}


def desired_of(registry: Any, device_id: str) -> Json:
    found = registry.get_twin(device_id).properties.desired
    return {name: value for name, value in found.items() if name != "$metadata"}


def test_a_thousand_identities_with_tags_and_desired_properties(own_hub_process: Any) -> None:
    registry = own_hub_process.registry()
    ids = [f"fleet-{index:04d}" for index in range(1000)]
    for start in range(0, 1000, 100):
        part = [
            item(one, tags={"site": "A"}, properties=desired({"interval": 5}), status="enabled")
            for one in ids[start : start + 100]
        ]
        assert send(registry, *part) == {}

    assert [device.device_id for device in registry.get_devices(1000)] == ids
    twin = registry.get_twin("fleet-0999")
    assert (twin.tags, twin.version) == ({"site": "A"}, 1)
    assert desired_of(registry, "fleet-0999") == {"interval": 5, "$version": 1}
    statistics = registry.get_device_registry_statistics()
    assert statistics.total_device_count == statistics.enabled_device_count == 1000

    for start in range(0, 1000, 100):
        assert send(registry, *(item(one, "delete") for one in ids[start : start + 100])) == {}
    assert registry.get_device_registry_statistics().total_device_count == 0


def test_a_new_identity_has_the_fields_of_its_item(registry: Any, device_id: str) -> None:
    keys = AuthenticationMechanism(
        type="sas", symmetric_key=SymmetricKey(primary_key=KEY, secondary_key=KEY)
    )
    fields = {"status": "disabled", "status_reason": "spare part", "authentication": keys}

    assert send(registry, item(device_id, **fields), item(f"{device_id}-2")) == {}

    device = registry.get_device(device_id)
    assert (device.status, device.status_reason) == ("disabled", "spare part")
    assert device.authentication.symmetric_key.primary_key == KEY
    other = registry.get_device(f"{device_id}-2")
    assert (other.status, other.authentication.type) == ("enabled", "sas")
    assert other.authentication.symmetric_key.primary_key not in (None, KEY)


def test_what_is_wrong_with_one_item_takes_nothing_from_the_others(
    registry: Any, device_id: str
) -> None:
    taken, good, twice = f"{device_id}-taken", f"{device_id}-good", f"{device_id}-twice"
    send(registry, item(taken))
    too_deep = {f"{device_id}-tags": item(f"{device_id}-tags", tags={"a.b": 1})}

    errors = send(
        registry,
        item(taken),
        item(twice),
        item("no id/"),
        item(good),
        item(twice, tags={"second": True}),
        item(f"{device_id}-mode", "replace"),
        item(f"{device_id}-none", "update"),
        item(f"{device_id}-gone", "delete"),
        item(f"{device_id}-status", status="asleep"),
        *too_deep.values(),
    )

    assert errors == {
        taken: "DeviceAlreadyExists",
        twice: "DeviceDefinedMultipleTimes",
        "no id/": "ArgumentInvalid",
        f"{device_id}-mode": "ArgumentInvalid",
        f"{device_id}-none": "DeviceNotFound",
        f"{device_id}-gone": "DeviceNotFound",
        f"{device_id}-status": "ArgumentInvalid",
        f"{device_id}-tags": "ArgumentInvalid",
    }
    assert registry.get_device(good).status == "enabled"
    for absent in (twice, f"{device_id}-tags", f"{device_id}-status"):
        assert refusal(registry.get_device, absent) == (404, "DeviceNotFound")


def test_an_error_names_the_operation_and_says_why(hub_process: HubProcess, device_id: str) -> None:
    body = [{"id": device_id, "importMode": "update"}, 7]

    reply = call(hub_process, "POST", "/devices", body)

    assert (reply.status, reply.error) == (400, "BulkRegistryOperationFailure")
    first, second = reply.content["errors"]
    assert first == {
        "deviceId": device_id,
        "errorCode": "DeviceNotFound",
        "errorStatus": device_id,
        "moduleId": "",
        "operation": "update",
    }
    assert (second["deviceId"], second["errorCode"]) == ("", "ArgumentInvalid")


def test_without_an_import_mode_an_item_creates_or_updates(registry: Any, device_id: str) -> None:
    assert send(registry, item(device_id, None, tags={"a": 1})) == {}
    key = registry.get_device(device_id).authentication.symmetric_key.primary_key

    assert send(registry, item(device_id, None, tags={"b": 2}, status="disabled")) == {}

    device = registry.get_device(device_id)
    assert (device.status, device.authentication.symmetric_key.primary_key) == ("disabled", key)
    assert registry.get_twin(device_id).tags == {"a": 1, "b": 2}


@pytest.mark.parametrize("mode", ["updateIfMatchETag", "deleteIfMatchETag"])
def test_an_identity_is_changed_only_under_its_etag(
    registry: Any, device_id: str, mode: str
) -> None:
    send(registry, item(device_id))
    old = registry.get_device(device_id).etag
    send(registry, item(device_id, "update", status="disabled"))
    new = registry.get_device(device_id).etag

    assert send(registry, item(device_id, mode)) == {device_id: "ArgumentInvalid"}
    assert send(registry, item(device_id, mode, e_tag=old)) == {device_id: "PreconditionFailed"}
    assert registry.get_device(device_id).etag == new
    assert send(registry, item(device_id, mode, e_tag=new)) == {}
    if mode == "deleteIfMatchETag":
        assert refusal(registry.get_device, device_id) == (404, "DeviceNotFound")
    else:
        assert registry.get_device(device_id).status == "enabled"


def test_a_twin_is_changed_under_its_etag_alone(registry: Any, device_id: str) -> None:
    mode = "updateTwinIfMatchETag"
    send(registry, item(device_id, tags={"a": 1}))
    old = registry.get_twin(device_id).etag
    send(registry, item(device_id, "updateTwin", tags={"a": None, "b": {"c": 1}}))
    new = registry.get_twin(device_id).etag

    stale = item(device_id, mode, twin_etag=old, tags={"b": None})
    assert send(registry, stale) == {device_id: "PreconditionFailed"}
    fresh = item(device_id, mode, twin_etag=new, properties=desired({"d": 1}))
    assert send(registry, fresh) == {}

    assert registry.get_twin(device_id).tags == {"b": {"c": 1}}
    assert desired_of(registry, device_id) == {"d": 1, "$version": 2}


def test_a_connected_device_hears_what_concerns_it(
    registry: Any, open_device: OpenDevice, device_id: str
) -> None:
    device = open_device(device_id).connected()
    device.subscribe(DESIRED, 0)
    assert registry.get_service_statistics().connected_device_count >= 1

    send(registry, item(device_id, "updateTwin", properties=desired({"interval": 9})))
    assert device.receive().content == {"interval": 9, "$version": 2}
    send(registry, item(device_id, "update", status="disabled"))

    device.wait_until_closed()
    assert registry.get_device(device_id).connection_state == "Disconnected"


def test_a_deleted_device_is_disconnected(
    registry: Any, open_device: OpenDevice, device_id: str
) -> None:
    device = open_device(device_id).connected()

    assert send(registry, item(device_id, "delete")) == {}

    device.wait_until_closed()
    assert device_id not in {one.device_id for one in registry.get_devices()}


def test_a_call_that_is_none_is_refused_as_a_whole(hub_process: HubProcess, device_id: str) -> None:
    one = {"id": device_id, "importMode": "create"}
    for body, code, name in (
        ({"id": device_id}, 400006, "IotHubFormatError"),
        ([one] + [{"id": f"{device_id}-{n}"} for n in range(100)], 413002, "TooManyDevices"),
        ([one, {"id": device_id, "moduleId": "m"}], 501000, "NotImplemented"),
    ):
        assert_error(call(hub_process, "POST", "/devices", body), code, name)
    assert call(hub_process, "GET", f"/devices/{device_id}").status == 404
