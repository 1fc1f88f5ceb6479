"""What service and device agree on: the names on the wire, and the shape of every twin patch.

The names are those of Azure's tutorial "Use device management to initiate a device firmware
update" (Python, 2018), so that its service app works with our device and our service with its
device. The nested object `firmwareUpdate` is this kit's addition.

Nothing here does any I/O or asks for the time: times come in as ``datetime`` and leave as text.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final

from packaging.version import InvalidVersion, Version

Json = dict[str, Any]

METHOD: Final = "firmwareUpdate"
"""The direct method that starts an update."""
CANCEL_METHOD: Final = "cancelFirmwareUpdate"
"""The direct method that gives an update up, as long as the device can."""

PACKAGE_URI: Final = "fwPackageUri"
UPDATE_ID: Final = "updateId"
VERSION: Final = "version"
CHECK_VALUE: Final = "fwPackageCheckValue"
"""SHA-256 of the image's file, hexadecimal; the name is that of the tutorial's successor."""
ALLOW_DOWNGRADE: Final = "allowDowngrade"
RESPONSE: Final = "Response"
RESPONSE_STARTED: Final = {RESPONSE: "Firmware update started"}
RESPONSE_REPEATED: Final = {RESPONSE: "Firmware update already started"}
RESPONSE_UP_TO_DATE: Final = {RESPONSE: "Firmware already up to date"}
RESPONSE_CANCELLED: Final = {RESPONSE: "Firmware update is being cancelled"}

STATUS: Final = "firmwareStatus"
STAND_BY: Final = "standBy"
DOWNLOADING: Final = "downloading"
APPLYING: Final = "applying"
COMPLETED: Final = "completed"
ERROR: Final = "error"
ROLLED_BACK: Final = "rolledback"
STATUSES: Final = (STAND_BY, DOWNLOADING, APPLYING, COMPLETED, ERROR, ROLLED_BACK)
FINAL_STATUSES: Final = (COMPLETED, ERROR, ROLLED_BACK)

LOG_TIME: Final = "logTime"
DOWNLOAD_COMPLETE: Final = "downloadComplete"
STARTED_APPLYING: Final = "startedApplyingImage"
LAST_UPDATE: Final = "lastFirmwareUpdate"

UPDATE: Final = "firmwareUpdate"
STAGES_KEY: Final = "stages"
STARTED_AT: Final = "startedAt"
ENDED_AT: Final = "endedAt"
PROGRESS: Final = "progress"
OUTCOME: Final = "outcome"
"""How the update ended: one of `FINAL_STATUSES`. It stays when the device stands by again."""
RECEIVED: Final = "receivedBytes"
TOTAL: Final = "totalBytes"
RECOVERY: Final = "recovery"
"""What the device did about an update that lost its power: ``{"action": …, "at": …}``."""
RESUMED: Final = "resumed"
ROLLED_BACK_ACTION: Final = "rolledBack"
CONFIRMED: Final = "confirmed"

FIRMWARE: Final = "firmware"
"""What runs on the device. The names in it are those of the tutorial's successor, and `slots`."""
CURRENT_VERSION: Final = "currentFwVersion"
PENDING_VERSION: Final = "pendingFwVersion"
SLOTS: Final = "slots"
ACTIVE_SLOT: Final = "active"

ERROR_KEY: Final = "error"
ERROR_CODE: Final = "code"
ERROR_MESSAGE: Final = "message"

WAITING: Final = "waiting"
VERIFYING: Final = "verifying"
REBOOTING: Final = "rebooting"
STAGES: Final = (WAITING, DOWNLOADING, VERIFYING, APPLYING, REBOOTING)
"""The stages of an update, in their order. A simulated transfer has no image to verify and start.

`firmwareStatus` keeps to the tutorial's words: it says ``downloading`` while the image is verified,
and ``applying`` while the device reboots.
"""

