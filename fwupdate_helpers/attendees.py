"""Who works here, as the hub sees it: the beginning of every device id that the kit makes.

Thirty people share one hub in a workshop. The names of their devices tell them apart, and a tag of
each device twin tells whose it is.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import re
from pathlib import Path
from typing import Final

from fwupdate_helpers.settings import ATTENDEE_VARIABLE, read_setting

_MAX_ATTENDEE: Final = 40
_MAX_ID: Final = 128
"""Characters of a device id that IoT Hub takes."""


def attendee() -> str:
    """Return the name of whoever works here, in the characters of a device id, 40 at most.

    It is the setting ``FWUPDATE_ATTENDEE``, else the user of the JupyterHub, else that of this
    computer. Two people of one name meet on a shared hub: then one of them sets the variable.
    """
    name = read_setting(ATTENDEE_VARIABLE) or _user_name()
    if plain := words(name)[:_MAX_ATTENDEE].strip("-"):
        return plain
    # A name in another script than the Latin one, of which nothing is left.
    return "user-" + hashlib.sha256(name.encode()).hexdigest()[:8]


def device_id_of(attendee: str, name: str) -> str:
    """Return the device id for a name of the notebook that runs; see `Hub.device_id`."""
    notebook = Path(os.environ.get("JPY_SESSION_NAME", "")).stem
    owner, own = words(attendee, notebook), words(name)
    return f"{owner[: _MAX_ID - 1 - len(own)]}-{own}".strip("-")[:_MAX_ID]


def words(*texts: str) -> str:
    """Return texts in the characters that a device id may have, joined by hyphens."""
    plain = (re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-") for text in texts)
    return "-".join(word for word in plain if word)


def _user_name() -> str:
    # On a JupyterHub everybody is the same user of a container.
    if name := os.environ.get("JUPYTERHUB_USER"):
        return name
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user id without a name
        # Windows has no such ids; a service that runs without USERNAME gets here.
        return f"user{os.getuid()}" if hasattr(os, "getuid") else "user"
