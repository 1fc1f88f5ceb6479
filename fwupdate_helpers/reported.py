"""Read what a device reported of its update: the stages, the error, the outcome.

The counterpart of `contract`, which writes it. Devices of Azure's tutorial, which report four
timestamps and no `firmwareUpdate`, are understood, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from fwupdate_helpers import contract

STAGE_ORDER = (contract.WAITING, contract.DOWNLOADING, "verifying", contract.APPLYING, "rebooting")
"""The usual order of the stages, for those that began in the same millisecond."""


@dataclass(frozen=True)
class Stage:
    """One stage of an update. An end is None while the stage is unfinished.

    Attributes:
        name: The stage's name in the twin, for example ``downloading``.
        started_at: The start by the device's clock.
        ended_at: The end by the device's clock.
        hub_started_at: When the hub received the start; None where the twin does not tell.
        hub_ended_at: When the hub received the end.
    """

    name: str
    started_at: datetime
    ended_at: datetime | None = None
    hub_started_at: datetime | None = None
    hub_ended_at: datetime | None = None

    @property
    def seconds(self) -> float | None:
        """How long the stage took by the device's clock."""
        return None if self.ended_at is None else (self.ended_at - self.started_at).total_seconds()


@dataclass(frozen=True)
class ReportedError:
    """The error that a device reported in `firmwareUpdate.error`."""

    code: str
    message: str


def update_outcome(reported: contract.Json) -> str | None:
    """Tell how the update in the reported properties ended, or None before its end.

    `firmwareStatus` alone cannot tell: a device that restarts says standBy again, and reports an
    interrupted update by its error.

    Returns:
        ``completed``, ``error``, ``rolledback`` or None.
    """
    status = reported.get(contract.STATUS)
    if status in contract.FINAL_STATUSES:
        return str(status)
    outcome = section(reported, contract.UPDATE).get(contract.OUTCOME)
    if outcome in contract.FINAL_STATUSES:
        return str(outcome)
    if reported_error(reported):
        return contract.ERROR
    stages, last_update = read_stages(reported), parse_time(reported.get(contract.LAST_UPDATE))
    if stages and last_update and stages[-1].ended_at == last_update:
        return contract.COMPLETED
    return None


def reported_error(reported: contract.Json) -> ReportedError | None:
    """Return the error that the device reported for its last update, or None."""
    error = section(reported, contract.UPDATE, contract.ERROR_KEY)
    code, message = error.get(contract.ERROR_CODE), error.get(contract.ERROR_MESSAGE)
    return ReportedError(str(code or "unknown"), str(message or "")) if error else None


def parse_time(text: object) -> datetime | None:
    """Read a time of a twin; None when it is none. A time without a zone is local time.

    Python 3.10's ``fromisoformat`` reads neither the hub's seven digits nor a ``Z``.

    >>> parse_time("2024-03-14T09:54:49.1234567Z").isoformat()
    '2024-03-14T09:54:49.123456+00:00'
    """
    pattern = r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)?"
    match = re.fullmatch(pattern, text, re.ASCII) if isinstance(text, str) else None
    if match is None:
        return None
    second, fraction, zone = match.groups(default="")
    try:
        moment = datetime.fromisoformat(f"{second}.{fraction:0<6.6}{zone.replace('Z', '+00:00')}")
        return moment if zone else moment.astimezone()
    except (ValueError, OverflowError, OSError):  # no such day, or none that the system can place
        return None


def section(value: object, *keys: str) -> contract.Json:
    """Follow keys into nested objects; what is missing or no object counts as empty."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return dict(value) if isinstance(value, Mapping) else {}


def hub_time(metadata: contract.Json, key: str) -> datetime | None:
    """Return when the hub last received `key`, from the `$metadata` beside it."""
    return parse_time(section(metadata, key).get("$lastUpdated"))


def read_stages(reported: contract.Json) -> tuple[Stage, ...]:
    """Return the stages that have begun, in their order."""
    if reported.get(contract.UPDATE) is None:
        return tuple(_tutorial_stages(reported))
    path, bounds = (contract.UPDATE, contract.STAGES_KEY), (contract.STARTED_AT, contract.ENDED_AT)
    metadata = section(reported, "$metadata", *path)
    read = (
        _read_stage(name, section(times), section(metadata, name), *bounds)
        for name, times in section(reported, *path).items()
    )
    stages = [stage for stage in read if stage]
    # A stage that the opening patch does not know survives from the update before.
    opened = [stage.started_at for stage in stages if stage.name == contract.WAITING]
    current = (stage for stage in stages if not opened or stage.started_at >= opened[0])
    return tuple(sorted(current, key=_sort_key))


def _read_stage(
    name: str, times: contract.Json, metadata: contract.Json, start: str, end: str
) -> Stage | None:
    started_at, ended_at = parse_time(times.get(start)), parse_time(times.get(end))
    if started_at is None:
        return None
    hub_ended_at = hub_time(metadata, end) if ended_at else None
    return Stage(name, started_at, ended_at, hub_time(metadata, start), hub_ended_at)


def _sort_key(stage: Stage) -> tuple[datetime, datetime, int]:
    # Very fast stages start within the same millisecond; their usual order decides then.
    known = STAGE_ORDER.index(stage.name) if stage.name in STAGE_ORDER else len(STAGE_ORDER)
    return stage.started_at, stage.ended_at or datetime.max.replace(tzinfo=timezone.utc), known


def _tutorial_stages(reported: contract.Json) -> list[Stage]:
    """Read the four timestamps; each is the end of a stage and the start of the next one."""
    bounds = (
        (contract.WAITING, contract.LOG_TIME, contract.DOWNLOAD_COMPLETE),
        (contract.DOWNLOADING, contract.DOWNLOAD_COMPLETE, contract.STARTED_APPLYING),
        (contract.APPLYING, contract.STARTED_APPLYING, contract.LAST_UPDATE),
    )
    stages: list[Stage] = []
    for name, start, end in bounds:
        stage = _read_stage(name, reported, section(reported, "$metadata"), start, end)
        if stage and stage.ended_at and stage.ended_at < stage.started_at:
            # Left by an earlier update: a merge patch forgets nothing by itself.
            stage = replace(stage, ended_at=None, hub_ended_at=None)
        # An idle device has a logTime, too: its wait counts only once a download has ended it.
        idle = stage and name == contract.WAITING and stage.ended_at is None
        if stage and not idle and not (stages and stages[-1].ended_at is None):
            stages.append(stage)
    return stages
