"""Boards, images and a publisher for tests with the real hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fwupdate_helpers.firmware import Board, build_image, publish_image
from fwupdate_helpers.hub import Hub
from tests.support import HubProcess

PUBLISHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
"""The key of a publisher that exists in tests only."""
SIZE = 200_000


def hub_of(process: HubProcess) -> Hub:
    """Return the client side of a hub process."""
    return Hub(
        kind="local",
        connection_string=process.connection_string,
        device_host=str(process.ready["device_host"]),
        ca_file=Path(process.ca_file),
    )


def build(file: Path, version: str, **options: Any) -> Path:
    """Build an image of a test's size."""
    build_image(file, **{"version": version, "signing_key": PUBLISHER, "size": SIZE, **options})
    return file


class Publisher:
    """Builds images and publishes them on a hub."""

    def __init__(self, hub: Hub, folder: Path) -> None:
        self.hub, self.folder = hub, folder
        self._count = 0

    def build(self, version: str = "2.0.0", **options: Any) -> Path:
        """Build an image of a test's size."""
        self._count += 1
        file = self.folder / f"{self._count}-{version.replace('/', '_')}.img"
        return build(file, version, **options)

    def publish(
        self, version: str = "2.0.0", change: Callable[[bytes], bytes] | None = None, **options: Any
    ) -> str:
        """Publish an image, changed on its way where a test wants that; return its URL."""
        file = self.build(version, **options)
        if change is not None:
            file.write_bytes(change(file.read_bytes()))
        return publish_image(self.hub, file)

    def board(self, **options: Any) -> Board:
        """Return a board with version 1.0.0 from the factory."""
        return Board(self.build("1.0.0"), PUBLISHER.public_key(), **options)
