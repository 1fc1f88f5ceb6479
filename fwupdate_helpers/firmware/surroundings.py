"""What an update agent needs of the device around it: hub, network, power and clock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol

from fwupdate_helpers.firmware.board import Boot
from fwupdate_helpers.firmware.download import Sink

Json = dict[str, Any]


class Surroundings(Protocol):
    """What the agent needs of the device around it."""

    async def report(self, patch: Json) -> None:
        """Write reported properties; returns when the hub has acknowledged them."""

    async def download(
        self, uri: str, sink: Sink, on_progress: Callable[[int, int | None], None]
    ) -> None:
        """Fetch an image into `sink`; raise `DownloadError` with its code."""

    async def reboot(self) -> Boot:
        """Restart the board, and return once it is connected again."""

    async def pause(self, share: float = 1.0) -> None:
        """Wait as long as a stage takes at least, or a share of it."""

    async def begins(self, stage: str) -> None:
        """Called when a stage has begun: a fault of the hardware may strike here."""

    def hardware_passes(self) -> bool:
        """Tell whether the hardware passes the self-test of an image on trial."""

    async def step(self) -> None:
        """Called between two pieces of a long job, to let others work; it may never return."""

    def reset(self) -> None:
        """Called by the watchdog: the board starts anew, and this program ends here."""

    def note(self, kind: str, text: str) -> None:
        """Note an event."""

    def now(self) -> datetime:
        """Return the device's clock."""
