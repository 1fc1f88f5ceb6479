"""The device's program: one life after the other, on an event loop that somebody else runs.

`SimulatedDevice` gives it a thread and a loop of its own; in a fleet, many programs share one loop.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

from fwupdate_helpers.device.life import DeviceLife, DeviceSetup
from fwupdate_helpers.device.link import is_temporary
from fwupdate_helpers.errors import FirmwareUpdateError
from fwupdate_helpers.firmware.flash import PowerLost

Json = dict[str, Any]


class DeviceProgram:
    """What runs on a device from the moment it has power to the moment it has none.

    Args:
        setup: What the device was made with.
        cut_power: Called on the loop when the hardware loses its power by itself; it calls
            `lose_power`.

    Attributes:
        life: The life that runs, or None.
        error: Why the program ended by itself, or None.
        is_leaving: Whether it is to end.
    """

    def __init__(self, setup: DeviceSetup, *, cut_power: Callable[[], None]) -> None:
        self.life: DeviceLife | None = None
        self.error: FirmwareUpdateError | None = None
        self.is_leaving = False
        self._setup = setup
        self._cut_power = cut_power
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that it runs on; None when it does not run."""
        return self._loop

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Live until the end, for whatever reason; the reason is in `error`.

        Args:
            on_ready: Called when the device is introduced to its hub, or does not come so far; once
                more after each reset by the watchdog.
        """
        self._loop = asyncio.get_running_loop()
        try:
            await self._live(on_ready)
        except PowerLost:  # while it started
            pass
        except Exception as error:
            self.error = FirmwareUpdateError(f"The device ended: {type(error).__name__}: {error}")
            self.error.__cause__ = error
            self._setup.events.add("error", str(self.error))
        finally:
            # With the life goes the SDK's client, which keeps two sockets for as long as it is.
            self._loop, self.life = None, None

    async def _live(self, on_ready: Callable[[], None]) -> None:
        start_seconds = self._setup.link_policy.start_seconds
        while not self.is_leaving:
            try:
                self.life = self._new_life(start_seconds)
            except (ValueError, TypeError) as error:
                self.end(FirmwareUpdateError(f"The SDK refuses the device's options: {error}"))
                return
            if not await self.life.run(on_ready):
                return
            start_seconds = math.inf  # nobody waits for the next one

    def _new_life(self, start_seconds: float) -> DeviceLife:
        return DeviceLife(
            self._setup,
            post=self.post,
            on_end=self.end,
            cut_power=self._cut_power,
            start_seconds=start_seconds,
        )

    def end(self, error: FirmwareUpdateError | None) -> None:
        """Come to the end, with a reason or without one; on the program's loop."""
        if error is not None and self.error is None:
            self.error = error
            self._setup.events.add("error", str(error))
        self.is_leaving = True
        if self.life is not None:
            self.life.end(quietly=self.error is not None)

    def lose_power(self) -> None:
        """Lose the power, from any thread: no clean-up runs, and no farewell; `end` it then."""
        self.is_leaving = True
        if self._setup.board is not None:
            self._setup.board.cut_power()
        life = self.life
        if life is not None:
            life.lose_power()

    def post(self, function: Callable[..., None], *arguments: Any) -> None:
        """Run `function` on the program's loop, from any thread; nothing when it has ended."""
        loop = self._loop
        if loop is None:
            return
        try:
            loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # closed in between
            return


def is_harmless(context: Json) -> bool:
    """Tell whether what an event loop complains of is only the end of a life.

    Args:
        context: As a loop's exception handler gets it.
    """
    error = context.get("exception")
    # A call that was given up may still be answered: the SDK then meets a cancelled future, or
    # leaves one behind with an error that nobody waits for.
    is_left = isinstance(context.get("future"), asyncio.Future)
    return isinstance(error, (asyncio.InvalidStateError, PowerLost)) or (
        is_left and isinstance(error, Exception) and is_temporary(error)
    )
