"""Reported properties on their way to the hub: queued, merged, sent in order, until acknowledged.

A reported patch is a merge patch, so one that comes twice does no harm as long as the order is
kept: nothing newer is sent before everything older is acknowledged. What waits for the connection
is merged, so that a device that was away for long says it all in one message.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fwupdate_helpers.merge import compose

Json = dict[str, Any]


class NotAcknowledged(Exception):
    """The hub has not acknowledged a request, and may have got it all the same: send it again."""


@dataclass
class _Report:
    patch: Json
    done: asyncio.Future[None]


class ReportQueue:
    """The reports that the hub has not acknowledged yet.

    Args:
        send: Sends a patch once; raises `NotAcknowledged` when it is to be sent again, and
            another error when the hub refuses it.
        ready: Returns when there is a connection to send by.
        limit: How many reports may wait; who has one more waits for room.
    """

    def __init__(
        self,
        send: Callable[[Json], Awaitable[None]],
        *,
        ready: Callable[[], Awaitable[None]],
        limit: int,
    ) -> None:
        self._send = send
        self._ready = ready
        self._room = asyncio.Semaphore(limit)
        self._waiting: deque[_Report] = deque()
        self._alone = 0
        self._pump: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    async def report(self, patch: Json) -> None:
        """Write reported properties; returns when the hub has acknowledged them.

        A caller that gives up has said it all the same: the patch stays in its place.

        Raises:
            Exception: The hub refuses the patch; what else waits is not held up by it.
        """
        await self._room.acquire()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Report(patch, done))
        if self._pump is None or self._pump.done():
            self._pump = asyncio.ensure_future(self._send_all())
        await done

    def close(self) -> None:
        """Send nothing more; whoever waits is cancelled."""
        if self._pump is not None:
            self._pump.cancel()
        for report in self._waiting:
            report.done.cancel()

    async def _send_all(self) -> None:
        while self._waiting:
            await self._ready()
            count, patch = self._merged()
            try:
                await self._send(patch)
            except NotAcknowledged:
                continue  # again, with what has come meanwhile
            except Exception as error:
                self._refused(count, error)
            else:
                self._finish(count, None)

    def _merged(self) -> tuple[int, Json]:
        """Return how many of the oldest reports fit into one patch, and the patch."""
        count, patch = 0, None
        for report in self._waiting:
            merged = report.patch if patch is None else compose(patch, report.patch)
            if merged is None or (count and self._alone):
                break
            count, patch = count + 1, merged
        return count, patch or {}

    def _refused(self, count: int, error: Exception) -> None:
        if count == 1:
            self._finish(1, error)
        else:  # one of them is bad: each has to stand for itself
            self._alone = count

    def _finish(self, count: int, error: Exception | None) -> None:
        self._alone = max(0, self._alone - count)
        for _ in range(count):
            done = self._waiting.popleft().done
            self._room.release()
            if not done.done():
                done.set_exception(error) if error else done.set_result(None)
