"""What the hub keeps for good: its address, its service port and the keys of its policies."""

from __future__ import annotations

from typing import Any

from fwupdate_helpers.localhub.authentication import OWNER_POLICY, POLICIES
from fwupdate_helpers.localhub.errors import LocalHubError
from fwupdate_helpers.localhub.ports import HTTPS_PORT, is_loopback, is_port
from fwupdate_helpers.localhub.sas import is_key, new_key
from fwupdate_helpers.localhub.statedir import StateDir, read_json

Json = dict[str, Any]


def load_config(state: StateDir) -> Json:
    """Return the stored configuration without what is damaged, and with new keys for that."""
    config = read_json(state.config_file) or {}
    if not is_loopback(config.get("address")):
        config.pop("address", None)
    if not is_port(config.get("service_port")):
        config.pop("service_port", None)
    stored = config.get("policies")
    policies = stored if isinstance(stored, dict) else {}
    config["policies"] = {
        name: policies[name] if _are_keys(policies.get(name)) else [new_key(), new_key()]
        for name in POLICIES
    }
    return config


def owner_connection_string(state: StateDir) -> str:
    """Return the service connection string of the hub's owner policy, with its key.

    Raises:
        LocalHubError: The configuration is missing or damaged.
    """
    config = read_json(state.config_file) or {}
    try:
        host, port = str(config["address"]), config["service_port"]
        if port != HTTPS_PORT:  # an IoT Hub's own, which a HostName goes without
            host += f":{port}"
        key = config["policies"][OWNER_POLICY][0]
        if not is_key(key):
            raise ValueError("not a key")
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise LocalHubError(
            f"{state.config_file} is damaged or missing. Delete what the hub keeps with "
            "'python -m fwupdate_helpers.localhub reset' and start again."
        ) from error
    return f"HostName={host};SharedAccessKeyName={OWNER_POLICY};SharedAccessKey={key}"


def _are_keys(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_key, value))
