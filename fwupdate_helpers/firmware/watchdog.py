"""The board's watchdog: it resets the board when the program does not feed it in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Watchdog:
    """Guards a piece of work of which every step feeds it.

    Args:
        seconds: How long it waits for the next step.
        bite: Resets the board.

    Example:
        >>> with Watchdog(5.0, reset_board) as watchdog:  # doctest: +SKIP
        ...     for piece in pieces:
        ...         copy(piece)
        ...         watchdog.feed()
    """

    def __init__(self, seconds: float, bite: Callable[[], None]) -> None:
        self._seconds = seconds
        self._bite = bite
        self._timer: asyncio.TimerHandle | None = None

    def feed(self) -> None:
        """Begin the wait anew."""
        self._cancel()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._bite)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def __enter__(self) -> Watchdog:
        self.feed()
        return self

    def __exit__(self, *error: object) -> None:
        self._cancel()
