"""The worker processes of a fleet, seen from the process that owns them."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

from fwupdate_helpers.fleet.lines import FAILED, FOLDER, INDEX, OFF, ON, STATE, WHY, Task
from fwupdate_helpers.fleet.states import FleetStates
from fwupdate_helpers.localhub.redaction import mask_text

logger = logging.getLogger(__name__)

Json = dict[str, Any]

_TICK: Final = 0.1
_ERROR_LINES: Final = 30


class Worker:
    """One worker process.

    Args:
        indices: The numbers of its devices.
        states: Where their states are noted.

    Attributes:
        indices: The numbers of its devices.
        process: The process, once it has begun.
        is_dead: Whether it was found to have ended by itself.
    """

    def __init__(self, indices: Iterable[int], states: FleetStates) -> None:
        self.indices = frozenset(indices)
        self.process: subprocess.Popen[str] | None = None
        self.is_dead = False
        self._states = states
        self._folder: Path | None = None
        self._errors: deque[str] = deque(maxlen=_ERROR_LINES)
        self._is_ending = False
        self._pipe = threading.Lock()
        self._readers: list[threading.Thread] = []

    def begin(self) -> None:
        """Start the process. It reads nothing yet: `give` it its task.

        Where an interrupt comes between, nobody holds the process, so its input ends, and it.
        """
        with _interrupts_held_back():
            process = self.process = _start()
        self._readers = [
            threading.Thread(target=read, args=(process,), name=f"fleet-{process.pid}", daemon=True)
            for read in (self._read_errors, self._read_answers)
        ]
        for reader in self._readers:
            reader.start()

    def give(self, task: Task) -> None:
        """Give it its task, once; the devices are off at first."""
        self._write(task.to_line())

    def switch_on(self, indices: Collection[int]) -> None:
        """Tell it to switch on those of these devices that are its own."""
        mine = sorted(self.indices.intersection(indices))
        # What was known of them is of the past: nobody is to take it for the outcome of this.
        self._states.begin(mine if not self.is_dead else ())
        self._write(json.dumps({ON: mine}))

    def switch_off(self, indices: Collection[int]) -> None:
        """Tell it to switch off those of these devices that are its own."""
        self._write(json.dumps({OFF: sorted(self.indices.intersection(indices))}))

    def end(self) -> None:
        """Tell it to end; `has_ended` waits for that."""
        self._is_ending = True
        with self._pipe, suppress(OSError):
            if self.process is not None and self.process.stdin is not None:
                self.process.stdin.close()

    def has_ended(self, seconds: float) -> bool:
        """Wait for its end, no longer than so many seconds; return whether it came."""
        if self.process is None:
            return True
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        for reader in self._readers:
            reader.join(seconds)
        if self._folder is not None:  # it is there only when the process was killed
            shutil.rmtree(self._folder, ignore_errors=True)
        return True

    def kill(self) -> None:
        """End it at once."""
        if self.process is not None:
            self.process.kill()

    def _write(self, line: str) -> None:
        # A worker that died is told by its reader.
        with self._pipe, suppress(OSError, ValueError):
            if self.process is not None and self.process.stdin is not None:
                self.process.stdin.write(line + "\n")
                self.process.stdin.flush()

    # -- in threads of their own ------------------------------------------------------------------

    def _read_answers(self, process: subprocess.Popen[str]) -> None:
        for line in _lines_of(process.stdout):
            answer = json.loads(line)
            if FOLDER in answer:
                self._folder = Path(answer[FOLDER])
            else:
                self._states.put(answer[INDEX], answer[STATE], answer.get(WHY, ""))
        if not self._is_ending:
            self._note_death(process.wait())

    def _note_death(self, status: int) -> None:
        self._readers[0].join()
        self.is_dead = True
        logger.error("a worker of the fleet ended with %s: %s", status, "".join(self._errors))
        why = f"Its worker process ended by itself (status {status}). Start the fleet again."
        for index in self.indices:
            self._states.put(index, FAILED, why)

    def _read_errors(self, process: subprocess.Popen[str]) -> None:
        for line in _lines_of(process.stderr):
            self._errors.append(mask_text(line))


def end_all(workers: Sequence[Worker], seconds: float, on_tick: Callable[[], object]) -> None:
    """End workers together; those that take longer than so many seconds are killed.

    Args:
        workers: The workers.
        seconds: How long they may take.
        on_tick: Called now and then.
    """
    deadline = time.monotonic() + seconds
    for worker in workers:
        worker.end()
    for worker in workers:
        while not worker.has_ended(_TICK):
            on_tick()
            if time.monotonic() > deadline:
                worker.kill()
    on_tick()


def _lines_of(stream: IO[str] | None) -> Iterator[str]:
    """Yield the lines of a stream to its end, and close it."""
    if stream is not None:
        with stream:
            yield from stream


def _start() -> subprocess.Popen[str]:
    flags = 0
    if sys.platform == "win32":  # or Ctrl-C would reach it
        flags = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
    return subprocess.Popen(
        [sys.executable, "-m", "fwupdate_helpers.fleet.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        creationflags=flags,
    )


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Let a process that starts here begin its life deaf to interrupts.

    It is in the process group of the kernel, so that it goes with it; an interrupt of the notebook
    goes to the whole group, and would end a worker that is not ready yet.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
