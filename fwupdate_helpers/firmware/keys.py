"""The publisher's key of a user who tries things out: made on first use, kept private.

A real publisher keeps the key that signs firmware in a hardware security module, far from devices
and laptops. This one is for the console apps, so that two commands are enough.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from filelock import FileLock

from fwupdate_helpers.errors import FirmwareUpdateError
from fwupdate_helpers.localhub.replacing import replace_file

KEY_FILE = "publisher-key.pem"


def demo_signing_key(folder: Path) -> Ed25519PrivateKey:
    """Return the user's own key in `folder`, made when there is none (mode 0600).

    Raises:
        FirmwareUpdateError: Others can read it, it is no such key, or the folder cannot be used.
    """
    file = folder / KEY_FILE
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(folder / f"{KEY_FILE}.lock", mode=0o600):
            if not file.exists():
                _make(file)
            if os.name == "posix" and file.stat().st_mode & 0o077:
                raise FirmwareUpdateError(
                    f"Others can read the signing key {file}. Close it with chmod 600, or delete "
                    "it: then a new one is made, and boards that know the old one need a reset."
                )
            key = load_pem_private_key(file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise FirmwareUpdateError(
            f"The signing key {file} cannot be used ({type(error).__name__}). Delete it, and a new "
            "one is made."
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise FirmwareUpdateError(f"The key in {file} is not an Ed25519 key.")
    return key


def read_public_key(file: Path) -> Ed25519PublicKey:
    """Return a publisher's public key from a PEM file.

    Raises:
        FirmwareUpdateError: The file cannot be read, or holds no Ed25519 public key.
    """
    try:
        key = load_pem_public_key(file.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise FirmwareUpdateError(
            f"The publisher's key {file} cannot be read: it must be a PEM file with a public key."
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise FirmwareUpdateError(f"The key in {file} is not an Ed25519 public key.")
    return key


def _make(file: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    temporary = file.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(pem)
    replace_file(temporary, file)
