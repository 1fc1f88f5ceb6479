"""The settings of the kit: the environment first, then the `.env` in the repository's root.

The names are the kit's own, so that *Run All* never reaches a hub that somebody set for other work.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fwupdate_helpers.connection_string import Secret
from fwupdate_helpers.errors import EnvFileRefused

CONNECTION_STRING_VARIABLE: Final = "FWUPDATE_IOTHUB_CONNECTION_STRING"
HOST_NAME_VARIABLE: Final = "FWUPDATE_IOTHUB_HOSTNAME"
ATTENDEE_VARIABLE: Final = "FWUPDATE_ATTENDEE"
IMAGE_CONTAINER_VARIABLE: Final = "FWUPDATE_IMAGE_CONTAINER_URL"

_SECRETS: Final = frozenset({CONNECTION_STRING_VARIABLE, IMAGE_CONTAINER_VARIABLE})
_REPOSITORY = Path(__file__).resolve().parents[1]
_OTHERS: Final = 0o077
"""The bits of a file's mode that let the group and everybody else in."""


@dataclass(frozen=True)
class HubSetting:
    """Which hub on Azure is set: by a connection string, or by its name alone.

    Attributes:
        connection_string: A service connection string, shown masked; empty when none is set.
        host_name: The hub's name, for a sign-in with azure-identity; empty when none is set.
    """

    connection_string: Secret
    host_name: str = ""


def read_setting(name: str) -> str:
    """Return a variable of the environment, else of the ``.env`` in the repository's root.

    A value that is a secret is shown masked when it is printed.

    Raises:
        EnvFileRefused: Others can read the ``.env``, and it holds a secret.
    """
    given = os.environ.get(name)
    if given is None:
        given = _env_file(_REPOSITORY).get(name)
    text = (given or "").strip()
    return Secret(text) if name in _SECRETS else text


def read_hub_setting() -> HubSetting | None:
    """Return the hub on Azure that is set, or None for the local hub.

    The environment goes before ``.env``, and within each the connection string before the name. A
    connection string that is set in the environment and empty means the local hub, whatever else
    is set.

    Raises:
        EnvFileRefused: As `read_setting`.
    """
    string = os.environ.get(CONNECTION_STRING_VARIABLE)
    if string is not None and not string.strip():
        return None
    return _hub_in(os.environ) or _hub_in(_env_file(_REPOSITORY))


def _hub_in(values: Mapping[str, str]) -> HubSetting | None:
    string = values.get(CONNECTION_STRING_VARIABLE, "").strip()
    host_name = values.get(HOST_NAME_VARIABLE, "").strip()
    if string:
        return HubSetting(Secret(string))
    return HubSetting(Secret(""), host_name) if host_name else None


def _env_file(folder: Path) -> Mapping[str, str]:
    """Return the settings in the ``.env`` of a repository that belongs to this user."""
    file = folder / ".env"
    if not file.is_file() or not (folder / "pyproject.toml").is_file():
        return {}
    if os.name == "posix" and file.stat().st_uid != os.getuid():
        return {}
    from dotenv import dotenv_values

    values = {
        name: Secret(value)
        for name, value in dotenv_values(file, encoding="utf-8-sig").items()
        if value
    }
    if os.name == "posix" and file.stat().st_mode & _OTHERS and _SECRETS & values.keys():
        raise EnvFileRefused(
            f"Other users of this computer can read {file}, and it holds a key. Close it with: "
            f"chmod 600 '{file}' (where that has no effect, delete it and set the variables in "
            "the environment). Whoever may have read the key: make a new one in the Azure portal."
        )
    return values


__all__ = [
    "ATTENDEE_VARIABLE",
    "CONNECTION_STRING_VARIABLE",
    "HOST_NAME_VARIABLE",
    "IMAGE_CONTAINER_VARIABLE",
    "HubSetting",
    "read_hub_setting",
    "read_setting",
]
