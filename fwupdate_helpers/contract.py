"""What service and device agree on: the names on the wire, and the shape of every twin patch.

The names are those of Azure's tutorial "Use device management to initiate a device firmware
update" (Python, 2018), so that its service app works with our device and our service with its
device. The nested object `firmwareUpdate` is this kit's addition.

Nothing here does any I/O or asks for the time: times come in as ``datetime`` and leave as text.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final

Json = dict[str, Any]

METHOD: Final = "firmwareUpdate"
"""The direct method that starts an update."""

PACKAGE_URI: Final = "fwPackageUri"
UPDATE_ID: Final = "updateId"
VERSION: Final = "version"
RESPONSE_STARTED: Final = {"Response": "Firmware update started"}

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
ERROR_KEY: Final = "error"
ERROR_CODE: Final = "code"
ERROR_MESSAGE: Final = "message"

WAITING: Final = "waiting"
STAGES: Final = (WAITING, DOWNLOADING, APPLYING)
"""The stages of an update, in their order."""

CODE_INTERRUPTED: Final = "interrupted"
"""Error code of an update whose device stopped before the end."""
CODE_INTERNAL: Final = "internal"
"""Error code of an update that failed for a reason that has no code of its own."""


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
            ERROR_KEY: None,
            STAGES_KEY: stages,
        },
    }


def downloading_patch(now: datetime) -> Json:
    """Return the patch that ends the wait and begins the download."""
    return {
        STATUS: DOWNLOADING,
        UPDATE: {
            STAGES_KEY: {
                WAITING: {ENDED_AT: to_wire(now)},
                DOWNLOADING: {STARTED_AT: to_wire(now)},
            }
        },
    }


def progress_patch(progress: float) -> Json:
    """Return the patch that tells how much of the image has arrived, from 0 to 1."""
    return {UPDATE: {PROGRESS: round(progress, 3)}}


def applying_patch(now: datetime) -> Json:
    """Return the patch that ends the download and begins to apply the image."""
    return {
        STATUS: APPLYING,
        DOWNLOAD_COMPLETE: to_wire(now),
        STARTED_APPLYING: to_wire(now),
        UPDATE: {
            PROGRESS: 1,
            STAGES_KEY: {
                DOWNLOADING: {ENDED_AT: to_wire(now)},
                APPLYING: {STARTED_AT: to_wire(now)},
            },
        },
    }


def completed_patch(now: datetime) -> Json:
    """Return the patch that ends a successful update."""
    return {
        STATUS: COMPLETED,
        LAST_UPDATE: to_wire(now),
        UPDATE: {STAGES_KEY: {APPLYING: {ENDED_AT: to_wire(now)}}},
    }


def error_patch(now: datetime, stage: str, code: str, message: str) -> Json:
    """Return the patch that ends an update in `stage` with an error."""
    return {
        STATUS: ERROR,
        UPDATE: {
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


_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class UpdateOrder:
    """What a service asks for with the direct method.

    Attributes:
        package_uri: Where the image is.
        update_id: The service's id of this update; the device makes one when there is none.
        version: The version of the image, where the service tells it.
    """

    package_uri: str
    update_id: str
    version: str | None

    @classmethod
    def from_payload(cls, payload: Any) -> UpdateOrder:
        """Read the method's payload; raise `ValueError` with a sentence when it is not usable."""
        if not isinstance(payload, dict):
            raise ValueError(f"The payload must be an object with {PACKAGE_URI!r}.")
        uri = _text(payload, PACKAGE_URI, 2048)
        if uri is None:
            raise ValueError(f"The payload needs {PACKAGE_URI!r}: where the image is.")
        if _SCHEME.match(uri):
            raise ValueError(
                "This device downloads nothing yet: give a name without a scheme, such as "
                "'test.com', and the transfer is simulated."
            )
        update_id = _text(payload, UPDATE_ID, 128) or uuid.uuid4().hex
        return cls(uri, update_id, _text(payload, VERSION, 64))


def _text(payload: Json, name: str, longest: int) -> str | None:
    value = payload.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip() or _CONTROL.search(value):
        raise ValueError(f"{name!r} must be a text that is not empty.")
    if len(value) > longest:
        raise ValueError(f"{name!r} may have {longest} characters at most.")
    return value.strip()
