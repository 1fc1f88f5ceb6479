"""A limit for the bandwidth: how long to wait after each piece of a download.

It limits what reaches the flash. The system and aiohttp take in about a MiB more, ahead of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

PIECES_PER_SECOND = 20
"""So many pieces a second the progress moves in, and one piece more or less is 5 % of a second."""
LARGEST_PIECE = 256 * 1024
"""In bytes. Larger ones are not faster: the event loop reads no more from a socket at once."""
_LATENESS = 0.05
"""Seconds that may be caught up with: a timer that rings late must not make the limit lower."""

Sleep = Callable[[float], Awaitable[None]]
Clock = Callable[[], float]


def piece_bytes(bytes_per_second: float | None) -> int:
    """Return how many bytes to read at once.

    >>> piece_bytes(None), piece_bytes(100_000)
    (262144, 5000)
    """
    if bytes_per_second is None:
        return LARGEST_PIECE
    return max(1, min(int(bytes_per_second / PIECES_PER_SECOND), LARGEST_PIECE))


class Pacer:
    """Keeps a download to a bandwidth, over all its connections.

    Args:
        bytes_per_second: The bandwidth, None for as fast as it goes.
        sleep: Waits for so many seconds.
        clock: Tells the time in seconds.
    """

    def __init__(self, bytes_per_second: float | None, *, sleep: Sleep, clock: Clock) -> None:
        self._rate = bytes_per_second
        self._sleep = sleep
        self._clock = clock
        self._due = clock()

    async def after(self, count: int) -> None:
        """Wait until the next piece may be read, when `count` bytes have just been."""
        if self._rate is None:
            return
        now = self._clock()
        # Time in which the network brought nothing is gone: no burst makes up for it.
        self._due = max(self._due, now - _LATENESS) + count / self._rate
        if self._due > now:
            await self._sleep(self._due - now)
