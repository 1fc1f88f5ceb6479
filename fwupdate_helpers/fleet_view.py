"""A fleet at one moment: a row for each device, read from the hub with one query.

The rows hold what the devices reported of their updates, and nothing that is to be drawn: the
figures in `fleet_figures` are made of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from fwupdate_helpers import contract
from fwupdate_helpers.errors import FirmwareUpdateError
from fwupdate_helpers.reported import section
from fwupdate_helpers.timeline import UpdateTimeline

if TYPE_CHECKING:
    from azure.iot.hub import IoTHubRegistryManager

    from fwupdate_helpers.hub import Hub
    from fwupdate_helpers.retries import OnRetry, RetryPolicy

NOT_BEGUN: Final = "not begun"
COMPLETED: Final = "completed"
FAILED: Final = "failed"
ROLLED_BACK: Final = "rolled back"
UP_TO_DATE: Final = "up to date"
"""The rollout found that the device runs the version already, and started nothing."""
NOT_REACHED: Final = "not reached"
"""The rollout could not give the device its order in time."""
_ENDS: Final = {
    contract.COMPLETED: COMPLETED,
    contract.ERROR: FAILED,
    contract.ROLLED_BACK: ROLLED_BACK,
}
"""For each reported outcome the word that people read."""
_TAGGED: Final = {"upToDate": UP_TO_DATE, "notReached": NOT_REACHED, "failed": FAILED}
"""For each outcome in the tag of a rollout that no update on the device tells of."""
STATES: Final = (
    NOT_BEGUN,
    NOT_REACHED,
    *contract.STAGES,
    UP_TO_DATE,
    COMPLETED,
    FAILED,
    ROLLED_BACK,
)
"""What a device can be in, in the order of an update."""


@dataclass(frozen=True)
class StageSpan:
    """One stage of one device on the hub's clock; the end is None while it is unfinished."""

    name: str
    start: datetime
    end: datetime | None


