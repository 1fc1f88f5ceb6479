"""What service and device agree on for updates by desired properties: names, ids and states.

A service sets the desired property `firmware`, best for many devices at once by an automatic device
configuration; each device follows by itself, and reports what came of it in its own `firmware`.

Names and states are those of the tutorial's successor, "Implement a device firmware update process"
(Node.js, 2018 to 2023, ``tutorial-firmware-update.md`` in azure-docs and the sample beside it); the
states are in small letters, as its metric queries compare them. `fwUpdateId` and `allowDowngrade`
are this kit's additions. Like `contract`, nothing here does any I/O or asks for the time.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from fwupdate_helpers import contract
from fwupdate_helpers.contract import UpdateOrder
from fwupdate_helpers.merge import merge

Json = dict[str, Any]

DESIRED: Final = "firmware"
"""The desired property; the reported one is `contract.FIRMWARE`."""
DESIRED_VERSION: Final = "fwVersion"
DESIRED_URI: Final = "fwPackageURI"

UPDATE_STATUS: Final = "fwUpdateStatus"
UPDATE_SUBSTATUS: Final = "fwUpdateSubstatus"
"""More about the status: a stage, how much has arrived, or why there was an error."""
UPDATE_STARTED: Final = "lastFwUpdateStartTime"
UPDATE_ENDED: Final = "lastFwUpdateEndTime"
HEEDED: Final = "fwUpdateId"
"""The `desired_update_id` of the desired firmware that the device has heeded last."""

CURRENT: Final = "current"
DOWNLOADING: Final = "downloading"
VERIFYING: Final = "verifying"
APPLYING: Final = "applying"
REBOOTING: Final = "rebooting"
ERROR: Final = "error"
ROLLED_BACK: Final = "rolledback"

CODE_BAD_DESIRED: Final = "badDesired"
"""Error code of a desired `firmware` that lacks a part or has a bad one."""

_OF_STAGE: Final = {
    contract.WAITING: DOWNLOADING,
    contract.DOWNLOADING: DOWNLOADING,
    contract.VERIFYING: VERIFYING,
    contract.APPLYING: APPLYING,
    contract.REBOOTING: REBOOTING,
}
_OF_OUTCOME: Final = {
    contract.COMPLETED: CURRENT,
    contract.ERROR: ERROR,
    contract.ROLLED_BACK: ROLLED_BACK,
}


def desired_firmware(
    package_uri: str,
    version: str,
    *,
    check_value: str | None = None,
    allow_downgrade: bool = False,
) -> Json:
    """Return the desired property `firmware` that asks for an update.

    Args:
        package_uri: Where the image is; without a scheme, for a simulated transfer.
        version: The version that the image brings. A device that runs it starts nothing.
        check_value: SHA-256 of the image's file, hexadecimal, where it is known.
        allow_downgrade: Whether devices that run a newer version go back to this one.

    Example:
        >>> desired_firmware("test.com", "2.0.0")
        {'fwVersion': '2.0.0', 'fwPackageURI': 'test.com'}
    """
    content: Json = {DESIRED_VERSION: version, DESIRED_URI: package_uri}
    if check_value is not None:
        content[contract.CHECK_VALUE] = check_value
    if allow_downgrade:
        content[contract.ALLOW_DOWNGRADE] = True
    return content


def desired_update_id(content: object) -> str:
    """Return the id of the update that a desired `firmware` stands for.

    It is made from the content alone, so a service knows it beforehand, it is the same on every
    device, and each change of the content, whatever it is, makes a new one. The device reports it
    as `firmwareUpdate.updateId` when it starts or refuses the update, and as `firmware.fwUpdateId`
    in any case. The address of the image, which may be a secret, cannot be read from it.

    A twin patch merges, so keys that were there before stay: take the content from the twin that
    ``update_twin`` returns, unless you have written all of it.

    Args:
        content: The desired property, as it is in the twin.

    Example:
        >>> desired_update_id({"fwVersion": "2.0.0", "fwPackageURI": "test.com"})
        'desired-a0da578802e6e2e20c94'
    """
    kept = merge({}, content) if isinstance(content, dict) else content  # a twin keeps no null
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return f"desired-{hashlib.sha256(text.encode()).hexdigest()[:20]}"


def desired_order(content: Any) -> UpdateOrder:
    """Read a desired `firmware`; raise `ValueError` with a sentence when it is not usable."""
    needed = f"{DESIRED_VERSION!r} and {DESIRED_URI!r}"
    if not isinstance(content, dict):
        raise ValueError(f"The desired {DESIRED!r} must be an object with {needed}.")
    for name in (DESIRED_VERSION, DESIRED_URI):
        if content.get(name) is None:
            raise ValueError(f"The desired {DESIRED!r} needs {needed}; {name!r} is missing.")
    return UpdateOrder.from_fields(
        content, desired_update_id(content), uri=DESIRED_URI, version=DESIRED_VERSION
    )


def heeded_patch(update_id: str | None) -> Json:
    """Return the reported patch of a device that heeds a desired `firmware`, or its removal.

    The status of an update that this one begins comes on top, from `status_patch`.

    Args:
        update_id: The `desired_update_id`; None when the desired property was removed.
    """
    if update_id is None:
        return {contract.FIRMWARE: {HEEDED: None}}
    return {
        contract.FIRMWARE: {HEEDED: update_id, UPDATE_STATUS: CURRENT, UPDATE_SUBSTATUS: None},
    }


def status_patch(told: Json, *, keeps_version: bool) -> Json:
    """Return the patch that brings the reported `firmware` in line with `firmwareUpdate`.

    The status is that of the desired firmware: an update that a direct method has started leaves
    it alone, and a device that has never heeded a desired `firmware` reports as it always did.

    Args:
        told: The reported properties.
        keeps_version: Whether only the twin knows the version: the device has no board.
    """
    firmware, update = told.get(contract.FIRMWARE) or {}, told.get(contract.UPDATE) or {}
    patch: Json = {}
    heeded, version = firmware.get(HEEDED), update.get(contract.VERSION)
    if heeded is not None and heeded == update.get(contract.UPDATE_ID):
        stage = contract.open_stage(told)
        patch |= _status(update, stage) | _times(update, is_open=stage is not None)
        patch[contract.PENDING_VERSION] = version if stage else None
    knows = heeded is not None or contract.CURRENT_VERSION in firmware
    if keeps_version and knows and version and _outcome(update) == contract.COMPLETED:
        patch[contract.CURRENT_VERSION] = version
    return {contract.FIRMWARE: patch} if patch else {}


def desired_outcome(reported: Json, update_id: str) -> str | None:
    """Tell what came of a desired `firmware` on a device.

    Args:
        reported: The reported properties of its twin.
        update_id: The `desired_update_id` of the content that was set.

    Returns:
        `CURRENT`, `ERROR` or `ROLLED_BACK`; None as long as the device has not heeded it, or
        works on it.
    """
    firmware = reported.get(contract.FIRMWARE)
    if not isinstance(firmware, dict) or firmware.get(HEEDED) != update_id:
        return None
    status = firmware.get(UPDATE_STATUS)
    return str(status) if status in _OF_OUTCOME.values() else None


def _status(update: Json, stage: str | None) -> Json:
    if stage is not None:
        return {UPDATE_STATUS: _OF_STAGE[stage], UPDATE_SUBSTATUS: _detail(update, stage)}
    error = update.get(contract.ERROR_KEY) or {}
    why = f"{error.get(contract.ERROR_CODE)}: {error.get(contract.ERROR_MESSAGE)}"
    status = _OF_OUTCOME.get(str(_outcome(update)), CURRENT)
    return {UPDATE_STATUS: status, UPDATE_SUBSTATUS: why if error else None}


def _detail(update: Json, stage: str) -> str | None:
    if stage == contract.WAITING:
        return contract.WAITING
    progress = update.get(contract.PROGRESS) or 0
    return f"{progress:.0%}" if stage == contract.DOWNLOADING else None


def _times(update: Json, *, is_open: bool) -> Json:
    stages = update.get(contract.STAGES_KEY) or {}
    ends = [(stages.get(stage) or {}).get(contract.ENDED_AT) for stage in contract.STAGES]
    ended = [end for end in ends if end]
    return {
        UPDATE_STARTED: (stages.get(contract.WAITING) or {}).get(contract.STARTED_AT),
        UPDATE_ENDED: ended[-1] if ended and not is_open else None,
    }


def _outcome(update: Json) -> str | None:
    outcome: str | None = update.get(contract.OUTCOME)
    return contract.ERROR if outcome is None and update.get(contract.ERROR_KEY) else outcome
