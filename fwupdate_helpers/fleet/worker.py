"""A worker process of a fleet: the devices of one `Task`, all on one event loop.

    python -m fwupdate_helpers.fleet.worker

It ends when its input does: when the fleet stops, and when the kernel that owns it is gone, by
whatever way. An interrupt of the terminal or the notebook is none of its business.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final

from filelock import FileLock

from fwupdate_helpers.device.program import is_harmless
from fwupdate_helpers.fleet.lines import END_SECONDS, FOLDER, INDEX, OFF, ON, STATE, WHY, Task
from fwupdate_helpers.fleet.member import Common, FleetDevice
from fwupdate_helpers.localhub.open_files import allow_open_files

logger = logging.getLogger(__name__)

Json = dict[str, Any]

AT_ONCE: Final = 8
"""Devices that connect at the same time: the SDK makes all connections of a process on one thread,
so more would only wait longer, and one after the other spreads the load on the hub."""


def main() -> None:
    """Run the worker until its input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # the parent started us with the signal blocked
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    allow_open_files()  # a client of the SDK needs three
    answers = _take_output()
    line = sys.stdin.readline()
    if line:
        task = Task.from_line(line)
        with (
            FileLock(task.lock, mode=0o600, timeout=END_SECONDS),
            # What a virus scanner has open on Windows stays behind, and is no reason to fail.
            tempfile.TemporaryDirectory(
                prefix="fwupdate-fleet-", ignore_cleanup_errors=True
            ) as folder,
        ):
            asyncio.run(_Worker(task, Path(folder), answers).run())


class _Worker:
    def __init__(self, task: Task, folder: Path, answers: IO[str]) -> None:
        self._task, self._folder, self._answers = task, folder, answers
        self._devices: dict[int, FleetDevice] = {}
        self._ending = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_log_loop_error)
        common = Common(
            self._task,
            self._folder,
            self._write_images(),
            asyncio.Semaphore(AT_ONCE),
            self._tell_state,
        )
        for member in self._task.members:
            self._devices[member.index] = FleetDevice(member, common)
        self._answer({FOLDER: str(self._folder)})
        _listen(lambda order: loop.call_soon_threadsafe(self._obey, order))
        await self._ending.wait()
        for device in self._devices.values():
            device.switch_off()
        await asyncio.gather(*(device.ended() for device in self._devices.values()))

    def _write_images(self) -> dict[str, Path]:
        files = {}
        for number, (version, image) in enumerate(self._task.images.items()):
            files[version] = self._folder / f"factory-{number}.img"
            files[version].write_bytes(image)
        return files

    def _obey(self, order: Json | None) -> None:
        if order is None:
            self._ending.set()
            return
        for index in order.get(ON, ()):
            self._devices[index].switch_on()
        for index in order.get(OFF, ()):
            self._devices[index].switch_off()

    def _tell_state(self, index: int, state: str, why: str) -> None:
        self._answer({INDEX: index, STATE: state, **({WHY: why} if why else {})})

    def _answer(self, message: Json) -> None:
        try:
            self._answers.write(json.dumps(message) + "\n")
            self._answers.flush()
        except OSError:  # nobody listens any more, so the input has ended, too
            self._ending.set()


def _listen(obey: Callable[[Json | None], object]) -> None:
    """Pass on each line of the input, and None at its end, from a thread of its own."""

    def read() -> None:
        for line in sys.stdin:
            obey(json.loads(line))
        try:
            obey(None)
        except RuntimeError:  # the loop has ended already
            return
        threading.Event().wait(END_SECONDS)
        os._exit(1)

    threading.Thread(target=read, name="fleet-orders", daemon=True).start()


def _take_output() -> IO[str]:
    """Return the standard output for the answers alone: what else is printed goes to the errors."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _log_loop_error(loop: asyncio.AbstractEventLoop, context: Json) -> None:
    if not is_harmless(context):
        logger.error("%s", context.get("message"), exc_info=context.get("exception"))


if __name__ == "__main__":
    main()
