"""A fleet's name, which one kernel of this computer has at a time, with its worker processes.

Workers outlive a kernel that was killed for a moment: their devices say goodbye. The next fleet of
the name waits for that, because two clients of one device id would take the connection from each
other.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from fwupdate_helpers.app_boards import devices_folder
from fwupdate_helpers.errors import FirmwareUpdateError, FleetInUse
from fwupdate_helpers.fleet.lines import END_SECONDS

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
        self._digest = digest
        # Not of one thread: a hub that is closed stops the fleet from whatever thread closes it.
        self._lock = _file_lock(devices_folder() / f"fleet-{digest}.lock")

    def lock_of_worker(self, number: int) -> Path:
        """Return the file that a worker of this fleet holds locked for as long as it runs."""
        return devices_folder() / f"fleet-{self._digest}-{number}.lock"

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
            self._wait_for_workers()
        except Timeout as error:
            self.give_up()
            raise FleetInUse(
                f"The fleet {self._name} runs in another kernel or program on this computer. Stop "
                "it there (or shut that kernel down), or give this fleet another name=."
            ) from error
        except OSError as error:
            raise FirmwareUpdateError(
                f"The folder {devices_folder()} cannot be used: {error.strerror}. Set "
                "FWUPDATE_DEVICE_DIR to another one."
            ) from error

    def _wait_for_workers(self) -> None:
        """Wait for workers of a kernel that is gone; Timeout when they do not end."""
        for file in devices_folder().glob(f"fleet-{self._digest}-*.lock"):
            with _file_lock(file).acquire(timeout=END_SECONDS):
                file.unlink(missing_ok=True)

    def give_up(self) -> None:
        """Give it up; harmless when it was not taken."""
        self._lock.release(force=True)


def _file_lock(file: Path) -> FileLock:
    return FileLock(file, mode=0o600, thread_local=False)
