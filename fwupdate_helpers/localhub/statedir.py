"""The folder that holds everything the local hub keeps, readable by its user only.

Files:
    config.json   address, service port and policy keys, kept for good
    hub.json      pid and address of the hub that runs now
    hub.lock      held by the running hub as long as it lives
    start.lock    held by whoever starts or stops it
    hub.db        registry and twins
    ca.pem        the CA that clients trust
    server.pem    the hub's certificate and key
    images/       published firmware images; their folders' names are secret
    hub.log       what happened; start-error.* why a start failed
    leases/       one file for each open `Hub`
    runs/         timelines that notebook 05 compares (`fwupdate_helpers.kept_runs`); not the hub's
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import stat
import sys
from pathlib import Path
from typing import Any

from fwupdate_helpers.localhub.errors import LocalHubError
from fwupdate_helpers.localhub.replacing import replace_file

STATE_DIR_VARIABLE = "FWUPDATE_STATE_DIR"


class StateDir:
    """The state folder of one local hub."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.config_file = self.path / "config.json"
        self.running_file = self.path / "hub.json"
        self.failure_file = self.path / "start-error.json"
        self.hub_lock = self.path / "hub.lock"
        self.start_lock = self.path / "start.lock"
        self.database = self.path / "hub.db"
        self.ca_file = self.path / "ca.pem"
        self.server_pem = self.path / "server.pem"
        self.error_file = self.path / "start-error.txt"
        self.log_file = self.path / "hub.log"
        self.leases = self.path / "leases"
        self.images = self.path / "images"

    @classmethod
    def default(cls) -> StateDir:
        """Return the folder that ``FWUPDATE_STATE_DIR`` names, else one per user and computer."""
        if given := os.environ.get(STATE_DIR_VARIABLE):
            return cls(Path(given))
        from platformdirs import user_state_path

        return cls(user_state_path("fwupdate-localhub", appauthor=False) / _computer())

    @property
    def was_used(self) -> bool:
        """Whether a hub has run with this folder; False where this user may not look."""
        # Windows has no lock file between two runs; and Path.exists would raise where os.path's
        # answers False.
        files = (self.hub_lock, self.config_file, self.database)
        return any(os.path.exists(file) for file in files)  # noqa: PTH110

    def prepare(self) -> None:
        """Make the folder, private to this user (mode 0700).

        Raises:
            LocalHubError: It cannot be made or written, or belongs to somebody else.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.name == "posix":
                self._make_private()
            self.leases.mkdir(mode=0o700, exist_ok=True)
            probe = self.path / f".probe-{secrets.token_hex(4)}"
            probe.touch(mode=0o600)
            probe.unlink()
        except OSError as error:
            raise LocalHubError(
                f"The local hub cannot write its folder {self.path}: {error.strerror or error}.",
                f"Set the variable {STATE_DIR_VARIABLE} to a folder that you can write.",
            ) from error

    def _make_private(self) -> None:
        details = self.path.stat()
        if details.st_uid != os.getuid() or details.st_mode & stat.S_ISVTX:
            raise LocalHubError(
                f"The folder {self.path} belongs to another user, or all users share it.",
                f"Set the variable {STATE_DIR_VARIABLE} to a folder of your own.",
            )
        if stat.S_IMODE(details.st_mode) == 0o700:
            return
        if not self.was_used and any(self.path.iterdir()):
            raise LocalHubError(
                f"The folder {self.path} holds other files, and the local hub would have to close "
                "it to everybody but you.",
                "Give it an empty folder or one that is not there yet.",
            )
        self.path.chmod(0o700)

    def remove_state(self) -> None:
        """Delete all that the hub keeps: registry, twins, images, keys and certificates."""
        for file in (self.config_file, self.running_file, self.ca_file):
            file.unlink(missing_ok=True)
        self.server_pem.unlink(missing_ok=True)
        for pattern in ("hub.db*", "hub.log*", "start-error.*"):
            for file in self.path.glob(pattern):
                file.unlink(missing_ok=True)
        for folder in (self.leases, self.images):
            shutil.rmtree(folder, ignore_errors=True)


def _computer() -> str:
    """Return a name of this computer: homes are shared by many, and each has a hub of its own."""
    if sys.platform == "darwin":
        # A Mac is called something else in every network, and must find its hub again: it has only
        # one loopback address, so a second hub would find the port taken.
        return "this-mac"
    return re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname()) or "host"


def write_private(file: Path, content: bytes) -> None:
    """Write a file of mode 0600 in one step: readers see the old content or the new one."""
    temporary = file.with_name(f".{file.name}-{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        replace_file(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write a private JSON file in one step."""
    write_private(file, json.dumps(content, indent=1).encode())


def read_json(file: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file, or None when the file is missing or not such an object."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
