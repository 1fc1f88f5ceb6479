"""The simulated device: its thread, its power, and its life from start to stop.

Only the hardware is simulated.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from fwupdate_helpers.connection_string import Secret, mask, read_device_string
from fwupdate_helpers.device.link import RETRY_SECONDS, STOP_SECONDS, HubLink
from fwupdate_helpers.device.methods import MethodDesk, note_failure
from fwupdate_helpers.device.surroundings import DeviceSurroundings
from fwupdate_helpers.errors import FirmwareUpdateError
from fwupdate_helpers.events import EventLog
from fwupdate_helpers.firmware.agent import UpdateAgent
from fwupdate_helpers.firmware.board import Board, Boot
from fwupdate_helpers.firmware.download_policy import DownloadPolicy
from fwupdate_helpers.firmware.flash import PowerLost
from fwupdate_helpers.sdk_errors import no_connection

Json = dict[str, Any]
T = TypeVar("T")

_running: Final[dict[str, SimulatedDevice]] = {}
_running_lock: Final = threading.Lock()


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
        self._policy = policy or DownloadPolicy()
        self._thread: threading.Thread | None = None
        self._started: threading.Event = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event
        self._link: HubLink | None = None
        self._agent: UpdateAgent
        self._desk: MethodDesk
        self._update: asyncio.Task[None] | None = None
        self._has_power = True

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
            if self._link is not None:
                self._link.cut()
        finally:
            self.stop()
        self.events.add("power-cut", "The power was cut.")

    def __enter__(self) -> SimulatedDevice:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    # -- the background thread --------------------------------------------------------------------

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
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._on_loop_error)
        self._ending, self._update = asyncio.Event(), None
        try:
            boot = await self._until_ending(self._boot())
        except FirmwareUpdateError as error:
            self._end(error)
        if self._ending.is_set():
            return
        try:
            self._link = self._new_link()
        except (ValueError, TypeError) as error:
            self._end(FirmwareUpdateError(f"The SDK refuses the device's options: {error}"))
            return
        await self._live(self._link, boot)

    def _new_link(self) -> HubLink:
        from azure.iot.device.aio import IoTHubDeviceClient

        client = IoTHubDeviceClient.create_from_connection_string(
            # The SDK reads the text itself, not what a masked one prints.
            str.__str__(self._connection_string),
            **self._device_options,
        )
        return HubLink(
            client,
            device_id=self.device_id,
            events=self.events,
            post=self._post,
            on_end=self._end,
        )

    async def _live(self, link: HubLink, boot: Boot | None) -> None:
        self._agent = UpdateAgent(self.board, self._surroundings(link))
        self._desk = MethodDesk(
            self._agent,
            self.events,
            send=link.client.send_method_response,
            run_update=self._run_update,
            allow_http=self._policy.allow_http,
        )
        try:
            await self._until_ending(self._connect(link, boot))
            self._started.set()
            await self._ending.wait()
            await self._stop_update(link)
        finally:
            self._desk.close()
            if self._update:
                self._update.cancel()
            await link.close()

    def _surroundings(self, link: HubLink) -> DeviceSurroundings:
        async def write(patch: Json) -> None:
            await link.ask(lambda: link.client.patch_twin_reported_properties(patch))

        return DeviceSurroundings(
            events=self.events,
            policy=self._policy,
            stage_seconds=self._stage_seconds,
            ca_pem=self._device_options.get("server_verification_cert"),
            has_power=lambda: self._has_power,
            write=write,
            restart=lambda: self._reboot(link),
        )

    async def _connect(self, link: HubLink, boot: Boot | None) -> None:
        try:
            await link.open()
            await self._introduce(link, boot)
        except Exception as error:
            self._end(no_connection(error, self.device_id))

    async def _introduce(self, link: HubLink, boot: Boot | None) -> None:
        await link.listen(self._desk.take)
        twin = await link.ask(link.client.get_twin)
        goes_on = await self._agent.start(boot, twin["reported"])
        self._desk.introduced.set()
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

    async def _reboot(self, link: HubLink) -> Boot:
        """Disconnect, boot, and connect again, for as long as it takes."""
        await link.leave()
        await asyncio.sleep(self._stage_seconds)
        boot = await self._boot()
        if boot is None:
            raise RuntimeError("a device without a board does not reboot")
        self._agent.boot = boot
        while True:
            try:
                await link.return_()
                return boot
            except Exception as error:
                if boot.trial_of is not None:  # firmware that does not get to its hub
                    self.events.add("rejected", "The new image does not reach the hub.")
                    return await self._reboot(link)
                self.events.add("retry", f"The hub is not reached ({error}); asking again.")
                await asyncio.sleep(RETRY_SECONDS)

    # -- the end ----------------------------------------------------------------------------------

    def _end(self, error: FirmwareUpdateError | None) -> None:
        if error is not None and self.error is None:
            self.error = error
            self.events.add("error", str(error))
        if self._link is not None:
            self._link.give_up()
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

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: Json) -> None:
        # A call that was given up may still be answered; the SDK then meets a cancelled future.
        error = context.get("exception")
        if not isinstance(error, (asyncio.InvalidStateError, PowerLost)):
            self.events.add("error", f"{context.get('message')}: {error!r}")

    # -- the update -------------------------------------------------------------------------------

    def _run_update(self) -> None:
        self._update = asyncio.ensure_future(self._agent.run())
        self._update.add_done_callback(lambda task: note_failure(task, self.events))

    async def _stop_update(self, link: HubLink) -> None:
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
        told = link.is_connected and self.error is None and self._has_power
        if self._agent.can_resume or not told:
            return
        try:
            message = f"The device was stopped while {stage}."
            await asyncio.wait_for(self._agent.interrupt(message), STOP_SECONDS)
        except Exception:  # whatever it is, the device must end
            self.events.add("error", "The hub was not told that the update was interrupted.")
