"""How a change of a twin by the service is carried out: write it, then tell the device.

The REST API, scheduled jobs and automatic device configurations all change twins this way.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from fwupdate_helpers.localhub.device_endpoint import DeviceEndpoint
from fwupdate_helpers.localhub.jsontext import dumps
from fwupdate_helpers.localhub.store import Store
from fwupdate_helpers.localhub.twins import (
    Twin,
    Writer,
    desired_patch,
    patch_by_configurations,
    patch_by_service,
    replace_by_service,
)

Json = dict[str, Any]


class TwinChanges:
    """Changes twins on behalf of the service; a device that is online is told at once."""

    def __init__(self, store: Store, devices: DeviceEndpoint) -> None:
        self._store = store
        self._devices = devices
        self._throttle = devices.throttle

    def patch(self, device_id: str, patch: Json) -> Twin:
        """Merge tags and desired properties.

        Raises:
            HubError: 404001, there is no such device; 400004, the patch breaks a limit; 403002, the
                messages of the day are used up.
        """
        self._throttle.check_quota()
        twin = patch_by_service(self._store.twin(device_id), patch, self._store.now())
        self._throttle.charge(_size(patch))
        return self._save(device_id, twin, desired_patch(patch))

    def replace(self, device_id: str, content: Json) -> Twin:
        """Replace tags and desired properties by what is given.

        Raises:
            HubError: As `patch` does.
        """
        self._throttle.check_quota()
        before = self._store.twin(device_id)
        twin, patch = replace_by_service(before, content, self._store.now())
        self._throttle.charge(_size(content))
        return self._save(device_id, twin, patch)

    def configure(
        self, device_id: str, patch: Json, writers: Iterable[Writer], statuses: Json
    ) -> Twin:
        """Merge what automatic configurations write; an empty patch changes the statuses alone.

        Args:
            writers: Who writes what, the strongest last.
            statuses: The twin's root ``configurations`` from now on.

        Raises:
            HubError: As `patch` does; an empty patch costs no message.
        """
        twin = self._store.twin(device_id)
        if patch:
            self._throttle.check_quota()
            twin = patch_by_configurations(twin, patch, writers, self._store.now())
            self._throttle.charge(_size(patch))
        return self._save(device_id, replace(twin, configurations=statuses), patch or None)

    def _save(self, device_id: str, twin: Twin, patch: Json | None) -> Twin:
        self._store.save_twin(device_id, twin)
        if patch is not None:
            tell = partial(self._devices.send_desired, device_id, patch, twin.desired.version)
            self._store.after_commit(tell)
        return twin


def _size(content: Json) -> int:
    return len(dumps(content).encode())
