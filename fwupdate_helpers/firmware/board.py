"""The board: a flash chip with two slots, a boot loader, and the publisher's key in its ROM.

One slot runs, the other is free for the next version. A new version is *armed*: the boot loader
starts it once, on trial. Only when it confirms that it works does the active pointer move for good;
otherwise the next start takes the old slot again. The pointer lies in one small file that is
replaced in one step, so there is no moment at which it leads nowhere.
"""

from __future__ import annotations

import errno
import json
import os
import random
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fwupdate_helpers.errors import FirmwareUpdateError, ImageRefused
from fwupdate_helpers.firmware.flash import MIB, Flash, PowerLost, write_in_one_step
from fwupdate_helpers.firmware.image import (
    DEMO_BOARD,
    VerifiedImage,
    read_manifest,
    verify_image,
)

Json = dict[str, Any]

SLOTS: Final = ("a", "b")
BOOT_FILE: Final = "boot.json"
RECORD_FILE: Final = "update.json"
DOWNLOAD_FILE: Final = "download.img"
PIECE: Final = MIB
"""Bytes that are copied at once."""
SYNC_BYTES: Final = 4 * MIB
"""Written bytes after which the cache is brought onto the chip."""
_RESERVED: Final = 64 * 1024
"""Bytes that no image may take: even a full chip must be able to tell that it is full."""


@dataclass(frozen=True)
class Boot:
    """What the boot loader started.

    Attributes:
        slot: ``a`` or ``b``.
        image: The verified image in it.
        trial_of: The id of the update whose image is on trial; None for a confirmed one.
        last_update: The id of the update that was confirmed or rolled back last, if any.
        rolled_back: Whether that update was rolled back.
        by_watchdog: Whether the watchdog caused this start, as the reset-cause register tells.
    """

    slot: str
    image: VerifiedImage
    trial_of: str | None = None
    last_update: str | None = None
    rolled_back: bool = False
    by_watchdog: bool = False

    @property
    def version(self) -> str:
        """The version that runs."""
        return self.image.manifest.version

    @property
    def hangs(self) -> bool:
        """Whether the firmware never comes up, until the watchdog resets the board."""
        return self.image.behaviour == "hangs"


