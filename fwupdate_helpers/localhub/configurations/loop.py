"""When configurations are evaluated: after each change of one, and again and again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

logger = logging.getLogger(__name__)

DEFAULT_SECONDS: Final = 5.0
"""Between two evaluations. On Azure it is five minutes; who learns does not wait so long."""


class ConfigurationLoop:
    """Runs evaluations in the hub's event loop.

    Args:
        evaluate: Evaluates once; it is given what tells whether it is outdated meanwhile.
        seconds: From the end of one evaluation to the next, when no configuration changes.
    """

    def __init__(
        self, evaluate: Callable[[Callable[[], bool]], Awaitable[None]], *, seconds: float
    ) -> None:
        self._evaluate = evaluate
        self._seconds = seconds
        self._changed = asyncio.Event()

    def configurations_changed(self) -> None:
        """Have them evaluated as soon as possible."""
        self._changed.set()

    async def run(self) -> None:
        """Evaluate until this is cancelled."""
        while True:
            self._changed.clear()
            try:
                await self._evaluate(self._changed.is_set)
            except Exception:
                logger.exception("the configurations could not be evaluated; again in a while")
            await self._pause()

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self._changed.wait(), self._seconds)
        except asyncio.TimeoutError:
            return
