"""The device identities that the kit has made for whoever works here, told by their tags.

A hub on Azure may have devices of others: a colleague's, an attendee's, a product's. What the kit
makes carries two tags in its device twin, that of the kit and that of the attendee, and its id
begins with the attendee's name. Only what has all three is the kit's to delete.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Final

from fwupdate_helpers.connection_string import Secret
from fwupdate_helpers.identities import (
    ALREADY_EXISTS,
    delete_identities,
    find_ids,
    new_identity,
    new_key,
    send_identities,
)

if TYPE_CHECKING:
    from fwupdate_helpers.hub import Hub

logger = logging.getLogger(__name__)

CREATED_BY: Final = "createdBy"
CREATED_FOR: Final = "createdFor"
KIT: Final = "fwupdate-kit"


def tags_of(attendee: str) -> dict[str, str]:
    """Return the tags of every device twin that the kit makes for an attendee."""
    return {CREATED_BY: KIT, CREATED_FOR: attendee}


class KitDevices(tuple[str, ...]):
    """Device ids of one attendee; a notebook shows them as a list."""

    __slots__ = ()

    @property
    def title(self) -> str:
        """How many there are, in a sentence."""
        count = "no device identity" if not self else f"{len(self)} device identities"
        return f"Of yours, this kit has {'1 device identity' if len(self) == 1 else count} here."

    def __repr__(self) -> str:
        return "\n".join((self.title, *self))

    def _repr_html_(self) -> str:
        lines = "".join(f"<li><code>{escape(device_id)}</code></li>" for device_id in self)
        return f"<p>{escape(self.title)}</p><ul>{lines}</ul>"


Show = Callable[[KitDevices], object]


def create_if_missing(hub: Hub, device_id: str) -> Secret | None:
    """Make a device identity with the kit's tags; return its key, or None when there is one."""
    key = new_key()
    item = new_identity(device_id, key, hub.kit_tags, mode="create")
    there = send_identities(hub, [item], harmless=ALREADY_EXISTS)
    return None if there else key


def find_kit_devices(hub: Hub) -> KitDevices:
    """Return what the kit has made for an attendee on this hub, and nothing else, by id."""
    attendee = hub.attendee
    mine = f"tags.{CREATED_BY} = '{KIT}' AND tags.{CREATED_FOR} = '{attendee}'"
    found = find_ids(hub, mine)
    return KitDevices(sorted(one for one in found if one.startswith(f"{attendee}-")))


def delete_kit_devices(hub: Hub, show: Show | None = None) -> KitDevices:
    """Show what the kit has made for an attendee on this hub, then delete exactly that."""
    devices = find_kit_devices(hub)
    (show or _show)(devices)
    delete_identities(hub, devices)
    return devices


def _show(devices: KitDevices) -> None:
    """Show a list below the cell that runs; where there is no notebook, log it."""
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is None:
        logger.info("Deleting: %s", ", ".join(devices) or "nothing")
    else:
        display(devices)  # type: ignore[no-untyped-call]
