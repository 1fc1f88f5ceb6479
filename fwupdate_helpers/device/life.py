"""One life of the device's program: from a start of its board to the stop, or to the watchdog."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fwupdate_helpers.connection_string import Secret
from fwupdate_helpers.device.desired import DesiredDesk
from fwupdate_helpers.device.faults import DeviceFaults
from fwupdate_helpers.device.link import STOP_SECONDS, HubLink, silent_hub
from fwupdate_helpers.device.link_policy import LinkPolicy
from fwupdate_helpers.device.methods import MethodDesk, note_failure
from fwupdate_helpers.device.reports import ReportQueue
from fwupdate_helpers.device.sdk_inside import (
    keep_method_requests,
    keep_quiet,
    sign_by_clock,
)
from fwupdate_helpers.device.surroundings import DeviceSurroundings
from fwupdate_helpers.errors import FirmwareUpdateError
from fwupdate_helpers.events import EventLog
from fwupdate_helpers.firmware.agent import UpdateAgent
from fwupdate_helpers.firmware.board import Board, Boot
from fwupdate_helpers.firmware.download_policy import DownloadPolicy
from fwupdate_helpers.sdk_errors import no_connection


@dataclass(frozen=True)
class DeviceSetup:
    """What a `SimulatedDevice` was made with; the names are those of its arguments."""

    device_id: str
    connection_string: Secret
    stage_seconds: float
    board: Board | None
    version: str | None
    policy: DownloadPolicy
    link_policy: LinkPolicy
    faults: DeviceFaults
    events: EventLog
    device_options: dict[str, Any]


class DeviceLife:
    """One life: boot, connect, introduce the device, serve it until the end.

    Args:
        setup: What the device was made with.
        post: Runs a function on the device's loop, from any thread.
        on_end: Called with the reason when the life comes to its end by itself.
        cut_power: Cuts the device's power.
        start_seconds: How long it may take to connect and to get the first answers.

    Attributes:
        has_power: Whether the device has power; `lose_power` ends that.
        is_ready: Whether the device is introduced: its twin is up to date, and it takes orders.
        reports: The reported properties on their way to the hub.
        desk: Answers direct methods.
        desired: Follows the desired properties.
    """

    def __init__(
        self,
        setup: DeviceSetup,
        *,
        post: Callable[..., None],
        on_end: Callable[[FirmwareUpdateError], None],
        cut_power: Callable[[], None],
        start_seconds: float,
    ) -> None:
        self.has_power = True
        self.is_ready = False
        self._setup = setup
        self._on_end = on_end
        self._start_seconds = start_seconds
        self._ending, self._bitten = asyncio.Event(), asyncio.Event()
        self._is_told = True
        self._update: asyncio.Task[None] | None = None
        self._link = self._new_link(post)
        self.reports = ReportQueue(
            lambda patch: self._link.report(patch),
            ready=self._link.ready,
            limit=setup.link_policy.waiting_reports,
        )
        self._agent = UpdateAgent(setup.board, self._surroundings(cut_power), version=setup.version)
        self.desk = MethodDesk(
            self._agent,
            setup.events,
            send=lambda answer: self._link.ask(lambda client: client.send_method_response(answer)),
            run_update=self._run_update,
            allow_http=setup.policy.allow_http,
        )
        self.desired = DesiredDesk(
            self._agent,
            setup.events,
            run_update=self._run_update,
            allow_http=setup.policy.allow_http,
        )
        self._keeping_up: asyncio.Task[None] | None = None

    def _new_link(self, post: Callable[..., None]) -> HubLink:
        setup = self._setup
        return HubLink(
            self._new_client,
            device_id=setup.device_id,
            policy=setup.link_policy,
            events=setup.events,
            post=post,
            on_end=self._on_end,
            now=setup.faults.now,
        )

    def _new_client(self) -> Any:
        from azure.iot.device.aio import IoTHubDeviceClient

        setup = self._setup
        # The link connects again by itself, so the SDK must not; nor must it read the twin by
        # itself, which it does without a pause when the hub is busy.
        own = {"connection_retry": False, "auto_connect": False, "ensure_desired_properties": False}
        options = {**setup.device_options, **own}
        client = IoTHubDeviceClient.create_from_connection_string(
            # The SDK reads the text itself, not what a masked one prints.
            str.__str__(setup.connection_string),
            **options,
        )
        sign_by_clock(client, lambda: setup.faults.clock_offset)
        keep_quiet(client)
        keep_method_requests(client)
        return client

    def _surroundings(self, cut_power: Callable[[], None]) -> DeviceSurroundings:
        setup = self._setup
        return DeviceSurroundings(
            events=setup.events,
            policy=setup.policy,
            stage_seconds=setup.stage_seconds,
            ca_pem=setup.device_options.get("server_verification_cert"),
            faults=setup.faults,
            has_power=lambda: self.has_power,
            write=self.reports.report,
            restart=self._reboot,
            cut_power=cut_power,
            bite=self._reset,
        )

    # -- from the start to the end ----------------------------------------------------------------

    async def run(self, on_ready: Callable[[], None]) -> bool:
        """Live; return whether the watchdog ended it, so that the next life begins.

        Args:
            on_ready: Called when the device is introduced, or does not come so far.
        """
        try:
            await self._until_end(self._begin())
            on_ready()
            await self._until_end(asyncio.Event().wait())
            self.desired.close()  # before the update ends: no other one begins
            if not self._bitten.is_set():
                await self._stop_update()
        finally:
            self.desk.close()
            self.desired.close()
            if self._keeping_up:
                self._keeping_up.cancel()
            if self._update:
                self._update.cancel()
            self.reports.close()
            await self._link.close()
        return self._bitten.is_set() and not self._ending.is_set()

    def end(self, *, quietly: bool = False) -> None:
        """Come to the end; on the device's loop.

        Args:
            quietly: Do not tell the hub.
        """
        self._is_told &= not quietly
        self._link.give_up()
        self._ending.set()

    def lose_power(self) -> None:
        """Lose the power and the connection, from any thread; then `end` it."""
        self.has_power = False
        self._link.cut()

    async def _until_end(self, work: Awaitable[object]) -> None:
        """Await `work`, or give it up when the life is to end."""
        ends = [asyncio.ensure_future(event.wait()) for event in (self._ending, self._bitten)]
        task = asyncio.ensure_future(work)
        await asyncio.wait({task, *ends}, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        if task.done():
            task.result()
        task.cancel()

    async def _begin(self) -> None:
        """Boot, connect, introduce the device."""
        seconds, setup = self._start_seconds, self._setup
        try:
            boot = await self._boot()
            await self._link.open(seconds)
            introduction = self._introduce(boot)
            await asyncio.wait_for(introduction, None if math.isinf(seconds) else seconds)
        except asyncio.TimeoutError:
            is_unsteady = self._link.is_unsteady
            self._on_end(silent_hub(setup.device_id, seconds, is_unsteady=is_unsteady))
        except FirmwareUpdateError as error:
            self._on_end(error)
        except Exception as error:
            self._on_end(no_connection(error, setup.device_id, setup.faults.now()))

    async def _introduce(self, boot: Boot | None) -> None:
        desired = self.desired
        await self._link.listen(self.desk.take, desired.take_patch, desired.stale.set)
        twin = await self._link.read_twin()
        desired.take_twin(twin["desired"])
        goes_on = await self._agent.start(boot, twin["reported"], desired.judge)
        self.is_ready = True
        self.desk.introduced.set()
        self._setup.events.add("ready", "Device twins initialized.")
        if goes_on:
            self._run_update()
        desired.open()
        self._keeping_up = asyncio.ensure_future(desired.keep_up(self._link.read_twin))

    # -- the board --------------------------------------------------------------------------------

    async def _boot(self) -> Boot | None:
        """Let the boot loader start an image; one that hangs is reset by the watchdog."""
        board, events = self._setup.board, self._setup.events
        if board is None:
            return None
        boot = board.reset()
        while boot.hangs and boot.trial_of is not None:
            events.add("hang", f"Version {boot.version} hangs; the watchdog will reset it.")
            await asyncio.sleep(board.watchdog_seconds)
            boot = board.reset()
        events.add("booted", f"Version {boot.version} has started from slot {boot.slot}.")
        return boot

    async def _reboot(self) -> Boot:
        """Disconnect, boot, and connect again; firmware on trial has a limited time for that."""
        await self._link.leave()
        await asyncio.sleep(self._setup.stage_seconds)
        boot = await self._boot()
        if boot is None:
            raise RuntimeError("a device without a board does not reboot")
        self._agent.boot = boot
        on_trial = boot.trial_of is not None
        try:
            limit = self._setup.link_policy.trial_seconds if on_trial else math.inf
            await self._link.open(limit)
        except FirmwareUpdateError as error:
            if not on_trial:
                self._on_end(error)
                raise
            self._setup.events.add("rejected", "The new image does not reach the hub.")
            return await self._reboot()
        return boot

    def _reset(self) -> None:
        """Start the board anew, as its watchdog does: no clean-up runs, and no farewell."""
        self._setup.events.add("hang", f"The device hangs while {self._agent.stage}; it is reset.")
        if self._setup.board is not None:
            self._setup.board.watchdog_reset()
        self._link.cut()
        self._bitten.set()

    # -- the update -------------------------------------------------------------------------------

    def _run_update(self) -> None:
        self._update = asyncio.ensure_future(self._agent.run())
        self._update.add_done_callback(lambda task: note_failure(task, self._setup.events))
        self._update.add_done_callback(lambda task: self.desired.heed())

    async def _stop_update(self) -> None:
        """End or leave the update that runs: one of an image goes on after the next start."""
        update = self._update
        if update is None or update.done():
            return
        if self.has_power and self._agent.is_ending:  # the hub may have its last report already
            await asyncio.wait({update}, timeout=STOP_SECONDS)
            return
        stage = self._agent.stage
        update.cancel()
        await asyncio.wait({update}, timeout=STOP_SECONDS)
        told = self._link.is_connected and self._is_told and self.has_power
        if self._agent.can_resume or not told:
            return
        try:
            message = f"The device was stopped while {stage}."
            await asyncio.wait_for(self._agent.interrupt(message), STOP_SECONDS)
        except Exception:  # whatever it is, the device must end
            self._setup.events.add("error", "The hub was not told that the update was interrupted.")
