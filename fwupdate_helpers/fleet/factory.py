"""The images that a fleet's boards leave the factory with."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fwupdate_helpers.firmware.image import build_image

FACTORY_BYTES: Final = 16 * 1024
"""A thousand boards hold one each: 16 MB of disk in all."""


def factory_images(
    versions: Iterable[str], models: tuple[str, ...], signing_key: Ed25519PrivateKey
) -> dict[str, bytes]:
    """Return an image of each version, for all models.

    Raises:
        FirmwareUpdateError: A version is none.
    """
    images = {}
    with tempfile.TemporaryDirectory(prefix="fwupdate-factory-") as folder:
        file = Path(folder) / "factory.img"
        for version in versions:
            build_image(
                file, version=version, signing_key=signing_key, size=FACTORY_BYTES, hardware=models
            )
            images[version] = file.read_bytes()
    return images
