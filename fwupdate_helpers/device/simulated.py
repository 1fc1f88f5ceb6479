"""The simulated device: its thread, its power, and its life from start to stop.

Only the hardware is simulated.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final

from fwupdate_helpers.connection_string import Secret, mask, read_device_string
from fwupdate_helpers.device.faults import DeviceFaults
from fwupdate_helpers.device.life import DeviceLife, DeviceSetup
from fwupdate_helpers.device.link_policy import LinkPolicy
from fwupdate_helpers.device.program import DeviceProgram, is_harmless
from fwupdate_helpers.errors import FirmwareUpdateError, HubUnavailable
from fwupdate_helpers.events import EventLog
from fwupdate_helpers.firmware.board import Board
from fwupdate_helpers.firmware.download_policy import DownloadPolicy
from fwupdate_helpers.sdk_errors import no_connection

Json = dict[str, Any]

_running: Final[dict[str, SimulatedDevice]] = {}
_running_lock: Final = threading.Lock()
_LOOK_SECONDS: Final = 0.1


class SimulatedDevice:
    """A device that answers ``firmwareUpdate`` and reports the update through its twin.

    It also follows the desired property ``firmware``; see `fwupdate_helpers.contract_firmware`.

    Args:
        connection_string: The device's own, with its key.
        stage_seconds: How long each stage takes at least; the download takes what it takes.
        board: The hardware that images are installed on. Without one, the device walks the
            tutorial's simulated updates only.
        version: What a device without a board runs when it is new; later on, its twin tells.
        policy: The limits of a download, for example its bandwidth.
        link_policy: How patient the device is with its hub.
        faults: Faults of its hardware.
        device_options: Keyword arguments for the SDK's ``create_from_connection_string``.

    Attributes:
        device_id: The id in the connection string.
        board: The hardware, or None.
        events: What happened so far, an `EventLog`, by the device's clock.
        faults: Faults of its hardware; they can be set at any time.

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
        version: str | None = None,
        policy: DownloadPolicy | None = None,
        link_policy: LinkPolicy | None = None,
        faults: DeviceFaults | None = None,
        **device_options: Any,
    ) -> None:
        connection_string = Secret(connection_string)
        self.device_id = read_device_string(connection_string)
        self.board = board
        self.faults = faults or DeviceFaults()
        self.events = EventLog(clock=self.faults.now)
        self._key = mask(connection_string)  # the same hub and the same device id
        self._setup = DeviceSetup(
            device_id=self.device_id,
            connection_string=connection_string,
            stage_seconds=stage_seconds,
            board=board,
            version=version,
            policy=policy or DownloadPolicy(),
            link_policy=link_policy or LinkPolicy(),
            faults=self.faults,
            events=self.events,
            device_options=device_options,
        )
        self._thread: threading.Thread | None = None
        self._started: threading.Event = threading.Event()
        self._program = self._new_program()

    def __repr__(self) -> str:
        state = "running" if self.is_running else "stopped"
        state += f", {type(self.error).__name__}: {self.error}" if self.error else ""
        return f"SimulatedDevice({self.device_id!r}, {state})"

    @property
    def error(self) -> FirmwareUpdateError | None:
        """Why the device ended by itself, or None."""
        return self._program.error

    @property
    def _life(self) -> DeviceLife | None:
        return self._program.life

    @property
    def is_running(self) -> bool:
        """Whether the background thread runs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def is_replaced(self) -> bool:
        """Whether another object of this process runs as this device."""
        other = _running.get(self._key)
        return other is not None and other is not self and other.is_running

    def start(self, *, patience: Callable[[], bool] = lambda: True) -> SimulatedDevice:
        """Connect, report `standBy` and listen for direct methods; harmless when it runs already.

        A device with the same id that already runs in this process is stopped first.

        Args:
            patience: Asked again and again while the device is not ready yet; once it says False,
                this returns, and the device goes on by itself.

        Raises:
            HubUnauthorized: The hub refuses the device's key, or has no such device.
            HubUnavailable: No hub answers as long as `link_policy` waits, or its certificate is
                not trusted.
            DeviceIdInUse: Another client with this id keeps taking over.
        """
        with _running_lock:
            if self._thread is not None and self._thread.is_alive():
                if not self._program.is_leaving:
                    return self
                self._thread.join()  # a power cut, or an error, ends it just now
            older = _running.get(self._key)
            if older is not None:
                older.stop()
            _running[self._key] = self
            self._program = self._new_program()
            if self.board is not None:
                self.board.switch_on()
            self._started.clear()
            self._thread = threading.Thread(
                target=self._run, name=f"device-{self.device_id}", daemon=True
            )
            self._thread.start()
        while not self._started.wait(_LOOK_SECONDS):
            if not patience():
                return self
        self._raise_failure()
        return self

    def _raise_failure(self) -> None:
        error = self.error
        if error is not None:
            self.stop()
            raise error

    def stop(self) -> None:
        """Disconnect and end the background thread; harmless when it does not run."""
        thread = self._thread
        if thread is None:
            return
        program = self._program
        program.post(program.end, None)
        # Again and again, because a thread that has just begun has no loop yet to tell.
        while thread is not threading.current_thread() and thread.is_alive():
            thread.join(0.05)
            program.post(program.end, None)

    def power_cut(self) -> None:
        """Cut the power: no clean-up runs, and what was not synced to the flash chip is gone.

        The hub is told nothing: the connection just ends. `start` switches the device on again;
        it then finds an image that works, and goes on with its update or back to the old version.
        """
        try:
            self._program.lose_power()
        finally:
            self.stop()
        self.events.add("power-cut", "The power was cut.")

    def cut_power_at(self, stage: str) -> None:
        """Let `power_cut` come when this stage of an update begins the next time, once.

        Raises:
            ValueError: There is no such stage.
        """
        self.faults.cut_power_at(stage)

    def report(self, patch: Json, *, timeout: float | None = None) -> None:
        """Write reported properties of your own; returns when the hub has acknowledged them.

        Without a connection they wait, merged and in their order, beside those of an update. They
        are kept in memory: a device that stops forgets what it could not say.

        Args:
            patch: A JSON merge patch: None deletes a property.
            timeout: Seconds to wait; the patch stays in its place afterwards.

        Raises:
            FirmwareUpdateError: The device does not run, it ends before the hub answers, or the
                hub refuses the patch.
            HubUnavailable: The hub has not acknowledged it in time.
        """
        loop, life = self._program.loop, self._program.life
        try:
            if loop is None or life is None or not life.is_ready:
                raise concurrent.futures.CancelledError
            work = life.reports.report(patch)
            asyncio.run_coroutine_threadsafe(work, loop).result(timeout)
        except concurrent.futures.TimeoutError as error:
            raise HubUnavailable(
                f"The hub has not acknowledged a report of {self.device_id!r} in {timeout:g} s. "
                "It is sent as soon as the hub is back."
            ) from error
        except concurrent.futures.CancelledError as error:
            raise FirmwareUpdateError(
                f"The device {self.device_id!r} does not run, so it reports nothing. Start it."
            ) from error
        except Exception as error:
            raise no_connection(error, self.device_id) from error

    def __enter__(self) -> SimulatedDevice:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    # -- the background thread --------------------------------------------------------------------

    def _new_program(self) -> DeviceProgram:
        # Weakly, so that a device that nobody uses ends at once, with its board's temporary folder.
        device = weakref.proxy(self)
        return DeviceProgram(self._setup, cut_power=lambda: device.power_cut())

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        finally:
            if _running.get(self._key) is self:
                del _running[self._key]
            self.events.add("stopped", "The device has stopped.")
            self._started.set()

    async def _main(self) -> None:
        asyncio.get_running_loop().set_exception_handler(self._on_loop_error)
        await self._program.run(self._started.set)

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: Json) -> None:
        if not is_harmless(context):
            message, error = context.get("message"), context.get("exception")
            self.events.add("error", f"{message}: {error!r}")
