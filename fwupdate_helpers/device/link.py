"""A device's connection to its hub: connect, ask again what was not answered, notice rivals.

The client is the SDK's asynchronous one, because a call of it can be given a time limit and
cancelled; the synchronous one may block for ever when the link drops between a request and its
answer (measured with azure-iot-device 2.14).
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

from fwupdate_helpers.errors import DeviceIdInUse, FirmwareUpdateError
from fwupdate_helpers.events import EventLog
from fwupdate_helpers.sdk_errors import no_connection
from fwupdate_helpers.sever import sever

Json = dict[str, Any]
T = TypeVar("T")

CALL_SECONDS: Final = 20.0
"""How long a twin call may take before it is sent again."""
RETRY_SECONDS: Final = 1.0
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 5.0
EVICTIONS, EVICTION_SECONDS = 3, 5.0
"""So many lost connections in so many seconds mean that another client uses the device id."""


class HubLink:
    """The connection of one device, from one start of it to the next stop.

    Args:
        client: The SDK's asynchronous client.
        device_id: Whose it is.
        events: Where to note what happens.
        post: Runs a function on the device's loop, from any thread.
        on_end: Called with the reason when the connection is lost for good.
    """

    def __init__(
        self,
        client: Any,
        *,
        device_id: str,
        events: EventLog,
        post: Callable[..., None],
        on_end: Callable[[FirmwareUpdateError], None],
    ) -> None:
        self.client = client
        self._device_id = device_id
        self._events = events
        self._post = post
        self._on_end = on_end
        self._has_ended = False
        self._evictions: deque[float] = deque(maxlen=EVICTIONS)

    @property
    def is_connected(self) -> bool:
        """Whether the SDK is connected."""
        return bool(self.client.connected)

    async def open(self) -> None:
        """Connect for the first time; errors are the SDK's."""
        self.client.on_connection_state_change = lambda: self._post(self._note_connection)
        self.client.on_background_exception = lambda error: self._post(self._on_sdk_error, error)
        await asyncio.wait_for(self.client.connect(), START_SECONDS)

    async def listen(self, on_method: Callable[[Any], None]) -> None:
        """Subscribe to direct methods; `on_method` gets them on the device's loop."""
        # The SDK's setter waits for the hub, so it is kept off this loop.
        await self.ask(
            lambda: asyncio.to_thread(
                setattr,
                self.client,
                "on_method_request_received",
                lambda request: self._post(on_method, request),
            )
        )

    async def ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call to the hub, again when the link is lost (patches may come twice)."""
        while True:
            try:
                return await asyncio.wait_for(call(), CALL_SECONDS)
            except asyncio.TimeoutError:
                self._events.add("retry", "The hub did not answer a request; asking again.")
            except Exception as error:
                if not is_temporary(error) or self._has_ended:
                    raise
                self._events.add("retry", f"The hub is not reached ({error}); asking again.")
                await asyncio.sleep(RETRY_SECONDS)

    async def leave(self) -> None:
        """Say goodbye for a reboot, whatever the SDK says to it."""
        with suppress(Exception):
            await asyncio.wait_for(self.client.disconnect(), CALL_SECONDS)

    async def return_(self) -> None:
        """Connect again after `leave`."""
        await asyncio.wait_for(self.ask(self.client.connect), START_SECONDS)

    def give_up(self) -> None:
        """Ask nothing again from now on: the device is to end."""
        self._has_ended = True

    def cut(self) -> None:
        """Lose the connection as a loss of power does; from any thread."""
        sever(self.client)

    async def close(self) -> None:
        """Shut the client down."""
        try:
            await asyncio.wait_for(self.client.shutdown(), STOP_SECONDS)
        except Exception as error:  # whatever it is, the thread must end
            self._events.add("error", f"The SDK client did not shut down cleanly: {error!r}")

    # -- what the SDK tells -----------------------------------------------------------------------

    def _note_connection(self) -> None:
        if self.is_connected:
            self._events.add("connected", "Connected to the hub.")
        else:
            self._events.add("disconnected", "Disconnected from the hub.")

    def _on_sdk_error(self, error: Exception) -> None:
        self._events.add("sdk-error", f"{type(error).__name__}: {error}")
        if type(error).__name__ == "UnauthorizedError":
            self._on_end(no_connection(error, self._device_id))
        if type(error).__name__ == "ConnectionDroppedError":
            self._note_eviction()

    def _note_eviction(self) -> None:
        now = asyncio.get_running_loop().time()
        self._evictions.append(now)
        if len(self._evictions) == EVICTIONS and now - self._evictions[0] < EVICTION_SECONDS:
            self._on_end(
                DeviceIdInUse(
                    self._device_id,
                    f"Another client connects as {self._device_id!r}: each takes the "
                    "connection from the other. Stop the other one (another notebook, "
                    "another computer), or use another device id.",
                )
            )


def is_temporary(error: BaseException) -> bool:
    """Tell whether an error of the SDK may pass by itself."""
    lost = {"NoConnectionError", "ConnectionDroppedError", "ConnectionFailedError"}
    lost |= {"OperationTimeout"}
    if lost & {type(error).__name__, type(error.__cause__).__name__}:
        return True
    # A twin operation that the hub refuses: "twin operation returned status N" (measured).
    status = re.search(r"status (\d{3})", str(error.__cause__))
    return status is not None and (status[1] == "429" or status[1].startswith("5"))
