"""A bench for the matrix of faults: one device, one service, and what the two must not leave."""

from __future__ import annotations

import gc
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from fwupdate_helpers import contract
from fwupdate_helpers.device import LinkPolicy, SimulatedDevice
from fwupdate_helpers.errors import UpdateFailed
from fwupdate_helpers.faults import Fault, Faults
from fwupdate_helpers.firmware import Board, DownloadPolicy
from fwupdate_helpers.firmware.board import BOOT_FILE
from fwupdate_helpers.hub import Hub
from fwupdate_helpers.retries import RetryLog, RetryPolicy
from fwupdate_helpers.service import InvokedUpdate, invoke_firmware_update, wait_for_update
from fwupdate_helpers.watching import read_twin, reported_of
from tests.images import PUBLISHER, Publisher, build, hub_of
from tests.rest import wait_for
from tests.support import HubProcess

Json = dict[str, Any]

BOUND = 60.0
"""Seconds in which every update must have ended, however slow the machine is."""
SIZE = 64 * 1024
FACTORY = "1.0.0"
KINDS: dict[str, Json] = {
    "good": {"version": "2.0.0"},
    "next": {"version": "2.1.0"},
    "damaged": {"version": "2.2.0", "change": lambda image: image[:-1] + bytes([image[-1] ^ 1])},
    "fails its self-test": {"version": "3.0.0", "behaviour": "failsSelfTest"},
    "hangs": {"version": "3.1.0", "behaviour": "hangs"},
}
LINK: Json = {"answer_seconds": 0.3, "first_wait": 0.04, "longest_wait": 0.1}
DOWNLOAD: Json = {"attempts": 3, "first_wait": 0.01, "longest_wait": 0.02}


@dataclass(frozen=True)
class End:
    """How an update must end: the outcome, and the error's code where it is none to be glad of."""

    outcome: str = contract.COMPLETED
    code: str | None = None


COMPLETES = End()


class Images:
    """The images of the matrix, published once on a hub."""

    def __init__(self, hub: Hub, folder: Path) -> None:
        publisher = Publisher(hub, folder)
        self.factory = build(folder / "factory.img", FACTORY, size=SIZE)
        self.uris = {
            name: publisher.publish(**options, size=SIZE) for name, options in KINDS.items()
        }