# Error codes of an update, in the twin's `firmwareUpdate.error.code`. How the device ended:
CODE_INTERRUPTED: Final = "interrupted"
"""The device stopped before the end, and had nothing to resume from."""
CODE_INTERNAL: Final = "internal"
"""The update failed for a reason that has no code of its own."""
CODE_CANCELLED: Final = "cancelled"
CODE_SELF_TEST: Final = "selfTestFailed"
CODE_NOT_CONFIRMED: Final = "notConfirmed"
"""The new image was started and never confirmed that it works: a hang, or a loss of power."""
CODE_WATCHDOG: Final = "watchdogReset"
"""The device hung in a stage before the switch, and its watchdog reset it."""
# Why the image could not be got:
CODE_URI_REFUSED: Final = "uriRefused"
"""A scheme or a redirect that the device does not follow."""
CODE_NOT_TRUSTED: Final = "notTrusted"
"""The server's certificate is not trusted."""
CODE_DOWNLOAD_REFUSED: Final = "downloadRefused"
"""The server refuses the image for good, for example with 403 or 404."""
CODE_DOWNLOAD_FAILED: Final = "downloadFailed"
"""The device gave up after its retries."""
CODE_IMAGE_CHANGED: Final = "imageChanged"
"""The image changed on the server again and again while it was downloaded."""
CODE_TOO_LARGE: Final = "tooLarge"
"""The image is larger than the device takes."""
CODE_DISK_FULL: Final = "diskFull"
# Why the image was refused:
CODE_NOT_AN_IMAGE: Final = "notAnImage"
CODE_TRUNCATED: Final = "truncated"
CODE_OVERSIZED: Final = "oversized"
"""There is more in the file than its manifest tells."""
CODE_HASH_MISMATCH: Final = "hashMismatch"
CODE_BAD_SIGNATURE: Final = "badSignature"
CODE_WRONG_HARDWARE: Final = "wrongHardware"
CODE_DOWNGRADE: Final = "downgrade"
CODE_ALREADY_INSTALLED: Final = "alreadyInstalled"
CODE_WRONG_VERSION: Final = "wrongVersion"
"""The image is of another version than the service said."""
CODE_CHECK_VALUE: Final = "checkValueMismatch"
"""The file is another one than the service's `fwPackageCheckValue` tells."""


def to_wire(moment: datetime) -> str:
    """Write a time as the twin carries it: ISO 8601, UTC, milliseconds.

    >>> to_wire(datetime(2026, 5, 4, 12, 30, tzinfo=timezone.utc))
    '2026-05-04T12:30:00.000Z'
    """
    utc = moment.astimezone(timezone.utc)
    return utc.strftime("%Y-%m-%dT%H:%M:%S.") + f"{utc.microsecond // 1000:03d}Z"


def stand_by_patch(now: datetime) -> Json:
    """Return the reported patch of a device that waits for an update."""
    return {STATUS: STAND_BY, LOG_TIME: to_wire(now)}


def started_patch(now: datetime, reported: Json) -> Json:
    """Return the reported patch of a device that has just started.

    An update that its last run left open is closed as interrupted, so that nobody waits for it.

    Args:
        now: The device's clock.
        reported: The reported properties as the hub has them.
    """
    patch = stand_by_patch(now)
    stage = open_stage(reported)
    if stage is not None:
        message = f"The device stopped while {stage} and has started again."
        patch[UPDATE] = error_patch(now, stage, CODE_INTERRUPTED, message)[UPDATE]
    return patch


def opening_patch(update_id: str, now: datetime, version: str | None = None) -> Json:
    """Return the one patch that opens an update and clears what the last one left.

    A merge patch forgets nothing by itself, so every stage, error and timestamp of the previous
    update is deleted with an explicit ``null``; only `lastFirmwareUpdate` stays, because it tells
    when the device last completed an update.

    Args:
        update_id: The service's id of this update.
        now: The device's clock.
        version: The version that the image brings, where it is known.
    """
    stages: Json = dict.fromkeys(STAGES)
    stages[WAITING] = {STARTED_AT: to_wire(now), ENDED_AT: None}
    return {
        **stand_by_patch(now),
        DOWNLOAD_COMPLETE: None,
        STARTED_APPLYING: None,
        UPDATE: {
            UPDATE_ID: update_id,
            VERSION: version,
            PROGRESS: 0,
            RECEIVED: None,
            TOTAL: None,
            RECOVERY: None,
            OUTCOME: None,
            ERROR_KEY: None,
            STAGES_KEY: stages,
        },
    }


def stage_patch(now: datetime, ended: str, begun: str) -> Json:
    """Return the patch that ends one stage of an update and begins the next one."""
    times = {ended: {ENDED_AT: to_wire(now)}, begun: {STARTED_AT: to_wire(now)}}
    patch: Json = {UPDATE: {STAGES_KEY: times}}
    if begun == DOWNLOADING:
        patch[STATUS] = DOWNLOADING
    if ended == DOWNLOADING:
        patch[DOWNLOAD_COMPLETE] = to_wire(now)
        patch[UPDATE][PROGRESS] = 1
    if begun == APPLYING:
        patch |= {STATUS: APPLYING, STARTED_APPLYING: to_wire(now)}
    return patch


def progress_patch(progress: float, received: int | None = None, total: int | None = None) -> Json:
    """Return the patch that tells how much of the image has arrived.

    Args:
        progress: From 0 to 1.
        received: Bytes that have arrived; None for a simulated transfer.
        total: Bytes of the image, where the server tells them.
    """
    return {UPDATE: {PROGRESS: round(progress, 3), RECEIVED: received, TOTAL: total}}


def recovery_patch(now: datetime, action: str) -> Json:
    """Return the patch that tells what the device did about an update that lost its power."""
    return {UPDATE: {RECOVERY: {"action": action, "at": to_wire(now)}}}


