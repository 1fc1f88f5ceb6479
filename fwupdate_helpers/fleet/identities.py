"""Device identities in bulk: made with their keys and tags, and deleted, 100 in a call.

Source of the limit and of the import modes: Microsoft's service.json (API version 2021-04-12),
``ExportImportDevice``. A bulk call returns no keys, so they are made here.
"""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from fwupdate_helpers.errors import FirmwareUpdateError
from fwupdate_helpers.fleet.profiles import DeviceProfile

if TYPE_CHECKING:
    from fwupdate_helpers.hub import Hub

T = TypeVar("T")
OnDone = Callable[[int], object]
"""Told how many devices are done."""

MAX_IN_A_CALL: Final = 100
_KEY_BYTES: Final = 32
_NOT_FOUND: Final = "DeviceNotFound"


def create_identities(
    hub: Hub, profiles: Sequence[DeviceProfile], on_done: OnDone = lambda count: None
) -> dict[str, str]:
    """Create the identities of devices, tags included; those that there are get new keys.

    Args:
        hub: Where.
        profiles: The devices.
        on_done: Told the progress.

    Returns:
        For each device id its key, base64.

    Raises:
        FirmwareUpdateError: The hub refuses the call, or one of the devices.
    """
    keys = {profile.device_id: _new_key() for profile in profiles}
    items = [_identity(profile, keys[profile.device_id]) for profile in profiles]
    _send(hub, items, on_done)
    return keys


def delete_identities(
    hub: Hub, device_ids: Iterable[str], on_done: OnDone = lambda count: None
) -> None:
    """Delete device identities with their twins; harmless for those that there are not.

    Raises:
        FirmwareUpdateError: The hub refuses the call, or one of the devices.
    """
    from azure.iot.hub.models import ExportImportDevice

    items = [ExportImportDevice(id=device_id, import_mode="delete") for device_id in device_ids]
    _send(hub, items, on_done, harmless=_NOT_FOUND)


def find_identities(hub: Hub, fleet: str) -> list[str]:
    """Return the ids of the devices that a fleet of this name has on the hub, also of earlier runs.

    On Azure, a query may miss what was created in the last seconds.

    Raises:
        FirmwareUpdateError: The hub does not answer, or refuses.
    """
    from fwupdate_helpers.queries import query_twins

    text = f"SELECT deviceId FROM devices WHERE tags.fleet = '{fleet}'"  # noqa: S608 (a plain name)
    found = [row.device_id for row in query_twins(hub.registry, text)]
    return [one for one in found if re.fullmatch(re.escape(fleet) + r"-[0-9]{4,}", one)]


def _identity(profile: DeviceProfile, key: str) -> Any:
    from azure.iot.hub.models import AuthenticationMechanism, ExportImportDevice, SymmetricKey

    return ExportImportDevice(
        id=profile.device_id,
        import_mode="createOrUpdate",
        status="enabled",
        authentication=AuthenticationMechanism(
            type="sas", symmetric_key=SymmetricKey(primary_key=key, secondary_key=_new_key())
        ),
        tags=dict(profile.tags),
    )


def _new_key() -> str:
    return base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()


def _send(hub: Hub, items: list[Any], on_done: OnDone, *, harmless: str | None = None) -> None:
    done = 0
    for part in _parts(items, MAX_IN_A_CALL):
        _raise_refused(_send_part(hub, part), harmless)
        done += len(part)
        on_done(done)


def _send_part(hub: Hub, items: list[Any]) -> Any:
    return _retried(items[0].id, lambda: hub.registry.bulk_create_or_update_devices(items))


def _retried(device_id: str, request: Callable[[], Any]) -> Any:
    """Make a request that does no harm when it comes twice."""
    from fwupdate_helpers.retries import Operation, RetryPolicy
    from fwupdate_helpers.sdk_errors import hub_errors

    def once() -> Any:
        with hub_errors(device_id):
            return request()

    return RetryPolicy().call(once, operation=Operation.IDENTITY, device_id=device_id)


def _raise_refused(result: Any, harmless: str | None) -> None:
    # The error code comes as a name from the local hub, and as a number in some answers of Azure.
    refused = [
        error
        for error in result.errors or ()
        if harmless is None or str(error.error_code) not in (harmless, "404001")
    ]
    if refused:
        first = refused[0]
        raise FirmwareUpdateError(
            f"The hub refused {len(refused)} of the fleet's device identities. The first is "
            f"{first.device_id}: {first.error_code}, {first.error_status}"
        )


def _parts(items: list[T], size: int) -> Iterator[list[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
