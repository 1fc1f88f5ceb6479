"""The fleet as a notebook uses it: make it, switch devices off and on, stop it, delete it."""

from __future__ import annotations

import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fwupdate_helpers.app_boards import devices_folder
from fwupdate_helpers.errors import FleetNotStarted
from fwupdate_helpers.firmware.image import DEMO_BOARD, Behaviour, Manifest, build_image
from fwupdate_helpers.firmware.keys import demo_signing_key
from fwupdate_helpers.fleet.bar import progress_bar
from fwupdate_helpers.fleet.crew import Worker, end_all
from fwupdate_helpers.fleet.factory import factory_images
from fwupdate_helpers.fleet.identities import create_identities, find_identities
from fwupdate_helpers.fleet.lines import (
    END_SECONDS,
    FAILED,
    OFFLINE,
    ONLINE,
    SWITCHED_OFF,
    Member,
    Task,
)
from fwupdate_helpers.fleet.names import FleetName
from fwupdate_helpers.fleet.profiles import Choices, DeviceProfile, Mix, frozen_tags
from fwupdate_helpers.fleet.states import FleetStates
from fwupdate_helpers.hub_pace import check_fleet_size
from fwupdate_helpers.identities import delete_identities

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from fwupdate_helpers.hub import Hub

MAX_PER_WORKER: Final = 200
"""paho waits with ``select()``, which takes no descriptor from 1024 on. A device has three while it
is connected, and five at the worst moment: with a download, or with two clients in a reboot."""
MODELS: Final = {DEMO_BOARD: 0.7, f"{DEMO_BOARD}-b": 0.3}
VERSIONS: Final = {"1.0.0": 0.8, "1.1.0": 0.2}
SITES: Final = ("berlin", "oslo", "porto")
SPEEDS: Final = (500_000, 2_000_000, 8_000_000)
"""Bytes per second: 4, 16 and 64 Mbit/s."""
_SILENCE: Final = 180.0
"""Seconds without any news from the devices after which a start is given up."""

_running: Final[weakref.WeakValueDictionary[tuple[str, str], Fleet]] = weakref.WeakValueDictionary()


