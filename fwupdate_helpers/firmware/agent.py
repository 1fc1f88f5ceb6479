"""The update agent: walks an update from the order to a confirmed new version, or back.

What the twin should tell is one JSON object. Every step changes it, keeps it on the flash chip, and
only then reports what is new in it; so after a loss of power the agent knows where it was, and the
twin is never ahead of the device. The agent has no SDK, no clock and no network of its own: the
device around it hands them in.
"""

from __future__ import annotations

import asyncio
import errno
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from fwupdate_helpers import contract
from fwupdate_helpers.contract import UpdateOrder
from fwupdate_helpers.errors import StageError
from fwupdate_helpers.firmware.board import DOWNLOAD_FILE, Board, Boot, other_slot
from fwupdate_helpers.firmware.download import shown
from fwupdate_helpers.firmware.download_file import DownloadFile
from fwupdate_helpers.firmware.image import check_version
from fwupdate_helpers.firmware.surroundings import Surroundings
from fwupdate_helpers.merge import difference, merge

Json = dict[str, Any]
Answer = tuple[int, Json]

PROGRESS_SECONDS: Final = 0.5
"""At most two progress reports a second."""
_STEPS: Final = 20
_OWN_KEYS: Final = (
    contract.STATUS,
    contract.LOG_TIME,
    contract.DOWNLOAD_COMPLETE,
    contract.STARTED_APPLYING,
    contract.LAST_UPDATE,
    contract.UPDATE,
    contract.FIRMWARE,
)


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

    Attributes:
        boot: What the boot loader started; None without a board.
        busy: Whether an update runs.
        is_ending: Whether the end of the update is being reported.
    """

    def __init__(self, board: Board | None, around: Surroundings) -> None:
        self.board = board
        self.boot: Boot | None = None
        self.busy = False
        self.is_ending = False
        self._around = around
        self._record: Json = {}
        self._order: UpdateOrder | None = None
        self._told: Json = {}
        self._acknowledged: Json = {}
        self._cancelled = asyncio.Event()
        self._switching = False
        self._mirroring = asyncio.Lock()

    # -- what a service asks ----------------------------------------------------------------------

    def answer_at_once(self, order: UpdateOrder) -> Answer | None:
        """Return the answer to an order that starts nothing; None when the update can begin."""
        if self._record.get("updateId") == order.update_id:
            return self._answer_repeated(order)
        if self.busy:
            return 409, refusal("busy", "A firmware update is already running.")
        if self.board is None and not order.is_simulated:
            return 400, refusal(
                "noBoard",
                "This device has no board with a flash chip and a publisher's key, so it takes no "
                "image. Give SimulatedDevice a board, or send a name without a scheme.",
            )
        if self.board and order.is_simulated and _means_an_image(order):
            return 400, refusal(
                contract.CODE_URI_REFUSED,
                "The package URI has no scheme, so no image could be fetched. Write https:// in "
                "front of it.",
            )
        if self._runs_already(order):
            return 200, dict(contract.RESPONSE_UP_TO_DATE)
        return None

    def _answer_repeated(self, order: UpdateOrder) -> Answer:
        if self._record["fingerprint"] == order.fingerprint:
            return 200, dict(contract.RESPONSE_REPEATED)
        return 409, refusal(
            "updateIdInUse", "Another order had this updateId. Give each update its own."
        )

    def _runs_already(self, order: UpdateOrder) -> bool:
        if self.boot is None or order.version is None or order.allow_downgrade:
            return False
        running = contract.parse_version(self.boot.version)
        return contract.parse_version(order.version) == running

    def cancel(self, update_id: str | None) -> Answer:
        """Give the running update up at its next safe point, or tell why not.

        Args:
            update_id: The update that is meant; None means whichever runs.
        """
        if not self.busy or self.is_ending:
            return 409, refusal("noUpdate", "No firmware update is running.")
        if update_id not in (None, self._record["updateId"]):
            return 409, refusal("otherUpdate", "Another firmware update is running.")
        if self._switching:
            return 409, refusal(
                "tooLate",
                "The device is switching to the new image and cannot stop half-way. Update to the "
                f"older version afterwards, with {contract.ALLOW_DOWNGRADE!r}.",
            )
        self._cancelled.set()
        return 200, dict(contract.RESPONSE_CANCELLED)

    # -- begin ------------------------------------------------------------------------------------

    async def begin(self, order: UpdateOrder) -> None:
        """Open an update: on the flash chip, then in the twin. `run` walks it.

        Raises:
            Exception: The hub did not take the report; the update is closed again.
        """
        self._prepare(order)
        self._record = {
            "updateId": order.update_id,
            "fingerprint": order.fingerprint,
            "attempt": uuid.uuid4().hex,  # an update id may come back after another update
            "order": asdict(order),
        }
        patch = contract.opening_patch(order.update_id, self._now(), order.version)
        try:
            await self._advance(patch)
        except Exception as error:
            self.busy = False
            # Forgotten, so that the service may ask for the same update again.
            self._record |= {"updateId": None, "fingerprint": None}
            message = f"The update was not begun: it could not be reported ({_reason(error)})."
            self._close(
                contract.error_patch(self._now(), contract.WAITING, contract.CODE_INTERNAL, message)
            )
            raise

    def _prepare(self, order: UpdateOrder) -> None:
        self.busy, self.is_ending, self._switching = True, False, False
        self._order = order
        self._cancelled.clear()

    # -- after a start ----------------------------------------------------------------------------

    async def start(self, boot: Boot | None, reported: Json) -> bool:
        """Bring flash chip and twin together after a start of the device.

        Args:
            boot: What the boot loader started.
            reported: The reported properties as the hub has them.

        Returns:
            Whether there is an update to go on with, by `run`.
        """
        self.boot = boot
        self._acknowledged = {key: reported[key] for key in _OWN_KEYS if key in reported}
        self._record = (self.board.read_record() if self.board else None) or {}
        if not self._record:
            patch = contract.started_patch(self._now(), self._acknowledged)
            self._told = merge(self._acknowledged, patch)
        else:
            self._recall()
        await self._advance(self._firmware())
        return self.busy

    def _recall(self) -> None:
        self._told = self._record["told"]
        unheard = self._acknowledged.get(contract.UPDATE) != self._told.get(contract.UPDATE)
        order = self._record["order"]
        if order is not None:
            self._recover(UpdateOrder(**order))
        elif not unheard:  # otherwise the hub hears of the end first
            self._told = merge(self._told, contract.stand_by_patch(self._now()))
        if order is None and self.board:
            self.board.drop_download()

    def _recover(self, order: UpdateOrder) -> None:
        if order.is_simulated:
            self._close(contract.started_patch(self._now(), self._told))
            return
        self._prepare(order)
        action, attempt = contract.RESUMED, self._record["attempt"]
        if self.boot and attempt in (self.boot.trial_of, self.boot.last_update):
            self._switching = True
        if self.boot and attempt == self.boot.last_update:
            action = contract.ROLLED_BACK_ACTION if self.boot.rolled_back else contract.CONFIRMED
        self._keep_progress(order)
        self._around.note("recovered", f"The update that lost its power is {action}.")
        self._told = merge(self._told, contract.recovery_patch(self._now(), action))

    def _keep_progress(self, order: UpdateOrder) -> None:
        """Tell what is on the chip, of the total that the hub has heard of."""
        heard = self._acknowledged.get(contract.UPDATE) or {}
        total = heard.get(contract.TOTAL)
        if heard.get(contract.UPDATE_ID) != order.update_id or not total:
            return
        received = self._the_board.flash.size(DOWNLOAD_FILE)
        self._told = merge(self._told, contract.progress_patch(received / total, received, total))

    # -- the walk ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Walk the update from where it is to its end; whatever fails ends it in an error."""
        try:
            await self._walk()
        except Exception as error:
            await self._end_badly(error)
        finally:
            self.busy = False

    async def _end_badly(self, error: Exception) -> None:
        if self.is_ending:  # the end is on the chip; the hub hears of it after the next start
            self._around.note("error", f"The hub did not take the last report: {_reason(error)}")
        elif isinstance(error, StageError):
            await self._fail(error.code, str(error))
        elif self._switching:  # only the boot loader can tell what runs next: the next start judges
            self._around.note("error", f"The reboot went wrong: {_reason(error)}")
        else:
            full = isinstance(error, OSError) and error.errno == errno.ENOSPC
            code = contract.CODE_DISK_FULL if full else contract.CODE_INTERNAL
            await self._fail(code, f"The update failed while {self.stage}: {_reason(error)}.")

    @property
    def stage(self) -> str:
        """The stage that has begun and not ended."""
        return contract.open_stage(self._told) or contract.WAITING

    async def _walk(self) -> None:
        order = self._the_order
        if self._switching:  # the power was lost after the switch
            await self._judge(self._the_boot)
            return
        work: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            contract.WAITING: self._around.pause,
            contract.DOWNLOADING: self._download,
            contract.VERIFYING: self._verify,
            contract.APPLYING: self._apply,
        }
        if order.is_simulated:
            work |= {contract.DOWNLOADING: self._transfer, contract.APPLYING: self._around.pause}
            del work[contract.VERIFYING]
        for stage, walk in work.items():
            if contract.STAGES.index(stage) >= contract.STAGES.index(self.stage):
                await self._enter(stage)
                await self._unless_cancelled(walk())
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
            await self._advance(contract.stage_patch(self._now(), self.stage, stage))

    async def _unless_cancelled(self, work: Coroutine[Any, Any, None]) -> None:
        task, given_up = asyncio.ensure_future(work), asyncio.ensure_future(self._cancelled.wait())
        try:
            await asyncio.wait({task, given_up}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            given_up.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        if not task.cancelled():
            task.result()
        if self._cancelled.is_set():
            raise StageError(contract.CODE_CANCELLED, "The service cancelled the update.")

    async def _transfer(self) -> None:
        """Let the time of a download pass: a URI without a scheme leads to no image."""
        await self._with_progress(self._pass_time())

    async def _pass_time(self) -> None:
        for step in range(1, _STEPS + 1):
            await self._around.pause(1 / _STEPS)
            self._told = merge(self._told, contract.progress_patch(step / _STEPS))

    async def _download(self) -> None:
        sink = DownloadFile(self._the_board, self._record)
        uri = self._the_order.package_uri
        await self._with_progress(self._around.download(uri, sink, self._note_progress))

    def _note_progress(self, received: int, total: int | None) -> None:
        share = received / total if total else 0.0
        self._told = merge(self._told, contract.progress_patch(share, received, total))

    async def _with_progress(self, work: Coroutine[Any, Any, None]) -> None:
        """Report the progress beside the work, never more often than `PROGRESS_SECONDS`."""
        done = asyncio.Event()
        reporter = asyncio.ensure_future(self._report_progress(done))
        try:
            await work
        finally:
            done.set()
            await reporter

    async def _report_progress(self, done: asyncio.Event) -> None:
        while True:
            try:
                await asyncio.wait_for(done.wait(), PROGRESS_SECONDS)
                return
            except asyncio.TimeoutError:
                await self._mirror_if_possible()

    async def _mirror_if_possible(self) -> None:
        try:
            await self._mirror()
        except Exception as error:  # the next report tells it all
            self._around.note("retry", f"The progress was not reported: {_reason(error)}")

    async def _verify(self) -> None:
        await self._around.pause()
        board, order, boot = self._the_board, self._the_order, self._the_boot
        image = await asyncio.to_thread(board.verify, DOWNLOAD_FILE)
        check_version(
            image,
            running=boot.version,
            expected=order.version,
            check_value=order.check_value,
            allow_downgrade=order.allow_downgrade,
        )
        patch = {contract.UPDATE: {contract.VERSION: image.manifest.version}}
        self._told = merge(self._told, patch)

    async def _apply(self) -> None:
        await self._around.pause()
        for _ in self._the_board.copy_download(other_slot(self._the_boot.slot)):
            await asyncio.sleep(0)

    async def _switch(self) -> None:
        if self._cancelled.is_set():
            raise StageError(contract.CODE_CANCELLED, "The service cancelled the update.")
        self._switching = True
        self._told = merge(self._told, self._firmware())
        await self._enter(contract.REBOOTING)
        self._the_board.arm(other_slot(self._the_boot.slot), self._record["attempt"])
        await self._judge(await self._around.reboot())

    async def _judge(self, boot: Boot) -> None:
        """Decide after a reboot: confirm the new image, go back to the old one, or end."""
        self.boot, attempt = boot, self._record["attempt"]
        if boot.trial_of == attempt:
            problem = self._self_test(boot)
            if problem is None:
                self._the_board.confirm()
                await self._complete(contract.REBOOTING)
                return
            self._around.note("rejected", problem)
            self._record["failure"] = [contract.CODE_SELF_TEST, problem]
            self._save()
            self._the_board.reject()
            await self._judge(await self._around.reboot())
        elif boot.last_update == attempt and not boot.rolled_back:
            await self._complete(contract.REBOOTING)
        else:
            await self._roll_back(boot)

    def _self_test(self, boot: Boot) -> str | None:
        """Return what is wrong with the image on trial; None when it works.

        That the device is connected again is the first half of the test.
        """
        if boot.image.behaviour == "failsSelfTest":
            return f"Version {boot.version} does not pass its self-test."
        return None

    # -- ends -------------------------------------------------------------------------------------

    async def _complete(self, stage: str) -> None:
        await self._end(contract.completed_patch(self._now(), stage))
        self._around.note("completed", "Firmware update completed.")

    async def _roll_back(self, boot: Boot) -> None:
        code, problem = self._record.get("failure") or (
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
        """Whether the update that runs goes on after the next start."""
        return self.board is not None and not self._the_order.is_simulated

    async def _end(self, patch: Json) -> None:
        self.is_ending = True
        self._close(patch)
        await self._mirror()

    def _close(self, patch: Json) -> None:
        self._told = merge(self._told, patch)
        self._record |= {"order": None}  # with it goes the URI, which may hold a signature
        self._told = merge(self._told, self._firmware())
        try:
            self._save()
        except OSError:  # no room; there is some without the download
            if self.board is None:
                raise
            self.board.drop_download()
            self._save()
        if self.board:
            self.board.drop_download()

    # -- flash chip and twin ----------------------------------------------------------------------

    async def _advance(self, patch: Json) -> None:
        self._told = merge(self._told, patch)
        self._save()
        await self._mirror()

    def _save(self) -> None:
        if self._record:
            self._record["told"] = self._told
            if self.board:
                self.board.write_record(self._record)

    async def _mirror(self) -> None:
        """Report what the hub has not acknowledged yet; all of it, in one patch."""
        async with self._mirroring:
            told = self._told
            if patch := difference(self._acknowledged, told):
                await self._around.report(patch)
                self._acknowledged = told

    def _firmware(self) -> Json:
        if self.board is None or self.boot is None:
            return {}
        pending = (self._told.get(contract.UPDATE) or {}).get(contract.VERSION)
        return contract.firmware_patch(
            self.boot.version,
            pending if self._record.get("order") else None,
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


def refusal(code: str, message: str) -> Json:
    """Return the payload of a direct method that the device refuses."""
    return {contract.ERROR_KEY: {contract.ERROR_CODE: code, contract.ERROR_MESSAGE: message}}


def _means_an_image(order: UpdateOrder) -> bool:
    named = order.version is not None or order.check_value is not None
    return named or any(mark in order.package_uri for mark in "/?\\")


def _reason(error: Exception) -> str:
    """Tell what went wrong without a path or a secret that the error's text may hold."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
