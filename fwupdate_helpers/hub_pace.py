"""How often a hub may be asked: the local hub as often as one likes, a metered one with thrift.

On Azure every read of a twin and every row of a query counts as messages of the day, in the free
tier F1 in steps of 0.5 KB out of 8,000, and a unit of F1 or S1 grants 20 queries a minute. Source:
Microsoft's "IoT Hub quotas and throttling" and "Azure IoT Hub billing information".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from fwupdate_helpers.errors import FirmwareUpdateError

if TYPE_CHECKING:
    from fwupdate_helpers.hub import Hub
    from fwupdate_helpers.hub_clients import HubClients

FREE_TIER: Final = "F1"
MAX_FREE_FLEET: Final = 20
"""Devices of a fleet on a hub of the free tier, whose messages of the day last for so many."""


@dataclass(frozen=True)
class HubPace:
    """Seconds between two questions of the same kind.

    Attributes:
        twin: Between two reads of a twin while something goes on.
        panel: The same, where a person looks at a live view.
        query: Between two queries of a loop.
        pages_per_minute: Pages of queries that a live view may read.
        forgotten: Between two reads of a live view in which nothing has changed for a quarter of
            an hour.
    """

    twin: float
    panel: float
    query: float
    pages_per_minute: float
    forgotten: float


FREE_PACE: Final = HubPace(
    twin=0.5, panel=0.25, query=0.5, pages_per_minute=float("inf"), forgotten=0.0
)
"""Of a hub that counts nothing."""
METERED_PACE: Final = HubPace(twin=2.0, panel=2.0, query=6.0, pages_per_minute=10, forgotten=600.0)
"""Of a hub that counts: a live view and a loop together ask 20 queries a minute."""

_NOTE: Final = "fwupdate_pace"
"""An attribute of the SDK's clients that `Hub` makes: calls are given a client, not the hub."""


def note_pace(manager: Any, pace: HubPace) -> None:
    """Note how often a service client may ask."""
    setattr(manager, _NOTE, pace)


def pace_of(manager: Any) -> HubPace:
    """Return how often a service client may ask; one that `Hub` has not made, by its address."""
    noted = getattr(manager, _NOTE, None)
    if isinstance(noted, HubPace):
        return noted
    return METERED_PACE if _is_on_azure(manager) else FREE_PACE


def _is_on_azure(manager: Any) -> bool:
    config = getattr(getattr(manager, "protocol", None), "config", None)
    host = urlsplit(str(getattr(config, "base_url", ""))).hostname or ""
    return host.endswith((".azure-devices.net", ".azure-devices.cn", ".azure-devices.us"))


def read_tier(hub: HubClients) -> str | None:
    """Ask a hub for its tier; None where it does not tell, as every hub on Azure."""
    try:
        answer = hub.local_request("GET", "/$localhub/status")
        tier = answer.json().get("tier") if answer.ok else None
    except (OSError, ValueError, KeyError, AttributeError, FirmwareUpdateError):
        return None  # not even a local hub in the place of one on Azure
    return tier if isinstance(tier, str) else None


def check_fleet_size(hub: Hub, size: int) -> None:
    """Refuse a fleet that is too large for the hub's tier.

    Raises:
        FirmwareUpdateError: It is of the free tier, and the fleet has more than 20 devices.
    """
    if size > MAX_FREE_FLEET and hub.tier == FREE_TIER:
        raise FirmwareUpdateError(
            f"A fleet of {size} devices is too large for this hub: it is of the free tier "
            f"{FREE_TIER}, whose 8,000 messages a day last for {MAX_FREE_FLEET} devices. Make the "
            "fleet smaller, or use the local hub or a hub of tier S1."
        )


__all__ = ["FREE_PACE", "METERED_PACE", "HubPace", "check_fleet_size", "note_pace", "pace_of"]
