"""The local hub, seen with the rights of another of its policies: what may a service without them?

On Azure only whoever may read the hub's keys can do that (``az iot hub connection-string show``).
"""

from __future__ import annotations

from typing import Final

from fwupdate_helpers.errors import FirmwareUpdateError
from fwupdate_helpers.hub import Hub
from fwupdate_helpers.localhub.authentication import POLICIES
from fwupdate_helpers.localhub.statedir import StateDir, read_json

SMALLEST_POLICY: Final = {
    "RegistryRead": "registryRead",
    "RegistryWrite": "registryReadWrite",
    "ServiceConnect": "service",
    "DeviceConnect": "device",
}
"""For each permission, the policy of a new IoT Hub that grants it and the least beside it."""


def with_policy(hub: Hub, policy: str) -> Hub:
    """Return the local hub as a service meets it that has the key of this policy.

    Args:
        hub: The local hub of this user, as `connect_hub` returns it.
        policy: One of those that every IoT Hub starts with, for example ``"registryRead"``.

    Raises:
        FirmwareUpdateError: The hub is on Azure, or has no such policy.

    Example:
        >>> with with_policy(hub, "service") as as_service:  # doctest: +SKIP
        ...     as_service.registry.get_twin(device_id)
    """
    if hub.kind != "local":
        raise FirmwareUpdateError(
            "Only the local hub hands out the keys of its policies here. On Azure, "
            "'az iot hub connection-string show --policy-name …' does, to whoever may."
        )
    if policy not in POLICIES:
        raise FirmwareUpdateError(
            f"The local hub has no policy {policy!r}. It has {', '.join(POLICIES)}."
        )
    state = StateDir.default()
    policies = (read_json(state.config_file) or {}).get("policies", {})
    if not policies.get(policy):
        raise FirmwareUpdateError(
            "The local hub of this user has no keys yet. Run the notebook's set-up cell again."
        )
    string = f"HostName={hub.host_name};SharedAccessKeyName={policy};SharedAccessKey="
    return Hub(
        kind="local",
        connection_string=string + policies[policy][0],
        device_host=hub.device_host,
        ca_file=state.ca_file,
    )


__all__ = ["SMALLEST_POLICY", "with_policy"]
