"""The board behind ``fwupdate-device``: a folder that outlives the program, as a device does."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from filelock import FileLock, Timeout
from platformdirs import user_state_path

from fwupdate_helpers.errors import FirmwareUpdateError, ImageRefused
from fwupdate_helpers.firmware.board import BOOT_FILE, DOWNLOAD_FILE, Board
from fwupdate_helpers.firmware.image import DEMO_BOARD, build_image, read_manifest
from fwupdate_helpers.firmware.keys import demo_signing_key, read_public_key

DEVICES_VARIABLE: Final = "FWUPDATE_DEVICE_DIR"
FACTORY_VERSION: Final = "1.0.0"
ROM_FILE: Final = "rom.json"
"""What no update changes: the hardware's name, and the publisher's key."""
_OURS: Final = re.compile(
    r"(boot|update|rom)\.(json|new)|slot-[ab]\.img|download\.img|\.new-[0-9a-f]{16}"
)


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


@dataclass(frozen=True)
class OpenBoard:
    """A board that this program alone uses.

    Attributes:
        board: The board.
        publisher_key: The key in its ROM.
    """

    board: Board
    publisher_key: Ed25519PublicKey

    def progress(self) -> str | None:
        """Tell how much of an image lies in the download file; None when there is none."""
        flash = self.board.flash
        size = flash.size(DOWNLOAD_FILE)
        if not size:
            return None
        try:
            manifest, start = read_manifest(
                lambda offset, length: flash.read(DOWNLOAD_FILE, offset, length),
                size,
                self.publisher_key,
            )
        except ImageRefused:  # too little of it so far, or an image that will not pass
            return f"Downloaded {size} bytes"
        total = start + manifest.size
        return f"Downloaded {100 * size / total:.0f} % of {total} bytes"


@contextmanager
def open_board(folder: Path, options: argparse.Namespace) -> Iterator[OpenBoard]:
    """Open the board in `folder`, for this program alone; a new one leaves the factory now.

    Args:
        folder: The flash chip's content.
        options: ``hardware``, ``publisher_key``, ``factory_image`` and ``factory_reset`` of the
            command line.

    Raises:
        FirmwareUpdateError: Another program uses the board, or it cannot be made.
    """
    folder = folder.expanduser().absolute()
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = FileLock(f"{folder}.lock", timeout=0, mode=0o600)
        lock.acquire()
    except Timeout as error:
        raise FirmwareUpdateError(
            f"Another program runs the board {folder.name}. Stop it, or give another --board."
        ) from error
    except OSError as error:
        raise _unusable(folder, error) from error
    try:
        yield _open(folder, options)
    finally:
        lock.release()


def _open(folder: Path, options: argparse.Namespace) -> OpenBoard:
    try:
        _refuse_other_files(folder)
        if options.factory_reset or not (folder / BOOT_FILE).exists():
            return _leave_factory(folder, options)
        hardware, key = _read_rom(folder, options)
        # It is filled already, so no image is read.
        return OpenBoard(Board(Path(), key, hardware=hardware, folder=folder), key)
    except OSError as error:
        raise _unusable(folder, error) from error


def _unusable(folder: Path, error: OSError) -> FirmwareUpdateError:
    return FirmwareUpdateError(
        f"The board's folder {folder} cannot be used: {error.strerror}. Give another --board."
    )


def _refuse_other_files(folder: Path) -> None:
    """Refuse a folder that is something else: the chip would take its files for its own."""
    if not folder.exists():
        return
    for file in folder.iterdir():
        # Hidden ones are left by file managers, and the chip does not see them.
        if not _OURS.fullmatch(file.name) and not file.name.startswith("."):
            raise FirmwareUpdateError(
                f"{folder} is no board's folder: it holds {file.name}. Give a new or an empty "
                "folder as --board."
            )


# -- a new board ----------------------------------------------------------------------------------


def _leave_factory(folder: Path, options: argparse.Namespace) -> OpenBoard:
    hardware = options.hardware or DEMO_BOARD
    if options.publisher_key is None:
        signing_key = demo_signing_key(devices_folder())
        key = signing_key.public_key()
    else:
        signing_key, key = None, read_public_key(options.publisher_key)
    with tempfile.TemporaryDirectory(prefix="fwupdate-factory-") as factory:
        image = options.factory_image
        if image is None and signing_key is None:
            raise FirmwareUpdateError(
                "A new board with a --publisher-key of yours needs a --factory-image, too: an "
                "image that is signed with that key."
            )
        if image is None and signing_key is not None:
            image = Path(factory) / f"{FACTORY_VERSION}.img"
            build_image(
                image, version=FACTORY_VERSION, signing_key=signing_key, hardware=(hardware,)
            )
        _wipe(folder)
        _write_rom(folder, hardware, key)
        return OpenBoard(Board(image, key, hardware=hardware, folder=folder), key)


def _wipe(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    # First: a chip without this file is not complete, so a reset that is cut short is done again.
    (folder / BOOT_FILE).unlink(missing_ok=True)
    for file in folder.iterdir():
        if _OURS.fullmatch(file.name):
            file.unlink()


# -- its ROM --------------------------------------------------------------------------------------


def _write_rom(folder: Path, hardware: str, key: Ed25519PublicKey) -> None:
    content = {"hardware": hardware, "publisherKey": key.public_bytes_raw().hex()}
    (folder / ROM_FILE).write_text(json.dumps(content), encoding="utf-8")


def _read_rom(folder: Path, options: argparse.Namespace) -> tuple[str, Ed25519PublicKey]:
    """Return a board's hardware and key; refuse options that want others."""
    wanted = read_public_key(options.publisher_key) if options.publisher_key else None
    file = folder / ROM_FILE
    if not file.exists():  # a board that was made in a notebook
        key = wanted or demo_signing_key(devices_folder()).public_key()
        return options.hardware or DEMO_BOARD, key
    try:
        content = json.loads(file.read_bytes())
        hardware = str(content["hardware"])
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(content["publisherKey"]))
    except (ValueError, TypeError, KeyError) as error:
        raise FirmwareUpdateError(
            f"{file} cannot be read. Begin with a new board: --factory-reset."
        ) from error
    if options.hardware not in (None, hardware):
        raise _other_board(folder, f"is a {hardware}", "--hardware")
    if wanted is not None and wanted.public_bytes_raw() != key.public_bytes_raw():
        raise _other_board(folder, "has another publisher's key", "--publisher-key")
    return hardware, key


def _other_board(folder: Path, what: str, option: str) -> FirmwareUpdateError:
    return FirmwareUpdateError(
        f"The board {folder.name} {what}, and nothing changes that. Leave {option} out, give "
        "another --board, or begin with a new one: --factory-reset."
    )
