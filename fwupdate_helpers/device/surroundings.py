"""What the update agent sees of its device: hub, network, reboot, time and events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fwupdate_helpers.device.faults import DeviceFaults
from fwupdate_helpers.events import EventLog
from fwupdate_helpers.firmware.board import Boot
from fwupdate_helpers.firmware.download import DownloadPolicy, Sink, download, tls_context
from fwupdate_helpers.firmware.flash import PowerLost

Json = dict[str, Any]


@dataclass(frozen=True)
class DeviceSurroundings:
    """The `Surroundings` of the agent on a `SimulatedDevice`.

    Attributes:
        events: Where to note what happens.
        policy: The limits of a download.
        stage_seconds: How long a stage takes at least.
        ca_pem: The authority to trust for downloads, besides the system's.
        faults: The faults of its hardware.
        has_power: Tells whether the device has power.
        write: Writes reported properties to the hub.
        restart: Reboots the board, and connects again.
        cut_power: Cuts the device's power.
        bite: Resets the board, as the watchdog does.
    """

    events: EventLog
    policy: DownloadPolicy
    stage_seconds: float
    ca_pem: str | None
    faults: DeviceFaults
    has_power: Callable[[], bool]
    write: Callable[[Json], Awaitable[None]]
    restart: Callable[[], Awaitable[Boot]]
    cut_power: Callable[[], None]
    bite: Callable[[], None]

    async def report(self, patch: Json) -> None:
        """Write reported properties; returns when the hub has acknowledged them."""
        if not self.has_power():
            raise PowerLost
        await self.write(patch)
        self.events.add("reported", "Reported state updated.")

    async def download(
        self, uri: str, sink: Sink, on_progress: Callable[[int, int | None], None]
    ) -> None:
        """Fetch an image as the device's policy and trust say."""
        await download(
            uri,
            sink,
            self.policy,
            tls=tls_context(self.ca_pem),
            on_progress=on_progress,
            on_retry=lambda text: self.events.add("retry", text),
        )

    async def reboot(self) -> Boot:
        """Restart the board, and return once it is connected again."""
        return await self.restart()

    async def pause(self, share: float = 1.0) -> None:
        """Wait as long as a stage takes at least, or a share of it."""
        await asyncio.sleep(self.stage_seconds * share)

    async def begins(self, stage: str) -> None:
        """Lose the power here, when that is the fault."""
        if self.faults.takes_power_at(stage):
            self.cut_power()
            raise PowerLost

    def hardware_passes(self) -> bool:
        """Tell whether the hardware passes the self-test of an image on trial."""
        return not self.faults.fails_self_test

    async def step(self) -> None:
        """Let others work, or get stuck here, when that is the fault."""
        if self.faults.takes_hang():
            await asyncio.Event().wait()
        await asyncio.sleep(0)

    def reset(self) -> None:
        """Start anew: the watchdog has bitten."""
        self.bite()

    def note(self, kind: str, text: str) -> None:
        """Note an event."""
        self.events.add(kind, text)

    def now(self) -> datetime:
        """Return the device's clock."""
        return self.faults.now()
