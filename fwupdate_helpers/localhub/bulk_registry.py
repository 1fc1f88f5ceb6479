"""Many device identities in one call: each item by its import mode, all in one transaction.

Items are independent: one that is refused takes nothing from the others.
Source: Microsoft's service.json (API version 2021-04-12, ``ExportImportDevice``) and "Import and
export IoT Hub device identities in bulk" (iot-hub-bulk-identity-mgmt.md), which also has the rule
that an item without an import mode creates or updates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

from fwupdate_helpers.localhub.device_endpoint import DeviceEndpoint
from fwupdate_helpers.localhub.errors import (
    ARGUMENT_INVALID,
    DEVICE_DEFINED_MULTIPLE_TIMES,
    FORMAT_ERROR,
    NOT_IMPLEMENTED,
    TOO_MANY_DEVICES,
    HubError,
)
from fwupdate_helpers.localhub.etags import check_etag
from fwupdate_helpers.localhub.identities import check_device_id, identity_fields
from fwupdate_helpers.localhub.store import Store
from fwupdate_helpers.localhub.twin_changes import TwinChanges
from fwupdate_helpers.localhub.twins import Twin, desired_patch, new_twin, patch_by_service

Json = dict[str, Any]

MAX_DEVICES: Final = 100
"""Items in one call."""
CREATE_OR_UPDATE: Final = "createOrUpdate"


class BulkRegistry:
    """Carries out bulk calls on the registry, and tells the devices what concerns them."""

    def __init__(self, store: Store, devices: DeviceEndpoint) -> None:
        self._store = store
        self._devices = devices
        self._twins = TwinChanges(store, devices)
        self._modes: dict[str, Callable[[str, Json], None]] = {
            "create": self._create,
            CREATE_OR_UPDATE: self._create_or_update,
            "update": self._update,
            "updateIfMatchETag": self._update_if_match,
            "delete": self._delete,
            "deleteIfMatchETag": self._delete_if_match,
            "updateTwin": self._update_twin,
            "updateTwinIfMatchETag": self._update_twin_if_match,
        }

    def apply(self, items: Any) -> Json:
        """Carry out the items of a call.

        Args:
            items: What the body holds: a list of ``ExportImportDevice``.

        Returns:
            A ``BulkRegistryOperationResult`` with an error for each item that was refused.

        Raises:
            HubError: The call as a whole is refused, and nothing is done: it is no list (400006),
                has over 100 items (413002) or is about a module (501000).
        """
        items = _checked(items)
        times = Counter(_id_of(item) for item in items)
        errors: list[Json] = []
        with self._store.database.transaction():
            for item in items:
                try:
                    self._apply_one(item, times)
                except HubError as error:
                    errors.append(_error_json(item, error))
        return {"isSuccessful": not errors, "errors": errors, "warnings": []}

    def _apply_one(self, item: Any, times: Counter[Any]) -> None:
        if not isinstance(item, dict):
            raise HubError(ARGUMENT_INVALID, "An item of a bulk call must be an object.")
        device_id = check_device_id(item.get("id"))
        if times[device_id] > 1:
            raise HubError(
                DEVICE_DEFINED_MULTIPLE_TIMES,
                f"'{device_id}' comes more than once in this call, so nothing was done with it.",
            )
        mode = self._modes.get(str(item.get("importMode") or CREATE_OR_UPDATE))
        if mode is None:
            raise HubError(ARGUMENT_INVALID, f"importMode must be one of {', '.join(self._modes)}.")
        mode(device_id, item)

    # Each mode checks all before it writes, so that an item is carried out as a whole or not.

    def _create(self, device_id: str, item: Json) -> None:
        twin = _first_twin(item, self._store.now())
        self._store.create(device_id, **identity_fields(item, None))
        if twin is not None:
            self._store.save_twin(device_id, twin)

    def _create_or_update(self, device_id: str, item: Json) -> None:
        if self._store.find(device_id) is None:
            self._create(device_id, item)
        else:
            self._update(device_id, item)

    def _update(self, device_id: str, item: Json) -> None:
        before = self._store.get(device_id)
        fields = identity_fields(item, before)
        if _has_twin(item):
            self._twins.patch(device_id, item)
        if not self._store.update(device_id, **fields).enabled:
            reason = "the device identity was disabled"
            self._store.after_commit(partial(self._devices.disconnect, device_id, reason))

    def _update_if_match(self, device_id: str, item: Json) -> None:
        _check_etag("eTag", item, self._store.get(device_id).etag)
        if item.get("twinETag"):
            _check_etag("twinETag", item, self._store.twin(device_id).etag)
        self._update(device_id, item)

    def _delete(self, device_id: str, item: Json) -> None:
        self._store.get(device_id)
        self._store.delete(device_id)
        self._store.after_commit(partial(self._devices.forget, device_id))

    def _delete_if_match(self, device_id: str, item: Json) -> None:
        _check_etag("eTag", item, self._store.get(device_id).etag)
        self._delete(device_id, item)

    def _update_twin(self, device_id: str, item: Json) -> None:
        self._twins.patch(device_id, item)

    def _update_twin_if_match(self, device_id: str, item: Json) -> None:
        _check_etag("twinETag", item, self._store.twin(device_id).etag)
        self._twins.patch(device_id, item)


def _checked(items: Any) -> list[Any]:
    if not isinstance(items, list):
        raise HubError(FORMAT_ERROR, "The body of a bulk call must be a JSON array.")
    if len(items) > MAX_DEVICES:
        raise HubError(
            TOO_MANY_DEVICES,
            f"A bulk call takes at most {MAX_DEVICES} devices, not {len(items)}; make several.",
        )
    if any(isinstance(item, dict) and item.get("moduleId") for item in items):
        raise HubError(
            NOT_IMPLEMENTED, "The local hub does not offer modules; a real IoT Hub does."
        )
    return items


def _id_of(item: Any) -> str | None:
    device_id = item.get("id") if isinstance(item, dict) else None
    return device_id if isinstance(device_id, str) else None


def _has_twin(item: Json) -> bool:
    return item.get("tags") is not None or desired_patch(item) is not None


def _first_twin(item: Json, now: str) -> Twin | None:
    """Return the twin that a new device begins with: version 1, whatever it holds."""
    if not _has_twin(item):
        return None
    content = {"tags": item.get("tags"), "properties": {"desired": desired_patch(item) or {}}}
    empty = new_twin(now)
    unborn = replace(empty, desired=replace(empty.desired, version=0), version=0)
    return patch_by_service(unborn, content, now)


def _check_etag(name: str, item: Json, etag: str) -> None:
    wanted = item.get(name)
    if not isinstance(wanted, str) or not wanted:
        raise HubError(ARGUMENT_INVALID, f"{item['importMode']} needs the {name} to compare with.")
    check_etag(wanted, etag)


def _error_json(item: Any, error: HubError) -> Json:
    mode = item.get("importMode") if isinstance(item, dict) else None
    return {
        "deviceId": _id_of(item) or "",
        "errorCode": error.name,
        "errorStatus": error.message,
        "moduleId": "",
        "operation": mode if isinstance(mode, str) else CREATE_OR_UPDATE,
    }
