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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from fwupdate_helpers.fleet.lines import FAILED, FOLDER, INDEX, STATE, WHY, Task
from fwupdate_helpers.fleet.states import FleetStates

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
        process: The process; `give` it its task.
    """

    def __init__(self, indices: Iterable[int], states: FleetStates) -> None:
        self.indices = frozenset(indices)
        self._states = states
        self._folder: Path | None = None
        self._errors: deque[str] = deque(maxlen=_ERROR_LINES)
        self._is_ending = False
        self._pipe = threading.Lock()
        with _interrupts_held_back():
            self.process = _start()
        self._readers = [
            threading.Thread(target=read, name=f"fleet-worker-{self.process.pid}", daemon=True)
            for read in (self._read_answers, self._read_errors)
        ]
        for reader in self._readers:
            reader.start()

    def give(self, task: Task) -> None:
        """Give it its task, once; the devices are off at first."""
        self._write(task.to_line())

    def order(self, what: str, indices: Sequence[int]) -> None:
        """Tell it to switch devices on or off."""
        self._write(json.dumps({what: list(indices)}))

    def end(self) -> None:
        """Tell it to end; `ended` waits for that."""
        self._is_ending = True
        with self._pipe, suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()

    def has_ended(self, seconds: float) -> bool:
        """Wait for its end, no longer than so many seconds; return whether it came."""
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
        self.process.kill()

    def _write(self, line: str) -> None:
        # A worker that died is told by its reader.
        with self._pipe, suppress(OSError, ValueError):
            if self.process.stdin is not None:
                self.process.stdin.write(line + "\n")
                self.process.stdin.flush()

    # -- in threads of their own ------------------------------------------------------------------

    def _read_answers(self) -> None:
        for line in self.process.stdout or ():
            answer = json.loads(line)
            if FOLDER in answer:
                self._folder = Path(answer[FOLDER])
            else:
                self._states.put(answer[INDEX], answer[STATE], answer.get(WHY, ""))
        if not self._is_ending:
            self._note_death()

    def _note_death(self) -> None:
        code = self.process.wait()
        self._readers[1].join()
        logger.error("a worker of the fleet ended with %s: %s", code, "".join(self._errors))
        why = f"The worker process of the fleet ended by itself (status {code}). Start the fleet."
        for index in self.indices:
            self._states.put(index, FAILED, why)

    def _read_errors(self) -> None:
        for line in self.process.stderr or ():
            self._errors.append(line)


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
