"""One device of a fleet, on the loop that it shares with the others of its worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fwupdate_helpers.connection_string import Secret
from fwupdate_helpers.device.faults import DeviceFaults
from fwupdate_helpers.device.life import DeviceSetup
from fwupdate_helpers.device.link_policy import LinkPolicy
from fwupdate_helpers.device.program import DeviceProgram
from fwupdate_helpers.events import EventLog
from fwupdate_helpers.firmware.board import Board
from fwupdate_helpers.firmware.download_policy import DownloadPolicy
from fwupdate_helpers.fleet.lines import (
    FAILED,
    OFFLINE,
    ONLINE,
    STARTING,
    SWITCHED_OFF,
    Member,
    Task,
)

OnState = Callable[[int, str, str], None]
"""Told a device's number, its new state and, where it failed, the reason."""

_LINK: Final = LinkPolicy(start_seconds=120.0, connect_seconds=60.0, longest_wait=10.0)
"""A thousand devices that come at once keep a hub busy for longer than one does."""
_EVENTS: Final = 50


@dataclass(frozen=True)
class Common:
    """What all devices of a worker share.

    Attributes:
        task: The worker's task.
        folder: Where the boards lie.
        images: For each version, the file of the factory's image.
        gate: So many devices at most connect at the same time.
        on_state: Told each change of a device's state.
    """

    task: Task
    folder: Path
    images: dict[str, Path]
    gate: asyncio.Semaphore
    on_state: OnState


class FleetDevice:
    """A device that can be switched on and off, and that loses its power and gets it back.

    Args:
        member: Which one it is.
        common: What it shares with others.
    """

    def __init__(self, member: Member, common: Common) -> None:
        self._member, self._common = member, common
        self._setup: DeviceSetup | None = None
        self._program: DeviceProgram | None = None
        self._is_wanted = asyncio.Event()
        self._is_unwanted = asyncio.Event()
        self._is_unwanted.set()
        self._running: asyncio.Task[None] | None = None
        self._has_power = True
        self._state = SWITCHED_OFF

    def switch_on(self) -> None:
        """Let it run; harmless when it does."""
        self._is_wanted.set()
        self._is_unwanted.clear()
        if self._running is None or self._running.done():
            self._running = asyncio.ensure_future(self._run())

    def switch_off(self) -> None:
        """Let it end, with a farewell; harmless when it does not run."""
        self._is_wanted.clear()
        self._is_unwanted.set()
        if self._program is not None:
            self._program.end(None)
        elif self._running is None or self._running.done():
            self._tell(SWITCHED_OFF)

    async def ended(self) -> None:
        """Return when it has ended."""
        if self._running is not None:
            await asyncio.wait({self._running})

    # -- from on to off ---------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while self._is_wanted.is_set():
                program = self._begin()
                await self._run_program(program)
                if program.error is not None:
                    self._tell(FAILED, str(program.error))
                    return
                if self._has_power:
                    continue  # it was switched off, and perhaps on again meanwhile
                self._tell(OFFLINE)
                await self._outage()
            self._tell(SWITCHED_OFF)
        except Exception as error:  # of the board; whatever it is, the owner must hear of it
            self._tell(FAILED, f"{type(error).__name__}: {error}")

    def _begin(self) -> DeviceProgram:
        self._has_power = True
        self._tell(STARTING)
        if self._setup is None:
            self._setup = self._new_setup()
        if self._setup.board is not None:
            self._setup.board.switch_on()
        self._program = DeviceProgram(self._setup, cut_power=self._lose_power)
        return self._program

    async def _run_program(self, program: DeviceProgram) -> None:
        """Run a program; it gets through the gate alone, and leaves it once it is introduced."""
        gate = Turn(self._common.gate)
        if not await gate.enter(unless=self._is_unwanted):
            return
        try:
            if self._is_wanted.is_set():
                await program.run(gate.leave)
        finally:
            gate.leave()
            self._program = None

    async def _outage(self) -> None:
        """Wait for the power to come back, or to be switched off for good."""
        try:
            await asyncio.wait_for(self._is_unwanted.wait(), self._common.task.outage_seconds)
        except asyncio.TimeoutError:
            return

    def _lose_power(self) -> None:
        program, self._has_power = self._program, False
        if program is not None:
            program.lose_power()
            program.post(program.end, None)

    # -- what it is -------------------------------------------------------------------------------

    def _new_setup(self) -> DeviceSetup:
        member, task, faults = self._member, self._common.task, _faults_of(self._member)
        string = f"HostName={task.host};DeviceId={member.device_id};SharedAccessKey={member.key}"
        return DeviceSetup(
            device_id=member.device_id,
            connection_string=Secret(string),
            stage_seconds=task.stage_seconds,
            board=self._new_board(),
            version=None,
            policy=DownloadPolicy(bytes_per_second=member.bytes_per_second),
            link_policy=_LINK,
            faults=faults,
            events=_ToldLog(self._note),
            device_options=task.device_options,
        )

    def _new_board(self) -> Board:
        member, common = self._member, self._common
        return Board(
            common.images[member.version],
            Ed25519PublicKey.from_public_bytes(common.task.publisher_key),
            hardware=member.model,
            folder=common.folder / f"board-{member.index}",
            watchdog_seconds=common.task.watchdog_seconds,
            # The boards end with this process: nobody starts them after a loss of the computer's
            # power, and a thousand updates would wait 20,000 times for the disk.
            host_sync=False,
        )

    def _note(self, kind: str) -> None:
        if kind == "ready" or (kind == "connected" and self._is_ready):
            self._tell(ONLINE)
        elif kind == "disconnected":
            self._tell(OFFLINE)

    @property
    def _is_ready(self) -> bool:
        life = self._program.life if self._program else None
        return life is not None and life.is_ready

    def _tell(self, state: str, why: str = "") -> None:
        if state != self._state:
            self._state = state
            self._common.on_state(self._member.index, state, why)


class Turn:
    """One device's turn at the gate; `leave` counts once."""

    def __init__(self, gate: asyncio.Semaphore) -> None:
        self._gate, self._is_inside = gate, False

    async def enter(self, *, unless: asyncio.Event) -> bool:
        """Wait for the turn; return False when `unless` comes first."""
        turn = asyncio.ensure_future(self._gate.acquire())
        give_up = asyncio.ensure_future(unless.wait())
        await asyncio.wait({turn, give_up}, return_when=asyncio.FIRST_COMPLETED)
        give_up.cancel()
        self._is_inside = turn.done()
        turn.cancel()
        return self._is_inside

    def leave(self) -> None:
        """Let the next one in."""
        if self._is_inside:
            self._is_inside = False
            self._gate.release()


class _ToldLog(EventLog):
    """A short log that tells somebody of each event."""

    def __init__(self, on_event: Callable[[str], None]) -> None:
        super().__init__(_EVENTS)
        self._on_event = on_event

    def add(self, kind: str, text: str) -> None:
        super().add(kind, text)
        self._on_event(kind)


def _faults_of(member: Member) -> DeviceFaults:
    faults = DeviceFaults()
    if member.fails_self_test:
        faults.fail_self_test()
    if member.hangs:
        faults.hang_while_applying()
    if member.loses_power_at is not None:
        faults.cut_power_at(member.loses_power_at)
    return faults
