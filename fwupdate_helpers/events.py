"""What happens on a device, readable and awaitable from any thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone


@dataclass(frozen=True)
class DeviceEvent:
    """Something that happened on the device.

    Attributes:
        at: The device's clock, UTC.
        kind: One word, for example ``connected``, ``reported``, ``downloading`` or ``error``.
        text: What a person reads.
    """

    at: datetime
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.at:%H:%M:%S} {self.text}"


class EventLog:
    """The last events of a device, readable and awaitable from any thread.

    Args:
        size: How many it keeps.
        clock: Tells the device's time, UTC.
    """

    def __init__(self, size: int = 1000, *, clock: Callable[[], datetime] | None = None) -> None:
        self._events: deque[DeviceEvent] = deque(maxlen=size)
        self._count = 0
        self._clock = clock or (lambda: datetime.now(timezone.utc))
        self._changed = threading.Condition()

    def __iter__(self) -> Iterator[DeviceEvent]:
        with self._changed:
            return iter(list(self._events))

    def __len__(self) -> int:
        return len(self._events)

    def __repr__(self) -> str:
        return "\n".join(map(str, self))

    def add(self, kind: str, text: str) -> None:
        """Note an event."""
        with self._changed:
            self._events.append(DeviceEvent(self._clock(), kind, text))
            self._count += 1
            self._changed.notify_all()

    def wait_for(self, kind: str, *, timeout: float | None = None) -> DeviceEvent | None:
        """Wait until an event of this kind is in the log; None when there is none in time."""

        def found() -> DeviceEvent | None:
            return next((event for event in self._events if event.kind == kind), None)

        with self._changed:
            return self._changed.wait_for(found, timeout)

    def follow(self, *, until: str) -> Iterator[DeviceEvent]:
        """Yield every event, those so far and those to come, up to the first of kind `until`."""
        seen = 0
        while True:
            with self._changed:
                # A time limit, because on Windows an endless wait cannot be interrupted by Ctrl-C.
                while self._count == seen:
                    self._changed.wait(0.2)
                new = list(self._events)[-(self._count - seen) :]
                seen = self._count
            for event in new:
                yield event
                if event.kind == until:
                    return
