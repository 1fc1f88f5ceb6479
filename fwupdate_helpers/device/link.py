"""A device's connection to its hub: come back when it is lost, ask again what was not answered.

The SDK's own care has gaps (measured with azure-iot-device 2.14): its first connect is not tried
again, its twin calls have no time limit and one whose answer is lost hangs for ever, it does not
subscribe again, its network thread may die unnoticed, and two clients with one id take the
connection from each other every 0.01 s (`own_reports` tells those from a bad line). So the link
reconnects by itself, with a back-off and a
new client, and gives every call a time limit. The client is the asynchronous one, whose calls can
be cancelled.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, TypeVar

from fwupdate_helpers.device.link_policy import LinkPolicy
from fwupdate_helpers.device.own_reports import OwnReports
from fwupdate_helpers.device.reports import NotAcknowledged
from fwupdate_helpers.device.sdk_inside import (
    METHODS,
    TWIN_PATCHES,
    discard,
    is_renewing,
    release,
    sever,
    subscribe,
)
from fwupdate_helpers.errors import DeviceIdInUse, FirmwareUpdateError, HubUnavailable
from fwupdate_helpers.events import EventLog
from fwupdate_helpers.sdk_errors import no_connection

T = TypeVar("T")
Json = dict[str, Any]

STOP_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 0.05
"""The shortest wait before a reconnect: the SDK may be about to reconnect with a new token."""
_PASSING: Final = {
    *("NoConnectionError", "ConnectionDroppedError", "ConnectionFailedError"),
    *("OperationTimeout", "OperationCancelled", "TimeoutError", "NotAcknowledged"),
}
"""The errors of the SDK that may pass by themselves; some hide in the cause of another."""
_UNSTEADY: Final = "The line is bad, or another client uses this device id"
_REFUSED: Final = {"CredentialError", "UnauthorizedError"}


class HubLink:
    """The connection of one device, from one start of it to the next stop.

    Args:
        new_client: Makes a client of the SDK that does not reconnect by itself.
        device_id: Whose it is.
        policy: How patient it is.
        events: Where to note what happens.
        post: Runs a function on the device's loop, from any thread.
        on_end: Called with the reason when the connection is lost for good.
        now: Tells the device's clock.
    """

    def __init__(
        self,
        new_client: Callable[[], Any],
        *,
        device_id: str,
        policy: LinkPolicy,
        events: EventLog,
        post: Callable[..., None],
        on_end: Callable[[FirmwareUpdateError], None],
        now: Callable[[], datetime],
    ) -> None:
        self._new_client = new_client
        self._client, self._is_used = new_client(), False
        self._device_id = device_id
        self._policy = policy
        self._events = events
        self._post = post
        self._on_end = on_end
        self._now = now
        self._on_method: Callable[[Any], None] | None = None
        self._on_desired: Callable[[Any], None] = lambda patch: None
        self._on_return: Callable[[], None] = lambda: None
        self._connected = asyncio.Event()
        self._lost = asyncio.Event()
        self._care: set[asyncio.Task[None]] = set()
        self._discards: set[asyncio.Task[None]] = set()
        self._has_ended = self._is_cut = False
        self._unanswered = self._evictions = self._refusals = 0
        self._connected_at = 0.0
        self._own, self._has_rival, self._is_fruitful = OwnReports(), False, False
        self._looking, self._fruitless = asyncio.Lock(), 0

    @property
    def is_connected(self) -> bool:
        """Whether the device is connected, as far as it knows."""
        return self._connected.is_set()

    @property
    def is_unsteady(self) -> bool:
        """Whether many connections in a row were lost as soon as they were made."""
        return self._evictions >= self._policy.evictions

    async def open(self, seconds: float) -> None:
        """Connect, and keep the connection from then on; also after `leave`.

        Raises:
            FirmwareUpdateError: The hub was not reached in so many seconds, or refuses the device.
        """
        await self._connect(seconds)
        _start(self._keep(), self._care)

    async def listen(
        self,
        on_method: Callable[[Any], None],
        on_desired: Callable[[Any], None],
        on_return: Callable[[], None],
    ) -> None:
        """Subscribe, now and whenever the device connects again.

        Args:
            on_method: Gets direct methods, on the device's loop.
            on_desired: Gets patches of the desired properties, on the device's loop.
            on_return: Called when the device has subscribed again: the hub keeps no patch for a
                device that is away, so it should `read_twin`.
        """
        self._on_method, self._on_desired, self._on_return = on_method, on_desired, on_return
        await self.ask(self._subscribe)

    async def read_twin(self) -> Json:
        """Return the device twin as the SDK does: ``{"desired": …, "reported": …}``."""
        while True:
            await self.ready()
            with suppress(NotAcknowledged):
                return await self._look()

    async def _look(self) -> Json:
        """Read the twin once; its count tells whether another client has written since."""
        async with self._looking:  # two looks at a time would count the same reports twice
            look = self._own.look()
            twin: Json = await self.attempt(_get_twin)
            self._has_rival |= self._own.is_foreign(_version(twin), look)
            return twin

    async def report(self, patch: Json) -> None:
        """Send a reported patch once.

        Raises:
            NotAcknowledged: It is to be sent again.
            Exception: The hub refuses it.
        """
        with self._own.report():
            await self.attempt(lambda client: client.patch_twin_reported_properties(patch))

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
                is busy: the call can be made again.
            Exception: What the SDK raises for a request that the hub refuses.
        """
        try:
            answer = await self._until_lost(call)
        except Exception as error:
            if not is_temporary(error) or self._has_ended:
                raise
            reason = error.__cause__ or error  # the SDK calls it an "Unexpected failure"
            self._events.add("retry", f"The hub did not take a request ({reason}); asking again.")
            if isinstance(error, NotAcknowledged):
                raise
            self._note_state(self._client)
            self._refusals += 1
            await asyncio.sleep(self._policy.wait_after(self._refusals))
            raise NotAcknowledged(str(error)) from error
        self._unanswered = self._refusals = 0
        self._is_fruitful |= call not in (self._subscribe, _get_twin)
        return answer

    async def _until_lost(self, call: Callable[[Any], Awaitable[T]]) -> T:
        lost, limit = asyncio.ensure_future(self._lost.wait()), self._policy.answer_seconds
        task = asyncio.ensure_future(call(self._client))
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            await asyncio.wait({task, lost}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if lost.done():
                raise NotAcknowledged("the connection was lost before the hub answered")
            self._note_silence()
            raise NotAcknowledged(f"no answer in {limit:g} s")
        finally:
            lost.cancel()
            task.cancel()

    def _note_silence(self) -> None:
        """Connect anew when the hub is silent: a subscription may be lost, or the connection."""
        self._unanswered += 1
        if self._unanswered >= self._policy.unanswered and self.is_connected:
            self._events.add("retry", "The hub is silent; the device connects anew.")
            self._set_connected(False)

    # -- the connection ---------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Come back whenever the connection is lost."""
        while True:
            await self._lost.wait()
            # On a bad line some work is done; a rival that does not show lets next to none be done.
            self._fruitless = 0 if self._is_fruitful else self._fruitless + 1
            too_many = max(0, self._fruitless - 2 * self._policy.evictions)
            await asyncio.sleep(_PAUSE_SECONDS + self._policy.wait_after(1 + too_many))
            if self._is_cut:
                return
            if is_renewing(self._client) or self.is_connected:
                continue
            try:
                await self._connect(math.inf)
            except FirmwareUpdateError as error:
                self._on_end(error)
                return

    async def _connect(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        began, failures = loop.time(), 0
        while True:
            self._take_client()
            try:
                await asyncio.wait_for(self._client.connect(), self._policy.connect_seconds)
            except Exception as error:
                failures += 1
                wait, spent = self._policy.wait_after(failures), loop.time() - began
                if self._is_hopeless(error, left=seconds - spent - wait):
                    found = no_connection(error, self._device_id, self._now())
                    found.tell_attempts(failures, spent)
                    raise found from error
                name = type(error).__name__
                self._events.add(
                    "retry", f"The hub is not reached ({name}); next try in {wait:.1f} s."
                )
                await asyncio.sleep(wait)
            else:
                self._set_connected(True)
                self._note_state(self._client)  # it may be lost again by now
                return

    def _is_hopeless(self, error: Exception, *, left: float) -> bool:
        if math.isinf(left):  # a device that was connected before: only a refusal ends that
            return bool(_REFUSED & _names(error))
        return not is_temporary(error) or left < 0

    def _take_client(self) -> None:
        """Take a new client: one that was used does not subscribe again, and may be dead."""
        if self._is_used:
            _start(self._discard(self._client), self._discards)
            self._client = self._new_client()
        client, self._is_used, self._unanswered = self._client, True, 0
        client.on_connection_state_change = lambda: self._post(self._note_state, client)
        client.on_background_exception = lambda error: self._post(self._note_error, client, error)

    async def _discard(self, client: Any) -> None:
        with suppress(Exception):  # the SDK's own threads end it later
            await asyncio.wait_for(discard(client), STOP_SECONDS)

    async def _subscribe(self, client: Any) -> None:
        await subscribe(client, METHODS)
        client.on_method_request_received = lambda request: self._post(self._on_method, request)
        await subscribe(client, TWIN_PATCHES)
        client.on_twin_desired_properties_patch_received = lambda patch: self._post(
            self._on_desired, patch
        )

    async def leave(self) -> None:
        """Say goodbye for a reboot; `open` connects again."""
        await self.close()
        self._set_connected(False)

    # -- the end ----------------------------------------------------------------------------------

    def give_up(self) -> None:
        """Ask nothing again from now on: the device is to end."""
        self._has_ended = True

    def cut(self) -> None:
        """Lose the connection as a loss of power does; from any thread."""
        self._is_cut = True
        sever(self._client)

    async def close(self) -> None:
        """End the connection, with a farewell where it was not cut."""
        for task in self._care:
            task.cancel()
        await asyncio.gather(self._shut_down(), *self._discards)

    async def _shut_down(self) -> None:
        """End the client; one that is dead does not keep the device."""
        if not self._is_cut:
            with suppress(Exception):
                await asyncio.wait_for(self._client.shutdown(), STOP_SECONDS)
                release(self._client)
                return
        await self._discard(self._client)

    # -- what the SDK tells -----------------------------------------------------------------------

    def _note_state(self, client: Any) -> None:
        if client is self._client:
            self._set_connected(bool(client.connected))

    def _set_connected(self, connected: bool) -> None:
        if connected == self.is_connected:
            return
        if connected:
            self._connected.set()
            self._connected_at = asyncio.get_running_loop().time()
            self._lost, self._is_fruitful = asyncio.Event(), False
            self._events.add("connected", "Connected to the hub.")
            if self._on_method is not None:
                _start(self._listen_again(), self._care)
            if self._evictions >= self._policy.evictions - 1:
                _start(self._look_for_rival(), self._care)
        else:
            self._connected.clear()
            self._lost.set()
            self._events.add("disconnected", "Disconnected from the hub.")

    async def _listen_again(self) -> None:
        lost = self._lost
        while not lost.is_set():  # of the next connection there is another try
            with suppress(NotAcknowledged):
                await self.attempt(self._subscribe)
                self._on_return()
                return

    def _note_error(self, client: Any, error: Exception) -> None:
        self._events.add("sdk-error", f"{type(error).__name__}: {error}")
        if type(error).__name__ in _REFUSED:
            self._on_end(no_connection(error, self._device_id, self._now()))
        if type(error).__name__ == "ConnectionDroppedError" and client is self._client:
            self._note_eviction()

    def _note_eviction(self) -> None:
        lasted = asyncio.get_running_loop().time() - self._connected_at
        if lasted >= self._policy.eviction_seconds:
            self._evictions, self._has_rival = 0, False
            return
        self._evictions += 1
        if self.is_unsteady and self._has_rival:
            self._on_end(
                DeviceIdInUse(
                    self._device_id,
                    f"Another client connects as {self._device_id!r} and writes its reported "
                    "properties: each takes the connection from the other. Stop the other one "
                    "(another notebook, another computer), or use another device id.",
                )
            )
        elif self._evictions == self._policy.evictions:
            self._events.add(
                "unsteady",
                f"{self._evictions} connections in a row were lost within "
                f"{self._policy.eviction_seconds:g} s each. {_UNSTEADY}; the device keeps trying.",
            )

    async def _look_for_rival(self) -> None:
        """Ask the hub whether another client has written as this device since the last look."""
        with suppress(NotAcknowledged):  # of the next connection there is another try
            await self._look()


async def _get_twin(client: Any) -> Json:
    twin: Json = await client.get_twin()
    return twin


def _version(twin: Json) -> int:
    return int(twin["reported"]["$version"])


def _start(work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
    task = asyncio.ensure_future(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


def is_temporary(error: BaseException) -> bool:
    """Tell whether an error of the SDK may pass by itself."""
    if _PASSING & _names(error):
        return True
    # A twin operation that the hub refuses: "twin operation returned status N" (measured).
    status = re.search(r"status (\d{3})", str(error.__cause__))
    return status is not None and (status[1] == "429" or status[1].startswith("5"))


def _names(error: BaseException) -> set[str]:
    return {type(error).__name__, type(error.__cause__).__name__}


def silent_hub(device_id: str, seconds: float, *, is_unsteady: bool) -> HubUnavailable:
    """Return the error of a start that got a connection, and no answers.

    Args:
        device_id: The device.
        seconds: How long it has tried.
        is_unsteady: Whether no connection has lasted.
    """
    if is_unsteady:
        return HubUnavailable(
            f"No connection of the device {device_id!r} to its hub lasts ({seconds:g} s). "
            f"{_UNSTEADY}: stop the other one, or check the network; then start the device again."
        )
    return HubUnavailable(
        f"The hub takes the connection of the device {device_id!r}, and does not answer its "
        f"requests ({seconds:g} s). Check the hub, then start the device again."
    )
