"""The update agent: walks an update from the order to a confirmed new version, or back.

What the twin should tell is one JSON object, the `Logbook`. Every step changes it, keeps it on the
flash chip, and only then reports what is new in it; so after a loss of power the agent knows where
it was. The agent has no SDK, no clock and no network of its own: the device around it hands them
in.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from fwupdate_helpers import contract
from fwupdate_helpers.contract import UpdateOrder
from fwupdate_helpers.errors import StageError
from fwupdate_helpers.firmware import orders
from fwupdate_helpers.firmware.board import Board, Boot, other_slot
from fwupdate_helpers.firmware.desired import Verdict, judge
from fwupdate_helpers.firmware.download import shown
from fwupdate_helpers.firmware.logbook import Logbook
from fwupdate_helpers.firmware.orders import Answer
from fwupdate_helpers.firmware.stages import reason, self_test_problem, stages_of, unless_cancelled
from fwupdate_helpers.firmware.surroundings import Surroundings

Json = dict[str, Any]

_STAGE_WORDS: Final = {
    contract.DOWNLOADING: "Downloading image from: {}",
    contract.VERIFYING: "Verifying image.",
    contract.APPLYING: "Applying image from: {}",
    contract.REBOOTING: "Rebooting into the new image.",
}


class UpdateAgent:
    """One device's updates, one at a time.

    Args:
        board: The hardware; None for a device that can only walk simulated updates.
        around: The device around the agent.
        version: What a device without a board runs as long as its twin tells no version.

    Attributes:
        boot: What the boot loader started; None without a board.
        is_ending: Whether the end of the update is being reported.
    """

    def __init__(
        self, board: Board | None, around: Surroundings, *, version: str | None = None
    ) -> None:
        self.board = board
        self.boot: Boot | None = None
        self.is_ending = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._around, self._version = around, version
        self._log = Logbook(board, around)
        self._order: UpdateOrder | None = None
        self._cancelled = asyncio.Event()
        self._switching = False

    @property
    def busy(self) -> bool:
        """Whether an update runs."""
        return not self._idle.is_set()

    async def settled(self) -> None:
        """Return at once, unless an update is at its very end: then when it has ended.

        The hub may have the last report before the device knows of it, so a service that has read
        it may ask for the next update already.
        """
        if self.is_ending:
            await self._idle.wait()

    # -- what a service asks ----------------------------------------------------------------------

    def answer_at_once(self, order: UpdateOrder) -> Answer | None:
        """Return the answer to an order that starts nothing; None when the update can begin."""
        if repeated := orders.answer_repeated(order, self._log.record):
            return repeated
        return orders.busy() if self.busy else orders.answer_for_board(order, self.boot)

    def judge(self, content: Any, *, allow_http: bool) -> Verdict | None:
        """Decide about a desired firmware; see `fwupdate_helpers.firmware.desired.judge`."""
        return judge(
            content,
            heeded=self._log.heeded,
            interrupted=self._log.was_interrupted,
            is_current=self._log.is_current,
            running=self.boot.version if self.boot else self._log.version,
            boot=self.boot,
            allow_http=allow_http,
        )

    def cancel(self, update_id: str | None) -> Answer:
        """Give the running update up at its next safe point, or tell why not.

        Args:
            update_id: The update that is meant; None means whichever runs.
        """
        runs = self.busy and not self.is_ending
        running = self._log.record["updateId"] if runs else None
        if refused := orders.refused_cancel(update_id, running, switching=self._switching):
            return refused
        self._cancelled.set()
        return 200, dict(contract.RESPONSE_CANCELLED)

    # -- begin ------------------------------------------------------------------------------------

    async def begin(self, order: UpdateOrder) -> None:
        """Open an update: on the flash chip, then in the twin. `run` walks it.

        Raises:
            Exception: The hub did not take the report; the update is closed again.
        """
        self._open(order)
        await self.report()

    def heed(self, verdict: Verdict) -> None:
        """Do what a desired firmware comes to, all but to keep and to `report` it.

        Only while no update runs. When the verdict is an update, `run` walks it afterwards.
        """
        self._log.heed(verdict.update_id)
        if verdict.order is not None:
            self._open(verdict.order)
        elif verdict.code is not None:
            self._log.refuse(verdict, self._now())

    async def report(self) -> None:
        """Bring what is to be told to the chip and to the hub.

        Raises:
            Exception: The hub did not take it; an update that has just begun is closed again.
        """
        opens = self.busy
        try:
            await self._log.advance({})
        except Exception as error:
            if not opens:
                raise
            self._idle.set()
            self._log.disown()
            message = f"The update was not begun: it could not be reported ({reason(error)})."
            self._close(
                contract.error_patch(self._now(), contract.WAITING, contract.CODE_INTERNAL, message)
            )
            raise

    def _open(self, order: UpdateOrder) -> None:
        self._prepare(order)
        self._log.open(order)
        self._log.tell(contract.opening_patch(order.update_id, self._now(), order.version))

    def _prepare(self, order: UpdateOrder) -> None:
        self._idle.clear()
        self.is_ending = self._switching = False
        self._order = order
        self._cancelled.clear()

    # -- after a start ----------------------------------------------------------------------------

    async def start(
        self,
        boot: Boot | None,
        reported: Json,
        desired: Callable[[], Verdict | None] = lambda: None,
    ) -> bool:
        """Bring flash chip and twin together after a start of the device.

        Args:
            boot: What the boot loader started.
            reported: The reported properties as the hub has them.
            desired: Judges the desired firmware, once all else is known.

        Returns:
            Whether there is an update to go on with, by `run`.
        """
        self.boot = boot
        self._log.read(reported)
        if self._log.record:
            self._recall()
        else:
            self._log.told = self._log.acknowledged
            self._log.tell(contract.started_patch(self._now(), self._log.told))
        self._log.tell(self._firmware())
        verdict = None if self.busy else desired()
        if verdict is not None:
            if self._log.is_unheard and not self._log.is_about(verdict.update_id):
                await self._log.advance({})  # the hub hears of the end of the other update first
            self.heed(verdict)
        await self._log.advance({})
        return self.busy

    def _recall(self) -> None:
        self._log.told = self._log.record["told"]
        order = self._log.record["order"]
        if order is not None:
            self._recover(UpdateOrder(**order))
        elif not self._log.is_unheard:  # otherwise the hub hears of the end first
            self._log.tell(contract.stand_by_patch(self._now()))
        if order is None and self.board:
            self.board.drop_download()

    def _recover(self, order: UpdateOrder) -> None:
        if order.is_simulated:
            self._close(contract.started_patch(self._now(), self._log.told))
            return
        self._prepare(order)
        action, attempt = contract.RESUMED, self._log.record["attempt"]
        if self.boot and attempt in (self.boot.trial_of, self.boot.last_update):
            self._switching = True
        if self.boot and self.boot.by_watchdog and not self._switching:
            self._end_after_hang()
            return
        if self.boot and attempt == self.boot.last_update:
            action = contract.ROLLED_BACK_ACTION if self.boot.rolled_back else contract.CONFIRMED
        self._log.recall_progress(order)
        self._around.note("recovered", f"The update that lost its power is {action}.")
        self._log.tell(contract.recovery_patch(self._now(), action))

    def _end_after_hang(self) -> None:
        """Fail: what got stuck once would get stuck again."""
        message = f"The device hung while {self.stage}, and its watchdog reset it."
        self._around.note("failed", message)
        self._idle.set()
        self._close(contract.error_patch(self._now(), self.stage, contract.CODE_WATCHDOG, message))

    # -- the walk ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Walk the update from where it is to its end; whatever fails ends it in an error."""
        try:
            await self._walk()
        except Exception as error:
            await self._end_badly(error)
        finally:
            self._idle.set()

    async def _end_badly(self, error: Exception) -> None:
        if self.is_ending:  # the end is on the chip; the hub hears of it after the next start
            self._around.note("error", f"The hub did not take the last report: {reason(error)}")
        elif isinstance(error, StageError):
            await self._fail(error.code, str(error))
        elif self._switching:  # only the boot loader can tell what runs next: the next start judges
            self._around.note("error", f"The reboot went wrong: {reason(error)}")
        else:
            full = isinstance(error, OSError) and error.errno == errno.ENOSPC
            code = contract.CODE_DISK_FULL if full else contract.CODE_INTERNAL
            await self._fail(code, f"The update failed while {self.stage}: {reason(error)}.")

    @property
    def stage(self) -> str:
        """The stage that has begun and not ended."""
        return self._log.stage

    async def _walk(self) -> None:
        order = self._the_order
        if self._switching:  # the power was lost after the switch
            await self._judge(self._the_boot)
            return
        stages = stages_of(order, self._log, self._around, board=self.board, boot=self.boot)
        for stage, work in stages.items():
            if contract.STAGES.index(stage) >= contract.STAGES.index(self.stage):
                await self._enter(stage)
                await unless_cancelled(work(), self._cancelled)
                self._raise_if_cancelled()
        self._around.note("applied", "Image applied.")
        if order.is_simulated:
            await self._complete(contract.APPLYING)
        else:
            await self._switch()

    @property
    def _the_order(self) -> UpdateOrder:
        if self._order is None:
            raise RuntimeError("there is no update to walk")
        return self._order

    async def _enter(self, stage: str) -> None:
        uri = self._the_order.package_uri
        if stage in _STAGE_WORDS:
            self._around.note(stage, _STAGE_WORDS[stage].format(shown(uri)))
        if stage != self.stage:  # otherwise it is resumed, and began when it began
            await self._log.advance(contract.stage_patch(self._now(), self.stage, stage))
        await self._around.begins(stage)

    def _raise_if_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise StageError(contract.CODE_CANCELLED, "The service cancelled the update.")

    async def _switch(self) -> None:
        self._raise_if_cancelled()
        self._switching = True
        self._log.tell(self._firmware())
        await self._enter(contract.REBOOTING)
        self._the_board.arm(other_slot(self._the_boot.slot), self._log.record["attempt"])
        await self._judge(await self._around.reboot())

    async def _judge(self, boot: Boot) -> None:
        """Decide after a reboot: confirm the new image, go back to the old one, or end."""
        self.boot, attempt = boot, self._log.record["attempt"]
        if boot.trial_of == attempt:
            problem = self_test_problem(boot, hardware_passes=self._around.hardware_passes())
            if problem is None:
                self._the_board.confirm()
                await self._complete(contract.REBOOTING)
                return
            self._around.note("rejected", problem)
            self._log.record["failure"] = [contract.CODE_SELF_TEST, problem]
            self._log.save()
            self._the_board.reject()
            await self._judge(await self._around.reboot())
        elif boot.last_update == attempt and not boot.rolled_back:
            await self._complete(contract.REBOOTING)
        else:
            await self._roll_back(boot)

    # -- ends -------------------------------------------------------------------------------------

    async def _complete(self, stage: str) -> None:
        await self._end(contract.completed_patch(self._now(), stage))
        self._around.note("completed", "Firmware update completed.")

    async def _roll_back(self, boot: Boot) -> None:
        code, problem = self._log.record.get("failure") or (
            contract.CODE_NOT_CONFIRMED,
            "The new image was started and did not confirm in time that it works.",
        )
        message = f"{problem} The device is back on version {boot.version}."
        patch = contract.error_patch(self._now(), self.stage, code, message, contract.ROLLED_BACK)
        await self._end(patch)
        self._around.note("rolledback", message)

    async def _fail(self, code: str, message: str) -> None:
        self._around.note("failed", message)
        await self._end(contract.error_patch(self._now(), self.stage, code, message))

    async def interrupt(self, message: str) -> None:
        """End a simulated update that the device cannot resume."""
        await self._end(
            contract.error_patch(self._now(), self.stage, contract.CODE_INTERRUPTED, message)
        )

    @property
    def can_resume(self) -> bool:
        """Whether the update that runs goes on, or begins anew, after the next start."""
        order = self._the_order
        return order.update_id == self._log.heeded or (
            self.board is not None and not order.is_simulated
        )

    async def _end(self, patch: Json) -> None:
        self.is_ending = True
        self._close(patch)
        await self._log.mirror()

    def _close(self, patch: Json) -> None:
        self._log.tell(patch)
        self._log.close()
        self._log.tell(self._firmware())
        self._log.save_the_end()

    # -- small things -----------------------------------------------------------------------------

    def _firmware(self) -> Json:
        if self.board is None or self.boot is None:
            first = self._version if self._log.version is None else None
            return {contract.FIRMWARE: {contract.CURRENT_VERSION: first}} if first else {}
        pending = (self._log.told.get(contract.UPDATE) or {}).get(contract.VERSION)
        return contract.firmware_patch(
            self.boot.version,
            pending if self._log.record.get("order") else None,
            self.boot.slot,
            self.board.slots(),
        )

    def _now(self) -> datetime:
        return self._around.now()

    @property
    def _the_board(self) -> Board:
        if self.board is None:
            raise RuntimeError("an image needs a board")
        return self.board

    @property
    def _the_boot(self) -> Boot:
        if self.boot is None:
            raise RuntimeError("the board has not started")
        return self.boot
