"""A simulated device: the azure-iot-device client in a background thread, and its update agent.

Only the hardware is simulated. The client is the SDK's asynchronous one, because a call of it can
be given a time limit and cancelled; the synchronous one may block for ever when the link drops
between a request and its answer (measured with azure-iot-device 2.14).
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar

from fwupdate_helpers import contract
from fwupdate_helpers.connection_string import Secret, mask, read_device_string
from fwupdate_helpers.errors import DeviceIdInUse, DownloadError, FirmwareUpdateError
from fwupdate_helpers.events import EventLog
from fwupdate_helpers.firmware.agent import Answer, UpdateAgent, refusal
from fwupdate_helpers.firmware.board import Board, Boot
from fwupdate_helpers.firmware.download import (
    DownloadPolicy,
    Sink,
    check_uri,
    download,
    tls_context,
)
from fwupdate_helpers.firmware.flash import PowerLost
from fwupdate_helpers.sdk_errors import no_connection
from fwupdate_helpers.sever import sever

if TYPE_CHECKING:
    from azure.iot.device import MethodRequest

Json = dict[str, Any]
T = TypeVar("T")

CALL_SECONDS = 20.0
"""How long a twin call may take before it is sent again."""
RETRY_SECONDS = 1.0
START_SECONDS = 60.0
STOP_SECONDS = 5.0
EVICTIONS, EVICTION_SECONDS = 3, 5.0
"""So many lost connections in so many seconds mean that another client uses the device id."""

_running: dict[str, SimulatedDevice] = {}
_running_lock = threading.Lock()


class SimulatedDevice:
    """A device that answers ``firmwareUpdate`` and reports the update through its twin.

    Args:
        connection_string: The device's own, with its key.
        stage_seconds: How long each stage takes at least; the download takes what it takes.
        board: The hardware that images are installed on. Without one, the device walks the
            tutorial's simulated updates only.
        policy: The limits of a download, for example its bandwidth.
        device_options: Keyword arguments for the SDK's ``create_from_connection_string``.

    Attributes:
        device_id: The id in the connection string.
        board: The hardware, or None.
        events: What happened so far, an `EventLog`.
        error: Why the device ended by itself, or None.

    Raises:
        InvalidConnectionString: The connection string lacks a part or has a bad one.

    Example:
        >>> with SimulatedDevice(string, **hub.device_options) as device:  # doctest: +SKIP
        ...     invoke_firmware_update(hub.registry, device.device_id)
    """

    def __init__(
        self,
        connection_string: str,
        *,
        stage_seconds: float = 5.0,
        board: Board | None = None,
        policy: DownloadPolicy | None = None,
        **device_options: Any,
    ) -> None:
        self.device_id = read_device_string(connection_string)
        self.board = board
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
        self._introduced: asyncio.Event
        self._client: Any = None
        self._policy = policy or DownloadPolicy()
        self._agent: UpdateAgent
        self._update: asyncio.Task[None] | None = None
        self._answers: set[asyncio.Task[None]] = set()
        self._has_power = True
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
            self.error, self._has_power = None, True
            if self.board is not None:
                self.board.switch_on()
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

    def power_cut(self) -> None:
        """Cut the power: no clean-up runs, and what was not synced to the flash chip is gone.

        The hub is told nothing: the connection just ends. `start` switches the device on again;
        it then finds an image that works, and goes on with its update or back to the old version.
        """
        self._has_power = False
        if self.board is not None:
            self.board.cut_power()
        try:
            if self._client is not None:
                sever(self._client)
        finally:
            self.stop()
        self.events.add("power-cut", "The power was cut.")

    def __enter__(self) -> SimulatedDevice:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    # -- the background thread ----------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except PowerLost:  # while it started
            self._has_power = False
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
        self._update, self._introduced = None, asyncio.Event()
        self._agent = UpdateAgent(self.board, _Surroundings(self))
        try:
            boot = await self._until_ending(self._boot())
        except FirmwareUpdateError as error:
            self._end(error)
        if self._ending.is_set():
            return
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
            await self._until_ending(self._connect(boot))
            self._started.set()
            await self._ending.wait()
            await self._stop_update()
        finally:
            await self._shut_down()

    async def _connect(self, boot: Boot | None) -> None:
        client = self._client
        client.on_connection_state_change = lambda: self._post(self._note_connection)
        client.on_background_exception = lambda error: self._post(self._on_sdk_error, error)
        try:
            await asyncio.wait_for(client.connect(), START_SECONDS)
            await self._introduce(boot)
        except Exception as error:
            self._end(no_connection(error, self.device_id))

    async def _introduce(self, boot: Boot | None) -> None:
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
        goes_on = await self._agent.start(boot, twin["reported"])
        self._introduced.set()
        self.events.add("ready", "Device twins initialized.")
        if goes_on:
            self._run_update()

    async def _boot(self) -> Boot | None:
        """Let the boot loader start an image; one that hangs is reset by the watchdog."""
        if self.board is None:
            return None
        boot = self.board.reset()
        while boot.hangs and boot.trial_of is not None:
            self.events.add("hang", f"Version {boot.version} hangs; the watchdog will reset it.")
            await asyncio.sleep(self.board.watchdog_seconds)
            boot = self.board.reset()
        self.events.add("booted", f"Version {boot.version} has started from slot {boot.slot}.")
        return boot

    async def _reboot(self) -> Boot:
        """Disconnect, boot, and connect again, for as long as it takes."""
        with suppress(Exception):  # the board is switched over, and reboots whatever the SDK says
            await asyncio.wait_for(self._client.disconnect(), CALL_SECONDS)
        await asyncio.sleep(self._stage_seconds)
        boot = await self._boot()
        if boot is None:
            raise RuntimeError("a device without a board does not reboot")
        self._agent.boot = boot
        while True:
            try:
                await asyncio.wait_for(self._repeated(self._client.connect), START_SECONDS)
                return boot
            except Exception as error:
                if boot.trial_of is not None:  # firmware that does not get to its hub
                    self.events.add("rejected", "The new image does not reach the hub.")
                    return await self._reboot()
                self.events.add("retry", f"The hub is not reached ({error}); asking again.")
                await asyncio.sleep(RETRY_SECONDS)

    async def _shut_down(self) -> None:
        for task in [*self._answers, *([self._update] if self._update else [])]:
            task.cancel()
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
        if not isinstance(error, (asyncio.InvalidStateError, PowerLost)):
            self.events.add("error", f"{context.get('message')}: {error!r}")

    # -- the direct methods -------------------------------------------------------------------

    def _on_method(self, request: MethodRequest) -> None:
        task = asyncio.ensure_future(self._answer(request))
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)
        task.add_done_callback(self._note_failure)

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self.events.add("error", f"{type(error).__name__}: {error}")

    async def _answer(self, request: MethodRequest) -> None:
        from azure.iot.device import MethodResponse

        status, payload = await self._handle(request)
        response = MethodResponse.create_from_method_request(request, status, payload)
        await self._client.send_method_response(response)

    async def _handle(self, request: MethodRequest) -> Answer:
        # A method may come before the device knows what its last run left unfinished.
        await self._introduced.wait()
        if request.name == contract.CANCEL_METHOD:
            return self._handle_cancel(request.payload)
        if request.name != contract.METHOD:
            return 404, refusal("notFound", f"This device has no method {request.name!r}.")
        try:
            order = contract.UpdateOrder.from_payload(request.payload)
            if not order.is_simulated:
                check_uri(order.package_uri, allow_http=self._policy.allow_http)
        except DownloadError as error:
            return 400, refusal(error.code, str(error))
        except ValueError as error:
            return 400, refusal("badRequest", str(error))
        return self._agent.answer_at_once(order) or await self._begin(order)

    def _handle_cancel(self, payload: Any) -> Answer:
        update_id = payload.get(contract.UPDATE_ID) if isinstance(payload, dict) else None
        status, answer = self._agent.cancel(update_id)
        if status == 200:
            self.events.add("cancelled", "The service cancels the update.")
        return status, answer

    async def _begin(self, order: contract.UpdateOrder) -> Answer:
        self.events.add("starting", "Starting firmware update.")
        try:
            # Acknowledged before the method is answered: whoever reads the twin after the answer
            # must not take the end of the last update for the end of this one.
            await self._agent.begin(order)
        except Exception as error:
            return 500, refusal("notReported", f"The hub did not take the report: {error}")
        self._run_update()
        return 200, dict(contract.RESPONSE_STARTED)

    # -- the update ---------------------------------------------------------------------------

    def _run_update(self) -> None:
        self._update = asyncio.ensure_future(self._agent.run())
        self._update.add_done_callback(self._note_failure)

    async def _stop_update(self) -> None:
        """End or leave the update that runs: one of an image goes on after the next start."""
        update = self._update
        if update is None or update.done():
            return
        if self._has_power and self._agent.is_ending:  # the hub may have its last report already
            await asyncio.wait({update}, timeout=STOP_SECONDS)
            return
        stage = self._agent.stage
        update.cancel()
        await asyncio.wait({update}, timeout=STOP_SECONDS)
        told = self._client.connected and self.error is None and self._has_power
        if self._agent.can_resume or not told:
            return
        try:
            message = f"The device was stopped while {stage}."
            await asyncio.wait_for(self._agent.interrupt(message), STOP_SECONDS)
        except Exception:  # whatever it is, the device must end
            self.events.add("error", "The hub was not told that the update was interrupted.")

    async def _repeated(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call to the hub, again when the link is lost (patches may come twice)."""
        while True:
            try:
                return await asyncio.wait_for(call(), CALL_SECONDS)
            except asyncio.TimeoutError:
                self.events.add("retry", "The hub did not answer a request; asking again.")
            except Exception as error:
                if not _is_temporary(error) or self._ending.is_set():
                    raise
                self.events.add("retry", f"The hub is not reached ({error}); asking again.")
                await asyncio.sleep(RETRY_SECONDS)


