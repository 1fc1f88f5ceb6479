"""ETags of identities, twins and configurations: new ones, and whether one is the current one."""

from __future__ import annotations

import base64
import secrets

from fwupdate_helpers.localhub.errors import PRECONDITION_FAILED, HubError


def new_etag() -> str:
    """Return an ETag that nothing else has."""
    return base64.b64encode(str(secrets.randbelow(9 * 10**8) + 10**8).encode()).decode()


def check_etag(wanted: str, etag: str) -> None:
    """Let a change pass when it is meant for the current version.

    Args:
        wanted: What the caller knows, ``*`` for any version. The SDK's managers differ:
            ``"etag"``, ``etag``, ``"*"`` and ``*`` all occur.
        etag: That of the current version.

    Raises:
        HubError: 412001, somebody else has changed it meanwhile.
    """
    if wanted.strip().strip('"') not in ("*", etag):
        raise HubError(
            PRECONDITION_FAILED, "Precondition failed: the ETag is not that of the current version."
        )
