"""How fast the hub's jobs work on devices, all together."""

from __future__ import annotations

import asyncio


class Pace:
    """Lets one after the other pass, in the order in which they ask.

    Args:
        per_second: How many may pass in a second.
    """

    def __init__(self, per_second: float) -> None:
        self._interval = 1 / per_second
        self._next = 0.0
        self._turn = asyncio.Lock()

    async def turn(self) -> None:
        """Wait for one's turn. Who is cancelled meanwhile takes none."""
        async with self._turn:
            loop = asyncio.get_running_loop()
            # Also for no time at all: the hub has other work than jobs.
            await asyncio.sleep(max(self._next - loop.time(), 0))
            # A timer that comes late is made up for by the next one, a pause is not.
            self._next = max(self._next, loop.time() - self._interval) + self._interval