class Bench:
    """A device on a board of its own, and a service that updates it.

    Attributes:
        device: None before `start`.
        retries: What the service tried again.
    """

    def __init__(self, process: HubProcess, images: Images, *, folder: Path, name: str) -> None:
        self.hub = hub_of(process)
        self.device_id = name
        self.board = Board(
            images.factory, PUBLISHER.public_key(), folder=folder, watchdog_seconds=0.2
        )
        self.retries = RetryLog()
        self.uris = images.uris
        self._folder = folder
        self._device: SimulatedDevice | None = None

    # -- the device -------------------------------------------------------------------------------

    def make(self, *, link: Json | None = None, download: Json | None = None) -> SimulatedDevice:
        """Make the device, with limits that suit a fast test, and those that are given."""
        self._device = SimulatedDevice(
            self.hub.device_connection_string(self.device_id),
            stage_seconds=0.0,
            board=self.board,
            policy=DownloadPolicy(**DOWNLOAD | (download or {})),
            link_policy=LinkPolicy(**LINK | (link or {})),
            **self.hub.device_options,
        )
        return self._device

    def start(self, **limits: Json | None) -> SimulatedDevice:
        """Make the device and start it."""
        return self.make(**limits).start()

    @property
    def device(self) -> SimulatedDevice:
        """The device that was made."""
        assert self._device is not None
        return self._device

    @property
    def faults(self) -> Faults:
        """The faults of the hub."""
        return self.hub.faults

    # -- the service ------------------------------------------------------------------------------

    def invoke(self, image: str = "good", **options: Any) -> InvokedUpdate:
        """Order the update to an image."""
        order = {"version": KINDS[image]["version"], "package_uri": self.uris[image]}
        options = {"on_retry": self.retries, **options}
        return invoke_firmware_update(self.hub.registry, self.device_id, **order, **options)

    def order(self, image: str = "good", **options: Any) -> str:
        """Order the update to an image; return the order's id."""
        update = self.invoke(image, **options)
        assert update.status == 200
        return update.update_id

    def end_of(self, update_id: str, policy: RetryPolicy | None = None) -> UpdateFailed | None:
        """Wait for an update's end; return the error that the service gets, if any."""
        try:
            wait_for_update(
                self.hub.registry,
                self.device_id,
                update_id,
                interval=0.02,
                timeout=BOUND,
                policy=policy,
                on_retry=self.retries,
            )
        except UpdateFailed as error:
            return error
        return None

    @property
    def twin(self) -> Json:
        """What the device has reported."""
        return self.read_twin()

    def read_twin(self, policy: RetryPolicy | None = None) -> Json:
        """Return what the device has reported; ask again as the policy says."""
        twin = read_twin(self.hub.registry, self.device_id, policy=policy, on_retry=self.retries)
        return {name: told for name, told in reported_of(twin).items() if name[0] != "$"}

    def wait_for_stage(self, stage: str) -> None:
        """Wait until the twin tells that a stage has begun."""

        def has_begun() -> bool:
            update = self.twin.get(contract.UPDATE) or {}
            return contract.STARTED_AT in (update.get(contract.STAGES_KEY, {}).get(stage) or {})

        wait_for(has_begun, seconds=BOUND)

    @property
    def running(self) -> str | None:
        """The version that the boot loader starts, as the flash chip tells."""
        control = json.loads(self.board.flash.read(BOOT_FILE))
        assert not control.get("trial")
        return self.board.slots()[control["active"]]

    # -- checks -----------------------------------------------------------------------------------

    def check_end(
        self,
        update_id: str,
        end: End = COMPLETES,
        *,
        image: str = "good",
        before: str = FACTORY,
        policy: RetryPolicy | None = None,
    ) -> Json:
        """Check that service, twin and board agree on the right end of an update.

        Args:
            before: The version that ran when it was ordered.

        Returns:
            The reported properties.
        """
        error = self.end_of(update_id, policy)
        twin = self.read_twin(policy)
        update = twin[contract.UPDATE]
        told = update.get(contract.ERROR_KEY, {}).get(contract.ERROR_CODE)
        assert (error and error.code, told) == (end.code, end.code), update
        assert update[contract.UPDATE_ID] == update_id
        assert (twin[contract.STATUS], update[contract.OUTCOME]) == (end.outcome, end.outcome)
        assert contract.open_stage(twin) is None
        runs = KINDS[image]["version"] if end == COMPLETES else before
        firmware = twin[contract.FIRMWARE]
        slots = firmware[contract.SLOTS]
        assert firmware[contract.CURRENT_VERSION] == runs == slots[slots[contract.ACTIVE_SLOT]]
        assert contract.PENDING_VERSION not in firmware
        assert self.running == runs
        record = self.board.read_record()
        assert record and twin == record["told"], "the hub has heard all, in the right order"
        return twin

    def check_acted(self, fault: Fault, times: int = 1) -> None:
        """Check that a fault has happened so often, and is over by itself."""
        fault.refresh()
        assert (fault.acted, fault.state) == (times, "used up"), fault

    def check_next(self) -> None:
        """Check that no fault is left, and that the device takes the next update."""
        left = [fault for fault in self.faults if fault.device_id in (None, self.device_id)]
        assert left == []
        assert repr(self.device.faults) == "DeviceFaults(none)"
        before = self.twin[contract.FIRMWARE][contract.CURRENT_VERSION]
        # A fault at the very end of the last update may have left the device about to come back.
        self.check_end(self.order("next", connect_timeout=20), image="next", before=before)
        self.device.stop()
        assert self.device.error is None
        assert self.board.power_up().version == KINDS["next"]["version"]
        self.board.cut_power()

    def close(self) -> None:
        """End the device and the service's connections; delete the identity."""
        for fault in self.faults:
            if fault.device_id == self.device_id:
                fault.clear()
        if self._device is not None:
            self._device.stop()
        self.hub.delete_device(self.device_id)
        self.hub.close()

    def check_flash(self) -> None:
        """Check that the flash chip holds nothing but what a board needs."""
        names = {file.name for file in self._folder.iterdir()}
        assert names <= {"boot.json", "update.json", "slot-a.img", "slot-b.img"}, names


@dataclass(frozen=True)
class Belongings:
    """What this process and the hub's hold of the system."""

    threads: Counter[str]
    counts: dict[str, int]
    files: frozenset[Path]

    @classmethod
    def now(cls, hub: HubProcess, temporary: Path) -> Belongings:
        """Look.

        Args:
            temporary: Where this process puts its temporary files.
        """
        gc.collect()  # the SDK's client lets two descriptors go only then
        threads = Counter(thread.name for thread in threading.enumerate())
        counts = {}
        for name, pid in (("here", None), ("hub", hub.process.pid)):
            process = psutil.Process(pid)
            counts[f"sockets {name}"] = len(process.net_connections("tcp"))
            if psutil.POSIX:
                counts[f"descriptors {name}"] = process.num_fds()
        folders = (temporary, hub.state_dir)
        files = frozenset(file for folder in folders for file in folder.rglob("*"))
        return cls(threads, counts, files)

    def more_than(self, before: Belongings) -> Json:
        """Return what there is more of than before."""
        found: Json = dict(self.threads - before.threads)
        found |= {name: count for name, count in self.counts.items() if count > before.counts[name]}
        if files := self.files - before.files:
            found["files"] = sorted(files)
        return found


@contextmanager
def nothing_left(hub: HubProcess, temporary: Path) -> Iterator[None]:
    """Check that this process and the hub hold nothing more at the end than at the beginning."""
    before = Belongings.now(hub, temporary)
    yield
    more: Json = {}

    def is_all_gone() -> bool:
        more.clear()
        more.update(Belongings.now(hub, temporary).more_than(before))
        return not more

    try:
        wait_for(is_all_gone, seconds=5)
    except AssertionError as error:
        raise AssertionError(f"left behind: {more}") from error
