"""The identities of a fleet: made in bulk with keys and tags, and found again by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fwupdate_helpers.connection_string import Secret
from fwupdate_helpers.fleet.profiles import DeviceProfile
from fwupdate_helpers.identities import OnDone, find_ids, new_identity, new_key, send_identities

if TYPE_CHECKING:
    from fwupdate_helpers.hub import Hub


def create_identities(
    hub: Hub, profiles: Sequence[DeviceProfile], on_done: OnDone = lambda count: None
) -> dict[str, Secret]:
    """Create the identities of devices, tags included; those that there are get new keys.

    Args:
        hub: Where. Its own tags go before those of a profile.
        profiles: The devices.
        on_done: Told the progress.

    Returns:
        For each device id its key, base64.

    Raises:
        FirmwareUpdateError: The hub refuses the call, or one of the devices.
    """
    keys = {profile.device_id: new_key() for profile in profiles}
    items = [
        new_identity(
            profile.device_id,
            keys[profile.device_id],
            {**profile.tags, **hub.kit_tags},
            mode="createOrUpdate",
        )
        for profile in profiles
    ]
    send_identities(hub, items, on_done)
    return keys


def find_identities(hub: Hub, fleet: str) -> list[str]:
    """Return the ids of the devices that a fleet of this name has on the hub, also of earlier runs.

    On Azure, a query may miss what was created in the last seconds.

    Raises:
        FirmwareUpdateError: The hub does not answer, or refuses.
    """
    found = find_ids(hub, f"tags.fleet = '{fleet}'")
    return [one for one in found if re.fullmatch(re.escape(fleet) + r"-[0-9]{4,}", one)]
