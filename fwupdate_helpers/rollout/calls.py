"""Calls to the hub, many at once: threads that each have a service client of their own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from azure.iot.hub import IoTHubRegistryManager

    from fwupdate_helpers.hub import Hub

T = TypeVar("T")
Call = Callable[["IoTHubRegistryManager"], T]

AT_ONCE: Final = 8
_JOIN_SECONDS: Final = 2.0
_TICK_SECONDS: Final = 0.2


class CallPool:
    """A few threads for calls that wait for the hub. They start with the first calls.

    The SDK keeps a connection for each thread that uses a client, and only that thread can close
    it, so each has its own client and closes it at its end.

    Args:
        hub: The hub.
        name: The beginning of the threads' names.
        at_once: How many threads there are at most.
    """

    def __init__(self, hub: Hub, name: str, *, at_once: int = AT_ONCE) -> None:
        self._hub, self._name, self._at_once = hub, name, at_once
        self._waiting: queue.SimpleQueue[Callable[[IoTHubRegistryManager], None] | None]
        self._waiting = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def submit(self, call: Call[T]) -> Future[T]:
        """Have `call` called with a client; the future tells what it returned or raised."""
        future: Future[T] = Future()

        def work(registry: IoTHubRegistryManager) -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(call(registry))
            except BaseException as error:
                future.set_exception(error)

        self._waiting.put(work)
        if len(self._threads) < self._at_once:
            self._start_one()
        return future

    def gather(self, calls: Iterable[Call[T]], *, tick: Callable[[], object] = bool) -> None:
        """Make calls and wait for them all; raise the first error among them.

        Args:
            calls: What to call.
            tick: Called again and again meanwhile, in the thread that waits.
        """
        futures = [self.submit(call) for call in calls]
        try:
            for future in futures:
                # A time limit, because on Windows an endless wait cannot be interrupted by Ctrl-C.
                while not wait((future,), timeout=_TICK_SECONDS).done:
                    tick()
                future.result()
                tick()
        except BaseException:
            for future in futures:
                future.cancel()
            raise

    def close(self) -> None:
        """Drop the calls that have not begun, and let the threads end.

        Waits briefly for them: a call that waits for a device's answer may take a minute.
        """
        try:
            while True:
                self._waiting.get_nowait()
        except queue.Empty:
            pass
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join(_JOIN_SECONDS / len(self._threads))
        self._threads.clear()

    def _start_one(self) -> None:
        thread = threading.Thread(
            target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _run(self) -> None:
        registry = self._hub.new_registry()
        try:
            while (work := self._waiting.get()) is not None:
                work(registry)
        finally:
            registry.protocol.close()