class _Surroundings:
    """What the update agent sees of its device."""

    def __init__(self, device: SimulatedDevice) -> None:
        self._device = device

    async def report(self, patch: Json) -> None:
        """Write reported properties; returns when the hub has acknowledged them."""
        device = self._device
        if not device._has_power:
            raise PowerLost
        await device._repeated(lambda: device._client.patch_twin_reported_properties(patch))
        device.events.add("reported", "Reported state updated.")

    async def download(
        self, uri: str, sink: Sink, on_progress: Callable[[int, int | None], None]
    ) -> None:
        """Fetch an image as the device's policy and trust say."""
        device = self._device
        await download(
            uri,
            sink,
            device._policy,
            tls=tls_context(device._device_options.get("server_verification_cert")),
            on_progress=on_progress,
            on_retry=lambda text: device.events.add("retry", text),
        )

    async def reboot(self) -> Boot:
        """Restart the board, and return once it is connected again."""
        return await self._device._reboot()

    async def pause(self, share: float = 1.0) -> None:
        """Wait as long as a stage takes at least, or a share of it."""
        await asyncio.sleep(self._device._stage_seconds * share)

    def note(self, kind: str, text: str) -> None:
        """Note an event."""
        self._device.events.add(kind, text)

    def now(self) -> datetime:
        """Return the device's clock."""
        return _now()


def _is_temporary(error: BaseException) -> bool:
    lost = {"NoConnectionError", "ConnectionDroppedError", "ConnectionFailedError"}
    lost |= {"OperationTimeout"}
    if lost & {type(error).__name__, type(error.__cause__).__name__}:
        return True
    # A twin operation that the hub refuses: "twin operation returned status N" (measured).
    status = re.search(r"status (\d{3})", str(error.__cause__))
    return status is not None and (status[1] == "429" or status[1].startswith("5"))


def _now() -> datetime:
    return datetime.now(timezone.utc)
