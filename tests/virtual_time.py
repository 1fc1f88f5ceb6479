"""An event loop whose time passes only while everybody sleeps: a test of days takes no time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from datetime import datetime, timedelta, timezone
from typing import Any

START = datetime(2030, 1, 31, 9, 0, tzinfo=timezone.utc)


class _Selector(selectors.DefaultSelector):
    slept = 0.0

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "everybody waits, and for nothing that time brings"
        self.slept += max(timeout, 0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that never sleeps.

    Attributes:
        skew: How far the clock on the wall has gone while the loop's own stood still.
    """

    def __init__(self) -> None:
        self._virtual = _Selector()
        self.skew = timedelta()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.slept

    def clock(self) -> datetime:
        """Return the time on the wall."""
        return START + timedelta(seconds=self.time()) + self.skew


def run(loop: VirtualLoop, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end; nothing may be left over."""
    try:
        result = loop.run_until_complete(coroutine)
        assert not asyncio.all_tasks(loop)
        return result
    finally:
        loop.close()
