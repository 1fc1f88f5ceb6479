"""A device's connection to its hub: come back when it is lost, ask again what was not answered.

The SDK's own care has gaps (measured with azure-iot-device 2.14): its first connect is not tried
again, its twin calls have no time limit and one whose answer is lost hangs for ever, it does not
subscribe again, and two clients with one id take the connection from each other every 0.01 s. So
the link reconnects by itself, with a back-off, and gives every call a time limit. Its client is
the asynchronous one, whose calls can be cancelled.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, TypeVar

from fwupdate_helpers.device.link_policy import LinkPolicy
from fwupdate_helpers.device.reports import NotAcknowledged
from fwupdate_helpers.device.sdk_inside import METHODS, TWIN, sever, subscribe
from fwupdate_helpers.errors import DeviceIdInUse, FirmwareUpdateError, HubUnavailable
from fwupdate_helpers.events import EventLog
from fwupdate_helpers.sdk_errors import no_connection

T = TypeVar("T")

STOP_SECONDS: Final = 5.0
_PASSING: Final = {
    *("NoConnectionError", "ConnectionDroppedError", "ConnectionFailedError"),
    *("OperationTimeout", "OperationCancelled", "TimeoutError"),
}
"""The errors of the SDK that may pass by themselves; some hide in the cause of another."""
_REFUSED: Final = {"CredentialError", "UnauthorizedError"}


class HubLink:
    """The connection of one device, from one start of it to the next stop.

    Args:
        client: The SDK's asynchronous client, without a reconnect of its own.
        device_id: Whose it is.
        policy: How patient it is.
        events: Where to note what happens.
        post: Runs a function on the device's loop, from any thread.
        on_end: Called with the reason when the connection is lost for good.
        now: Tells the device's clock.
    """

    def __init__(
        self,
        client: Any,
        *,
        device_id: str,
        policy: LinkPolicy,
        events: EventLog,
        post: Callable[..., None],
        on_end: Callable[[FirmwareUpdateError], None],
        now: Callable[[], datetime],
    ) -> None:
        self._client = client
        self._device_id = device_id
        self._policy = policy
        self._events = events
        self._post = post
        self._on_end = on_end
        self._now = now
        self._on_method: Callable[[Any], None] | None = None
        self._connected = asyncio.Event()
        self._lost = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._has_ended = False
        self._unanswered = 0
        self._evictions: deque[float] = deque(maxlen=policy.evictions)

    @property
    def is_connected(self) -> bool:
        """Whether the SDK is connected."""
        return bool(self._client.connected)

    async def open(self, seconds: float) -> None:
        """Connect for the first time, and keep the connection from then on.

        Raises:
            FirmwareUpdateError: The hub was not reached in so many seconds, or refuses the device.
        """
        client = self._client
        client.on_connection_state_change = lambda: self._post(self._note_connection)
        client.on_background_exception = lambda error: self._post(self._on_sdk_error, error)
        await self._connect(seconds)
        self._keeper = asyncio.ensure_future(self._keep())

    async def listen(self, on_method: Callable[[Any], None]) -> None:
        """Subscribe to direct methods; `on_method` gets them on the device's loop."""
        await self.ask(lambda client: subscribe(client, METHODS))
        self._client.on_method_request_received = lambda request: self._post(on_method, request)
        self._on_method = on_method

    # -- requests ---------------------------------------------------------------------------------

    async def ready(self) -> None:
        """Return when the device is connected."""
        await self._connected.wait()

    async def ask(self, call: Callable[[Any], Awaitable[T]]) -> T:
        """Make a call of the SDK's client until the hub answers it: it may come more than once."""
        while True:
            await self.ready()
            with suppress(NotAcknowledged):
                return await self.attempt(call)

    async def attempt(self, call: Callable[[Any], Awaitable[T]]) -> T:
        """Make a call of the SDK's client once.

        Raises:
            NotAcknowledged: No answer came in time, the connection was lost meanwhile, or the hub
                is busy: a pause has been made, and the call can be made again.
            Exception: What the SDK raises for a request that the hub refuses.
        """
        try:
            answer = await self._until_lost(call)
        except NotAcknowledged as problem:
            self._note_retry(problem)
            await self._care_for_silence()
            raise
        except Exception as error:
            if not is_temporary(error) or self._has_ended:
                raise
            self._note_retry(error)
            await asyncio.sleep(self._policy.wait_after(1))
            raise NotAcknowledged(str(error)) from error
        self._unanswered = 0
        return answer

    async def _until_lost(self, call: Callable[[Any], Awaitable[T]]) -> T:
        lost, limit = asyncio.ensure_future(self._lost.wait()), self._policy.answer_seconds
        task = asyncio.ensure_future(call(self._client))
        try:
            await asyncio.wait({task, lost}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if lost.done():
                raise NotAcknowledged("the connection was lost before the hub answered")
            self._unanswered += 1
            raise NotAcknowledged(f"no answer in {limit:g} s")
        finally:
            lost.cancel()
            task.cancel()

    def _note_retry(self, problem: Exception) -> None:
        self._events.add("retry", f"The hub did not take a request ({problem}); asking again.")

    async def _care_for_silence(self) -> None:
        """Connect anew when the hub is silent: it may have lost what the device subscribed to."""
        if self._unanswered >= self._policy.unanswered:
            self._unanswered = 0
            self._events.add("retry", "The hub is silent; the device connects anew.")
            await self._disconnect()

    # -- the connection ---------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Come back whenever the connection is lost."""
        while True:
            await self._lost.wait()
            await asyncio.sleep(self._policy.wait_after(1))
            try:
                await self._connect(math.inf)
                await self._subscribe_again()
            except FirmwareUpdateError as error:
                self._on_end(error)
                return

    async def _connect(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        began, failures = loop.time(), 0
        while True:
            try:
                await asyncio.wait_for(self._client.connect(), self._policy.connect_seconds)
            except Exception as error:
                failures += 1
                wait, spent = self._policy.wait_after(failures), loop.time() - began
                if self._is_hopeless(error, left=seconds - spent - wait):
                    found = no_connection(error, self._device_id, self._now())
                    found.tell_attempts(failures, spent)
                    raise found from error
                self._events.add(
                    "retry",
                    f"The hub is not reached ({type(error).__name__}); next try in {wait:.1f} s.",
                )
                await asyncio.sleep(wait)
            else:
                self._note_connection()
                return

    def _is_hopeless(self, error: Exception, *, left: float) -> bool:
        if math.isinf(left):  # a device that was connected before: only a refusal ends that
            return bool(_REFUSED & _names(error))
        return not is_temporary(error) or left < 0

    async def _subscribe_again(self) -> None:
        # The SDK does not, and a hub that has lost the session sends nothing (no methods).
        for feature in (METHODS, TWIN) if self._on_method else ():
            with suppress(Exception):  # lost again, or silent: the next request notices
                await self._until_lost(lambda client, name=feature: subscribe(client, name))  # type: ignore[misc]

    async def leave(self) -> None:
        """Say goodbye for a reboot, whatever the SDK says to it; `come_back` connects again."""
        if self._keeper:
            self._keeper.cancel()
        await self._disconnect()

    async def _disconnect(self) -> None:
        with suppress(Exception):
            await asyncio.wait_for(self._client.disconnect(), self._policy.connect_seconds)
        self._note_connection()

    async def come_back(self, seconds: float) -> None:
        """Connect again after `leave`.

        Raises:
            FirmwareUpdateError: The hub was not reached in so many seconds, or refuses the device.
        """
        await self._connect(seconds)
        self._keeper = asyncio.ensure_future(self._keep())
        await self._subscribe_again()

    # -- the end ----------------------------------------------------------------------------------

    def give_up(self) -> None:
        """Ask nothing again from now on: the device is to end."""
        self._has_ended = True

    def cut(self) -> None:
        """Lose the connection as a loss of power does; from any thread."""
        sever(self._client)

    async def close(self) -> None:
        """Shut the client down."""
        if self._keeper:
            self._keeper.cancel()
        problem = await self._shut_down()
        if problem and not isinstance(problem, asyncio.TimeoutError):
            # A connection that ends in this very moment stops the SDK half-way, with threads and
            # sockets left; the next try finds it disconnected, and gets through.
            problem = await self._shut_down()
        if problem:
            self._events.add("error", f"The SDK client did not shut down cleanly: {problem!r}")

    async def _shut_down(self) -> Exception | None:
        try:
            await asyncio.wait_for(self._client.shutdown(), STOP_SECONDS)
        except Exception as error:  # whatever it is, the thread must end
            return error
        return None

    # -- what the SDK tells -----------------------------------------------------------------------

    def _note_connection(self) -> None:
        if self._connected.is_set() and not self.is_connected:
            self._connected.clear()
            self._lost.set()
            self._events.add("disconnected", "Disconnected from the hub.")
        elif self.is_connected and not self._connected.is_set():
            self._connected.set()
            self._lost = asyncio.Event()
            self._events.add("connected", "Connected to the hub.")

    def _on_sdk_error(self, error: Exception) -> None:
        self._events.add("sdk-error", f"{type(error).__name__}: {error}")
        if type(error).__name__ in _REFUSED:
            self._on_end(no_connection(error, self._device_id, self._now()))
        if type(error).__name__ == "ConnectionDroppedError":
            self._note_eviction()

    def _note_eviction(self) -> None:
        now, policy = asyncio.get_running_loop().time(), self._policy
        self._evictions.append(now)
        full = len(self._evictions) == policy.evictions
        if full and now - self._evictions[0] < policy.eviction_seconds:
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
    if _PASSING & _names(error):
        return True
    # A twin operation that the hub refuses: "twin operation returned status N" (measured).
    status = re.search(r"status (\d{3})", str(error.__cause__))
    return status is not None and (status[1] == "429" or status[1].startswith("5"))


def _names(error: BaseException) -> set[str]:
    return {type(error).__name__, type(error.__cause__).__name__}


def silent_hub(device_id: str, seconds: float) -> HubUnavailable:
    """Return the error of a start that got a connection, and no answers."""
    return HubUnavailable(
        f"The hub takes the connection of the device {device_id!r}, and does not answer its "
        f"requests ({seconds:g} s). Check the hub, then start the device again."
    )
