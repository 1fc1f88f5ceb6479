"""Devices with boards, and rollouts over them, for tests with the real hub."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fwupdate_helpers.device import SimulatedDevice
from fwupdate_helpers.hub import Hub
from fwupdate_helpers.rollout import Rollout
from tests.images import Publisher
from tests.support import Json

LOOK_SECONDS = 0.05


class Bench:
    """Some devices with boards on a hub.

    Attributes:
        hub: The hub.
        publisher: Builds and publishes images.
        devices: Those that were started, by their ids.
    """

    def __init__(self, hub: Hub, publisher: Publisher) -> None:
        self.hub, self.publisher = hub, publisher
        self.devices: dict[str, SimulatedDevice] = {}
        self._name = f"r{uuid.uuid4().hex[:8]}"
        self.rollout_id = f"{self._name}-2-0-0"
        self.site = self._name

    def ids(self, count: int) -> list[str]:
        """Create identities, and return their ids in order."""
        ids = [f"{self._name}-{number:03d}" for number in range(count)]
        for device_id in ids:
            self.hub.device_connection_string(device_id)
        return ids

    def start(self, ids: list[str], **options: Any) -> list[str]:
        """Start devices, each with a board of its own."""

        def start_one(device_id: str) -> None:
            options_here = {"board": self.publisher.board(), "stage_seconds": 0.0, **options}
            string = self.hub.device_connection_string(device_id)
            device = SimulatedDevice(string, **options_here, **self.hub.device_options)
            self.devices[device_id] = device.start()

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(start_one, ids))
        return ids

    def online(self, count: int) -> list[str]:
        """Return the ids of new devices that are online."""
        return self.start(self.ids(count))

    def rollout(self, devices: Any, image: str, **options: Any) -> Rollout:
        """Return a rollout that looks often."""
        options = {"look_seconds": LOOK_SECONDS, "lease_seconds": 1.0, **options}
        rollout_id = options.pop("rollout_id", self.rollout_id)
        return Rollout(self.hub, rollout_id, image=image, devices=devices, **options)

    def load(self, **options: Any) -> Rollout:
        """Return the rollout as another kernel reads it from the hub."""
        options = {"look_seconds": LOOK_SECONDS, "lease_seconds": 1.0, **options}
        return Rollout.load(self.hub, self.rollout_id, **options)

    def versions(self, ids: list[str]) -> list[str]:
        """Return what the boards start with their next power-up."""
        boards = [self.devices[device_id].board for device_id in ids]
        return [board.power_up().version for board in boards if board is not None]

    def tag(self, device_id: str) -> Json:
        """Return the tag of a device."""
        tags = self.hub.registry.get_twin(device_id).tags or {}
        return dict(tags.get("rollout") or {})

    def close(self) -> None:
        """Stop the devices."""
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(SimulatedDevice.stop, self.devices.values()))
