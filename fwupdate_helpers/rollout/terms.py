"""What a rollout is to do and how far it is, and how both are written in the tags of twins.

Every device that takes part has the tag ``rollout``::

    {"id": "fw-2-0-0",      the rollout
     "run": "5f1c2a9b",     one beginning of it, so that what an earlier one left is told apart
     "wave": 2,             from 1
     "outcome": "failed",   once the device is done with: an `Outcome`
     "code": "selfTestFailed"}

The first devices of the plan, at most `KEEPERS` of them, hold besides what the rollout is to do
(``terms``, which never change) and how far it is (``progress``). One copy counts: that of the
first keeper which still is there. It is written with the twin's ETag, so that two writers cannot
miss each other; the others are for the case that the first one is deleted.

Source of the limits (tags 8 KB, a text 4 KB): "Understand and use device twins in IoT Hub".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import Any, Final, Literal

from fwupdate_helpers.contract import (
    ALLOW_DOWNGRADE,
    CHECK_VALUE,
    PACKAGE_URI,
    UPDATE_ID,
    VERSION,
    Json,
    to_wire,
)
from fwupdate_helpers.contract_firmware import desired_firmware, desired_update_id
from fwupdate_helpers.reported import parse_time
from fwupdate_helpers.rollout.outcomes import Outcome, Result

TAG: Final = "rollout"
KEEPERS: Final = 3
"""How many devices hold the plan."""
Way = Literal["method", "job", "configuration"]
WAYS: Final[tuple[Way, ...]] = ("method", "job", "configuration")

_ID: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
_KEYS: Final = ("id", "run", "wave", "outcome", "code", "terms", "progress")


class Status(str, Enum):
    """How far a rollout is; the value is what the hub keeps."""

    PLANNED = "planned"
    """Nothing is on the hub yet."""
    PREPARING = "preparing"
    """The devices are being told apart into waves; no device got an order."""
    RUNNING = "running"
    """A wave is under way, or was when its kernel ended."""
    PAUSED = "paused"
    """A wave is over, and the next one has not begun."""
    STOPPED = "stopped"
    """The last wave had too many failures, so no other one begins."""
    CANCELLED = "cancelled"
    """A person ended it."""
    COMPLETED = "completed"
    """All waves are over."""


UNFINISHED: Final = (Status.RUNNING, Status.PAUSED)


def check_id(rollout_id: object) -> str:
    """Return a rollout's id; raise `ValueError` with a sentence when it cannot be one."""
    if not isinstance(rollout_id, str) or not _ID.fullmatch(rollout_id):
        raise ValueError(
            f"{rollout_id!r} cannot be the id of a rollout: up to 63 small letters, digits and "
            "hyphens will do, for example fw-2-0-0."
        )
    return rollout_id


@dataclass(frozen=True)
class Image:
    """The image that a rollout installs.

    Attributes:
        uri: Where devices get it. It is a secret, and never shown.
        version: The version that it brings, where it is known.
        check_value: SHA-256 of its file, where it is known.
        allow_downgrade: Whether it may be older than what runs.
    """

    uri: str = field(repr=False)
    version: str | None = None
    check_value: str | None = None
    allow_downgrade: bool = False


@dataclass(frozen=True)
class Limits:
    """When a rollout waits, gives up, or stops.

    Attributes:
        abort_at: The share of failed updates, of the devices that a wave reached, above which no
            other wave begins.
        pause_seconds: Seconds from the end of a wave to the beginning of the next one.
        wave_seconds: Seconds after which a device of a wave that told of no end counts as late.
        reach_seconds: Seconds after which a device of a wave that got no order counts as not
            reached.
    """

    abort_at: float
    pause_seconds: float
    wave_seconds: float
    reach_seconds: float

    def __post_init__(self) -> None:
        if not 0 <= self.abort_at <= 1:
            raise ValueError("abort_at is a share of the devices, from 0 to 1: 0.1 is 10 %.")
        if not self.pause_seconds >= 0:
            raise ValueError("pause_seconds must not be negative.")
        if not (self.reach_seconds > 0 and self.wave_seconds >= self.reach_seconds):
            raise ValueError("reach_seconds must be above 0, and wave_seconds not shorter than it.")


@dataclass(frozen=True)
class Terms:
    """What a rollout is to do; it never changes.

    Attributes:
        rollout_id: Its name.
        run: Tells this beginning from earlier ones with the same name.
        way: How devices get their orders.
        image: What they install.
        limits: When it waits and stops.
        sizes: The size of each wave as it was written, and its number of devices.
        keepers: The devices that hold this, the one that counts first.
        began_at: When it was planned, UTC.
    """

    rollout_id: str
    run: str
    way: Way
    image: Image
    limits: Limits
    sizes: tuple[tuple[str, int], ...]
    keepers: tuple[str, ...]
    began_at: datetime

    @property
    def update_id(self) -> str:
        """The id of this update on every device, which tells it from all others.

        A device makes the id of a desired update from the content, so a name in it does that there.
        """
        if self.way == "configuration":
            return desired_update_id(self.desired())
        return f"{self.rollout_id}.{self.run}"

    def payload(self) -> Json:
        """Return the payload of the direct method; it holds the image's address."""
        image = self.image
        payload: Json = {PACKAGE_URI: image.uri, UPDATE_ID: self.update_id}
        if image.version is not None:
            payload[VERSION] = image.version
        if image.check_value is not None:
            payload[CHECK_VALUE] = image.check_value
        return payload | ({ALLOW_DOWNGRADE: True} if image.allow_downgrade else {})

    def desired(self) -> Json:
        """Return the desired property `firmware`; it holds the image's address."""
        image = self.image
        content = desired_firmware(
            image.uri,
            image.version or "",
            check_value=image.check_value,
            allow_downgrade=image.allow_downgrade,
        )
        return {**content, TAG: f"{self.rollout_id}.{self.run}"}

    def condition(self, wave: int | None = None) -> str:
        """Return the condition that holds for the rollout's devices, or for those of a wave."""
        which = "" if wave is None else f" AND tags.{TAG}.wave = {wave}"
        return f"tags.{TAG}.id = '{self.rollout_id}' AND tags.{TAG}.run = '{self.run}'{which}"


