"""The device follows the desired property `firmware` of its twin, beside the direct methods."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from fwupdate_helpers.contract_firmware import DESIRED
from fwupdate_helpers.device.methods import note_failure
from fwupdate_helpers.events import EventLog
from fwupdate_helpers.firmware.agent import UpdateAgent
from fwupdate_helpers.firmware.desired import Verdict
from fwupdate_helpers.firmware.stages import reason
from fwupdate_helpers.merge import merge

Json = dict[str, Any]


class DesiredProperties:
    """The desired properties as far as the device knows them.

    The hub sends patches to a device that listens, keeps none for one that is away, and numbers
    them: one that does not follow on the last means that the whole has to be read again.

    Attributes:
        properties: The desired properties, without `$version`.
        version: Their number; None before the first look.
    """

    def __init__(self) -> None:
        self.properties: Json = {}
        self.version: int | None = None

    def take_all(self, desired: Json) -> bool:
        """Take the whole section of a twin; False when it is older than what was known.

        Then it was overtaken by a patch, or the device identity was made anew: read it again.
        """
        version = int(desired["$version"])
        is_older = self.version is not None and version < self.version
        self.properties, self.version = _without_marks(desired), version
        return not is_older

    def take_patch(self, patch: Json) -> bool:
        """Take a patch; False when one before it is missing: the twin has to be read."""
        version = int(patch["$version"])
        if self.version is None or version > self.version + 1:
            return False
        if version == self.version + 1:  # otherwise it came twice
            self.properties = merge(self.properties, _without_marks(patch))
            self.version = version
        return True


def _without_marks(section: Json) -> Json:
    return {key: value for key, value in section.items() if not key.startswith("$")}


class DesiredDesk:
    """Lets the update agent heed the desired `firmware`: the newest one, while no update runs.

    One that comes while an update runs waits for its end; one that is overtaken by a newer one is
    never looked at. What has been heeded is not heeded again until it changes, so an update that
    failed is not repeated.

    Args:
        agent: Walks the updates.
        events: Where to note what happens.
        run_update: Called when an update has begun; it walks it.
        allow_http: Whether plain HTTP will do for an image.

    Attributes:
        stale: Set when the twin has to be read.
    """

    def __init__(
        self,
        agent: UpdateAgent,
        events: EventLog,
        *,
        run_update: Callable[[], None],
        allow_http: bool,
    ) -> None:
        self.stale = asyncio.Event()
        self._agent = agent
        self._events = events
        self._run_update = run_update
        self._allow_http = allow_http
        self._known = DesiredProperties()
        self._is_open = False
        self._tasks: set[asyncio.Task[None]] = set()

    # -- what the hub tells -----------------------------------------------------------------------

    def take_patch(self, patch: Json) -> None:
        """Take a patch of the desired properties."""
        if self._known.take_patch(patch):
            self.heed()
        else:
            self.stale.set()

    def take_twin(self, desired: Json) -> None:
        """Take the desired properties as a whole."""
        if self._known.take_all(desired):
            self.heed()
        else:
            self.stale.set()

    async def keep_up(self, read_twin: Callable[[], Awaitable[Any]]) -> None:
        """Read the twin whenever it has to be read, until cancelled."""
        while True:
            await self.stale.wait()
            self.stale.clear()
            try:
                self.take_twin((await read_twin())["desired"])
            except Exception as error:  # there is another look after the next connection or patch
                self._events.add("error", f"The device twin was not read: {reason(error)}")

    # -- what comes of it -------------------------------------------------------------------------

    def open(self) -> None:
        """Begin to heed: the device is introduced."""
        self._is_open = True
        self.heed()

    def close(self) -> None:
        """Heed nothing any more."""
        self._is_open = False
        for task in self._tasks:
            task.cancel()

    def judge(self) -> Verdict | None:
        """Decide about what is desired now; None when there is nothing to do."""
        wanted = self._known.properties.get(DESIRED)
        verdict = self._agent.judge(wanted, allow_http=self._allow_http)
        if verdict is not None:
            self._note(verdict)
        return verdict

    def heed(self) -> None:
        """Heed what is desired now, unless an update runs; then call it again at its end."""
        verdict = self.judge() if self._is_open and not self._agent.busy else None
        if verdict is None:
            return
        self._agent.heed(verdict)
        task = asyncio.ensure_future(self._report(begins=verdict.order is not None))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda task: note_failure(task, self._events))

    async def _report(self, *, begins: bool) -> None:
        try:
            await self._agent.report()
        except Exception:
            self.heed()  # there may be something newer
            raise
        if begins:
            self._run_update()

    def _note(self, verdict: Verdict) -> None:
        if verdict.order is not None:
            self._events.add("starting", "Starting firmware update.")
        elif verdict.code is not None:
            self._events.add("failed", f"The desired firmware is refused: {verdict.message}")
        elif verdict.update_id is not None:
            self._events.add("desired", f"The desired version {verdict.version} runs already.")
        else:
            self._events.add("desired", "No firmware is desired any more.")
