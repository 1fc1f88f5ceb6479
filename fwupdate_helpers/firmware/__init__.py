"""Everything between an image at its publisher and a device that runs it.

`image` (build and verify), `publish` (to the local hub or Blob storage), `download` (resumable,
over HTTPS; `transfer`, `http_answers`, `network_errors`, `pacing` and `uris` are its parts),
`flash` and `board` (the simulated hardware: a flash chip with two slots and a boot loader), `agent`
(walks an update over all of these), `desired` (what to do about a desired firmware).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fwupdate_helpers.firmware.board import Board
    from fwupdate_helpers.firmware.download_policy import DownloadPolicy
    from fwupdate_helpers.firmware.image import Manifest, build_image, verify_image
    from fwupdate_helpers.firmware.publish import publish_image, unpublish_image

_HOME = {
    "Board": "board",
    "DownloadPolicy": "download_policy",
    "Manifest": "image",
    "build_image": "image",
    "publish_image": "publish",
    "unpublish_image": "publish",
    "verify_image": "image",
}

__all__ = [
    "Board",
    "DownloadPolicy",
    "Manifest",
    "build_image",
    "publish_image",
    "unpublish_image",
    "verify_image",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
