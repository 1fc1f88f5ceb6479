"""Work for the background: one job after the other, in a thread that ends when none is left."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable


class Worker:
    """Runs jobs one after the other, outside of the caller's thread.

    Args:
        name: The name of the thread, which lives only while there is work.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def submit(self, job: Callable[[], None]) -> bool:
        """Have `job` run soon; it must handle its own errors. Returns at once.

        Returns:
            False when this worker is closed, and the job will not run.
        """
        with self._lock:
            if self._is_closed:
                return False
            self._jobs.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
        return True

    def close(self, timeout: float) -> None:
        """Take no job any more, drop those that have not begun, wait for the one that has.

        Args:
            timeout: Seconds to wait at most.
        """
        with self._lock:
            self._is_closed = True
            self._jobs.clear()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _run(self) -> None:
        while (job := self._next()) is not None:
            job()

    def _next(self) -> Callable[[], None] | None:
        with self._lock:
            if self._jobs:
                return self._jobs.popleft()
            self._thread = None
            return None
