"""Devices, and rollouts over them, for tests with the real hub."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

from fwupdate_helpers.device import SimulatedDevice
from fwupdate_helpers.firmware import Board
from fwupdate_helpers.hub import Hub
from fwupdate_helpers.rollout import Rollout
from tests.images import PUBLISHER, Publisher
from tests.support import Json

SIMULATED = "secret-image-name"
"""An image for devices without a board: they walk through the stages and need no server."""


class Bench:
    """Some devices on a hub, and rollouts over them that look often and wait briefly.

    Attributes:
        hub: The hub.
        publisher: Builds and publishes images.
        devices: Those that were started, by their ids.
        rollout_id: The id of the next rollout, unless a test gives another one.
    """

    def __init__(self, hub: Hub, folder: Path) -> None:
        self.hub, self.publisher = hub, Publisher(hub, folder)
        self.devices: dict[str, SimulatedDevice] = {}
        self._name = f"r{uuid.uuid4().hex[:8]}"
        self.rollout_id = f"{self._name}-2-0-0"

    @cached_property
    def _factory_image(self) -> Path:
        return self.publisher.build("1.0.0")

    def ids(self, count: int) -> list[str]:
        """Create identities, and return their ids in order."""
        start = len(self._made)
        ids = [f"{self._name}-{start + number:03d}" for number in range(count)]
        with ThreadPoolExecutor(4) as pool:
            self._made.update(
                zip(ids, pool.map(self.hub.device_connection_string, ids), strict=True)
            )
        return ids

    @cached_property
    def _made(self) -> dict[str, str]:
        """The connection strings of the devices."""
        return {}

    def start(self, ids: list[str], *, boards: bool = False) -> list[str]:
        """Start devices, on request each with a board of its own."""

        def start_one(device_id: str) -> None:
            board = Board(self._factory_image, PUBLISHER.public_key()) if boards else None
            options = self.hub.device_options
            device = SimulatedDevice(
                self._made[device_id], stage_seconds=0.0, board=board, **options
            )
            self.devices[device_id] = device.start()

        if boards:
            assert self._factory_image.exists()  # made once, before the threads need it
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(start_one, ids))
        return ids

    def online(self, count: int, *, boards: bool = False) -> list[str]:
        """Return the ids of new devices that are online."""
        return self.start(self.ids(count), boards=boards)

    def rollout(self, devices: Any, image: str = SIMULATED, **options: Any) -> Rollout:
        """Return a rollout."""
        rollout_id = options.pop("rollout_id", self.rollout_id)
        hub = options.pop("hub", self.hub)
        options = {"look_seconds": 0.05, "lease_seconds": 1.0, **options}
        return Rollout(hub, rollout_id, image=image, devices=devices, **options)

    def load(self, rollout_id: str | None = None, **options: Any) -> Rollout:
        """Return the rollout as another kernel reads it from the hub."""
        options = {"look_seconds": 0.05, "lease_seconds": 1.0, **options}
        return Rollout.load(self.hub, rollout_id or self.rollout_id, **options)

    def versions(self, ids: list[str]) -> set[str]:
        """Return what the boards start with their next power-up."""
        boards = [self.devices[device_id].board for device_id in ids]
        return {board.power_up().version for board in boards if board is not None}

    def starts(self, device_id: str) -> int:
        """Return how many updates the device has begun."""
        return [event.kind for event in self.devices[device_id].events].count("starting")

    def tag(self, device_id: str) -> Json:
        """Return the tag of a device."""
        tags = self.hub.registry.get_twin(device_id).tags or {}
        return dict(tags.get("rollout") or {})

    def outcomes(self, ids: list[str]) -> list[Any]:
        """Return the outcomes in the tags."""
        return [self.tag(device_id).get("outcome") for device_id in ids]

    def twins(self, ids: list[str]) -> str:
        """Return all that the hub shows of devices, as text."""
        return json.dumps([self.hub.registry.get_twin(each).as_dict() for each in ids], default=str)

    def close(self) -> None:
        """Stop the devices."""
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(SimulatedDevice.stop, self.devices.values()))
