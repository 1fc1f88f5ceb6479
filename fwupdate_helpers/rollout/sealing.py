"""Keep the address of an image on the hub, so that only a service of this hub can read it.

The tags of a device twin are shown wherever somebody prints the twin, and the address of an image
is a secret. It is therefore encrypted (Fernet) with a key that comes from the key of the hub's
shared access policy.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final

from cryptography.fernet import Fernet, InvalidToken

from fwupdate_helpers.errors import FirmwareUpdateError

if TYPE_CHECKING:
    from fwupdate_helpers.hub import Hub

_PURPOSE: Final = "fwupdate: image of a rollout"


def seal(hub: Hub, text: str) -> str:
    """Encrypt a text for whoever has this hub's connection string."""
    return _cipher(hub).encrypt(text.encode()).decode("ascii")


def unseal(hub: Hub, sealed: str) -> str:
    """Return the text that `seal` encrypted.

    Raises:
        FirmwareUpdateError: It was sealed with the key of another policy, or changed since.
    """
    try:
        return _cipher(hub).decrypt(sealed.encode()).decode()
    except (InvalidToken, UnicodeError) as error:
        raise FirmwareUpdateError(
            "The address of the rollout's image was kept with the key of another shared access "
            "policy, or that key was changed since. Use the connection string that the rollout "
            "began with, or pass the address again: Rollout.load(hub, rollout_id, image=…)."
        ) from error


def _cipher(hub: Hub) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(hub.derived_key(_PURPOSE)))