def firmware_patch(
    current: str, pending: str | None, active: str, slots: dict[str, str | None]
) -> Json:
    """Return the patch that tells what runs on the device.

    Args:
        current: The version that runs.
        pending: The version that an update is about to bring, where it is known.
        active: The slot that runs.
        slots: For each slot the version in it, or None.
    """
    return {
        FIRMWARE: {
            CURRENT_VERSION: current,
            PENDING_VERSION: pending,
            SLOTS: {ACTIVE_SLOT: active, **slots},
        }
    }


def completed_patch(now: datetime, stage: str = APPLYING) -> Json:
    """Return the patch that ends a successful update with its last stage."""
    return {
        STATUS: COMPLETED,
        LAST_UPDATE: to_wire(now),
        UPDATE: {OUTCOME: COMPLETED, STAGES_KEY: {stage: {ENDED_AT: to_wire(now)}}},
    }


def error_patch(now: datetime, stage: str, code: str, message: str, status: str = ERROR) -> Json:
    """Return the patch that ends an update in `stage` with an error, or with a rollback."""
    return {
        STATUS: status,
        UPDATE: {
            OUTCOME: status,
            ERROR_KEY: {ERROR_CODE: code, ERROR_MESSAGE: message},
            STAGES_KEY: {stage: {ENDED_AT: to_wire(now)}},
        },
    }


def open_stage(reported: Json) -> str | None:
    """Return the stage that began and has not ended, or None.

    Args:
        reported: The reported properties of a device twin.
    """
    stages = (reported.get(UPDATE) or {}).get(STAGES_KEY) or {}
    for stage in STAGES:
        times = stages.get(stage) or {}
        if STARTED_AT in times and ENDED_AT not in times:
            return stage
    return None


def parse_version(text: str) -> Version:
    """Read a version (PEP 440, such as 2.0.0); raise `ValueError` with a sentence for another text.

    >>> parse_version("2.0.0") > parse_version("1.10")
    True
    """
    try:
        return Version(text)
    except (InvalidVersion, TypeError) as error:
        raise ValueError(f"{text!r} is no version; one is such as 2.0.0.") from error


_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class UpdateOrder:
    """What a service asks for, with the direct method or by desired properties.

    Attributes:
        package_uri: Where the image is. A name without a scheme, such as the tutorial's
            ``test.com``, stands for no image: the transfer is simulated.
        update_id: The service's id of this update; the device makes one when there is none.
        version: The version of the image, where the service tells it.
        check_value: SHA-256 of the image's file, hexadecimal, where the service tells it.
        allow_downgrade: Whether an older version, or the one that runs, may be installed.
    """

    package_uri: str
    update_id: str
    version: str | None = None
    check_value: str | None = None
    allow_downgrade: bool = False

    @classmethod
    def from_payload(cls, payload: Any) -> UpdateOrder:
        """Read the method's payload; raise `ValueError` with a sentence when it is not usable."""
        if not isinstance(payload, dict):
            raise ValueError(f"The payload must be an object with {PACKAGE_URI!r}.")
        if payload.get(PACKAGE_URI) is None:
            raise ValueError(f"The payload needs {PACKAGE_URI!r}: where the image is.")
        update_id = _text(payload, UPDATE_ID, 128) or uuid.uuid4().hex
        return cls.from_fields(payload, update_id, uri=PACKAGE_URI, version=VERSION)

    @classmethod
    def from_fields(cls, fields: Json, update_id: str, *, uri: str, version: str) -> UpdateOrder:
        """Read an order whose address and version have these names; `ValueError` as above."""
        package_uri = _text(fields, uri, 2048)
        if package_uri is None:
            raise ValueError(f"{uri!r} is missing: where the image is.")
        number, check_value = _text(fields, version, 64), _text(fields, CHECK_VALUE, 64)
        if number is not None:
            parse_version(number)
        if check_value is not None and not _SHA256.fullmatch(check_value):
            raise ValueError(f"{CHECK_VALUE!r} must be a SHA-256: 64 hexadecimal digits.")
        allow_downgrade = fields.get(ALLOW_DOWNGRADE, False)
        if not isinstance(allow_downgrade, bool):
            raise ValueError(f"{ALLOW_DOWNGRADE!r} must be true or false.")
        return cls(package_uri, update_id, number, check_value, allow_downgrade)

    @property
    def is_simulated(self) -> bool:
        """Whether there is no image to fetch, only the tutorial's stages to walk."""
        return not _SCHEME.match(self.package_uri)

    @property
    def fingerprint(self) -> str:
        """Tells orders apart without keeping the URI, which may hold a signature."""
        return hashlib.sha256(repr(self).encode()).hexdigest()


def _text(payload: Json, name: str, longest: int) -> str | None:
    value = payload.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip() or _CONTROL.search(value):
        raise ValueError(f"{name!r} must be a text that is not empty.")
    if len(value) > longest:
        raise ValueError(f"{name!r} may have {longest} characters at most.")
    return value.strip()