class Fleet:
    """Many simulated devices with identities of their own, run by worker processes.

    Each device is what a `SimulatedDevice` is: a real client of azure-iot-device, a board with two
    slots, faults of its hardware. The boards lie in temporary folders: after `stop`, the next
    `start` begins with boards from the factory.

    Args:
        hub: The hub; closing it stops the fleet.
        size: How many devices.
        name: Of the fleet; a second one needs another name. Device ids are made from it.
        seed: Decides who the devices are. The same seed gives the same devices.
        tags: Further tags of the device twins, or a function that returns those of a profile.
        stage_seconds: How long each stage of an update takes at least.
        models: Kinds of boards to choose from; see `profiles.Choices`. An image must be for all of
            them that it is sent to.
        versions: Versions that run at first.
        sites: Places, for the tag ``site``.
        speeds: Bandwidths in bytes per second; None for as fast as it goes.
        self_test_failures: The share of devices whose board passes no new image's self-test.
        hangs: The share of devices that hang as they apply their next image.
        power_losses: The share of devices that lose their power in their next update.
        outage_seconds: How long the power stays away then.
        watchdog_seconds: How long a board's watchdog waits for firmware that hangs.
        signing_key: The publisher's key; None is the user's own, as of ``fwupdate-device``.
        per_worker: How many devices a worker process runs at most; 200 is the most it can.

    Attributes:
        name: The fleet's name on the hub: the tag ``fleet`` of its device twins.
        profiles: The devices, an unchangeable sequence of `DeviceProfile`.
        models: The kinds of boards that there may be.

    Raises:
        ValueError: A number or a choice makes no sense.
        FirmwareUpdateError: The hub is of the free tier, and there are more than 20 devices.

    Example:
        >>> with Fleet(hub, 100, seed=7, self_test_failures=0.1) as fleet:  # doctest: +SKIP
        ...     invoke_firmware_update(hub.registry, fleet.device_ids[0])
        >>> fleet.delete()  # doctest: +SKIP
    """

    def __init__(
        self,
        hub: Hub,
        size: int,
        *,
        name: str = "fleet",
        seed: int = 0,
        tags: Mapping[str, Any] | Callable[[DeviceProfile], Mapping[str, Any]] | None = None,
        stage_seconds: float = 0.2,
        models: Choices[str] = MODELS,
        versions: Choices[str] = VERSIONS,
        sites: Choices[str] = SITES,
        speeds: Choices[float | None] = SPEEDS,
        self_test_failures: float = 0.0,
        hangs: float = 0.0,
        power_losses: float = 0.0,
        outage_seconds: float = 2.0,
        watchdog_seconds: float = 5.0,
        signing_key: Ed25519PrivateKey | None = None,
        per_worker: int = MAX_PER_WORKER,
    ) -> None:
        if size < 1 or not 1 <= per_worker <= MAX_PER_WORKER:
            raise ValueError(f"A fleet has 1 device or more, a worker 1 to {MAX_PER_WORKER}.")
        check_fleet_size(hub, size)
        mix = Mix(models, versions, sites, speeds, self_test_failures, hangs, power_losses)
        self.name = hub.device_id(name)[:120].rstrip("-")
        self.models = tuple(models)
        self.profiles = tuple(_draw(mix, self.name, index, seed, tags) for index in range(size))
        self._hub, self._versions, self._per_worker = hub, tuple(versions), per_worker
        self._seconds = (stage_seconds, outage_seconds, watchdog_seconds)
        self._given_key = signing_key
        self._index_of = {profile.device_id: profile.index for profile in self.profiles}
        self._states = FleetStates(size)
        self._workers: list[Worker] = []
        self._own_name = FleetName(hub.host_name, self.name)
        self._forget: Callable[[], None] = lambda: None
        self._busy = threading.RLock()
        weakref.finalize(self, _let_go, self._workers)

    @property
    def device_ids(self) -> list[str]:
        """The ids of all devices, in their order."""
        return list(self._index_of)

    @property
    def signing_key(self) -> Ed25519PrivateKey:
        """The publisher's key: the boards run images that are signed with it."""
        if self._given_key is None:
            self._given_key = demo_signing_key(devices_folder())
        return self._given_key

    @property
    def is_running(self) -> bool:
        """Whether there are worker processes."""
        return bool(self._workers)

    def states(self) -> dict[str, str]:
        """Return, for each device id: ``starting``, ``online``, ``offline`` or ``failed``."""
        return dict(zip(self._index_of, map(_public, self._states.all()), strict=True))

    def failures(self) -> dict[str, str]:
        """Return, for each device that has ended by itself, why."""
        reasons = self._states.reasons()
        return {self.profiles[index].device_id: why for index, why in sorted(reasons.items())}

    # -- start and stop ---------------------------------------------------------------------------

    def start(self) -> Fleet:
        """Create the identities and connect all devices; harmless when the fleet runs already.

        A fleet of this name that runs in this process is stopped first, and this one where a worker
        of it has died. An interrupt stops what has started so far.

        Raises:
            FleetInUse: Another kernel runs a fleet of this name.
            FleetNotStarted: Devices did not connect; the fleet is stopped again.
            FirmwareUpdateError: The hub does not answer, or refuses the identities.
        """
        with self._busy:
            if any(worker.is_dead for worker in self._workers):
                self.stop()
            if self.is_running:
                return self
            try:
                self._take_name()
                self._begin()
                self.switch_on(self.device_ids)
            except BaseException:
                self.stop()
                raise
        return self

    def _take_name(self) -> None:
        key = (self._hub.host_name, self.name)
        older = _running.get(key)
        if older is not None and older is not self:
            older.stop()
        self._own_name.take()
        _running[key] = self
        self._forget = self._hub.call_on_close(self.stop)

    def _begin(self) -> None:
        for indices in _shares(len(self.profiles), self._per_worker):
            self._workers.append(Worker(indices, self._states))
            self._workers[-1].begin()
        images = factory_images(self._versions, self.models, self.signing_key)
        with progress_bar("Creating device identities", len(self.profiles)) as tick:
            keys = create_identities(self._hub, self.profiles, tick)
        # A larger fleet of that name that was here before: nobody runs its other devices.
        left = set(find_identities(self._hub, self.name)) - self._index_of.keys()
        delete_identities(self._hub, sorted(left))
        stage_seconds, outage_seconds, watchdog_seconds = self._seconds
        common = Task(
            host=self._hub.device_host,
            device_options=self._hub.device_options,
            stage_seconds=stage_seconds,
            outage_seconds=outage_seconds,
            watchdog_seconds=watchdog_seconds,
            publisher_key=self.signing_key.public_key().public_bytes_raw(),
            images=images,
            lock="",
            members=(),
        )
        for number, worker in enumerate(self._workers):
            mine = (self.profiles[index] for index in sorted(worker.indices))
            members = tuple(_member(one, keys) for one in mine)
            lock = str(self._own_name.lock_of_worker(number))
            worker.give(replace(common, lock=lock, members=members))

    def stop(self) -> None:
        """Switch all devices off and end the workers; harmless when none runs."""
        with self._busy:
            self._forget()
            indices = range(len(self.profiles))
            with progress_bar("Stopping devices", len(indices) if self._workers else 0) as tick:
                end_all(
                    self._workers,
                    END_SECONDS + 5,
                    lambda: tick(self._states.counts(indices)[SWITCHED_OFF]),
                )
            self._workers.clear()
            for index in indices:
                self._states.put(index, SWITCHED_OFF)
            self._own_name.give_up()

    def delete(self) -> None:
        """Stop, and delete the identities of this fleet from the hub, and no others.

        Those that an earlier, larger fleet of this name has left go, too.

        Raises:
            FleetInUse: Another kernel runs a fleet of this name.
            FirmwareUpdateError: The hub does not answer, or refuses.
        """
        with self._busy:
            self.stop()
            self._take_name()
            try:
                mine = {*self.device_ids, *find_identities(self._hub, self.name)}
                with progress_bar("Deleting device identities", len(mine)) as tick:
                    delete_identities(self._hub, sorted(mine), tick)
            finally:
                self.stop()

    def __enter__(self) -> Fleet:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    # -- some devices -----------------------------------------------------------------------------

    def switch_off(self, device_ids: str | Iterable[str]) -> None:
        """Switch devices off, with a farewell to the hub; returns when they are.

        Raises:
            ValueError: A device is none of this fleet.
            FleetNotStarted: They do not come to their end.
        """
        indices = self._indices(device_ids)
        for worker in self._workers:
            worker.switch_off(indices)
        self._wait(indices, "Switching devices off", (SWITCHED_OFF, FAILED))

    def switch_on(self, device_ids: str | Iterable[str]) -> None:
        """Switch devices on again; returns when they are connected. They keep their boards.

        Raises:
            ValueError: A device is none of this fleet.
            FleetNotStarted: Devices did not connect.
        """
        indices = self._indices(device_ids)
        for worker in self._workers:
            worker.switch_on(indices)
        self._wait(indices, "Connecting devices", (ONLINE, FAILED))
        reasons = self._states.reasons()
        self._raise_failures({index: reasons[index] for index in indices if index in reasons})

    def _wait(self, indices: list[int], what: str, goal: Sequence[str]) -> None:
        with progress_bar(what, len(indices)) as tick:
            done = self._states.wait(indices, goal, silence=_SILENCE, on_tick=tick)
        if not done:
            states = self._states.all()
            late = {index: "no answer in time" for index in indices if states[index] not in goal}
            self._raise_failures(late)

    def _indices(self, device_ids: str | Iterable[str]) -> list[int]:
        wanted = [device_ids] if isinstance(device_ids, str) else list(device_ids)
        unknown = [device_id for device_id in wanted if device_id not in self._index_of]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no device of the fleet {self.name}.")
        if not self.is_running:
            raise FleetNotStarted(f"The fleet {self.name} does not run. Start it.", reasons={})
        return [self._index_of[device_id] for device_id in dict.fromkeys(wanted)]

    def _raise_failures(self, reasons: Mapping[int, str]) -> None:
        if reasons:
            named = {self.profiles[index].device_id: why for index, why in reasons.items()}
            first, why = next(iter(named.items()))
            raise FleetNotStarted(
                f"{len(named)} of {len(self.profiles)} devices failed. The first is {first}: {why}",
                reasons=named,
            )

    # -- images and looks -------------------------------------------------------------------------

    def build_image(
        self,
        file: str | os.PathLike[str],
        version: str,
        *,
        size: int = 256 * 1024,
        behaviour: Behaviour = "works",
    ) -> Manifest:
        """Write an image for all boards of this fleet, signed as they want it.

        Args:
            file: Where the image goes.
            version: The firmware's version.
            size: Bytes of firmware that are made up.
            behaviour: What a board does when it starts the firmware.
        """
        return build_image(
            Path(file),
            version=version,
            signing_key=self.signing_key,
            size=size,
            hardware=self.models,
            behaviour=behaviour,
        )

    def _counts(self) -> Counter[str]:
        return Counter(self.states().values())

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {state}" for state, count in sorted(self._counts().items()))
        return f"Fleet({self.name!r}, {len(self.profiles)} devices: {counts})"

    def _repr_html_(self) -> str:
        rows = {
            "Fleet": self.name,
            "Devices": len(self.profiles),
            **{f"… {state}": count for state, count in sorted(self._counts().items())},
            "Worker processes": len(self._workers),
        }
        cells = "".join(
            f'<tr><th scope="row" style="text-align:left">{escape(name)}</th>'
            f'<td style="text-align:left">{escape(str(value))}</td></tr>'
            for name, value in rows.items()
        )
        return f"<table>{cells}</table>"


def _draw(mix: Mix, fleet: str, index: int, seed: int, tags: Any) -> DeviceProfile:
    profile = mix.draw(index, f"{fleet}-{index:04d}", seed)
    further = tags(profile) if callable(tags) else tags or {}
    own = {"fleet": fleet, "model": profile.model}
    return replace(profile, tags=frozen_tags({"site": profile.site, **further, **own}))


def _member(profile: DeviceProfile, keys: Mapping[str, str]) -> Member:
    return Member(
        index=profile.index,
        device_id=profile.device_id,
        key=str.__str__(keys[profile.device_id]),
        model=profile.model,
        version=profile.version,
        bytes_per_second=profile.bytes_per_second,
        fails_self_test=profile.fails_self_test,
        hangs=profile.hangs,
        loses_power_at=profile.loses_power_at,
    )


def _shares(size: int, most: int) -> list[range]:
    """Share devices out to as few workers as can be, evenly."""
    workers = -(-size // most)
    bounds = [size * number // workers for number in range(workers + 1)]
    return [range(first, last) for first, last in pairwise(bounds)]


def _public(state: str) -> str:
    return OFFLINE if state == SWITCHED_OFF else state


def _let_go(workers: list[Worker]) -> None:
    for worker in workers:
        worker.end()
