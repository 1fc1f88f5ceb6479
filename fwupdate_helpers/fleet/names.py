"""A fleet's name, which one kernel of this computer has at a time."""

from __future__ import annotations

import hashlib
from typing import Final

from filelock import FileLock, Timeout

from fwupdate_helpers.app_boards import devices_folder
from fwupdate_helpers.errors import FirmwareUpdateError, FleetInUse

_HELD_SECONDS: Final = 1.0


class FleetName:
    """The right to run a fleet of a name; it ends with the process, however that ends.

    Args:
        host_name: The hub.
        name: The fleet's name on it.
    """

    def __init__(self, host_name: str, name: str) -> None:
        digest = hashlib.sha256(f"{host_name}\n{name}".encode()).hexdigest()[:16]
        self._name = name
        file = devices_folder() / f"fleet-{digest}.lock"
        # Not of one thread: a hub that is closed stops the fleet from whatever thread closes it.
        self._lock = FileLock(file, mode=0o600, thread_local=False)

    def take(self) -> None:
        """Take it; harmless when it was taken by this object.

        Raises:
            FleetInUse: Another kernel or program has it.
            FirmwareUpdateError: The folder of the lock cannot be used.
        """
        if self._lock.is_locked:
            return
        try:
            devices_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock.acquire(timeout=_HELD_SECONDS)
        except Timeout as error:
            raise FleetInUse(
                f"The fleet {self._name} runs in another kernel or program on this computer. Stop "
                "it there (or shut that kernel down), or give this fleet another name=."
            ) from error
        except OSError as error:
            raise FirmwareUpdateError(
                f"The folder {devices_folder()} cannot be used: {error.strerror}. Set "
                "FWUPDATE_DEVICE_DIR to another one."
            ) from error

    def give_up(self) -> None:
        """Give it up; harmless when it was not taken."""
        self._lock.release(force=True)