@dataclass(frozen=True)
class Progress:
    """How far a rollout is.

    Attributes:
        status: See `Status`.
        wave: The wave that runs or ran last; 0 before the first.
        wave_ended_at: When it ended, UTC.
        reason: Why it was stopped, or an empty text.
        owner: The kernel that runs it; None when none does.
        beat: A number that a kernel which runs it changes all the time.
    """

    status: Status
    wave: int = 0
    wave_ended_at: datetime | None = None
    reason: str = ""
    owner: str | None = None
    beat: int = 0

    @property
    def is_under_way(self) -> bool:
        """Whether a kernel prepares or runs it, or did so when it died."""
        return self.owner is not None and self.status in (Status.PREPARING, *UNFINISHED)

    def with_(self, **changes: Any) -> Progress:
        """Return it with some values changed."""
        return replace(self, **changes)


@dataclass(frozen=True)
class Tag:
    """What the tag of one device tells.

    Attributes:
        rollout_id: The rollout.
        run: See `Terms.run`.
        wave: The device's wave.
        result: How it ended there, or None.
        terms: Its copy of the rollout's terms as the hub has them, or None.
        progress: Its copy of the progress, or None.
    """

    rollout_id: str
    run: str
    wave: int
    result: Result | None
    terms: Json | None
    progress: Progress | None


# -- from and to the tags -------------------------------------------------------------------------


def member_patch(rollout_id: str, run: str, wave: int) -> Json:
    """Return the tag of a device that takes part; it clears what an earlier rollout left."""
    return {**dict.fromkeys(_KEYS), "id": rollout_id, "run": run, "wave": wave}


def result_patch(result: Result) -> Json:
    """Return what is added to the tag of a device that is done with."""
    return {"outcome": result.outcome.value, "code": result.code}


def terms_to_json(terms: Terms, sealed_uri: str) -> Json:
    """Write terms as the tag has them.

    Args:
        terms: The terms.
        sealed_uri: The image's address, encrypted.
    """
    image = asdict(terms.image)
    return {
        "way": terms.way,
        "image": {**image, "uri": sealed_uri},
        "limits": asdict(terms.limits),
        "sizes": [list(size) for size in terms.sizes],
        "keepers": list(terms.keepers),
        "beganAt": to_wire(terms.began_at),
    }


def terms_from_json(rollout_id: str, run: str, content: Json, uri: str) -> Terms:
    """Read terms of a tag; raise `ValueError`, `TypeError` or `KeyError` for others.

    Args:
        rollout_id: The rollout.
        run: See `Terms.run`.
        content: What `terms_to_json` wrote.
        uri: The image's address.
    """
    began_at = parse_time(content["beganAt"])
    if content["way"] not in WAYS or began_at is None:
        raise ValueError("no such way, or no such time")
    return Terms(
        rollout_id=rollout_id,
        run=run,
        way=content["way"],
        # The hub stores no nulls, so the keys that are missing are None.
        image=Image(**{**content["image"], "uri": uri}),
        limits=Limits(**content["limits"]),
        sizes=tuple((str(text), int(count)) for text, count in content["sizes"]),
        keepers=tuple(map(str, content["keepers"])),
        began_at=began_at,
    )


def progress_patch(progress: Progress) -> Json:
    """Write progress as a merge patch for the tag."""
    ended = progress.wave_ended_at
    return {
        "status": progress.status.value,
        "wave": progress.wave,
        "waveEndedAt": to_wire(ended) if ended else None,
        "reason": progress.reason or None,
        "owner": progress.owner,
        "beat": progress.beat,
    }


def read_tag(tags: object) -> Tag | None:
    """Read the tag of a device; None when it takes part in no rollout."""
    content = tags.get(TAG) if isinstance(tags, Mapping) else None
    if not isinstance(content, Mapping):
        return None
    rollout_id, run, wave = (content.get(key) for key in ("id", "run", "wave"))
    if not (isinstance(rollout_id, str) and isinstance(run, str) and isinstance(wave, int)):
        return None
    terms = content.get("terms")
    return Tag(
        rollout_id=rollout_id,
        run=run,
        wave=wave,
        result=_read_result(content),
        terms=dict(terms) if isinstance(terms, Mapping) else None,
        progress=_read_progress(content.get("progress")),
    )


def _read_result(content: Mapping[str, Any]) -> Result | None:
    outcome, code = content.get("outcome"), content.get("code")
    if outcome not in list(Outcome):
        return None
    return Result(Outcome(outcome), None if code is None else str(code))


def _read_progress(content: object) -> Progress | None:
    if not isinstance(content, Mapping) or content.get("status") not in list(Status):
        return None
    owner = content.get("owner")
    return Progress(
        status=Status(content["status"]),
        wave=int(content.get("wave", 0)),
        wave_ended_at=parse_time(content.get("waveEndedAt")),
        reason=str(content.get("reason", "")),
        owner=None if owner is None else str(owner),
        beat=int(content.get("beat", 0)),
    )
