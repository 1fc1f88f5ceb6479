"""Fleets for tests: twins as devices report them, with clocks, waves, failures and running updates.

All is made of the patches of `contract`, merged and stamped as the hub does it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from fwupdate_helpers import contract
from fwupdate_helpers.fleet_view import FleetRow, fleet_rows
from fwupdate_helpers.localhub.twins import merge
from tests.raw_mqtt import PUBACK, OpenDevice, publish
from tests.rest import call, twin_path
from tests.support import HubProcess

Json = dict[str, Any]
BEGIN = datetime(2026, 5, 4, 12, 30, tzinfo=timezone.utc)
UPDATE_ID = "fw-2-0-0"
FAILURES = {
    contract.CODE_DOWNLOAD_FAILED: contract.DOWNLOADING,
    contract.CODE_HASH_MISMATCH: contract.VERIFYING,
    contract.CODE_SELF_TEST: contract.REBOOTING,
}
"""Causes and the stage in which they end an update; a failed self-test ends in a rollback."""


def stamp(patch: Json, when: datetime) -> Json:
    """What the hub notes in `$metadata` for a patch; seven digits, as it writes them."""
    text = when.strftime("%Y-%m-%dT%H:%M:%S.%f") + "0Z"
    nodes = {k: stamp(v if isinstance(v, dict) else {}, when) for k, v in patch.items()}
    return {"$lastUpdated": text, **nodes}


class Reporter:
    """The reported properties of one device, as the hub keeps them.

    Args:
        skew: How much later the device's clock is than the hub's, in seconds.
        way: How long a report takes to the hub, in seconds.
    """

    def __init__(self, *, skew: float = 0.0, way: float = 0.05) -> None:
        self._skew, self._way = timedelta(seconds=skew), timedelta(seconds=way)
        self._reported: Json = {}
        self._metadata: Json = {}

    def at(self, seconds: float) -> datetime:
        """The device's clock, so many seconds (hub clock) after the fleet's begin."""
        return BEGIN + timedelta(seconds=seconds) + self._skew

    def report(self, seconds: float, patch: Json, *, way: float | None = None) -> None:
        """Send a patch."""
        heard = BEGIN + timedelta(seconds=seconds) + self._way
        if way is not None:
            heard += timedelta(seconds=way) - self._way
        self._reported = merge(self._reported, patch)
        self._metadata = merge(self._metadata, stamp(patch, heard))

    @property
    def reported(self) -> Json:
        return {**self._reported, "$metadata": self._metadata, "$version": 7}

    def update(
        self,
        begin: float,
        seconds: dict[str, float],
        *,
        update_id: str = UPDATE_ID,
        failure: str | None = None,
        until: float = float("inf"),
    ) -> None:
        """Report an update: its stages with their seconds, until a failure or a point in time."""
        self.report(begin, contract.opening_patch(update_id, self.at(begin), "2.0.0"))
        names, now = list(seconds), begin
        for name, following in zip(names, [*names[1:], None], strict=True):
            now += seconds[name]
            if now > until:
                return
            if failure and FAILURES[failure] == name:
                status = contract.ERROR
                if failure == contract.CODE_SELF_TEST:
                    status = contract.ROLLED_BACK
                words = f"The test wants {failure}."
                patch = contract.error_patch(self.at(now), name, failure, words, status)
                return self.report(now, patch)
            if following:
                self.report(now, contract.stage_patch(self.at(now), name, following))
        self.report(now, contract.completed_patch(self.at(now), names[-1]))
        self.report(now, contract.firmware_patch("2.0.0", None, "b", {"a": "1.0.0", "b": "2.0.0"}))


def twin(
    device_id: str, reported: Json, *, wave: int | None = None, connected: bool = True
) -> Json:
    """A device twin as the REST interface tells it."""
    tags = {} if wave is None else {"rollout": {"id": UPDATE_ID, "wave": wave}}
    return {
        "deviceId": device_id,
        "connectionState": "Connected" if connected else "Disconnected",
        "tags": tags,
        "properties": {"desired": {}, "reported": reported},
    }


def stage_seconds(chance: random.Random, scale: float = 1.0) -> dict[str, float]:
    """Draw how long the stages take: downloads differ most, as links do."""
    return {
        contract.WAITING: scale * chance.uniform(0.2, 0.6),
        contract.DOWNLOADING: scale * chance.lognormvariate(1.6, 0.5),
        contract.VERIFYING: scale * chance.uniform(0.4, 0.8),
        contract.APPLYING: scale * chance.uniform(1.5, 3.0),
        contract.REBOOTING: scale * chance.uniform(1.0, 1.6),
    }


@dataclass(frozen=True)
class FleetPlan:
    """What a fleet of a test is like.

    Attributes:
        size: Devices.
        waves: The share of the devices in each wave; None leaves the devices without a wave.
        pause: Seconds between the end of a wave and the next one.
        failing: Share of the devices whose update fails.
        idle: Share of the devices that do not begin.
        skew: Devices' clocks differ from the hub's by up to so many seconds.
        until: Seconds after the begin at which the picture is taken.
        scale: Multiplies the stages' durations.
        seed: Of everything that is drawn.
    """

    size: int
    waves: tuple[float, ...] | None = (0.01, 0.09, 0.4, 0.5)
    pause: float = 5.0
    failing: float = 0.02
    idle: float = 0.01
    skew: float = 0.0
    until: float = float("inf")
    scale: float = 1.0
    seed: int = 7


def fleet_twins(plan: FleetPlan) -> list[Json]:
    """Return the twins of a fleet that is, or has been, rolled out in waves."""
    chance, twins, begin = random.Random(plan.seed), [], 0.0
    for wave, number in enumerate(_sizes(plan), 1):
        latest = begin
        for _ in range(number):
            reporter = Reporter(skew=chance.uniform(-plan.skew, plan.skew))
            reporter.report(-60, contract.stand_by_patch(reporter.at(-60)))
            start = begin + chance.uniform(0, min(10.0, 0.02 * number))
            seconds = stage_seconds(chance, plan.scale)
            failure = chance.choice(list(FAILURES)) if chance.random() < plan.failing else None
            if chance.random() >= plan.idle and start <= plan.until:
                reporter.update(start, seconds, failure=failure, until=plan.until)
                latest = max(latest, start + sum(seconds.values()))
            name = f"jovyan-fleet-{len(twins):04d}"
            shown = None if plan.waves is None else wave
            twins.append(twin(name, reporter.reported, wave=shown))
        begin = latest + plan.pause
    return twins


def _sizes(plan: FleetPlan) -> list[int]:
    sizes = [max(1, round(share * plan.size)) for share in (plan.waves or (1.0,))[:-1]]
    return [*sizes, plan.size - sum(sizes)]


def fleet(size: int, **changes: Any) -> list[FleetRow]:
    """Return the rows of a fleet; `changes` are those of a `FleetPlan`."""
    return fleet_rows(fleet_twins(FleetPlan(size, **changes)))


class RawFleet:
    """Devices that report to a real hub in bare MQTT, one report after the other.

    Args:
        hub: The hub.
        open_device: What opens their connections.
        name: The beginning of their ids; also the tag ``fleet``.
        size: How many there are.
        waves: The wave of each device, by its number; None gives no such tag.
    """

    def __init__(
        self,
        hub: HubProcess,
        open_device: OpenDevice,
        name: str,
        size: int,
        waves: Callable[[int], int] | None = None,
    ) -> None:
        self.condition = f"tags.fleet = '{name}'"
        self.device_ids = [f"{name}-{number:04d}" for number in range(size)]
        self._devices = [open_device(device_id).connected() for device_id in self.device_ids]
        for number, device_id in enumerate(self.device_ids):
            tags: Json = {"fleet": name}
            if waves is not None:
                tags["rollout"] = {"id": UPDATE_ID, "wave": waves(number)}
            assert call(hub, "PATCH", twin_path(device_id), {"tags": tags}).status == 200

    def report(self, number: int, patch: Json) -> None:
        """Have a device report something; return when the hub has it."""
        device, topic = self._devices[number], "$iothub/twin/PATCH/properties/reported/?$rid=1"
        device.send(publish(topic, json.dumps(patch).encode(), packet_id=device.next_id()))
        while device.receive().kind != PUBACK:
            pass

    def begin(self, number: int, update_id: str = UPDATE_ID) -> None:
        """Have a device begin an update and its download."""
        now = datetime.now(timezone.utc)
        self.report(number, contract.opening_patch(update_id, now, "2.0.0"))
        self.report(number, contract.stage_patch(now, contract.WAITING, contract.DOWNLOADING))

    def end(self, number: int, failure: str | None = None) -> None:
        """Have a device end its update while it downloads."""
        now = datetime.now(timezone.utc)
        patch = contract.completed_patch(now, contract.DOWNLOADING)
        if failure is not None:
            patch = contract.error_patch(now, contract.DOWNLOADING, failure, "The test wants it.")
        self.report(number, patch)