@dataclass(frozen=True)
class FleetRow:
    """One device of a fleet.

    Attributes:
        device_id: The device.
        wave: The wave of its rollout, from the tag ``rollout.wave``; None without one.
        timeline: Its last update; None when the twin tells of none.
        outcome: ``completed``, ``error`` or ``rolledback``; None before the end.
        error_code: The code of the reported error, or None.
        version: The firmware version that runs, as reported; None when the device has no firmware.
        connected: Whether the device is connected to the hub.
        tagged: How it ended, from the tag ``rollout.outcome``; None without one.

    Example:
        >>> row = FleetRow("fleet-0001", wave=1)
        >>> row.state
        'not begun'
    """

    device_id: str
    wave: int | None = None
    timeline: UpdateTimeline | None = None
    outcome: str | None = None
    error_code: str | None = None
    version: str | None = None
    connected: bool = False
    tagged: str | None = None

    @classmethod
    def from_twin(
        cls, twin: object, *, update_id: str | None = None, since: datetime | None = None
    ) -> FleetRow:
        """Read a row from a Twin of the service SDK, or from its JSON.

        Args:
            twin: The twin.
            update_id: Only this update counts; what the device did last month tells nothing of it.
            since: Only an update that began later than this (hub clock) counts.
        """
        root = twin if isinstance(twin, Mapping) else _roots(twin)
        timeline = _timeline(twin, update_id, since)
        tag = section(root.get("tags"), "rollout")
        wave, tagged = tag.get("wave"), tag.get("outcome")
        refused = timeline is None and _TAGGED.get(str(tagged)) == FAILED
        error = (timeline.error.code if timeline.error else None) if timeline else None
        firmware = section(root.get("properties"), "reported", contract.FIRMWARE)
        version = firmware.get(contract.CURRENT_VERSION)
        return cls(
            device_id=str(root.get("deviceId")),
            wave=wave if isinstance(wave, int) and not isinstance(wave, bool) else None,
            timeline=timeline,
            outcome=contract.ERROR if refused else timeline.outcome if timeline else None,
            error_code=_text(tag.get("code")) if refused else error,
            version=_text(version),
            connected=root.get("connectionState") == "Connected",
            tagged=_text(tagged),
        )

    @property
    def update_id(self) -> str | None:
        """The service's id of the device's last update, or None."""
        return self.timeline.update_id if self.timeline else None

    def belongs_to(self, update_id: str) -> bool:
        """Tell whether the device's last update is the one with this id."""
        return self.update_id == update_id

    @property
    def state(self) -> str:
        """One of `STATES`, or another stage that the device reported."""
        if self.outcome is not None:
            return _ENDS[self.outcome]
        if self.timeline is not None:
            return self.timeline.stages[-1].name
        return _TAGGED.get(self.tagged or "", NOT_BEGUN)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more is to come: it ended, well or not, or needed no update."""
        return self.outcome is not None or self.state == UP_TO_DATE

    @property
    def has_failed(self) -> bool:
        """Whether the update ended in an error or was rolled back."""
        return self.outcome in (contract.ERROR, contract.ROLLED_BACK)

    @property
    def is_running(self) -> bool:
        """Whether the update has begun and not ended."""
        return self.timeline is not None and self.outcome is None

    @property
    def heard_at(self) -> datetime | None:
        """When the hub last heard of the update (hub clock)."""
        return self.timeline.heard_at if self.timeline else None

    @cached_property
    def spans(self) -> tuple[StageSpan, ...]:
        """The stages on the one clock that all devices share: the hub's.

        The device's own times are moved by the difference of the clocks. Only the report with the
        shortest way tells that difference: others may have waited for a connection. A device-side
        twin tells nothing of the hub, so its times stay as they are.
        """
        if self.timeline is None:
            return ()
        offset = _clock_offset(self.timeline)
        return tuple(
            StageSpan(
                stage.name,
                stage.started_at + offset,
                # A clock that was set back meanwhile ends a stage before its start.
                stage.ended_at and max(stage.started_at, stage.ended_at) + offset,
            )
            for stage in self.timeline.stages
        )


def _clock_offset(timeline: UpdateTimeline) -> timedelta:
    pairs = [
        *((stage.started_at, stage.hub_started_at) for stage in timeline.stages),
        *((stage.ended_at, stage.hub_ended_at) for stage in timeline.stages),
    ]
    return min((hub - device for device, hub in pairs if device and hub), default=timedelta())


def _roots(twin: Any) -> dict[str, Any]:
    properties = getattr(twin, "properties", None)
    return {
        "deviceId": getattr(twin, "device_id", None),
        "tags": getattr(twin, "tags", None),
        "connectionState": getattr(twin, "connection_state", None),
        "properties": {"reported": getattr(properties, "reported", None)},
    }


def _timeline(twin: object, update_id: str | None, since: datetime | None) -> UpdateTimeline | None:
    try:
        timeline = UpdateTimeline.from_twin(twin)
    except FirmwareUpdateError:  # it tells of no update
        return None
    if update_id is not None and timeline.update_id != update_id:
        return None
    begun = timeline.stages[0].started_at + _clock_offset(timeline)
    return None if since is not None and begun < since else timeline


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def read_fleet(
    hub: Hub,
    condition: str = "*",
    *,
    update_id: str | None = None,
    since: datetime | None = None,
    registry: IoTHubRegistryManager | None = None,
    policy: RetryPolicy | None = None,
    on_retry: OnRetry | None = None,
) -> list[FleetRow]:
    """Read the devices that a condition holds for, with one query, in pages of 100.

    On Azure the result of a query lags behind the twins, as a rule by seconds.

    Args:
        hub: The hub.
        condition: What stands after WHERE in a query; ``*`` means all devices.
        update_id: Leave out what the devices tell of other updates than this one; their rows stay.
        since: Leave out updates that began earlier (hub clock); their rows stay.
        registry: The service client to use; for a thread of its own, see `Hub.new_registry`.
        policy: How often and how long to try for each page; None is the default policy.
        on_retry: Called with a `Retry` before each further try; None is the hub's log of retries.

    Returns:
        Rows in the order of wave and device id.

    Raises:
        QueryRefused: The hub does not understand the condition; the message tells the place.
        FirmwareUpdateError: The hub was not reached or refused the request.

    Example:
        >>> rows = read_fleet(hub, "tags.rollout.id = 'fw-2-0-0'")  # doctest: +SKIP
        >>> plot_fleet(rows)  # doctest: +SKIP
    """
    from fwupdate_helpers.queries import query_twins, twins_query

    client = hub.registry if registry is None else registry
    on_retry = hub.retries if on_retry is None else on_retry
    twins = query_twins(client, twins_query(condition), policy=policy, on_retry=on_retry)
    return fleet_rows(twins, update_id=update_id, since=since)


def fleet_rows(
    twins: Iterable[object], *, update_id: str | None = None, since: datetime | None = None
) -> list[FleetRow]:
    """Make rows of device twins, in the order of wave and device id.

    Args:
        twins: Twins of the service SDK, or their JSON.
        update_id: Leave out what the devices tell of other updates than this one.
        since: Leave out updates that began earlier (hub clock).
    """
    rows = [FleetRow.from_twin(twin, update_id=update_id, since=since) for twin in twins]
    return sorted(rows, key=lambda row: (*wave_key(row.wave), row.device_id))


def wave_key(wave: int | None) -> tuple[bool, int]:
    """Return what sorts waves: those without a number come last."""
    return wave is None, wave or 0


def by_wave(rows: Iterable[FleetRow]) -> dict[int | None, list[FleetRow]]:
    """Group rows by their wave, in the order of the waves."""
    groups: dict[int | None, list[FleetRow]] = {}
    for row in sorted(rows, key=lambda row: wave_key(row.wave)):
        groups.setdefault(row.wave, []).append(row)
    return groups


def count_states(rows: Iterable[FleetRow]) -> dict[str, int]:
    """Count the devices in each state: all `STATES`, also with 0, then stages of other names."""
    found = Counter(row.state for row in rows)
    return {**{state: found.pop(state, 0) for state in STATES}, **found}


def tell_states(rows: Sequence[FleetRow]) -> str:
    """Tell in words how far a fleet is, the ends first.

    >>> tell_states([FleetRow("a"), FleetRow("b", outcome="completed")])
    '1 completed, 1 not begun'
    """
    counts = count_states(rows)
    running = sum(row.is_running for row in rows)
    parts = [(counts[end], end) for end in (COMPLETED, UP_TO_DATE, FAILED, ROLLED_BACK)]
    parts += [(running, "running"), *((counts[word], word) for word in (NOT_REACHED, NOT_BEGUN))]
    return ", ".join(f"{number:,} {word}" for number, word in parts if number)


__all__ = [
    "COMPLETED",
    "FAILED",
    "NOT_BEGUN",
    "NOT_REACHED",
    "ROLLED_BACK",
    "STATES",
    "UP_TO_DATE",
    "FleetRow",
    "StageSpan",
    "by_wave",
    "count_states",
    "fleet_rows",
    "read_fleet",
    "tell_states",
    "wave_key",
]
