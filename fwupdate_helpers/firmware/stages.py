"""The work of an update's stages up to the switch: download, verify, apply, and their progress."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from fwupdate_helpers import contract
from fwupdate_helpers.contract import UpdateOrder
from fwupdate_helpers.firmware.board import DOWNLOAD_FILE, Board, Boot, other_slot
from fwupdate_helpers.firmware.download_file import DownloadFile
from fwupdate_helpers.firmware.image import check_version
from fwupdate_helpers.firmware.logbook import Logbook
from fwupdate_helpers.firmware.surroundings import Surroundings
from fwupdate_helpers.firmware.watchdog import Watchdog

Work = Coroutine[Any, Any, None]

PROGRESS_SECONDS: Final = 0.5
"""At most two progress reports a second."""
_STEPS: Final = 20


def stages_of(
    order: UpdateOrder,
    log: Logbook,
    around: Surroundings,
    *,
    board: Board | None,
    boot: Boot | None,
) -> dict[str, Callable[[], Work]]:
    """Return the work of each stage up to the switch, in their order."""
    if order.is_simulated or board is None or boot is None:
        transfer = SimulatedTransfer(log, around)
        return {
            contract.WAITING: around.pause,
            contract.DOWNLOADING: transfer.download,
            contract.APPLYING: around.pause,
        }
    work = ImageWork(order, log, around, board=board, boot=boot)
    return {
        contract.WAITING: around.pause,
        contract.DOWNLOADING: work.download,
        contract.VERIFYING: work.verify,
        contract.APPLYING: work.apply,
    }


class SimulatedTransfer:
    """A URI without a scheme leads to no image: time passes, as it would in a download."""

    def __init__(self, log: Logbook, around: Surroundings) -> None:
        self._log, self._around = log, around

    async def download(self) -> None:
        """Let the time of a download pass."""
        await with_progress(self._pass_time(), self._log, self._around)

    async def _pass_time(self) -> None:
        for step in range(1, _STEPS + 1):
            await self._around.pause(1 / _STEPS)
            self._log.tell(contract.progress_patch(step / _STEPS))


class ImageWork:
    """Gets an image into the free slot."""

    def __init__(
        self, order: UpdateOrder, log: Logbook, around: Surroundings, *, board: Board, boot: Boot
    ) -> None:
        self._order, self._log, self._around = order, log, around
        self._board, self._boot = board, boot

    async def download(self) -> None:
        """Bring the image onto the chip, from where the last try left it."""
        sink = DownloadFile(self._board, self._log.record)
        work = self._around.download(self._order.package_uri, sink, self._note_progress)
        await with_progress(work, self._log, self._around)

    def _note_progress(self, received: int, total: int | None) -> None:
        share = received / total if total else 0.0
        self._log.tell(contract.progress_patch(share, received, total))

    async def verify(self) -> None:
        """Check signature, hash and version; raise `ImageRefused` for what may not run here."""
        await self._around.pause()
        image = await asyncio.to_thread(self._board.verify, DOWNLOAD_FILE)
        check_version(
            image,
            running=self._boot.version,
            expected=self._order.version,
            check_value=self._order.check_value,
            allow_downgrade=self._order.allow_downgrade,
        )
        self._log.tell({contract.UPDATE: {contract.VERSION: image.manifest.version}})

    async def apply(self) -> None:
        """Copy the image into the slot that does not run."""
        await self._around.pause()
        with Watchdog(self._board.watchdog_seconds, self._around.reset) as watchdog:
            for _ in self._board.copy_download(other_slot(self._boot.slot)):
                watchdog.feed()
                await self._around.step()


def self_test_problem(boot: Boot, *, hardware_passes: bool) -> str | None:
    """Return what is wrong with the image on trial; None when it works.

    That the device is connected again is the first half of the test.
    """
    if boot.image.behaviour == "failsSelfTest":
        return f"Version {boot.version} does not pass its self-test."
    if not hardware_passes:
        return f"The board does not pass the self-test of version {boot.version}."
    return None


async def with_progress(work: Work, log: Logbook, around: Surroundings) -> None:
    """Report the progress beside the work, never more often than `PROGRESS_SECONDS`."""
    done = asyncio.Event()
    reporter = asyncio.ensure_future(_report_progress(done, log, around))
    try:
        await work
    finally:
        done.set()
        await reporter


async def _report_progress(done: asyncio.Event, log: Logbook, around: Surroundings) -> None:
    while True:
        try:
            await asyncio.wait_for(done.wait(), PROGRESS_SECONDS)
            return
        except asyncio.TimeoutError:
            await _mirror_if_possible(log, around)


async def _mirror_if_possible(log: Logbook, around: Surroundings) -> None:
    try:
        await log.mirror()
    except Exception as error:  # the next report tells it all
        around.note("retry", f"The progress was not reported: {reason(error)}")


async def unless_cancelled(work: Work, cancelled: asyncio.Event) -> None:
    """Await `work`, or stop it when `cancelled` is set; return when it has ended."""
    task, given_up = asyncio.ensure_future(work), asyncio.ensure_future(cancelled.wait())
    try:
        await asyncio.wait({task, given_up}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        given_up.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    if not task.cancelled():
        task.result()


def reason(error: Exception) -> str:
    """Tell what went wrong without a path or a secret that the error's text may hold."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
