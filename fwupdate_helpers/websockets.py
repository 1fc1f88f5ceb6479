"""The setting that lets devices speak MQTT over WebSockets: port 443 where a network blocks 8883.

It is the way of the SDK's own option ``websockets=True``, which knows no other port.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fwupdate_helpers.errors import FirmwareUpdateError, HubUnavailable
from fwupdate_helpers.settings import read_setting

if TYPE_CHECKING:
    from fwupdate_helpers.localhub.background import RunningHub

WEBSOCKETS_VARIABLE: Final = "FWUPDATE_IOTHUB_WEBSOCKETS"
_ON: Final = ("1", "true", "yes", "on")
_OFF: Final = ("", "0", "false", "no", "off")


def uses_websockets() -> bool:
    """Tell whether ``FWUPDATE_IOTHUB_WEBSOCKETS`` is set to 1, in the environment or in ``.env``.

    Raises:
        FirmwareUpdateError: It is set to something else than 0 or 1.
    """
    given = read_setting(WEBSOCKETS_VARIABLE).lower()
    if given not in _ON + _OFF:
        raise FirmwareUpdateError(
            f"{WEBSOCKETS_VARIABLE} is {given!r}. Set it to 1 for port 443 (MQTT over WebSockets), "
            "or to 0 for port 8883."
        )
    return given in _ON


def websocket_options() -> dict[str, Any]:
    """Return the setting as keyword arguments for a device client of the SDK.

    Example:
        >>> websocket_options()  # doctest: +SKIP
        {'websockets': True}
    """
    return {"websockets": True} if uses_websockets() else {}


def check_port_443(running: RunningHub) -> None:
    """Check that devices reach the local hub the way the setting says.

    Raises:
        HubUnavailable: They are to use port 443, and the hub does not listen there.
    """
    if uses_websockets() and running.no_websockets:
        raise HubUnavailable(
            f"{WEBSOCKETS_VARIABLE} is on, and the local hub cannot have port 443: "
            f"{running.no_websockets} Or set {WEBSOCKETS_VARIABLE}=0: no firewall lies between "
            "this computer and its own port 8883."
        )
