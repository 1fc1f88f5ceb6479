"""Device identities: made with their keys and tags in one step, and deleted, 100 in a call.

A tag that comes a moment after its identity could stay away for good, and nobody would know the
identity for the kit's. So they are made by IoT Hub's bulk call, which takes both together. It
returns no keys, so they are made here.

Source of the limit and of the import modes: Microsoft's service.json (API version 2021-04-12),
``ExportImportDevice``.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from fwupdate_helpers.connection_string import Secret
from fwupdate_helpers.errors import FirmwareUpdateError
from fwupdate_helpers.hub_requests import retried
from fwupdate_helpers.retry_rules import Operation

if TYPE_CHECKING:
    from fwupdate_helpers.hub import Hub

T = TypeVar("T")
OnDone = Callable[[int], object]
"""Told how many devices are done."""

MAX_IN_A_CALL: Final = 100
_KEY_BYTES: Final = 32
NOT_FOUND: Final = frozenset({"DeviceNotFound", "404001"})
ALREADY_EXISTS: Final = frozenset({"DeviceAlreadyExists", "409001"})
"""The error code comes as a name from the local hub, and as a number in some answers of Azure."""


def new_key() -> Secret:
    """Return a new key of a device, base64; it is shown masked when it is printed."""
    return Secret(base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode())


def new_identity(
    device_id: str,
    key: Secret,
    tags: Mapping[str, Any],
    *,
    mode: Literal["create", "createOrUpdate"],
) -> Any:
    """Return an item of a bulk call that makes a device with its primary key and its tags."""
    from azure.iot.hub.models import AuthenticationMechanism, ExportImportDevice, SymmetricKey

    # The SDK sends what a text prints, and a Secret prints itself masked.
    keys = SymmetricKey(primary_key=str.__str__(key), secondary_key=str.__str__(new_key()))
    return ExportImportDevice(
        id=device_id,
        import_mode=mode,
        status="enabled",
        authentication=AuthenticationMechanism(type="sas", symmetric_key=keys),
        tags=dict(tags),
    )


def delete_identities(
    hub: Hub,
    device_ids: Iterable[str],
    on_done: OnDone = lambda count: None,
) -> None:
    """Delete device identities with their twins; harmless for those that there are not.

    Raises:
        FirmwareUpdateError: The hub refuses the call, or one of the devices.
    """
    from azure.iot.hub.models import ExportImportDevice

    items = [ExportImportDevice(id=device_id, import_mode="delete") for device_id in device_ids]
    send_identities(hub, items, on_done, harmless=NOT_FOUND)


def find_ids(hub: Hub, condition: str) -> list[str]:
    """Return the ids of the devices that a condition of the query language fits, in any number.

    On Azure, a query may miss what was created in the last seconds.

    Raises:
        FirmwareUpdateError: The hub does not answer, or refuses.
    """
    from fwupdate_helpers.queries import query_twins

    text = f"SELECT deviceId FROM devices WHERE {condition}"  # noqa: S608 (of plain names)
    return [row.device_id for row in query_twins(hub.registry, text, on_retry=hub.retries)]


def send_identities(
    hub: Hub,
    items: list[Any],
    on_done: OnDone = lambda count: None,
    *,
    harmless: frozenset[str] = frozenset(),
) -> list[str]:
    """Send items of a bulk call, as many in a call as the hub takes.

    Args:
        hub: Where.
        items: ``ExportImportDevice`` objects.
        on_done: Told the progress.
        harmless: Error codes that are no error here.

    Returns:
        The ids of the devices that a harmless error came for.

    Raises:
        FirmwareUpdateError: The hub refuses the call, or one of the devices.
    """
    done, passed_over = 0, []
    for part in _parts(items, MAX_IN_A_CALL):
        passed_over += _passed_over(_send_part(hub, part), harmless)
        done += len(part)
        on_done(done)
    return passed_over


def _send_part(hub: Hub, items: list[Any]) -> Any:
    return retried(
        lambda: hub.registry.bulk_create_or_update_devices(items),
        operation=Operation.IDENTITY,
        device_id=items[0].id,
        on_retry=hub.retries,
    )


def _passed_over(result: Any, harmless: frozenset[str]) -> list[str]:
    errors = result.errors or ()
    refused = [error for error in errors if str(error.error_code) not in harmless]
    if refused:
        first = refused[0]
        raise FirmwareUpdateError(
            f"The hub refused {len(refused)} of the device identities. The first is "
            f"{first.device_id}: {first.error_code}, {first.error_status}"
        )
    return [error.device_id for error in errors]


def _parts(items: list[T], size: int) -> Iterator[list[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