class Board:
    """The hardware of a simulated device. It outlives the device's program, and loses no state.

    A blank chip is filled at the factory, here: the first image goes into slot a.

    Args:
        factory_image: The image that the board leaves the factory with.
        publisher_key: The key that must have signed every image.
        hardware: What kind of board it is.
        folder: The flash chip's content. Without it, a private temporary folder that ends with
            this object: the next `Board` is a new one from the factory.
        capacity: The flash chip's size in bytes.
        watchdog_seconds: How long firmware that hangs is waited for.
        on_call: See `Flash`.
        host_sync: See `Flash`.

    Raises:
        ImageRefused: The factory image does not fit the board.
        FirmwareUpdateError: The folder or the factory image cannot be used.

    Example:
        >>> board = Board(Path("1.0.0.img"), key.public_key())  # doctest: +SKIP
        >>> board.power_up().version  # doctest: +SKIP
        '1.0.0'
    """

    def __init__(
        self,
        factory_image: Path,
        publisher_key: Ed25519PublicKey,
        *,
        hardware: str = DEMO_BOARD,
        folder: Path | None = None,
        capacity: int = 1024 * MIB,
        watchdog_seconds: float = 5.0,
        on_call: Callable[[str, str], None] = lambda operation, name: None,
        host_sync: bool = True,
    ) -> None:
        self.hardware = hardware
        self.watchdog_seconds = watchdog_seconds
        self._publisher_key = publisher_key
        self._folder = _temporary_folder(self) if folder is None else folder
        self._capacity = capacity
        self._on_call, self._host_sync = on_call, host_sync
        self._switch, self._is_on = threading.RLock(), True
        self._by_watchdog = False
        self._taken = 0
        self.flash = self._chip()
        if self.flash.exists(BOOT_FILE):
            return
        try:
            self._fill(factory_image)
        except OSError as error:
            raise FirmwareUpdateError(
                f"The board's flash cannot be filled with {factory_image.name}: {error}"
            ) from error

    def __repr__(self) -> str:
        try:
            slots = ", ".join(f"{slot}: {version}" for slot, version in self.slots().items())
        except PowerLost:
            slots = "no power"
        return f"Board({self.hardware}, {slots})"

    def _chip(self) -> Flash:
        return Flash(
            self._folder,
            capacity=self._capacity - self._taken,
            on_call=self._on_call,
            host_sync=self._host_sync,
        )

    def _fill(self, factory_image: Path) -> None:
        slot_file = _slot_file("a")
        self.flash.create(slot_file)
        with factory_image.open("rb") as stream:
            while piece := stream.read(MIB):
                self.flash.append(slot_file, piece)
                self.flash.sync(slot_file)
        self.verify(slot_file)
        self.flash.sync_directory()
        self._write_boot({"active": "a"})  # last: a chip with this file is complete

    # -- power ------------------------------------------------------------------------------------

    def cut_power(self, survivors: random.Random | None = None) -> None:
        """Cut the power: what was not synced is gone, and the program cannot go on.

        Args:
            survivors: See `Flash.lose_power`.
        """
        with self._switch:
            self._is_on = self._by_watchdog = False
            self.flash.lose_power(survivors)

    def switch_on(self) -> None:
        """Give the board power again; `reset` starts it."""
        self._is_on = True

    def power_up(self) -> Boot:
        """Switch on and start: `switch_on` and `reset`."""
        self.switch_on()
        return self.reset()

    def reset(self) -> Boot:
        """Start anew: the boot loader chooses a slot, verifies it and starts it.

        Raises:
            FirmwareUpdateError: No slot holds an image that can be started.
            PowerLost: The board has no power.
        """
        with self._switch:
            if not self._is_on:
                raise PowerLost
            self.flash = self._chip()
            self.flash.drop_orphans()
            by_watchdog, self._by_watchdog = self._by_watchdog, False
        return replace(self._choose(), by_watchdog=by_watchdog)

    def watchdog_reset(self) -> None:
        """Stop the program as the watchdog does: nothing it does counts any more. Then `reset`."""
        with self._switch:
            self.flash.lose_power()
            self._by_watchdog = self._is_on

    def _choose(self) -> Boot:
        control = self._read_boot()
        trial = control.get("trial")
        if trial and trial["triesLeft"] > 0:
            # Counted down before the start: a start that goes wrong cannot do it afterwards.
            self._write_boot(control | {"trial": trial | {"triesLeft": trial["triesLeft"] - 1}})
            if image := self._startable(trial["slot"]):
                return Boot(trial["slot"], image, trial_of=trial["updateId"])
        if trial:
            control = {**control, "trial": None, "last": _outcome(trial, rolled_back=True)}
            self._write_boot(control)
        return self._start_confirmed(control)

    def _start_confirmed(self, control: Json) -> Boot:
        active, last = control["active"], control.get("last") or {}
        for slot in (active, other_slot(active)):
            if image := self._startable(slot):
                if slot != active:  # otherwise the next rollback would lead to the damaged one
                    self._write_boot(control | {"active": slot})
                rolled_back = bool(last.get("rolledBack"))
                return Boot(slot, image, None, last.get("updateId"), rolled_back)
        raise FirmwareUpdateError(
            f"The board does not start: neither slot in {self._folder.name} holds an image that "
            "can be verified. Make a new Board, with an empty folder."
        )

    def _startable(self, slot: str) -> VerifiedImage | None:
        try:
            return self.verify(_slot_file(slot))
        except ImageRefused:
            return None

    # -- the pointer to the active slot -----------------------------------------------------------

    def arm(self, slot: str, update_id: str) -> None:
        """Let the next start be a trial of the image in `slot`: the switch, in one step."""
        trial = {"slot": slot, "updateId": update_id, "triesLeft": 1}
        self._write_boot(self._read_boot() | {"trial": trial})

    def confirm(self) -> None:
        """Make the slot that is on trial the active one, for good."""
        trial = self._read_boot()["trial"]
        self._write_boot({"active": trial["slot"], "last": _outcome(trial, rolled_back=False)})

    def reject(self) -> None:
        """End the trial: the next start takes the active slot again."""
        control = self._read_boot()
        if trial := control.get("trial"):
            last = _outcome(trial, rolled_back=True)
            self._write_boot({"active": control["active"], "last": last})

    def _read_boot(self) -> Json:
        try:
            control: Json = json.loads(self.flash.read(BOOT_FILE))
        except ValueError as error:
            raise FirmwareUpdateError(
                f"The board does not start: {BOOT_FILE} in {self._folder.name} is damaged. Make a "
                "new Board, with an empty folder."
            ) from error
        return control

    def _write_boot(self, control: Json) -> None:
        write_in_one_step(self.flash, BOOT_FILE, json.dumps(control).encode())

    # -- images -----------------------------------------------------------------------------------

    def verify(self, name: str) -> VerifiedImage:
        """Check an image on the chip; raise `ImageRefused` with its code when it is not good."""

        def read(offset: int, length: int) -> bytes:
            return self.flash.read(name, offset, length)

        size = self.flash.size(name)
        return verify_image(read, size, publisher_key=self._publisher_key, hardware=self.hardware)

    def slots(self) -> dict[str, str | None]:
        """Return the version in each slot; None for one that is empty or not complete."""
        return {slot: self._version_in(_slot_file(slot)) for slot in SLOTS}

    def _version_in(self, name: str) -> str | None:
        size = self.flash.size(name)
        try:
            manifest, start = read_manifest(
                lambda offset, length: self.flash.read(name, offset, length),
                size,
                self._publisher_key,
            )
        except ImageRefused:
            return None
        return manifest.version if size == start + manifest.size else None

    def copy_download(self, slot: str) -> Iterator[None]:
        """Copy the downloaded image into `slot`, a piece with every step; synced at the end."""
        name, size = _slot_file(slot), self.flash.size(DOWNLOAD_FILE)
        # Removed first, so that old and new together never need more than the chip has.
        self.flash.remove(name)
        self.flash.sync_directory()
        self.check_space(size)
        self.flash.create(name)
        for offset in range(0, size, PIECE):
            self.flash.append(name, self.flash.read(DOWNLOAD_FILE, offset, PIECE))
            if (offset + PIECE) % SYNC_BYTES == 0:
                self.flash.sync(name)
            yield
        self.flash.sync(name)
        self.flash.sync_directory()

    # -- the update that is on its way ------------------------------------------------------------

    def read_record(self) -> Json | None:
        """Return the record of the last update; None when there was none."""
        text = self.flash.read(RECORD_FILE)
        record: Json | None = json.loads(text) if text else None
        return record

    def write_record(self, record: Json) -> None:
        """Keep the record of an update: it survives a power cut from here on."""
        write_in_one_step(self.flash, RECORD_FILE, json.dumps(record).encode())

    def check_space(self, size: int) -> None:
        """Raise `OSError` (``ENOSPC``) unless an image's bytes leave room for the small files."""
        if self.flash.free < size + _RESERVED:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill(self, *, leave: int = 0) -> None:
        """Fill the chip with other things, so that images may take `leave` more bytes at most.

        What the board needs for its small files stays free. `free_up` ends it.
        """
        with self._switch:
            self.free_up()
            self._taken = max(0, self.flash.free - _RESERVED - leave)
            self.flash.capacity = self._capacity - self._taken

    def free_up(self) -> None:
        """Remove the other things that `fill` put on the chip."""
        with self._switch:
            self._taken = 0
            self.flash.capacity = self._capacity

    def drop_download(self) -> None:
        """Free the space of a download that is no longer needed."""
        self.flash.remove(DOWNLOAD_FILE)
        self.flash.sync_directory()


def other_slot(slot: str) -> str:
    """Return the slot that is not this one."""
    return SLOTS[1 - SLOTS.index(slot)]


def _slot_file(slot: str) -> str:
    return f"slot-{slot}.img"


def _outcome(trial: Json, *, rolled_back: bool) -> Json:
    return {"updateId": trial["updateId"], "rolledBack": rolled_back}


def _temporary_folder(owner: object) -> Path:
    folder = tempfile.TemporaryDirectory(prefix="fwupdate-board-", ignore_cleanup_errors=True)
    weakref.finalize(owner, folder.cleanup)
    return Path(folder.name)
