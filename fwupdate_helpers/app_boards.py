"""The board behind ``fwupdate-device``: a folder that outlives the program, as a device does."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_state_path

from fwupdate_helpers.errors import FirmwareUpdateError
from fwupdate_helpers.firmware.board import BOOT_FILE, Board
from fwupdate_helpers.firmware.image import DEMO_BOARD, build_image
from fwupdate_helpers.firmware.keys import demo_signing_key, read_public_key

DEVICES_VARIABLE = "FWUPDATE_DEVICE_DIR"
FACTORY_VERSION = "1.0.0"


def devices_folder() -> Path:
    """Return where boards and the signing key are kept: `DEVICES_VARIABLE`, else one per user."""
    if given := os.environ.get(DEVICES_VARIABLE):
        return Path(given).expanduser().absolute()
    return user_state_path("fwupdate-devices", appauthor=False)


def board_folder(host_name: str, device_id: str) -> Path:
    """Return a device's own folder; no id leads out of `devices_folder`."""
    name = re.sub(r"[^A-Za-z0-9-]+", "-", f"{device_id}-{host_name}")[:80]
    digest = hashlib.sha256(f"{host_name}\n{device_id}".encode()).hexdigest()[:8]
    return devices_folder() / f"board-{name}-{digest}"


@contextmanager
def open_board(folder: Path, options: argparse.Namespace) -> Iterator[Board]:
    """Open the board in `folder`, for this program alone; a new one leaves the factory now.

    Args:
        folder: The flash chip's content.
        options: ``hardware``, ``publisher_key`` and ``factory_image`` of the command line.

    Raises:
        FirmwareUpdateError: Another program uses the board, or it cannot be made.
    """
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = FileLock(f"{folder}.lock", timeout=0, mode=0o600)
        lock.acquire()
    except Timeout as error:
        raise FirmwareUpdateError(
            f"Another program runs the board {folder.name}. Stop it, or give another --board."
        ) from error
    except OSError as error:
        raise FirmwareUpdateError(
            f"The board's folder {folder} cannot be used: {error.strerror}. Give another --board."
        ) from error
    try:
        yield _board(folder, options)
    finally:
        lock.release()


def _board(folder: Path, options: argparse.Namespace) -> Board:
    hardware = options.hardware or DEMO_BOARD
    if options.publisher_key is not None:
        key = read_public_key(options.publisher_key)
        if options.factory_image is None and not (folder / BOOT_FILE).exists():
            raise FirmwareUpdateError(
                "A new board with a --publisher-key of yours needs a --factory-image, too: an "
                "image that is signed with that key."
            )
        return Board(options.factory_image or Path(), key, hardware=hardware, folder=folder)
    signing_key = demo_signing_key(devices_folder())
    with tempfile.TemporaryDirectory(prefix="fwupdate-factory-") as factory:
        image = options.factory_image or Path(factory) / f"{FACTORY_VERSION}.img"
        if options.factory_image is None and not (folder / BOOT_FILE).exists():
            build_image(
                image, version=FACTORY_VERSION, signing_key=signing_key, hardware=(hardware,)
            )
        return Board(image, signing_key.public_key(), hardware=hardware, folder=folder)
