"""A simulated device: the azure-iot-device client in a background thread, and the update it walks.

Only the hardware is simulated. The client is the SDK's asynchronous one, because a call of it can
be given a time limit and cancelled; the synchronous one may block for ever when the link drops
between a request and its answer (measured with azure-iot-device 2.14).
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar

from fwupdate_helpers import contract
from fwupdate_helpers.connection_string import Secret, mask, read_device_string
from fwupdate_helpers.errors import DeviceIdInUse, FirmwareUpdateError
from fwupdate_helpers.events import EventLog
from fwupdate_helpers.sdk_errors import no_connection

if TYPE_CHECKING:
    from azure.iot.device import MethodRequest

Json = dict[str, Any]
T = TypeVar("T")

CALL_SECONDS = 20.0
"""How long a twin call may take before it is sent again."""
RETRY_SECONDS = 1.0
START_SECONDS = 60.0
STOP_SECONDS = 5.0
PROGRESS_SECONDS = 0.5
"""At most two progress reports a second."""
EVICTIONS, EVICTION_SECONDS = 3, 5.0
"""So many lost connections in so many seconds mean that another client uses the device id."""

_running: dict[str, SimulatedDevice] = {}
_running_lock = threading.Lock()


class SimulatedDevice:
    """A device that answers ``firmwareUpdate`` and reports the update through its twin.

    Args:
        connection_string: The device's own, with its key.
        stage_seconds: How long each stage takes.
        device_options: Keyword arguments for the SDK's ``create_from_connection_string``.

    Attributes:
        device_id: The id in the connection string.
        events: What happened so far, an `EventLog`.
        error: Why the device ended by itself, or None.

    Raises:
        InvalidConnectionString: The connection string lacks a part or has a bad one.

    Example:
        >>> with SimulatedDevice(string, **hub.device_options) as device:  # doctest: +SKIP
        ...     invoke_firmware_update(hub.registry, device.device_id)
    """

    def __init__(
        self, connection_string: str, *, stage_seconds: float = 5.0, **device_options: Any
    ) -> None:
        self.device_id = read_device_string(connection_string)
        self.events = EventLog()
        self.error: FirmwareUpdateError | None = None
        self._connection_string = Secret(connection_string)
        self._key = mask(connection_string)  # the same hub and the same device id
        self._stage_seconds = stage_seconds
        self._device_options = device_options
        self._thread: threading.Thread | None = None
        self._started: threading.Event = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event
        self._client: Any = None
        self._update: asyncio.Task[None] | None = None
        self._busy = False
        self._stage, self._ends = contract.WAITING, False
        self._evictions: deque[float] = deque(maxlen=EVICTIONS)

    def __repr__(self) -> str:
        state = "running" if self.is_running else "stopped"
        state += f", {type(self.error).__name__}: {self.error}" if self.error else ""
        return f"SimulatedDevice({self.device_id!r}, {state})"

    @property
    def is_running(self) -> bool:
        """Whether the background thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> SimulatedDevice:
        """Connect, report `standBy` and listen for direct methods; harmless when it runs already.

        A device with the same id that already runs in this process is stopped first.

        Raises:
            HubUnauthorized: The hub refuses the device's key, or has no such device.
            HubUnavailable: No hub answers, or its certificate is not trusted.
            DeviceIdInUse: Another client with this id keeps taking over.
        """
        with _running_lock:
            if self.is_running:
                return self
            older = _running.get(self._key)
            if older is not None:
                older.stop()
            _running[self._key] = self
            self.error = None
            self._evictions.clear()
            self._started.clear()
            self._thread = threading.Thread(
                target=self._run, name=f"device-{self.device_id}", daemon=True
            )
            self._thread.start()
        self._started.wait()
        self._raise_failure()
        return self

    def _raise_failure(self) -> None:
        if self.error is not None:
            self.stop()
            raise self.error

    def stop(self) -> None:
        """Disconnect and end the background thread; harmless when it does not run."""
        thread = self._thread
        if thread is None:
            return
        self._post(self._end, None)
        # Again and again, because a thread that has just begun has no loop yet to tell.
        while thread is not threading.current_thread() and thread.is_alive():
            thread.join(0.05)
            self._post(self._end, None)

    def __enter__(self) -> SimulatedDevice:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    # -- the background thread ----------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception as error:
            self.error = FirmwareUpdateError(f"The device ended: {type(error).__name__}: {error}")
            self.error.__cause__ = error
            self.events.add("error", str(self.error))
        finally:
            self._loop = None
            if _running.get(self._key) is self:
                del _running[self._key]
            self.events.add("stopped", "The device has stopped.")
            self._started.set()

    async def _main(self) -> None:
        from azure.iot.device.aio import IoTHubDeviceClient

        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._on_loop_error)
        self._ending = asyncio.Event()
        self._update, self._busy = None, False
        try:
            self._client = IoTHubDeviceClient.create_from_connection_string(
                # The SDK reads the text itself, not what a masked one prints.
                str.__str__(self._connection_string),
                **self._device_options,
            )
        except (ValueError, TypeError) as error:
            self._end(FirmwareUpdateError(f"The SDK refuses the device's options: {error}"))
            return
        try:
            await self._until_ending(self._connect())
            self._started.set()
            await self._ending.wait()
            await self._interrupt_update()
        finally:
            await self._shut_down()

    async def _connect(self) -> None:
        client = self._client
        client.on_connection_state_change = lambda: self._post(self._note_connection)
        client.on_background_exception = lambda error: self._post(self._on_sdk_error, error)
        try:
            await asyncio.wait_for(client.connect(), START_SECONDS)
            await self._introduce()
        except Exception as error:
            self._end(no_connection(error, self.device_id))

    async def _introduce(self) -> None:
        client = self._client
        # The SDK's setter waits for the hub, so it is kept off this loop.
        await self._repeated(
            lambda: asyncio.to_thread(
                setattr,
                client,
                "on_method_request_received",
                lambda request: self._post(self._on_method, request),
            )
        )
        twin = await self._repeated(client.get_twin)
        await self._report(contract.started_patch(_now(), twin["reported"]))
        self.events.add("ready", "Device twins initialized.")

    async def _shut_down(self) -> None:
        try:
            await asyncio.wait_for(self._client.shutdown(), STOP_SECONDS)
        except Exception as error:  # whatever it is, the thread must end
            self.events.add("error", f"The SDK client did not shut down cleanly: {error!r}")

    def _end(self, error: FirmwareUpdateError | None) -> None:
        if error is not None and self.error is None:
            self.error = error
            self.events.add("error", str(error))
        self._ending.set()

    def _post(self, function: Callable[..., None], *arguments: Any) -> None:
        """Run `function` on this device's loop, from any thread; nothing when it has ended."""
        loop = self._loop
        if loop is None:
            return
        try:
            loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # closed in between
            return

    async def _until_ending(self, work: Awaitable[T]) -> T | None:
        """Await `work`, or give it up when the device is to end."""
        task = asyncio.ensure_future(work)
        ending = asyncio.ensure_future(self._ending.wait())
        await asyncio.wait({task, ending}, return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if not task.done():
            task.cancel()
            return None
        return task.result()

    # -- what the SDK tells -------------------------------------------------------------------

    def _note_connection(self) -> None:
        connected = bool(self._client.connected)
        self.events.add(
            "connected" if connected else "disconnected",
            "Connected to the hub." if connected else "Disconnected from the hub.",
        )

    def _on_sdk_error(self, error: Exception) -> None:
        self.events.add("sdk-error", f"{type(error).__name__}: {error}")
        if type(error).__name__ == "UnauthorizedError":
            self._end(no_connection(error, self.device_id))
        if type(error).__name__ == "ConnectionDroppedError":
            now = asyncio.get_running_loop().time()
            self._evictions.append(now)
            if len(self._evictions) == EVICTIONS and now - self._evictions[0] < EVICTION_SECONDS:
                self._end(
                    DeviceIdInUse(
                        self.device_id,
                        f"Another client connects as {self.device_id!r}: each takes the "
                        "connection from the other. Stop the other one (another notebook, "
                        "another computer), or use another device id.",
                    )
                )

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: Json) -> None:
        # A call that was given up may still be answered; the SDK then meets a cancelled future.
        error = context.get("exception")
        if not isinstance(error, asyncio.InvalidStateError):
            self.events.add("error", f"{context.get('message')}: {error!r}")

    # -- the direct method --------------------------------------------------------------------

    def _on_method(self, request: MethodRequest) -> None:
        task = asyncio.ensure_future(self._answer(request))
        task.add_done_callback(self._note_failure)

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.events.add("error", f"{type(error).__name__}: {error}")

    async def _answer(self, request: MethodRequest) -> None:
        from azure.iot.device import MethodResponse

        status, payload = await self._handle(request)
        response = MethodResponse.create_from_method_request(request, status, payload)
        await self._client.send_method_response(response)

    async def _handle(self, request: MethodRequest) -> tuple[int, Json]:
        if request.name != contract.METHOD:
            return 404, _refusal("notFound", f"This device has no method {request.name!r}.")
        if self._busy:
            return 409, _refusal("busy", "A firmware update is already running.")
        try:
            order = contract.UpdateOrder.from_payload(request.payload)
        except ValueError as error:
            return 400, _refusal("badRequest", str(error))
        self._busy = True
        try:
            await self._open(order)
        except Exception as error:
            self._busy = False
            return 500, _refusal("notReported", f"The hub did not take the report: {error}")
        self._update = asyncio.ensure_future(self._run_update(order))
        self._update.add_done_callback(self._note_failure)
        return 200, dict(contract.RESPONSE_STARTED)

    # -- the update ---------------------------------------------------------------------------

    async def _open(self, order: contract.UpdateOrder) -> None:
        self.events.add("starting", "Starting firmware update.")
        self._stage, self._ends = contract.WAITING, False
        # Acknowledged before the method is answered: whoever reads the twin after the answer
        # must not take the end of the last update for the end of this one.
        await self._report(contract.opening_patch(order.update_id, _now(), order.version))

    async def _run_update(self, order: contract.UpdateOrder) -> None:
        try:
            await self._walk(order)
        except Exception as error:
            message = f"The update failed while {self._stage}: {error}"
            self.events.add("error", message)
            await self._report_end(
                contract.error_patch(_now(), self._stage, contract.CODE_INTERNAL, message)
            )
        finally:
            self._busy = False

    async def _walk(self, order: contract.UpdateOrder) -> None:
        await asyncio.sleep(self._stage_seconds)

        self._stage = contract.DOWNLOADING
        self.events.add("downloading", f"Downloading image from: {order.package_uri}")
        await self._report(contract.downloading_patch(_now()))
        await self._transfer()

        self._stage = contract.APPLYING
        self.events.add("applying", f"Applying image from: {order.package_uri}")
        await self._report(contract.applying_patch(_now()))
        await asyncio.sleep(self._stage_seconds)

        self.events.add("applied", "Image applied.")
        await self._report_end(contract.completed_patch(_now()))
        self.events.add("completed", "Firmware update completed.")

    async def _transfer(self) -> None:
        """Let the time of a download pass: the URI has no scheme, so there is nothing to fetch."""
        steps = int(self._stage_seconds / PROGRESS_SECONDS) or 1
        for step in range(1, steps + 1):
            await asyncio.sleep(self._stage_seconds / steps)
            if step < steps:
                await self._report(contract.progress_patch(step / steps))

    async def _interrupt_update(self) -> None:
        update = self._update
        if update is None or update.done():
            return
        if self._ends:  # the hub may have its last report already
            await asyncio.wait({update}, timeout=STOP_SECONDS)
            return
        update.cancel()
        message = f"The device was stopped while {self._stage}."
        patch = contract.error_patch(_now(), self._stage, contract.CODE_INTERRUPTED, message)
        if self._client.connected and self.error is None:
            try:
                await asyncio.wait_for(self._report(patch), STOP_SECONDS)
            except Exception:  # whatever it is, the device must end
                self.events.add("error", "The hub was not told that the update was interrupted.")

    async def _report_end(self, patch: Json) -> None:
        self._ends = True
        await self._report(patch)

    async def _report(self, patch: Json) -> None:
        """Write reported properties; returns when the hub has acknowledged them."""
        await self._repeated(lambda: self._client.patch_twin_reported_properties(patch))
        self.events.add("reported", "Reported state updated.")

    async def _repeated(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call to the hub, again when the link is lost (patches may come twice)."""
        while True:
            try:
                return await asyncio.wait_for(call(), CALL_SECONDS)
            except asyncio.TimeoutError:
                self.events.add("retry", "The hub did not answer a request; asking again.")
            except Exception as error:
                if not _is_lost_link(error) or self._ending.is_set():
                    raise
                self.events.add("retry", f"The link to the hub is lost ({error}); asking again.")
                await asyncio.sleep(RETRY_SECONDS)


def _refusal(code: str, message: str) -> Json:
    return {contract.ERROR_KEY: {contract.ERROR_CODE: code, contract.ERROR_MESSAGE: message}}


def _is_lost_link(error: BaseException) -> bool:
    lost = {"NoConnectionError", "ConnectionDroppedError", "ConnectionFailedError"}
    return bool(lost & {type(error).__name__, type(error.__cause__).__name__})


def _now() -> datetime:
    return datetime.now(timezone.utc)
